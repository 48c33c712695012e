/**
 * A benchmark's result as one HTML file that needs nothing else.
 *
 * @module
 */
import type { BenchResult, Way } from "./bench_result.ts";
import { type CaseBar, caseBars, caseTable, notes, placementText } from "./bench_text.ts";
import { machineText } from "./machine.ts";

const style = `
:root { color-scheme: light dark; --ours: #1f77b4; --peer: #a8a8a8; --line: #8886; --good: #2a8c3c; --bad: #c62828; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .25rem; }
figure { margin: 1.5rem 0; }
figcaption, .about { opacity: .75; }
svg { width: 100%; height: auto; font: 14px system-ui, sans-serif; }
svg text { fill: currentColor; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.good { color: var(--good); }
.bad { color: var(--bad); }`;

/** Text as it may stand between tags and in attributes. */
export function escapeHtml(text: string): string {
  const names: Record<string, string> = { "<": "&lt;", ">": "&gt;", "&": "&amp;", '"': "&quot;" };
  return text.replaceAll(/[<>&"]/g, (character) => names[character]!);
}

const rowHeight = 26;
const barHeight = 18;
const labelWidth = 230;
const chartWidth = 900;
const textWidth = 190;

/** Bars on a common scale from 0. */
function svg(rows: readonly CaseBar[]): string {
  const longest = Math.max(...rows.map(({ value }) => value));
  const room = chartWidth - labelWidth - textWidth;
  const drawn = rows.map(({ label, value, text, whose }, index) => {
    const width = longest > 0 ? Math.max(1, value / longest * room) : 0;
    const middle = index * rowHeight + rowHeight / 2;
    return [
      `<text x="${labelWidth - 8}" y="${middle}" text-anchor="end" dominant-baseline="central">${
        escapeHtml(label)
      }</text>`,
      `<rect x="${labelWidth}" y="${middle - barHeight / 2}" width="${width.toFixed(1)}" height="${barHeight}" ` +
      `rx="2" fill="var(--${whose})"><title>${escapeHtml(`${label}: ${text}`)}</title></rect>`,
      `<text x="${(labelWidth + width + 8).toFixed(1)}" y="${middle}" dominant-baseline="central">${
        escapeHtml(text)
      }</text>`,
    ].join("\n");
  });
  const title = "Packets received a second";
  return `<svg viewBox="0 0 ${chartWidth} ${rows.length * rowHeight}" role="img" aria-label="${title}">\n${
    drawn.join("\n")
  }\n</svg>`;
}

function tableHtml(rows: readonly (readonly string[])[]): string {
  const [head, ...body] = rows.map((row) => row.map(escapeHtml));
  const line = (cells: readonly string[], tag: "th" | "td") =>
    `<tr>${cells.map((cell) => `<${tag}>${cell}</${tag}>`).join("")}</tr>`;
  return [
    `<table>\n<thead>${line(head ?? [], "th")}</thead>\n<tbody>`,
    ...body.map((row) => line(row, "td")),
    "</tbody>\n</table>",
  ].join("\n");
}

const captions: Record<Way, string> = {
  vm2vm: "Packets that one guest received from the other, through the switch",
  loop: "Packets that a guest received again which it had sent, through pmd-forward",
};

/** The whole file; `date` is when it was measured. */
export function reportHtml(result: BenchResult, date: Date): string {
  const { columns, rows } = caseTable(result.cases);
  const title = `vhostctl bench ${result.bench}`;
  const verdict = result.ok
    ? "every packet that arrived was as sent, in order"
    : "packets arrived wrong: see the table";
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<style>${style}
</style>
</head>
<body>
<h1>${title}</h1>
<p class="about">${escapeHtml(machineText(result.machine))}; ${
    escapeHtml(placementText(result.bench, result.placement))
  }<br>
<time datetime="${date.toISOString()}">${date.toUTCString()}</time></p>
<figure>
${svg(caseBars(result.cases))}
<figcaption>${captions[result.bench]}, in a second.</figcaption>
</figure>
${tableHtml([columns.map((column) => column.title), ...rows])}
<p class="${result.ok ? "good" : "bad"}">Verdict: ${verdict}.</p>
${notes(result).map((note) => `<p>${escapeHtml(note)}</p>`).join("\n")}
<details><summary>As JSON</summary>
<pre>${escapeHtml(JSON.stringify(result, null, 2))}</pre>
</details>
</body>
</html>
`;
}

/**
 * Rates in a report: a chart for each size, with bars for each kind of ring, the peer's and the floor's beside ours.
 *
 * @module
 */
import { matrices, sizesOf } from "./bench_matrix.ts";
import { ratioOf } from "./bench_ratio.ts";
import { type BenchResult, type CaseResult, rowName, type Way } from "./bench_result.ts";
import { barValue, caseTable, figure, notes, placementText } from "./bench_text.ts";
import { distanceOf, distances } from "./distance.ts";
import { machineText } from "./machine.ts";
import { tableHtml } from "./report_table.ts";
import { drawing, drawingWidth, drawnText, escapeHtml } from "./svg.ts";

const lineHeight = 20;
const barHeight = 14;
const gap = 8;
const textRoom = 150;

interface DrawnBar {
  readonly whose: "ours" | "peer" | "floor";
  readonly value: number;
  readonly text: string;
}

/** Of the nearest pairs that there were: those of different distances say nothing together. */
function ratioText({ peer }: CaseResult): string {
  for (const word of distances) {
    const ratio = ratioOf(peer?.pairs.filter((pair) => distanceOf(pair.core_distance_ns) === word) ?? []);
    if (ratio !== undefined) return `, ${ratio.median.toFixed(2)} x ${word === "same" ? "" : word}`;
  }
  return "";
}

function barsOf(found: CaseResult): DrawnBar[] {
  const { peer, floor_gbps: gbps, size_bytes, offload } = found;
  const unit = offload === undefined ? "Mpps" : "Gbit/s";
  const floor = gbps === undefined ? undefined : barValue(found, { seconds: 0, gbps, mpps: gbps * 125 / size_bytes });
  const own = barValue(found, found);
  const share = floor === undefined ? "" : `, ${(100 * own / floor).toFixed(0)} %`;
  return [
    { whose: "ours", value: own, text: `${figure(own)} ${unit}${peer === undefined ? share : ratioText(found)}` },
    ...peer === undefined ? [] : [{
      ...{ whose: "peer" as const, value: barValue(found, peer) },
      text: `${figure(barValue(found, peer))} DPDK`,
    }],
    ...floor === undefined ? [] : [{ whose: "floor" as const, value: floor, text: `${figure(floor)} floor` }],
  ];
}

/** All of one size, on a common scale from 0. */
function sizeChart(cases: readonly CaseResult[], about: string): string {
  const all = cases.map((found) => ({ label: rowName(found), bars: barsOf(found) }));
  const longest = Math.max(...all.flatMap(({ bars }) => bars.map(({ value }) => value)));
  const parts: string[] = [];
  let top = 0;
  for (const { label, bars } of all) {
    parts.push(drawnText(0, top + lineHeight / 2, label));
    top += lineHeight;
    for (const { whose, value, text } of bars) {
      const width = longest > 0 ? Math.max(1, value / longest * (drawingWidth - textRoom)) : 0;
      const [y, middle] = [top + (lineHeight - barHeight) / 2, top + lineHeight / 2];
      parts.push(
        `<rect class="${whose}" x="0" y="${y}" width="${width.toFixed(1)}" height="${barHeight}" rx="2"/>`,
        drawnText(width + 6, middle, text),
      );
      top += lineHeight;
    }
    top += gap;
  }
  return drawing(top, about, parts);
}

const captions: Record<Way, string> = {
  vm2vm: "Packets that one guest received from the other, through the switch, in a second.",
  loop: "Packets that a guest received again which it had sent, through pmd-forward, in a second.",
};

function figures({ bench, cases }: BenchResult): string {
  const drawn = sizesOf(cases).map((size) => {
    const chart = sizeChart(cases.filter(({ size_bytes }) => size_bytes === size), `${size} bytes: ${captions[bench]}`);
    return `<figure><h3>${size} B</h3>\n${chart}</figure>`;
  });
  return `<div class="charts">\n${drawn.join("\n")}\n</div>\n<p class="about">${captions[bench]}</p>`;
}

/** One benchmark. */
export function speedSection(result: BenchResult): string {
  const { columns, rows } = caseTable(result.cases);
  const verdict = result.ok
    ? "every packet that arrived was as sent, in order"
    : "packets arrived wrong: see the table";
  const about = `${machineText(result.machine)}; ${placementText(result.bench, result.placement)}`;
  return [
    `<section>\n<h2>${result.bench}</h2>\n<p class="about">${escapeHtml(about)}</p>`,
    figures(result),
    ...matrices(result.cases).map((matrix) => tableHtml(matrix.columns, matrix.rows, matrix.title)),
    tableHtml(columns, rows),
    `<p class="${result.ok ? "good" : "bad"}">Verdict: ${verdict}.</p>`,
    ...notes(result).map((note) => `<p>${escapeHtml(note)}</p>`),
    "</section>",
  ].join("\n");
}

/**
 * Benchmarks' results as one HTML file that needs nothing else, neither network nor scripts: for a screen, a phone and
 * paper.
 *
 * @module
 */
import { type BenchResult, ways } from "./bench_result.ts";
import type { CostsResult } from "./costs_result.ts";
import type { LatencyResult } from "./latency_result.ts";
import { latencySection } from "./report_latency.ts";
import { speedSection } from "./report_speed.ts";
import { costsSection, starvationSection } from "./report_tables.ts";
import type { StarvationResult } from "./starvation_result.ts";
import { escapeHtml } from "./svg.ts";

/** What a report can be made of. */
export type ReportResult = BenchResult | LatencyResult | CostsResult | StarvationResult;

/** What each calls itself. */
export const reportKinds: readonly ReportResult["bench"][] = [...ways, "latency", "costs", "starvation"];

const style = `
:root { color-scheme: light dark; --ours: #1f77b4; --peer: #a0a0a0; --floor: #d9a441; --line: #8886;
  --good: #2a8c3c; --bad: #c62828; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .25rem; }
h3 { font-size: 1rem; margin: 0; }
.about { opacity: .75; margin-top: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; break-inside: avoid; }
figcaption { opacity: .75; font-size: .875rem; }
svg { width: 100%; max-width: 30rem; height: auto; font: 13px system-ui, sans-serif; }
svg text { fill: currentColor; }
.ours { fill: var(--ours); }
.peer { fill: var(--peer); }
.floor { fill: var(--floor); }
.axis { stroke: var(--line); }
.span { stroke-width: 3; stroke: var(--ours); }
.span.peer { stroke: var(--peer); }
.wide { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .25rem; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.good { color: var(--good); }
.bad { color: var(--bad); }
pre { overflow-x: auto; }
@media (max-width: 40rem) {
  body { margin: .5rem auto; padding: 0 .75rem; }
  table { font-size: .8125rem; }
  th, td { padding: .25rem .5rem; }
}
@media print {
  :root { color-scheme: light; }
  body { max-width: none; margin: 0; font-size: 10pt; }
  svg, .ours, .peer, .floor { print-color-adjust: exact; }
  .charts { grid-template-columns: 1fr 1fr; }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: .1rem .3rem; white-space: normal; }
  section { break-inside: auto; }
  h2, h3, caption { break-after: avoid; }
  details { display: none; }
}`;

function section(result: ReportResult): string {
  switch (result.bench) {
    case "latency":
      return latencySection(result);
    case "costs":
      return costsSection(result);
    case "starvation":
      return starvationSection(result);
    default:
      return speedSection(result);
  }
}

/** The whole file; `date` is when it was made. */
export function reportHtml(results: readonly ReportResult[], date: Date): string {
  const title = `vhostctl bench ${[...new Set(results.map(({ bench }) => bench))].join(", ")}`;
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
<p class="about"><time datetime="${date.toISOString()}">${date.toUTCString()}</time></p>
${results.map(section).join("\n")}
<details><summary>As JSON</summary>
<pre>${results.map((result) => escapeHtml(JSON.stringify(result, null, 2))).join("\n")}</pre>
</details>
</body>
</html>
`;
}

/**
 * Round trips in a report: for each case a small chart, a line for each back end from p50 to p99.9.
 *
 * @module
 */
import { distanceTexts } from "./distance.ts";
import type { ForwarderLatency, LatencyCaseResult, LatencyResult } from "./latency_result.ts";
import { forwarderName, latencyName, latencyNotes, latencyTable, microseconds, quantilesOf } from "./latency_text.ts";
import { machineText } from "./machine.ts";
import { tableHtml } from "./report_table.ts";
import { drawing, drawingWidth, drawnText, escapeHtml } from "./svg.ts";

const lineHeight = 24;
const axisHeight = 22;
const labelRoom = 70;
const textRoom = 16;
/** Of the mark of p50, and of those beyond it. */
const radii = [6, 4, 3, 2];

/** A decade has three marks on the axis. */
const marks = [1, 2, 5];

/** Marks between two times, about even on a scale of powers. */
function ticks(least: number, most: number): number[] {
  const first = Math.floor(Math.log10(least));
  const last = Math.ceil(Math.log10(most));
  const all = Array.from(
    { length: last - first + 1 },
    (_, decade) => marks.map((mark) => mark * 10 ** (first + decade)),
  );
  return all.flat().filter((tick) => tick >= least && tick <= most);
}

/** Where a time is on a scale of powers. */
function scale(cases: readonly LatencyCaseResult[]): { place(us: number): number; ticks: number[] } {
  const all = cases.flatMap(({ forwarders }) => forwarders.flatMap(quantilesOf)).filter((us) => us !== undefined);
  const [least, most] = [0.8 * Math.min(...all), 1.25 * Math.max(...all)];
  const room = drawingWidth - labelRoom - textRoom;
  return {
    place: (us) => labelRoom + room * Math.log(us / least) / Math.log(most / least),
    // Beyond three decades only the first of each.
    ticks: ticks(least, most).filter((tick, _, { length }) => length < 10 || Number.isInteger(Math.log10(tick))),
  };
}

function lineOf(forwarder: ForwarderLatency, top: number, place: (us: number) => number): string[] {
  const values = quantilesOf(forwarder).filter((us) => us !== undefined);
  const whose = forwarder.name === "testpmd" ? "peer" : "ours";
  const middle = top + lineHeight / 2;
  const label = drawnText(0, middle, forwarderName(forwarder));
  if (values.length === 0) return [label];
  const [from, to] = [place(values[0]!), place(values.at(-1)!)].map((x) => x.toFixed(1));
  return [
    label,
    `<line class="span ${whose}" x1="${from}" y1="${middle}" x2="${to}" y2="${middle}"/>`,
    ...values.map((us, index) =>
      `<circle class="${whose}" cx="${place(us).toFixed(1)}" cy="${middle}" r="${radii[index]}"/>`
    ),
  ];
}

function caseChart(found: LatencyCaseResult, all: readonly LatencyCaseResult[]): string {
  const { place, ticks } = scale(all);
  const bottom = found.forwarders.length * lineHeight;
  const axis = ticks.flatMap((us) => {
    const x = place(us).toFixed(1);
    return [
      `<line class="axis" x1="${x}" y1="0" x2="${x}" y2="${bottom}"/>`,
      drawnText(place(us), bottom + axisHeight / 2, `${us}`, "middle"),
    ];
  });
  const lines = found.forwarders.flatMap((each, index) => lineOf(each, index * lineHeight, place));
  const about = found.forwarders.map((each) => `${forwarderName(each)} ${microseconds(each.p50_us)}`).join(", ");
  const name = `${latencyName(found)}, ${distanceTexts[found.distance]}`;
  return [
    `<figure><h3>${escapeHtml(`${latencyName(found)}, ${found.distance}`)}</h3>`,
    drawing(bottom + axisHeight, `${name}: median round trips in microseconds: ${about}`, [...axis, ...lines]),
    "</figure>",
  ].join("\n");
}

/** One benchmark. */
export function latencySection(result: LatencyResult): string {
  const { columns, rows } = latencyTable(result.cases);
  return [
    `<section>\n<h2>latency</h2>\n<p class="about">${escapeHtml(machineText(result.machine))}</p>`,
    `<div class="charts">\n${result.cases.map((found) => caseChart(found, result.cases)).join("\n")}\n</div>`,
    '<p class="about">Round trips from one guest to another and back, in microseconds, on one scale of powers. ' +
    "Marks from left to right: p50, p90, p99, p99.9.</p>",
    tableHtml(columns, rows),
    ...latencyNotes(result).map((note) => `<p>${escapeHtml(note)}</p>`),
    "</section>",
  ].join("\n");
}

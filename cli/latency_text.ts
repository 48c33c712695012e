/**
 * The result of `bench latency` as text.
 *
 * @module
 */
import { ringName } from "./bench_result.ts";
import { nearMax_ns } from "./distance.ts";
import type { ForwarderLatency, LatencyCase, LatencyCaseResult, LatencyResult } from "./latency_result.ts";
import { type Column, quantity } from "./output.ts";
import type { Spread } from "./statistics.ts";

const quantiles = ["p50_us", "p90_us", "p99_us", "p999_us"] as const satisfies readonly (keyof ForwarderLatency)[];

/** The four that are told of every forwarder, in this order. */
export function quantilesOf(forwarder: ForwarderLatency): (number | undefined)[] {
  return quantiles.map((name) => forwarder[name]);
}

/** `2.37`; `-` where nothing came back. */
export function microseconds(us: number | undefined): string {
  return us?.toFixed(2) ?? "-";
}

/** `64 B split`, `64 B packed in-order, 100 k packets/s beside`. */
export function latencyName(wanted: LatencyCase): string {
  const beside = wanted.load_pps === 0 ? "" : `, ${quantity(wanted.load_pps)} packets/s beside`;
  return `${wanted.size_bytes} B ${ringName(wanted)}${beside}`;
}

/** Whose, for people. */
export function forwarderName({ name }: Pick<ForwarderLatency, "name">): string {
  return name === "testpmd" ? "DPDK" : name;
}

function ratioText(ratio: Spread | undefined): string {
  return ratio === undefined ? "" : ratio.median.toFixed(2);
}

interface Row {
  readonly found: LatencyCaseResult;
  readonly forwarder: ForwarderLatency;
}

interface Field extends Column {
  readonly text: (row: Row) => string;
}

const fields: readonly Field[] = [
  { title: "SIZE", align: "right", text: ({ found }) => `${found.size_bytes}` },
  { title: "RING", text: ({ found }) => ringName(found) },
  { title: "CPUs", text: ({ found }) => found.distance },
  { title: "BACK END", text: ({ forwarder }) => forwarderName(forwarder) },
  { title: "ROUND TRIPS", align: "right", text: ({ forwarder }) => quantity(forwarder.round_trips) },
  ...(["p50 us", "p90", "p99", "p99.9"] as const).map((title, index): Field => ({
    ...{ title, align: "right" },
    text: ({ forwarder }) => microseconds(quantilesOf(forwarder)[index]),
  })),
];

const loadField: Field = {
  ...{ title: "BESIDE packets/s", align: "right" },
  text: ({ forwarder }) => quantity(Math.round(forwarder.load_pps)),
};
const busyField: Field = { title: "TO BUSY", align: "right", text: ({ forwarder }) => ratioText(forwarder.to_busy) };
const peerField: Field = { title: "TO DPDK", align: "right", text: ({ forwarder }) => ratioText(forwarder.to_peer) };

/** The columns of the table for these cases, and its rows. */
export function latencyTable(cases: readonly LatencyCaseResult[]): { columns: readonly Column[]; rows: string[][] } {
  const all = cases.flatMap((found) => found.forwarders.map((forwarder): Row => ({ found, forwarder })));
  const used = [
    ...fields,
    ...cases.some(({ load_pps }) => load_pps > 0) ? [loadField] : [],
    ...all.some(({ forwarder }) => forwarder.to_busy !== undefined) ? [busyField] : [],
    ...all.some(({ forwarder }) => forwarder.to_peer !== undefined) ? [peerField] : [],
  ];
  return { columns: used, rows: all.map((row) => used.map(({ text }) => text(row))) };
}

/** The sentences below the table. */
export function latencyNotes({ cases, peer, interrupted }: LatencyResult): string[] {
  const rounds = cases.reduce((sum, found) => sum + found.rounds, 0);
  const disturbed = cases.reduce((sum, found) => sum + found.rounds_disturbed, 0);
  return [
    `${rounds} rounds counted, with a turn of each back end. In ${disturbed} somebody else had a CPU, or the CPUs ` +
    "were moved: they count only where there are hardly any others.",
    `near: a cache line takes less than ${nearMax_ns} ns from the worker's CPU to the guests'; far: longer.`,
    ...peer === undefined ? [] : [`${peer.version}: testpmd, io forwarding between net_vhost ports, ${peer.memory}.`],
    ...interrupted ? ["Interrupted: the figures are of the time until then."] : [],
  ];
}

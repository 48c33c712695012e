/**
 * A benchmark's result as text: table, chart and the sentences that belong to them.
 *
 * @module
 */
import {
  type BenchResult,
  type Case,
  caseName,
  type CaseOffload,
  type CaseResult,
  faultless,
  type PeerResult,
  type Placement,
  ringName,
  shareOfFloor,
  type Speed,
  type Way,
} from "./bench_result.ts";
import type { Bar } from "./chart.ts";
import { type Column, quantity } from "./output.ts";

/** A number in three to four digits, not rounded beyond the point: `0.02`, `7.31`, `30.2`, `1234`. */
export function figure(value: number): string {
  if (value >= 1000) return value.toFixed(0);
  return value >= 100 ? value.toFixed(1) : value.toFixed(2);
}

function dropText(drops: Readonly<Record<string, number>>): string {
  const list = Object.entries(drops).toSorted((one, other) => other[1] - one[1]);
  if (list.length === 0) return "none";
  return list.map(([reason, packets]) => `${quantity(packets)} ${reason.replaceAll("_", " ")}`).join(", ");
}

function ratioText({ ratio }: PeerResult): string {
  return ratio === undefined ? "?" : `${ratio.median.toFixed(2)} (${ratio.low.toFixed(2)}-${ratio.high.toFixed(2)})`;
}

/** Who makes segments of a frame, and who finishes their checksums. */
function cutter({ receiver_takes: takes }: CaseOffload): string {
  return { all: "nobody", checksums: "switch, not summed", nothing: "switch, summed" }[takes];
}

/** What is wrong with what arrived, `ok` if nothing. */
function faultText(found: CaseResult): string {
  const counts = { duplicated: found.duplicated, reordered: found.reordered, corrupted: found.corrupted };
  const wrong = Object.entries(counts).filter(([, count]) => count > 0);
  return wrong.length === 0 ? "ok" : wrong.map(([what, count]) => `${quantity(count)} ${what}`).join(", ");
}

/** Ours, and beside it the peer's. */
function instructionsText({ instructions_per_packet: own, peer }: CaseResult): string {
  if (own === undefined) return "";
  const other = peer?.instructions_per_packet;
  return `${own.toFixed(0)}${other === undefined ? "" : ` (DPDK ${other.toFixed(0)})`}`;
}

interface Field extends Column {
  readonly text: (found: CaseResult) => string;
}

const caseFields: readonly Field[] = [
  { title: "SIZE", align: "right", text: ({ size_bytes }) => `${size_bytes}` },
  { title: "RING", text: ringName },
  { title: "QUEUES", align: "right", text: ({ queues }) => `${queues}` },
];

/** Frames that were left to be cut. */
const offloadFields: readonly Field[] = [
  { title: "CUT BY", text: ({ offload }) => offload === undefined ? "" : cutter(offload) },
];

const speedFields: readonly Field[] = [
  { title: "Mpps", align: "right", text: ({ mpps }) => figure(mpps) },
  { title: "Gbit/s", align: "right", text: ({ gbps }) => figure(gbps) },
];

const peerFields: readonly Field[] = [
  { title: "DPDK Mpps", align: "right", text: ({ peer }) => peer === undefined ? "" : figure(peer.mpps) },
  { title: "RATIO (middle half)", text: ({ peer }) => peer === undefined ? "" : ratioText(peer) },
];

/** Beside one thread that does nothing but copy. */
const floorFields: readonly Field[] = [
  {
    title: "FLOOR Gbit/s",
    align: "right",
    text: ({ floor_gbps }) => floor_gbps === undefined ? "" : figure(floor_gbps),
  },
  { title: "OF IT", align: "right", text: (found) => shareOfFloor(found)?.toFixed(2) ?? "" },
];

const cycleFields: readonly Field[] = [
  {
    title: "CYCLES/PACKET",
    align: "right",
    text: ({ cycles_per_packet: cycles }) => cycles === undefined ? "" : cycles.toFixed(0),
  },
];

const instructionFields: readonly Field[] = [{ title: "INSTRUCTIONS/PACKET", text: instructionsText }];

const arrivalFields: readonly Field[] = [
  { title: "ARRIVALS", text: faultText },
  { title: "DROPS", text: ({ drops }) => dropText(drops) },
];

function fieldsOf(cases: readonly CaseResult[]): readonly Field[] {
  const compared = cases.some(({ peer }) => peer !== undefined);
  const offloaded = cases.some(({ offload }) => offload !== undefined);
  const floored = cases.some(({ floor_gbps }) => floor_gbps !== undefined);
  const counted = cases.some(({ instructions_per_packet: count }) => count !== undefined);
  return [
    ...[...caseFields, ...offloaded ? offloadFields : [], ...speedFields],
    ...[
      ...compared ? peerFields : [],
      ...floored ? floorFields : [],
      ...cycleFields,
      ...counted ? instructionFields : [],
      ...arrivalFields,
    ],
  ];
}

/** The columns of the table for these cases, and its rows. */
export function caseTable(cases: readonly CaseResult[]): { columns: readonly Column[]; rows: string[][] } {
  const fields = fieldsOf(cases);
  return { columns: fields, rows: cases.map((found) => fields.map(({ text }) => text(found))) };
}

/** A bar of the chart, and whose it is. */
export interface CaseBar extends Bar {
  readonly whose: "ours" | "peer";
}

/** What bars show: packets, or bits where packets become others on their way. */
export function barValue({ offload }: Case, { mpps, gbps }: Speed): number {
  return offload === undefined ? mpps : gbps;
}

/** One bar for each case; two where there is a peer. */
export function caseBars(cases: readonly CaseResult[]): CaseBar[] {
  const text = ({ mpps, gbps }: { mpps: number; gbps: number }) => `${figure(mpps)} Mpps, ${figure(gbps)} Gbit/s`;
  return cases.flatMap((found): CaseBar[] => {
    const own: CaseBar = { label: caseName(found), value: barValue(found, found), text: text(found), whose: "ours" };
    const { peer } = found;
    return peer === undefined
      ? [own]
      : [own, { label: `  ${peer.name}`, value: peer.mpps, text: text(peer), whose: "peer" }];
  });
}

/** One line. */
export function placementText(way: Way, { worker_cpus, guest_cpus }: Placement): string {
  const [sender, receiver] = guest_cpus;
  const guests = way === "loop"
    ? `the guest on CPU ${sender}`
    : sender === receiver
    ? `both guests on CPU ${sender}`
    : `sender on CPU ${sender}, receiver on CPU ${receiver}`;
  return `worker on CPU ${worker_cpus.join(", ")}, ${guests}`;
}

function checkNote({ cases, verify }: BenchResult): string {
  const packets = cases.reduce((sum, found) => sum + found.packets, 0);
  const checked = cases.reduce((sum, found) => sum + found.checked, 0);
  const whole = verify === "all" || checked === 0
    ? `Checked byte by byte: ${quantity(checked)} of ${quantity(packets)} packets.`
    : `Checked byte by byte: ${quantity(checked)} of ${quantity(packets)} packets, one in ${
      Math.round(packets / checked)
    }; the numbers of all.`;
  return cases.every(faultless) ? `${whole} Nothing was duplicated, reordered or corrupted.` : whole;
}

function peerNotes({ bench: way, cases }: BenchResult): string[] {
  const peers = cases.flatMap(({ peer }) => peer ?? []);
  const [first] = peers;
  if (first === undefined) return [];
  const counted = peers.reduce((sum, { ratio }) => sum + (ratio?.count ?? 0), 0);
  const disturbed = peers.reduce((sum, peer) => sum + peer.pairs_disturbed, 0);
  return [
    `${first.version}: testpmd, io forwarding ${
      way === "loop" ? "from a net_vhost port to itself" : "between two net_vhost ports"
    }, ${first.memory}, for the same guests on ` +
    "the same CPUs, in turns with ours. RATIO is the median of ours to its over pairs of turns, and their middle half.",
    `${counted} pairs counted. In ${disturbed} somebody else had a CPU, or the CPUs were moved: they count only ` +
    "where there are hardly any others.",
  ];
}

function distanceNote(cases: readonly CaseResult[]): string[] {
  const distances = cases.flatMap(({ core_distance_ns }) => core_distance_ns ?? []);
  if (distances.length === 0) return [];
  const [least, most] = [Math.min(...distances), Math.max(...distances)];
  const range = least === most ? `${least}` : `${least} to ${most}`;
  return [
    `A cache line took ${range} ns between the worker's CPU and the guests': the smaller, the higher every rate.`,
  ];
}

function floorNote({ cases, verify }: BenchResult): string[] {
  if (cases.every(({ floor_gbps }) => floor_gbps === undefined)) return [];
  const written = verify === "all" ? "every byte" : "the first bytes";
  return [
    "FLOOR: what one thread copies on the worker's CPU and does nothing else, of the same buffers in the same order, " +
    `after the sender's CPU has written ${written} of each.`,
  ];
}

/** The sentences below the table. */
export function notes(result: BenchResult): string[] {
  const { cases } = result;
  const lost = cases.some(({ drops }) => Object.keys(drops).length > 0)
    ? ["Drops: a sender that is faster than its receiver overruns it; the switch counts each such packet."]
    : [];
  const cut = result.interrupted ? ["Interrupted: the figures are of the time until then."] : [];
  return [checkNote(result), ...peerNotes(result), ...floorNote(result), ...distanceNote(cases), ...lost, ...cut];
}

/**
 * What `tso-test` found, as text: a table of pairings, what is wrong, bars.
 *
 * @module
 */
import { type Column, quantity, table } from "./output.ts";
import { type Bar, chart } from "./chart.ts";
import { type Cutter, offloads, type Pairing, type Receiver, type Throughput } from "./tso_result.ts";

const columns: readonly Column[] = [
  ...["RING", "MERGEABLE", "TAKES"].map((title) => ({ title })),
  ...offloads.flatMap((offload) => [{ title: offload }, { title: "VLAN" }]),
];

function yesNo(mergeable: boolean): string {
  return mergeable ? "yes" : "no";
}

/** Why the row of the tap is empty. */
export function withoutTapText(reason: string): string {
  return `not tested: a tap in a network of its own: ${reason}`;
}

function isOf({ ring, mergeable, takes }: Receiver, pairing: Pairing): boolean {
  return pairing.ring === ring && pairing.mergeable === mergeable && pairing.takes === takes;
}

/** A row for each receiver; what was not tested yet is empty. */
export function pairingTable(receivers: readonly Receiver[], pairings: readonly Pairing[]): string[] {
  const rows = receivers.map((receiver) => {
    const own = pairings.filter((pairing) => isOf(receiver, pairing));
    const cells = offloads.flatMap((offload) =>
      [false, true].map((vlan) =>
        own.find((pairing) => pairing.offload === offload && pairing.vlan === vlan)?.result.toUpperCase() ?? ""
      )
    );
    return [receiver.ring, yesNo(receiver.mergeable), receiver.takes, ...cells];
  });
  return table(columns, rows);
}

/** One line of words. */
export function pairingName({ ring, mergeable, takes, offload, vlan }: Pairing): string {
  const buffers = mergeable ? "mergeable" : "not mergeable";
  const packets = `${offload}${vlan ? " with VLAN tag" : ""}`;
  if (ring === "tap") return `${packets} through a tap and a bridge`;
  return `${packets} to a guest with ${ring} rings, ${buffers}, that takes ${takes}`;
}

/** What is wrong with the first pairing that failed; empty, if none did. */
export function failureLines(pairings: readonly Pairing[]): string[] {
  const failed = pairings.find(({ failure }) => failure !== undefined);
  const failure = failed?.failure;
  if (failed === undefined || failure === undefined) return [];
  return [
    `${pairingName(failed)}: ${failure.packet}`,
    ...[failure.reason, ...failure.lines].map((line) => `  ${line}`),
  ];
}

/** One sentence. */
export function coverageText(pairings: readonly Pairing[]): string {
  const sum = (count: (pairing: Pairing) => number) =>
    quantity(pairings.reduce((total, pairing) => total + count(pairing), 0));
  return `${sum(({ packets }) => packets)} packets in ${pairings.length} pairings must arrive as ` +
    `${sum(({ frames }) => frames)} frames: each was compared byte by byte, header by header, in order.`;
}

const cutterNames: Record<Cutter, string> = {
  nobody: "TSO on",
  switch: "off at the receiver",
  sender: "off at the sender",
};

/** Bars on one scale. */
export function throughputChart(
  throughput: readonly Throughput[],
  columns: number,
  paint: (bar: string) => string,
): string[] {
  const bars = throughput.map(({ ring, cut_by, gbps }): Bar => ({
    label: `${ring.padEnd("packed".length)}  ${cutterNames[cut_by]}`,
    value: gbps,
    text: `${gbps.toFixed(1)} Gbit/s`,
  }));
  return chart(bars, columns, paint);
}

/** What the bars stand for. */
export const throughputNotes: readonly string[] = [
  "Payload a second from guest to guest, at full speed. TSO on: frames of 65535 bytes arrive whole. Off at the",
  "receiver: the switch makes packets of 1448 bytes, with checksums, of them. Off at the sender: the sender does.",
];

/**
 * What passed through ports, as testpmd counts and prints it: rx is from the guest, tx to the guest.
 *
 * @module
 */
import { dropped, type PortSample } from "../mod.ts";

/** One port's packets since it was opened. */
export interface ForwardTotals {
  readonly port: string;
  readonly rx_packets: number;
  readonly rx_dropped: number;
  readonly tx_packets: number;
  readonly tx_dropped: number;
}

export function forwardTotals({ port, counters: { toGuest, fromGuest } }: PortSample): ForwardTotals {
  return {
    port,
    rx_packets: Number(fromGuest.packets),
    rx_dropped: dropped(fromGuest),
    tx_packets: Number(toGuest.packets),
    tx_dropped: dropped(toGuest),
  };
}

/** What came to them since an earlier moment. */
export function totalsSince(now: ForwardTotals, before: ForwardTotals): ForwardTotals {
  return {
    port: now.port,
    rx_packets: now.rx_packets - before.rx_packets,
    rx_dropped: now.rx_dropped - before.rx_dropped,
    tx_packets: now.tx_packets - before.tx_packets,
    tx_dropped: now.tx_dropped - before.tx_dropped,
  };
}

const dashes = "-".repeat(22);
const pluses = "+".repeat(15);

function counts(name: "RX" | "TX", packets: number, lost: number): string {
  const first = `${name}-packets: ${String(packets).padEnd(14)}`;
  const second = `${name}-dropped: ${String(lost).padEnd(14)}`;
  return `  ${first} ${second}${name}-total: ${packets + lost}`;
}

function block(title: string, sign: string, totals: Omit<ForwardTotals, "port">): string[] {
  return [
    title,
    counts("RX", totals.rx_packets, totals.rx_dropped),
    counts("TX", totals.tx_packets, totals.tx_dropped),
    `  ${sign.repeat(76)}`,
  ];
}

/** A block of lines for each port, and one for all. */
export function forwardStatistics(ports: readonly ForwardTotals[]): string[] {
  const sum = (key: Exclude<keyof ForwardTotals, "port">) => ports.reduce((total, port) => total + port[key], 0);
  const all = {
    rx_packets: sum("rx_packets"),
    rx_dropped: sum("rx_dropped"),
    tx_packets: sum("tx_packets"),
    tx_dropped: sum("tx_dropped"),
  };
  return [
    ...ports.flatMap((port, number) =>
      block(`  ${dashes} Forward statistics for port ${number}  ${dashes}`, "-", port)
    ),
    ...block(`  ${pluses} Accumulated forward statistics for all ports${pluses}`, "+", all),
  ];
}

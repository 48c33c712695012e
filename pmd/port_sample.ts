/**
 * Counters of ports at two moments, and the rates between them.
 *
 * @module
 */
import type { Direction, VringStats } from "../ffi/port.ts";
import type { PortLife } from "./port_life.ts";

/** How far a port is: nobody there, a front end there, rings running, or a ring given up. */
export type PortState = "waiting" | "connected" | "running" | "broken";

/** One port at one moment. */
export interface PortSample {
  readonly port: string;
  readonly state: PortState;
  /** Why it still waits, where we connect; why nobody can come, where we listen. */
  readonly reason?: string | undefined;
  /** Queue pairs that carry packets, and those offered. */
  readonly queuePairsUp: number;
  readonly queuePairs: number;
  readonly counters: Readonly<Record<Direction, VringStats>>;
  /** Of a port that serves guests. */
  readonly life?: PortLife;
}

/** What was counted between two moments; since the beginning, without an earlier one. */
export function statsSince(now: VringStats, before: VringStats | undefined): VringStats {
  if (before === undefined) return now;
  const entries = Object.entries(now).map(([name, value]) => [name, value - before[name as keyof VringStats]]);
  return Object.fromEntries(entries) as VringStats;
}

/** What two processes counted, one after the other; what the first did not know is missing. */
export function statsSum(now: VringStats, before: Readonly<Record<string, bigint>> | undefined): VringStats {
  if (before === undefined) return now;
  return Object.fromEntries(
    Object.entries(now).map(([name, value]) => [name, value + (before[name] ?? 0n)]),
  ) as VringStats;
}

/** What one direction did between two moments. */
export interface Rate {
  readonly packetsPerSecond: number;
  readonly bitsPerSecond: number;
}

const directions = ["toGuest", "fromGuest"] as const;

/** Names of the drop counters without `drop_`. */
export function dropReasons(stats: VringStats): string[] {
  return Object.keys(stats).filter((key) => key.startsWith("drop_")).map((key) => key.slice("drop_".length));
}

/** All dropped packets of one direction. */
export function dropped(stats: VringStats): number {
  return dropReasons(stats).reduce((sum, reason) => sum + Number(stats[`drop_${reason}` as keyof VringStats]), 0);
}

/** Dropped packets of both directions by reason, those that are not 0, most first. */
export function portDrops(sample: PortSample, before?: PortSample): [reason: string, packets: number][] {
  const found = new Map<string, number>();
  for (const direction of directions) {
    const now = sample.counters[direction];
    for (const reason of dropReasons(now)) {
      const key = `drop_${reason}` as keyof VringStats;
      const packets = Number(now[key] - (before?.counters[direction][key] ?? 0n));
      if (packets > 0) found.set(reason, (found.get(reason) ?? 0) + packets);
    }
  }
  return [...found].toSorted((one, other) => other[1] - one[1]);
}

/** The rate of one direction. `seconds` lie between the two samples. */
export function portRate(now: PortSample, before: PortSample, direction: Direction, seconds: number): Rate {
  const difference = (key: "packets" | "bytes") =>
    Number(now.counters[direction][key] - before.counters[direction][key]);
  return { packetsPerSecond: difference("packets") / seconds, bitsPerSecond: 8 * difference("bytes") / seconds };
}

/**
 * What `bench costs` found, as `--json` prints it: names carry their units.
 *
 * @module
 */
import type { Placement, Ring } from "./bench_result.ts";
import type { Machine } from "./machine.ts";
import type { Spread } from "./statistics.ts";

/** What a back end with two ports costs while nothing passes. */
export interface StandingCosts {
  /** From its start until both sockets take a connection. */
  readonly listening_ms: number;
  /** Of one CPU, without guests, and with two that do nothing. */
  readonly idle_percent: number;
  readonly guests_percent: number;
  /** Resident memory without guests, and what of it is nobody else's; huge pages beside. */
  readonly rss_mib: number;
  readonly private_mib: number;
  readonly huge_mib: number;
}

/** One of them. */
export type Cost = keyof StandingCosts;

/** What all rounds say of one back end. */
export interface BackEndCosts {
  readonly name: string;
  /** Rounds that count. */
  readonly rounds: number;
  /** Rounds in which somebody else had its CPU. They count only for want of others. */
  readonly rounds_disturbed: number;
  readonly costs: Readonly<Record<Cost, Spread>>;
  /** How often it was killed under traffic, and the same command started again at once. */
  readonly kills: number;
  /** Packets arrived at both guests again, whose drivers knew of nothing. */
  readonly survived: number;
  /** From the kill until then, of those. */
  readonly outage_ms: Spread | undefined;
}

export interface CostsResult {
  readonly bench: "costs";
  readonly machine: Machine;
  readonly placement: Placement;
  /** Of the guests that see it killed. */
  readonly ring: Ring;
  readonly back_ends: readonly BackEndCosts[];
  readonly interrupted: boolean;
}

/**
 * What the self-test of `migrate` found, as `--json` prints it: names carry their units.
 *
 * @module
 */
import type { Ring } from "./bench_result.ts";
import type { Machine } from "./machine.ts";
import type { Difference, Logged } from "./self_migration_host.ts";
import type { RoundEnd } from "./self_migration_plan.ts";

/** What went wrong with packets: all 0, or it is a fault. */
export interface Faults {
  readonly unaccounted: number;
  readonly duplicated: number;
  readonly reordered: number;
  readonly corrupted: number;
  /** Rings that a guest found broken. */
  readonly broken: number;
}

/** Where the first fault was, and which. */
export interface MigrationFailure {
  /** Of this ring format, from 1; packets are counted after the last round of a guest. */
  readonly round: number;
  /** For people. */
  readonly reason: string;
  readonly differences: readonly Difference[];
}

/** All rounds with one ring format. */
export interface RingResult extends Faults {
  readonly ring: Ring;
  readonly rounds: number;
  /** How they ended. */
  readonly ends: Readonly<Record<RoundEnd, number>>;
  /** Guests, one after the other. */
  readonly guests: number;
  /** By everybody, and what of it came to guests; both count the pieces of what was cut. */
  readonly sent: number;
  readonly received: number;
  /**
   * Out of order where that is no fault, or cannot be told: a flow moves from queue to queue of a guest while its rings
   * stop and start one after the other; and of a frame that was cut, pieces seem late when the first was dropped.
   */
  readonly overtaken: number;
  /** By the back ends, and by reason. */
  readonly dropped: Readonly<Record<string, number>>;
  /** Marks that the back ends say they set; undefined where they do not say. */
  readonly pages_marked: number | undefined;
  readonly pages_logged: Logged;
  readonly pages_compared: number;
  readonly pages_different: number;
  /** From the moment when the guest was halted until its rings ran elsewhere. */
  readonly stop_max_ms: number;
  readonly failure?: MigrationFailure;
}

export interface SelfTestResult {
  readonly test: "migrate";
  readonly machine: Machine;
  readonly seed: number;
  /** That were to be done with each ring format. */
  readonly rounds: number;
  readonly rings: readonly RingResult[];
  readonly interrupted: boolean;
  readonly ok: boolean;
}

/** What became of packets of one way. */
export interface Way {
  /** Pieces of what was cut included, as in `received`. */
  readonly sent: number;
  readonly received: number;
  readonly dropped: number;
}

/** Where packets are missing, or there are too many, in words; empty, if neither. */
export function wayText(name: string, { sent, received, dropped }: Way): string {
  if (sent === received + dropped) return "";
  return `${name}: ${sent} sent, ${received} received, ${dropped} dropped`;
}

/** The faults that there are, in words; empty without any. */
export function faultsText({ unaccounted, duplicated, reordered, corrupted, broken }: Faults): string {
  return Object.entries({ unaccounted, duplicated, reordered, corrupted, "broken rings": broken })
    .filter(([, count]) => count !== 0).map(([name, count]) => `${count} ${name}`).join(", ");
}

/**
 * What `bench starvation` found, as `--json` prints it: names carry their units.
 *
 * @module
 */
import type { Placement, Ring, Variant } from "./bench_result.ts";
import type { Machine } from "./machine.ts";
import type { Spread } from "./statistics.ts";

/** One thing to measure. */
export interface StarvationCase {
  readonly size_bytes: number;
  readonly ring: Ring;
  readonly variant?: Variant;
  readonly ring_size: number;
  /** Each from a sender of its own to a receiver of its own. */
  readonly flows: number;
}

/** Two turns that followed each other: all receivers read, and one does not. */
export interface StarvationPair {
  /** Of the other flows together. */
  readonly reading_mpps: number;
  readonly stopped_mpps: number;
  /** What went on to be sent to the receiver that did not read: its sender has all its descriptors back. */
  readonly sent_to_stopped_mpps: number;
  /** Somebody else had a CPU in one of the turns. */
  readonly disturbed: boolean;
}

export interface StarvationCaseResult extends StarvationCase {
  /** Medians over the pairs that count. */
  readonly reading_mpps: number;
  readonly stopped_mpps: number;
  readonly sent_to_stopped_mpps: number;
  /** The others' rate while one does not read, divided by that while all do. */
  readonly ratio: Spread | undefined;
  /** All of them; those that were disturbed count only for want of others. */
  readonly pairs: readonly StarvationPair[];
  readonly pairs_disturbed: number;
}

export interface StarvationResult {
  readonly bench: "starvation";
  readonly machine: Machine;
  readonly placement: Placement;
  /** Packets a second of each flow; as fast as it goes, if undefined. */
  readonly rate_pps: number | undefined;
  readonly cases: readonly StarvationCaseResult[];
  readonly interrupted: boolean;
}

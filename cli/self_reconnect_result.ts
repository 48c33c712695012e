/**
 * What the self-test of `reconnect-watch` found, as `--json` prints it: names carry their units.
 *
 * @module
 */
import type { Ring } from "./bench_result.ts";
import type { Machine } from "./machine.ts";

/** What went wrong: all 0, or it is a fault. */
export interface Faults {
  /** Send buffers that never came back, and rings that stand elsewhere for the back end than for the driver. */
  readonly stuck: number;
  readonly duplicated: number;
  readonly corrupted: number;
  readonly reordered: number;
  /** Rings that a guest found broken. */
  readonly broken: number;
  /** Packets that were lost for no reason that there is; of guests in step. */
  readonly unexplained: number;
}

/** Where the first fault was, and which. */
export interface ReconnectFailure {
  /** Of this ring format, from 1; packets are counted after the last round of two guests. */
  readonly round: number;
  /** For people. */
  readonly reason: string;
}

/** What was lost, and why that may be. */
export interface Losses {
  readonly rounds: number;
  /** Sent, and never arrived: exact. */
  readonly lost: number;
  /** Frames that a killed back end had in hand, as the next one counted when it gave them back. Some had arrived. */
  readonly given_back: number;
  /** The most that back ends may have given back which were killed before they were asked. */
  readonly given_back_unseen_max: number;
  /** Dropped for other reasons, as back ends said when they were asked the last time, and by reason. */
  readonly dropped: Readonly<Record<string, number>>;
  /** What drivers had given to the device when they began anew, at most. */
  readonly abandoned_max: number;
}

export interface OutageResult {
  /** One for each guest and round. */
  readonly count: number;
  readonly median_ms: number;
  readonly worst_ms: number;
  /** Medians of the steps, of which an outage is the sum. */
  readonly start_up_ms: number;
  readonly handshake_ms: number;
  readonly rings_ms: number;
  readonly traffic_ms: number;
  /** Median from the start of a back end until it says that it is ready, which is after its sockets are there. */
  readonly ready_ms: number;
}

/** All rounds with one ring format. */
export interface RingResult extends Faults {
  readonly ring: Ring;
  readonly rounds: number;
  /** At least one a round. */
  readonly kills: number;
  /** Pairs of guests, one after the other. */
  readonly pairs: number;
  /** Drivers that began anew meanwhile, and devices that were stopped and started in order. */
  readonly resets: number;
  readonly halts: number;
  readonly sent: number;
  readonly received: number;
  /** Late where a flow may move from queue to queue, because rings start one after the other. */
  readonly overtaken: number;
  /** Of guests that send no more than the other has buffers for, and of such that send as fast as they can. */
  readonly in_step: Losses;
  readonly at_full_speed: Losses;
  readonly outage: OutageResult | null;
  readonly failure?: ReconnectFailure;
}

export interface SelfTestResult {
  readonly test: "reconnect";
  readonly machine: Machine;
  readonly seed: number;
  /** That were to be done with each ring format. */
  readonly rounds: number;
  readonly rings: readonly RingResult[];
  readonly interrupted: boolean;
  readonly ok: boolean;
}

const faultNames = {
  stuck: "stuck buffers or rings",
  duplicated: "duplicated",
  corrupted: "corrupted",
  reordered: "out of order",
  broken: "broken rings",
  unexplained: "lost for no reason",
} satisfies Record<keyof Faults, string>;

/** The faults that there are, in words; empty without any. */
export function faultsText(faults: Faults): string {
  return Object.entries(faultNames).filter(([name]) => faults[name as keyof Faults] !== 0)
    .map(([name, text]) => `${faults[name as keyof Faults]} ${text}`).join(", ");
}

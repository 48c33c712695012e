/**
 * What `bench latency` found, as `--json` prints it: names carry their units.
 *
 * @module
 */
import type { Placement, Ring, Variant } from "./bench_result.ts";
import type { Distance } from "./distance.ts";
import type { Machine } from "./machine.ts";
import type { IdleMode } from "./option.ts";
import type { Spread } from "./statistics.ts";

/** One thing to measure. */
export interface LatencyCase {
  readonly size_bytes: number;
  readonly ring: Ring;
  readonly variant?: Variant;
  readonly ring_size: number;
  /** Packets a second that two other guests are to exchange meanwhile; 0: none. */
  readonly load_pps: number;
}

/** Whose round trips: those of `serve` by what its worker does without traffic, or the peer's. */
export type ForwarderName = IdleMode | "testpmd";

/** Of one forwarder, at one distance of the CPUs. */
export interface ForwarderLatency {
  readonly name: ForwarderName;
  /** Those that were timed: one every few microseconds. */
  readonly round_trips: number;
  /** Quantiles of all round trips, to a sixteenth of themselves; undefined where nothing came back. */
  readonly p50_us: number | undefined;
  readonly p90_us: number | undefined;
  readonly p99_us: number | undefined;
  readonly p999_us: number | undefined;
  /** Its median divided by that of polling in the same round; undefined where that was not measured. */
  readonly to_busy: Spread | undefined;
  /** Its median divided by the peer's in the same round. */
  readonly to_peer: Spread | undefined;
  /** What two other guests exchanged meanwhile, in packets a second. */
  readonly load_pps: number;
}

export interface LatencyCaseResult extends LatencyCase {
  readonly distance: Distance;
  /** The median; undefined where it is not known. */
  readonly core_distance_ns: number | undefined;
  /** Rounds that count: in each, every forwarder has one turn. */
  readonly rounds: number;
  /** Rounds in which somebody else had a CPU, or the CPUs were moved. They count only for want of others. */
  readonly rounds_disturbed: number;
  readonly forwarders: readonly ForwarderLatency[];
}

/** The forwarder beside ours. */
export interface LatencyPeer {
  readonly version: string;
  readonly memory: string;
}

export interface LatencyResult {
  readonly bench: "latency";
  readonly machine: Machine;
  readonly placement: Placement;
  readonly peer: LatencyPeer | undefined;
  /** Of each case as many as there were distances of the CPUs. */
  readonly cases: readonly LatencyCaseResult[];
  readonly interrupted: boolean;
}

/**
 * What a benchmark found, as `--json` prints it: names carry their units.
 *
 * @module
 */
import type { Machine } from "./machine.ts";
import type { Spread } from "./statistics.ts";

/** Where packets go: from one guest to another, or back to the guest that sent them. */
export const ways = ["vm2vm", "loop"] as const;
export type Way = (typeof ways)[number];

/** Layout of the rings between guest and switch. */
export type Ring = "split" | "packed";

/** What a driver does unlike most: a frame lies in one of its buffers (no MRG_RXBUF), or they are used IN_ORDER. */
export const variants = ["no-mrg", "in-order"] as const;
export type Variant = (typeof variants)[number];

/** What a guest takes of what others leave to be done. */
export const takings = ["all", "checksums", "nothing"] as const;
export type Taking = (typeof takings)[number];

/** What the sender leaves to be done. */
export interface CaseOffload {
  /** Each frame is to become datagrams of so much payload (USO). */
  readonly gso_bytes: number;
  /** By the receiver: all, checksums alone (then the switch cuts), or nothing. */
  readonly receiver_takes: Taking;
}

/** One thing to measure. */
export interface Case {
  /** Of a frame as it is sent, from the destination address to the end of the payload. */
  readonly size_bytes: number;
  readonly ring: Ring;
  /** None, if undefined: mergeable buffers, used in any order. */
  readonly variant?: Variant;
  /** Queue pairs of each guest. */
  readonly queues: number;
  /** Descriptors of each ring. */
  readonly ring_size: number;
  /** Nothing, if undefined. */
  readonly offload?: CaseOffload;
}

/** How packets arrived, as the receiving guest counts them by their sequence numbers and contents. */
export interface Arrivals {
  readonly packets: number;
  /** Numbers that never came. Where the sender is faster than the receiver, the switch must drop. */
  readonly lost: number;
  readonly duplicated: number;
  readonly reordered: number;
  readonly corrupted: number;
  /** How many of the packets were checked byte by byte. */
  readonly checked: number;
}

/** Speed of one forwarder. */
export interface Speed {
  /** Seconds that were measured. */
  readonly seconds: number;
  /** Million packets received a second. */
  readonly mpps: number;
  /** Thousand million bits of frames received a second, without preamble, gap or checksum of a wire. */
  readonly gbps: number;
}

/** Two turns that followed each other, ours and the peer's. */
export interface PairResult {
  readonly mpps: number;
  readonly peer_mpps: number;
  readonly core_distance_ns: number | undefined;
  readonly disturbed: boolean;
}

/** The other forwarder, measured in turns with ours. */
export interface PeerResult extends Speed, Arrivals {
  readonly name: string;
  readonly version: string;
  /** What its memory is made of. */
  readonly memory: "huge pages" | "4 KiB pages";
  /** Our rate divided by the peer's, of each pair of turns that counts. */
  readonly ratio: Spread | undefined;
  /** All of them, in their order: what pools pairs of different distances says little. */
  readonly pairs: readonly PairResult[];
  /** Pairs of turns in which somebody else had a CPU, or the CPUs moved. They count only for want of others. */
  readonly pairs_disturbed: number;
  readonly instructions_per_packet?: number | undefined;
}

export interface CaseResult extends Case, Speed, Arrivals {
  /** How often all processes were started anew to measure it; rates are over all of these. */
  readonly starts: number;
  /** Cycles that the workers spent in bursts with packets, divided by these packets. */
  readonly cycles_per_packet: number | undefined;
  /** Of the worker, counted while its rings are full; undefined, if that was not asked for. */
  readonly instructions_per_packet?: number | undefined;
  /** How many packets a worker found at once: few, where it is faster than the sender, or looks too often. */
  readonly packets_per_burst: number | undefined;
  /** Packets that the switch dropped, by reason. */
  readonly drops: Readonly<Record<string, number>>;
  /** Packets sent, less those received, less those dropped: 0 where the switch tells the whole truth. */
  readonly unaccounted: number;
  /** How long a cache line took from the worker's CPU to the sender's, in nanoseconds; undefined if it is the same. */
  readonly core_distance_ns: number | undefined;
  /** What one thread copied of the same buffers, and nothing else; undefined where it had no CPU of its own. */
  readonly floor_gbps: number | undefined;
  readonly peer?: PeerResult;
}

/** Which CPU does what. */
export interface Placement {
  readonly worker_cpus: readonly number[];
  /** Of the sender, then of the receiver. */
  readonly guest_cpus: readonly number[];
}

export interface BenchResult {
  readonly bench: Way;
  readonly machine: Machine;
  readonly placement: Placement;
  readonly verify: "all" | "sampled";
  readonly cases: readonly CaseResult[];
  /** Stopped by the user: the last case is shorter than it was to be, or cases are missing. */
  readonly interrupted: boolean;
  /** Nothing arrived that was not sent, twice, out of order or changed. */
  readonly ok: boolean;
}

/** Whether what arrived is what was sent, in order. Losses are no fault: see `Arrivals.lost`. */
export function faultless(arrivals: Arrivals): boolean {
  return arrivals.duplicated === 0 && arrivals.reordered === 0 && arrivals.corrupted === 0;
}

/** Our bits, divided by the floor's; undefined where that is not known. */
export function shareOfFloor({ gbps, floor_gbps }: Pick<CaseResult, "gbps" | "floor_gbps">): number | undefined {
  return floor_gbps === undefined ? undefined : gbps / floor_gbps;
}

/** Speed by packets of one size in so many seconds. */
export function speed(packets: number, size_bytes: number, seconds: number): Speed {
  const perSecond = seconds > 0 ? packets / seconds : 0;
  return { seconds, mpps: perSecond / 1e6, gbps: perSecond * size_bytes * 8 / 1e9 };
}

/** `split`, `packed in-order`. */
export function ringName({ ring, variant }: Pick<Case, "ring" | "variant">): string {
  return variant === undefined ? ring : `${ring} ${variant}`;
}

/** What sets cases of one size apart: `packed in-order, 4 queues`, `split, takes nothing`. */
export function rowName(wanted: Case): string {
  const { queues, offload } = wanted;
  const takes = offload === undefined ? "" : `, takes ${offload.receiver_takes}`;
  return `${ringName(wanted)}${queues > 1 ? `, ${queues} queues` : ""}${takes}`;
}

/** `64 B split`, `1518 B packed in-order, 4 queues`, `65535 B split, takes nothing`. */
export function caseName(wanted: Case): string {
  return `${wanted.size_bytes} B ${rowName(wanted)}`;
}

/**
 * What `tso-test` found, as `--json` prints it.
 *
 * @module
 */
import type { Ring, Taking } from "./bench_result.ts";
import type { Machine } from "./machine.ts";

/** What a packet leaves to others: TCP over IPv4 or IPv6, UDP as datagrams or as fragments, or a checksum alone. */
export const offloads = ["TSO4", "TSO6", "USO", "UFO", "CSUM"] as const;
export type Offload = (typeof offloads)[number];

/** A receiving guest, and a sender with rings of the same layout; or a tap beyond a tap and a bridge of Linux's. */
export interface Receiver {
  readonly ring: Ring | "tap";
  readonly mergeable: boolean;
  /** What it negotiated. */
  readonly takes: Taking;
}

/** Where something arrived that should not have, or nothing. */
export interface Failure {
  /** The packet that was sent. */
  readonly packet: string;
  readonly reason: string;
  /** Both sides around the first difference, in hex. */
  readonly lines: readonly string[];
}

/** One kind of packet to one receiver. */
export interface Pairing extends Receiver {
  readonly offload: Offload;
  readonly vlan: boolean;
  readonly result: "pass" | "fail";
  /** Sent, and what must arrive of them. */
  readonly packets: number;
  readonly frames: number;
  readonly failure?: Failure;
}

/** Who makes segments: nobody, for a receiver that takes all; the switch, for one that takes nothing; the sender. */
export const cutters = ["nobody", "switch", "sender"] as const;
export type Cutter = (typeof cutters)[number];

export interface Throughput {
  readonly ring: Ring;
  readonly cut_by: Cutter;
  /** Payload that arrived, in thousand million bits a second. */
  readonly gbps: number;
}

export interface TsoResult {
  readonly test: "tso";
  readonly machine: Machine;
  readonly pairings: readonly Pairing[];
  /** Why nothing was sent through a tap; undefined, if that was done. */
  readonly without_tap?: string | undefined;
  readonly throughput: readonly Throughput[];
  /** Stopped by the user before all of this was there. */
  readonly interrupted: boolean;
  /** Every packet of every pairing arrived as it must. */
  readonly ok: boolean;
}

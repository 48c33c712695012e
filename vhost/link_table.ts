/**
 * What one guest is told of another whose memory it has in BAR 2 of a PCI device: the content of a link page, as
 * `zig/link_page.zig` lays it out. Pure.
 *
 * @module
 */
import type { VringConfig } from "./dataplane.ts";
import { RefusedError } from "./error.ts";
import { hasFeature, limits } from "./spec.ts";

/** A region of the other guest's memory. In bytes. */
export interface LinkRegion {
  readonly gpa: bigint;
  readonly size: bigint;
  /** Where it begins in BAR 2. */
  readonly offset: bigint;
}

/** One ring of the other guest, as numbered on the wire. Addresses are guest-physical. */
export interface LinkVring {
  readonly desc: bigint;
  readonly avail: bigint;
  readonly used: bigint;
  readonly size: number;
  /** Where its driver started it, as SET_VRING_BASE says it. */
  readonly base: number;
  /** Which start this is, from 1 on; 0: it is stopped. */
  readonly start: number;
  readonly enabled: boolean;
}

/** Immutable. */
export interface LinkTable {
  /** As negotiated; 0: nothing is. */
  readonly features: bigint;
  /** Whom to ring by the doorbell register; 0: nobody. */
  readonly peer: number;
  /** Longest frame to the other guest, without its Ethernet header; no limit, if undefined. */
  readonly mtu: number | undefined;
  readonly regions: readonly LinkRegion[];
  readonly vrings: readonly LinkVring[];
}

/** Where the reader left a ring of that start. */
export interface LinkStand {
  readonly start: number;
  /** `inUse` while it works on it. */
  readonly base: number;
}

/** In the place of a base. */
export const inUse = 0xffff_ffff;

/** Which file memory is, and how long that is. */
export interface FileIdentity {
  readonly device: bigint;
  readonly inode: bigint;
  readonly size: bigint;
}

const stopped: LinkVring = { desc: 0n, avail: 0n, used: 0n, size: 0, base: 0, start: 0, enabled: false };

/** Nobody is there. */
export function emptyLink(queuePairs: number): LinkTable {
  const vrings = Array.from({ length: 2 * queuePairs }, () => stopped);
  return { features: 0n, peer: 0, mtu: undefined, regions: [], vrings };
}

/** A ring has started, for the `start`-th time. */
export function withStarted(table: LinkTable, index: number, config: VringConfig, start: number): LinkTable {
  const { desc, avail, used, size, base, features } = config;
  return { ...withVring(table, index, { desc, avail, used, size, base, start }), features };
}

/** A ring has stopped; whether it is enabled is remembered. */
export function withStopped(table: LinkTable, index: number): LinkTable {
  return withVring(table, index, { ...stopped, enabled: table.vrings[index]!.enabled });
}

export function withEnabled(table: LinkTable, index: number, enabled: boolean): LinkTable {
  return withVring(table, index, { enabled });
}

function withVring(table: LinkTable, index: number, change: Partial<LinkVring>): LinkTable {
  return { ...table, vrings: table.vrings.with(index, { ...table.vrings[index]!, ...change }) };
}

/** The same without memory and rings: for a reader that cannot reach them. */
export function withoutRings(table: LinkTable): LinkTable {
  return { ...table, regions: [], vrings: table.vrings.map((_, index) => withStopped(table, index).vrings[index]!) };
}

/** Whether any ring runs. */
export function runs(table: LinkTable): boolean {
  return table.vrings.some(({ start }) => start !== 0);
}

/** Whether both are the same file. */
export function isSameFile(one: FileIdentity | undefined, other: FileIdentity | undefined): boolean {
  return one !== undefined && other !== undefined && one.device === other.device && one.inode === other.inode;
}

/**
 * The file that all of a guest's memory is; undefined where there is none. Throws `RefusedError` where it is not one
 * file, or of a size that no PCI BAR can have.
 */
export function memoryFile(files: readonly FileIdentity[]): FileIdentity | undefined {
  const [first, ...more] = files;
  if (first === undefined) return undefined;
  if (!more.every((file) => isSameFile(first, file))) {
    throw new RefusedError(
      "guest memory is in more than one file, and ivshmem shows one: plug no memory in, and give one memory backend",
    );
  }
  const { size } = first;
  if (size > 0n && (size & (size - 1n)) === 0n) return first;
  throw new RefusedError(
    `guest memory of ${size} bytes is no power of two, as a PCI BAR must be: give the second VM -m 1G, say`,
  );
}

/** Whether a ring with these features can stand there, whoever says so. */
export function isBase(features: bigint, size: number, base: number): boolean {
  if (!hasFeature(features, "RING_PACKED")) return base <= limits.splitBase;
  return (base & 0x7fff) < size && (base >>> 16 & 0x7fff) < size;
}

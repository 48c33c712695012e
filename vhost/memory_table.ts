/**
 * Guest memory as the session knows it: the regions, and where the front end's own addresses lead. Nothing is mapped
 * here; an implementation of `Dataplane` does that, and checks again.
 *
 * @module
 */
import type { Region } from "./dataplane.ts";
import { RefusedError } from "./error.ts";
import { limits } from "./spec.ts";

const addressMax = 0xffff_ffff_ffff_ffffn;

/** Immutable: each change makes a new table. */
export class MemoryTable {
  static readonly empty = new MemoryTable([]);

  readonly regions: readonly Region[];

  private constructor(regions: readonly Region[]) {
    this.regions = regions;
  }

  /** The table of a SET_MEM_TABLE. Throws `RefusedError` for a region that cannot be, or two that overlap. */
  static of(regions: readonly Region[]): MemoryTable {
    return regions.reduce((table, region) => table.plus(region), MemoryTable.empty);
  }

  /** Throws `RefusedError` for a region that cannot be, overlaps another, or is one too many. */
  plus(region: Region): MemoryTable {
    checkExtent(region);
    if (this.regions.length >= limits.memorySlots) {
      throw new RefusedError(`one region too many: ${text(region)}: ${limits.memorySlots} are the limit`);
    }
    for (const other of this.regions) {
      if (overlap(region.gpa, other.gpa, region, other)) throw overlapError("guest", region, other);
      if (overlap(region.userAddress, other.userAddress, region, other)) throw overlapError("user", region, other);
    }
    return new MemoryTable([...this.regions, region]);
  }

  /** Without this one, which must be one of `regions`. */
  minus(region: Region): MemoryTable {
    return new MemoryTable(this.regions.filter((other) => other !== region));
  }

  /**
   * The region that a REM_MEM_REG means: its guest address, user address and size say which; the mmap offset does not
   * count (vhost-user, VHOST_USER_REM_MEM_REG). Undefined when it is not there. Throws `RefusedError` when another is
   * in its place.
   */
  find(region: Region): Region | undefined {
    checkExtent(region);
    const found = this.regions.find((other) => overlap(region.gpa, other.gpa, region, other));
    if (found === undefined || isSamePlace(region, found)) return found;
    throw new RefusedError(`region ${text(region)} is not in the table, but ${text(found)} is in its place`);
  }

  /** The region that is this one, offset included. */
  same(region: Region): Region | undefined {
    return this.regions.find((other) => isSamePlace(region, other) && region.mmapOffset === other.mmapOffset);
  }

  /** Where `bytes` at the front end's `userAddress` are for the guest; undefined if they lie in no one region whole. */
  guestAddress(userAddress: bigint, bytes: number): bigint | undefined {
    for (const region of this.regions) {
      const offset = userAddress - region.userAddress;
      if (offset < 0n || offset >= region.size) continue;
      return BigInt(bytes) <= region.size - offset ? region.gpa + offset : undefined;
    }
    return undefined;
  }
}

function isSamePlace(a: Region, b: Region): boolean {
  return a.gpa === b.gpa && a.size === b.size && a.userAddress === b.userAddress;
}

function overlap(a: bigint, b: bigint, one: Region, other: Region): boolean {
  return a < b + other.size && b < a + one.size;
}

function checkExtent(region: Region): void {
  if (region.size === 0n) throw new RefusedError(`region ${text(region)} has no size`);
  for (const start of [region.gpa, region.userAddress, region.mmapOffset]) {
    if (start + region.size <= addressMax) continue;
    throw new RefusedError(`region ${text(region)} goes beyond 64 bits at ${hex(start)}`);
  }
}

function overlapError(kind: string, region: Region, other: Region): RefusedError {
  return new RefusedError(`region ${text(region)} overlaps ${text(other)} in ${kind} addresses`);
}

/** Guest address, size, and user address. */
function text(region: Region): string {
  return `${hex(region.gpa)}+${hex(region.size)}@${hex(region.userAddress)}`;
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}

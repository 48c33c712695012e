/**
 * A guest's memory, as its front end has it: regions of guest addresses with a file behind each, mapped here too.
 *
 * @module
 */

import { equals } from "./hostile_bytes.ts";
import { mapShared, memoryFile } from "./hostile_system.ts";
import type { Region } from "../vhost/dataplane.ts";

/** The front end's own address of a guest address: what SET_VRING_ADDR says. */
export function userAddress(gpa: bigint): bigint {
  return gpa + 0x7f00_0000_0000n;
}

/** One region and its file. */
export interface Part extends Region {
  readonly fd: number;
  /** The region as it is now. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** A range of guest addresses. */
export interface Range {
  readonly at: bigint;
  readonly len: number;
}

export interface PartOptions {
  /** Where the region begins in its file. */
  readonly mmapOffset?: number;
  /** A file to use, longer than the region by its offset at least. */
  readonly fd?: number;
}

/** A region at a guest address. */
export function makePart(gpa: bigint, size: number, { mmapOffset = 0, fd }: PartOptions = {}): Part {
  const file = fd ?? memoryFile(mmapOffset + size);
  const bytes = mapShared(file, mmapOffset + size).subarray(mmapOffset);
  return { gpa, size: BigInt(size), userAddress: userAddress(gpa), mmapOffset: BigInt(mmapOffset), fd: file, bytes };
}

/** Addresses are the guest's; ranges may lie over several adjacent regions, and throw where there is none. */
export class GuestMemory {
  readonly parts: readonly Part[];
  readonly #image: Uint8Array[];

  constructor(parts: readonly Part[]) {
    this.parts = parts;
    this.#image = parts.map((part) => new Uint8Array(part.bytes.length));
  }

  /** The bytes at an address as they lie there, up to the end of the region. */
  #from(at: bigint): Uint8Array<ArrayBuffer> {
    const part = this.parts.find(({ gpa, size }) => at >= gpa && at < gpa + size);
    if (part === undefined) throw new RangeError(`no guest memory at 0x${at.toString(16)}`);
    return part.bytes.subarray(Number(at - part.gpa));
  }

  /** A view of a range that lies in one region. */
  view(at: bigint, len: number): DataView<ArrayBuffer> {
    const bytes = this.#from(at).subarray(0, len);
    if (bytes.length < len) throw new RangeError(`no ${len} bytes of guest memory at 0x${at.toString(16)}`);
    return new DataView(bytes.buffer, bytes.byteOffset, len);
  }

  /** Whether these bytes are there, in one region or in several side by side. */
  holds(at: bigint, len: number): boolean {
    if (len === 0) return true;
    const part = this.parts.find(({ gpa, size }) => at >= gpa && at < gpa + size);
    if (part === undefined) return false;
    const here = Math.min(len, Number(part.gpa + part.size - at));
    return this.holds(at + BigInt(here), len - here);
  }

  write(at: bigint, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length;) {
      const place = this.#from(at + BigInt(done));
      const piece = bytes.subarray(done, done + place.length);
      place.set(piece);
      done += piece.length;
    }
  }

  read(at: bigint, len: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(len);
    for (let done = 0; done < len;) {
      const piece = this.#from(at + BigInt(done)).subarray(0, len - done);
      bytes.set(piece, done);
      done += piece.length;
    }
    return bytes;
  }

  /** Fills everything with one byte. */
  clear(byte = 0): void {
    for (const part of this.parts) part.bytes.fill(byte);
  }

  /** Remembers everything as it is now. */
  remember(): void {
    this.parts.forEach((part, i) => this.#image[i]!.set(part.bytes));
  }

  /** The addresses, a few at most, of bytes that are not what was remembered, and lie outside of `allowed`. */
  changesOutside(allowed: readonly Range[]): bigint[] {
    const found: bigint[] = [];
    this.parts.forEach((part, i) => {
      const now = part.bytes.slice();
      const before = this.#image[i]!;
      for (const { at, len } of allowed) {
        const start = Math.max(0, Number(at - part.gpa));
        const end = Math.min(now.length, Number(at - part.gpa) + len);
        if (end > start) now.set(before.subarray(start, end), start);
      }
      if (equals(now, before)) return;
      for (let at = 0; at < now.length && found.length < 8; at++) {
        if (now[at] !== before[at]) found.push(part.gpa + BigInt(at));
      }
    });
    return found;
  }
}

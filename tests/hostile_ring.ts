/**
 * The driver side of rings, laid out by hand: every field of every descriptor may be anything.
 *
 * @module
 */

import type { GuestMemory, Range } from "./hostile_memory.ts";

export type Format = "split" | "packed";

/** Descriptor flags (virtio 2.7.5, 2.8.1). */
export const flag = { next: 1, write: 2, indirect: 4, avail: 1 << 7, used: 1 << 15 } as const;

/** One descriptor. What is left out is what an honest driver writes. */
export interface Piece {
  readonly at: bigint;
  readonly len: number;
  /** NEXT is added to all but the last of a chain. */
  readonly flags?: number;
  /** Split: where the chain goes on. */
  readonly next?: number;
  /** Packed: the buffer id. */
  readonly id?: number;
}

/** What came back. */
export interface Used {
  readonly id: number;
  readonly len: number;
}

/** Guest addresses of a ring's three areas; packed rings have event areas in the places of the latter two. */
export interface Places {
  readonly desc: bigint;
  readonly avail: bigint;
  readonly used: bigint;
}

/** A chain that lies in its ring, and that the device does not see yet. */
export interface Laid {
  /** What it comes back by. */
  readonly id: number;
  /** Index of its first descriptor. */
  readonly slot: number;
  publish(): void;
}

/** One ring, of either format. */
export interface Ring {
  readonly format: Format;
  readonly size: number;
  readonly places: Places;
  /** For SET_VRING_BASE of a ring that is new. */
  readonly base: number;
  /** Where the device writes that so many chains, in the order of their making, are used. */
  usedRanges(slots: readonly number[]): readonly Range[];
  /** Where the driver says what is available, apart from the descriptors. */
  readonly availRange: Range;
  /** Index of the descriptor that the next chain begins with. */
  readonly cursor: number;
  lay(pieces: readonly Piece[]): Laid;
  /** Makes a chain available, and returns what names it. */
  offer(pieces: readonly Piece[]): number;
  /** What the device gave back next, if it did. */
  used(): Used | undefined;
  /** The 16 bytes of a descriptor. */
  descriptor(index: number): DataView<ArrayBuffer>;
  /** Begins anew, with a ring of zeros. */
  reset(): void;
}

const littleEndian = true;
const usedElementBytes = 8;

/** A word that the device reads or writes at any time. */
function word(memory: GuestMemory, at: bigint): Uint16Array<ArrayBuffer> {
  const view = memory.view(at, 2);
  return new Uint16Array(view.buffer, view.byteOffset, 1);
}

/** Virtio 2.7. */
export class SplitRing implements Ring {
  readonly format = "split";
  readonly base = 0;
  readonly memory: GuestMemory;
  readonly places: Places;
  readonly size: number;
  #cursor = 0;
  #taken = 0;

  constructor(memory: GuestMemory, places: Places, size: number) {
    this.memory = memory;
    this.places = places;
    this.size = size;
    this.reset();
  }

  usedRanges(): readonly Range[] {
    return [{ at: this.places.used, len: 6 + usedElementBytes * this.size }];
  }

  get availRange(): Range {
    return { at: this.places.avail, len: 6 + 2 * this.size };
  }

  get cursor(): number {
    return this.#cursor;
  }

  descriptor(index: number): DataView<ArrayBuffer> {
    return this.memory.view(this.places.desc + 16n * BigInt(index), 16);
  }

  get availIndex(): number {
    return Atomics.load(word(this.memory, this.places.avail + 2n), 0);
  }

  set availIndex(value: number) {
    Atomics.store(word(this.memory, this.places.avail + 2n), 0, value & 0xffff);
  }

  set availFlags(value: number) {
    Atomics.store(word(this.memory, this.places.avail), 0, value);
  }

  /** Behind the avail ring: meant for the device only with EVENT_IDX. */
  set usedEvent(value: number) {
    Atomics.store(word(this.memory, this.places.avail + 4n + 2n * BigInt(this.size)), 0, value);
  }

  get usedIndex(): number {
    return Atomics.load(word(this.memory, this.places.used + 2n), 0);
  }

  /** Writes a head, whatever it is, into a slot of the avail ring. */
  setHead(slot: number, head: number): void {
    this.memory.view(this.places.avail + 4n + 2n * BigInt(slot % this.size), 2).setUint16(0, head, littleEndian);
  }

  lay(pieces: readonly Piece[]): Laid {
    const head = this.#cursor;
    pieces.forEach(({ at, len, flags = 0, next }, i) => {
      const last = i === pieces.length - 1;
      const following = (this.#cursor + 1) % this.size;
      const view = this.descriptor(this.#cursor);
      view.setBigUint64(0, at, littleEndian);
      view.setUint32(8, len, littleEndian);
      view.setUint16(12, flags | (last ? 0 : flag.next), littleEndian);
      view.setUint16(14, next ?? (last ? 0 : following), littleEndian);
      this.#cursor = following;
    });
    return { id: head, slot: head, publish: () => this.publish(head) };
  }

  /** Makes a head available, whatever it is. */
  publish(head: number): void {
    const index = this.availIndex;
    this.setHead(index, head);
    this.availIndex = index + 1;
  }

  offer(pieces: readonly Piece[]): number {
    const { id, publish } = this.lay(pieces);
    publish();
    return id;
  }

  used(): Used | undefined {
    if (this.usedIndex === this.#taken) return undefined;
    const slot = BigInt(this.#taken % this.size);
    const view = this.memory.view(this.places.used + 4n + BigInt(usedElementBytes) * slot, usedElementBytes);
    this.#taken = (this.#taken + 1) & 0xffff;
    return { id: view.getUint32(0, littleEndian), len: view.getUint32(4, littleEndian) };
  }

  reset(): void {
    this.#cursor = 0;
    this.#taken = 0;
    this.memory.write(this.places.desc, new Uint8Array(16 * this.size));
    this.memory.write(this.places.avail, new Uint8Array(6 + 2 * this.size));
    this.memory.write(this.places.used, new Uint8Array(6 + usedElementBytes * this.size));
  }
}

/** Virtio 2.8. */
export class PackedRing implements Ring {
  readonly format = "packed";
  readonly base = 0x8000_8000;
  readonly memory: GuestMemory;
  readonly places: Places;
  readonly size: number;
  #cursor = 0;
  #wrap = true;
  #usedAt = 0;
  #usedWrap = true;
  /** Descriptors of each chain that the device has, by id. */
  readonly #lengths = new Map<number, number>();

  constructor(memory: GuestMemory, places: Places, size: number) {
    this.memory = memory;
    this.places = places;
    this.size = size;
    this.reset();
  }

  usedRanges(slots: readonly number[]): readonly Range[] {
    // Length, id and flags of a chain's first descriptor, and the device's event area.
    const descriptors = slots.map((slot) => ({ at: this.places.desc + 16n * BigInt(slot) + 8n, len: 8 }));
    return [...descriptors, { at: this.places.used, len: 4 }];
  }

  get availRange(): Range {
    return { at: this.places.avail, len: 4 };
  }

  get cursor(): number {
    return this.#cursor;
  }

  descriptor(index: number): DataView<ArrayBuffer> {
    return this.memory.view(this.places.desc + 16n * BigInt(index), 16);
  }

  /** Where the driver says when it wants to be called: offset and wrap counter, then flags. */
  set driverEvent(value: number) {
    this.memory.view(this.places.avail, 4).setUint32(0, value, littleEndian);
  }

  /** The two bits that make a descriptor available in this lap. */
  get availBits(): number {
    return this.#wrap ? flag.avail : flag.used;
  }

  /** Flags are the last that a descriptor gets, and those of the head the last of a chain. */
  setFlags(index: number, flags: number): void {
    Atomics.store(word(this.memory, this.places.desc + 16n * BigInt(index) + 14n), 0, flags);
  }

  lay(pieces: readonly Piece[]): Laid {
    const head = this.#cursor;
    const all = pieces.map(({ at, len, flags = 0, id = head }, i) => {
      const index = this.#cursor;
      const bits = flags | this.availBits | (i < pieces.length - 1 ? flag.next : 0);
      const view = this.descriptor(index);
      view.setBigUint64(0, at, littleEndian);
      view.setUint32(8, len, littleEndian);
      view.setUint16(12, id, littleEndian);
      if (i > 0) this.setFlags(index, bits);
      this.#cursor = (index + 1) % this.size;
      if (this.#cursor === 0) this.#wrap = !this.#wrap;
      return bits;
    });
    const id = pieces.at(-1)?.id ?? head;
    this.#lengths.set(id, pieces.length);
    return { id, slot: head, publish: () => this.setFlags(head, all[0]!) };
  }

  offer(pieces: readonly Piece[]): number {
    const { id, publish } = this.lay(pieces);
    publish();
    return id;
  }

  used(): Used | undefined {
    const flags = Atomics.load(word(this.memory, this.places.desc + 16n * BigInt(this.#usedAt) + 14n), 0);
    const expected = this.#usedWrap ? flag.avail | flag.used : 0;
    if ((flags & (flag.avail | flag.used)) !== expected) return undefined;
    const view = this.descriptor(this.#usedAt);
    const id = view.getUint16(12, littleEndian);
    const count = this.#lengths.get(id);
    if (count === undefined) throw new Error(`the device gave back buffer ${id}, which it does not have`);
    this.#usedAt += count;
    if (this.#usedAt >= this.size) {
      this.#usedAt -= this.size;
      this.#usedWrap = !this.#usedWrap;
    }
    // Without WRITE the length means nothing (virtio 2.8.6).
    return { id, len: (flags & flag.write) === 0 ? 0 : view.getUint32(8, littleEndian) };
  }

  reset(): void {
    this.#cursor = 0;
    this.#usedAt = 0;
    this.#wrap = this.#usedWrap = true;
    this.#lengths.clear();
    this.memory.write(this.places.desc, new Uint8Array(16 * this.size));
    this.memory.write(this.places.avail, new Uint8Array(4));
    this.memory.write(this.places.used, new Uint8Array(4));
  }
}

export function makeRing(format: Format, memory: GuestMemory, places: Places, size: number): Ring {
  return format === "split" ? new SplitRing(memory, places, size) : new PackedRing(memory, places, size);
}

/** The entries of an indirect table; those of a split ring's are linked (virtio 2.7.5.3, 2.8.7). */
export function tableOf(format: Format, pieces: readonly Piece[]): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(16 * pieces.length));
  pieces.forEach(({ at, len, flags = 0, next, id = 0 }, i) => {
    const last = i === pieces.length - 1;
    view.setBigUint64(16 * i, at, littleEndian);
    view.setUint32(16 * i + 8, len, littleEndian);
    const linked = format === "split" && !last ? flag.next : 0;
    const [third, fourth] = format === "split" ? [flags | linked, next ?? (last ? 0 : i + 1)] : [id, flags];
    view.setUint16(16 * i + 12, third, littleEndian);
    view.setUint16(16 * i + 14, fourth, littleEndian);
  });
  return new Uint8Array(view.buffer);
}

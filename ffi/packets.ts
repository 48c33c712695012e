/**
 * Frames in memory of this program's, as a burst carries them.
 *
 * @module
 */
import { limits, structs } from "./abi.gen.ts";

const row = structs.Packet.size / 4;
const headerBytes = 12;
const lineBytes = 64;
const frameBytesMin = 14;

export interface PacketsOptions {
  /** Up to 64; by default 32. */
  capacity?: number;
  /**
   * Whether views are taken away from those who hold them when their packet goes: to write to one then throws, and to
   * read finds nothing. By default they are left, which costs nothing, and shows the bytes of whatever comes next.
   */
  checked?: boolean;
}

/** Bytes of packets, and a row for each, as libvring has them. */
interface Room {
  readonly arena: Uint8Array<ArrayBuffer>;
  readonly rows: Uint32Array<ArrayBuffer>;
}

/**
 * Room for a burst, taken once and used again: `EthDev.rxBurst` fills it, `EthDev.txBurst` takes from its beginning.
 * Packets are numbered from 0, in their order; when some were sent the next one is number 0.
 *
 * All of it is virtual memory of 64 KiB a packet, of which only what packets filled is ever real.
 */
export class Packets {
  /** The most that it holds. */
  readonly capacity: number;
  readonly #checked: boolean;
  #arena: Uint8Array<ArrayBuffer>;
  readonly #rows: Uint32Array<ArrayBuffer>;
  /** Rows of packets that are here: from, to. */
  #first = 0;
  #end = 0;

  /** Throws `RangeError` for a capacity that cannot be. */
  constructor({ capacity = 32, checked = false }: PacketsOptions = {}) {
    if (!Number.isInteger(capacity) || capacity < 1 || capacity > limits.packets_max) {
      throw new RangeError(`Cannot hold so many packets: ${capacity}: give 1 to ${limits.packets_max}`);
    }
    this.capacity = capacity;
    this.#checked = checked;
    this.#arena = new Uint8Array(capacity * limits.packet_room_max);
    this.#rows = new Uint32Array(capacity * row);
  }

  /** Packets that are here. */
  get count(): number {
    return this.#end - this.#first;
  }

  /** A packet's bytes, from the destination address on, where they lie: what is written there is sent. */
  data(index: number): Uint8Array<ArrayBuffer> {
    const at = this.#rowOf(index);
    const offset = this.#rows[at]!;
    return this.#arena.subarray(offset, offset + this.#rows[at + 1]!);
  }

  /**
   * Its virtio-net header (virtio 5.1.6, as VERSION_1 has it), where it lies: what is left to do of checksums and
   * segmentation. All zero, there is nothing. Lengths and positions in it are those of the packet: keep them true.
   */
  header(index: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#rows.buffer, 4 * (this.#rowOf(index) + 2), headerBytes);
  }

  /** In bytes, as `data(index).length`, at no cost. */
  length(index: number): number {
    return this.#rows[this.#rowOf(index) + 1]!;
  }

  /** Cuts a packet off behind its first `bytes` bytes, no fewer than an Ethernet header. */
  trim(index: number, bytes: number): void {
    const at = this.#rowOf(index);
    if (!Number.isInteger(bytes) || bytes < frameBytesMin || bytes > this.#rows[at + 1]!) {
      throw new RangeError(`Cannot trim packet ${index} of ${this.#rows[at + 1]} bytes: ${bytes}`);
    }
    this.#rows[at + 1] = bytes;
  }

  /** Adds a packet behind the others, its header all zero, and returns its bytes, to be written: they may be any. */
  append(bytes: number): Uint8Array<ArrayBuffer> {
    if (!Number.isInteger(bytes) || bytes < frameBytesMin || bytes > limits.packet_room_max - lineBytes) {
      throw new RangeError(`Cannot add a packet of ${bytes} bytes`);
    }
    if (this.#first === this.#end) this.#first = this.#end = 0;
    if (this.#end === this.capacity) throw new RangeError(`Cannot add a packet: there are ${this.capacity} already`);
    const at = this.#end * row;
    const before = this.#end === 0 ? 0 : this.#rows[at - row]! + this.#rows[at - row + 1]!;
    const offset = Math.ceil(before / lineBytes) * lineBytes + headerBytes;
    this.#rows.fill(0, at, at + row);
    this.#rows[at] = offset;
    this.#rows[at + 1] = bytes;
    this.#end++;
    return this.#arena.subarray(offset, offset + bytes);
  }

  /** Drops those packets that `wanted` does not want, by their number. The others keep their order, and move up. */
  keep(wanted: (index: number) => boolean): void {
    let end = this.#first;
    const count = this.count;
    for (let index = 0; index < count; index++) {
      const from = (this.#first + index) * row;
      if (wanted(index)) this.#rows.copyWithin(end++ * row, from, from + row);
    }
    this.#end = end;
    if (this.#checked) this.#revoke();
  }

  /** Drops all packets. */
  free(): void {
    this.#first = this.#end = 0;
    if (this.#checked) this.#revoke();
  }

  /** For ports: drops all packets, and gives the room for others away, until `fill`. */
  empty(): Room {
    this.free();
    return { arena: this.#arena, rows: this.#rows };
  }

  /** For ports: so many were put there. */
  fill(count: number): void {
    this.#end = count;
  }

  /** For ports: where the packets are, rows from the first one on. */
  filled(): Room {
    return { arena: this.#arena, rows: this.#first === 0 ? this.#rows : this.#rows.subarray(this.#first * row) };
  }

  /** For ports: drops the first `count` packets. */
  take(count: number): void {
    this.#first += count;
    if (this.#checked && count > 0) this.#revoke();
  }

  #rowOf(index: number): number {
    const number = this.#first + index;
    if (index >= 0 && number < this.#end) return number * row;
    throw new RangeError(`Cannot use packet ${index}: there are ${this.count}`);
  }

  /** The bytes move to a buffer of another name; views of the old one are empty then. */
  #revoke(): void {
    this.#arena = new Uint8Array(this.#arena.buffer.transfer());
  }
}

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
export interface Room {
  readonly arena: Uint8Array<ArrayBuffer>;
  readonly rows: Uint32Array<ArrayBuffer>;
}

/** What ports do to packets. Not for others: libvring trusts what stands in rows. */
export interface PacketAccess {
  /** Drops all packets, and gives the room for others away, until `fill`. */
  empty(packets: Packets): Room;
  /** So many were put there. */
  fill(packets: Packets, count: number): void;
  /** Where the packets are, rows from the first one on. */
  filled(packets: Packets): Room;
  /** Drops the first `count` packets. */
  take(packets: Packets, count: number): void;
}

export let packetAccess: PacketAccess;

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
  #rows: Uint32Array<ArrayBuffer>;
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
    if (!Number.isInteger(bytes) || bytes < frameBytesMin || bytes > limits.packet_bytes_max) {
      throw new RangeError(`Cannot add a packet of ${bytes} bytes`);
    }
    this.#closeRanks();
    if (this.#end === this.capacity) throw new RangeError(`Cannot add a packet: there are ${this.capacity} already`);
    const at = this.#end * row;
    const before = this.#end === 0 ? 0 : this.#rows[at - row]! + this.#rows[at - row + 1]!;
    const offset = Math.ceil(before / lineBytes) * lineBytes + headerBytes;
    if (offset + bytes > this.#arena.length) throw new RangeError(`Cannot add a packet: the others leave no room`);
    this.#rows.fill(0, at, at + row);
    this.#rows[at] = offset;
    this.#rows[at + 1] = bytes;
    this.#end++;
    return this.#arena.subarray(offset, offset + bytes);
  }

  /** Drops those packets that `wanted` does not want, by their number. The others keep their order, and move up. */
  keep(wanted: (index: number) => boolean): void {
    const rows: number[] = [];
    for (let index = 0; index < this.count; index++) if (wanted(index)) rows.push(this.#first + index);
    rows.forEach((from, to) => this.#rows.copyWithin((this.#first + to) * row, from * row, (from + 1) * row));
    this.#end = this.#first + rows.length;
    if (this.#checked) this.#revoke();
  }

  /** Drops all packets. */
  free(): void {
    this.#first = this.#end = 0;
    if (this.#checked) this.#revoke();
  }

  static {
    packetAccess = {
      empty(packets) {
        packets.#expectWhole();
        packets.free();
        return { arena: packets.#arena, rows: packets.#rows };
      },
      fill(packets, count) {
        packets.#end = count;
      },
      filled(packets) {
        packets.#expectWhole();
        packets.#closeRanks();
        return { arena: packets.#arena, rows: packets.#rows };
      },
      take(packets, count) {
        packets.#first += count;
        if (packets.#checked && count > 0) packets.#revoke();
      },
    };
  }

  /** The first packet's row becomes the first one. */
  #closeRanks(): void {
    if (this.#first === 0) return;
    this.#rows.copyWithin(0, this.#first * row, this.#end * row);
    this.#end -= this.#first;
    this.#first = 0;
  }

  /** Whoever transfers the buffer of a view takes all of it away. */
  #expectWhole(): void {
    if (this.#arena.length > 0 && this.#rows.length > 0) return;
    throw new TypeError("Cannot use packets: their memory was transferred");
  }

  #rowOf(index: number): number {
    const number = this.#first + index;
    if (Number.isInteger(index) && index >= 0 && number < this.#end) return number * row;
    throw new RangeError(`Cannot use packet ${index}: there are ${this.count}`);
  }

  /** All moves to buffers of another name; views of the old ones are empty then. */
  #revoke(): void {
    this.#arena = new Uint8Array(this.#arena.buffer.transfer());
    this.#rows = new Uint32Array(this.#rows.buffer.transfer());
  }
}

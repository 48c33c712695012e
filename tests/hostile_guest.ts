/**
 * A guest with its front end: one receive ring, one send ring, and memory, set up as an honest one's are. Whatever is
 * hostile is done by whoever has it.
 *
 * @module
 */

import { requests } from "../vhost/request.ts";
import { featureSet, hasFeature, protocolFeatureSet } from "../vhost/spec.ts";
import { u64 } from "../vhost/wire.ts";
import { frameOf, headerOf, joined, type NetHeader } from "./hostile_bytes.ts";
import { GuestMemory, makePart, type Part, userAddress } from "./hostile_memory.ts";
import { Peer } from "./hostile_peer.ts";
import { flag, type Format, makeRing, type Places, type Ring, type Used } from "./hostile_ring.ts";
import { patiently } from "./hostile_patience.ts";
import * as system from "./hostile_system.ts";

/** Rings as numbered on the wire; more than these two are not used. */
export const ringNumbers = { receive: 0, send: 1 } as const;

export const ringSize = 256;
const headerBytes = 12;

/** Of the virtio-net header: without both of these its last field is absent (virtio 5.1.6.1). */
export function headerBytesOf(features: bigint): number {
  return hasFeature(features, "VERSION_1") || hasFeature(features, "MRG_RXBUF") ? headerBytes : headerBytes - 2;
}

/** Where things lie in the first region, which begins here. */
export const base = 0x10_0000n;
export const layout = {
  receive: { desc: base, avail: base + 0x2000n, used: base + 0x3000n },
  send: { desc: base + 0x4000n, avail: base + 0x6000n, used: base + 0x7000n },
  tables: base + 0x1_0000n,
  sendBuffers: base + 0x2_0000n,
  receiveBuffers: base + 0x4_0000n,
} as const;

const sendSlots = 64;
const sendSlotBytes = 2048;

/** What an honest guest acknowledges here, rings aside. */
export const commonFeatures = featureSet([
  "VERSION_1",
  "PROTOCOL_FEATURES",
  "MRG_RXBUF",
  "INDIRECT_DESC",
  "CSUM",
  "HOST_TSO4",
  "GUEST_CSUM",
  "GUEST_TSO4",
]);

const protocolFeatures = protocolFeatureSet(["MQ", "REPLY_ACK", "NET_MTU", "CONFIGURE_MEM_SLOTS", "STATUS"]) |
  protocolFeatureSet(["RESET_DEVICE", "BACKEND_REQ", "LOG_SHMFD", "RARP", "INFLIGHT_SHMFD"]);

export interface GuestOptions {
  readonly path: string;
  readonly mac: number;
  readonly format?: Format;
  readonly features?: bigint;
  /** Its first region begins at `base`; it stays whoever's it is. By default one region, as large as buffers need. */
  readonly memory?: GuestMemory;
  readonly buffers?: number;
  readonly bufferBytes?: number;
  /** Descriptors of each ring. */
  readonly size?: number;
}

/** A frame as it arrived, with the header before it. */
export interface Arrival {
  readonly header: Uint8Array<ArrayBuffer>;
  readonly frame: Uint8Array<ArrayBuffer>;
}

/** The eventfds of one ring. */
interface Eventfds {
  readonly kick: number;
  readonly call: number;
  readonly err: number;
}

function makeEventfds(): Eventfds {
  return { kick: system.eventfd(), call: system.eventfd(), err: system.eventfd() };
}

/** Not connected before `connect`. All calls are synchronous. */
export class Guest implements Disposable {
  readonly path: string;
  readonly mac: number;
  readonly memory: GuestMemory;
  readonly receiveRing: Ring;
  readonly sendRing: Ring;
  /** By ring. They stay the same from session to session. */
  readonly eventfds: readonly [Eventfds, Eventfds] = [makeEventfds(), makeEventfds()];
  readonly #ownsMemory: boolean;
  readonly #features: bigint;
  readonly #headerBytes: number;
  readonly #buffers: number;
  readonly #bufferBytes: number;
  /** Where the receive buffers lie that the device has, by what names them. */
  readonly #offered = new Map<number, bigint>();
  #sent = 0;
  /** Frames that the device has. */
  #unsent = 0;
  #sequence = 0;
  #peer: Peer | undefined;

  constructor(options: GuestOptions) {
    const { path, mac, format = "split", features = commonFeatures, size = ringSize } = options;
    this.path = path;
    this.mac = mac;
    this.#features = features | (format === "packed" ? featureSet(["RING_PACKED"]) : 0n);
    this.#headerBytes = headerBytesOf(this.#features);
    this.#buffers = options.buffers ?? 64;
    this.#bufferBytes = options.bufferBytes ?? 2048;
    const bytes = Number(layout.receiveBuffers - base) + this.#buffers * this.#bufferBytes;
    this.#ownsMemory = options.memory === undefined;
    this.memory = options.memory ?? new GuestMemory([makePart(base, bytes)]);
    this.receiveRing = makeRing(format, this.memory, layout.receive, size);
    this.sendRing = makeRing(format, this.memory, layout.send, size);
  }

  get peer(): Peer {
    if (this.#peer === undefined) throw new Error("not connected");
    return this.#peer;
  }

  ring(number: number): Ring {
    return number === ringNumbers.receive ? this.receiveRing : this.sendRing;
  }

  /** Connects and negotiates what belongs to the protocol. */
  connect(): Peer {
    const peer = this.#peer = new Peer(this.path);
    const offered = peer.number("GET_PROTOCOL_FEATURES", null);
    peer.send(requests.SET_PROTOCOL_FEATURES.number, u64.encode(offered & protocolFeatures));
    return peer;
  }

  setFeatures(features = this.#features): void {
    this.peer.tell("SET_FEATURES", features);
  }

  giveMemory(parts: readonly Part[] = this.memory.parts): void {
    for (const part of parts) this.peer.tell("ADD_MEM_REG", part, [part.fd]);
  }

  /** As SET_VRING_ADDR has it. */
  addressOf(number: number, places: Places = this.ring(number).places) {
    const { desc, avail, used } = places;
    const areas = { desc: userAddress(desc), avail: userAddress(avail), used: userAddress(used) };
    return { index: number, flags: 0, ...areas, log: 0n };
  }

  /** Begins a ring anew, in zeroed memory, and enables it. */
  startRing(number: number): void {
    const ring = this.ring(number);
    const { kick, call, err } = this.eventfds[number as 0 | 1];
    ring.reset();
    for (const fd of [kick, call, err]) system.drain(fd);
    if (number === ringNumbers.receive) this.#offered.clear();
    else this.#sent = this.#unsent = 0;
    const { peer } = this;
    peer.tell("SET_VRING_NUM", { index: number, num: ring.size });
    peer.tell("SET_VRING_BASE", { index: number, num: ring.base });
    peer.tell("SET_VRING_ADDR", this.addressOf(number));
    peer.tell("SET_VRING_CALL", BigInt(number), [call]);
    peer.tell("SET_VRING_ERR", BigInt(number), [err]);
    peer.tell("SET_VRING_KICK", BigInt(number), [kick]);
    peer.tell("SET_VRING_ENABLE", { index: number, num: 1 });
  }

  /** Returns the base. */
  stopRing(number: number): number {
    const answer = this.peer.query("GET_VRING_BASE", { index: number, num: 0 });
    return new DataView(answer.buffer).getUint32(4, true);
  }

  /** Everything up to running rings; the receive ring is still empty. */
  start(): void {
    this.connect();
    this.setFeatures();
    this.giveMemory();
    this.startRing(ringNumbers.receive);
    this.startRing(ringNumbers.send);
  }

  kick(number: number): void {
    system.signal(this.eventfds[number as 0 | 1].kick);
  }

  /** Offers every receive buffer. */
  offerBuffers(): void {
    for (let i = 0; i < this.#buffers; i++) this.#offer(layout.receiveBuffers + BigInt(i * this.#bufferBytes));
    this.kick(ringNumbers.receive);
  }

  #offer(at: bigint): void {
    this.#offered.set(this.receiveRing.offer([{ at, len: this.#bufferBytes, flags: flag.write }]), at);
  }

  /** The frames that arrived since the last time, out of buffers that are offered again. */
  arrivals(): Arrival[] {
    const arrivals: Arrival[] = [];
    for (let used = this.#next(); used !== undefined; used = this.#next()) {
      const pieces = [this.#take(used)];
      const count = this.#headerBytes < headerBytes ? 1 : new DataView(pieces[0]!.buffer).getUint16(10, true);
      for (let i = 1; i < count; i++) {
        const next = this.#next();
        if (next === undefined) throw new Error(`${i} of a frame's ${count} buffers came back`);
        pieces.push(this.#take(next));
      }
      const whole = joined(...pieces);
      arrivals.push({ header: whole.slice(0, this.#headerBytes), frame: whole.slice(this.#headerBytes) });
    }
    if (arrivals.length > 0) this.kick(ringNumbers.receive);
    return arrivals;
  }

  #next(): Used | undefined {
    return this.receiveRing.used();
  }

  #take({ id, len }: Used): Uint8Array<ArrayBuffer> {
    const at = this.#offered.get(id);
    if (at === undefined) throw new Error(`buffer ${id} came back, which was not offered`);
    if (len > this.#bufferBytes) throw new Error(`${len} bytes in a buffer of ${this.#bufferBytes}`);
    const bytes = this.memory.read(at, len);
    this.#offered.delete(id);
    this.#offer(at);
    return bytes;
  }

  /** Whether the device gave back everything that was sent. */
  get allSent(): boolean {
    while (this.sendRing.used() !== undefined) this.#unsent--;
    return this.#unsent === 0;
  }

  /** Sends a frame in one piece, once there is room for it: the device is given no more than 64 at a time. */
  send(frame: Uint8Array, header: NetHeader = {}): void {
    patiently("room to send", () => this.allSent || this.#unsent < sendSlots || undefined);
    this.#unsent++;
    const bytes = joined(headerOf(header, this.#headerBytes), frame);
    const slot = bytes.length > sendSlotBytes ? 0 : this.#sent++ % sendSlots;
    const at = layout.sendBuffers + BigInt(slot * sendSlotBytes);
    this.memory.write(at, bytes);
    this.sendRing.offer([{ at, len: bytes.length }]);
    this.kick(ringNumbers.send);
  }

  /** A frame of this guest's, unlike all it made before. */
  frame(to: number, len = 60): Uint8Array<ArrayBuffer> {
    return frameOf({ to, from: this.mac, sequence: this.#sequence++, len });
  }

  disconnect(): void {
    this.#peer?.close();
    this.#peer = undefined;
  }

  /** Also closes what outlives a session. */
  [Symbol.dispose](): void {
    this.disconnect();
    for (const { kick, call, err } of this.eventfds) [kick, call, err].forEach(system.close);
    if (this.#ownsMemory) { for (const { fd } of this.memory.parts) system.close(fd); }
  }
}

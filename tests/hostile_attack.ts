/**
 * Cases of hostile guests: what is laid out in a ring, and what must come of it.
 *
 * A chain with bytes of its own, its *buffer*, is filled with a frame of that length when it is to be sent, and must
 * hold the frame that came when it is to be received into. Nothing else in the guest's memory may change but what the
 * ring's format gives to the device.
 *
 * @module
 */

import assert from "node:assert/strict";
import { equals, headerOf, joined, type NetHeader } from "./hostile_bytes.ts";
import type { Case } from "./hostile_case.ts";
import { commonFeatures, type Guest, headerBytesOf, layout, ringNumbers } from "./hostile_guest.ts";
import type { Range } from "./hostile_memory.ts";
import { flag, type Format, type Laid, type Piece, type Ring, tableOf, type Used } from "./hostile_ring.ts";
import * as system from "./hostile_system.ts";
import { patiently } from "./hostile_patience.ts";
import { gone, macs, type Outcome, regions, type Told, type World } from "./hostile_world.ts";

export type Direction = "send" | "receive";

/** Where there is room: in the first region, in the second, which begins where that ends, and in the third. */
export const room = {
  first: layout.sendBuffers,
  more: layout.receiveBuffers + 0x2_0000n,
  second: regions.second,
  end: regions.end,
  far: regions.far,
} as const;

/** No memory is there. */
export const hole = regions.end + 0x1000n;

/** A frame of 60 bytes behind a header of 12. */
export const usualBytes = 72;

export interface Chain extends Laid {
  readonly buffer: readonly Range[];
  /** What the device sees, where that is not the buffer. */
  readonly content: readonly Range[];
}

export interface TableOptions {
  readonly at?: bigint;
  /** What its descriptor says. */
  readonly len?: number;
  readonly flags?: number;
  /** Descriptors before the one of the table, and behind it. */
  readonly before?: readonly Piece[];
  readonly behind?: readonly Piece[];
  /** By default what the descriptors and the entries say. */
  readonly buffer?: readonly Range[];
}

function bytesIn(ranges: readonly Range[]): number {
  return ranges.reduce((sum, { len }) => sum + len, 0);
}

/** Lays chains into one ring of a guest. */
export class Attack {
  readonly guest: Guest;
  readonly direction: Direction;
  readonly chains: Chain[] = [];
  #tables = layout.tables;

  constructor(guest: Guest, direction: Direction) {
    this.guest = guest;
    this.direction = direction;
  }

  get number(): number {
    return ringNumbers[this.direction];
  }

  get ring(): Ring {
    return this.guest.ring(this.number);
  }

  get format(): Format {
    return this.ring.format;
  }

  /** A descriptor as it must be for this direction, and more flags. */
  piece(at: bigint, len: number, flags = 0): Piece {
    return { at, len, flags: flags | (this.direction === "receive" ? flag.write : 0) };
  }

  /** Descriptors of these lengths, one behind the other. */
  row(at: bigint, lengths: readonly number[]): Piece[] {
    let next = at;
    return lengths.map((len) => {
      const piece = this.piece(next, len);
      next += BigInt(len);
      return piece;
    });
  }

  /** @param buffer By default what the descriptors say. */
  chain(pieces: readonly Piece[], buffer: readonly Range[] = pieces, content = buffer): Chain {
    const chain = { ...this.ring.lay(pieces), buffer, content };
    this.chains.push(chain);
    return chain;
  }

  /** A chain by way of an indirect table; entries that lie in no memory are not written. */
  table(entries: readonly Piece[], options: TableOptions = {}): Chain {
    const { at = this.#tables, len = 16 * entries.length, flags = flag.indirect } = options;
    const { before = [], behind = [], buffer = [...before, ...entries, ...behind] } = options;
    const bytes = tableOf(this.format, entries);
    if (options.at === undefined) this.#tables += BigInt(bytes.length);
    for (let i = 0; i < bytes.length; i += 16) {
      const place = at + BigInt(i);
      if (this.guest.memory.holds(place, 16)) this.guest.memory.write(place, bytes.subarray(i, i + 16));
    }
    return this.chain([...before, { at, len, flags }, ...behind], buffer);
  }

  publish(): void {
    for (const chain of this.chains) chain.publish();
  }

  /** Writes into a chain's buffer, from its beginning. */
  write({ buffer }: Chain, bytes: Uint8Array): void {
    let done = 0;
    for (const { at, len } of buffer) {
      if (len === 0) continue;
      this.guest.memory.write(at, bytes.subarray(done, done + len));
      done += len;
    }
  }

  /** The first bytes of a chain, as the device sees it. */
  read({ content }: Chain, count: number): Uint8Array<ArrayBuffer> {
    return joined(...firstOf(content, count).map(({ at, len }) => this.guest.memory.read(at, len)));
  }
}

/** The ranges of the first bytes. */
export function firstOf(ranges: readonly Range[], count: number): Range[] {
  const first: Range[] = [];
  for (const { at, len } of ranges) {
    const taken = Math.min(len, count);
    if (taken > 0) first.push({ at, len: taken });
    count -= taken;
  }
  return first;
}

export type Verdict =
  /** Every frame arrives, intact, with the header `arrives`. */
  | { readonly verdict: "passes" }
  /** Every frame is dropped, and counted so; `returned` chains come back, by default all, with length 0. */
  | { readonly verdict: "dropped"; readonly counted: string; readonly returned?: number }
  /** The ring is broken so, after some chains that pass. */
  | { readonly verdict: "breaks"; readonly why: string; readonly after?: number }
  /** Nothing is there, as far as the device is concerned. */
  | { readonly verdict: "waits" };

export interface GuestCase {
  readonly name: string;
  readonly direction: Direction;
  readonly formats?: readonly Format[];
  readonly features?: bigint;
  readonly lay: (attack: Attack) => void;
  /** In place of making each chain available. */
  readonly publish?: (attack: Attack) => void;
  /** What the sender writes: the hostile guest, or the friend. */
  readonly header?: NetHeader;
  /** What the receiver sees, but for the number of buffers. */
  readonly arrives?: NetHeader;
  /** Of what the friend sends, what the receiver gets; by default the same. */
  readonly becomes?: (frame: Uint8Array) => Uint8Array;
  /** Of what the friend sends, without header. */
  readonly lengths?: readonly number[];
  readonly verdict: Verdict;
}

const friendBufferBytes = 4096;

/** One case as it runs. */
class Run {
  readonly #world: World;
  readonly #case: GuestCase;
  readonly #guest: Guest;
  readonly #attack: Attack;
  readonly #headerBytes: number;
  #told: Told[] = [];
  #drops: Record<string, number> = {};

  constructor(world: World, guest: Guest, what: GuestCase) {
    this.#world = world;
    this.#guest = guest;
    this.#case = what;
    this.#attack = new Attack(guest, what.direction);
    this.#headerBytes = headerBytesOf(what.features ?? commonFeatures);
  }

  async run(): Promise<Outcome> {
    this.#begin();
    this.#case.lay(this.#attack);
    if (this.#case.direction === "send") await this.#send();
    else await this.#receive();
    this.#restart();
    this.#world.greet(this.#guest);
    const told = [...this.#told, gone];
    // Drops of cases that expect none show in the next that does, or at the end.
    return Object.keys(this.#drops).length === 0 ? { told } : { told, drops: this.#drops };
  }

  /** Both know each other's address, and the rings are as new. */
  #begin(): void {
    const guest = this.#guest;
    guest.start();
    guest.offerBuffers();
    this.#world.greet(guest);
    for (const ring of Object.values(ringNumbers)) guest.stopRing(ring);
    for (const ring of Object.values(ringNumbers)) guest.startRing(ring);
    if (this.#case.direction === "send") guest.offerBuffers();
  }

  #restart(): void {
    this.#guest.stopRing(this.#attack.number);
    this.#guest.startRing(this.#attack.number);
    if (this.#case.direction === "receive") this.#guest.offerBuffers();
  }

  /** Shows the device what was laid out. Returns a look at whether only `allowed` has changed since. */
  #show(): (allowed: readonly Range[]) => void {
    const { memory } = this.#guest;
    const { availRange } = this.#attack.ring;
    const waits = this.#case.verdict.verdict === "waits";
    memory.remember();
    if (this.#case.publish === undefined) this.#attack.publish();
    else this.#case.publish(this.#attack);
    // What nobody takes does not change any more.
    if (waits) memory.remember();
    const available = memory.read(availRange.at, availRange.len);
    this.#guest.kick(this.#attack.number);
    return (allowed) => {
      const slots = waits ? [] : this.#attack.chains.map(({ slot }) => slot);
      // In the other ring the device says whether it wants kicks.
      const idle = this.#guest.ring(1 - this.#attack.number).usedRanges([]);
      const ranges = [...allowed, ...this.#attack.ring.usedRanges(slots), ...idle, availRange];
      assert.deepEqual(memory.changesOutside(ranges), [], "what was not offered for writing is not written");
      assert.ok(equals(memory.read(availRange.at, availRange.len), available), "what is the driver's stays as it is");
    };
  }

  #expectUsed(expected: readonly Used[]): void {
    const used = expected.map((_, i) => patiently(`buffer ${i} of ${expected.length}`, () => this.#attack.ring.used()));
    assert.deepEqual(used, expected, "what comes back");
    assert.equal(this.#attack.ring.used(), undefined, "nothing more comes back");
  }

  #dropped(count: number, reason: string): void {
    const direction = this.#case.direction === "send" ? "from_guest" : "to_guest";
    if (count > 0) this.#drops[`hostile ${direction} ${reason}`] = count;
  }

  async #send(): Promise<void> {
    const { chains } = this.#attack;
    const { header = {}, verdict } = this.#case;
    // Behind addresses that must not be followed there would be something to send.
    const tempting = joined(headerOf(header), this.#guest.frame(macs.friend));
    for (const at of [room.first, room.more, room.far]) this.#guest.memory.write(at, tempting);
    const frames = chains.map((chain) => {
      const frame = this.#guest.frame(macs.friend, Math.max(0, bytesIn(chain.buffer) - this.#headerBytes));
      this.#attack.write(chain, joined(headerOf(header, this.#headerBytes), frame));
      return this.#attack.read(chain, bytesIn(chain.content)).slice(this.#headerBytes);
    });
    const check = this.#show();
    const passing = verdict.verdict === "passes"
      ? chains.length
      : verdict.verdict === "breaks"
      ? verdict.after ?? 0
      : 0;
    for (const frame of frames.slice(0, passing)) this.#expectAtFriend(frame);
    if (verdict.verdict === "waits") {
      this.#wait();
      return check([]);
    }
    if (verdict.verdict === "breaks") await this.#expectBroken(verdict.why);
    const returned = verdict.verdict === "dropped" ? verdict.returned ?? chains.length : passing;
    this.#expectUsed(chains.slice(0, returned).map(({ id }) => ({ id, len: 0 })));
    if (verdict.verdict === "dropped") this.#dropped(chains.length, verdict.counted);
    check([]);
    if (verdict.verdict === "breaks") this.#otherRing();
  }

  #expectAtFriend(frame: Uint8Array): void {
    const arrival = this.#world.nextAtFriend();
    assert.ok(equals(arrival.frame, frame), `a frame of ${frame.length} bytes arrives intact`);
    const buffers = Math.ceil((frame.length + arrival.header.length) / friendBufferBytes);
    assert.deepEqual(arrival.header, headerOf({ ...this.#case.arrives, buffers }), "its header");
  }

  async #receive(): Promise<void> {
    const { lengths = [60], header, verdict } = this.#case;
    const { friend } = this.#world;
    const check = this.#show();
    const frames = lengths.map((length) => friend.frame(this.#guest.mac, length));
    for (const frame of frames) {
      friend.send(frame, header);
      patiently("what the friend sends is taken", () => friend.allSent || undefined);
    }
    switch (verdict.verdict) {
      case "passes":
        return this.#expectReceived(frames, check);
      case "dropped": {
        const returned = verdict.returned ?? this.#attack.chains.length;
        this.#expectUsed(this.#attack.chains.slice(0, returned).map(({ id }) => ({ id, len: 0 })));
        this.#dropped(frames.length, verdict.counted);
        return check([]);
      }
      case "breaks": {
        const passing = verdict.after ?? 0;
        this.#expectReceived(frames.slice(0, passing), check);
        await this.#expectBroken(verdict.why);
        this.#dropped(frames.length - passing, "link_down");
        return this.#otherRing();
      }
      case "waits":
        this.#dropped(frames.length, "no_buffer");
        return check([]);
    }
  }

  /** Frames fill one chain after the other, each of them as far as it goes (virtio 5.1.6.4). */
  #expectReceived(frames: readonly Uint8Array[], check: (allowed: readonly Range[]) => void): void {
    const left = [...this.#attack.chains];
    const used: Used[] = [];
    const written: Range[] = [];
    const contents = frames.map((frame) => {
      const need = this.#headerBytes + frame.length;
      const pieces: Uint8Array[] = [];
      for (let total = 0; total < need;) {
        const chain = left.shift()!;
        const len = Math.min(need - total, bytesIn(chain.buffer));
        used.push({ id: chain.id, len });
        written.push(...firstOf(chain.buffer, len));
        pieces.push(this.#attack.read(chain, len));
        total += len;
      }
      return { pieces, frame };
    });
    this.#expectUsed(used);
    for (const { pieces, frame } of contents) {
      const header = headerOf({ ...this.#case.arrives, buffers: pieces.length }, this.#headerBytes);
      const expected = this.#case.becomes?.(frame) ?? frame;
      assert.ok(equals(joined(...pieces), joined(header, expected)), `${frame.length} bytes arrive intact`);
    }
    check(written);
  }

  /** Long enough for the device to look at the ring again and again. */
  #wait(): void {
    const { friend } = this.#world;
    for (let i = 0; i < 10; i++) {
      friend.send(friend.frame(macs.first));
      patiently("what the friend sends is taken", () => friend.allSent || undefined);
    }
    assert.deepEqual(friend.arrivals(), []);
  }

  async #expectBroken(why: string): Promise<void> {
    const { ring, reason } = await this.#world.event("ring_broken");
    assert.deepEqual({ ring, reason }, { ring: this.#attack.number, reason: why });
    const { err } = this.#guest.eventfds[this.#attack.number as 0 | 1];
    patiently("the error eventfd's signal", () => system.drain(err) > 0n || undefined);
    this.#told.push(["ring_broken", new RegExp(`^${why}$`)]);
  }

  /** Only the one that was attacked is broken. */
  #otherRing(): void {
    if (this.#case.direction === "send") return this.#fromFriend();
    const frame = this.#guest.frame(macs.friend);
    this.#guest.send(frame);
    assert.ok(equals(this.#world.nextAtFriend().frame, frame));
  }

  #fromFriend(): void {
    const frame = this.#world.friend.frame(this.#guest.mac);
    this.#world.friend.send(frame);
    assert.ok(equals(patiently("a frame from the friend", () => this.#guest.arrivals()[0]).frame, frame));
  }
}

const both: readonly Format[] = ["split", "packed"];

function nameOf({ verdict: what }: GuestCase): string {
  switch (what.verdict) {
    case "passes":
      return "passes";
    case "dropped":
      return `dropped, counted as ${what.counted}`;
    case "breaks":
      return `the ring is broken by ${what.why}`;
    case "waits":
      return "nothing is taken";
  }
}

/** A case for each ring format. */
export function attackCases(what: GuestCase): Case[] {
  return (what.formats ?? both).map((format) => ({
    name: `${format} ${what.direction} ring, ${what.name}: ${nameOf(what)}`,
    run: async (world) => {
      using guest = world.hostileGuest({ format, features: what.features ?? commonFeatures });
      return await new Run(world, guest, what).run();
    },
  }));
}

/**
 * Guests that change what they offered while it is looked at: a word is one thing when it is checked and another when
 * it is used. Whatever comes of it, nothing is written where nothing was offered, nothing arrives that could not have
 * been sent, and nobody else notices.
 *
 * @module
 */

import assert from "node:assert/strict";
import { featureSet } from "../vhost/spec.ts";
import { type Direction, hole, room } from "./hostile_attack.ts";
import { headerOf, joined } from "./hostile_bytes.ts";
import type { Case } from "./hostile_case.ts";
import type { Values } from "./hostile_flips.ts";
import { type Arrival, commonFeatures, type Guest, layout, ringNumbers } from "./hostile_guest.ts";
import type { Range } from "./hostile_memory.ts";
import { nap, patiently } from "./hostile_patience.ts";
import { flag, type Format, PackedRing, type Piece, SplitRing, tableOf } from "./hostile_ring.ts";
import * as system from "./hostile_system.ts";
import { gone, macs, type Outcome, type World } from "./hostile_world.ts";

const rounds = 150;
/** A chain is offered so often at once: a word must change within nanoseconds to be read differently. */
const copiesMax = 32;
/** A round is over after so many naps, whatever became of it. */
const roundNaps = 20;
const restartsMax = 5;

interface Race {
  readonly name: string;
  readonly directions?: readonly Direction[];
  readonly formats?: readonly Format[];
  readonly features?: bigint;
  /** The chain that is offered again and again. */
  readonly pieces: (mark: number, format: Format) => readonly Piece[];
  /** The table at `layout.tables`, if there is one. */
  readonly entries?: (mark: number) => readonly Piece[];
  /** What changes: an offset into the chain's first descriptor, or an address. */
  readonly field: number | bigint;
  readonly values: (mark: number) => Values;
  /** Where buffers may be, whatever the word is. */
  readonly offered: readonly Range[];
  /** Lengths that a frame may have. */
  readonly lengths?: readonly number[];
}

/** Offers one chain in one place, again and again. */
class Contest {
  readonly #guest: Guest;
  readonly #direction: Direction;
  readonly #pieces: readonly Piece[];
  readonly #copies: number;
  #wrap = true;
  #restarts = 0;

  constructor(guest: Guest, direction: Direction, pieces: readonly Piece[], copies: number) {
    this.#guest = guest;
    this.#direction = direction;
    this.#pieces = pieces;
    this.#copies = copies;
  }

  get ring(): SplitRing | PackedRing {
    return this.#guest.ring(ringNumbers[this.#direction]) as SplitRing | PackedRing;
  }

  /** Lays the chain into the ring; a packed one is full of it, so that the next round is in the same places. */
  lay(): void {
    this.#wrap = true;
    const { ring } = this;
    for (let i = 0; i < (ring instanceof SplitRing ? 1 : this.#copies); i++) ring.lay(this.#pieces);
  }

  offer(): void {
    const { ring } = this;
    for (let i = 0; i < this.#copies; i++) {
      if (ring instanceof SplitRing) ring.publish(0);
      else this.#offerPacked(ring, i);
    }
    if (ring instanceof PackedRing) this.#wrap = !this.#wrap;
    this.#guest.kick(ringNumbers[this.#direction]);
  }

  /** The device overwrote length, id and flags of the first descriptor; the lap may be the other one. */
  #offerPacked(ring: PackedRing, copy: number): void {
    const bits = this.#wrap ? flag.avail : flag.used;
    const head = copy * this.#pieces.length;
    const last = this.#pieces.length - 1;
    this.#pieces.forEach(({ len, flags = 0 }, i) => {
      const view = ring.descriptor(head + i);
      view.setUint32(8, len, true);
      view.setUint16(12, copy, true);
      if (i > 0) ring.setFlags(head + i, flags | bits | (i < last ? flag.next : 0));
    });
    ring.setFlags(head, this.#pieces[0]!.flags! | bits | (last > 0 ? flag.next : 0));
  }

  /** Whether the device gave everything back. */
  get isBack(): boolean {
    const { ring } = this;
    if (ring instanceof SplitRing) return ring.usedIndex === ring.availIndex;
    const lastHead = (this.#copies - 1) * this.#pieces.length;
    const bits = ring.descriptor(lastHead).getUint16(14, true) & (flag.avail | flag.used);
    return bits === (this.#wrap ? 0 : flag.avail | flag.used);
  }

  /** A ring that broke is started again, a few times. False: it rests. */
  mend(): boolean {
    const number = ringNumbers[this.#direction];
    if (system.drain(this.#guest.eventfds[number].err) === 0n) return true;
    if (this.#restarts++ === restartsMax) return false;
    this.#guest.stopRing(number);
    this.#guest.startRing(number);
    this.lay();
    return true;
  }
}

/** A header that no receiver could be harmed by. */
function assertSane({ header, frame }: Arrival, lengths: readonly number[]): void {
  assert.ok(lengths.includes(frame.length), `a frame of ${frame.length} bytes arrives`);
  const view = new DataView(header.buffer);
  if ((view.getUint8(0) & 1) !== 0) {
    assert.ok(view.getUint16(6, true) + view.getUint16(8, true) + 2 <= frame.length, "a checksum in the frame");
  }
  if (view.getUint8(1) !== 0) assert.notEqual(view.getUint16(4, true), 0, "segments of some size");
}

/** In a packed ring a word of a descriptor is that of one copy alone. */
function copiesOf({ field }: Race, format: Format): number {
  return format === "packed" && typeof field === "number" ? 1 : copiesMax;
}

async function contend(world: World, guest: Guest, direction: Direction, race: Race): Promise<Outcome> {
  const copies = copiesOf(race, guest.sendRing.format);
  const mark = direction === "receive" ? flag.write : 0;
  const { memory } = guest;
  const pieces = race.pieces(mark, guest.sendRing.format);
  const contest = new Contest(guest, direction, pieces, copies);
  // What is sent goes to the friend, wherever it begins.
  const packet = joined(headerOf(), guest.frame(macs.friend, 60));
  for (const { at, len } of direction === "send" ? race.offered : []) memory.write(at, packet.subarray(0, len));
  if (race.entries !== undefined) memory.write(layout.tables, tableOf(guest.sendRing.format, race.entries(mark)));
  contest.lay();
  memory.remember();
  const at = typeof race.field === "bigint" ? race.field : contest.ring.places.desc + BigInt(race.field);
  {
    using _flips = world.flipper.start(memory, at, race.values(mark));
    for (let i = 0; i < rounds && contest.mend(); i++) {
      if (i === 0 || contest.isBack) contest.offer();
      for (let k = 0; k < copies && direction === "receive"; k++) world.friend.send(world.friend.frame(guest.mac, 60));
      for (let naps = 0; naps < roundNaps && !contest.isBack; naps++) nap();
      for (const arrival of world.friend.arrivals()) assertSane(arrival, race.lengths ?? [60]);
      if (i % 10 === 0) await world.breathe();
    }
  }
  patiently("what the friend sends is taken", () => world.friend.allSent || undefined);
  checkMemory(guest, direction, [...direction === "receive" ? race.offered : [], { at, len: 8 }]);
  return { told: [gone], anyDrops: true, mayBreak: /^bad_(avail_index|head|packed_id)$/ };
}

/** The rings are the hostile one's and the device's; all else must be as it was. */
function checkMemory(guest: Guest, direction: Direction, allowed: readonly Range[]): void {
  const { desc, used } = guest.ring(ringNumbers[direction]).places;
  const rings: Range[] = [{ at: desc, len: Number(used - desc) + 0x1000 }];
  const other = guest.ring(1 - ringNumbers[direction]).usedRanges([]);
  assert.deepEqual(guest.memory.changesOutside([...allowed, ...rings, ...other]), [], "what was not offered stays");
}

function raceCases(race: Race): Case[] {
  return (race.directions ?? ["send", "receive"]).flatMap((direction) =>
    (race.formats ?? ["split", "packed"]).map((format): Case => ({
      name: `${format} ${direction} ring, ${race.name} changes while it is read: nobody else notices`,
      run: async (world) => {
        const mark = direction === "receive" ? flag.write : 0;
        const size = format === "packed" ? race.pieces(mark, format).length * copiesOf(race, format) : 256;
        const options = { format, size, buffers: Math.min(64, size), features: race.features ?? commonFeatures };
        using guest = world.hostileGuest(options);
        guest.start();
        guest.offerBuffers();
        world.greet(guest);
        for (const ring of Object.values(ringNumbers)) guest.stopRing(ring);
        for (const ring of Object.values(ringNumbers)) guest.startRing(ring);
        const outcome = await contend(world, guest, direction, race);
        for (const ring of Object.values(ringNumbers)) guest.stopRing(ring);
        for (const ring of Object.values(ringNumbers)) guest.startRing(ring);
        guest.offerBuffers();
        world.reach(guest);
        world.greet(guest);
        return outcome;
      },
    }))
  );
}

const withoutMerging = commonFeatures & ~featureSet(["MRG_RXBUF"]);
const one = (mark: number): Piece[] => [{ at: room.first, len: 72, flags: mark }];
const two = (mark: number): Piece[] => [
  { at: room.first, len: 12, flags: mark },
  { at: room.first + 12n, len: 60, flags: mark },
];
const table = (count: number) => (): Piece[] => [{ at: layout.tables, len: 16 * count, flags: flag.indirect }];
const usual: readonly Range[] = [{ at: room.first, len: 72 }];
const word = (width: Values["width"], ...value: bigint[]) => (): Values => ({ width, value });
/** Flags that are right, and wrong. */
const flags = (wrong: number) => (mark: number): Values => ({ width: 2, value: [BigInt(mark), BigInt(wrong)] });

/** Of frames whose chain goes back to the header any number of times before it goes on. */
const headerAgain = Array.from({ length: 256 }, (_, i) => 60 + 12 * i);

const field = { address: 0, length: 8, flags: 12, next: 14, id: 12 } as const;
/** Of the table's second entry. */
const second = (at: number): bigint => layout.tables + 16n + BigInt(at);
const lastBytes: Range = { at: room.end - 20n, len: 20 };

const descriptorRaces: readonly Race[] = [
  { name: "a length: 72 or 0", values: word(4, 72n, 0n), field: field.length, pieces: one, offered: usual },
  {
    name: "a length: 72 or 4 GiB",
    values: word(4, 72n, 0xffff_ffffn),
    field: field.length,
    pieces: one,
    offered: usual,
  },
  {
    name: "a length: 72 or one less, without merging",
    features: withoutMerging,
    values: word(4, 72n, 71n),
    field: field.length,
    pieces: one,
    offered: usual,
    lengths: [59, 60],
  },
  {
    name: "an address: good or in a hole",
    values: word(8, room.first, hole),
    field: field.address,
    pieces: one,
    offered: usual,
  },
  {
    name: "an address: good or too near to the end",
    values: word(8, room.first, room.end - 20n),
    field: field.address,
    pieces: one,
    offered: [...usual, lastBytes],
  },
  {
    name: "an address: here or there, in two regions",
    values: word(8, room.first, room.far),
    field: field.address,
    pieces: one,
    offered: [...usual, { at: room.far, len: 72 }],
  },
].map((race) => ({ ...race, field: race.field as number }));

const splitRaces: readonly Race[] = [
  {
    name: "a direction",
    formats: ["split"],
    values: (mark) => ({ width: 2, value: [BigInt(mark), BigInt(mark ^ flag.write)] }),
    field: field.flags,
    pieces: one,
    offered: usual,
  },
  {
    name: "direct or indirect",
    formats: ["split"],
    values: flags(flag.indirect),
    field: field.flags,
    pieces: one,
    offered: usual,
  },
  {
    name: "where a chain goes on: in the ring or outside",
    formats: ["split"],
    values: word(2, 1n, 0xffffn),
    field: field.next,
    pieces: two,
    offered: usual,
  },
  {
    name: "where a chain goes on: further or back",
    formats: ["split"],
    values: word(2, 1n, 0n),
    field: field.next,
    pieces: two,
    offered: usual,
    lengths: headerAgain,
  },
];

/** Words of the avail ring, whose every second value breaks the ring. */
const indexRaces: readonly Race[] = (["send", "receive"] as const).flatMap((direction): Race[] => [
  {
    name: "an avail index",
    directions: [direction],
    formats: ["split"],
    values: word(2, 1n, 0x200n),
    field: layout[direction].avail + 2n,
    pieces: one,
    offered: usual,
  },
  {
    name: "a head",
    directions: [direction],
    formats: ["split"],
    values: word(2, 0n, 0xffffn),
    field: layout[direction].avail + 4n,
    pieces: one,
    offered: usual,
  },
  {
    name: "a buffer id",
    directions: [direction],
    formats: ["packed"],
    values: word(2, 0n, 0xffffn),
    field: field.id,
    pieces: one,
    offered: usual,
  },
  {
    // Every value offers the chain in one lap or the other, or is none: the ring runs by itself.
    name: "wrap bits and directions",
    directions: [direction],
    formats: ["packed"],
    values: (mark) => ({
      width: 2,
      value: [flag.avail, flag.used, flag.avail | flag.write, flag.used | flag.write, 0, flag.avail | flag.next]
        .map((bits) => BigInt(bits | (direction === "receive" ? mark : 0))),
    }),
    field: field.next,
    pieces: one,
    offered: usual,
  },
]);

const tableRaces: readonly Race[] = [
  { name: "the length of a table", values: word(4, 32n, 17n), field: field.length },
  {
    name: "the length of a table: two entries or one",
    values: word(4, 32n, 16n),
    field: field.length,
    lengths: [60, 0],
  },
  { name: "the address of a table", values: word(8, layout.tables, room.end - 16n), field: field.address },
  { name: "an entry's length", values: word(4, 60n, 0xffff_ffffn), field: second(8) },
  { name: "an entry's length: 60 or 50", values: word(4, 60n, 50n), field: second(8), lengths: [50, 60] },
  { name: "an entry's address", values: word(8, room.first + 12n, hole), field: second(0) },
].map((race) => ({ ...race, pieces: table(2), entries: two, offered: usual }));

const linkRaces: readonly Race[] = [
  { name: "an entry's link", values: word(2, 1n, 7n), field: layout.tables + 14n },
  {
    name: "an entry's link: further or back",
    values: word(2, 1n, 0n),
    field: layout.tables + 14n,
    lengths: headerAgain,
  },
  { name: "an entry's flags", values: flags(flag.indirect), field: second(12) },
].map((race) => ({ ...race, formats: ["split"], pieces: table(2), entries: two, offered: usual }));

/** A header's words: flags, type, hdr_len, gso_size; then the checksum's place. */
const headerRaces: readonly Race[] = [one, two].flatMap((pieces, i): Race[] => {
  const way = i === 0 ? "in one piece" : "in pieces";
  const common = { directions: ["send"] as const, pieces, offered: usual };
  return [
    {
      ...common,
      name: `a checksum's place, ${way},`,
      values: word(8, 0x0022_0000_0000_0001n, 0xffff_0000_0000_0001n, 0x003b_0000_0000_0001n),
      field: room.first,
    },
    {
      ...common,
      name: `the size of segments, ${way},`,
      values: word(8, 0x0022_05a8_0036_0101n, 0x0022_0000_0036_0101n, 0x0022_0000_0036_0001n),
      field: room.first,
    },
    {
      ...common,
      name: `where a checksum is put, ${way},`,
      values: word(2, 16n, 0xffffn),
      field: room.first + 8n,
    },
  ];
});

export const racingCases: readonly Case[] = [
  ...descriptorRaces,
  ...splitRaces,
  ...indexRaces,
  ...tableRaces,
  ...linkRaces,
  ...headerRaces,
].flatMap(raceCases);

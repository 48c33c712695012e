/**
 * Descriptor chains of every legal and every illegal kind, the same for both directions.
 *
 * @module
 */

import { featureSet } from "../vhost/spec.ts";
import {
  type Attack,
  attackCases,
  type Direction,
  hole,
  room,
  type TableOptions,
  usualBytes,
} from "./hostile_attack.ts";
import type { Case } from "./hostile_case.ts";
import { commonFeatures, layout, ringSize } from "./hostile_guest.ts";
import { flag, type Format, type Piece } from "./hostile_ring.ts";

/** `usualBytes` somehow, or something that cannot be. */
interface Shape {
  readonly name: string;
  readonly lay: (attack: Attack) => void;
  readonly formats?: readonly Format[];
  readonly features?: bigint;
}

const ones = (count: number): number[] => Array.from({ length: count }, () => 1);

/** One for each of eight pieces. */
const places = [0n, 1n, 2n, 3n].flatMap((i) => [room.first + 100n * i, room.second + 333n * i]);

const directShapes: readonly Shape[] = [
  { name: "one descriptor", lay: (a) => a.chain(a.row(room.first, [72])) },
  { name: "header and frame apart", lay: (a) => a.chain(a.row(room.first, [12, 60])) },
  { name: "header over three buffers", lay: (a) => a.chain(a.row(room.first, [5, 4, 3, 60])) },
  { name: "header over three buffers, the last with frame", lay: (a) => a.chain(a.row(room.first, [5, 6, 61])) },
  { name: "header byte by byte", lay: (a) => a.chain(a.row(room.first, [...ones(12), 60])) },
  { name: "everything byte by byte", lay: (a) => a.chain(a.row(room.first, ones(72))) },
  { name: "header and half the frame's addresses first", lay: (a) => a.chain(a.row(room.first, [15, 3, 1, 53])) },
  { name: "pieces in all places", lay: (a) => a.chain(places.map((at) => a.piece(at, 9))) },
  {
    name: "empty buffers between, wherever they are",
    lay: (a) =>
      a.chain([
        a.piece(hole, 0),
        ...a.row(room.first, [12]),
        a.piece(0n, 0),
        a.piece(0xffff_ffff_ffff_ffffn, 0),
        ...a.row(room.more, [60]),
        a.piece(room.end, 0),
      ]),
  },
  {
    name: "256 descriptors",
    lay: (a) => a.chain(a.row(room.first, [...ones(71), 1, ...Array.from({ length: ringSize - 72 }, () => 0)])),
  },
  { name: "over two regions side by side", lay: (a) => a.chain(a.row(room.second - 30n, [72])) },
  { name: "header over two regions side by side", lay: (a) => a.chain(a.row(room.second - 6n, [12, 60])) },
  { name: "header in one region, frame in the next", lay: (a) => a.chain(a.row(room.second - 12n, [72])) },
  { name: "the last bytes before a hole", lay: (a) => a.chain(a.row(room.end - 72n, [72])) },
  { name: "the first bytes behind a hole", lay: (a) => a.chain(a.row(room.far, [72])) },
  { name: "odd addresses", lay: (a) => a.chain([a.piece(room.first + 1n, 13), a.piece(room.more + 7n, 59)]) },
  {
    name: "64 chains at once",
    lay: (a) => {
      for (let i = 0n; i < 64n; i++) a.chain(a.row(room.first + 128n * i, [12, 60]));
    },
  },
];

const tableShapes: readonly Shape[] = [
  { name: "a table of one", lay: (a) => a.table(a.row(room.first, [72])) },
  { name: "a table of header and frame", lay: (a) => a.table(a.row(room.first, [12, 60])) },
  { name: "a table of 72", lay: (a) => a.table(a.row(room.first, ones(72))) },
  {
    name: "a table of 256",
    lay: (a) => a.table(a.row(room.first, [...Array.from({ length: ringSize - 72 }, () => 0), ...ones(72)])),
  },
  {
    name: "a table with empty buffers, wherever they are",
    lay: (a) => a.table([a.piece(hole, 0), ...a.row(room.first, [12, 60]), a.piece(0n, 0)]),
  },
  {
    name: "a table over two regions side by side",
    lay: (a) => a.table(a.row(room.first, [12, 30, 30]), { at: room.second - 24n }),
  },
  { name: "a table at an odd address", lay: (a) => a.table(a.row(room.first, [12, 60]), { at: layout.tables + 3n }) },
  {
    name: "a table that ends where memory does",
    lay: (a) => a.table(a.row(room.first, [12, 60]), { at: room.end - 32n }),
  },
  // The flag of the descriptor that leads to a table is to be ignored (virtio 2.7.5.3.2, 2.8.8).
  {
    name: "a table whose descriptor has WRITE set",
    lay: (a) => a.table(a.row(room.first, [12, 60]), { flags: flag.indirect | flag.write }),
  },
  {
    name: "a table behind direct descriptors",
    formats: ["split"],
    lay: (a) => a.table(a.row(room.more, [30, 30]), { before: a.row(room.first, [5, 7]) }),
  },
  {
    name: "a table in another order, with entries that are not used",
    formats: ["split"],
    lay: (a) => {
      const [header, frame] = a.row(room.first, [12, 60]) as [Piece, Piece];
      const unused = { at: hole, len: 99, flags: 0xffff };
      a.table([{ ...header, next: 3 }, unused, unused, frame], { buffer: [header, frame] });
    },
  },
  {
    name: "a table that says it has 4 GiB, of which two entries are linked",
    formats: ["split"],
    lay: (a) => a.table(a.row(room.first, [12, 60]), { len: 0xffff_fff0 }),
  },
  {
    name: "a table whose entries have flags that mean nothing there, and ids",
    formats: ["packed"],
    lay: (a) =>
      a.table(
        a.row(room.first, [12, 60]).map((piece) => ({
          ...piece,
          id: 0xffff,
          flags: piece.flags! | flag.next | flag.indirect | flag.avail | flag.used,
        })),
      ),
  },
];

/** A chain that the device can only give back. `lay` need not have a buffer that can be filled. */
function bad(name: string, pieces: (a: Attack) => readonly Piece[], formats?: readonly Format[]): Shape {
  return { name, lay: (a) => a.chain(pieces(a), []), ...formats === undefined ? {} : { formats } };
}

const wrapping = 0xffff_ffff_ffff_ffffn;

const badDirectShapes: readonly Shape[] = [
  bad("a buffer in a hole", (a) => a.row(hole, [72])),
  bad("a buffer at address 0", (a) => a.row(0n, [72])),
  bad("a buffer at an address that only the front end knows", (a) => a.row(0x7f00_0000_0000n + room.first, [72])),
  bad("a buffer at the last address", (a) => a.row(wrapping, [72])),
  bad("a buffer whose end is 0", (a) => a.row(wrapping - 71n, [72])),
  bad("a buffer that wraps into memory", (a) => a.row(wrapping - 15n, [0x20_0000])),
  bad("a buffer that begins one byte before memory", (a) => a.row(room.far - 1n, [72])),
  bad("a buffer that ends one byte behind memory", (a) => a.row(room.end - 71n, [72])),
  bad("a buffer at the last byte before a hole", (a) => a.row(room.end - 1n, [72])),
  bad("a buffer of 4 GiB into a hole", (a) => a.row(room.end - 20n, [0xffff_ffff])),
  bad("header in memory, frame in a hole", (a) => [...a.row(room.first, [12]), ...a.row(hole, [60])]),
  bad("header in a hole, frame in memory", (a) => [...a.row(hole, [12]), ...a.row(room.first, [60])]),
  bad("the third buffer in a hole", (a) => [...a.row(room.first, [12, 20]), ...a.row(hole, [40])]),
  bad("the wrong direction", (a) => a.row(room.first, [72]).map(turned)),
  bad("the wrong direction for the frame", (a) => turnedAt(1, a.row(room.first, [12, 60]))),
  bad("the wrong direction for the header", (a) => turnedAt(0, a.row(room.first, [12, 60]))),
  bad("the wrong direction for an empty buffer", (a) => turnedAt(1, a.row(room.first, [12, 0, 60]))),
];

function turned(piece: Piece): Piece {
  return { ...piece, flags: piece.flags! ^ flag.write };
}

function turnedAt(index: number, pieces: readonly Piece[]): Piece[] {
  return pieces.map((piece, i) => i === index ? turned(piece) : piece);
}

/** By links of a split ring. */
const badLinkShapes: readonly Shape[] = [
  { name: "a descriptor that leads to itself", next: [0], lengths: [72] },
  { name: "an empty descriptor that leads to itself", next: [0], lengths: [0] },
  { name: "two descriptors that lead to each other", next: [1, 0], lengths: [1, 1] },
  { name: "a chain that leads back into its middle", next: [1, 2, 3, 2], lengths: [12, 20, 20, 20] },
  { name: "a chain that leads just outside of the ring", next: [ringSize], lengths: [12] },
  { name: "a chain that leads far outside of the ring", next: [1, 0xffff], lengths: [12, 60] },
].map(({ name, next, lengths }) =>
  bad(
    name,
    (a) =>
      a.row(room.first, lengths).map((piece, i) => ({ ...piece, flags: piece.flags! | flag.next, next: next[i]! })),
    ["split"],
  )
);

interface BadTable extends Omit<TableOptions, "before" | "behind"> {
  readonly name: string;
  readonly entries?: (a: Attack) => readonly Piece[];
  readonly before?: (a: Attack) => readonly Piece[];
  readonly behind?: (a: Attack) => readonly Piece[];
  readonly formats?: readonly Format[];
  readonly features?: bigint;
}

const usualEntries = (a: Attack): Piece[] => a.row(room.first, [12, 60]);

function badTable(what: BadTable): Shape {
  const { name, formats, features, entries = usualEntries, before, behind, ...options } = what;
  const lay = (a: Attack) =>
    void a.table(entries(a), { ...options, before: before?.(a) ?? [], behind: behind?.(a) ?? [], buffer: [] });
  return { name, lay, ...formats === undefined ? {} : { formats }, ...features === undefined ? {} : { features } };
}

/** Entries of a split ring's table with these links. */
function linked(a: Attack, links: readonly number[]): Piece[] {
  return a.row(room.first, links.map(() => 1)).map((piece, i) => ({
    ...piece,
    flags: piece.flags! | flag.next,
    next: links[i]!,
  }));
}

const withoutIndirect = commonFeatures & ~featureSet(["INDIRECT_DESC"]);

const badTableShapes: readonly Shape[] = [
  ...[0, 1, 8, 15, 17, 33, 0xffff_ffff].map((len) => badTable({ name: `a table of ${len} bytes`, len })),
  badTable({ name: "a table of 4 GiB", len: 0xffff_fff0, formats: ["packed"] }),
  badTable({ name: "a table of one entry more than the ring has", entries: (a) => a.row(room.first, ones(257)) }),
  badTable({ name: "a table in a hole", at: hole }),
  badTable({ name: "a table at address 0", at: 0n }),
  badTable({ name: "a table whose second half lies in a hole", at: room.end - 16n }),
  badTable({ name: "a table whose first entry lies half in a hole", at: room.end - 8n }),
  badTable({ name: "a table that wraps", at: wrapping - 15n }),
  badTable({ name: "a table and more descriptors behind it", behind: (a) => a.row(room.more, [60]) }),
  badTable({ name: "a table where none was negotiated", features: withoutIndirect }),
  badTable({ name: "a table of buffers in a hole", entries: (a) => a.row(hole, [12, 60]) }),
  badTable({
    name: "a table whose last buffer lies in a hole",
    entries: (a) => [...a.row(room.first, [12]), ...a.row(hole, [60])],
  }),
  badTable({ name: "a table of the wrong direction", entries: (a) => usualEntries(a).map(turned) }),
  badTable({ name: "a table with one entry of the wrong direction", entries: (a) => turnedAt(1, usualEntries(a)) }),
  badTable({
    name: "a table in a table",
    formats: ["split"],
    entries: () => [{ at: layout.tables + 64n, len: 32, flags: flag.indirect }],
  }),
  badTable({
    name: "a table behind direct descriptors",
    formats: ["packed"],
    before: (a) => a.row(room.more, [12]),
    entries: (a) => a.row(room.first, [60]),
  }),
  badTable({
    name: "200 descriptors and a table of 100",
    formats: ["split"],
    before: (a) => a.row(room.more, ones(200)),
    entries: (a) => a.row(room.first, ones(100)),
  }),
  badTable({ name: "a table that leads to itself", formats: ["split"], entries: (a) => linked(a, [0]) }),
  badTable({ name: "a table that leads back", formats: ["split"], entries: (a) => linked(a, [1, 2, 1]) }),
  badTable({ name: "a table that leads just outside", formats: ["split"], entries: (a) => linked(a, [1, 2]) }),
  badTable({ name: "a table that leads far outside", formats: ["split"], entries: (a) => linked(a, [0xffff]) }),
];

const directions: readonly Direction[] = ["send", "receive"];

/** How many chains of a shape are to be filled. */
function lengthsOf(name: string): number[] {
  return Array.from({ length: name.startsWith("64 chains") ? 64 : 1 }, () => usualBytes - 12);
}

export const chainCases: readonly Case[] = directions.flatMap((direction) => [
  ...[...directShapes, ...tableShapes].flatMap(({ name, ...shape }) =>
    attackCases({ ...shape, direction, name, lengths: lengthsOf(name), verdict: { verdict: "passes" } })
  ),
  ...[...badDirectShapes, ...badLinkShapes, ...badTableShapes].flatMap((shape) =>
    attackCases({ ...shape, direction, verdict: { verdict: "dropped", counted: "bad_chain" } })
  ),
]);

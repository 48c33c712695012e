/**
 * Indexes, heads, ids and wrap bits that no driver can have written, and event areas full of anything.
 *
 * @module
 */

import { featureSet } from "../vhost/spec.ts";
import { type Attack, attackCases, type Direction, type GuestCase, room, type Verdict } from "./hostile_attack.ts";
import type { Case } from "./hostile_case.ts";
import { commonFeatures, ringSize } from "./hostile_guest.ts";
import { flag, PackedRing, SplitRing } from "./hostile_ring.ts";

const directions: readonly Direction[] = ["send", "receive"];
const { avail, used } = flag;

function asSplit({ ring }: Attack): SplitRing {
  if (ring instanceof SplitRing) return ring;
  throw new TypeError("not a split ring");
}

function asPacked({ ring }: Attack): PackedRing {
  if (ring instanceof PackedRing) return ring;
  throw new TypeError("not a packed ring");
}

function usual(a: Attack, count = 1): void {
  for (let i = 0; i < count; i++) a.chain(a.row(room.first + BigInt(128 * i), [72]));
}

interface Index {
  readonly name: string;
  readonly lay?: (a: Attack) => void;
  readonly publish?: (a: Attack) => void;
  readonly verdict: Verdict;
  /** Of frames that pass before. */
  readonly after?: number;
  readonly features?: bigint;
}

/** For both directions; where some frames pass, so many and one more are sent. */
function cases(format: "split" | "packed", { lay = usual, after = 0, verdict, ...what }: Index): Case[] {
  return directions.flatMap((direction) => {
    const lengths = Array.from({ length: after + 1 }, () => 60);
    const full = verdict.verdict === "breaks" ? { ...verdict, after } : verdict;
    const whole: GuestCase = { ...what, direction, formats: [format], lay, lengths, verdict: full };
    return attackCases(whole);
  });
}

const badAvailIndex = { verdict: "breaks", why: "bad_avail_index" } as const;
const badHead = { verdict: "breaks", why: "bad_head" } as const;
const badPackedId = { verdict: "breaks", why: "bad_packed_id" } as const;

/** How far the avail index is ahead of a ring in which nothing was taken. */
const availCases: readonly Case[] = [
  ...[ringSize + 1, 2 * ringSize, 0x7fff, 0x8000, 0xff00, 0xffff].flatMap((index) =>
    cases("split", {
      name: `an avail index of ${index}`,
      publish: (a) => {
        asSplit(a).setHead(0, 0);
        asSplit(a).availIndex = index;
      },
      verdict: badAvailIndex,
    })
  ),
  ...cases("split", {
    name: "an avail index that goes back by one after a frame",
    publish: (a) => {
      a.publish();
      asSplit(a).availIndex = 2;
    },
    verdict: { verdict: "passes" },
    lay: (a) => usual(a, 2),
    after: 1,
  }),
];

const headCases: readonly Case[] = [ringSize, ringSize + 1, 0x7fff, 0x8000, 0xffff].flatMap((head) => [
  ...cases("split", { name: `head ${head}`, publish: (a) => asSplit(a).publish(head), verdict: badHead }),
  ...cases("split", {
    name: `head ${head} behind two good ones`,
    lay: (a) => usual(a, 2),
    publish: (a) => {
      a.publish();
      asSplit(a).publish(head);
    },
    verdict: badHead,
    after: 2,
  }),
]);

/** A whole ring of heads at once is legal; what they are is another question. */
const fullCases: readonly Case[] = [
  ...cases("split", {
    name: "256 heads at once, all outside of the ring",
    publish: (a) => {
      for (let slot = 0; slot < ringSize; slot++) asSplit(a).setHead(slot, 0xffff);
      asSplit(a).availIndex = ringSize;
    },
    verdict: badHead,
  }),
];

const idCases: readonly Case[] = [ringSize, ringSize + 1, 0x7fff, 0x8000, 0xffff].flatMap((id) => [
  ...cases("packed", {
    name: `id ${id}`,
    lay: (a) => void a.chain([{ ...a.piece(room.first, 72), id }]),
    verdict: badPackedId,
  }),
  ...cases("packed", {
    name: `id ${id} at the end of a chain`,
    lay: (a) => void a.chain(a.row(room.first, [12, 30, 30]).map((piece, i) => i === 2 ? { ...piece, id } : piece)),
    verdict: badPackedId,
  }),
  ...cases("packed", {
    name: `id ${id} behind two good chains`,
    lay: (a) => {
      usual(a, 2);
      a.chain([{ ...a.piece(room.second, 72), id }]);
    },
    verdict: badPackedId,
    after: 2,
  }),
]);

/** Only the last descriptor's id counts (virtio 2.8.3). */
const legalIdCases: readonly Case[] = cases("packed", {
  name: "ids outside of the ring in all descriptors but the last",
  lay: (a) => void a.chain(a.row(room.first, [12, 30, 30]).map((piece, i) => ({ ...piece, id: i === 2 ? 7 : 0xffff }))),
  verdict: { verdict: "passes" },
});

const endlessCases: readonly Case[] = [
  ...cases("packed", {
    name: "a chain without an end, all round the ring",
    lay: (a) => {
      const pieces = a.row(room.first, Array.from({ length: ringSize }, () => 1));
      void a.chain(pieces.map((piece) => ({ ...piece, flags: piece.flags! | flag.next })), []);
    },
    verdict: badPackedId,
  }),
  ...cases("packed", {
    name: "a chain without an end, of empty buffers",
    lay: (a) => {
      const pieces = Array.from({ length: ringSize }, () => a.piece(0n, 0, flag.next));
      void a.chain(pieces, []);
    },
    verdict: badPackedId,
  }),
];

/** Bits of another lap, or of none: there is nothing for the device. */
const wrapCases: readonly Case[] = Object.entries({
  "neither bit set": 0,
  "both bits set, as if it were used": avail | used,
  "the bits of the other lap": used,
}).flatMap(([name, bits]) =>
  cases("packed", {
    name,
    publish: (a) => {
      const [chain] = a.chains;
      asPacked(a).setFlags(chain!.slot, bits | (a.direction === "receive" ? flag.write : 0));
    },
    verdict: { verdict: "waits" },
  })
);

/** Whatever a driver says of notifications, frames pass. */
const eventCases: readonly Case[] = [0n, featureSet(["EVENT_IDX"])].flatMap((extra) => {
  const features = commonFeatures | extra;
  const with_ = extra === 0n ? "without EVENT_IDX" : "with EVENT_IDX";
  const passes = { verdict: "passes" } as const;
  const lay = (a: Attack) => usual(a, 4);
  return [
    ...[0, 1, 0x8000, 0xffff].flatMap((value) =>
      cases("split", {
        name: `avail flags and used event 0x${value.toString(16)}, ${with_}`,
        features,
        lay: (a) => {
          asSplit(a).availFlags = value;
          asSplit(a).usedEvent = value;
          lay(a);
        },
        verdict: passes,
        after: 3,
      })
    ),
    ...[0x0001_0000, 0x0002_0000, 0x0002_ffff, 0x0003_0000, 0x0002_8100, 0xffff_ffff].flatMap((value) =>
      cases("packed", {
        name: `a driver event area of 0x${value.toString(16).padStart(8, "0")}, ${with_}`,
        features,
        lay: (a) => {
          asPacked(a).driverEvent = value;
          lay(a);
        },
        verdict: passes,
        after: 3,
      })
    ),
  ];
});

export const indexCases: readonly Case[] = [
  ...availCases,
  ...headCases,
  ...fullCases,
  ...idCases,
  ...legalIdCases,
  ...endlessCases,
  ...wrapCases,
  ...eventCases,
];

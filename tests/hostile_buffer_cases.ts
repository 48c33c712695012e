/**
 * Receive buffers: too small, too few, in crumbs, larger than they say, and of a guest that cannot take what is sent.
 *
 * @module
 */

import { featureSet } from "../vhost/spec.ts";
import { sumOf } from "./forward_cases.ts";
import { attackCases, type GuestCase, hole, room } from "./hostile_attack.ts";
import { joined } from "./hostile_bytes.ts";
import type { Case } from "./hostile_case.ts";
import { commonFeatures } from "./hostile_guest.ts";
import { flag } from "./hostile_ring.ts";

const withoutMerging = commonFeatures & ~featureSet(["MRG_RXBUF"]);
const legacy = featureSet(["PROTOCOL_FEATURES", "INDIRECT_DESC"]);
const passes = { verdict: "passes" } as const;

function received(what: Omit<GuestCase, "direction">): Case[] {
  return attackCases({ ...what, direction: "receive" });
}

/** Chains of these lengths, one behind the other in memory. */
function chains(lengths: readonly number[]): GuestCase["lay"] {
  return (a) => a.row(room.first, lengths).forEach((piece) => a.chain([piece]));
}

const repeat = (count: number, len: number): number[] => Array.from({ length: count }, () => len);

/** One frame may take many chains (virtio 5.1.6.4); nothing says how small they may not be. */
const mergedCases: readonly Case[] = [
  ...received({ name: "buffers of one byte", lay: chains(repeat(72, 1)), verdict: passes }),
  ...received({ name: "buffers smaller than a header", lay: chains(repeat(15, 5)), verdict: passes }),
  ...received({ name: "a buffer for the header alone", lay: chains([12, 60]), verdict: passes }),
  ...received({ name: "empty buffers between", lay: chains([0, 12, 0, 0, 60]), verdict: passes }),
  ...received({ name: "buffers of all lengths", lay: chains([1, 2, 4, 8, 16, 32, 64]), verdict: passes }),
  ...received({
    name: "a frame over 200 buffers",
    lay: chains(repeat(202, 328)),
    lengths: [65589],
    verdict: passes,
  }),
  ...received({
    name: "buffers of several descriptors each",
    lay: (a) => {
      for (let i = 0n; i < 12n; i++) a.chain(a.row(room.first + 64n * i, [1, 0, 2, 3]));
    },
    verdict: passes,
  }),
  ...received({
    name: "buffers in tables and others in turn",
    lay: (a) => {
      for (let i = 0n; i < 8n; i++) {
        const pieces = a.row(room.first + 64n * i, [4, 5]);
        if (i % 2n === 0n) a.table(pieces);
        else a.chain(pieces);
      }
    },
    verdict: passes,
  }),
  ...received({
    name: "frames of many lengths one after the other",
    lay: chains(repeat(200, 100)),
    lengths: [14, 60, 100, 88, 1514, 9000, 333],
    verdict: passes,
  }),
];

/** Whatever its length says, no more is written than came, and no more of it must be in memory. */
const largeCases: readonly Case[] = [commonFeatures, withoutMerging].flatMap((features, i) => {
  const merging = i === 0 ? "" : ", without merging";
  return [
    ...received({ name: `a buffer of 64 KiB${merging}`, features, lay: chains([0x1_0000]), verdict: passes }),
    ...received({ name: `a buffer of 4 GiB${merging}`, features, lay: chains([0xffff_ffff]), verdict: passes }),
    ...received({
      name: `a buffer that goes on into a hole behind what came${merging}`,
      features,
      lay: (a) => a.chain([a.piece(room.end - 72n, 4096)]),
      verdict: passes,
    }),
    ...received({
      name: `a chain that goes on in a hole behind what came${merging}`,
      features,
      lay: (a) => a.chain([...a.row(room.first, [12, 60]), a.piece(hole, 100)]),
      verdict: passes,
    }),
    ...received({
      name: `the longest frame in one buffer${merging}`,
      features,
      lay: chains([65601]),
      lengths: [65589],
      verdict: passes,
    }),
  ];
});

/** What does not fit into the next chain is lost, and the chain stays for what does. */
const smallCases: readonly Case[] = [0, 1, 11, 12, 71].flatMap((len) =>
  received({
    name: `a buffer of ${len} bytes, without merging`,
    features: withoutMerging,
    lay: chains([len]),
    verdict: { verdict: "dropped", counted: "too_big", returned: 0 },
  })
);

const fewCases: readonly Case[] = [
  ...received({
    name: "no buffer",
    lay: () => {},
    verdict: { verdict: "dropped", counted: "no_buffer" },
  }),
  ...received({
    name: "buffers one byte too small together",
    lay: chains([12, 20, 39]),
    verdict: { verdict: "dropped", counted: "no_buffer", returned: 0 },
  }),
  ...received({
    name: "a ring full of empty buffers",
    lay: chains(repeat(256, 0)),
    verdict: { verdict: "dropped", counted: "no_buffer", returned: 0 },
  }),
  ...received({
    name: "a ring full of one byte each",
    lay: chains(repeat(256, 1)),
    lengths: [1514],
    verdict: { verdict: "dropped", counted: "no_buffer", returned: 0 },
  }),
];

/** A frame over several chains of which one cannot be used: all that were taken go back, and nothing is written. */
const mixedCases: readonly Case[] = [
  ...received({
    name: "a good buffer, then one in a hole",
    lay: (a) => {
      a.chain(a.row(room.first, [20]));
      a.chain([a.piece(hole, 100)], []);
    },
    verdict: { verdict: "dropped", counted: "bad_chain" },
  }),
  ...received({
    name: "a good buffer, then one of the wrong direction",
    lay: (a) => {
      a.chain(a.row(room.first, [20]));
      a.chain([{ at: room.more, len: 100 }], []);
    },
    verdict: { verdict: "dropped", counted: "bad_chain" },
  }),
  ...received({
    name: "a hundred good buffers, then a bad table",
    lay: (a) => {
      for (const piece of a.row(room.first, repeat(50, 1))) a.chain([piece]);
      a.chain([{ at: room.more, len: 17, flags: flag.indirect }], []);
    },
    verdict: { verdict: "dropped", counted: "bad_chain" },
  }),
];

const legacyCases: readonly Case[] = [
  ...received({ name: "a legacy header", features: legacy, lay: chains([70]), verdict: passes }),
  ...received({
    name: "a legacy header over three buffers",
    features: legacy,
    lay: (a) => a.chain(a.row(room.first, [4, 3, 3, 60])),
    verdict: passes,
  }),
  ...received({
    name: "a buffer smaller than a legacy header",
    features: legacy,
    lay: chains([9]),
    verdict: { verdict: "dropped", counted: "too_big", returned: 0 },
  }),
];

const csum = { flags: 1, csumStart: 34, csumOffset: 16 };
const segments = { ...csum, gsoType: 1, gsoSize: 1448, hdrLen: 54 };

/** What the friend sends asks more of the receiver than it negotiated: we do it, if it can be done. */
const offloadCases: readonly Case[] = [
  ...received({
    name: "a frame whose checksum the guest would have to finish",
    features: commonFeatures & ~featureSet(["GUEST_CSUM", "GUEST_TSO4"]),
    lay: chains([2048]),
    header: csum,
    becomes: (frame) => {
      const sum = sumOf(frame.subarray(34));
      return joined(frame.subarray(0, 50), Uint8Array.of(~(sum >> 8), ~sum), frame.subarray(52));
    },
    verdict: passes,
  }),
  ...received({
    name: "a frame of segments that the guest does not take, and that is no TCP",
    features: commonFeatures & ~featureSet(["GUEST_TSO4"]),
    lay: chains([0x1_0000]),
    header: segments,
    lengths: [9000],
    verdict: { verdict: "dropped", counted: "bad_gso", returned: 0 },
  }),
  ...received({
    name: "a frame of segments that the guest takes",
    lay: chains(repeat(10, 1000)),
    header: segments,
    arrives: segments,
    lengths: [9000],
    verdict: passes,
  }),
];

export const bufferCases: readonly Case[] = [
  ...mergedCases,
  ...largeCases,
  ...smallCases,
  ...fewCases,
  ...mixedCases,
  ...legacyCases,
  ...offloadCases,
];

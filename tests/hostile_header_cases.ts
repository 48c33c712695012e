/**
 * Frames and virtio-net headers that guests send: short, long, contradictory, and merely odd.
 *
 * @module
 */

import { featureSet } from "../vhost/spec.ts";
import { type Attack, attackCases, room } from "./hostile_attack.ts";
import type { NetHeader } from "./hostile_bytes.ts";
import type { Case } from "./hostile_case.ts";
import { commonFeatures } from "./hostile_guest.ts";

const csum = 1;
const gso = { tcpv4: 1, udp: 3, tcpv6: 4, udpL4: 5, ecn: 0x80 } as const;

/** Once in one piece, where a short way may be taken, and once in several. */
const ways: Readonly<Record<string, (a: Attack, bytes: number) => void>> = {
  "in one piece": (a, bytes) => void a.chain(a.row(room.first, [bytes])),
  "in pieces": (a, bytes) => void a.chain(a.row(room.first, [Math.min(3, bytes), Math.max(0, bytes - 3)])),
};

interface Sent {
  readonly name: string;
  /** With the header. */
  readonly bytes?: number;
  readonly header?: NetHeader;
  readonly features?: bigint;
}

function sent({ name, bytes = 72, header = {}, features = commonFeatures }: Sent) {
  return Object.entries(ways).map(([way, lay]) => ({
    name: `${name}, ${way}`,
    direction: "send" as const,
    features,
    header,
    lay: (a: Attack) => lay(a, bytes),
  }));
}

function dropped(counted: string, what: Sent): Case[] {
  return sent(what).flatMap((each) => attackCases({ ...each, verdict: { verdict: "dropped", counted } }));
}

function passes(what: Sent, arrives: NetHeader = {}): Case[] {
  return sent(what).flatMap((each) => attackCases({ ...each, arrives, verdict: { verdict: "passes" } }));
}

const withoutCsum = commonFeatures & ~featureSet(["CSUM", "HOST_TSO4"]);
const everyOffload = commonFeatures | featureSet(["HOST_TSO6", "HOST_ECN", "HOST_UFO"]);
const legacy = featureSet(["PROTOCOL_FEATURES", "INDIRECT_DESC", "CSUM"]);

const lengthCases: readonly Case[] = [
  ...[0, 1, 11].flatMap((bytes) => dropped("bad_header", { name: `${bytes} bytes, less than a header`, bytes })),
  ...[12, 13, 25].flatMap((bytes) => dropped("runt", { name: `a frame of ${bytes - 12} bytes`, bytes })),
  ...passes({ name: "a frame of 14 bytes", bytes: 26 }),
  ...passes({ name: "a frame of 1514 bytes", bytes: 12 + 1514 }),
  ...passes({ name: "the longest frame, 65589 bytes", bytes: 12 + 65589 }),
  ...dropped("too_big", { name: "a frame one byte too long", bytes: 12 + 65590 }),
  ...dropped("too_big", { name: "a frame of 256 KiB", bytes: 12 + 0x4_0000 }),
];

/** Longer than any memory, as far as the lengths say. What is looked at lies in memory. */
const hugeCases: readonly Case[] = [
  { name: "a buffer of 4 GiB", lengths: [0xffff_ffff] },
  { name: "header and a buffer of 4 GiB", lengths: [12, 0xffff_ffff] },
  { name: "two buffers of 4 GiB, which are 10 bytes when cut to 32 bits", lengths: [0xffff_ffff, 11] },
  { name: "256 buffers of 4 GiB", lengths: Array.from({ length: 256 }, () => 0xffff_ffff) },
].flatMap(({ name, lengths }) =>
  attackCases({
    name,
    direction: "send",
    lay: (a) => a.chain(lengths.map((len) => a.piece(room.first, len)), []),
    verdict: { verdict: "dropped", counted: "too_big" },
  })
);

/** Start, and further on: behind a frame of 60 bytes, or in its Ethernet header. */
const misplaced = [
  ...[[58, 1], [59, 0], [60, 0], [34, 25], [0xffff, 0], [0xffff, 0xffff]],
  ...[[0, 58], [13, 0], [0, 59], [0, 0xffff]],
] as const;

const csumCases: readonly Case[] = [
  ...dropped("bad_header", {
    name: "a checksum where none was negotiated",
    header: { flags: csum, csumStart: 34, csumOffset: 6 },
    features: withoutCsum,
  }),
  ...misplaced.flatMap(
    ([csumStart, csumOffset]) =>
      dropped("bad_csum", {
        name: `a checksum from ${csumStart} on, ${csumOffset} further, of a frame of 60 bytes`,
        header: { flags: csum, csumStart, csumOffset },
      }),
  ),
  ...([[58, 0], [14, 44], [34, 6]] as const).flatMap(([csumStart, csumOffset]) => {
    const header = { flags: csum, csumStart, csumOffset };
    return passes({ name: `a checksum from ${csumStart} on, ${csumOffset} further`, header }, header);
  }),
];

const gsoCases: readonly Case[] = [
  ...dropped("bad_gso", { name: "segments of 0 bytes", header: { gsoType: gso.tcpv4 } }),
  ...dropped("bad_gso", { name: "2250 segments", bytes: 12 + 9000, header: { gsoType: gso.tcpv4, gsoSize: 4 } }),
  ...[2, 6, 0x10, 0x20, 0x40, 0x7f].flatMap((gsoType) =>
    dropped("bad_gso", {
      name: `segmentation of type ${gsoType}`,
      header: { gsoType, gsoSize: 1000 },
      features: everyOffload,
    })
  ),
  ...Object.entries({ tcpv6: gso.tcpv6, udp: gso.udp, udpL4: gso.udpL4, ecn: gso.tcpv4 | gso.ecn }).flatMap((
    [name, gsoType],
  ) =>
    dropped("bad_header", {
      name: `segmentation for ${name}, which was not negotiated`,
      header: { gsoType, gsoSize: 1000 },
    })
  ),
  ...dropped("bad_gso", {
    name: "congestion notification of nothing",
    header: { gsoType: gso.ecn, gsoSize: 1000 },
    features: everyOffload,
  }),
  ...Object.entries({ tcpv4: gso.tcpv4, ecn: gso.tcpv4 | gso.ecn, tcpv6: gso.tcpv6, udp: gso.udp }).flatMap((
    [name, gsoType],
  ) => {
    const header = { flags: csum, gsoType, gsoSize: 1448, hdrLen: 54, csumStart: 34, csumOffset: 16 };
    return passes({ name: `segmentation for ${name}`, bytes: 12 + 9000, header, features: everyOffload }, header);
  }),
];

/** What means nothing is not told on. */
const oneByte = { gsoType: gso.tcpv4, gsoSize: 1 };

const oddCases: readonly Case[] = [
  ...passes({ name: "a number of buffers", header: { buffers: 0xffff } }),
  ...passes({ name: "flags that mean nothing", header: { flags: 0xfe } }),
  ...passes({ name: "places of a checksum, but no flag for it", header: { csumStart: 0xffff, csumOffset: 0xffff } }),
  ...passes({ name: "a size of segments without a type", header: { gsoSize: 7, hdrLen: 0xffff } }),
  ...passes(
    { name: "segments of one byte, headers as long as the frame", header: { ...oneByte, hdrLen: 60 } },
    { ...oneByte, hdrLen: 60 },
  ),
  ...dropped("bad_gso", { name: "headers longer than the frame", header: { ...oneByte, hdrLen: 61 } }),
];

/** Without VERSION_1 and MRG_RXBUF the header is two bytes shorter (virtio 5.1.6.1). */
const legacyCases: readonly Case[] = [
  ...passes({ name: "a legacy header", bytes: 10 + 60, features: legacy }),
  ...dropped("bad_header", { name: "9 bytes, less than a legacy header", bytes: 9, features: legacy }),
  ...dropped("runt", { name: "a legacy header alone", bytes: 10, features: legacy }),
  ...passes({ name: "the longest frame behind a legacy header", bytes: 10 + 65589, features: legacy }),
];

/** The same bytes may be in a chain more than once. */
const sharedCases: readonly Case[] = attackCases({
  name: "a header that comes again at the end of its frame",
  direction: "send",
  lay: (a) => {
    const [header, frame] = [a.piece(room.more, 12), a.piece(room.first, 48)];
    a.chain([header, frame, header], [header, frame], [header, frame, header]);
  },
  verdict: { verdict: "passes" },
});

export const headerCases: readonly Case[] = [
  ...lengthCases,
  ...hugeCases,
  ...csumCases,
  ...gsoCases,
  ...oddCases,
  ...legacyCases,
  ...sharedCases,
];

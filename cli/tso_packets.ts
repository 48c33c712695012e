/**
 * The packets that `tso-test` sends: each kind of offload with the sizes and fields at which a cut can go wrong.
 *
 * @module
 */
import { layoutOf, type NetPacket, tcpFlags, type TcpHeader } from "./net_packet.ts";
import { arrivalsOf, type OffloadedPacket, type Segmentation } from "./segment_model.ts";
import type { Offload } from "./tso_result.ts";

/** A packet, and what it is for people. */
export interface TestPacket extends OffloadedPacket {
  readonly name: string;
}

/** What fits into a receiver's buffers. */
export interface Room {
  /** The longest frame that is left to be cut, and the longest other one. */
  readonly largeBytes: number;
  readonly plainBytes: number;
}

/** IP's longest packet (RFC 791, 3.1), or payload of IPv6 (RFC 8200, 3). */
const ipBytesMax = 65_535;
const usualSize = 1448;
const smallSize = 536;
const jumboSize = 8948;
/** Pieces of this size are many, and still fewer than a ring's buffers. */
const tinySize = 48;
const tinyCount = 100;
const timestamps = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
const ipOptions = [1, 1, 1, 0];
/** PadN (RFC 8200, 4.2). */
const hopByHop = [0, 1, 4, 0, 0, 0, 0];
const vlanTag = 0x6064;

/** Bytes without a pattern, the same every time. */
const pool = Uint8Array.from(
  { length: 2 ** 17 },
  (() => {
    let state = 1;
    return () => (state = Math.imul(state, 1_103_515_245) + 12_345 | 0) >>> 16;
  })(),
);

/** Makes packets of one kind, no two alike. */
class Maker {
  readonly #tags: readonly number[];
  readonly #segmentation: Segmentation;
  readonly #route: Pick<NetPacket, "destination" | "source">;
  readonly packets: TestPacket[] = [];

  constructor(segmentation: Segmentation, tags: readonly number[], route: Pick<NetPacket, "destination" | "source">) {
    this.#segmentation = segmentation;
    this.#tags = tags;
    this.#route = route;
  }

  packet(family: 4 | 6, protocol: "tcp" | "udp", bytes: number, fields: Partial<NetPacket> = {}): NetPacket {
    const number = this.packets.length;
    const tcp: TcpHeader = {
      protocol: "tcp",
      // Both wrap within a packet now and then.
      ...{ sequence: (0xffff_f000 + number * 0x1234_5678) % 2 ** 32, acknowledgement: 0x1122_3344 + number },
      ...{ flags: tcpFlags.ack | tcpFlags.psh, window: 0x200 + number, urgent: 0, options: [] },
    };
    return {
      ...this.#route,
      ...{ tags: this.#tags, family, trafficClass: number % 4, identification: (0xfffe + 7 * number) % 0x1_0000 },
      ...{ dontFragment: number % 3 !== 2, options: [], hopByHop: [] },
      transport: protocol === "tcp" ? tcp : { protocol },
      payload: pool.subarray(97 * number, 97 * number + bytes),
      ...fields,
    };
  }

  add(packet: NetPacket, size: number, what: readonly string[] = [], ecn = false): void {
    const protocol = packet.transport.protocol.toUpperCase();
    const cut = this.#segmentation === "none" ? "" : ` by ${size}`;
    const name = [`${protocol} over IPv${packet.family}, ${packet.payload.length} bytes${cut}`, ...what].join(", ");
    this.packets.push({ name, packet, segmentation: this.#segmentation, size, ecn });
  }
}

/** The longest payload behind the headers of a packet. */
function payloadMax(packet: NetPacket, frameBytes: number): number {
  const { network, payload } = layoutOf(packet);
  return Math.min(frameBytes, ipBytesMax + network) - payload;
}

/** Two bytes of one of its segments, or of the whole, become such that the sum there is 0. */
function zeroSummed(packet: NetPacket, segmentation: Segmentation, size: number, segment: number): NetPacket {
  const payload = packet.payload.slice();
  const at = segment * size;
  payload.fill(0, at, at + 2);
  const changed = { ...packet, payload };
  const arrivals = arrivalsOf({ packet: changed, segmentation, size, ecn: false }, {
    checksums: false,
    segments: false,
  });
  const { transport, checksumOffset } = layoutOf(packet);
  payload.set(arrivals[segment]!.bytes.subarray(transport + checksumOffset, transport + checksumOffset + 2), at);
  return changed;
}

/** Around each size, and the longest of all. */
function addSizes(maker: Maker, family: 4 | 6, protocol: "tcp" | "udp", room: Room, headerBytes = 0): void {
  const sizes = [usualSize, smallSize, ...room.plainBytes > jumboSize + 100 ? [jumboSize] : []];
  for (const size of sizes) {
    for (const bytes of [1, size - 1, size, size + 1, 3 * size, 3 * size + 1]) {
      maker.add(maker.packet(family, protocol, Math.max(1, bytes - headerBytes)), size);
    }
  }
  const longest = payloadMax(maker.packet(family, protocol, 0), room.largeBytes);
  maker.add(maker.packet(family, protocol, longest), usualSize, ["the longest"]);
  maker.add(maker.packet(family, protocol, tinyCount * tinySize - 1), tinySize);
}

/** Headers that are repeated in each piece, and a second tag. */
function addHeaders(maker: Maker, family: 4 | 6, protocol: "tcp" | "udp", size: number, tags: readonly number[]): void {
  const fields = family === 4 ? { options: ipOptions } : { hopByHop };
  maker.add(maker.packet(family, protocol, 3333, fields), size, [family === 4 ? "IP options" : "hop-by-hop options"]);
  if (tags.length > 0) maker.add(maker.packet(family, protocol, 3333, { tags: [1, ...tags] }), size, ["two tags"]);
}

function addTcp(maker: Maker, family: 4 | 6, room: Room, tags: readonly number[]): void {
  addSizes(maker, family, "tcp", room);
  addHeaders(maker, family, "tcp", usualSize, tags);
  const tcp = (bytes: number, fields: Partial<TcpHeader>): NetPacket => {
    const packet = maker.packet(family, "tcp", bytes);
    return { ...packet, transport: { ...packet.transport as TcpHeader, ...fields } };
  };
  const { fin, psh, ack, urg, ece, cwr } = tcpFlags;
  maker.add(tcp(4000, { flags: fin | psh | ack }), usualSize, ["FIN"]);
  maker.add(tcp(4000, { flags: psh | ack | urg | ece, urgent: 77 }), usualSize, ["URG and ECE"]);
  for (const bytes of [2 * usualSize, usualSize - 5]) {
    maker.add(tcp(bytes, { flags: ack | cwr }), usualSize, ["CWR"]);
    maker.add(tcp(bytes, { flags: ack | cwr | psh }), usualSize, ["CWR", "ECN"], true);
  }
  maker.add(tcp(4000, { options: timestamps }), usualSize - timestamps.length, ["timestamps"]);
  maker.add(zeroSummed(tcp(3000, {}), "tcp", usualSize, 1), usualSize, ["a segment whose sum is 0"]);
  maker.add(zeroSummed(tcp(1000, {}), "tcp", usualSize, 0), usualSize, ["sum 0"]);
}

function addUdp(maker: Maker, family: 4 | 6, segmentation: "udp" | "fragments", room: Room, tags: readonly number[]) {
  // In fragments the header counts as payload.
  addSizes(maker, family, "udp", room, segmentation === "fragments" ? 8 : 0);
  addHeaders(maker, family, "udp", usualSize, tags);
  const packet = maker.packet(family, "udp", 3000);
  if (segmentation === "udp") {
    maker.add(zeroSummed(packet, "udp", usualSize, 1), usualSize, ["a segment whose sum is 0"]);
  } else {
    maker.add(packet, usualSize + 1, ["a size that is no multiple of 8"]);
  }
}

function addChecksums(maker: Maker, room: Room): void {
  for (const family of [4, 6] as const) {
    for (const protocol of ["tcp", "udp"] as const) {
      const most = payloadMax(maker.packet(family, protocol, 0), room.plainBytes);
      for (const bytes of [0, 1, 2, 101, 1400, most - 1, most]) maker.add(maker.packet(family, protocol, bytes), 0);
      maker.add(zeroSummed(maker.packet(family, protocol, 1000), "none", 1000, 0), 0, ["sum 0"]);
    }
    maker.add(maker.packet(family, "tcp", 100, family === 4 ? { options: ipOptions } : { hopByHop }), 0, [
      "IP options",
    ]);
  }
}

/** All packets of a kind for a receiver with so much room. */
export function packetsOf(
  offload: Offload,
  vlan: boolean,
  room: Room,
  route: Pick<NetPacket, "destination" | "source">,
): TestPacket[] {
  const tags = vlan ? [vlanTag] : [];
  const kinds = { TSO4: "tcp", TSO6: "tcp", USO: "udp", UFO: "fragments", CSUM: "none" } as const;
  const segmentation = kinds[offload];
  const maker = new Maker(segmentation, tags, route);
  if (segmentation === "tcp") addTcp(maker, offload === "TSO4" ? 4 : 6, room, tags);
  else if (segmentation === "none") addChecksums(maker, room);
  else for (const family of [4, 6] as const) addUdp(maker, family, segmentation, room, tags);
  return maker.packets;
}

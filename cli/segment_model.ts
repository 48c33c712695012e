/**
 * What must arrive of a packet whose sender left checksum or segmentation to others, by what its receiver takes.
 *
 * Segments are made as their sender would have made them had it cut by itself: each is a packet of its own, built anew
 * from its fields. Where standards leave a choice it is Linux's.
 *
 * @module
 */
import { bytesOf, datagramOf, frameOf, layoutOf, type NetPacket, tcpFlags } from "./net_packet.ts";

/** What is left to be done to a packet, beside its checksum. */
export type Segmentation = "none" | "tcp" | "udp" | "fragments";

/** A packet as its sender hands it over. Its checksum is always left to others. */
export interface OffloadedPacket {
  readonly packet: NetPacket;
  readonly segmentation: Segmentation;
  /** Payload of each segment (virtio 5.1.6: gso_size). */
  readonly size: number;
  /** Marked as one with explicit congestion notification. */
  readonly ecn: boolean;
}

/** What a receiver takes unfinished. */
export interface Taken {
  readonly checksums: boolean;
  readonly segments: boolean;
}

/** The virtio-net header, but for the number of buffers (virtio 5.1.6). */
export interface NetHeader {
  readonly flags: number;
  readonly gsoType: number;
  readonly headerBytes: number;
  readonly gsoSize: number;
  readonly checksumStart: number;
  readonly checksumOffset: number;
}

/** One frame as it must arrive. */
export interface Arrival {
  readonly header: NetHeader;
  readonly bytes: Uint8Array;
  /** Where an identification is that whoever cuts may choose: 4 bytes, the same in all arrivals of a packet. */
  readonly chosenAt?: number;
}

const needsChecksum = 1;
const ecnBit = 0x80;
const plain: NetHeader = {
  ...{ flags: 0, gsoType: 0, headerBytes: 0, gsoSize: 0, checksumStart: 0, checksumOffset: 0 },
};

function gsoTypeOf({ packet, segmentation, ecn }: OffloadedPacket): number {
  const tcp = packet.family === 4 ? 1 : 4;
  return { none: 0, tcp, udp: 5, fragments: 3 }[segmentation] | (ecn ? ecnBit : 0);
}

/** The header of a packet whose checksum is to be finished. */
function partial(packet: NetPacket): NetHeader {
  const { transport, checksumOffset } = layoutOf(packet);
  return { ...plain, flags: needsChecksum, checksumStart: transport, checksumOffset };
}

/** What the sender writes: to be segmented also where one segment is enough. */
export function sentOf(offloaded: OffloadedPacket): Arrival {
  const { packet, segmentation, size } = offloaded;
  const bytes = bytesOf(packet, "partial");
  if (segmentation === "none") return { bytes, header: partial(packet) };
  const headerBytes = layoutOf(packet).payload;
  return { bytes, header: { ...partial(packet), gsoType: gsoTypeOf(offloaded), gsoSize: size, headerBytes } };
}

/** What arrives, in order. */
export function arrivalsOf(offloaded: OffloadedPacket, taken: Taken): Arrival[] {
  const { packet, segmentation, size } = offloaded;
  if (taken.checksums && (taken.segments || segmentation === "none")) return [sentOf(offloaded)];
  if (segmentation === "none" || wholeBytes(offloaded) <= size) return [finished(packet, taken, 0xffff)];
  if (segmentation === "fragments") return fragmentsOf(offloaded);
  return segmentsOf(offloaded).map((segment) => finished(segment, taken, 0));
}

/** Bytes that are to be spread: of a datagram in fragments, with its header. */
function wholeBytes({ packet, segmentation }: OffloadedPacket): number {
  return packet.payload.length + (segmentation === "fragments" ? 8 : 0);
}

/** A TCP checksum of 0 becomes 0xffff where Linux finishes one packet, and stays where it cuts. */
function finished(packet: NetPacket, { checksums }: Taken, zero: 0 | 0xffff): Arrival {
  return checksums
    ? { bytes: bytesOf(packet, "partial"), header: partial(packet) }
    : { bytes: bytesOf(packet, "whole", zero), header: plain };
}

/** Where parts of so many bytes begin. */
function starts(total: number, size: number): number[] {
  return Array.from({ length: Math.ceil(total / size) }, (_, number) => number * size);
}

function segmentsOf({ packet, size }: OffloadedPacket): NetPacket[] {
  const { payload, identification, transport } = packet;
  return starts(payload.length, size).map((at, number) => ({
    ...packet,
    payload: payload.subarray(at, at + size),
    identification: (identification + number) % 0x1_0000,
    transport: transport.protocol === "udp" ? transport : {
      ...transport,
      sequence: (transport.sequence + at) % 2 ** 32,
      flags: segmentFlags(transport.flags, at === 0, at + size >= payload.length),
    },
  }));
}

/** What ends with the packet ends with its last segment, and the sender slows down once (RFC 3168, 6.1.2). */
function segmentFlags(flags: number, first: boolean, last: boolean): number {
  const notHere = (last ? 0 : tcpFlags.fin | tcpFlags.psh) | (first ? 0 : tcpFlags.cwr);
  return flags & ~notHere;
}

/** Offsets count in units of 8 bytes (RFC 791, 3.2; RFC 8200, 4.5). */
function fragmentsOf({ packet, size }: OffloadedPacket): Arrival[] {
  const datagram = datagramOf(packet, "whole");
  const step = size - size % 8;
  const chosen = packet.family === 4 ? {} : { chosenAt: layoutOf(packet).transport + 4 };
  return starts(datagram.length, step).map((offset) => {
    const more = offset + step < datagram.length;
    const bytes = frameOf(packet, datagram.subarray(offset, offset + step), { offset, more, identification: 0 });
    return { header: plain, bytes, ...chosen };
  });
}

/**
 * Packets by their fields, and the bytes that they have on the wire: Ethernet, VLAN tags, IPv4 or IPv6, TCP or UDP.
 *
 * Nothing here knows of segmentation, and each checksum is taken over all of its bytes.
 *
 * @module
 */

/** What is before the payload, one field after the other. */
export interface NetPacket {
  /** Addresses as numbers: 52:54:00:00:00:01 is 0x525400000001. */
  readonly destination: number;
  readonly source: number;
  /** IEEE 802.1Q: priority and VLAN of each tag, the outer one first. */
  readonly tags: readonly number[];
  readonly family: 4 | 6;
  /** IPv4's TOS, IPv6's traffic class. */
  readonly trafficClass: number;
  /** IPv4 alone. Options are a multiple of 4 bytes. */
  readonly identification: number;
  readonly dontFragment: boolean;
  readonly options: readonly number[];
  /** IPv6 alone: hop-by-hop options, a header without its first byte; none, if empty. */
  readonly hopByHop: readonly number[];
  readonly transport: TcpHeader | UdpHeader;
  readonly payload: Uint8Array;
}

export interface UdpHeader {
  readonly protocol: "udp";
}

export interface TcpHeader {
  readonly protocol: "tcp";
  readonly sequence: number;
  readonly acknowledgement: number;
  readonly flags: number;
  readonly window: number;
  readonly urgent: number;
  /** A multiple of 4 bytes. */
  readonly options: readonly number[];
}

/** Flags of TCP (RFC 9293, 3.1). */
export const tcpFlags = { fin: 0x01, psh: 0x08, ack: 0x10, urg: 0x20, ece: 0x40, cwr: 0x80 } as const;

/** Where headers begin, in bytes from the destination address on. */
export interface NetLayout {
  readonly network: number;
  readonly transport: number;
  readonly payload: number;
  /** Of the checksum, from the transport header on. */
  readonly checksumOffset: number;
}

const ports = [1000, 2000] as const;
const addresses = {
  4: [[10, 0, 0, 1], [10, 0, 0, 2]],
  6: [[0xfd, ...Array(14).fill(0), 1], [0xfd, ...Array(14).fill(0), 2]],
} as const;
const etherTypes = { 4: 0x0800, 6: 0x86dd, tag: 0x8100 } as const;
const protocolNumbers = { tcp: 6, udp: 17, hopByHop: 0, fragment: 44 } as const;
const timeToLive = 64;
const flowLabel = 0x1_2345;

export function layoutOf({ tags, family, options, hopByHop, transport }: NetPacket): NetLayout {
  const network = 14 + 4 * tags.length;
  const at = network + (family === 4 ? 20 + options.length : 40 + (hopByHop.length > 0 ? 1 + hopByHop.length : 0));
  return transport.protocol === "tcp"
    ? { network, transport: at, payload: at + 20 + transport.options.length, checksumOffset: 16 }
    : { network, transport: at, payload: at + 8, checksumOffset: 6 };
}

/** One's complement sum of 16-bit words (RFC 1071); an odd byte is the upper half of one more. */
export function sumOf(...parts: readonly ArrayLike<number>[]): number {
  let sum = 0;
  for (const bytes of parts) {
    for (let at = 0; at + 1 < bytes.length; at += 2) sum += bytes[at]! << 8 | bytes[at + 1]!;
    if (bytes.length % 2 === 1) sum += bytes[bytes.length - 1]! << 8;
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x1_0000);
  return sum;
}

function big16(value: number): number[] {
  return [value >> 8 & 0xff, value & 0xff];
}

function big32(value: number): number[] {
  return [...big16(value >>> 16), ...big16(value)];
}

function mac(address: number): number[] {
  return [...big16(Math.floor(address / 2 ** 32)), ...big32(address % 2 ** 32)];
}

function transportHeader({ transport, payload }: NetPacket): number[] {
  const [from, to] = ports;
  if (transport.protocol === "udp") return [...big16(from), ...big16(to), ...big16(8 + payload.length), 0, 0];
  const { sequence, acknowledgement, flags, window, urgent, options } = transport;
  return [
    ...[...big16(from), ...big16(to), ...big32(sequence), ...big32(acknowledgement)],
    ...[(20 + options.length) / 4 << 4, flags, ...big16(window), 0, 0, ...big16(urgent), ...options],
  ];
}

/** What a TCP checksum of 0 is written as; UDP's is always 0xffff, since 0 stands for none (RFC 768). */
export type Zero = 0 | 0xffff;

/** Transport header and payload; `partial` has the sum of the pseudo-header in the place of the checksum. */
export function datagramOf(packet: NetPacket, checksum: "whole" | "partial", zero: Zero = 0): Uint8Array {
  const { family, transport, payload } = packet;
  const header = transportHeader(packet);
  const [from, to] = addresses[family];
  const length = header.length + payload.length;
  const pseudo = sumOf(from, to, big16(protocolNumbers[transport.protocol]), big16(length));
  const inverted = 0xffff - sumOf(big16(pseudo), header, payload);
  const finished = inverted === 0 ? (transport.protocol === "udp" ? 0xffff : zero) : inverted;
  const at = transport.protocol === "tcp" ? 16 : 6;
  header.splice(at, 2, ...big16(checksum === "whole" ? finished : pseudo));
  return concat(header, payload);
}

/** A part of a datagram. */
export interface Fragment {
  /** In bytes, a multiple of 8. */
  readonly offset: number;
  readonly more: boolean;
  /** Of IPv6; IPv4 has the packet's. */
  readonly identification: number;
}

/** All that goes before `body`, and `body`: a datagram, or a fragment of one. */
export function frameOf(packet: NetPacket, body: Uint8Array, fragment?: Fragment): Uint8Array {
  const { destination, source, tags, family } = packet;
  const ethernet = [
    ...[...mac(destination), ...mac(source)],
    ...tags.flatMap((tag) => [...big16(etherTypes.tag), ...big16(tag)]),
    ...big16(etherTypes[family]),
  ];
  return concat(ethernet, (family === 4 ? ipv4Header : ipv6Header)(packet, body.length, fragment), body);
}

/** The whole packet. */
export function bytesOf(packet: NetPacket, checksum: "whole" | "partial", zero: Zero = 0): Uint8Array {
  return frameOf(packet, datagramOf(packet, checksum, zero));
}

function ipv4Header(packet: NetPacket, bodyBytes: number, fragment: Fragment | undefined): number[] {
  const { trafficClass, identification, dontFragment, options, transport } = packet;
  const bytes = 20 + options.length;
  const position = fragment === undefined
    ? (dontFragment ? 0x4000 : 0)
    : (fragment.more ? 0x2000 : 0) | fragment.offset / 8;
  const header = [
    ...[0x40 | bytes / 4, trafficClass, ...big16(bytes + bodyBytes), ...big16(identification), ...big16(position)],
    ...[timeToLive, protocolNumbers[transport.protocol], 0, 0, ...addresses[4].flat(), ...options],
  ];
  return header.toSpliced(10, 2, ...big16(0xffff - sumOf(header)));
}

function ipv6Header(packet: NetPacket, bodyBytes: number, fragment: Fragment | undefined): number[] {
  const { trafficClass, hopByHop, transport } = packet;
  const protocol = protocolNumbers[transport.protocol];
  const last = fragment === undefined
    ? []
    : [protocol, 0, ...big16(fragment.offset | Number(fragment.more)), ...big32(fragment.identification)];
  const behind = fragment === undefined ? protocol : protocolNumbers.fragment;
  const first = hopByHop.length > 0 ? [behind, ...hopByHop] : [];
  const next = hopByHop.length > 0 ? protocolNumbers.hopByHop : behind;
  const length = first.length + last.length + bodyBytes;
  return [
    ...[...big32((6 << 28 | trafficClass << 20 | flowLabel) >>> 0), ...big16(length), next, timeToLive],
    ...[...addresses[6].flat(), ...first, ...last],
  ];
}

function concat(...parts: readonly ArrayLike<number>[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

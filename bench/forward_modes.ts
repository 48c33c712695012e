/**
 * testpmd's forwarding modes in TypeScript: what each does to a packet where it lies.
 *
 * @module
 */

/** A packet: its bytes from the destination address on, and its virtio-net header. */
export interface Packet {
  readonly data: Uint8Array;
  readonly header: Uint8Array;
}

/** Returns whether the packet goes on. */
export type Mode = (packet: Packet) => boolean;

const ethertype = { arp: 0x0806, ipv4: 0x0800, ipv6: 0x86dd, vlan: 0x8100, qinq: 0x88a8 } as const;
const protocol = { icmp: 1, tcp: 6, udp: 17 } as const;
const needsCsum = 1;

function read16(bytes: Uint8Array, at: number): number {
  return bytes[at]! << 8 | bytes[at + 1]!;
}

function write16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >> 8;
  bytes[at + 1] = value;
}

/** Two fields that lie one behind the other change places. */
function swap(bytes: Uint8Array, at: number, length: number): void {
  const first = bytes.slice(at, at + length);
  bytes.copyWithin(at, at + length, at + 2 * length);
  bytes.set(first, at + length);
}

function swapMacs({ data }: Packet): boolean {
  swap(data, 0, 6);
  return true;
}

/** What lies behind Ethernet and up to two tags. */
function network(data: Uint8Array): { type: number; at: number } {
  let at = 12;
  for (let tags = 0; tags < 3 && at + 2 <= data.length; tags++, at += 4) {
    const type = read16(data, at);
    if (type !== ethertype.vlan && type !== ethertype.qinq) return { type, at: at + 2 };
  }
  return { type: 0, at: data.length };
}

/** TCP, UDP or ICMP: where, how long, and what else its checksum covers. */
interface Segment {
  readonly protocol: number;
  readonly at: number;
  readonly length: number;
  readonly addresses: { readonly at: number; readonly length: number };
}

function segmentOf(data: Uint8Array): Segment | undefined {
  const { type, at } = network(data);
  if (type === ethertype.ipv4 && data.length >= at + 20) {
    const headerBytes = (data[at]! & 15) * 4;
    const isFragment = (read16(data, at + 6) & 0x3fff) !== 0;
    if (data[at]! >> 4 !== 4 || headerBytes < 20 || isFragment) return undefined;
    const length = read16(data, at + 2) - headerBytes;
    return { protocol: data[at + 9]!, at: at + headerBytes, length, addresses: { at: at + 12, length: 4 } };
  }
  if (type !== ethertype.ipv6 || data.length < at + 40) return undefined;
  const addresses = { at: at + 8, length: 16 };
  return { protocol: data[at + 6]!, at: at + 40, length: read16(data, at + 4), addresses };
}

function hasPorts({ protocol: number, length }: Segment): boolean {
  return (number === protocol.tcp || number === protocol.udp) && length >= 8;
}

function swapFive(packet: Packet): boolean {
  swapMacs(packet);
  const segment = segmentOf(packet.data);
  if (segment === undefined) return true;
  swap(packet.data, segment.addresses.at, segment.addresses.length);
  if (hasPorts(segment) && segment.at + 4 <= packet.data.length) swap(packet.data, segment.at, 2);
  return true;
}

/** RFC 1071, over `length` bytes, from what was summed up before. */
function sum(bytes: Uint8Array, at: number, length: number, before = 0): number {
  let total = before;
  for (let i = at; i + 1 < at + length; i += 2) total += read16(bytes, i);
  return length % 2 === 1 ? total + (bytes[at + length - 1]! << 8) : total;
}

function finish(total: number): number {
  let folded = total;
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x10000);
  return ~folded & 0xffff;
}

/** The checksums of IPv4, TCP and UDP anew; a UDP packet without one stays so, and segments yet to be cut wait. */
function fillChecksums({ data, header }: Packet): void {
  const { type, at } = network(data);
  const segment = segmentOf(data);
  if (type === ethertype.ipv4 && segment !== undefined) {
    write16(data, at + 10, 0);
    write16(data, at + 10, finish(sum(data, at, segment.at - at)));
  }
  if (segment === undefined || !hasPorts(segment) || header[1] !== 0) return;
  if (segment.at + segment.length > data.length) return;
  const isTcp = segment.protocol === protocol.tcp;
  const field = segment.at + (isTcp ? 16 : 6);
  const unfinished = (header[0]! & needsCsum) !== 0;
  if (!isTcp && !unfinished && read16(data, field) === 0) return;
  write16(data, field, 0);
  const { addresses } = segment;
  const pseudo = sum(data, addresses.at, 2 * addresses.length) + segment.protocol + segment.length;
  const value = finish(sum(data, segment.at, segment.length, pseudo));
  write16(data, field, value === 0 && !isTcp ? 0xffff : value);
  header.fill(0);
}

function answerArp(data: Uint8Array, at: number, own: Uint8Array): boolean {
  if (data.length < at + 28 || read16(data, at + 6) !== 1) return false;
  data[at + 7] = 2;
  swap(data, at + 8, 10);
  data.set(own, at + 8);
  data.copyWithin(0, 6, 12);
  data.set(own, 6);
  return true;
}

function answerEcho(packet: Packet): boolean {
  const { data } = packet;
  const segment = segmentOf(data);
  if (segment?.protocol !== protocol.icmp || data[segment.at] !== 8) return false;
  data[segment.at] = 0;
  write16(data, segment.at + 2, finish(0xffff - read16(data, segment.at + 2) + 0xf7ff));
  swap(data, 0, 6);
  swap(data, segment.addresses.at, 4);
  return true;
}

/** The modes of a port with this address, which sends to that one; both as six bytes. */
export function forwardModes(own: Uint8Array, peer: Uint8Array): Record<string, Mode> {
  const setMacs = ({ data }: Packet) => {
    data.set(peer, 0);
    data.set(own, 6);
    return true;
  };
  return {
    mac: setMacs,
    macswap: swapMacs,
    "5tswap": swapFive,
    rxonly: () => false,
    csum: (packet) => {
      fillChecksums(packet);
      return setMacs(packet);
    },
    icmpecho: (packet) => {
      const { type, at } = network(packet.data);
      return type === ethertype.arp ? answerArp(packet.data, at, own) : answerEcho(packet);
    },
  };
}

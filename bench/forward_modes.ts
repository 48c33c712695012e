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

/** What IP's header says. */
interface Ip {
  readonly version: 4 | 6;
  readonly at: number;
  readonly protocol: number;
  /** Source, then destination, of so many bytes each. */
  readonly addresses: { readonly at: number; readonly length: number };
  /** How far into a packet of which this is a fragment, in units of 8 bytes. */
  readonly offset: number;
  /** One of several, the first included. */
  readonly isFragment: boolean;
  readonly payload: { readonly at: number; readonly length: number };
}

/** Undefined: there is none, or not all of it. */
function ipOf(data: Uint8Array): Ip | undefined {
  const { type, at } = network(data);
  if (type === ethertype.ipv4) return ipv4Of(data, at);
  if (type !== ethertype.ipv6 || data.length < at + 40) return undefined;
  return {
    version: 6,
    at,
    protocol: data[at + 6]!,
    addresses: { at: at + 8, length: 16 },
    offset: 0,
    isFragment: false,
    payload: { at: at + 40, length: read16(data, at + 4) },
  };
}

function ipv4Of(data: Uint8Array, at: number): Ip | undefined {
  if (data.length < at + 20) return undefined;
  const headerBytes = (data[at]! & 15) * 4;
  if (data[at]! >> 4 !== 4 || headerBytes < 20 || data.length < at + headerBytes) return undefined;
  const fragment = read16(data, at + 6);
  return {
    version: 4,
    at,
    protocol: data[at + 9]!,
    addresses: { at: at + 12, length: 4 },
    offset: fragment & 0x1fff,
    isFragment: (fragment & 0x3fff) !== 0,
    payload: { at: at + headerBytes, length: read16(data, at + 2) - headerBytes },
  };
}

function isTcpOrUdp(ip: Ip): boolean {
  return ip.protocol === protocol.tcp || ip.protocol === protocol.udp;
}

/** No checksum changes by that. */
function swapFive(packet: Packet): boolean {
  const { data } = packet;
  swapMacs(packet);
  const ip = ipOf(data);
  if (ip === undefined) return true;
  swap(data, ip.addresses.at, ip.addresses.length);
  if (isTcpOrUdp(ip) && ip.offset === 0 && ip.payload.at + 4 <= data.length) swap(data, ip.payload.at, 2);
  return true;
}

/** RFC 1071, over `length` bytes, from what was summed up before. */
export function sum(bytes: Uint8Array, at: number, length: number, before = 0): number {
  let total = before;
  for (let i = at; i + 1 < at + length; i += 2) total += read16(bytes, i);
  return length % 2 === 1 ? total + (bytes[at + length - 1]! << 8) : total;
}

/** What is written of such a sum. */
export function finish(total: number): number {
  let folded = total;
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x10000);
  return ~folded & 0xffff;
}

/**
 * The checksums of IPv4, TCP and UDP anew. A UDP packet without one stays so, fragments have it of the whole, and
 * segments yet to be cut wait.
 */
function fillChecksums({ data, header }: Packet): void {
  const ip = ipOf(data);
  if (ip === undefined) return;
  if (ip.version === 4) {
    write16(data, ip.at + 10, 0);
    write16(data, ip.at + 10, finish(sum(data, ip.at, ip.payload.at - ip.at)));
  }
  if (isTcpOrUdp(ip) && !ip.isFragment && header[1] === 0) fillTransport(data, header, ip);
}

function fillTransport(data: Uint8Array, header: Uint8Array, { protocol: number, addresses, payload }: Ip): void {
  const isTcp = number === protocol.tcp;
  if (payload.length < (isTcp ? 20 : 8) || payload.at + payload.length > data.length) return;
  const field = payload.at + (isTcp ? 16 : 6);
  const unfinished = (header[0]! & needsCsum) !== 0;
  // It may be that of a packet inside this one, in a tunnel.
  if (unfinished && (header[6]! | header[7]! << 8) !== payload.at) return;
  if (unfinished && payload.at + (header[8]! | header[9]! << 8) !== field) return;
  if (!isTcp && !unfinished && read16(data, field) === 0) return;
  write16(data, field, 0);
  const pseudo = sum(data, addresses.at, 2 * addresses.length) + number + payload.length;
  const value = finish(sum(data, payload.at, payload.length, pseudo));
  // In UDP, 0 stands for none (RFC 768).
  write16(data, field, value === 0 && !isTcp ? 0xffff : value);
  header.fill(0);
}

/** IPv4 over Ethernet, a request. */
const arpRequest = [0, 1, 8, 0, 6, 4, 0, 1];

function answerArp(data: Uint8Array, at: number, own: Uint8Array): boolean {
  if (data.length < at + 28 || !arpRequest.every((byte, i) => data[at + i] === byte)) return false;
  data[at + 7] = 2;
  swap(data, at + 8, 10);
  data.set(own, at + 8);
  data.copyWithin(0, 6, 12);
  data.set(own, 6);
  return true;
}

function answerEcho(packet: Packet): boolean {
  const { data } = packet;
  const ip = ipOf(data);
  if (ip?.version !== 4 || ip.isFragment || ip.protocol !== protocol.icmp) return false;
  const { at } = ip.payload;
  if (data.length < at + 8 || data[at] !== 8 || data[at + 1] !== 0) return false;
  data[at] = 0;
  // What the type loses the checksum gains, and its carry. Never 0, which a packet of zeros would not verify with.
  const grown = read16(data, at + 2) + 0x0800;
  write16(data, at + 2, grown > 0xffff ? grown - 0xffff : grown);
  swapMacs(packet);
  swap(data, ip.addresses.at, ip.addresses.length);
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

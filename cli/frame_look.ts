/**
 * What a frame of somebody else's says of itself, found in its bytes.
 *
 * @module
 */
import { sumOf } from "./net_packet.ts";

/** Of a checksum that should be finished; `none` where there is none, or not all of what it is taken over. */
export type ChecksumFinding = "right" | "wrong" | "none";

const tagTypes = [0x8100, 0x88a8];
const protocols = { tcp: 6, udp: 17 } as const;
/** Hop-by-hop options, routing, destination options (RFC 8200, 4.1). */
const extensions = [0, 43, 60];

/** A datagram and the part of its pseudo-header that is in the IP header. */
interface Datagram {
  readonly addresses: Uint8Array;
  readonly protocol: number;
  readonly bytes: Uint8Array;
}

function word(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) << 8 | (bytes[at + 1] ?? 0);
}

/** Behind all tags. */
function networkOf(frame: Uint8Array): { type: number; bytes: Uint8Array } {
  let at = 12;
  while (tagTypes.includes(word(frame, at))) at += 4;
  return { type: word(frame, at), bytes: frame.subarray(at + 2) };
}

/** Undefined: a fragment, or cut short. */
function ipv4Datagram(bytes: Uint8Array): Datagram | undefined {
  const headerBytes = 4 * ((bytes[0] ?? 0) & 0xf);
  const total = word(bytes, 2);
  const isFragment = (word(bytes, 6) & 0x3fff) !== 0;
  if (headerBytes < 20 || total < headerBytes || total > bytes.length || isFragment) return undefined;
  return { addresses: bytes.subarray(12, 20), protocol: bytes[9]!, bytes: bytes.subarray(headerBytes, total) };
}

function ipv6Datagram(bytes: Uint8Array): Datagram | undefined {
  const end = 40 + word(bytes, 4);
  if (bytes.length < end) return undefined;
  let protocol = bytes[6]!;
  let at = 40;
  while (extensions.includes(protocol) && at + 8 <= end) {
    protocol = bytes[at]!;
    at += 8 * (bytes[at + 1]! + 1);
  }
  return at > end ? undefined : { addresses: bytes.subarray(8, 40), protocol, bytes: bytes.subarray(at, end) };
}

function transportFinding({ addresses, protocol, bytes }: Datagram): ChecksumFinding {
  const field = { [protocols.tcp]: 16, [protocols.udp]: 6 }[protocol];
  if (field === undefined || bytes.length < field + 2) return "none";
  // 0 stands for none (RFC 768).
  if (protocol === protocols.udp && word(bytes, field) === 0) return "none";
  const length = [bytes.length >> 8, bytes.length & 0xff];
  return sumOf(addresses, [0, protocol], length, bytes) === 0xffff ? "right" : "wrong";
}

/** Whether checksums of TCP or UDP, and of an IPv4 header in front of it, are as they must be. */
export function checksumFinding(frame: Uint8Array): ChecksumFinding {
  const { type, bytes } = networkOf(frame);
  if (type === 0x86dd && bytes.length >= 40) {
    const datagram = ipv6Datagram(bytes);
    return datagram === undefined ? "none" : transportFinding(datagram);
  }
  if (type !== 0x0800 || bytes.length < 20) return "none";
  const datagram = ipv4Datagram(bytes);
  if (datagram === undefined) return "none";
  return sumOf(bytes.subarray(0, 4 * (bytes[0]! & 0xf))) === 0xffff ? transportFinding(datagram) : "wrong";
}

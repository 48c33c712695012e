/**
 * Frames, and what each forwarding mode makes of them on the way from port 0 to port 1.
 *
 * @module
 */
import { joined } from "./hostile_bytes.ts";

const here = bytes("52 54 00 00 00 01");
const there = bytes("52 54 00 00 00 02");
const payload = new Uint8Array(200).fill(0x77);

export function bytes(hex: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(hex.split(" "), (byte) => parseInt(byte, 16));
}

/** From `here` to `there`, over IPv4. */
export function ipv4(
  protocol: string,
  rest: Uint8Array,
  from = "0a 00 00 01",
  to = "0a 00 00 02",
): Uint8Array<ArrayBuffer> {
  const head = `08 00 45 00 00 c8 00 01 00 00 40 ${protocol} 12 34 ${from} ${to}`;
  return joined(there, here, bytes(head), rest);
}

export interface ModeCase {
  readonly mode: string;
  readonly sent: Uint8Array<ArrayBuffer>;
  /** What the other port's guest gets; undefined: nothing. */
  readonly arrives?: Uint8Array<ArrayBuffer>;
  /** What comes back to the sender. */
  readonly returns?: Uint8Array<ArrayBuffer>;
}

export const udp = joined(bytes("00 01 00 02"), payload);
const echo = joined(bytes("08 00 f0 ff 00 01 00 01"), new Uint8Array(30));
const reply = joined(bytes("00 00 f8 ff 00 01 00 01"), new Uint8Array(30));
const turned = joined(
  here,
  there,
  ipv4("11", joined(bytes("00 02 00 01"), payload), "0a 00 00 02", "0a 00 00 01").subarray(12),
);

/** The sum of 16-bit words, whose carries are added again (RFC 1071). */
export function sumOf(...pieces: Uint8Array[]): number {
  let total = 0;
  joined(...pieces).forEach((byte, index) => total += index % 2 === 0 ? byte << 8 : byte);
  while (total > 0xffff) total = (total & 0xffff) + (total >> 16);
  return total;
}

/** UDP over IPv4, its checksums right. */
function summed(): Uint8Array<ArrayBuffer> {
  const datagram = joined(bytes("00 01 00 02 00 d0 00 00"), payload);
  const frame = joined(bytes("02 00 00 00 00 01 56 48 4f 53 54 01"), ipv4("11", datagram).subarray(12));
  const view = new DataView(frame.buffer);
  view.setUint16(16, 20 + datagram.length);
  view.setUint16(24, 0);
  view.setUint16(24, 0xffff - sumOf(frame.subarray(14, 34)));
  view.setUint16(40, 0xffff - sumOf(frame.subarray(26, 34), bytes("00 11 00 d0"), datagram));
  return frame;
}

/** The same with wrong ones, before it was forwarded. */
function unsummed(): Uint8Array<ArrayBuffer> {
  const frame = joined(there, here, summed().subarray(12));
  frame[24]! ^= 0x55;
  frame[40]! ^= 0x55;
  return frame;
}

export const cases: readonly ModeCase[] = [
  { mode: "io", sent: ipv4("11", udp), arrives: ipv4("11", udp) },
  {
    mode: "mac",
    sent: ipv4("11", udp),
    arrives: joined(bytes("02 00 00 00 00 01 56 48 4f 53 54 01"), ipv4("11", udp).subarray(12)),
  },
  { mode: "macswap", sent: ipv4("11", udp), arrives: joined(here, there, ipv4("11", udp).subarray(12)) },
  { mode: "5tswap", sent: ipv4("11", udp), arrives: turned },
  { mode: "rxonly", sent: ipv4("11", udp) },
  { mode: "csum", sent: unsummed(), arrives: summed() },
  {
    mode: "icmpecho",
    sent: ipv4("01", echo),
    returns: joined(here, there, ipv4("01", reply, "0a 00 00 02", "0a 00 00 01").subarray(12)),
  },
  { mode: "icmpecho", sent: ipv4("11", udp) },
];

/** A frame of ours for the guest of a port, its UDP datagram of zeros. */
export function ours(port: number, length: number, addresses: string, ports: string): Uint8Array<ArrayBuffer> {
  const head = `02 00 00 00 00 0${port} 56 48 4f 53 54 0${port} 08 00 45 00 00 00 00 00 00 00 40 11 00 00`;
  const frame = joined(bytes(`${head} ${addresses} ${ports} 00 00 00 00`), new Uint8Array(length - 42));
  const view = new DataView(frame.buffer);
  view.setUint16(16, length - 14);
  view.setUint16(38, length - 34);
  view.setUint16(24, 0xffff - sumOf(frame.subarray(14, 34)));
  return frame;
}

/** Addresses and ports of txonly's frames. */
export const benchmark = ["c6 12 00 01 c6 12 00 02", "00 09 00 09"] as const;

/** The same of flowgen's, by their number. */
export function flow(number: number): readonly [addresses: string, ports: string] {
  const last = (number % 1024).toString(16).padStart(4, "0");
  return [`0a fe 00 00 0a fd ${last.slice(0, 2)} ${last.slice(2)}`, "03 e8 03 e9"];
}

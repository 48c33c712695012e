/**
 * What arrived against what must arrive, byte by byte.
 *
 * @module
 */
import { layoutOf } from "./net_packet.ts";
import type { Arrival, NetHeader } from "./segment_model.ts";
import type { TestPacket } from "./tso_packets.ts";
import type { Failure } from "./tso_result.ts";

/** A frame with its virtio-net header, as a guest received it. */
export type Received = Pick<Arrival, "header" | "bytes">;

/** A packet, and all that must arrive of it. */
export interface Expectation {
  readonly packet: TestPacket;
  readonly arrivals: readonly Arrival[];
}

const rowBytes = 16;
/** What IPv6 lets whoever cuts choose (RFC 8200, 4.5). */
const chosenBytes = 4;

const headerNames: Record<keyof NetHeader, string> = {
  flags: "flags",
  gsoType: "gso_type",
  headerBytes: "hdr_len",
  gsoSize: "gso_size",
  checksumStart: "csum_start",
  checksumOffset: "csum_offset",
};

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
}

/** A row of each side, with the one before. */
function excerpt(expected: Uint8Array, received: Uint8Array, at: number): string[] {
  const row = at - at % rowBytes;
  return [row - rowBytes, row].filter((first) => first >= 0).flatMap((first) => {
    const offset = first.toString(16).padStart(4, "0");
    const sides = { expected, arrived: received };
    return Object.entries(sides).map(([name, bytes]) =>
      `${offset}  ${name.padEnd(8)}  ${hex(bytes.subarray(first, first + rowBytes))}`.trimEnd()
    );
  });
}

/** The header that a byte belongs to; of fragments, those in front of the datagram. */
function whereabouts({ packet, segmentation }: TestPacket, at: number): string {
  const { network, transport, payload } = layoutOf(packet);
  if (at < 14) return `byte ${at} of the Ethernet header`;
  if (at < network) return `byte ${at - 14} behind the Ethernet addresses`;
  if (at < transport) return `byte ${at - network} of the IP header`;
  if (segmentation === "fragments") return `byte ${at - transport} behind the IP header`;
  if (at >= payload) return `byte ${at - payload} of the payload`;
  return `byte ${at - transport} of the ${packet.transport.protocol.toUpperCase()} header`;
}

/** What is expected where it was for the other side to choose. */
function withChosen(bytes: Uint8Array, at: number | undefined, chosen: Uint8Array): Uint8Array {
  if (at === undefined) return bytes;
  const copy = bytes.slice();
  copy.set(chosen.subarray(0, chosenBytes), at);
  return copy;
}

function compareHeaders(expected: NetHeader, received: NetHeader): string | undefined {
  const name = (Object.keys(headerNames) as (keyof NetHeader)[]).find((key) => expected[key] !== received[key]);
  if (name === undefined) return undefined;
  return `virtio-net header: ${headerNames[name]} is ${received[name]}, not ${expected[name]}`;
}

function compareBytes(
  packet: TestPacket,
  expected: Uint8Array,
  received: Uint8Array,
): Omit<Failure, "packet"> | undefined {
  const at = expected.findIndex((byte, index) => byte !== received[index]);
  if (at < 0 && expected.length === received.length) return undefined;
  const first = at < 0 ? expected.length : at;
  const where = first < Math.min(expected.length, received.length)
    ? `${whereabouts(packet, first)} differs`
    : `it has ${received.length} bytes, not ${expected.length}`;
  return { reason: where, lines: excerpt(expected, received, first) };
}

function pieceName(number: number, count: number): string {
  return count === 1 ? "" : `piece ${number + 1} of ${count}: `;
}

/** The first thing that is wrong with what arrived of a packet; undefined, if nothing. */
function checkPacket({ packet, arrivals }: Expectation, received: readonly Received[]): Failure | undefined {
  let chosen: Uint8Array | undefined;
  for (const [number, { header, bytes, chosenAt }] of arrivals.entries()) {
    const name = pieceName(number, arrivals.length);
    const found = received[number];
    if (found === undefined) return { packet: packet.name, reason: `${name}did not arrive`, lines: [] };
    if (chosenAt !== undefined) chosen ??= found.bytes.slice(chosenAt, chosenAt + chosenBytes);
    const difference = compareBytes(packet, withChosen(bytes, chosenAt, chosen ?? bytes), found.bytes);
    if (difference !== undefined) return { packet: packet.name, ...difference, reason: `${name}${difference.reason}` };
    const wrong = compareHeaders(header, found.header);
    if (wrong !== undefined) {
      return { packet: packet.name, reason: `${name}${wrong}`, lines: [] };
    }
  }
  return undefined;
}

/** The first thing that is wrong with what arrived of packets that were sent one after the other. */
export function checkAll(expectations: readonly Expectation[], received: readonly Received[]): Failure | undefined {
  let at = 0;
  for (const expectation of expectations) {
    const end = at + expectation.arrivals.length;
    const failure = checkPacket(expectation, received.slice(at, end));
    if (failure !== undefined) return failure;
    at = end;
  }
  const extra = received[at];
  if (extra === undefined) return undefined;
  const last = expectations.at(-1)!.packet.name;
  return {
    packet: last,
    reason: `${received.length - at} frames too many arrived`,
    lines: [hex(extra.bytes.subarray(0, 64))],
  };
}

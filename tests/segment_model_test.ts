/** The model of segmentation: the numbers are those that Linux 6.18 made of the same packets. */

import assert from "node:assert/strict";
import { bytesOf, layoutOf, type NetPacket, sumOf, type TcpHeader } from "../cli/net_packet.ts";
import { type Arrival, arrivalsOf, type OffloadedPacket, sentOf, type Taken } from "../cli/segment_model.ts";

const payload = Uint8Array.from({ length: 3500 }, (_, index) => index * 7 + (index >> 8));
const udp = { protocol: "udp" } as const;

function tcp(flags: number): TcpHeader {
  const numbers = { sequence: 0xffff_ff00, acknowledgement: 0x1122_3344, window: 0x200, urgent: 0 };
  return { protocol: "tcp", ...numbers, flags, options: [] };
}

function packet(family: 4 | 6, transport: NetPacket["transport"], more: Partial<NetPacket> = {}): NetPacket {
  return {
    ...{ destination: 0x02_00_00_00_00_02, source: 0x02_00_00_00_00_01, tags: [], family, trafficClass: 0 },
    ...{ identification: 0x1234, dontFragment: true, options: [], hopByHop: [], transport, payload },
    ...more,
  };
}

const nothing: Taken = { checksums: false, segments: false };
const checksums: Taken = { checksums: true, segments: false };
const all: Taken = { checksums: true, segments: true };

function offloaded(packet: NetPacket, segmentation: OffloadedPacket["segmentation"], size: number): OffloadedPacket {
  return { packet, segmentation, size, ecn: false };
}

function word({ bytes }: Arrival, at: number): number {
  return bytes[at]! << 8 | bytes[at + 1]!;
}

/** For each arrival its length, then the words at these places. */
function expectWords(arrivals: readonly Arrival[], places: readonly number[], expected: readonly number[][]): void {
  const hex = (rows: readonly number[][]) => rows.map((row) => row.map((value) => value.toString(16)));
  const found = arrivals.map((arrival) => [arrival.bytes.length, ...places.map((at) => word(arrival, at))]);
  assert.deepEqual(hex(found), hex(expected));
}

Deno.test("TCP over IPv4 with a tag is cut as Linux cuts it", () => {
  const offered = offloaded(packet(4, tcp(0x10), { tags: [0x6064] }), "tcp", 1000);
  expectWords(arrivalsOf(offered, nothing), [20, 22, 28, 42, 44, 50, 54], [
    [1058, 0x0410, 0x1234, 0x10b2, 0xffff, 0xff00, 0x5010, 0x2f07],
    [1058, 0x0410, 0x1235, 0x10b1, 0x0000, 0x02e8, 0x5010, 0xa79e],
    [1058, 0x0410, 0x1236, 0x10b0, 0x0000, 0x06d0, 0x5010, 0x2434],
    [558, 0x021c, 0x1237, 0x12a3, 0x0000, 0x0ab8, 0x5010, 0xe0d6],
  ]);
});

Deno.test("TCP over IPv6 is cut as Linux cuts it, flags and all", () => {
  expectWords(arrivalsOf(offloaded(packet(6, tcp(0xff)), "tcp", 1000), nothing), [18, 60, 66, 70], [
    [1074, 0x03fc, 0xff00, 0x50f6, 0x481f],
    [1074, 0x03fc, 0x02e8, 0x5076, 0xc136],
    [1074, 0x03fc, 0x06d0, 0x5076, 0x3dcc],
    [574, 0x0208, 0x0ab8, 0x507f, 0xfa65],
  ]);
});

Deno.test("a datagram becomes several, or fragments of itself, as with Linux", () => {
  expectWords(arrivalsOf(offloaded(packet(4, udp), "udp", 1000), nothing), [16, 18, 24, 38, 40], [
    [1042, 0x0404, 0x1234, 0x10b3, 0x03f0, 0xc08f],
    [1042, 0x0404, 0x1235, 0x10b2, 0x03f0, 0x3d0e],
    [1042, 0x0404, 0x1236, 0x10b1, 0x03f0, 0xbd8b],
    [542, 0x0210, 0x1237, 0x12a4, 0x01fc, 0x800a],
  ]);
  expectWords(arrivalsOf(offloaded(packet(4, udp), "fragments", 1480), nothing), [16, 18, 20, 24], [
    [1514, 0x05dc, 0x1234, 0x2000, 0x2edb],
    [1514, 0x05dc, 0x1234, 0x20b9, 0x2e22],
    [582, 0x0238, 0x1234, 0x0172, 0x510d],
  ]);
  const six = arrivalsOf(offloaded(packet(6, udp), "fragments", 1448), nothing);
  expectWords(six, [18, 20, 54, 56], [
    [1510, 0x05b0, 0x2c40, 0x1100, 0x0001],
    [1510, 0x05b0, 0x2c40, 0x1100, 0x05a9],
    [674, 0x026c, 0x2c40, 0x1100, 0x0b50],
  ]);
  assert.equal(word(six[0]!, 68), 0xb4c6);
  assert.deepEqual(six.map(({ chosenAt }) => chosenAt), [58, 58, 58]);
});

Deno.test("who takes checksums gets segments with the sum of their own pseudo-header", () => {
  const arrivals = arrivalsOf(offloaded(packet(6, tcp(0x10)), "tcp", 2000), checksums);
  assert.deepEqual(arrivals.map(({ bytes }) => bytes.length), [2074, 1574]);
  for (const [number, length] of [2020, 1520].entries()) {
    const { header, bytes } = arrivals[number]!;
    const nothingElse = { gsoType: 0, headerBytes: 0, gsoSize: 0 };
    assert.deepEqual(header, { flags: 1, ...nothingElse, checksumStart: 54, checksumOffset: 16 });
    assert.equal(word({ header, bytes }, 70), sumOf(bytes.subarray(22, 54), [0, 6], [length >> 8, length & 0xff]));
  }
});

Deno.test("who takes all gets what was sent, and what needs no cut only gets its checksum", () => {
  const large = offloaded(packet(4, tcp(0x19)), "tcp", 1000);
  assert.deepEqual(arrivalsOf(large, all), [sentOf(large)]);
  assert.deepEqual(sentOf(large).header, {
    ...{ flags: 1, gsoType: 1, headerBytes: 54, gsoSize: 1000, checksumStart: 34, checksumOffset: 16 },
  });
  assert.equal(sentOf({ ...large, ecn: true }).header.gsoType, 0x81);
  const fitting = offloaded(packet(4, tcp(0x99)), "tcp", 3500);
  for (const [taken, checksum] of [[nothing, "whole"], [checksums, "partial"]] as const) {
    const [only, ...others] = arrivalsOf(fitting, taken);
    assert.deepEqual(others, []);
    assert.deepEqual(only!.bytes, bytesOf(fitting.packet, checksum));
    assert.equal(only!.header.gsoType, 0);
  }
  // The UDP header counts where a datagram is cut into fragments.
  assert.equal(arrivalsOf(offloaded(packet(4, udp), "fragments", 3508), nothing).length, 1);
  assert.equal(arrivalsOf(offloaded(packet(4, udp), "fragments", 3504), nothing).length, 2);
  assert.equal(arrivalsOf(offloaded(packet(4, udp), "udp", 3500), nothing).length, 1);
});

Deno.test("options and hop-by-hop headers are repeated, and every sum of a whole packet is right", () => {
  const hopByHop = [0, 1, 4, 0, 0, 0, 0];
  const options = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
  const four = packet(4, { ...tcp(0x18), options }, { options: [1, 1, 1, 0] });
  const six = packet(6, { ...tcp(0x18), options }, { hopByHop, tags: [1, 2] });
  assert.deepEqual(layoutOf(four), { network: 14, transport: 38, payload: 70, checksumOffset: 16 });
  assert.deepEqual(layoutOf(six), { network: 22, transport: 70, payload: 102, checksumOffset: 16 });
  for (const { bytes } of arrivalsOf(offloaded(four, "tcp", 1448), nothing)) {
    assert.equal(sumOf(bytes.subarray(14, 38)), 0xffff);
    assert.deepEqual([...bytes.subarray(58, 70)], options);
    const length = bytes.length - 38;
    assert.equal(sumOf(bytes.subarray(26, 34), [0, 6, length >> 8, length & 0xff], bytes.subarray(38)), 0xffff);
  }
  for (const { bytes } of arrivalsOf(offloaded(six, "tcp", 1448), nothing)) {
    assert.deepEqual([...bytes.subarray(62, 70)], [6, ...hopByHop]);
    const length = bytes.length - 70;
    assert.equal(sumOf(bytes.subarray(30, 62), [0, 6, length >> 8, length & 0xff], bytes.subarray(70)), 0xffff);
  }
  const fragments = arrivalsOf(offloaded(packet(6, udp, { hopByHop }), "fragments", 1449), nothing);
  assert.deepEqual([...fragments[1]!.bytes.subarray(54, 66)], [44, ...hopByHop, 17, 0, 0x05, 0xa9]);
  assert.equal(fragments[0]!.chosenAt, 66);
});

Deno.test("a sum of 0 is written as Linux writes it", () => {
  const zeroed = (transport: NetPacket["transport"]) => {
    const base = packet(4, transport, { payload: new Uint8Array(8) });
    const { transport: at, checksumOffset } = layoutOf(base);
    const sum = word(
      { bytes: bytesOf(base, "whole"), header: sentOf(offloaded(base, "none", 0)).header },
      at + checksumOffset,
    );
    return { ...base, payload: Uint8Array.of(sum >> 8, sum & 0xff, 0, 0, 0, 0, 0, 0) };
  };
  const sumIn = (packet: NetPacket, zero: 0 | 0xffff) => {
    const { transport, checksumOffset } = layoutOf(packet);
    const bytes = bytesOf(packet, "whole", zero);
    return bytes[transport + checksumOffset]! << 8 | bytes[transport + checksumOffset + 1]!;
  };
  assert.deepEqual([sumIn(zeroed(udp), 0), sumIn(zeroed(tcp(0)), 0), sumIn(zeroed(tcp(0)), 0xffff)], [
    0xffff,
    0,
    0xffff,
  ]);
});

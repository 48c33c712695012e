/** Payloads byte for byte, as C lays them out on the front ends' side. */

import assert from "node:assert/strict";
import fc from "fast-check";
import * as wire from "../vhost/wire.ts";

const region = {
  gpa: 0x1_0000_0000n,
  size: 0x4000_0000n,
  userAddress: 0x7fff_dead_f000n,
  mmapOffset: 0xc000_0000n,
};
const regionHex = "0000000001000000" + "0000004000000000" + "00f0addeff7f0000" + "000000c000000000";

/** A payload and its bytes. */
function golden<T>(name: string, codec: wire.Codec<T>, value: T, hex: string): void {
  Deno.test(`${name} is laid out as the specification has it`, () => {
    const bytes = codec.encode(value);
    assert.equal(bytes.toHex(), hex);
    assert.deepEqual(codec.decode(bytes), value);
    // A payload within a bigger buffer.
    const buffer = new Uint8Array(bytes.length + 32).fill(0xee);
    buffer.set(bytes, 5);
    assert.deepEqual(codec.decode(buffer.subarray(5, 5 + bytes.length)), value);
  });
}

golden("no payload", wire.empty, null, "");
golden("u64", wire.u64, 0x101_7020_ff83n, "83ff207001010000");
golden("vring state", wire.vringState, { index: 3, num: 0x8000_8000 }, "0300000000800080");
golden(
  "vring address",
  wire.vringAddress,
  { index: 2, flags: 1, desc: 0x1000n, used: 0x2000n, avail: 0x3000n, log: 0x4000n },
  "02000000" + "01000000" + "0010000000000000" + "0020000000000000" + "0030000000000000" + "0040000000000000",
);
golden("an empty memory table", wire.memoryRegions, [], "0000000000000000");
golden(
  "a memory table",
  wire.memoryRegions,
  [region, { ...region, gpa: 0n }],
  [
    "0200000000000000",
    regionHex,
    "0000000000000000",
    regionHex.slice(16),
  ].join(""),
);
golden("a single region", wire.singleRegion, region, "0000000000000000" + regionHex);
golden("a log", wire.log, { size: 0x2000n, offset: 0x1000n }, "0020000000000000" + "0010000000000000");
golden(
  "an IOTLB message, padded to 32 bytes",
  wire.iotlb,
  { iova: 0xffff_f000n, size: 0x1000n, userAddress: 0x7f00_0000_0000n, permission: 3, type: 2 },
  "00f0ffff00000000" + "0010000000000000" + "00000000007f0000" + "0302" + "000000000000",
);
golden(
  "a vring area",
  wire.vringArea,
  { vring: 1n, size: 0x1000n, offset: 0x3000n },
  "0100000000000000" + "0010000000000000" + "0030000000000000",
);
golden(
  "inflight, padded to 24 bytes",
  wire.inflight,
  { mmapSize: 0x1000n, mmapOffset: 0x40n, queueCount: 2, queueSize: 256 },
  "0010000000000000" + "4000000000000000" + "0200" + "0001" + "00000000",
);
golden("a device state transfer", wire.transfer, { direction: 1, phase: 0 }, "0100000000000000");
golden(
  "a shared memory mapping",
  wire.sharedMapping,
  { region: 7, fdOffset: 0x1000n, regionOffset: 0x2000n, size: 0x3000n, flags: 1n },
  "0700000000000000" + "0010000000000000" + "0020000000000000" + "0030000000000000" + "0100000000000000",
);
golden(
  "config space",
  wire.config,
  { offset: 10, size: 2, flags: 1, bytes: Uint8Array.of(0xdc, 0x05) },
  "0a000000" + "02000000" + "01000000" + "dc05",
);
golden("a UUID", wire.uuid, Uint8Array.from({ length: 16 }, (_, i) => i), "000102030405060708090a0b0c0d0e0f");
golden("opaque bytes", wire.opaque, Uint8Array.of(1, 2, 3), "010203");

Deno.test("A memory table is refused when its count and its length differ, or when it has too many regions", () => {
  for (const [count, length] of [[1, 8], [0, 40], [2, 40], [9, 8 + 9 * 32], [0xffff_ffff, 8], [8, 8 + 7 * 32]]) {
    const bytes = new Uint8Array(length!);
    new DataView(bytes.buffer).setUint32(0, count!, true);
    assert.equal(wire.memoryRegions.decode(bytes), undefined, `${count} regions in ${length} bytes`);
  }
});

Deno.test("Config space is refused when its size and its length differ, or when it is too big", () => {
  for (const [size, length] of [[0, 13], [2, 12], [257, 12 + 257], [0xffff_ffff, 12]]) {
    const bytes = new Uint8Array(length!);
    new DataView(bytes.buffer).setUint32(4, size!, true);
    assert.equal(wire.config.decode(bytes), undefined, `${size} bytes in ${length}`);
  }
});

Deno.test("Reading never throws, and what could be read is written the same, padding apart", () => {
  const codecs: wire.Codec<unknown>[] = Object.values(wire) as wire.Codec<unknown>[];
  const lengths = fc.constantFrom(0, 3, 8, 12, 14, 16, 24, 32, 40, 72);
  const payloads = lengths.chain((length) => fc.uint8Array({ minLength: length, maxLength: length }));
  fc.assert(fc.property(fc.constantFrom(...codecs), payloads, (codec, bytes) => {
    const value = codec.decode(bytes);
    if (value === undefined) return;
    const written = codec.encode(value);
    assert.equal(written.length, bytes.length);
    assert.deepEqual(codec.decode(written), value);
  }));
});

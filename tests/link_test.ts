/** What one guest is told of another: the table, and the page that carries it. */

import assert from "node:assert/strict";
import { identifyFile, openEventfd, openMemoryFile } from "../ffi/fd.ts";
import { Link, linkBytes } from "../ffi/link.ts";
import { loadLibrary, VringError } from "../ffi/library.ts";
import { openSystemFile } from "../ffi/machine.ts";
import type { VringConfig } from "../vhost/dataplane.ts";
import { RefusedError } from "../vhost/error.ts";
import {
  emptyLink,
  isBase,
  memoryFile,
  runs,
  withEnabled,
  withoutRings,
  withStarted,
  withStopped,
} from "../vhost/link_table.ts";
import { featureSet } from "../vhost/spec.ts";

// Opened once for all tests: it stays open.
loadLibrary();

const split = featureSet(["VERSION_1", "MRG_RXBUF"]);
const config: VringConfig = {
  features: split,
  size: 256,
  base: 7,
  desc: 0x1000n,
  avail: 0x2000n,
  used: 0x3000n,
  flags: 0,
  log: 0n,
};

Deno.test("a ring of a link starts, is enabled, and stops, and the others stay as they are", () => {
  const started = withStarted(emptyLink(2), 3, config, 1);
  assert.deepEqual(started.vrings[3], {
    ...{ desc: 0x1000n, avail: 0x2000n, used: 0x3000n, size: 256, base: 7, start: 1, enabled: false },
  });
  assert.equal(started.features, split);
  assert.deepEqual(started.vrings.map(({ start }) => start), [0, 0, 0, 1]);
  const enabled = withEnabled(started, 3, true);
  const stopped = withStopped(enabled, 3);
  assert.deepEqual([runs(started), runs(stopped)], [true, false]);
  assert.equal(stopped.vrings[3]!.enabled, true);
  const hidden = withoutRings({ ...enabled, regions: [{ gpa: 0n, size: 1n, offset: 0n }] });
  assert.deepEqual([hidden.regions, runs(hidden)], [[], false]);
});

Deno.test("guest memory that a BAR cannot show is refused with the reason", () => {
  const file = { device: 1n, inode: 2n, size: 1n << 30n };
  assert.equal(memoryFile([]), undefined);
  assert.deepEqual(memoryFile([file, { ...file }]), file);
  assert.throws(() => memoryFile([file, { ...file, inode: 3n }]), (error) => {
    return error instanceof RefusedError && /more than one file/.test(error.message);
  });
  for (const size of [0n, 3n << 29n]) {
    assert.throws(() => memoryFile([{ ...file, size }]), (error) => {
      return error instanceof RefusedError && /no power of two/.test(error.message);
    });
  }
});

Deno.test("where a ring stands is believed only where it can stand there", () => {
  const packed = featureSet(["VERSION_1", "RING_PACKED"]);
  assert.deepEqual([0, 0xffff, 0x1_0000].map((base) => isBase(split, 256, base)), [true, true, false]);
  assert.deepEqual([0x8005_80ff, 0x8000_0100, 0x0100_0000].map((base) => isBase(packed, 256, base)), [
    true,
    false,
    false,
  ]);
});

Deno.test("a page carries a table from one process's mapping to another's, and back where the rings were left", () => {
  const path = Deno.makeTempFileSync();
  try {
    using writer = Link.create(path, 0o600);
    assert.equal(Deno.statSync(path).size, linkBytes);
    assert.throws(() => Link.create(path, 0o600), (error) => error instanceof VringError && error.status === "busy");
    using file = openMemoryFile(BigInt(linkBytes));
    assert.throws(() => Link.attach(file), (error) => {
      return error instanceof VringError && error.status === "invalid_argument";
    });
    const regions = [{ gpa: 0x10_0000n, size: 0x1000n, offset: 0x8000n }];
    const table = { ...withStarted(emptyLink(1), 1, config, 4), peer: 3, mtu: 1500, regions };
    const generation = writer.publish(table);
    using reader = Link.attach(openSystemFile(`/proc/self/root${path}`));
    assert.deepEqual(reader.read(), { generation, table });
    assert.equal(writer.isAcknowledged(generation, 1), false);
    reader.setStand(1, { start: 4, base: 9 });
    reader.acknowledge(generation);
    assert.equal(writer.isAcknowledged(generation), true);
    assert.deepEqual(writer.standOf(1), { start: 4, base: 9 });
    assert.notEqual(writer.publish(table), generation);
    reader.acknowledge(undefined);
    assert.equal(writer.isAcknowledged(reader.generation), false);
  } finally {
    Deno.removeSync(path);
  }
});

Deno.test("a file is told from another, and what is no file is refused", () => {
  using one = openMemoryFile(4096n);
  using other = openMemoryFile(8192n);
  assert.notEqual(identifyFile(one.number).inode, identifyFile(other.number).inode);
  assert.equal(identifyFile(other.number).size, 8192n);
  using eventfd = openEventfd();
  assert.throws(() => identifyFile(eventfd.number), VringError);
});

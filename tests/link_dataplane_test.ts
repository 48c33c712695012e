/** What a front end says of its rings, told to another VM, which follows in time, late, wrongly, or not at all. */

import assert from "node:assert/strict";
import { Engine } from "../ffi/engine.ts";
import { openEventfd, openMemoryFile } from "../ffi/fd.ts";
import { loadLibrary } from "../ffi/library.ts";
import { Link } from "../ffi/link.ts";
import { openSystemFile } from "../ffi/machine.ts";
import { letGo_ms, LinkDataplane } from "../pmd/link_dataplane.ts";
import type { Region, VringConfig } from "../vhost/dataplane.ts";
import { RefusedError } from "../vhost/error.ts";
import type { Fd } from "../vhost/fd.ts";
import { inUse } from "../vhost/link_table.ts";
import { featureSet } from "../vhost/spec.ts";

// Opened once for all tests: it stays open.
loadLibrary();

const memoryBytes = 1 << 20;
const region: Region = { gpa: 0x10_0000n, size: BigInt(memoryBytes), userAddress: 0x7f00_0000n, mmapOffset: 0n };
const config: VringConfig = {
  features: featureSet(["VERSION_1"]),
  size: 256,
  base: 7,
  desc: 0x10_1000n,
  avail: 0x10_2000n,
  used: 0x10_3000n,
  flags: 0,
  log: 0n,
};
const packed: VringConfig = { ...config, features: featureSet(["VERSION_1", "RING_PACKED"]), base: 0x8007_8007 };

/** A data plane, and the other end of its page. */
class Rig implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  readonly #path = Deno.makeTempFileSync();
  readonly #link: Link;
  readonly reader: Link;
  readonly memory: Fd;
  readonly dataplane: LinkDataplane;
  /** In order. */
  readonly linked: boolean[] = [];
  memoryChanges = 0;
  vectorChanges = 0;

  constructor() {
    this.#stack.defer(() => Deno.removeSync(this.#path));
    const engine = this.#stack.use(Engine.open({ portsMax: 1 }));
    this.#link = this.#stack.use(Link.create(this.#path, 0o600));
    this.reader = this.#stack.use(Link.attach(openSystemFile(`/proc/self/root${this.#path}`)));
    this.memory = this.#stack.use(openMemoryFile(BigInt(memoryBytes)));
    this.dataplane = this.#stack.use(
      new LinkDataplane({
        link: this.#link,
        port: engine.openPort({ queuePairs: 1 }),
        queuePairs: 1,
        memoryChanged: () => this.memoryChanges++,
        vectorsChanged: () => this.vectorChanges++,
        linked: (linked) => this.linked.push(linked),
      }),
    );
  }

  /** Memory is there, and the other VM has it, and goes by all that was told. */
  link(): void {
    this.dataplane.setMemory([region], [this.memory]);
    this.dataplane.reach(1);
    this.follow();
  }

  /** As the other VM does it. */
  follow(): void {
    this.reader.beat();
    this.reader.acknowledge(this.reader.generation);
    this.dataplane.look();
  }

  /** The one thread here waits: the other VM lets go before it is asked to. */
  letGoInAdvance(): void {
    this.reader.acknowledge(this.reader.generation + 2);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

Deno.test("rings and memory are shown to the other VM only while it can reach them", async () => {
  await using rig = new Rig();
  const { dataplane, reader } = rig;
  dataplane.setMemory([region], [rig.memory]);
  dataplane.startVring(1, config);
  dataplane.enableVring(1, true);
  assert.equal(rig.memoryChanges, 1);
  const shown = () => reader.read()!.table;
  assert.deepEqual([shown().regions.length, shown().vrings[1]!.start], [0, 0]);
  dataplane.reach(1);
  assert.deepEqual(shown().regions, [{ gpa: region.gpa, size: region.size, offset: 0n }]);
  const { start, ...ring } = shown().vrings[1]!;
  assert.notEqual(start, 0);
  const { desc, avail, used, size, base } = config;
  assert.deepEqual(ring, { desc, avail, used, size, base, enabled: true });
  assert.equal(shown().peer, 1);
  dataplane.reach(undefined);
  assert.deepEqual([shown().regions.length, shown().vrings[1]!.start, shown().peer], [0, 0, 0]);
});

Deno.test("a ring stops where the other VM left it, as soon as that has let go", async () => {
  await using rig = new Rig();
  const { dataplane, reader } = rig;
  rig.link();
  dataplane.startVring(0, packed);
  rig.follow();
  assert.deepEqual(rig.linked, [true]);
  const { start } = reader.read()!.table.vrings[0]!;
  reader.setStand(0, { start, base: inUse });
  assert.equal(dataplane.vringsInUse, 1);
  reader.setStand(0, { start, base: 0x0003_8004 });
  rig.letGoInAdvance();
  assert.equal(dataplane.stopVring(0), 0x0003_8004);
  assert.deepEqual(rig.linked, [true]);
  assert.equal(dataplane.vringsInUse, 0);
  assert.equal(reader.read()!.table.vrings[0]!.start, 0);
});

Deno.test("what the other VM says of a place that cannot be is not believed", async () => {
  await using rig = new Rig();
  const { dataplane, reader } = rig;
  rig.link();
  for (
    const [given, base, expected] of [[config, 0x1_0000, 0], [config, inUse, 0], [packed, 300, packed.base]] as const
  ) {
    dataplane.startVring(0, given);
    rig.follow();
    reader.setStand(0, { start: reader.read()!.table.vrings[0]!.start, base });
    rig.letGoInAdvance();
    // Of a split ring, its own index in guest memory, where nothing was written yet.
    assert.equal(dataplane.stopVring(0), expected);
  }
  dataplane.startVring(0, packed);
  rig.follow();
  reader.setStand(0, { start: reader.read()!.table.vrings[0]!.start - 1, base: 0x8001_8001 });
  rig.letGoInAdvance();
  assert.equal(dataplane.stopVring(0), packed.base);
});

Deno.test("one who does not let go is waited for, once and not for ever", async () => {
  await using rig = new Rig();
  const { dataplane } = rig;
  rig.link();
  for (const index of [0, 1]) dataplane.startVring(index, config);
  rig.follow();
  const started = performance.now();
  for (const index of [0, 1]) dataplane.stopVring(index);
  const passed_ms = performance.now() - started;
  assert(passed_ms >= letGo_ms, `${passed_ms} ms`);
  assert.deepEqual(rig.linked, [true, false]);
  rig.follow();
  assert.deepEqual(rig.linked, [true, false, true]);
});

Deno.test("nobody is waited for where nobody is", async () => {
  await using rig = new Rig();
  const { dataplane } = rig;
  dataplane.setMemory([region], [rig.memory]);
  dataplane.reach(1);
  const started = performance.now();
  for (let round = 0; round < 10; round++) {
    dataplane.startVring(0, config);
    dataplane.look();
    dataplane.stopVring(0);
  }
  assert(performance.now() - started < 10 * letGo_ms);
  assert.deepEqual(rig.linked, []);
});

Deno.test("memory that ivshmem cannot show is refused, and what was there stays", async () => {
  await using rig = new Rig();
  const { dataplane, reader } = rig;
  rig.link();
  using other = openMemoryFile(BigInt(memoryBytes));
  using odd = openMemoryFile(BigInt(3 * memoryBytes));
  const more = { ...region, gpa: 0x1000_0000n, userAddress: 0x7e00_0000n };
  assert.throws(() => dataplane.addRegion(more, other), RefusedError);
  assert.throws(() => dataplane.setMemory([region], [odd]), RefusedError);
  dataplane.startVring(0, config);
  assert.throws(() => dataplane.setMemory([region], [other]), /changes its file while rings run/);
  const { regions, vrings } = reader.read()!.table;
  assert.deepEqual([regions.length, vrings[0]!.start !== 0], [1, true]);
  rig.follow();
  rig.letGoInAdvance();
  dataplane.reset();
  dataplane.setMemory([region], [other]);
  assert.equal(dataplane.isForeign, true);
  assert.deepEqual(reader.read()!.table.regions, []);
  dataplane.reach(2);
  assert.equal(dataplane.isForeign, false);
  assert.equal(reader.read()!.table.regions.length, 1);
});

Deno.test("each ring has a vector, and a driver's eventfd is the one that is rung", async () => {
  await using rig = new Rig();
  const { dataplane } = rig;
  const nobody = dataplane.vectors[0]!;
  assert.deepEqual(dataplane.vectors, [nobody, nobody]);
  const call = openEventfd();
  const { number } = call;
  dataplane.setVringFd(1, "call", call);
  assert.deepEqual(dataplane.vectors, [nobody, number]);
  dataplane.setVringFd(1, "call", undefined);
  assert.deepEqual(dataplane.vectors, [nobody, nobody]);
  assert.equal(rig.vectorChanges, 2);
});

Deno.test("a link can be asked for nothing that it could not keep", async () => {
  await using rig = new Rig();
  const { dataplane } = rig;
  for (const ask of ["setInflight", "setLog", "setLogFd", "logVring", "advisePostCopy", "listenPostCopy"] as const) {
    assert.throws(() => dataplane[ask](), RefusedError);
  }
});

/** Simulated guests on real sockets, in one process with the switch that joins them. */

import assert from "node:assert/strict";
import { loadLibrary } from "../ffi/library.ts";
import {
  Backend,
  type Channel,
  Engine,
  Frontend,
  Guest,
  type GuestOptions,
  latencyQuantile,
  makeOffer,
  type Port,
  Pump,
  VringError,
} from "../mod.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const version1 = 1n << 32n;
const mergeable = 1n << 15n;
const eventIndex = 1n << 29n;
const indirect = 1n << 28n;
const packed = 1n << 34n;
const inOrder = 1n << 35n;
const multiqueue = 1n << 22n;
const protocolFeatures = 1n << 30n;

/** A switch with a socket for each guest, and guests attached to it. */
class Bench implements AsyncDisposable {
  readonly #engine = Engine.open();
  readonly #pump = Pump.open();
  readonly #running = this.#pump.run();
  readonly #directory = Deno.makeTempDirSync();
  readonly #guests: Guest[] = [];
  readonly #ports: Port[] = [];

  constructor() {
    this.#engine.addWorker();
  }

  /** Opens a guest and starts its rings over a socket, as QEMU would. */
  async attach(options: GuestOptions): Promise<Guest> {
    const { queuePairs = 1, features } = options;
    const offer = makeOffer({ queuePairs });
    const dataplane = this.#engine.openPort({ queuePairs });
    const ignore = () => {};
    const listener = { started: ignore, stopped: ignore, refused: ignore, closed: ignore };
    this.#ports.push(dataplane);
    const path = `${this.#directory}/${this.#ports.length}`;
    const accept = (channel: Channel) => void new Backend({ channel, dataplane, offer, listener });
    this.#pump.listen(path, { accept });
    const frontend = new Frontend(this.#pump.connect(path));
    const guest = Guest.open(options);
    this.#guests.push(guest);
    await frontend.handshake();
    await frontend.setFeatures(features | protocolFeatures);
    await frontend.setMemory(guest.regions, [guest.memoryFd]);
    for (let ring = 0; ring < 2 * queuePairs; ring++) {
      await frontend.startVring(ring, guest.vring(ring));
      await frontend.enableVring(ring, true);
    }
    return guest;
  }

  /** Frames that the switch found no place for: on a busy machine a guest may be late. */
  drops(): bigint {
    const counters = this.#ports.flatMap((port) => [port.stats("toGuest"), port.stats("fromGuest")]);
    const dropped = counters.flatMap((stats) => Object.entries(stats).filter(([name]) => name.startsWith("drop_")));
    return dropped.reduce((sum, [, count]) => sum + count, 0n);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const guest of this.#guests) await guest.close();
    await this.#pump[Symbol.asyncDispose]();
    await this.#running;
    await this.#engine.close();
    await Deno.remove(this.#directory, { recursive: true });
  }
}

/** Waits until something is so, at most ten seconds. */
async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!condition() && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.ok(condition(), "did not come about within 10 s");
}

const macs = [0x52_54_00_00_00_01, 0x52_54_00_00_00_02] as const;

function assertClean(guest: Guest): void {
  const { duplicated, reordered, corrupted, foreign, bad_header, broken } = guest.stats();
  assert.deepEqual({ duplicated, reordered, corrupted, foreign, bad_header, broken }, {
    duplicated: 0n,
    reordered: 0n,
    corrupted: 0n,
    foreign: 0n,
    bad_header: 0n,
    broken: 0n,
  });
}

const cases: readonly { name: string; options: GuestOptions }[] = [
  { name: "split", options: { features: version1 } },
  {
    name: "split, mergeable, in pieces",
    options: { features: version1 | mergeable, sendSegments: 3, bufferBytes: 600 },
  },
  { name: "packed of 100", options: { features: version1 | packed | eventIndex, ringSize: 100 } },
  {
    name: "packed in order, by tables",
    options: { features: version1 | packed | inOrder | indirect, sendIndirect: true, receiveIndirect: true },
  },
];

for (const { name, options } of cases) {
  Deno.test(`guests exchange checked frames over the socket: ${name}`, async () => {
    await using bench = new Bench();
    const guests = [await bench.attach(options), await bench.attach(options)] as const;
    const traffic = {
      frameBytes: 1514,
      frameBytesMin: 60,
      checkEvery: 1,
      count: 2000,
      rate: 20_000,
      wait: "sleep",
    } as const;
    guests[0].start({ ...traffic, sourceMac: macs[0], destinationMac: macs[1] });
    guests[1].start({ ...traffic, sourceMac: macs[1], destinationMac: macs[0] });
    const arrived = () => guests.reduce((sum, guest) => sum + guest.stats().received_checked, 0n);
    await until(() => arrived() + bench.drops() >= 4000n);
    for (const guest of guests) {
      await guest.stop();
      assertClean(guest);
      const stats = guest.stats();
      assert.equal(stats.sent, 2000n);
      assert.ok(stats.lost <= bench.drops(), `${stats.lost} lost, ${bench.drops()} dropped`);
      assert.equal(stats.running, 0n);
      assert.equal(guest.vringStats(1).outstanding, 0n);
      assert.ok(stats.sleeps > 0n, "a guest that sleeps was never asleep");
      assert.ok(latencyQuantile(stats.latency, 0.5)! > 0);
    }
  });
}

Deno.test("a guest's flows reach every queue of its peer", async () => {
  await using bench = new Bench();
  const options = { features: version1 | packed | multiqueue, queuePairs: 3 };
  const sender = await bench.attach(options);
  const receiver = await bench.attach(options);
  const both = { queues: 3, wait: "yield" } as const;
  receiver.start({ ...both, sourceMac: macs[1], destinationMac: macs[0], send: false });
  sender.start({ ...both, sourceMac: macs[0], destinationMac: macs[1], flows: 48, count: 3000, rate: 30_000 });
  await until(() => receiver.stats().received + bench.drops() > 3000n);
  assert.equal(receiver.stats().streams, 48n);
  await sender.stop();
  await receiver.stop();
  assertClean(receiver);
  for (const ring of [0, 2, 4]) assert.ok(receiver.vringStats(ring).packets > 0n, `nothing arrived on ring ${ring}`);
});

Deno.test("a guest that cannot be, or that was closed, says so", async () => {
  assert.throws(() => Guest.open({ features: version1, ringSize: 100 }), VringError);
  const guest = Guest.open({ features: version1 });
  const traffic = { sourceMac: macs[0], destinationMac: macs[1] };
  assert.throws(() => guest.start({ ...traffic, frameBytes: 2000 }), /Cannot start guest: invalid argument/);
  assert.throws(() => guest.vring(2), VringError);
  guest.start(traffic);
  assert.throws(() => guest.start(traffic), /already started/);
  assert.throws(() => guest.reset(), /already started/);
  await guest.close();
  await guest.close();
  assert.throws(() => guest.stats(), /Cannot use guest: closed/);
});

Deno.test("a quantile is that of its bucket's middle", () => {
  const latency = new Array<bigint>(640).fill(0n);
  assert.equal(latencyQuantile(latency, 0.5), undefined);
  latency[160] = 99n;
  latency[192] = 1n;
  assert.equal(latencyQuantile(latency, 0.5), 1056);
  assert.equal(latencyQuantile(latency, 0.99), 1056);
  assert.equal(latencyQuantile(latency, 1), 4224);
});

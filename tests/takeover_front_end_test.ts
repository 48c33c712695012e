/** `vhostctl serve --takeover` with front ends in any state, and with some that are up to no good. */

import assert from "node:assert/strict";
import { Frontend, Pump } from "../mod.ts";
import { loadLibrary } from "../ffi/library.ts";
import { memoryFile, truncate } from "./hostile_system.ts";
import { within } from "./real/process.ts";
import { Serve } from "./real/serve.ts";
import { StillGuest } from "./still_guest.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const end_ms = 20_000;
const memoryBytes = 1 << 20;
const getFeatures = 1;

/** A `serve` that changes its process, and a pump for front ends. */
class Place implements AsyncDisposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "vhostctl-takeover-" });
  readonly pump = Pump.open();
  readonly #running = this.pump.run();
  #arguments: readonly string[] = [];
  #serve: Serve | undefined;

  get serve(): Serve {
    return this.#serve!;
  }

  async start(...args: string[]): Promise<void> {
    this.#arguments = ["--dir", this.folder, ...args];
    this.#serve = await Serve.start(...this.#arguments);
  }

  socket(port: number): string {
    return `${this.folder}/port${port}.sock`;
  }

  guest(port: number): StillGuest {
    return StillGuest.connect(this.pump, this.socket(port));
  }

  /** With the options of before, or with these. */
  async takeOver(...args: string[]): Promise<void> {
    const old = this.serve;
    if (args.length > 0) this.#arguments = ["--dir", this.folder, ...args];
    this.#serve = await Serve.start(...this.#arguments, "--takeover");
    assert.equal((await within("its end", end_ms, old.program.finished)).code, 0, old.program.since());
  }

  async states(): Promise<unknown[]> {
    return [...(await this.serve.ports()).values()].map(({ state, queue_pairs_up }) => [state, queue_pairs_up]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#serve?.[Symbol.asyncDispose]();
    await this.pump[Symbol.asyncDispose]();
    await this.#running;
    await Deno.remove(this.folder, { recursive: true });
  }
}

/** A header of a message without payload, in the byte order of this machine. */
function header(request: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(new Uint32Array([request, 1, 0]).buffer);
}

async function readAll(connection: Deno.Conn, bytes: number): Promise<Uint8Array> {
  const all = new Uint8Array(bytes);
  for (let at = 0; at < bytes;) at += await connection.read(all.subarray(at)) ?? assert.fail("it hung up");
  return all;
}

Deno.test("sessions in every state go over, twice, and go on from there", async () => {
  await using place = await started("--ports", "6", "--queues", "2");
  using connected = place.guest(1);
  using greeted = place.guest(2);
  await greeted.frontend.handshake();
  using started1 = place.guest(3);
  await started1.start(0, 1);
  using stopped = place.guest(4);
  await stopped.start(0, 1, 2, 3);
  for (const ring of [0, 1, 2, 3]) assert.equal(await stopped.frontend.stopVring(ring), 0);
  using other = place.guest(5);
  await other.start(0, 1);
  const before = await place.states();
  assert.deepEqual(before.map((state) => (state as string[])[0]), [
    ...["waiting", "connected", "connected", "running", "connected", "running"],
  ]);
  for (let round = 0; round < 2; round++) {
    await place.takeOver();
    assert.deepEqual(await place.states(), before);
  }
  await connected.start(0, 1, 2, 3);
  await greeted.start(0, 1);
  await stopped.startRings(0, 1);
  await started1.startRings(2, 3);
  using late = place.guest(0);
  await late.start(0, 1);
  assert.deepEqual(await place.states(), [
    ...[["running", 1], ["running", 2], ["running", 1], ["running", 2], ["running", 1], ["running", 1]],
  ]);
  for (const ring of [0, 1]) assert.equal(await other.frontend.stopVring(ring), 0);
});

async function started(...args: string[]): Promise<Place> {
  const place = new Place();
  await place.start(...args);
  return place;
}

Deno.test("whoever asks meanwhile is answered, once", async () => {
  await using place = await started("--ports", "1");
  using guest = place.guest(0);
  await guest.frontend.handshake();
  let isOver = false;
  let answers = 0;
  const asking = (async () => {
    while (!isOver) {
      const features = await guest.frontend.request("GET_FEATURES", null);
      assert.equal(features, guest.frontend.features);
      answers++;
    }
  })();
  for (let round = 0; round < 3; round++) await place.takeOver();
  const before = answers;
  await place.takeOver();
  isOver = true;
  await within("the last answer", end_ms, asking);
  assert.ok(answers > before);
});

Deno.test("a message whose rest comes later is waited for", async () => {
  await using place = await started("--ports", "1");
  using connection = await Deno.connect({ transport: "unix", path: place.socket(0) });
  const message = header(getFeatures);
  await connection.write(message.subarray(0, 5));
  const over = place.takeOver();
  await place.serve.until("connected");
  for (let at = 5; at < 12; at++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    await connection.write(message.subarray(at, at + 1));
  }
  await over;
  assert.equal((await readAll(connection, 20))[0], getFeatures);
  await connection.write(message);
  assert.equal((await readAll(connection, 20))[0], getFeatures);
  assert.deepEqual(place.serve.records.filter(({ event }) => event === "disconnected"), []);
});

Deno.test("a front end that leaves a message unfinished loses its session, and holds nobody up", async () => {
  await using place = await started("--ports", "2");
  using good = place.guest(0);
  await good.start(0, 1);
  using connection = await Deno.connect({ transport: "unix", path: place.socket(1) });
  await connection.write(header(getFeatures).subarray(0, 5));
  const old = place.serve;
  await old.until("started", { port: "port0" });
  await place.takeOver();
  const told = old.records.filter(({ event }) => event === "disconnected");
  assert.deepEqual(told.map(({ port }) => port), ["port1"]);
  assert.match(told[0]!["reason"] as string, /began a message and did not finish it/);
  assert.equal(await connection.read(new Uint8Array(1)), null);
  assert.deepEqual(await place.states(), [["running", 1], ["waiting", 0]]);
  using again = place.guest(1);
  await again.start(0, 1);
});

Deno.test("a front end that truncated its memory loses its session, and holds nobody up", async () => {
  await using place = await started("--ports", "2");
  using good = place.guest(0);
  await good.start(0, 1);
  const frontend = new Frontend(place.pump.connect(place.socket(1)));
  await frontend.handshake();
  await frontend.setFeatures(1n << 32n | 1n << 30n);
  const file = memoryFile(memoryBytes);
  await frontend.setMemory([{ gpa: 0n, size: BigInt(memoryBytes), userAddress: 0n, mmapOffset: 0n }], [file]);
  truncate(file, 0);
  await place.takeOver();
  await within("its end", end_ms, frontend.hangup);
  assert.deepEqual(await place.states(), [["running", 1], ["waiting", 0]]);
  using again = place.guest(1);
  await again.start(0, 1);
});

Deno.test("a port that connects goes over while it waits, and with its connection", async () => {
  const place = new Place();
  await using _ = place;
  const port = `name=port0,socket=${place.socket(0)},mode=client`;
  await place.start("--port", port);
  await place.serve.until("waiting");
  await place.takeOver();
  const { promise, resolve } = Promise.withResolvers<Frontend>();
  using _listener = place.pump.listen(place.socket(0), { accept: (channel) => resolve(new Frontend(channel)) });
  const frontend = await within("its connection", end_ms, promise);
  await frontend.handshake();
  await place.takeOver();
  await frontend.setFeatures(1n << 32n | 1n << 30n);
  assert.deepEqual(await place.states(), [["connected", 0]]);
  frontend.close();
  await place.serve.until("disconnected");
});

Deno.test("what was kept for a guest over a restart goes over, too: more queues than are planned, twice", async () => {
  await using place = await started("--ports", "1", "--queues", "3");
  {
    using guest = place.guest(0);
    await guest.start(0, 1);
    await place.serve.program.stop("SIGKILL");
  }
  await place.start("--ports", "1", "--queues", "1");
  await place.serve.until("offer_kept", { port: "port0" });
  using guest = place.guest(0);
  const rings = [0, 1, 2, 3, 4, 5];
  await guest.start(...rings);
  for (let round = 0; round < 2; round++) {
    await place.takeOver();
    assert.equal((await place.serve.until("offer_kept", { port: "port0" }))["queue_pairs"], 3);
    assert.deepEqual(await place.states(), [["running", 3]]);
  }
  for (const ring of rings) assert.equal(await guest.frontend.stopVring(ring), 0);
  guest.frontend.close();
  await place.serve.until("disconnected");
  using later = place.guest(0);
  await later.frontend.handshake();
  assert.equal(later.frontend.queuePairs, 1);
  await place.takeOver();
  assert.deepEqual(await place.states(), [["connected", 0]]);
});

Deno.test("a new process that plans fewer queues keeps those that a guest has", async () => {
  await using place = await started("--ports", "1", "--queues", "4");
  using guest = place.guest(0);
  await guest.start(0, 1, 2, 3, 4, 5, 6, 7);
  await place.takeOver("--ports", "1", "--queues", "2");
  assert.equal((await place.serve.until("offer_kept", { port: "port0" }))["queue_pairs"], 4);
  assert.deepEqual(await place.states(), [["running", 4]]);
  for (const ring of [6, 7]) assert.equal(await guest.frontend.stopVring(ring), 0);
  await guest.startRings(6, 7);
  assert.deepEqual(await place.states(), [["running", 4]]);
});

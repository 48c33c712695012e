/** What outlives a `serve`: state files of any kind in its way, and what is offered after a restart. */

import assert from "node:assert/strict";
import { crc32 } from "node:zlib";
import { Frontend, hasFeature, KeptState, makeOffer, type Port, Pump } from "../mod.ts";
import { loadLibrary } from "../ffi/library.ts";
import { Program } from "./real/process.ts";
import { Serve, vhostctl } from "./real/serve.ts";
import { StillGuest } from "./still_guest.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const headBytes = 4096;

class Bench implements AsyncDisposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "vhostctl-state-" });
  readonly pump = Pump.open();
  readonly #running = this.pump.run();
  readonly socket = `${this.folder}/a.sock`;
  readonly state = `${this.socket}.state`;

  serve(settings = "", ...args: string[]): Promise<Serve> {
    return Serve.start("--port", `name=a,socket=${this.socket}${settings}`, ...args);
  }

  /** What it is offered, by who asks for nothing else. */
  async offer(): Promise<{ features: bigint; queuePairs: number }> {
    using frontend = new Frontend(this.pump.connect(this.socket));
    await frontend.handshake();
    return { features: frontend.features, queuePairs: Number(await frontend.request("GET_QUEUE_NUM", null)) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pump[Symbol.asyncDispose]();
    await this.#running;
    await Deno.remove(this.folder, { recursive: true });
  }
}

/** A head with that first line and body, as a file that is long enough for any ring. */
function fileOf(version: string, body: string, sum = crc32(body).toString(16).padStart(8, "0")): Uint8Array {
  const bytes = new Uint8Array(1 << 20);
  new TextEncoder().encodeInto(`vhostctl-state ${version} ${sum}\n${body}\n`, bytes);
  return bytes;
}

const body = '{"features":"0x140000000","protocol_features":"0x1","queue_pairs":1}';

Deno.test("a state file that cannot be used is set aside, with the reason, and the port is served", async (t) => {
  const cases: [string, Uint8Array, RegExp][] = [
    ["foreign", new TextEncoder().encode("dear diary\n".repeat(1000)), /not a state file/],
    ["cut short", fileOf("1", body).subarray(0, 100), /cut short/],
    ["of a later version", fileOf("2", body), /version 2: .* knows version 1/],
    ["changed", fileOf("1", body, "00000000"), /checksum is wrong/],
    ["of too many queues", fileOf("1", body.replace(":1}", ":129}")), /offer makes no sense/],
    ["without an offer", fileOf("1", "{}"), /offer makes no sense/],
  ];
  for (const [name, bytes, reason] of cases) {
    await t.step(name, async () => {
      await using bench = new Bench();
      await Deno.writeFile(bench.state, bytes);
      await using serve = await bench.serve();
      const told = await serve.until("state_set_aside", { port: "a" });
      assert.match(String(told["reason"]), reason);
      assert.equal(told["path"], `${bench.state}.bad`);
      assert.deepEqual(await Deno.readFile(`${bench.state}.bad`), bytes);
      using guest = StillGuest.connect(bench.pump, bench.socket);
      await guest.start(0, 1);
      await serve.until("started");
      await serve.finish();
    });
  }
});

Deno.test("where anything at all stands behind a good head, rings start where the front end says", async () => {
  for (let round = 0; round < 20; round++) {
    await using bench = new Bench();
    const bytes = fileOf("1", body);
    const noise = crypto.getRandomValues(new Uint8Array(4096));
    bytes.set(noise, headBytes);
    await Deno.writeFile(bench.state, bytes);
    await using serve = await bench.serve();
    using guest = StillGuest.connect(bench.pump, bench.socket);
    await guest.start(0, 1);
    await serve.until("started");
    assert.deepEqual([await guest.frontend.stopVring(0), await guest.frontend.stopVring(1)], [0, 0]);
    await serve.finish();
  }
});

Deno.test("a new file where there can be none: the port is served without, and that is said", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("", "--state-dir", `${bench.folder}/nowhere`);
  const told = await serve.until("no_state", { port: "a" });
  assert.equal(told["path"], `${bench.folder}/nowhere/a.state`);
  using guest = StillGuest.connect(bench.pump, bench.socket);
  await guest.start(0, 1);
  await serve.finish();
});

Deno.test("the file is the owner's alone, goes with the last guest, and is nowhere with none", async () => {
  await using bench = new Bench();
  {
    await using serve = await bench.serve();
    assert.equal((await Deno.stat(bench.state)).mode! & 0o777, 0o600);
    await serve.finish();
  }
  await assert.rejects(Deno.stat(bench.state), Deno.errors.NotFound);
  await using serve = await bench.serve("", "--state-dir", "none");
  await assert.rejects(Deno.stat(bench.state), Deno.errors.NotFound);
  await serve.finish();
});

Deno.test("after kill -9 no less is offered than before, until the guest's driver stops", async () => {
  await using bench = new Bench();
  {
    await using serve = await bench.serve(",queues=3");
    using guest = StillGuest.connect(bench.pump, bench.socket);
    await guest.start(0, 1);
    await serve.program.stop("SIGKILL");
  }
  const less = ",queues=1,features=-MRG_RXBUF-RING_PACKED";
  await using serve = await bench.serve(less);
  const kept = await serve.until("offer_kept", { port: "a" });
  assert.equal(kept["queue_pairs"], 3);
  const offer = await bench.offer();
  assert.equal(offer.queuePairs, 3);
  assert.ok(hasFeature(offer.features, "MRG_RXBUF") && hasFeature(offer.features, "RING_PACKED"));
  {
    using guest = StillGuest.connect(bench.pump, bench.socket);
    await guest.start(0, 1, 2, 3, 4, 5);
    for (let ring = 0; ring < 6; ring++) assert.equal(await guest.frontend.stopVring(ring), 0);
  }
  const asked = await bench.offer();
  assert.equal(asked.queuePairs, 1);
  assert.ok(!hasFeature(asked.features, "MRG_RXBUF"));
  await serve.finish();
});

Deno.test("who takes over writes what it offers only once the file is its own", async () => {
  await using bench = new Bench();
  const port = { isLeft: () => false } as unknown as Port;
  const [more, less] = [3, 1].map((queuePairs) => makeOffer({ queuePairs }));
  KeptState.open(bench.state).offer(port, more!);
  const before = await Deno.readFile(bench.state);
  const adopted = KeptState.adopt(bench.state)!;
  assert.deepEqual(adopted.offer(port, less!), less);
  assert.deepEqual(await Deno.readFile(bench.state), before);
  adopted.own();
  assert.equal(KeptState.adopt(bench.state)!.queuePairs(less!), 1);
});

Deno.test("two programs do not connect for one port", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve(",mode=client");
  const second = new Program(vhostctl, ["serve", "--port", `name=a,socket=${bench.socket},mode=client`]);
  assert.equal((await second.finished).code, 1);
  assert.match(second.since(), /^vhostctl serve: another program serves a: it has \S+a\.sock\.state: stop it/);
  await serve.finish();
});

Deno.test("a file that is cut off while rings run breaks those of its port until they start again", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve();
  using guest = StillGuest.connect(bench.pump, bench.socket);
  await guest.start(0, 1);
  await serve.until("started");
  await Deno.truncate(bench.state, 0);
  await guest.offer(1, 1);
  guest.kick(1);
  assert.equal((await serve.until("ring_broken", { port: "a" }))["reason"], "memory_fault");
  for (const ring of [0, 1]) await guest.frontend.stopVring(ring);
  const from = serve.now;
  await guest.startRings(0, 1);
  await serve.until("started", {}, { from });
  const port = (await serve.until("stats", {}, { from: serve.now }))["ports"] as { state: string }[];
  assert.equal(port[0]!.state, "running");
  await serve.finish();
});

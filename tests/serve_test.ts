/** `vhostctl serve` as a program: front ends come, go, misbehave and crowd, and it tells what happens. */

import assert from "node:assert/strict";
import { resolve } from "node:path";
import { Frontend, Pump } from "../mod.ts";
import { loadLibrary } from "../ffi/library.ts";
import { eventually, Program } from "./real/process.ts";
import { Serve } from "./real/serve.ts";
import { StillGuest } from "./still_guest.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

/** The same that `Serve` starts. */
const vhostctl = Deno.env.get("VHOSTCTL") ?? resolve(import.meta.dirname!, "../scripts/vhostctl");
const end_ms = 20_000;
/** What a terminal does not show. */
const escapes = new RegExp("\x1b\\[[0-9;]*[A-Za-z]", "g");

/** A folder for sockets, and a pump for the front ends that connect to them. */
class Bench implements AsyncDisposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "vhostctl-serve-" });
  readonly pump = Pump.open();
  readonly #running = this.pump.run();

  socket(name: string): string {
    return `${this.folder}/${name}.sock`;
  }

  serve(...args: string[]): Promise<Serve> {
    return Serve.start("--dir", this.folder, ...args);
  }

  guest(name: string): StillGuest {
    return StillGuest.connect(this.pump, this.socket(name));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pump[Symbol.asyncDispose]();
    await this.#running;
    await Deno.remove(this.folder, { recursive: true });
  }
}

/** Runs it to its end, which must come by itself. */
async function runToEnd(...args: string[]): Promise<{ code: number; text: string }> {
  const program = new Program(vhostctl, args);
  const status = await program.finished;
  return { code: status.code, text: program.since() };
}

async function exists(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => true, () => false);
}

/** What was told of a port, without the times and with nothing of the statistics. */
function story(serve: Serve, port: string): Record<string, unknown>[] {
  return serve.records.filter((record) => record.port === port && record.event !== "port")
    .map(({ time: _, ...rest }) => rest);
}

Deno.test("a front end comes, starts, stops, starts again and leaves, and each is told", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("--queues", "2");
  {
    using guest = bench.guest("port0");
    await guest.start(0, 1, 2, 3);
    await serve.until("started", { port: "port0" });
    const running = (await serve.until("stats", {}, { from: serve.now }))["ports"] as Record<string, unknown>[];
    assert.deepEqual(running.map(({ state, queue_pairs_up, queue_pairs }) => [state, queue_pairs_up, queue_pairs]), [
      ["running", 2, 2],
      ["waiting", 0, 2],
    ]);
    for (const ring of [0, 1, 2, 3]) assert.equal(await guest.frontend.stopVring(ring), 0);
    await guest.startRings(0, 1);
  }
  await serve.until("disconnected");
  const features = ["PROTOCOL_FEATURES", "VERSION_1"];
  assert.deepEqual(story(serve, "port0"), [
    { port: "port0", event: "connected" },
    { port: "port0", event: "started", ring: "split", features },
    { port: "port0", event: "stopped" },
    { port: "port0", event: "started", ring: "split", features },
    { port: "port0", event: "disconnected", reason: "peer closed the connection" },
  ]);
  assert.deepEqual(story(serve, "port1"), []);
  await serve.finish();
});

Deno.test("a second front end is turned away while the first lives, and let in when it has gone", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("--ports", "1");
  const first = bench.guest("port0");
  await first.start(0, 1);
  const second = new Frontend(bench.pump.connect(bench.socket("port0")));
  await second.hangup;
  assert.equal(await first.frontend.request("GET_FEATURES", null), first.frontend.features);
  const refused = await serve.until("refused", { port: "port0" });
  assert.match(String(refused["reason"]), /another one is connected/);
  // The end of the first and the beginning of the third may be heard in either order.
  const third = bench.guest("port0");
  first[Symbol.dispose]();
  await third.start(0, 1);
  third[Symbol.dispose]();
  await serve.finish();
});

Deno.test("a front end that comes and goes in a hurry makes a few lines and is slowed down", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("--ports", "2");
  const started_ms = performance.now();
  let connections = 0;
  while (performance.now() - started_ms < 3000) {
    using frontend = new Frontend(bench.pump.connect(bench.socket("port0")), { timeoutMs: end_ms });
    await frontend.handshake();
    connections++;
  }
  const { count } = await serve.until("repeated", { port: "port0" });
  assert.equal(Number(count), connections - 1);
  assert.ok(connections < 20, `${connections} connections in 3 s`);
  assert.deepEqual(story(serve, "port0").map(({ event }) => event), ["connected", "disconnected", "repeated"]);
  using guest = bench.guest("port0");
  await guest.start(0, 1);
  await serve.until("started", { port: "port0" });
});

Deno.test("a request that breaks the rules ends its session with a line, and the next is served", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("--ports", "1");
  {
    using frontend = new Frontend(bench.pump.connect(bench.socket("port0")));
    frontend.send(999, 1, new Uint8Array(8));
    await frontend.hangup;
  }
  const { reason } = await serve.until("disconnected", { port: "port0" });
  assert.match(String(reason), /request 999/);
  using guest = bench.guest("port0");
  await guest.start(0, 1);
  await assert.rejects(guest.frontend.request("SET_VRING_ENABLE", { index: 7, num: 1 }));
  assert.match(String((await serve.until("nack", { port: "port0" }))["reason"]), /ring 7: this port has rings 0 to 1/);
  assert.equal(await guest.frontend.stopVring(0), 0);
});

Deno.test("a front end that starts and stops a ring without end is told by number", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("--ports", "1");
  using guest = bench.guest("port0");
  await guest.start(0);
  for (let round = 0; round < 200; round++) {
    await guest.frontend.stopVring(0);
    await guest.startRings(0);
  }
  await serve.until("untold", { port: "port0" });
  assert.ok(story(serve, "port0").length < 100);
});

Deno.test("a broken ring is told once, by number and reason, and works again after a new start", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("--ports", "1");
  using guest = bench.guest("port0");
  await guest.start(0, 1);
  await guest.offer(1, 257);
  guest.kick(1);
  await serve.until("ring_broken", { port: "port0", ring: 1, reason: "bad_avail_index" });
  guest.kick(1);
  const [port] = (await serve.until("stats", {}, { from: serve.now }))["ports"] as Record<string, unknown>[];
  assert.equal(port!["state"], "broken");
  await guest.frontend.stopVring(1);
  await guest.offer(1, 0);
  await guest.startRings(1);
  await eventually("port0 runs again", end_ms, async () => {
    const [again] = (await serve.until("stats", {}, { from: serve.now }))["ports"] as Record<string, unknown>[];
    return again!["state"] === "running" || undefined;
  });
  assert.equal(serve.records.filter(({ event }) => event === "ring_broken").length, 1);
});

Deno.test("kicks for a ring that stays zero are told once as memory that is not shared", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("--idle", "sleep");
  using guest = bench.guest("port0");
  using quiet = bench.guest("port1");
  await guest.start(0, 1);
  await quiet.start(0, 1);
  // As QEMU does at each start, whatever the guest does.
  quiet.kick(1);
  let told = false;
  const asked = serve.until("not_shared", { port: "port0", ring: 1 }).then((record) => {
    told = true;
    return record;
  });
  while (!told) {
    guest.kick(1);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.ok(Number((await asked)["kicks"]) >= 2);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  assert.deepEqual(serve.records.filter(({ event }) => event === "not_shared").map(({ port }) => port), ["port0"]);
});

Deno.test("a stale socket is replaced, a live one refused, another file left alone", async () => {
  await using bench = new Bench();
  const killed = await bench.serve("--ports", "1");
  await killed.program.stop("SIGKILL");
  assert.ok(await exists(bench.socket("port0")));
  {
    await using serve = await bench.serve("--ports", "1");
    const { code, text } = await runToEnd("serve", "--dir", bench.folder, "--ports", "2");
    assert.equal(code, 1);
    assert.match(text, /^vhostctl serve: cannot listen on \S+port0\.sock: another program listens there: stop it/);
    using guest = bench.guest("port0");
    await guest.start(0, 1);
    await serve.finish();
  }
  assert.equal(await exists(bench.socket("port0")), false);
  assert.equal(await exists(bench.socket("port1")), false);
  await Deno.writeTextFile(bench.socket("port1"), "mine");
  const { code, text } = await runToEnd("serve", "--dir", bench.folder);
  assert.equal(code, 1);
  assert.match(text, /cannot listen on \S+port1\.sock: a file that is no socket is in the way: remove it/);
  assert.equal(await Deno.readTextFile(bench.socket("port1")), "mine");
  assert.equal(await exists(bench.socket("port0")), false);
});

Deno.test("SIGTERM and SIGINT end it: totals, exit code 0, nothing left but what a running guest needs", async (t) => {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    await t.step(signal, async () => {
      await using bench = new Bench();
      const program = new Program(vhostctl, ["serve", "--dir", bench.folder]);
      await program.until(/^ready$/m, end_ms);
      assert.ok(await exists(bench.socket("port1")));
      using guest = bench.guest("port0");
      await guest.start(0, 1);
      const { code } = await program.stop(signal);
      assert.equal(code, 0);
      assert.match(program.since(), /^stopped after [\d.]+ s\nPORT .*\nport0 +0 +0 +0 +0\nport1 /m);
      assert.doesNotMatch(program.since(), /DROPS\/s/);
      // The guest's rings go on where they are, by the next one.
      assert.deepEqual(Array.from(Deno.readDirSync(bench.folder), ({ name }) => name), ["port0.sock.state"]);
      await guest.frontend.hangup;
    });
  }
});

Deno.test("a socket has the mode that was asked for, in a folder for its owner alone", async () => {
  await using bench = new Bench();
  const folder = `${bench.folder}/new`;
  await using _serve = await Serve.start("--dir", folder, "--ports", "1", "--socket-mode", "0660");
  assert.equal((await Deno.stat(folder)).mode! & 0o777, 0o700);
  assert.equal((await Deno.lstat(`${folder}/port0.sock`)).mode! & 0o777, 0o660);
});

Deno.test("64 ports in one process, each with a front end", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("--ports", "64", "--queues", "4");
  const guests = Array.from({ length: 64 }, (_, port) => bench.guest(`port${port}`));
  try {
    await Promise.all(guests.map((guest) => guest.start(0, 1, 2, 3, 4, 5, 6, 7)));
    const ports = (await serve.until("stats", {}, { from: serve.now }))["ports"] as Record<string, unknown>[];
    assert.equal(ports.length, 64);
    for (const { state, queue_pairs_up } of ports) assert.deepEqual([state, queue_pairs_up], ["running", 4]);
  } finally {
    for (const guest of guests) guest[Symbol.dispose]();
  }
  for (let port = 0; port < 64; port++) await serve.until("disconnected", { port: `port${port}` });
  await serve.finish();
});

Deno.test("where the front end listens, serve connects, waits and comes back", async () => {
  await using bench = new Bench();
  const path = bench.socket("qemu");
  await using serve = await Serve.start("--port", `name=a,socket=${path},mode=client`);
  const { reason } = await serve.until("waiting", { port: "a", socket: path });
  assert.equal(reason, "no such file or directory");
  const port = async () => (await serve.ports()).get("a")!;
  const waiting = await port();
  assert.deepEqual([waiting.state, waiting.reason], ["waiting", reason]);
  const channels: Frontend[] = [];
  const listen = () => bench.pump.listen(path, { accept: (channel) => void channels.push(new Frontend(channel)) });
  for (const round of [1, 2]) {
    using _listener = listen();
    await serve.until("connected", { port: "a" }, { from: serve.now });
    const frontend = channels.shift()!;
    await frontend.handshake();
    const connected = await port();
    assert.deepEqual([connected.state, connected.reason], ["connected", undefined]);
    if (round === 2) await new Promise((resolve) => setTimeout(resolve, 1100));
    frontend.close();
  }
  await serve.until("waiting", { port: "a" }, {
    from: serve.records.findLastIndex(({ event }) => event === "connected"),
  });
  const told = story(serve, "a").map(({ event }) => event);
  assert.deepEqual(told.slice(0, 2), ["waiting", "connected"]);
  assert.ok(told.length < 12, `one line for each change, not ${told.join(" ")}`);
  await serve.finish();
});

Deno.test("rates are printed where they were asked for, and drawn in place on a terminal", async () => {
  await using bench = new Bench();
  const lines = new Program(vhostctl, ["serve", "--dir", bench.folder, "--stats", "0.2"]);
  await lines.until(/^PORT .*DROPS\/s\nport0 +waiting +0\/1 +0 +0 +0 +0\nport1 .*\nworkers busy: 0 %/m, end_ms);
  assert.ok(!lines.since().includes("\x1b"));
  await lines.stop();

  for (const NO_COLOR of ["", "1"]) {
    const command = `stty rows 20 cols 70; exec ${vhostctl} serve --dir ${bench.folder} --ports 30 --stats 0.2`;
    const environment = { TERM: "xterm", NO_COLOR };
    const screen = new Program("script", ["-qec", command, "/dev/null"], { env: environment });
    await screen.until(/and 15 ports with less traffic[^]*and 15 ports with less traffic/, end_ms);
    // Each frame goes back over the lines of the last one: the blank one, heads, ports, workers, the rest.
    const [before, ...frames] = screen.since().split("\x1b[19A\x1b[J");
    assert.match(before!, /ready\r\n/);
    assert.ok(frames.length > 0);
    assert.equal(frames[0]!.includes("\x1b[2m"), NO_COLOR === "");
    for (const line of frames[0]!.replaceAll(escapes, "").split("\r\n")) assert.ok([...line].length <= 70, line);
    await screen.write("\x03");
    assert.equal((await screen.finished).code, 0);
    assert.match(screen.since(), /stopped after/);
  }
});

Deno.test("nobody reads any more: it ends, and leaves no sockets", async () => {
  await using bench = new Bench();
  const script = `"$0" serve --dir "$1" --json --stats 0.1 | head -n 1; echo "\${PIPESTATUS[0]}"`;
  const shell = new Program("bash", ["-c", script, vhostctl, bench.folder]);
  await shell.finished;
  assert.match(shell.since(), /"event":"control".*\n0\n$/);
  assert.deepEqual([...Deno.readDirSync(bench.folder)], []);
});

Deno.test("libvirt's XML and capabilities are printed on request", async () => {
  await using bench = new Bench();
  const program = new Program(vhostctl, ["serve", "--dir", bench.folder, "--ports", "1", "--libvirt"]);
  await program.until(/^ready$/m, end_ms);
  assert.match(program.since(), /<access mode='shared'\/>[^]*<source type='unix' path='\S+port0\.sock' mode='client'>/);
  assert.doesNotMatch(program.since(), /-chardev/);
  await program.stop();
  assert.deepEqual(await runToEnd("serve", "--print-capabilities"), { code: 0, text: '{"type":"net"}\n' });
});

/** The control socket of `vhostctl serve`: what it answers, to whom, and that nobody there can hold up the switch. */

import assert from "node:assert/strict";
import { askPorts, type ControlPort } from "../cli/control_client.ts";
import { linesOf, sendLine } from "../cli/lines.ts";
import { Frontend, Pump } from "../mod.ts";
import { loadLibrary } from "../ffi/library.ts";
import { Program, within } from "./real/process.ts";
import { Serve, vhostctl } from "./real/serve.ts";
import { StillGuest } from "./still_guest.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const end_ms = 20_000;

/** A folder that vanishes. */
class Place implements Disposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "vhostctl-control-" });
  readonly control = `${this.folder}/control.sock`;

  [Symbol.dispose](): void {
    Deno.removeSync(this.folder, { recursive: true });
  }
}

/** One program that asks. */
class Asker implements Disposable {
  readonly connection: Deno.UnixConn;
  readonly #lines: AsyncGenerator<string>;

  private constructor(connection: Deno.UnixConn) {
    this.connection = connection;
    this.#lines = linesOf(connection, 1 << 20);
  }

  static async open(path: string): Promise<Asker> {
    return new Asker(await Deno.connect({ transport: "unix", path }));
  }

  /** The next line, or undefined at the end. */
  async line(): Promise<Record<string, unknown> | undefined> {
    const { value, done } = await within("a line from the control socket", end_ms, this.#lines.next());
    return done === true ? undefined : JSON.parse(value);
  }

  async ask(text: string): Promise<Record<string, unknown> | undefined> {
    await this.connection.write(new TextEncoder().encode(`${text}\n`));
    return await this.line();
  }

  [Symbol.dispose](): void {
    this.connection.close();
  }
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

Deno.test("ports are told with their sockets and counters, and nonsense is answered", async () => {
  using place = new Place();
  await using serve = await Serve.start("--dir", place.folder, "--ports", "2", "--socket-mode", "0660");
  assert.equal(Deno.lstatSync(place.control).mode! & 0o777, 0o660);
  const ports = await askPorts(place.control);
  assert.ok(typeof ports !== "string", String(ports));
  const told = ports.map(({ port, socket, state }) => [port, socket, state]);
  assert.deepEqual(told, [0, 1].map((n) => [`port${n}`, `${place.folder}/port${n}.sock`, "waiting"]));
  for (const port of ports) for (const way of [port.to_guest, port.from_guest]) assert.equal(way["log_pages"], 0);
  using asker = await Asker.open(place.control);
  assert.match(String((await asker.ask("nonsense"))!["error"]), /not a request/);
  assert.match(String((await asker.ask('{"command":7}'))!["error"]), /not a request/);
  assert.match(
    String((await asker.ask('{"command":"port"}'))!["error"]),
    /unknown command: port: did you mean ports\?/,
  );
  assert.match(String((await asker.ask('{"command":"toString"}'))!["error"]), /unknown command: toString/);
  assert.equal((((await asker.ask('{"command":"ports"}'))!["return"]) as unknown[]).length, 2);
  await serve.finish();
  assert.equal(exists(place.control), false);
});

Deno.test("who asks for events gets each of them, up to the end", async () => {
  using place = new Place();
  await using pump = Pump.open();
  const running = pump.run();
  await using serve = await Serve.start("--dir", place.folder, "--ports", "1");
  using asker = await Asker.open(place.control);
  using silent = await Asker.open(place.control);
  assert.deepEqual(await asker.ask('{"command":"events"}'), { return: {} });
  using frontend = new Frontend(pump.connect(`${place.folder}/port0.sock`));
  await frontend.handshake();
  const events: unknown[] = [];
  while (!events.includes("connected")) events.push((await asker.line())!["event"]);
  await serve.finish();
  for (let line; (line = await asker.line()) !== undefined;) events.push(line["event"]);
  assert.equal(events.at(-1), "summary");
  assert.equal(await silent.line(), undefined);
  await pump[Symbol.asyncDispose]();
  await running;
});

Deno.test("ports are told with what befell them, for somebody who was not there", async () => {
  using place = new Place();
  await using pump = Pump.open();
  const running = pump.run();
  await using serve = await Serve.start("--dir", place.folder, "--ports", "1");
  const life = async () => (await askPorts(place.control) as readonly ControlPort[])[0]!.life!;
  const fresh = await life();
  assert.deepEqual([fresh.starts, fresh.connected_ms, fresh.started, fresh.ended], [
    0,
    undefined,
    undefined,
    undefined,
  ]);
  assert.ok(fresh.opened_ms <= fresh.now_ms);
  {
    using guest = StillGuest.connect(pump, `${place.folder}/port0.sock`);
    await guest.start(0, 1);
    const runs = await life();
    assert.deepEqual([runs.starts, runs.started?.ring, runs.ended], [1, "split", undefined]);
    assert.ok(runs.connected_ms! <= runs.started!.time_ms && runs.started!.time_ms <= runs.now_ms);
    for (const ring of [0, 1]) await guest.frontend.stopVring(ring);
    const rests = await life();
    assert.deepEqual([rests.started, rests.ended?.reason], [undefined, undefined]);
    assert.deepEqual(rests.ended!.packets, { to_guest: 0, from_guest: 0 });
    await guest.startRings(0, 1);
    assert.equal((await life()).starts, 2);
  }
  await serve.until("disconnected");
  const { connected_ms, ended } = await life();
  assert.deepEqual([connected_ms, ended?.reason], [undefined, "peer closed the connection"]);
  await serve.finish();
  await pump[Symbol.asyncDispose]();
  await running;
});

Deno.test("clients that flood, do not read, send no end of a line, or are too many are borne", async () => {
  using place = new Place();
  await using serve = await Serve.start("--dir", place.folder, "--ports", "64");
  const idle = await Promise.all(Array.from({ length: 16 }, () => Asker.open(place.control)));
  // Each has been let in.
  for (const asker of idle) assert.ok("return" in (await asker.ask('{"command":"events"}'))!);
  {
    using surplus = await Asker.open(place.control);
    assert.match(String((await surplus.line())!["error"]), /too many clients: 16/);
    assert.equal(await surplus.line(), undefined);
  }
  const [flood, endless] = idle;
  // Nobody reads the answers: the socket takes no more at last, and the client waits, not the switch.
  const requests = new TextEncoder().encode('{"command":"ports"}\n'.repeat(50_000));
  const flooding = (async () => {
    for (let sent = 0; sent < requests.length;) sent += await flood!.connection.write(requests.subarray(sent));
  })().catch(() => {});
  await endless!.connection.write(new TextEncoder().encode("x".repeat(5000)));
  let refusal = await endless!.line();
  while (refusal?.["event"] !== undefined) refusal = await endless!.line();
  assert.match(String(refusal!["error"]), /request too long/);
  // Ended ones make room.
  const ports = await askPorts(place.control);
  assert.equal(ports.length, 64);
  assert.equal((await serve.ports()).size, 64);
  await serve.finish();
  for (const asker of idle) asker[Symbol.dispose]();
  await flooding;
});

Deno.test("a stale control socket is replaced, a live one and a file are left alone, and serve goes on", async () => {
  using place = new Place();
  const killed = await Serve.start("--dir", place.folder, "--ports", "1");
  await killed.program.stop("SIGKILL");
  assert.ok(exists(place.control));
  await using serve = await Serve.start("--dir", place.folder, "--ports", "1");
  const [port] = await askPorts(place.control) as readonly ControlPort[];
  assert.equal(port!.port, "port0");
  {
    await using other = await Serve.start("--dir", place.folder, "--port", "name=other");
    assert.match(
      String((await other.until("no_control"))["reason"]),
      /another program listens there: give another with/,
    );
    const [same] = await askPorts(place.control) as readonly ControlPort[];
    assert.equal(same!.port, "port0");
    await other.finish();
  }
  assert.ok(exists(place.control));
  await serve.finish();
  Deno.writeTextFileSync(place.control, "mine");
  const program = new Program(vhostctl, ["serve", "--dir", place.folder]);
  await program.until(/^ready$/m, end_ms);
  assert.match(program.since(), /^no control socket: \S+control\.sock: a file that is no socket is in the way: give/m);
  assert.equal((await program.stop()).code, 0);
  assert.equal(Deno.readTextFileSync(place.control), "mine");
});

Deno.test("where the control socket is: in --dir, where --control says, or nowhere", async () => {
  using place = new Place();
  const elsewhere = `${place.folder}/ask`;
  for (
    const [words, path] of [
      [["--dir", place.folder], place.control],
      [["--dir", place.folder, "--port", `socket=${place.folder}/a`], place.control],
      [["--dir", place.folder, "--control", elsewhere], elsewhere],
      [["--port", `socket=${place.folder}/a`, "--control", elsewhere], elsewhere],
      [["--dir", place.folder, "--control", "none"], undefined],
      [["--port", `socket=${place.folder}/a`], undefined],
    ] as const
  ) {
    await using serve = await Serve.start(...words);
    assert.equal(serve.records.find(({ event }) => event === "control")?.["socket"], path);
    for (const each of [place.control, elsewhere]) assert.equal(exists(each), each === path, words.join(" "));
    await serve.finish();
  }
  const program = new Program(vhostctl, ["serve", "--port", `socket=${elsewhere}`, "--control", elsewhere]);
  assert.equal((await program.finished).code, 2);
  assert.match(program.since(), /control socket in a port's place: \S+ask: give another/);
});

Deno.test("one who asks a socket that is something else hears so", async () => {
  using place = new Place();
  const path = `${place.folder}/other`;
  assert.equal(await askPorts(path), "no such file");
  const listener = Deno.listen({ transport: "unix", path });
  const answering = (async () => {
    const connection = await listener.accept();
    await sendLine(connection, "what?");
    connection.close();
  })();
  assert.match(String(await askPorts(path)), /does not answer as vhostctl serve does|closed the connection/);
  await answering;
  listener.close();
});

/** What becomes of a running `serve` whose socket's file is taken away, replaced, or wanted by others at once. */

import assert from "node:assert/strict";
import { loadLibrary } from "../ffi/library.ts";
import { Pump } from "../mod.ts";
import { eventually, Program } from "./real/process.ts";
import { Serve, vhostctl } from "./real/serve.ts";
import { StillGuest } from "./still_guest.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const end_ms = 20_000;
/** So long nothing happens that could happen within one tick. */
const quiet_ms = 2500;

/** A folder for sockets that can be taken away, and a pump for front ends. */
class Place implements AsyncDisposable {
  readonly #parent = Deno.makeTempDirSync({ prefix: "vhostctl-socket-" });
  readonly folder = `${this.#parent}/net`;
  readonly pump = Pump.open();
  readonly #running = this.pump.run();

  constructor() {
    Deno.mkdirSync(this.folder);
  }

  socket(port: string): string {
    return `${this.folder}/${port}.sock`;
  }

  arguments(...ports: readonly string[]): string[] {
    const settings = ports.flatMap((port) => ["--port", `name=${port},socket=${this.socket(port)}`]);
    // Its own file would tell one from the other, too.
    return [...settings, "--state-dir", "none"];
  }

  guest(port: string): StillGuest {
    return StillGuest.connect(this.pump, this.socket(port));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pump[Symbol.asyncDispose]();
    await this.#running;
    await Deno.remove(this.#parent, { recursive: true });
  }
}

function told(serve: Serve, port: string): unknown[] {
  return serve.records.filter((record) => record.port === port && record.event !== "port").map(({ event }) => event);
}

Deno.test("the sockets' folder is removed: told once, guests stay, it listens again when it is back", async () => {
  await using place = new Place();
  await using serve = await Serve.start(...place.arguments("a", "b"));
  using stays = place.guest("a");
  await stays.start(0, 1);
  await serve.until("started", { port: "a" });
  await Deno.remove(place.folder, { recursive: true });
  const { reason } = await serve.until("unreachable", { port: "b", socket: place.socket("b") });
  assert.equal(reason, "no such folder: create it, or choose another path");
  await serve.until("unreachable", { port: "a" });
  await new Promise((resolve) => setTimeout(resolve, quiet_ms));
  const ports = await serve.ports();
  assert.deepEqual([ports.get("b")!.state, ports.get("b")!.reason], ["waiting", reason]);
  assert.equal(ports.get("a")!.state, "running");
  await Deno.mkdir(place.folder);
  for (const port of ["a", "b"]) await serve.until("listening", { port });
  using comes = place.guest("b");
  await comes.start(0, 1);
  await serve.until("started", { port: "b" });
  assert.equal((await serve.ports()).get("b")!.reason, undefined);
  assert.deepEqual(told(serve, "a"), ["connected", "started", "unreachable", "listening"]);
  assert.deepEqual(told(serve, "b"), ["unreachable", "listening", "connected", "started"]);
  await serve.finish();
  assert.deepEqual([...Deno.readDirSync(place.folder)], []);
});

Deno.test("a folder that is moved away and back is as before", async () => {
  await using place = new Place();
  await using serve = await Serve.start(...place.arguments("a"));
  await Deno.rename(place.folder, `${place.folder}.away`);
  await serve.until("unreachable", { port: "a" });
  await Deno.rename(`${place.folder}.away`, place.folder);
  await serve.until("listening", { port: "a" });
  using guest = place.guest("a");
  await guest.start(0, 1);
  await serve.finish();
  assert.deepEqual([...Deno.readDirSync(place.folder)], []);
});

Deno.test("a socket's file that is removed is made anew", async () => {
  await using place = new Place();
  await using serve = await Serve.start(...place.arguments("a"));
  await Deno.remove(place.socket("a"));
  await serve.until("listening", { port: "a" });
  using guest = place.guest("a");
  await guest.start(0, 1);
  await serve.finish();
  assert.deepEqual([...Deno.readDirSync(place.folder)], []);
});

Deno.test("a socket that another serve has taken is left alone, and taken back when that has ended", async () => {
  await using place = new Place();
  await using first = await Serve.start(...place.arguments("a"));
  // Between two looks of the first one, which then finds another's.
  first.program.kill("SIGSTOP");
  await Deno.remove(place.socket("a"));
  await using second = await Serve.start(...place.arguments("a"));
  first.program.kill("SIGCONT");
  const { reason } = await first.until("unreachable", { port: "a" });
  assert.equal(reason, "another program listens there: stop it, or choose another path");
  using guest = place.guest("a");
  await guest.start(0, 1);
  await second.until("started", { port: "a" });
  await second.finish();
  await first.until("listening", { port: "a" });
  using again = place.guest("a");
  await again.start(0, 1);
  await first.until("started", { port: "a" });
  await first.finish();
});

Deno.test("of several that start at once over a stale socket, one listens, and the others say why not", async () => {
  await using place = new Place();
  for (let round = 0; round < 3; round++) {
    const killed = await Serve.start(...place.arguments("a"));
    await killed.program.stop("SIGKILL");
    const all = Array.from({ length: 5 }, () => new Program(vhostctl, ["serve", ...place.arguments("a")]));
    const outcome = (program: Program) =>
      program.until(/^ready$/m, end_ms).then(() => "ready", async () => (await program.finished).code);
    const outcomes = await Promise.all(all.map(outcome));
    assert.deepEqual(outcomes.toSorted(), [1, 1, 1, 1, "ready"]);
    const winner = all[outcomes.indexOf("ready")]!;
    for (const loser of all.filter((program) => program !== winner)) {
      assert.match(loser.since(), /cannot listen on \S+a\.sock: another program listens there: stop it/);
    }
    // The others looked whether somebody listens, and may have been taken for front ends that came and went in vain.
    await eventually("a front end is let in", end_ms, async () => {
      using guest = place.guest("a");
      return await guest.start(0, 1).then(() => true, () => undefined);
    });
    assert.equal((await winner.stop("SIGTERM")).code, 0);
  }
});

/** `serve` that may open few files: it says so, and what to do; the ports that have theirs go on. */

import assert from "node:assert/strict";
import { loadLibrary } from "../ffi/library.ts";
import { Pump } from "../mod.ts";
import { footprint } from "./real/footprint.ts";
import { Serve, vhostctl } from "./real/serve.ts";
import { Program } from "./real/process.ts";
import { StillGuest } from "./still_guest.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const rings = [0, 1, 2, 3, 4, 5, 6, 7] as const;
const advice = /ulimit -n/;

/** So many files, and no more. */
function limited(files: number): string[] {
  return ["sh", "-c", `ulimit -n ${files}; exec "$0" "$@"`];
}

class Place implements AsyncDisposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "vhostctl-files-" });
  readonly pump = Pump.open();
  readonly #running = this.pump.run();

  /** `count` ports with four queue pairs each: a front end brings a connection and eight eventfds. */
  arguments(count: number): string[] {
    return ["--ports", `${count}`, "--queues", "4", "--workers", "1", "--dir", this.folder];
  }

  guest(port: number): StillGuest {
    return StillGuest.connect(this.pump, `${this.folder}/port${port}.sock`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pump[Symbol.asyncDispose]();
    await this.#running;
    await Deno.remove(this.folder, { recursive: true });
  }
}

/** What it has open without any guest. */
async function ownFiles(place: Place, ports: number): Promise<number> {
  await using serve = await Serve.start(...place.arguments(ports));
  const { fds } = footprint(serve.program.pid);
  await serve.finish();
  return fds;
}

Deno.test("with too few files to begin with it does not begin, and says what to do", async () => {
  await using place = new Place();
  const [program, ...args] = [...limited(24), vhostctl, "serve", ...place.arguments(1)];
  const serve = new Program(program!, args);
  assert.equal((await serve.finished).code, 1);
  assert.match(serve.since(), /too many open files: raise the limit: ulimit -n, or LimitNOFILE= of a unit/);
});

Deno.test("when files run out the guest that wants them goes, the others go on, and later ones come", async () => {
  await using place = new Place();
  const ports = 4;
  const own = await ownFiles(place, ports);
  // Enough for one guest, and for the connection of another.
  await using serve = await Serve.startBehind(limited(own + 12), ...place.arguments(ports));
  const first = place.guest(0);
  await first.start(...rings);
  using second = place.guest(1);
  await assert.rejects(second.start(...rings));
  const { reason } = await serve.until("disconnected", { port: "port1" });
  assert.match(String(reason), advice);
  assert.equal((await serve.ports()).get("port0")!.state, "running");
  first[Symbol.dispose]();
  await serve.until("disconnected", { port: "port0" });
  using third = place.guest(1);
  await third.start(...rings);
  await serve.until("started", { port: "port1" });
  await serve.finish();
});

Deno.test("connections that no file is left for wait, which is told once, and are let in later", async () => {
  await using place = new Place();
  const ports = 4;
  const own = await ownFiles(place, ports);
  await using serve = await Serve.startBehind(limited(own + 10), ...place.arguments(ports));
  const first = place.guest(0);
  await first.start(...rings);
  // There is room for one or two connections more.
  const idle = [place.guest(1), place.guest(2)];
  using last = place.guest(3);
  const { reason } = await serve.until("refused", { port: "port3" });
  assert.match(String(reason), advice);
  await new Promise((resolve) => setTimeout(resolve, 3500));
  assert.equal(serve.records.filter(({ event, port }) => event === "refused" && port === "port3").length, 1);
  assert.equal((await serve.ports()).get("port0")!.state, "running");
  for (const guest of [first, ...idle]) guest[Symbol.dispose]();
  await last.start(...rings);
  await serve.finish();
});

/** `vhostctl serve --standby`: one waits beside another, and takes its place whatever became of that. */

import assert from "node:assert/strict";
import { pause } from "../cli/pause.ts";
import { loadLibrary } from "../ffi/library.ts";
import { eventually, Program } from "./real/process.ts";
import { Serve, vhostctl } from "./real/serve.ts";
import { TakeoverPlace } from "./takeover_place.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

class Folder implements AsyncDisposable {
  readonly path = Deno.makeTempDirSync({ prefix: "vhostctl-standby-" });

  names(): string[] {
    return Array.from(Deno.readDirSync(this.path), ({ name }) => name).toSorted();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true });
  }
}

const longWait_ms = 3000;
const served = ["control.sock", "port0.sock", "port0.sock.state", "port1.sock", "port1.sock.state"];

for (const signal of ["SIGKILL", "SIGTERM"] as const) {
  Deno.test(`of two that stand by one goes on after ${signal}, and the other waits on`, async () => {
    await using folder = new Folder();
    await using first = await Serve.start("--dir", folder.path);
    await using one = await Serve.standBy("--dir", folder.path);
    await using other = await Serve.standBy("--dir", folder.path);
    await first.program.stop(signal);
    const next = await Promise.any([one, other].map(async (serve) => {
      await serve.until("ready");
      return serve;
    }));
    const last = next === one ? other : one;
    assert.deepEqual(folder.names(), served);
    assert.equal(last.records.at(-1)!.event, "standby");
    // proc(5): who waits for a lock is behind an arrow.
    const waits = new RegExp(`-> FLOCK .* WRITE ${last.program.pid} `);
    await eventually("it sleeps until it is told", longWait_ms, async () => {
      return waits.test(await Deno.readTextFile("/proc/locks")) || undefined;
    });
    await next.program.stop(signal);
    await last.until("ready");
    assert.deepEqual(folder.names(), served);
    await last.finish();
    assert.deepEqual(folder.names(), []);
  });
}

Deno.test("where nobody serves, one that stands by does so at once", async () => {
  await using folder = new Folder();
  await using serve = await Serve.standBy("--dir", `${folder.path}/net`);
  await serve.until("ready");
  await serve.finish();
});

Deno.test("one that stands by ends at once when it is told to", async () => {
  await using folder = new Folder();
  await using serve = await Serve.start("--dir", folder.path);
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    await using spare = await Serve.standBy("--dir", folder.path);
    assert.equal((await spare.program.stop(signal)).code, 0, spare.program.since());
  }
  assert.deepEqual(folder.names(), served);
  await serve.finish();
});

Deno.test("a port that another process has not let go of yet is left alone, and then taken", async () => {
  await using folder = new Folder();
  using events = Deno.watchFs(folder.path);
  const made = new Set<string>();
  const watching = (async () => {
    for await (const { paths } of events) for (const path of paths) made.add(path.slice(folder.path.length + 1));
  })();
  using state = Deno.openSync(`${folder.path}/port1.sock.state`, { read: true, write: true, create: true });
  state.lockSync(true);
  await using spare = await Serve.standBy("--dir", folder.path);
  await eventually("it tries", longWait_ms, () => made.has("port0.sock") || undefined);
  await pause(100);
  assert.ok(!made.has("port1.sock"));
  state.unlockSync();
  await spare.until("ready");
  await spare.finish();
  events.close();
  await watching;
});

Deno.test("a takeover is no end for those that stand by", async () => {
  await using place = await TakeoverPlace.start({ ring: "split" });
  await using spare = await Serve.standBy(...place.serveArguments);
  place.load();
  await place.traffic();
  await place.takeOver();
  await place.traffic();
  assert.equal(spare.records.at(-1)!.event, "standby");
});

Deno.test("where it cannot rehearse it says so, and stands by all the same", async () => {
  await using folder = new Folder();
  await using first = await Serve.start("--dir", folder.path);
  const env = ["env", `TMPDIR=${folder.path}/none`];
  await using spare = await Serve.standByBehind(env, "--dir", folder.path);
  assert.match(`${(await spare.until("unrehearsed"))["reason"]}`, /No such file/);
  await first.program.stop("SIGKILL");
  await spare.until("ready");
  await spare.finish();
});

Deno.test("where there is no way it gives up after a while, and says why", async () => {
  await using folder = new Folder();
  const path = `${folder.path}/port0.sock`;
  await Deno.writeTextFile(path, "");
  await using program = new Program(vhostctl, ["serve", "--standby", "--dir", folder.path]);
  const { code } = await program.finished;
  assert.equal(code, 1);
  assert.match(program.since(), /vhostctl serve: .*port0\.sock/);
});

for (
  const [words, said] of [
    [["--state-dir", "none"], /^vhostctl serve: --standby waits for the state file of a port, and none has one: /],
    [["--takeover"], /^vhostctl serve: options exclude each other: --standby, --takeover/],
    [["--state-dir", "/nowhere"], /^vhostctl serve: cannot stand by: .*nowhere/],
  ] as const
) {
  Deno.test(`serve --standby ${words.join(" ")} is refused`, async () => {
    await using folder = new Folder();
    const command = new Deno.Command(vhostctl, { args: ["serve", "--dir", folder.path, "--standby", ...words] });
    const { code, stderr } = await command.output();
    assert.match(new TextDecoder().decode(stderr), said);
    assert.notEqual(code, 0);
  });
}

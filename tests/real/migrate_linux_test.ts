// `vhostctl migrate` moves Linux guests between two QEMUs and two `serve`; what goes wrong leaves them where they are.

import assert from "node:assert/strict";
import { loadLibrary } from "../../ffi/library.ts";
import { qemuVersion } from "./guest.ts";
import { Move, tell } from "./move.ts";
import { realTest } from "./peers.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

/** So slow that there is time to disturb it. */
const slow = ["--max-bandwidth", "2M"];
const broadcast = "ff:ff:ff:ff:ff:ff";

function hex(bytes: Uint8Array, separator = ""): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(separator);
}

realTest("a guest moves there, back, and there again; its TCP connection lives", ["linux", "network"], async () => {
  await using move = await Move.start();
  const endStream = await move.stream();
  let announcements = 0;
  for (const way of ["there", "back", "there again"]) {
    const endPing = await move.ping();
    const result = await move.there();
    assert.ok(result.logged_pages > 0, "serve logged nothing, although the guest received");
    await move.alive();
    tell(way, result, await endPing());
    announcements += result.announcements;
    // What the guest knows of it: QEMU asks by an interrupt, and asks again only when that was answered.
    if (result.announcements === 0) {
      console.error(await move.guest.run("grep config /proc/interrupts; dmesg | tail -3"));
    }
  }
  // The guest has GUEST_ANNOUNCE; once in some dozens of moves it says nothing all the same.
  assert.ok(announcements > 0, "nobody ever announced where the guest is");
  const { bytes, same } = await endStream();
  console.error(`stream: ${bytes} bytes, ${same ? "the same" : "OTHERS"} arrived`);
  assert.ok(bytes > 1 << 20);
  // The emulation of QEMU 7.2 loses pages of its own.
  if (await qemuVersion() >= 10) assert.ok(same);
  await move.close();
});

realTest("a packed guest with 4 queues that cannot announce itself: RARP is ours", ["linux", "network"], async () => {
  await using move = await Move.start({ packed: true, queues: 4, cpus: 2, device: "guest_announce=off" });
  const mac = move.guest.options.mac!;
  const frames = await move.frames(async () => {
    const endPing = await move.ping();
    const result = await move.there();
    assert.ok(result.announcements > 0, "serve announced nothing");
    await move.alive();
    tell("there", result, await endPing());
  });
  const rarp = frames.filter((frame) => hex(frame.subarray(12, 14)) === "8035");
  assert.ok(rarp.length > 0, "no RARP came to the destination's other port");
  for (const frame of rarp) {
    assert.equal(hex(frame.subarray(0, 6), ":"), broadcast);
    assert.equal(hex(frame.subarray(6, 12), ":"), mac);
    assert.equal(frame.length, 60);
  }
  console.error(`${rarp.length} RARP frames: ${hex(rarp[0]!)}`);
  const endPing = await move.ping();
  const result = await move.there();
  await move.alive();
  tell("back", result, await endPing());
  await move.close();
});

realTest("a guest that writes faster than is sent goes by post-copy", ["linux", "network"], async () => {
  await using move = await Move.start({}, ",postcopy=on");
  await move.guest.run("dd if=/dev/urandom of=/tmp/bytes bs=64K count=200");
  await move.guest.run("(while :; do cat /tmp/bytes >/tmp/written; done) >/dev/null 2>&1 &");
  const endPing = await move.ping();
  const result = await move.there("--max-bandwidth", "8M", "--postcopy");
  assert.ok(result.postcopy, "it converged");
  await move.alive();
  tell("by post-copy", result, await endPing());
  await move.close();
});

realTest("a migration that is cancelled or fails leaves the guest where it is", ["linux", "network"], async (test) => {
  // QEMU listens, so that a serve that comes back is let in.
  await using move = await Move.start({ listen: true });
  await test.step("cancelled half-way", async () => {
    await using to = await move.awaiting();
    const { code, result, errors } = await move.migrate(to, ...slow, "--cancel-after", "1").finished();
    assert.deepEqual([code, result.event, result.source.status], [1, "cancelled", "running"]);
    assert.match(errors, /^vhostctl migrate: migration was cancelled: the guest runs on the source$/);
    await move.alive();
  });
  await test.step("the destination is killed half-way", async () => {
    await using to = await move.awaiting();
    const migrate = move.migrate(to, ...slow);
    await migrate.underWay();
    await to.kill();
    const { code, result } = await migrate.finished();
    assert.deepEqual([code, result.event, result.source.status, result.destination.status], [
      ...[1, "failed", "running", "gone"],
    ]);
    await move.alive();
  });
  await test.step("the source's serve is killed half-way, and comes back; then Ctrl-C", async () => {
    await using to = await move.awaiting();
    const migrate = move.migrate(to, ...slow);
    await migrate.underWay();
    await move.hosts[0].replaceServe();
    await move.hosts[0].serve.until("started", { port: "port0" });
    await move.alive();
    migrate.program.kill("SIGINT");
    const { code, result } = await migrate.finished();
    assert.deepEqual([code, result.event, result.source.status], [1, "cancelled", "running"]);
    await move.alive();
  });
  await test.step("and after all that it moves", async () => {
    const endPing = await move.ping();
    const result = await move.there();
    await move.alive();
    tell("moved", result, await endPing());
  });
  await move.close();
});

/** `vhostctl tso-test --socket A --socket B`: simulated guests are joined, and what they send is told. */

import assert from "node:assert/strict";
import { resolve } from "node:path";
import { attach } from "../cli/guest_attach.ts";
import { JsonProcess } from "../cli/json_process.ts";
import type { Watched } from "../cli/tso_watch.ts";
import { loadLibrary } from "../ffi/library.ts";
import { Pump } from "../mod.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const program = Deno.env.get("VHOSTCTL") ?? resolve(import.meta.dirname!, "../scripts/vhostctl");
const macs = [0x52_54_00_00_00_01, 0x52_54_00_00_00_02] as const;

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!condition() && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.ok(condition(), "did not come about within 20 s");
}

Deno.test("two guests are joined, packets are cut for one of them, and all that is sent is told", async () => {
  await using stack = new AsyncDisposableStack();
  const folder = await Deno.makeTempDir();
  stack.defer(() => Deno.remove(folder, { recursive: true }));
  const sockets = [`${folder}/a`, `${folder}/b`];
  const args = ["tso-test", "--json", ...sockets.flatMap((socket) => ["--socket", socket])];
  const child = stack.use(new JsonProcess("vhostctl tso-test", program, args));
  await child.next(({ event }) => event === "ready");
  const pump = stack.use(Pump.open());
  const running = pump.run();
  stack.defer(async () => {
    await pump[Symbol.asyncDispose]();
    await running;
  });
  const common = { ring: "packed", ringSize: 256, queues: 1, frameBytes: 9000 } as const;
  const whole = stack.use(await attach(pump, { ...common, socket: sockets[0]!, offload: "all" }));
  const finished = stack.use(await attach(pump, { ...common, socket: sockets[1]!, offload: "nothing" }));
  const traffic = { frameBytes: 9000, gsoSize: 1448, checkEvery: 1, wait: "sleep", count: 200, rate: 1000 } as const;
  const starts = [[finished, 1, 0], [whole, 0, 1]] as const;
  for (const [{ guest }, own, other] of starts) {
    guest.start({ ...traffic, sourceMac: macs[own], destinationMac: macs[other] });
  }
  await until(() => starts.every(([{ guest }]) => guest.stats().sent === 200n));
  // What a busy machine is too slow to receive is lost, but not from the counters.
  const received = () => starts.map(([{ guest }]) => Number(guest.stats().received_checked));
  for (let before: number[] = []; before.join() !== received().join();) {
    before = received();
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  assert.ok(received().every((count) => count > 0), `${received()}`);
  for (const [{ guest }] of starts) {
    await guest.stop();
    const { corrupted, bad_header, duplicated, reordered } = guest.stats();
    assert.deepEqual([corrupted, bad_header, duplicated, reordered], [0n, 0n, 0n, 0n]);
  }
  const summary = child.next(({ event }) => event === "summary");
  child.signal("SIGINT");
  const { guests } = await summary as unknown as { guests: Watched[] };
  for (const { guest, packets, longest_bytes, gso_packets, gso_bytes, gso_kinds, checksums } of guests) {
    assert.match(guest, /^eth_vhost[01]$/);
    const announced = packets - 200;
    assert.ok(announced >= 1);
    assert.deepEqual({ longest_bytes, gso_packets, gso_bytes, gso_kinds, checksums }, {
      ...{ longest_bytes: 9000, gso_packets: 200, gso_bytes: 200 * 9000, gso_kinds: { USO: 200 } },
      checksums: { left: 200, right: 0, wrong: 0, none: announced },
    });
  }
});

for (
  const [sockets, code, said] of [
    [["/nonexistent/a", "/nonexistent/b"], 1, /cannot listen on \/nonexistent\/a: no such folder/],
    [["/dev/vhost-net", "/tmp/b"], 2, /cannot use iface= in eth_vhost0: \/dev\/vhost-net: /],
  ] as const
) {
  Deno.test(`tso-test refuses the socket ${sockets[0]}`, async () => {
    const args = ["tso-test", ...sockets.flatMap((socket) => ["--socket", socket])];
    const output = await new Deno.Command(program, { args, stdin: "null" }).output();
    const stderr = new TextDecoder().decode(output.stderr);
    assert.equal(output.code, code, stderr);
    assert.match(stderr, said);
    assert.equal(stderr.trim().split("\n").length, 1, "one line");
  });
}

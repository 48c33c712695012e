// `serve` stands still for a while, as under a debugger, or on a host that swaps: SIGSTOP, and later SIGCONT. Nothing
// that guests or their QEMU did meanwhile may be lost on it.

import assert from "node:assert/strict";
import { Heartbeat } from "./heartbeat.ts";
import { writeInitramfs } from "./initramfs.ts";
import { bootBoth, Folder } from "./linux_folder.ts";
import { realTest } from "./peers.ts";
import { Serve } from "./serve.ts";
import { TcpLoad } from "./tcp_load.ts";

const addresses = ["10.0.0.1", "10.0.0.2"] as const;
const traffic_timeout_ms = 20_000;
const stop_ms = 10_000;
const short_ms = 2000;

function wait(time_ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, time_ms));
}

async function standsStill(test: Deno.TestContext, packed: boolean): Promise<void> {
  using folder = new Folder();
  await writeInitramfs(folder.initramfs);
  await using serve = await Serve.start("--ports", "2", "--dir", folder.path);
  const guests = await bootBoth(folder.guest(0, { packed }), folder.guest(1, { packed }));
  await using left = guests[0];
  await using right = guests[1];
  for (const [index, guest] of guests.entries()) await guest.setAddress(`${addresses[index]}/24`);
  await left.reach(addresses[1], traffic_timeout_ms);

  const from = serve.now;
  await test.step("under TCP and ping: both go on where they were", async () => {
    const load = await TcpLoad.start(left, right, addresses[1]);
    const heartbeat = await Heartbeat.start(left, addresses[1]);
    await heartbeat.longestGap_ms();
    serve.program.kill("SIGSTOP");
    await wait(stop_ms);
    serve.program.kill("SIGCONT");
    await heartbeat.answered(10);
    console.error(`no ping was answered for ${await heartbeat.longestGap_ms()} ms`);
    await heartbeat.stop();
    await load.iperfFlows();
    const { file_mib, iperf } = await load.finish();
    console.error(`the file: ${file_mib} MiB, whole; iperf3: ${iperf}`);
    assert.deepEqual(serve.records.slice(from).filter(({ event }) => event !== "stats"), []);
  });

  await test.step("while a guest is reset: its QEMU waits for the answer, and the guest comes back", async () => {
    serve.program.kill("SIGSTOP");
    const reset = right.reset();
    await wait(short_ms);
    serve.program.kill("SIGCONT");
    await reset;
    await right.setAddress(`${addresses[1]}/24`);
    await left.reach(addresses[1], traffic_timeout_ms);
    assert.equal(await left.ping(addresses[1], 5), 5);
    assert.equal(await right.ping(addresses[0], 5), 5);
  });
  await left.close();
  await right.close();
  await serve.finish();
}

for (const packed of [false, true]) {
  const name = `serve stands still for ${stop_ms / 1000} s, ${packed ? "packed" : "split"}`;
  realTest(name, ["linux"], (test) => standsStill(test, packed));
}

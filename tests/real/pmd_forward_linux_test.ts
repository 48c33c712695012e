// The deck's testpmd line with `vhostctl pmd-forward` in its place, and two Linux guests under stock QEMU.

import assert from "node:assert/strict";
import { LinuxGuest } from "./guest.ts";
import { writeInitramfs } from "./initramfs.ts";
import { bootBoth, Folder } from "./linux_folder.ts";
import { realTest } from "./peers.ts";
import { Program } from "./process.ts";
import { vhostctl } from "./serve.ts";

const queues = 2;
const start_timeout_ms = 180_000;
const answer_timeout_ms = 30_000;
const traffic_timeout_ms = 20_000;
const left_address = "10.0.0.1";
const right_address = "10.0.0.2";
const nobodys_address = "10.0.0.99";

function deckLine(folder: Folder): string[] {
  const vdevs = [0, 1].flatMap((port) => ["--vdev", `eth_vhost${port},iface=${folder.socket(port)},queues=${queues}`]);
  const eal = ["-c", "0x1f", "-n", "4", "--socket-mem", "4096,0"];
  return ["pmd-forward", ...eal, ...vdevs, "--", "-i", `--rxq=${queues}`, `--txq=${queues}`, "--nb-cores=2"];
}

/** Gives a command to the prompt, and waits for what it answers. */
async function ask(forward: Program, command: string, answer: RegExp): Promise<void> {
  const from = forward.position;
  await forward.write(`${command}\n`);
  await forward.until(answer, answer_timeout_ms, from);
}

/** Both queues of each guest send, and those of the other receive. */
async function everyQueueCarries(left: LinuxGuest, right: LinuxGuest): Promise<void> {
  const before = [await left.queueUse("tx", queues), await right.queueUse("rx", queues)];
  await right.run("iperf3 -s -D");
  for (let cpu = 0; cpu < queues; cpu++) await left.run(`taskset -c ${cpu} ping -c 2 -i 0.1 ${right_address}`);
  await left.run(`iperf3 -c ${right_address} -u -P 16 -b 500K -l 500 -t 1`, start_timeout_ms);
  const after = [await left.queueUse("tx", queues), await right.queueUse("rx", queues)];
  after.forEach((uses, side) => {
    uses.forEach((use, queue) => assert(use > before[side]![queue]!, `queue ${queue}: ${before[side]} then ${uses}`));
  });
}

realTest("the deck's line, two Linux guests, 2 queues: start, stop, answers to ping, a guest gone and back", [
  "linux",
], async () => {
  using folder = new Folder();
  await writeInitramfs(folder.initramfs);
  await using forward = new Program(vhostctl, deckLine(folder));
  await forward.until(/^ready$/m, start_timeout_ms);
  const options = { queues, cpus: queues };
  const [left, right] = await bootBoth(folder.guest(0, options), folder.guest(1, options));
  await using stack = new AsyncDisposableStack();
  for (const guest of [left, right]) stack.use(guest);
  await left.setAddress(`${left_address}/24`);
  await right.setAddress(`${right_address}/24`);
  await ask(forward, "show port summary all", /eth_vhost0 .* up\n.*eth_vhost1 .* up/);
  assert.equal(await left.ping(right_address, 2), 0, "answered before start");
  await ask(forward, "start", /RX P=1\/Q=1 -> TX P=0\/Q=1/);
  await left.reach(right_address, traffic_timeout_ms);
  assert.equal(await left.ping(right_address, 5), 5);
  await everyQueueCarries(left, right);
  await ask(forward, "stop", /Accumulated forward statistics[^]*RX-packets: [1-9][^]*Done\./);
  assert.equal(await left.ping(right_address, 2), 0, "answered after stop");
  await ask(forward, "set fwd icmpecho", /Set icmpecho/);
  await ask(forward, "start", /RX P=0\/Q=0 -> TX P=0\/Q=0/);
  await left.reach(nobodys_address, traffic_timeout_ms);
  assert.equal(await left.ping(nobodys_address, 5), 5);
  await right.kill();
  await forward.until(/eth_vhost1: front end gone/, answer_timeout_ms);
  await ask(forward, "show port summary all", /eth_vhost0 .* up\n.*eth_vhost1 .* down/);
  const another = stack.use(await LinuxGuest.boot(folder.guest(1, options)));
  await another.setAddress(`${right_address}/24`);
  await another.reach(nobodys_address, traffic_timeout_ms);
  await ask(forward, "show port summary all", /eth_vhost1 .* up/);
  await left.close();
  await another.close();
  await ask(forward, "quit", /Bye\.\.\./);
  assert.equal((await forward.finished).code, 0);
});

/** `vhostctl vhost-pci` as a user meets it, without a VM. */

import assert from "node:assert/strict";
import { Program } from "./real/process.ts";
import { Serve, vhostctl } from "./real/serve.ts";

const wrong: readonly [args: string, message: RegExp][] = [
  ["--pci /tmp/p", /--port/],
  ["--port socket=/tmp/s", /--pci/],
  ["--port queues=2 --pci /tmp/p", /missing in --port: socket: give socket=PATH/],
  ["--port socket=/tmp/s,mtu=1500 --pci /tmp/p", /cannot use mtu= in --port of a link/],
  ["--port socket=/tmp/s,queues=65 --pci /tmp/p", /too many queues in --port: 65/],
  ["--port socket=/tmp/s --pci /tmp/s", /two ports with the same socket: \/tmp\/s/],
  [`--port socket=/tmp/s --pci /tmp/${"p".repeat(120)}`, /socket path too long/],
  ["--port socket=/tmp/s --pci /tmp/p --via vfio-user", /cannot use --via: vfio-user: a later version brings it/],
  ["--port socket=/tmp/s --pci /tmp/p --via pigeon", /cannot use --via: pigeon/],
];

for (const [args, message] of wrong) {
  Deno.test(`vhost-pci ${args} is wrong usage`, async () => {
    const program = new Program(vhostctl, ["vhost-pci", ...args.split(" ")]);
    assert.equal((await program.finished).code, 2);
    assert.match(program.since(), message);
    assert.equal(program.since().trim().split("\n").length, 1);
  });
}

Deno.test("vhost-pci says who is trusted, how both VMs attach, and is ready until it is stopped", async () => {
  const folder = Deno.makeTempDirSync();
  try {
    const args = ["--port", `socket=${folder}/second.sock,queues=2`, "--pci", `${folder}/first.sock`];
    await using link = await Serve.link(...args);
    const [trust, second, first] = link.records;
    assert.deepEqual([trust!.event, trust!["writes"]], ["trust", "all"]);
    assert.match(`${second!["qemu"]}`, /share=on.*path=.*second\.sock.*queues=2/);
    assert.match(`${first!["qemu"]}`, /first\.sock,.*ivshmem-doorbell,.*vectors=4,.*size=16384.*first\.sock\.link/);
    const other = new Program(vhostctl, ["vhost-pci", ...args.with(1, `socket=${folder}/third.sock`)]);
    assert.equal((await other.finished).code, 1);
    assert.match(other.since(), /cannot open link page .*first\.sock\.link: another program has it: stop that/);
    assert.equal((await link.program.stop("SIGTERM")).code, 0);
    assert.equal(link.records.at(-1)!.event, "summary");
    // The page stays: the first VM may have it mapped.
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["first.sock.link"]);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("the help of vhost-pci says the trust aloud", async () => {
  const program = new Program(vhostctl, ["vhost-pci", "--help"]);
  assert.equal((await program.finished).code, 0);
  assert.match(program.since(), /Trust: the first VM can read and write all of the second VM's memory/);
});

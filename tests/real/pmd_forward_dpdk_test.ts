// DPDK's virtio-user driver on ports of `vhostctl pmd-forward`: packets circulate between two ports of testpmd, each
// queue to its counterpart, and not one of them may be missing at the end.

import { bursts, compare, exchange, Ports, received } from "./exchange.ts";
import assert from "node:assert/strict";
import { ring_paths, type RingPath, Testpmd } from "./dpdk.ts";
import { realTest } from "./peers.ts";
import { Serve } from "./serve.ts";

const packets_wanted = 200_000;
const paths = [false, true].map((packed) => ring_paths.find((path) => path.packed === packed)!);

function vdevs(ports: Ports, settings: string): string[] {
  return ports.sockets.flatMap((socket, port) => ["--vdev", `eth_vhost${port},iface=${socket}${settings}`]);
}

async function forwards(path: RingPath, mode: string): Promise<void> {
  using ports = new Ports();
  await using forward = await Serve.forward("--forward-mode", mode, ...vdevs(ports, ""));
  await using testpmd = await Testpmd.start({ sockets: ports.sockets, path });
  await forward.up(1);
  await exchange(testpmd, packets_wanted);
  await compare(forward, testpmd, "eth_vhost");
}

for (const path of paths) {
  for (const mode of ["io", "mac", "macswap", "5tswap", "csum"]) {
    realTest(`pmd-forward, ${mode}, testpmd, ${path.name}: none lost`, ["dpdk"], () => forwards(path, mode));
  }

  realTest(`pmd-forward connects, testpmd listens, ${path.name}: none lost`, ["dpdk"], async () => {
    using ports = new Ports();
    await using forward = await Serve.forward("--forward-mode", "macswap", ...vdevs(ports, ",client=1"));
    await using testpmd = await Testpmd.start({ sockets: ports.sockets, path, server: true });
    await forward.up(1);
    await exchange(testpmd, packets_wanted);
    await compare(forward, testpmd, "eth_vhost");
  });

  realTest(`pmd-forward, testpmd, ${path.name}: two queues, both used, none lost`, ["dpdk"], async () => {
    using ports = new Ports();
    await using forward = await Serve.forward(...vdevs(ports, ",queues=2"));
    await using testpmd = await Testpmd.start({ sockets: ports.sockets, path, queues: 2, many_flows: true });
    await forward.up(2);
    await testpmd.circulate(bursts);
    await received(testpmd, packets_wanted);
    assert.equal(await testpmd.drain(), 0, "testpmd found its transmit ring full");
    await compare(forward, testpmd, "eth_vhost");
    for (const port of [0, 1]) {
      const queues = await testpmd.queueCounters(port);
      assert(queues.every((packets) => packets > packets_wanted / 10), `port ${port} received by queue: ${queues}`);
    }
  });
}

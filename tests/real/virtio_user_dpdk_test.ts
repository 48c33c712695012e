// DPDK's own back end, net_vhost, with our virtio_user vdevs as its drivers: packets circulate between two ports of
// testpmd, and not one of them may be missing at the end.

import { ring_paths, type RingPath, Testpmd } from "./dpdk.ts";
import { bursts, compare, exchange, Ports, received } from "./exchange.ts";
import assert from "node:assert/strict";
import { realTest } from "./peers.ts";
import { Serve } from "./serve.ts";

const packets_wanted = 200_000;
/** What is DPDK's alone among the choices of a driver. */
const paths = ring_paths.filter((path) => !path.vectorized);

function vdevs(ports: Ports, path: RingPath, settings = ""): string[] {
  const flag = (value: boolean) => value ? 1 : 0;
  const choice = `packed_vq=${flag(path.packed)},in_order=${flag(path.in_order)},mrg_rxbuf=${flag(path.mergeable)}`;
  return ports.sockets.flatMap((socket, port) => [
    "--vdev",
    `virtio_user${port},path=${socket},${choice}${settings}`,
  ]);
}

for (const path of paths) {
  realTest(`virtio_user, DPDK's net_vhost, ${path.name}: none lost`, ["dpdk"], async () => {
    using ports = new Ports();
    await using testpmd = await Testpmd.start({ sockets: ports.sockets, path, vhost: true });
    await using forward = await Serve.forward(...vdevs(ports, path));
    await forward.up(1);
    const started = await forward.until("started", { port: "virtio_user0" });
    assert.equal(started["ring"], path.packed ? "packed" : "split");
    for (const [feature, wanted] of [["MRG_RXBUF", path.mergeable], ["IN_ORDER", path.in_order]] as const) {
      assert.equal((started["features"] as string[]).includes(feature), wanted, `negotiated: ${started["features"]}`);
    }
    for (const bytes of [64, 1500]) await exchange(testpmd, packets_wanted, bytes);
    await compare(forward, testpmd, "virtio_user");
  });
}

for (const path of [false, true].map((packed) => paths.find((one) => one.packed === packed)!)) {
  realTest(`virtio_user, DPDK's net_vhost, ${path.name}: two queues, both used, none lost`, ["dpdk"], async () => {
    using ports = new Ports();
    const options = { sockets: ports.sockets, path, vhost: true, queues: 2, many_flows: true };
    await using testpmd = await Testpmd.start(options);
    await using forward = await Serve.forward(...vdevs(ports, path, ",queues=2"));
    await forward.up(2);
    await testpmd.circulate(bursts);
    await received(testpmd, packets_wanted);
    assert.equal(await testpmd.drain(), 0, "testpmd found its transmit ring full");
    await compare(forward, testpmd, "virtio_user");
    for (const port of [0, 1]) {
      const queues = await testpmd.queueCounters(port);
      assert(queues.every((packets) => packets > packets_wanted / 10), `port ${port} received by queue: ${queues}`);
    }
  });
}

realTest("virtio_user listens, DPDK's net_vhost connects, goes and comes again: none lost", ["dpdk"], async () => {
  using ports = new Ports();
  const path = paths[0]!;
  await using forward = await Serve.forward(...vdevs(ports, path, ",server=1"));
  const options = { sockets: ports.sockets, path, vhost: true, server: false };
  await using first = await Testpmd.start(options);
  await forward.up(1);
  await exchange(first, packets_wanted);
  await compare(forward, first, "virtio_user");
  await first.kill();
  const from = forward.now;
  for (const port of ["virtio_user0", "virtio_user1"]) await forward.until("disconnected", { port });
  await using second = await Testpmd.start(options);
  for (const port of ["virtio_user0", "virtio_user1"]) await forward.until("started", { port }, { from });
  await exchange(second, packets_wanted);
});

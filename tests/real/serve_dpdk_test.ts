// DPDK's virtio-user driver on ports of `vhostctl serve`, in every ring path that this CPU has: packets circulate
// between two ports of testpmd through our switch, and not one of them may be missing at the end.

import assert from "node:assert/strict";
import { bursts, compare, exchange, Ports, received } from "./exchange.ts";
import { possible, ring_paths, type RingPath, Testpmd, type TestpmdOptions } from "./dpdk.ts";
import { realTest } from "./peers.ts";
import { drops, Serve } from "./serve.ts";

const packets_wanted = 1_000_000;
const large_packets_wanted = 50_000;
const overrunning_bursts = 16;

const [first_path] = ring_paths;
const packed_path = ring_paths.find((path) => path.packed)!;

async function startBoth(ports: Ports, settings: string, options: Omit<TestpmdOptions, "sockets">) {
  const serve = await Serve.start(...ports.arguments(settings));
  let testpmd: Testpmd | undefined;
  try {
    testpmd = await Testpmd.start({ sockets: ports.sockets, ...options });
    await serve.up(options.queues ?? 1);
    return { serve, testpmd };
  } catch (reason) {
    await testpmd?.kill();
    const told = serve.program.since().slice(-3000);
    await serve[Symbol.asyncDispose]();
    throw new Error(`testpmd did not start; serve had printed:\n${told}`, { cause: reason });
  }
}

async function passesEveryPacket(path: RingPath): Promise<void> {
  using ports = new Ports();
  const started = await startBoth(ports, "", { path });
  await using serve = started.serve;
  await using testpmd = started.testpmd;
  await exchange(testpmd, packets_wanted);
  await exchange(testpmd, large_packets_wanted, 1514);
  await compare(serve, testpmd);
  const ring = path.packed ? "packed" : "split";
  for (const port of ["p0", "p1"]) {
    const { features } = await serve.until("started", { port, ring });
    assert.equal((features as string[]).includes("IN_ORDER"), path.in_order, `negotiated: ${features}`);
    assert.equal((features as string[]).includes("MRG_RXBUF"), path.mergeable, `negotiated: ${features}`);
  }
  await testpmd.stop();
  for (const port of ["p0", "p1"]) await serve.until("disconnected", { port });
  await serve.finish();
}

for (const path of ring_paths) {
  if (!possible(path)) {
    console.error(`not on this CPU: testpmd, ${path.name}: DPDK has this path for AVX-512 alone`);
    continue;
  }
  realTest(`testpmd, ${path.name}: a million packets each way, none lost`, ["dpdk"], () => passesEveryPacket(path));
}

for (const path of [first_path!, packed_path]) {
  realTest(`testpmd, ${path.name}: two queues, both used, none lost`, ["dpdk"], async () => {
    using ports = new Ports();
    const started = await startBoth(ports, ",queues=2", { path, queues: 2, many_flows: true });
    await using serve = started.serve;
    await using testpmd = started.testpmd;
    // Flows may meet in one queue of the receiver, so fewer of them circulate.
    await testpmd.circulate(bursts / 2);
    await received(testpmd, packets_wanted);
    assert.equal(await testpmd.drain(), 0, "testpmd found its transmit ring full");
    await compare(serve, testpmd);
    for (const port of [0, 1]) {
      const queues = await testpmd.queueCounters(port);
      assert(queues.every((packets) => packets > packets_wanted / 10), `port ${port} received by queue: ${queues}`);
    }
  });

  realTest(`testpmd, ${path.name}: what an overrun loses is counted`, ["dpdk"], async () => {
    using ports = new Ports();
    const started = await startBoth(ports, "", { path });
    await using serve = started.serve;
    await using testpmd = started.testpmd;
    await testpmd.circulate(overrunning_bursts);
    await received(testpmd, packets_wanted);
    await testpmd.drain();
    const reports = await serve.ports();
    for (const [from, to] of [[0, 1], [1, 0]] as const) {
      const sent = await testpmd.counters(from);
      const arrived = await testpmd.counters(to);
      const receiver = reports.get(`p${to}`)!;
      assert.deepEqual(Object.keys(drops(receiver)).filter((name) => name !== "drop_no_buffer"), []);
      const dropped = receiver.to_guest["drop_no_buffer"]!;
      assert.equal(sent.tx_packets, arrived.rx_packets + dropped, `packets from port ${from}, ${dropped} dropped`);
    }
  });
}

realTest("testpmd listens and serve connects: none lost", ["dpdk"], async () => {
  using ports = new Ports();
  const started = await startBoth(ports, ",mode=client", { path: first_path!, server: true });
  await using serve = started.serve;
  await using testpmd = started.testpmd;
  await exchange(testpmd, packets_wanted);
  await compare(serve, testpmd);
});

realTest("testpmd is killed amid traffic, and the next one finds the ports free", ["dpdk"], async () => {
  using ports = new Ports();
  const started = await startBoth(ports, "", { path: first_path! });
  await using serve = started.serve;
  await started.testpmd.circulate(bursts);
  await received(started.testpmd, large_packets_wanted);
  await started.testpmd.kill();
  for (const port of ["p0", "p1"]) await serve.until("disconnected", { port });
  await using next = await Testpmd.start({ sockets: ports.sockets, path: packed_path });
  await serve.up(1);
  await exchange(next, packets_wanted);
});

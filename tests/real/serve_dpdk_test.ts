// DPDK's virtio-user driver on ports of `vhostctl serve`, in every ring path that this CPU has: packets circulate
// between two ports of testpmd through our switch, and not one of them may be missing at the end.

import assert from "node:assert/strict";
import { possible, ring_paths, type RingPath, Testpmd, type TestpmdOptions } from "./dpdk.ts";
import { realTest } from "./peers.ts";
import { eventually } from "./process.ts";
import { drops, Serve } from "./serve.ts";

const packets_wanted = 1_000_000;
const large_packets_wanted = 50_000;
const exchange_timeout_ms = 180_000;
/**
 * Bursts of 32 that circulate in each direction. Vectorized drivers leave some 64 of 256 descriptors idle, and what is
 * more than the rest is dropped: that is an overrun, which has a test of its own.
 */
const bursts = 4;
const overrunning_bursts = 16;

const [first_path] = ring_paths;
const packed_path = ring_paths.find((path) => path.packed)!;

/** Two ports named p0 and p1 in a folder that vanishes. */
class Ports implements Disposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "vhostctl-dpdk-" });
  readonly sockets = [0, 1].map((port) => `${this.folder}/p${port}.sock`);

  arguments(settings = ""): string[] {
    return this.sockets.flatMap((socket, port) => ["--port", `name=p${port},socket=${socket}${settings}`]);
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.folder, { recursive: true });
  }
}

/** Waits until both ports of testpmd have received so many packets since it started. */
async function received(testpmd: Testpmd, packets: number): Promise<void> {
  await eventually(`each port of testpmd receives ${packets} packets`, exchange_timeout_ms, async () => {
    const counters = [await testpmd.counters(0), await testpmd.counters(1)];
    return counters.every((port) => port.rx_packets >= packets) || undefined;
  });
}

/** Circulates packets until each port has received so many more, and fails unless every one came through. */
async function exchange(testpmd: Testpmd, packets: number, frame_bytes?: number): Promise<void> {
  const before = [await testpmd.counters(0), await testpmd.counters(1)];
  await testpmd.circulate(bursts, frame_bytes === undefined ? undefined : [frame_bytes]);
  await received(testpmd, packets + Math.max(...before.map((port) => port.rx_packets)));
  assert.equal(await testpmd.drain(), 0, "testpmd found its transmit ring full");
  const [left, right] = [await testpmd.counters(0), await testpmd.counters(1)];
  assert.equal(right.rx_packets, left.tx_packets, "packets from port 0 to port 1");
  assert.equal(left.rx_packets, right.tx_packets, "packets from port 1 to port 0");
  assert.equal(right.rx_bytes, left.tx_bytes, "bytes from port 0 to port 1");
  assert.equal(left.rx_bytes, right.tx_bytes, "bytes from port 1 to port 0");
  assert.equal(left.errors + right.errors, 0);
}

/** What serve counted must be what testpmd counted, with nothing dropped. */
async function compare(serve: Serve, testpmd: Testpmd): Promise<void> {
  const ports = await serve.ports();
  for (const port of [0, 1]) {
    const report = ports.get(`p${port}`)!;
    const counters = await testpmd.counters(port);
    assert.deepEqual(drops(report), {});
    assert.equal(report.from_guest["packets"], counters.tx_packets);
    assert.equal(report.from_guest["bytes"], counters.tx_bytes);
    assert.equal(report.to_guest["packets"], counters.rx_packets);
    assert.equal(report.to_guest["bytes"], counters.rx_bytes);
  }
}

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

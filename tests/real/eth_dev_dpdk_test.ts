// DPDK's virtio-user driver on EthDev, forwarded by bench/forward.ts: not one packet may be missing at the end.

import assert from "node:assert/strict";
import { ring_paths, type RingPath, Testpmd } from "./dpdk.ts";
import { bursts, exchange, Ports, received } from "./exchange.ts";
import { realTest } from "./peers.ts";
import { describe, eventually, Program } from "./process.ts";

const program = new URL("../../bench/forward.ts", import.meta.url).pathname;
const packets_wanted = 100_000;
const start_timeout_ms = 60_000;
const up_timeout_ms = 30_000;
const paths = [false, true].map((packed) => ring_paths.find((path) => path.packed === packed)!);

async function startForwarder(ports: Ports, ...options: string[]): Promise<Program> {
  const args = ["run", "--allow-all", program, "--verbose", ...options, ...ports.sockets];
  const forwarder = new Program(Deno.execPath(), args);
  await forwarder.until(/"event":"ready"/, start_timeout_ms);
  return forwarder;
}

function told(forwarder: Program, event: string): Record<string, unknown>[] {
  const lines = forwarder.since().split("\n").filter((line) => line.startsWith(`{"event":"${event}"`));
  return lines.map((line) => JSON.parse(line));
}

/** Waits until so many queue pairs of each port carry packets: a driver may think so earlier than we do. */
async function up(forwarder: Program, queue_pairs: number): Promise<void> {
  await eventually(`${queue_pairs} queue pairs of each port are up`, up_timeout_ms, () => {
    const queues = told(forwarder, "queue").map((line) =>
      [`${line["port"]} ${line["direction"]} ${line["queue"]}`, line["enabled"]] as const
    );
    return [...new Map(queues).values()].filter(Boolean).length === 2 * 2 * queue_pairs || undefined;
  }, 20);
}

/** Ends it: what it counted must be what testpmd counted, with nothing dropped. */
async function finish(forwarder: Program, testpmd: Testpmd): Promise<void> {
  const counters = [await testpmd.counters(0), await testpmd.counters(1)];
  const status = await forwarder.stop("SIGTERM");
  assert.equal(describe(status), "exit code 0", forwarder.since());
  const stats = told(forwarder, "stats");
  assert.deepEqual(stats.map(({ port }) => port), ["eth_vhost0", "eth_vhost1"], forwarder.since());
  stats.forEach(({ ipackets, ibytes, opackets, obytes, ierrors, oerrors }, port) => {
    const { rx_packets, rx_bytes, tx_packets, tx_bytes, errors } = counters[port]!;
    assert.deepEqual([ipackets, ibytes, opackets, obytes], [tx_packets, tx_bytes, rx_packets, rx_bytes]);
    assert.deepEqual([ierrors, oerrors, errors], [0, 0, 0]);
    // What is dropped between two ports, neither of them has to count.
    const { opackets: sent, obytes: sent_bytes } = stats[port ^ 1]!;
    assert.deepEqual([sent, sent_bytes], [ipackets, ibytes]);
  });
}

async function forwards(path: RingPath, mode: string): Promise<void> {
  using ports = new Ports();
  await using forwarder = await startForwarder(ports, "--mode", mode);
  await using testpmd = await Testpmd.start({ sockets: ports.sockets, path });
  await up(forwarder, 1);
  await exchange(testpmd, packets_wanted);
  await finish(forwarder, testpmd);
}

for (const path of paths) {
  for (const mode of ["io", "mac", "macswap", "5tswap", "csum"]) {
    realTest(`EthDev, ${mode}, testpmd, ${path.name}: none lost`, ["dpdk"], () => forwards(path, mode));
  }

  realTest(`EthDev, testpmd, ${path.name}: two queues, both used, none lost`, ["dpdk"], async () => {
    using ports = new Ports();
    await using forwarder = await startForwarder(ports, "--queues", "2");
    await using testpmd = await Testpmd.start({ sockets: ports.sockets, path, queues: 2, many_flows: true });
    await up(forwarder, 2);
    await testpmd.circulate(bursts);
    await received(testpmd, packets_wanted);
    assert.equal(await testpmd.drain(), 0, "testpmd found its transmit ring full");
    for (const port of [0, 1]) {
      const queues = await testpmd.queueCounters(port);
      assert(queues.every((packets) => packets > packets_wanted / 10), `port ${port} received by queue: ${queues}`);
    }
    await finish(forwarder, testpmd);
  });
}

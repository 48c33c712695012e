// Packets that circulate between two ports of testpmd, and that none of them may be missing.

import assert from "node:assert/strict";
import type { Testpmd } from "./dpdk.ts";
import { eventually } from "./process.ts";
import { drops, type Serve } from "./serve.ts";

const exchange_timeout_ms = 180_000;
/**
 * Bursts of 32 that circulate in each direction. Vectorized drivers leave some 64 of 256 descriptors idle, and what is
 * more than the rest is dropped: that is an overrun, which has a test of its own.
 */
export const bursts = 4;

/** Two ports named p0 and p1 in a folder that vanishes. */
export class Ports implements Disposable {
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
export async function received(testpmd: Testpmd, packets: number): Promise<void> {
  await eventually(`each port of testpmd receives ${packets} packets`, exchange_timeout_ms, async () => {
    const counters = [await testpmd.counters(0), await testpmd.counters(1)];
    return counters.every((port) => port.rx_packets >= packets) || undefined;
  });
}

/** Circulates packets until each port has received so many more, and fails unless every one came through. */
export async function exchange(testpmd: Testpmd, packets: number, frame_bytes?: number): Promise<void> {
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

/** What was counted at the ports of these names must be what testpmd counted, with nothing dropped. */
export async function compare(serve: Serve, testpmd: Testpmd, name = "p"): Promise<void> {
  const ports = await serve.ports();
  for (const port of [0, 1]) {
    const report = ports.get(`${name}${port}`)!;
    const counters = await testpmd.counters(port);
    assert.deepEqual(drops(report), {});
    assert.equal(report.from_guest["packets"], counters.tx_packets);
    assert.equal(report.from_guest["bytes"], counters.tx_bytes);
    assert.equal(report.to_guest["packets"], counters.rx_packets);
    assert.equal(report.to_guest["bytes"], counters.rx_bytes);
  }
}

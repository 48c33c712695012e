// What the switch knows of a guest goes with it, if the ports on both sides are asked to: QEMU 10 and newer do so.

import assert from "node:assert/strict";
import { qemuVersion } from "./guest.ts";
import { address, Hop } from "./hop.ts";
import { missing, realTest } from "./peers.ts";

const on = "device-state=on";
const traffic_timeout_ms = 20_000;
const version = missing(["linux"]).length === 0 ? await qemuVersion() : 0;

async function migrates(hop: Hop): Promise<void> {
  await hop.begin();
  assert.equal(await hop.end(), "completed", `${hop.source.log} ${hop.destination.log}`);
  await hop.peer.reach(address.mover, traffic_timeout_ms);
  await hop.destination.close();
  await hop.serve.finish();
}

realTest("what is known of a guest with two queue pairs goes with it", ["linux"], async () => {
  await using hop = await Hop.start({ queues: 2, source: on, destination: on });
  await migrates(hop);
  const told = hop.serve.records.filter(({ event }) => event.startsWith("state_"));
  if (version < 10) return assert.deepEqual(told, []);
  const [saved, loaded, ...more] = told;
  assert.deepEqual(more, []);
  assert.deepEqual([saved!.event, saved!.port, saved!["macs"]], ["state_saved", "port1", 1]);
  const { time: _, ...rest } = saved!;
  assert.deepEqual({ ...loaded, time: undefined }, { ...rest, event: "state_loaded", port: "port2", time: undefined });
  assert((loaded!["from_guest"] as Record<string, number>)["packets"]! > 0);
});

realTest("a guest goes to a port that is asked to know of it from one that is not", ["linux"], async () => {
  await using hop = await Hop.start({ destination: on });
  await migrates(hop);
  assert(!hop.serve.records.some(({ event }) => event.startsWith("state_")));
});

// The reason why it is not on by default. What QEMU does there is not ours: the guest is not lost, but stands still.
if (version >= 10) {
  realTest("a guest does not go to a port that is not asked to know of it from one that is", ["linux"], async () => {
    await using hop = await Hop.start({ source: on });
    await hop.begin();
    await hop.end();
    await hop.serve.until("disconnected", { port: "port2" });
    assert.match(hop.destination.log, /Back-end does not support migration state transfer/);
    await hop.source.qmp("cont");
    await hop.peer.reach(address.mover, traffic_timeout_ms);
    await hop.source.close();
    await hop.serve.finish();
  });
}

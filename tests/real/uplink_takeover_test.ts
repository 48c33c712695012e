// Uplinks change the process with their `serve`: no frame is lost on the way, and interfaces stay as they are.

import assert from "node:assert/strict";
import { NetworkNamespace } from "./namespace.ts";
import { realTest } from "./peers.ts";
import { Program } from "./process.ts";
import { UplinkPlace } from "./uplink_place.ts";

const takeovers = 5;
const ping_timeout_ms = 20_000;

/**
 * Between the interfaces, through `serve`; how many were sent, and how many of them were not answered. Up to the last
 * answer: one may be on its way when it ends.
 */
async function pings(network: NetworkNamespace, address: string) {
  const [program, ...args] = [...network.prefix, "busybox", "ping", "-i", "0.005", address];
  const ping = new Program(program!, args);
  await ping.until(/bytes from/, ping_timeout_ms);
  return async () => {
    await ping.stop("SIGINT");
    const answered = [...ping.since().matchAll(/ seq=(\d+) /g)].map((match) => Number(match[1]));
    const sent = answered.at(-1)! + 1;
    return { sent, lost: sent - answered.length };
  };
}

for (const queues of [1, 2]) {
  realTest(`a tap and an interface go over, ${queues} queue pairs each, under ping`, ["network"], async () => {
    await using place = await UplinkPlace.make();
    await using other = await NetworkNamespace.make();
    const { network } = place;
    await network.run("ip link add va type veth peer name vb && ip link set va up");
    await network.run(`ip link set vb netns ${other.pid}`);
    await other.run("ip addr add 10.0.0.2/24 dev vb && ip link set vb up");
    const uplinks = [`tap:up0,queues=${queues}`, `packet:va,queues=${queues},mtu=1400`];
    let serve = await place.serve(...uplinks);
    await using stack = new AsyncDisposableStack();
    stack.defer(() => serve[Symbol.asyncDispose]());
    await network.run("ip addr add 10.0.0.1/24 dev up0");
    const looks = () => network.run("ip -o link show up0; ip -o link show va");
    const before = await looks();
    assert.match(before, /up0: [^]*va@.* mtu 1400 /);
    const end = await pings(network, "10.0.0.2");
    for (let round = 0; round < takeovers; round++) {
      const old = serve;
      serve = await place.takeOver(...uplinks);
      assert.equal((await old.program.finished).code, 0, old.program.since());
      assert.equal(await looks(), before);
    }
    const { sent, lost } = await end();
    console.error(`${sent} pings through ${takeovers} takeovers, ${lost} lost`);
    assert.equal(lost, 0);
    const ports = await serve.finish();
    for (const name of ["uplink0", "uplink1"]) assert.ok(ports.get(name)!.to_guest["packets"]! >= sent, name);
    assert.doesNotMatch(await network.run("ip link"), /up0/);
    assert.match(await network.run("ip link show va"), / mtu 1500 /);
  });
}

realTest("AF_XDP cannot go over: serve says so and goes on", ["network"], async () => {
  await using place = await UplinkPlace.make();
  await place.network.run("ip link add va type veth peer name vb && ip link set va up && ip link set vb up");
  await using serve = await place.serve("xdp:va");
  await assert.rejects(place.takeOver("xdp:va"), /uplink0 cannot go now: .*AF_XDP.*packet:IF/);
  await serve.until("handover_failed");
  await serve.finish();
});

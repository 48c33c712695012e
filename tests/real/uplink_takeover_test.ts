// Uplinks change the process with their `serve`: no frame is lost on the way, and interfaces stay as they are.

import assert from "node:assert/strict";
import { askTakeover } from "../../cli/control_client.ts";
import { type Said, takeoverVersion, Talk } from "../../cli/takeover_talk.ts";
import { loadLibrary } from "../../ffi/library.ts";
import { Pump, type SocketChannel } from "../../mod.ts";
import { NetworkNamespace } from "./namespace.ts";
import { realTest, rootTest } from "./peers.ts";
import { eventually, Program } from "./process.ts";
import { drops, type Serve } from "./serve.ts";
import { UplinkPlace } from "./uplink_place.ts";
import { xdpFrames } from "./xdp_frames.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const takeovers = 5;
const xdp_takeovers = 8;
/** Of a socket's memory, for each direction. */
const chunks = 2048;
const end_ms = 20_000;
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
    assert.equal(new Set(answered).size, answered.length, "one was answered twice");
    // Two processes on two processors: an answer may overtake another.
    const sent = Math.max(...answered) + 1;
    return { sent, lost: sent - answered.length };
  };
}

/**
 * As `pings`, as fast as they are answered: what comes while nothing is served waits at the interface. Not beside
 * others: each answer goes to all who ping, and a buffer that overflows there would look like a loss of ours.
 */
async function flood(network: NetworkNamespace, address: string, bytes: number) {
  const [program, ...args] = [...network.prefix, "busybox", "ping", "-A", "-s", `${bytes}`, address];
  const ping = new Program(program!, args);
  await ping.until(/bytes from/, ping_timeout_ms);
  return async () => {
    await ping.stop("SIGINT");
    const [, sent, answered] = /(\d+) packets transmitted, (\d+) packets received/.exec(ping.since())!.map(Number);
    // One is on its way when it ends.
    return { sent: sent!, lost: Math.max(0, sent! - 1 - answered!) };
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

interface Variant {
  readonly what: string;
  readonly queues: number;
  readonly mtu: number;
  /** Of a ping. */
  readonly bytes: number;
}

const variants: readonly Variant[] = [
  { what: "one queue", queues: 1, mtu: 1400, bytes: 56 },
  { what: "two queues", queues: 2, mtu: 1400, bytes: 1300 },
  { what: "frames longer than a chunk", queues: 1, mtu: 9000, bytes: 8900 },
];

/** An interface by AF_XDP in one network, its other end in another: `act` has its `serve`, and may replace it. */
async function withXdp(
  { queues, mtu }: Pick<Variant, "queues" | "mtu">,
  act: (place: UplinkPlace, other: NetworkNamespace, uplinks: string[], serves: Serve[]) => Promise<void>,
): Promise<void> {
  await using place = await UplinkPlace.make();
  await using other = await NetworkNamespace.make();
  const { network } = place;
  const count = `numrxqueues ${queues} numtxqueues ${queues}`;
  await network.run(`ip link add va mtu 9000 ${count} type veth peer name vb mtu 9000 ${count} && ip link set va up`);
  await network.run(`ethtool -K vb tx off && ip link set vb netns ${other.pid}`);
  await other.run("ip addr add 10.0.0.2/24 dev vb && ip link set vb up");
  const uplinks = [`tap:up0,mtu=${mtu}`, `xdp:va,queues=${queues},mtu=${mtu}`];
  const serves = [await place.serve(...uplinks)];
  await using stack = new AsyncDisposableStack();
  stack.defer(() => serves.at(-1)![Symbol.asyncDispose]());
  await network.run("ip addr add 10.0.0.1/24 dev up0");
  await act(place, other, uplinks, serves);
  assert.match(await network.run("ip link show va"), / mtu 9000 /);
  assert.doesNotMatch(await network.run("ip -d link show va"), /xdp|promiscuity [1-9]/);
}

for (const { what, queues, mtu, bytes } of variants) {
  rootTest(`AF_XDP goes over under ping, and no frame of its memory is lost: ${what}`, ["network"], async () => {
    await withXdp({ queues, mtu }, async (place, other, uplinks, serves) => {
      const looks = () => place.network.run("ip -d -o link show va");
      const before = await looks();
      assert.match(before, / xdp .* promiscuity 1 /);
      const end = await flood(other, "10.0.0.1", bytes);
      for (let round = 0; round < xdp_takeovers; round++) {
        const old = serves.at(-1)!;
        serves.push(await place.takeOver(...uplinks));
        assert.equal((await old.program.finished).code, 0, old.program.since());
        assert.equal(await looks(), before);
      }
      const { sent, lost } = await end();
      console.error(`${sent} pings through ${xdp_takeovers} takeovers, ${lost} lost`);
      assert.equal(lost, 0);
      assert.ok(sent > 2 * chunks, `${sent} pings`);
      const serve = serves.at(-1)!;
      const all = chunks * queues;
      assert.deepEqual(xdpFrames(serve.program.pid), { sockets: queues, receive: all, send: all });
      const ports = await serve.finish();
      for (const name of ["uplink0", "uplink1"]) {
        assert.ok(ports.get(name)!.to_guest["packets"]! >= sent, name);
        assert.deepEqual(drops(ports.get(name)!), {});
      }
    });
  });
}

rootTest("AF_XDP: a new process dies at any step, and the old one goes on; then it goes over all the same", [
  "network",
], async () => {
  await withXdp({ queues: 1, mtu: 9000 }, async (place, other, uplinks, serves) => {
    const serve = serves[0]!;
    const end = await flood(other, "10.0.0.1", 8900);
    const before = descriptors(serve.program.pid);
    for (const step of ["port", "ready", "positions"] as const) {
      const from = serve.now;
      await dieAt(step, `${place.folder}/serve`);
      await serve.until("handover_failed", {}, { from });
    }
    await eventually("its descriptors", end_ms, () => descriptors(serve.program.pid) === before || undefined);
    const tooOld = serve.now;
    await assert.rejects(
      dieAt("port", `${place.folder}/serve`, 1),
      /uplink1 cannot go now: it takes a newer program .*packet:IF/,
    );
    await serve.until("handover_failed", {}, { from: tooOld });
    serves.push(await place.takeOver(...uplinks));
    assert.equal((await serve.program.finished).code, 0);
    const { sent, lost } = await end();
    assert.ok(sent > 0);
    assert.equal(lost, 0);
    assert.deepEqual(xdpFrames(serves.at(-1)!.program.pid), { sockets: 1, receive: chunks, send: chunks });
    await serves.at(-1)!.finish();
  });
});

/** Asks for a handover as a new process does, gets so far, and is gone. */
async function dieAt(step: "port" | "ready" | "positions", folder: string, version = takeoverVersion): Promise<void> {
  await using pump = Pump.open();
  void pump.run();
  const socket = `${folder}/dying.sock`;
  const { promise, resolve } = Promise.withResolvers<SocketChannel>();
  using _listener = pump.listen(socket, { accept: resolve });
  await askTakeover(`${folder}/control.sock`, { socket, version });
  using talk = new Talk(await promise);
  const hear = async (kind: Said["kind"]) => {
    const said = await talk.expect(kind, end_ms);
    for (const fd of said.fds) fd[Symbol.dispose]();
    return said;
  };
  assert.equal(((await hear("hello")).body as { version: number }).version, version);
  for (const port of ["port0", "uplink0", "uplink1"]) {
    await talk.send("give", { port });
    const { body } = await hear("port");
    if (port !== "uplink1") continue;
    assert.deepEqual((body as { fds: string[] }).fds, ["queue0", "memory0", "link", "map", "listener"]);
  }
  if (step === "port") return;
  await talk.send("ready", {});
  if (step === "positions") await hear("positions");
}

function descriptors(pid: number): number {
  return [...Deno.readDirSync(`/proc/${pid}/fd`)].length;
}

// Uplinks of `vhostctl serve` to interfaces of the host's, in a network of their own: how they come and go.

import assert from "node:assert/strict";
import { NetworkNamespace } from "./namespace.ts";
import { realTest } from "./peers.ts";
import { Serve } from "./serve.ts";
import { UplinkPlace } from "./uplink_place.ts";

realTest("a tap is made, and goes with serve, killed or not", ["network"], async () => {
  await using place = await UplinkPlace.make();
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    await using serve = await place.serve("tap:up0,queues=2,mtu=9000");
    const attached = await serve.until("attached", { port: "uplink0" });
    assert.deepEqual([attached["created"], attached["mtu"], attached["up"]], [true, 9000, true]);
    assert.match(
      await place.network.run("ip -d link show up0"),
      /UP.* mtu 9000 [^]*vnet_hdr on multi_queue numqueues 2/,
    );
    await serve.program.stop(signal);
    assert.doesNotMatch(await place.network.run("ip link"), /up0/);
  }
});

realTest("a tap that was there is as before when serve has ended", ["network"], async () => {
  await using place = await UplinkPlace.make();
  await place.network.run("ip tuntap add up0 mode tap");
  await using serve = await place.serve("tap:up0,mtu=9000");
  const attached = await serve.until("attached", { port: "uplink0" });
  assert.deepEqual([attached["created"], attached["up"]], [false, true]);
  assert.match(await place.network.run("ip link show up0"), /[<,]UP[,>].* mtu 9000 /);
  const [code, told] = await place.refusal("tap:up0");
  assert.equal(code, 1);
  assert.match(told, /^vhostctl serve: cannot open interface up0: it is in use: end who uses it/);
  await serve.finish();
  const after = await place.network.run("ip link show up0");
  assert.doesNotMatch(after, /[<,]UP[,>]/);
  assert.match(after, / mtu 1500 /);
});

realTest("an interface that is deleted is attached to again when it is there", ["network"], async () => {
  await using place = await UplinkPlace.make();
  await place.network.run("ip link add va type veth peer name vb");
  await using serve = await place.serve("packet:va", "tap:up0");
  await place.network.run("ip link set va up && ip link set vb up");
  for (const [name, port] of [["va", "uplink0"], ["up0", "uplink1"]] as const) {
    const from = serve.now;
    await place.network.run(`ip link del ${name}`);
    await serve.until("detached", { port, interface: name }, { from });
    if (name === "va") await place.network.run("ip link add va type veth peer name vb");
    await serve.until("attached", { port, interface: name }, { from });
  }
  await serve.finish();
});

realTest("frames of ours go out through uplinks", ["network"], async () => {
  await using network = await NetworkNamespace.make();
  await network.run("ip link add va type veth peer name vb && ip link set va up && ip link set vb up");
  const vdevs = ["--vdev", "net_tap0,iface=up0", "--vdev", "net_af_packet0,iface=va"];
  await using forward = await Serve.forwardBehind(network.prefix, ...vdevs, "--forward-mode", "txonly");
  for (const [name, port] of await forward.ports()) assert(port.to_guest["packets"]! > 1000, name);
});

const isRoot = Deno.uid() === 0;

realTest("what an uplink lacks is said, with what to do", ["network"], async () => {
  await using place = await UplinkPlace.make();
  await place.network.run("ip link add br0 type bridge");
  await place.network.run("ip tuntap add single mode tap");
  const cases: [uplink: string, prefix: string[], code: number, told: RegExp][] = [
    ["tap:br0", [], 1, /cannot open interface br0: it is no tap: choose another name/],
    [
      "tap:single,queues=2",
      [],
      1,
      /cannot open interface single: it is no tap, or one for a single queue: leave queues=/,
    ],
    ["packet:nosuch", [], 1, /cannot open interface nosuch: no such interface: choose one of ip link/],
    ["tap:a-name-too-long-for-it", [], 2, /cannot use --uplink: a-name-too-long-for-it: give the name of an interface/],
    ["vxlan:up0", [], 2, /cannot use --uplink: vxlan:up0: choose from tap:IF, packet:IF, xdp:IF/],
    ["tap:up0,queue=2", [], 2, /unknown setting in --uplink: queue: did you mean queues/],
  ];
  if (isRoot) {
    const without = (name: string) => ["setpriv", `--bounding-set=-${name}`, `--inh-caps=-${name}`];
    cases.push(
      ["tap:up0", without("net_admin"), 3, /cannot open interface up0: it takes CAP_NET_ADMIN .*: ip tuntap add up0 /],
      ["packet:br0", without("net_raw"), 3, /cannot open interface br0: it takes CAP_NET_RAW: run as root, or setcap/],
    );
  }
  for (const [uplink, prefix, code, told] of cases) {
    const [found, text] = await place.refusal(uplink, prefix);
    assert.match(text, told);
    assert.equal(found, code, uplink);
    assert.equal(text.trim().split("\n").length, 1, text);
  }
  assert.doesNotMatch(await place.network.run("ip link"), /up0/);
});

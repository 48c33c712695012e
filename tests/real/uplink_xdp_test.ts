// Uplinks by AF_XDP, in a network of their own: how they come and go, that packets of all lengths pass, in the driver
// and without its help, and a Linux guest whose big segments are cut for it. They take the machine's CAP_BPF: without
// root there is only what they say then.

import assert from "node:assert/strict";
import { host_address, HostAndGuest } from "./host_and_guest.ts";
import { NetworkNamespace } from "./namespace.ts";
import { realTest, rootTest } from "./peers.ts";
import { Program } from "./process.ts";
import { drops, Serve } from "./serve.ts";
import { segment_bytes, transfer_timeout_ms } from "./transfer.ts";
import { UplinkPlace } from "./uplink_place.ts";

const isRoot = Deno.uid() === 0;
const file_mb = 20;

/** Sums are finished by who sends, since XDP has no place to say that they are not. */
const veth = "ip link add va type veth peer name vb && ethtool -K vb tx off && ip link set va up && ip link set vb up";

if (!isRoot) {
  realTest("AF_XDP in a user namespace lacks capabilities, and says so", ["network"], async () => {
    await using place = await UplinkPlace.make();
    await place.network.run(veth);
    const [code, told] = await place.refusal("xdp:va");
    assert.match(told, /cannot open interface va: it takes CAP_BPF and CAP_NET_ADMIN, other than a user namespace's/);
    assert.equal(code, 3);
  });
}

rootTest("an interface has its program as long as serve runs, killed or not", ["network"], async () => {
  await using place = await UplinkPlace.make();
  await place.network.run(veth);
  const link = () => place.network.run("ip -d link show va");
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    await using serve = await place.serve("xdp:va,mtu=1400");
    const attached = await serve.until("attached", { port: "uplink0" });
    assert.deepEqual([attached["created"], attached["mtu"], attached["up"]], [false, 1400, true]);
    assert.match(await link(), / xdp .* promiscuity 1 .* prog\/xdp id /s);
    const [code, told] = await place.refusal("xdp:va");
    assert.equal(code, 1);
    assert.match(told, /cannot open interface va: it has an XDP program: end who attached that, or ip link set va xdp/);
    await serve.program.stop(signal);
    assert.match(await link(), / promiscuity 0 /);
    assert.doesNotMatch(await link(), /xdp/);
  }
});

rootTest("an interface that is deleted has its program again when it is there", ["network"], async () => {
  await using place = await UplinkPlace.make();
  await place.network.run(veth);
  await using serve = await place.serve("xdp:va");
  const from = serve.now;
  await place.network.run("ip link del va");
  await serve.until("detached", { port: "uplink0", interface: "va" }, { from });
  await place.network.run(veth);
  await serve.until("attached", { port: "uplink0", interface: "va" }, { from });
  assert.match(await place.network.run("ip link show va"), / xdp /);
  await serve.finish();
});

interface Echo {
  readonly what: string;
  /** A line of shell, with `veth` before it. */
  readonly setup: string;
  readonly interface?: string;
  readonly queues?: number;
  /** How the program is attached, as `ip link` says. */
  readonly mode?: string;
  /** Of the longest ping. */
  readonly bytes: number;
}

const two_queues = "ip link add va numrxqueues 2 numtxqueues 2 type veth peer name vb numrxqueues 2 numtxqueues 2 && " +
  "ethtool -L va rx 2 tx 2 && ethtool -L vb rx 2 tx 2 && ethtool -K vb tx off && " +
  "ip link set va up && ip link set vb up";
const long = "ip link set va mtu 9000 && ip link set vb mtu 9000";
const general = "ip link add link va name mv0 type macvlan mode passthru && ip link set mv0 up";

const echoes: readonly Echo[] = [
  { what: "in the driver", setup: veth, bytes: 1472 },
  { what: "longer than a chunk", setup: `${veth} && ${long}`, bytes: 8972 },
  { what: "from a peer that may send longer ones", setup: `${veth} && ip link set vb mtu 9000`, bytes: 1472 },
  { what: "by two queues", setup: two_queues, queues: 2, bytes: 1472 },
  { what: "without the driver", setup: `${veth} && ${general}`, interface: "mv0", mode: "xdpgeneric", bytes: 1472 },
  {
    what: "longer than a chunk, without the driver",
    setup: `${veth} && ${long} && ${general} && ip link set mv0 mtu 9000`,
    interface: "mv0",
    mode: "xdpgeneric",
    bytes: 8972,
  },
];

for (const { what, setup, interface: name = "va", queues = 1, mode = "xdp", bytes } of echoes) {
  rootTest(`net_af_xdp echoes pings: ${what}`, ["network"], async () => {
    await using network = await NetworkNamespace.make();
    await network.run(setup);
    await network.run(`ip addr add ${host_address}/24 dev vb`);
    const vdev = `net_af_xdp0,iface=${name},queue_count=${queues}`;
    const rings = ["--rxq", `${queues}`, "--txq", `${queues}`];
    await using forward = await Serve.forwardBehind(
      network.prefix,
      ...["--vdev", vdev, ...rings, "--forward-mode", "icmpecho"],
    );
    assert.match(await network.run(`ip link show ${name}`), new RegExp(` ${mode} `));
    let sent = 0;
    for (const [size, count] of [[0, 10], [bytes, 10], [56, 5000]] as const) {
      // More addresses are more flows, for as many queues.
      for (const address of ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]) {
        const told = await network.run(`busybox ping -A -q -W 2 -s ${size} -c ${count} ${address}`);
        assert.match(told, new RegExp(`${count} packets transmitted, ${count} packets received`));
        sent += count;
      }
    }
    const port = (await forward.ports()).get("net_af_xdp0")!;
    assert(port.from_guest["packets"]! >= sent, `${port.from_guest["packets"]} of ${sent}`);
    assert.deepEqual(drops(port), {});
    assert.equal((await forward.program.stop("SIGTERM")).code, 0);
  });
}

rootTest("AF_XDP sends what it is given, drops it by name while the interface is down, and goes on", [
  "network",
], async () => {
  await using network = await NetworkNamespace.make();
  await network.run(veth);
  const vdev = ["--vdev", "net_af_xdp0,iface=va"];
  await using forward = await Serve.forwardBehind(network.prefix, ...vdev, "--forward-mode", "txonly");
  const sent = async () => (await forward.ports()).get("net_af_xdp0")!.to_guest;
  for (const state of ["up", "down", "up"]) {
    await network.run(`ip link set va ${state}`);
    await sent();
    const [before, after] = [await sent(), await sent()];
    const grown = (counter: string) => after[counter]! - before[counter]!;
    assert.deepEqual([grown("packets") > 0, grown("drop_link_down") > 0], [state === "up", state === "down"], state);
  }
});

rootTest("what AF_XDP lacks is said, with what to do", ["network"], async () => {
  await using place = await UplinkPlace.make();
  await place.network.run(veth);
  await place.network.run("ip tuntap add up0 mode tap");
  const without = (...names: string[]) => {
    const list = names.map((name) => `-${name}`).join(",");
    return ["setpriv", `--bounding-set=${list}`, `--inh-caps=${list}`];
  };
  const unpinned = ["prlimit", "--memlock=65536", ...without("ipc_lock")];
  const cases: [uplink: string, prefix: string[], code: number, told: RegExp][] = [
    ["xdp:nosuch", [], 1, /cannot open interface nosuch: no such interface: choose one of ip link/],
    ["xdp:va,queues=2", [], 1, /cannot open interface va: it has fewer queues: give fewer queues=, or make more by/],
    ["xdp:va,mtu=67", [], 2, /cannot use mtu= in --uplink: 67: give a whole number from 68 to 65521/],
    ["xdp:va", without("net_raw"), 3, /cannot open interface va: it takes CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF: /],
    // Who has CAP_SYS_ADMIN has both.
    ["xdp:va", without("bpf", "sys_admin"), 3, /cannot open interface va: it takes CAP_BPF and CAP_NET_ADMIN/],
    ["xdp:va", unpinned, 3, /cannot open interface va: no 16 MiB of memory to pin for each queue: ulimit -l/],
  ];
  for (const [uplink, prefix, code, told] of cases) {
    const [found, text] = await place.refusal(uplink, prefix);
    assert.match(text, told);
    assert.equal(found, code, uplink);
    assert.equal(text.trim().split("\n").length, 1, text);
  }
  assert.doesNotMatch(await place.network.run("ip -d link"), /xdp|promiscuity [1-9]/);
});

/** A file of random bytes goes from the guest to the host and back, and is as it was. */
async function exchangesFile({ guest, network }: HostAndGuest): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "vhostctl-file-" });
  try {
    const [program, ...args] = network.prefix;
    const shell = (line: string) => new Program(program!, [...args, "sh", "-c", line]);
    const sum = await guest.run(`dd if=/dev/urandom of=/tmp/file bs=1M count=${file_mb} && sha256sum </tmp/file`);
    const digest = /[0-9a-f]{64}/.exec(sum)![0];
    await using listener = shell(`busybox nc -l -p 5000 >${folder}/file; sha256sum <${folder}/file`);
    await network.run("until ss -ltn | grep -q :5000; do sleep 0.1; done");
    await guest.run(`nc ${host_address} 5000 </tmp/file`, transfer_timeout_ms);
    assert.equal((await listener.until(/[0-9a-f]{64}/, transfer_timeout_ms))[0], digest);
    await using _sender = shell(`busybox nc -l -p 5001 <${folder}/file`);
    await network.run("until ss -ltn | grep -q :5001; do sleep 0.1; done");
    // A pipe that never ends keeps it from hanging up before all is there.
    const fetch = `rm -f /tmp/pipe; mkfifo /tmp/pipe; nc ${host_address} 5001 <>/tmp/pipe | sha256sum`;
    const back = await guest.run(fetch, transfer_timeout_ms);
    assert.equal(/[0-9a-f]{64}/.exec(back)![0], digest);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

rootTest("a Linux guest beyond AF_XDP: its big segments are cut, small ones put together, a file is as it was", [
  "linux",
  "network",
], async () => {
  await using pair = await HostAndGuest.start({ setup: veth, uplink: "xdp:va", host: "vb" });
  await pair.guest.ping(host_address);
  assert(await pair.measure("from_guest", "through AF_XDP") > 2 * segment_bytes);
  assert(await pair.measure("to_guest", "through AF_XDP") > 2 * segment_bytes);
  await exchangesFile(pair);
  const uplink = (await pair.serve.ports()).get("uplink0")!;
  const { cut, pieces } = uplink.to_guest;
  const { merged } = uplink.from_guest;
  console.error(`${cut} packets cut into ${pieces}, ${merged} merged, drops ${JSON.stringify(drops(uplink))}`);
  assert(cut! > 0 && pieces! > 2 * cut!, `${cut} packets cut into ${pieces}`);
  assert(merged! > 0);
  await pair.close();
});

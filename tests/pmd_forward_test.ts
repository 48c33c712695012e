/** `vhostctl pmd-forward` as a program: what each mode makes of frames, and what is refused. */

import assert from "node:assert/strict";
import { resolve } from "node:path";
import { benchmark, cases, flow, ipv4, ours, udp } from "./forward_cases.ts";
import { Guest } from "./hostile_guest.ts";
import { patiently } from "./hostile_patience.ts";
import { Program } from "./real/process.ts";
import { Serve } from "./real/serve.ts";

const vhostctl = Deno.env.get("VHOSTCTL") ?? resolve(import.meta.dirname!, "../scripts/vhostctl");

/** Two guests on two ports, their rings running. */
async function withGuests(
  mode: string,
  format: "split" | "packed",
  act: (guests: Guest[], forward: Serve) => unknown,
  options: readonly string[] = [],
) {
  const folder = await Deno.makeTempDir({ prefix: "vhostctl-forward-" });
  try {
    const sockets = [0, 1].map((port) => `${folder}/s${port}`);
    const vdevs = sockets.flatMap((socket, port) => ["--vdev", `eth_vhost${port},iface=${socket}`]);
    await using forward = await Serve.forward("--forward-mode", mode, ...options, ...vdevs);
    using first = new Guest({ path: sockets[0]!, mac: 0x5254_0000_0001, format });
    using second = new Guest({ path: sockets[1]!, mac: 0x5254_0000_0002, format });
    for (const guest of [first, second]) {
      guest.start();
      guest.offerBuffers();
    }
    await forward.up(1);
    await act([first, second], forward);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function frames(guest: Guest): Uint8Array<ArrayBuffer>[] {
  return guest.arrivals().map(({ frame }) => frame);
}

for (const format of ["split", "packed"] as const) {
  for (const { mode, sent, arrives, returns } of cases) {
    const what = arrives ? "goes on" : returns ? "is answered" : "goes nowhere";
    Deno.test(`pmd-forward, ${format}, ${mode}: a frame of protocol ${sent[23]} ${what}`, async () => {
      await withGuests(mode, format, async ([first, second], forward) => {
        first!.send(sent);
        patiently("the frame back", () => first!.allSent || undefined);
        const ports = await forward.ports();
        assert.deepEqual(frames(second!), arrives ? [arrives] : []);
        assert.deepEqual(frames(first!), returns ? [returns] : []);
        const counts = ["eth_vhost0", "eth_vhost1"].map((port) => [
          ports.get(port)!.from_guest["packets"],
          ports.get(port)!.to_guest["packets"],
        ]);
        assert.deepEqual(counts, [[1, returns ? 1 : 0], [0, arrives ? 1 : 0]]);
      });
    });
  }
}

for (const format of ["split", "packed"] as const) {
  Deno.test(`pmd-forward, ${format}, txonly: frames of ours fill every guest, and its own stay with it`, async () => {
    await withGuests("txonly", format, ([first, second]) => {
      first!.send(ipv4("11", udp));
      for (const [port, guest] of [first!, second!].entries()) {
        const got = patiently("frames", () => {
          const all = frames(guest);
          return all.length > 0 ? all : undefined;
        });
        for (const frame of got) assert.deepEqual(frame, ours(port, 100, ...benchmark));
      }
      assert.equal(first!.allSent, false);
    }, ["--txpkts", "100"]);
  });

  Deno.test(`pmd-forward, ${format}, txonly: addresses and ports are as wanted, in 1024 flows`, async () => {
    await withGuests("txonly", format, ([first]) => {
      const got: Uint8Array<ArrayBuffer>[] = [];
      patiently("more frames than flows", () => {
        got.push(...frames(first!));
        return got.length > 1024 || undefined;
      });
      for (const [index, frame] of got.entries()) {
        const number = (0xff + index % 1024).toString(16).padStart(4, "0");
        const source = `0a 01 ${number.slice(0, 2)} ${number.slice(2)}`;
        assert.deepEqual(frame, ours(0, 64, `${source} 0a 02 00 03`, "04 d2 04 d3"));
      }
    }, ["--tx-ip", "10.1.0.255,10.2.0.3", "--tx-udp", "1234,1235", "--txonly-multi-flow"]);
  });

  Deno.test(`pmd-forward, ${format}, flowgen: flows follow one another, and the guest's own are taken`, async () => {
    await withGuests("flowgen", format, ([first]) => {
      first!.send(ipv4("11", udp));
      patiently("the frame back", () => first!.allSent || undefined);
      const got = frames(first!);
      assert.ok(got.length > 1, `${got.length} frames`);
      for (const [index, frame] of got.entries()) {
        assert.deepEqual(frame, ours(0, 64, ...flow(index)));
      }
    });
  });

  Deno.test(`pmd-forward, ${format}, io --tx-first: one burst for each guest, once both are there`, async () => {
    await withGuests("io", format, async ([first, second], forward) => {
      const all = [first!, second!].map((guest) => frames(guest));
      patiently("a burst for each", () => {
        [first!, second!].forEach((guest, port) => all[port]!.push(...frames(guest)));
        return all.every((got) => got.length >= 10) || undefined;
      });
      const ports = await forward.ports();
      for (const [port, got] of all.entries()) {
        assert.deepEqual(got, Array(10).fill(ours(port, 64, ...benchmark)));
        assert.equal(ports.get(`eth_vhost${port}`)!.to_guest["packets"], 10);
      }
    }, ["--tx-first", "--burst", "10"]);
  });
}

Deno.test("pmd-forward: one port forwards to itself, and the statistics are testpmd's", async () => {
  const folder = await Deno.makeTempDir({ prefix: "vhostctl-forward-" });
  try {
    const program = new Program(vhostctl, ["pmd-forward", "--vdev", `net_vhost0,iface=${folder}/s0`]);
    await program.until(/^ready$/m, 60_000);
    using guest = new Guest({ path: `${folder}/s0`, mac: 0x5254_0000_0001 });
    guest.start();
    guest.offerBuffers();
    await program.until(/net_vhost0: started/, 60_000);
    const sent = guest.frame(0x5254_0000_0001);
    guest.send(sent);
    const arrived = patiently("the frame at its sender", () => {
      const all = frames(guest);
      return all.length > 0 ? all : undefined;
    });
    assert.deepEqual(arrived, [sent]);
    const { code } = await program.stop("SIGINT");
    assert.equal(code, 0);
    assert.match(
      program.since(),
      new RegExp([
        "  -+ Forward statistics for port 0  -+",
        "  RX-packets: 1 +RX-dropped: 0 +RX-total: 1",
        "  TX-packets: 1 +TX-dropped: 0 +TX-total: 1",
        "  -{76}",
        "  \\++ Accumulated forward statistics for all ports\\++",
        "  RX-packets: 1 +RX-dropped: 0 +RX-total: 1",
        "  TX-packets: 1 +TX-dropped: 0 +TX-total: 1",
        "  \\+{76}",
      ].join("\n")),
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("two pmd-forward face each other, between two guests, and one is killed and comes again", async () => {
  const folder = await Deno.makeTempDir({ prefix: "vhostctl-forward-" });
  try {
    const vdev = (name: string, settings: string) => ["--vdev", `${name},${settings}`];
    const near = [...vdev("eth_vhost0", `iface=${folder}/s0`), ...vdev("eth_vhost1", `iface=${folder}/s1`)];
    const far = [...vdev("virtio_user0", `path=${folder}/s1,packed_vq=1`), ...vdev("eth_vhost0", `iface=${folder}/s2`)];
    await using first = await Serve.forward(...near);
    using left = new Guest({ path: `${folder}/s0`, mac: 0x5254_0000_0001 });
    left.start();
    left.offerBuffers();
    for (const signal of ["SIGKILL", "SIGTERM"] as const) {
      const from = first.now;
      await using second = await Serve.forward(...far);
      await first.until("started", { port: "eth_vhost1", ring: "packed" }, { from });
      using right = new Guest({ path: `${folder}/s2`, mac: 0x5254_0000_0002 });
      right.start();
      right.offerBuffers();
      await second.up(1);
      for (const [sender, receiver] of [[left, right], [right, left]] as const) {
        sender.send(ipv4("11", udp));
        const arrived = patiently("the frame at the other end", () => {
          const all = frames(receiver);
          return all.length > 0 ? all : undefined;
        });
        assert.deepEqual(arrived, [ipv4("11", udp)]);
      }
      await second.program.stop(signal);
      await first.until("disconnected", { port: "eth_vhost1" }, { from });
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("pmd-forward: a virtio_user port waits for its back end, and tells why a wrong one does not do", async () => {
  const folder = await Deno.makeTempDir({ prefix: "vhostctl-forward-" });
  try {
    await using program = new Program(vhostctl, [
      ...["pmd-forward", "--vdev", `virtio_user0,path=${folder}/s0,queues=2,mac=52:54:00:00:00:09`, "--", "-i"],
    ]);
    await program.until(/virtio_user0: waiting for a back end at \S+: no such file or directory/, 60_000);
    await using other = await Serve.forward("--vdev", `eth_vhost0,iface=${folder}/s0`);
    await program.until(/virtio_user0: back end gone: the back end has 1 queue pairs, not 2/, 60_000);
    await program.write("show port info 0\n");
    await program.until(/MAC address: 52:54:00:00:00:09\n.*\nDriver name: net_virtio_user\nDevargs: path=/, 60_000);
    assert.ok(other.program.running);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("pmd-forward -i: frames wait for start, and the link goes down and up with the guest", async () => {
  const folder = await Deno.makeTempDir({ prefix: "vhostctl-forward-" });
  try {
    const vdev = `eth_vhost0,iface=${folder}/s0,queues=2`;
    const deck = [
      "-c",
      "0x1f",
      "-n",
      "4",
      "--socket-mem",
      "4096,0",
      "--vdev",
      vdev,
      "--",
      "-i",
      "--rxq=2",
      "--txq=2",
      "--total-num-mbufs=16384",
      "--no-flush-rx",
    ];
    await using program = new Program(vhostctl, ["pmd-forward", ...deck, "--nb-cores=2"]);
    await program.until(/^ready$/m, 60_000);
    assert.match(program.since(), /^not needed here: -c, -n, --socket-mem, --total-num-mbufs, --no-flush-rx$/m);
    const ask = async (command: string, answer: RegExp) => {
      const from = program.position;
      await program.write(`${command}\n`);
      await program.until(answer, 60_000, from);
    };
    using guest = new Guest({ path: `${folder}/s0`, mac: 0x5254_0000_0001 });
    await ask("show port info all", /Link status: down/);
    guest.start();
    guest.offerBuffers();
    await program.until(/eth_vhost0: started/, 60_000);
    await ask("show port info all", /Link status: up/);
    guest.send(guest.frame(0x5254_0000_0002));
    await ask("show port stats 0", /RX-packets: 0 .*\n.*TX-packets: 0 /);
    assert.equal(guest.allSent, false);
    await ask("set fwd macswap", /Set macswap packet forwarding mode/);
    await ask("start", /RX P=0\/Q=1 -> TX P=0\/Q=1/);
    patiently("the frame that waited", () => frames(guest).length === 1 || undefined);
    await ask("show port stats 0", /RX-packets: 1 .*\n.*TX-packets: 1 /);
    await ask("stop", /TX-packets: 1 [^]*Done\./);
    guest.disconnect();
    await program.until(/eth_vhost0: front end gone/, 60_000);
    await ask("show port summary all", /eth_vhost0 .* down/);
    guest.start();
    await program.until(/gone[^]*eth_vhost0: started/, 60_000);
    await ask("show port summary all", /eth_vhost0 .* up/);
    await ask("start", /RX P=0\/Q=1/);
    assert.equal((await program.stop("SIGINT")).code, 0);
    assert.match(program.since(), /Accumulated forward statistics[^]*Done\.\nBye\.\.\.\n$/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("pmd-forward --cmdline-file: its commands come first, and the end of the input ends it", async () => {
  const folder = await Deno.makeTempDir({ prefix: "vhostctl-forward-" });
  try {
    const commands = `${folder}/commands`;
    await Deno.writeTextFile(commands, "# like testpmd's\nset fwd rxonly\nstart\n");
    await using program = new Program(vhostctl, [
      ...["pmd-forward", "--vdev", `eth_vhost0,iface=${folder}/s0`, "--cmdline-file", commands],
    ]);
    await program.until(/^rxonly packet forwarding/m, 60_000);
    await program.write("quit\n");
    assert.equal((await program.finished).code, 0);
    assert.match(program.since(), /Accumulated forward statistics[^]*Done\.\nBye\.\.\.\n$/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

const wrong: readonly [args: string, message: RegExp][] = [
  ["", /^vhostctl pmd-forward: no port: give --vdev/],
  ["--vdev eth_vhost0,iface=/tmp/a --cmdline-file /no/such", /cannot read --cmdline-file: \/no\/such/],
  ["--vdev eth_vhost0,iface=/tmp/a -- --rxq=2", /too many queues: --rxq=2: eth_vhost0 has 1, give it queues=2/],
  ["--vdev eth_vhost0,iface=/tmp/a -- --rxq=1 --txq=2", /--rxq and --txq differ: 1, 2/],
  ["--vdev eth_vhost0,iface=/tmp/a -- --foo", /unknown option: --foo/],
  ["--json --vdev eth_vhost0,iface=/tmp/a -- -i", /options exclude each other: -i, --json/],
  ["-i --stats-period 1 --vdev eth_vhost0,iface=/tmp/a", /options exclude each other: -i, --stats-period/],
  ["--vdev eth_vhost0,iface=/tmp/a -- --vdev eth_vhost0,iface=/tmp/b", /two ports with the same name: eth_vhost0/],
  [`--vdev eth_vhost0,iface=/tmp/${"a".repeat(120)}`, /socket path too long/],
  ["--vdev eth_vhost0", /iface/],
  ["--vdev eth_vhost0,iface=/tmp/a --vdev eth_vhost0,iface=/tmp/b", /two ports with the same name: eth_vhost0/],
  ["--vdev eth_vhost0,iface=/tmp/a --vdev eth_vhost1,iface=/tmp/a", /two ports with the same iface: \/tmp\/a/],
  ["--vdev eth_vhost0,iface=/tmp/a --forward-mode ip", /cannot use --forward-mode: ip/],
  ["--vdev eth_vhost0,iface=/tmp/a --nb-cores 2 --cpus 0", /--nb-cores and --cpus differ/],
  ["--vdev vhost_pci0", /missing in vhost_pci0: dev: add dev=0000:00:05.0/],
  ["--vdev net_tap0,iface=up0 --vdev net_tap1,iface=up0", /two ports with the same iface: up0/],
  ["--vdev eth_vhost0,iface=/tmp/a --burst 65", /--burst/],
  ["--vdev eth_vhost0,iface=/tmp/a --txpkts 41", /--txpkts/],
  ["--forward-mode noisy", /mode not here: noisy: it imitates an application/],
  ["--vdev eth_vhost0,iface=/tmp/a -- --portlist=0", /option of testpmd's that is not here: --portlist: every port/],
  ["-a 0000:01:00.0", /option of testpmd's that is not here: --allow: there is no NIC/],
  ["--tx-ip 10.0.0.1", /cannot use --tx-ip: 10\.0\.0\.1: give two IPv4 addresses/],
  ["--tx-ip 10.0.0.1,10.0.0.256", /cannot use --tx-ip/],
  ["--tx-udp 65536", /cannot use --tx-udp: 65536: give one or two ports/],
  ["--vdev eth_vhost0,iface=/tmp/a -- -i --tx-first", /options do not go together: -i, --tx-first: add --auto-start/],
];

for (const [args, message] of wrong) {
  Deno.test(`pmd-forward ${args} is wrong usage`, async () => {
    const program = new Program(vhostctl, ["pmd-forward", ...args.split(" ").filter((word) => word !== "")]);
    assert.equal((await program.finished).code, 2);
    assert.match(program.since(), message);
    assert.equal(program.since().trim().split("\n").length, 1);
  });
}

Deno.test("pmd-forward on a host without the PCI device says what there is", async () => {
  const program = new Program(vhostctl, ["pmd-forward", "--vdev", "vhost_pci0,dev=00:1f.7"]);
  assert.equal((await program.finished).code, 3);
  assert.match(program.since(), /cannot open BAR 0 of PCI device: 0000:00:1f.7: no such file or directory: .*ivshmem/);
});

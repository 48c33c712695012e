/** testpmd's verbs, without ports behind them. */

import assert from "node:assert/strict";
import { Console, type Forwarder } from "../cli/console.ts";
import type { PortSample } from "../mod.ts";
import type { LanePlan } from "../cli/serve_options.ts";
import { benchmarkAddresses, makeOffer, type VringStats } from "../mod.ts";
import { emptyStruct, readStruct } from "../ffi/struct.ts";

const config = { mode: "io", burst: 32, frameBytes: 64, addresses: benchmarkAddresses, flows: 1 } as const;

/** Two ports of two queues whose counters are what a test says. */
class Ports implements Forwarder {
  readonly cores = 1;
  readonly lanes: (readonly LanePlan[])[] = [];
  time_ms = 0;
  /** By port: packets from its guest, to its guest, and those that found no buffer. */
  counts = [[0, 0, 0], [0, 0, 0]];
  readonly ports = [0, 1].map((number) => ({
    name: `eth_vhost${number}`,
    socket: `/tmp/s${number}`,
    mode: "server" as const,
    mac: `56:48:4f:53:54:0${number}`,
    offer: makeOffer({ queuePairs: 2 }),
  }));

  snapshot() {
    const ports = this.counts.map(([from, to, lost], number): PortSample => ({
      port: `eth_vhost${number}`,
      state: number === 0 ? "running" : "waiting",
      queuePairsUp: number === 0 ? 2 : 0,
      queuePairs: 2,
      counters: { fromGuest: stats(from!, 0), toGuest: stats(to!, lost!) },
    }));
    return { time_ms: this.time_ms, ports, workers: [] };
  }

  ringStats(port: number) {
    const [from, to, lost] = this.counts[port]!;
    return [stats(to!, lost!), stats(from! - 1, 0), stats(0, 0), stats(1, 0)];
  }

  setLanes(lanes: readonly LanePlan[]): void {
    this.lanes.push(lanes);
  }
}

function stats(packets: number, lost: number): VringStats {
  const zero = readStruct("VringStats", emptyStruct("VringStats"));
  return { ...zero, packets: BigInt(packets), bytes: BigInt(60 * packets), drop_no_buffer: BigInt(lost) };
}

function modes(ports: Ports): (string | undefined)[] {
  return ports.lanes.map((lanes) => lanes[0]?.mode);
}

Deno.test("start and stop set the lanes, and stop counts from the start", () => {
  const ports = new Ports();
  const console = new Console(ports, config);
  ports.counts = [[5, 0, 0], [0, 5, 0]];
  assert.deepEqual(console.execute("stop"), ["Packet forwarding not started"]);
  assert.deepEqual(console.execute(" start "), [
    "io packet forwarding - ports=2 - cores=1 - streams=4",
    "  RX P=0/Q=0 -> TX P=1/Q=0 peer=02:00:00:00:00:01",
    "  RX P=0/Q=1 -> TX P=1/Q=1 peer=02:00:00:00:00:01",
    "  RX P=1/Q=0 -> TX P=0/Q=0 peer=02:00:00:00:00:00",
    "  RX P=1/Q=1 -> TX P=0/Q=1 peer=02:00:00:00:00:00",
  ]);
  assert.deepEqual(console.execute("start"), ["Packet forwarding already started"]);
  ports.counts = [[15, 1, 0], [1, 12, 3]];
  const stopped = console.execute("stop");
  assert.deepEqual(stopped.slice(0, 5), [
    "Telling cores to stop...",
    "Waiting for lcores to finish...",
    "  ---------------------- Forward statistics for port 0  ----------------------",
    "  RX-packets: 10             RX-dropped: 0             RX-total: 10",
    "  TX-packets: 1              TX-dropped: 0             TX-total: 1",
  ]);
  assert.ok(
    stopped.includes("  TX-packets: 8              TX-dropped: 3             TX-total: 11"),
    stopped.join("\n"),
  );
  assert.equal(stopped.at(-1), "Done.");
  assert.deepEqual(modes(ports), ["io", "none"]);
});

Deno.test("a mode is for the next start, and those that are not there are named", () => {
  const ports = new Ports();
  const console = new Console(ports, config);
  console.execute("start");
  assert.deepEqual(console.execute("set fwd 5tswap"), ["Set 5tswap packet forwarding mode"]);
  assert.match(console.execute("set fwd noisy").join(), /^Bad arguments: noisy: it imitates .*, choose from io, mac, /);
  assert.match(console.execute("set fwd nosuch").join(), /^Bad arguments: nosuch: choose from io, mac, /);
  console.execute("stop");
  console.execute("start");
  assert.deepEqual(modes(ports), ["io", "none", "swap5"]);
});

Deno.test("packets of ours: how many, how long, how many at a time", () => {
  const ports = new Ports();
  const console = new Console(ports, config);
  assert.deepEqual(console.execute("set burst 16"), ["Number of packets per burst set to 16"]);
  assert.deepEqual(console.execute("set burst 65"), ["Bad arguments: 65: give 1 to 64 packets"]);
  assert.deepEqual(console.execute("set txpkts 1514"), []);
  assert.match(console.execute("set txpkts 64,64").join(), /^Bad arguments: 64,64: give one length/);
  assert.match(console.execute("set txpkts 41").join(), /^Bad arguments: 41: give 42 to 65549 bytes/);
  assert.deepEqual(console.execute("show config txpkts"), [
    "Number of segments: 1",
    "Segment sizes: 1514",
    "Split packet: off",
  ]);
  assert.match(console.execute("start tx_first 0").join(), /^Bad arguments: 0: give 1 to /);
  console.execute("start tx_first 3");
  console.execute("stop");
  console.execute("set fwd txonly");
  console.execute("start");
  const told = ports.lanes.map((lanes) =>
    lanes.map(({ mode, target, burst, frameBytes, first }) => {
      return [mode, target, burst, frameBytes, first ?? 0];
    })
  );
  assert.deepEqual(told, [
    [["io", 1, 16, 1514, 48], ["io", 0, 16, 1514, 48]],
    [["none", 1, 16, 1514, 0], ["none", 0, 16, 1514, 0]],
    [["txonly", 0, 16, 1514, 0], ["txonly", 1, 16, 1514, 0]],
  ]);
});

Deno.test("a port that was stopped keeps start from starting", () => {
  const ports = new Ports();
  const console = new Console(ports, config);
  assert.deepEqual(console.execute("port stop 1"), ["Stopping port 1...", "Done"]);
  assert.deepEqual(console.execute("start"), ["Not all ports were started"]);
  assert.deepEqual(console.execute("port start all").at(-1), "Port 1: 56:48:4F:53:54:01");
  console.execute("start");
  assert.match(console.execute("port stop all").join(), /say stop first/);
  assert.deepEqual(modes(ports), ["io"]);
});

Deno.test("show port stats: counters since they were cleared, rates since the last look", () => {
  const ports = new Ports();
  const console = new Console(ports, config);
  ports.counts = [[100, 7, 2], [0, 0, 0]];
  assert.deepEqual(console.execute("clear port stats 0"), ["NIC statistics for port 0 cleared"]);
  console.execute("show port stats all");
  ports.counts = [[400, 7, 4], [0, 0, 0]];
  ports.time_ms = 1500;
  assert.deepEqual(console.execute("show port stats 0"), [
    "  ######################## NIC statistics for port 0  ########################",
    "  RX-packets: 300        RX-missed: 0           RX-bytes:  18000",
    "  TX-packets: 0          TX-errors: 2           TX-bytes:  0",
    "  Throughput (since last show)",
    "  Rx-pps:          200          Rx-bps:        96000",
    "  Tx-pps:            0          Tx-bps:            0",
    "  ############################################################################",
  ]);
  const xstats = console.execute("show port xstats 0");
  const lines = ["rx_good_packets: 300", "tx_drop_no_buffer: 2", "tx_good_bytes: 0"];
  for (const line of [...lines, "rx_q0_good_packets: 300", "rx_q1_good_packets: 0", "tx_q0_drop_no_buffer: 2"]) {
    assert.ok(xstats.includes(line), `${line} in ${xstats}`);
  }
});

Deno.test("show port info and summary tell what a port is", () => {
  const console = new Console(new Ports(), config);
  const info = console.execute("show port info 0");
  for (const line of ["MAC address: 56:48:4F:53:54:00", "Link status: up", "Devargs: iface=/tmp/s0,queues=2"]) {
    assert.ok(info.includes(line), `${line} in ${info}`);
  }
  assert.deepEqual(console.execute("show port summary all").slice(2), [
    "0    56:48:4F:53:54:00 eth_vhost0   net_vhost      up",
    "1    56:48:4F:53:54:01 eth_vhost1   net_vhost      down",
  ]);
  assert.deepEqual(console.execute("show port info 2"), ["Invalid port 2", "The valid ports array is [ 0 1 ]"]);
});

Deno.test("other words are not found, nothing is nothing, and quit ends it", () => {
  const console = new Console(new Ports(), config);
  assert.deepEqual(console.execute(""), []);
  assert.deepEqual(console.execute("# a comment"), []);
  assert.deepEqual(console.execute("nosuchcmd"), ["Command not found: nosuchcmd: see help"]);
  for (
    const [line, reason] of [
      ["set nbcore 2", "give --nb-cores and --cpus when it begins"],
      ["port config mtu 0 9000", "an MTU is the guest's to set"],
      ["port config all rxq 2", "there is no NIC behind these ports"],
      ["tso set 800 0", "a guest has the offloads that it negotiated"],
    ]
  ) assert.deepEqual(console.execute(line!), [`Not here: ${line}: ${reason}: see help`]);
  assert.deepEqual(console.execute("set nosuch 2"), ["Bad arguments: see help"]);
  assert.deepEqual(console.execute("show port"), ["Bad arguments: see help"]);
  assert.equal(console.over, false);
  assert.deepEqual(console.execute("quit"), ["Bye..."]);
  assert.equal(console.over, true);
});

Deno.test("words are completed from what can follow", () => {
  const console = new Console(new Ports(), config);
  assert.deepEqual(console.complete("st"), [["start ", "stop "], "st"]);
  assert.deepEqual(console.complete("show port "), [["info ", "stats ", "xstats ", "summary "], ""]);
  assert.deepEqual(console.complete("show port info "), [["all ", "0 ", "1 "], ""]);
  assert.deepEqual(console.complete("start "), [["tx_first "], ""]);
  assert.deepEqual(console.complete("set burst "), [[], ""]);
  assert.deepEqual(console.complete("set fwd mac"), [["mac ", "macswap "], "mac"]);
  assert.deepEqual(console.complete("quit "), [[], ""]);
});

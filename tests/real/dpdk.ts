// DPDK's testpmd with virtio-user ports: an independent driver of both kinds of rings, on sockets of ours.
// Packets circulate between two of its ports through the switch under test, so each one is forwarded exactly once a
// lap, and what was sent and what arrived can be compared to the packet.

import { dirname } from "node:path";
import { testpmd_command } from "./peers.ts";
import { Program } from "./process.ts";

/** One way in which virtio-user drives its rings, and what DPDK calls it when it takes that way. */
export interface RingPath {
  readonly name: string;
  readonly packed: boolean;
  readonly in_order: boolean;
  readonly mergeable: boolean;
  readonly vectorized?: boolean;
  /** Its log's words for the path to and from the guest. */
  readonly rx: string;
  readonly tx: string;
}

const split = { packed: false, rx: "standard", tx: "standard" };
const packed = { packed: true, rx: "packed ring standard", tx: "packed ring standard" };
const mergeable_packed = { ...packed, rx: "packed ring mergeable buffer" };
const in_order_split = { ...split, rx: "inorder", tx: "inorder" };

export const ring_paths: readonly RingPath[] = [
  { name: "split, mergeable", ...split, in_order: false, mergeable: true, rx: "mergeable buffer" },
  { name: "split", ...split, in_order: false, mergeable: false },
  { name: "split, in order, mergeable", ...in_order_split, in_order: true, mergeable: true },
  { name: "split, in order", ...in_order_split, in_order: true, mergeable: false },
  { name: "split, vectorized", ...split, in_order: false, mergeable: false, vectorized: true, rx: "vectorized" },
  { name: "packed, mergeable", ...mergeable_packed, in_order: false, mergeable: true },
  { name: "packed", ...packed, in_order: false, mergeable: false },
  { name: "packed, in order, mergeable", ...mergeable_packed, in_order: true, mergeable: true },
  { name: "packed, in order", ...packed, in_order: true, mergeable: false },
  {
    name: "packed, in order, vectorized",
    packed: true,
    in_order: true,
    mergeable: false,
    vectorized: true,
    rx: "packed ring vectorized",
    tx: "packed ring vectorized",
  },
];

/** Whether this CPU can take the path: DPDK's vectorized packed ring is written for AVX-512 alone. */
export function possible(path: RingPath): boolean {
  if (!(path.packed && path.vectorized)) return true;
  return /\bavx512f\b/.test(Deno.readTextFileSync("/proc/cpuinfo"));
}

export interface TestpmdOptions {
  /** One port for each socket; testpmd pairs them off, 0 with 1, 2 with 3. */
  readonly sockets: readonly string[];
  readonly path: RingPath;
  readonly queues?: number;
  readonly queue_size?: number;
  /** Whether it listens on its sockets; by default a driver connects, and a back end listens. */
  readonly server?: boolean;
  /** true makes it a back end, DPDK's own, and then `path` is for the driver to choose. */
  readonly vhost?: boolean;
  /** Addresses of its frames vary, so that a switch can spread them over queues. */
  readonly many_flows?: boolean;
  /** Files of packets in pcap's format, to read and to write: one more port, the last. */
  readonly capture?: { readonly read: string; readonly write: string };
}

export interface PortCounters {
  readonly rx_packets: number;
  readonly tx_packets: number;
  readonly rx_bytes: number;
  readonly tx_bytes: number;
  readonly errors: number;
}

const start_timeout_ms = 30_000;
const log_timeout_ms = 10_000;
const command_timeout_ms = 30_000;
const memory_mib = 256;

let started = 0;

export class Testpmd implements AsyncDisposable {
  readonly options: TestpmdOptions;
  readonly program: Program;

  private constructor(options: TestpmdOptions, program: Program) {
    this.options = options;
    this.program = program;
  }

  static async start(options: TestpmdOptions): Promise<Testpmd> {
    // stdbuf: what testpmd prints must not overtake its prompt, which it writes past its own buffer.
    const args = ["-oL", testpmd_command, ...testpmdArguments(options)];
    // DPDK leaves a directory behind; beside the sockets it goes when they go.
    const program = new Program("stdbuf", args, { env: { RUNTIME_DIRECTORY: dirname(options.sockets[0]!) } });
    const testpmd = new Testpmd(options, program);
    try {
      await program.until(/testpmd> /, start_timeout_ms);
      await testpmd.#checkPaths();
    } catch (reason) {
      await program.stop("SIGKILL");
      throw reason;
    }
    return testpmd;
  }

  /** Gives one command to the console, and returns what it answered. */
  async command(line: string): Promise<string> {
    const from = this.program.position;
    await this.program.write(`${line}\n`);
    const echo = line.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const match = await this.program.until(new RegExp(`${echo}\\s*\\n([^]*?)testpmd> `), command_timeout_ms, from);
    return match[1]!.trim();
  }

  /** Counters of a port since it was opened, or last cleared. */
  async counters(port: number): Promise<PortCounters> {
    const text = await this.command(`show port stats ${port}`);
    const number = (name: string) => {
      const match = new RegExp(`${name}:\\s*(\\d+)`).exec(text);
      if (!match) throw new Error(`testpmd's statistics have no ${name}: ${text}`);
      return Number(match[1]);
    };
    return {
      rx_packets: number("RX-packets"),
      tx_packets: number("TX-packets"),
      rx_bytes: number("RX-bytes"),
      tx_bytes: number("TX-bytes"),
      errors: number("RX-errors") + number("RX-nombuf") + number("TX-errors"),
    };
  }

  /** The first of its counters, while ports come and go: what is told of that may lie in the middle of a prompt. */
  async received(port: number): Promise<number> {
    const from = this.program.position;
    await this.program.write(`show port stats ${port}\n`);
    return Number((await this.program.until(/RX-packets: (\d+)\s/, command_timeout_ms, from))[1]);
  }

  /** Sends bursts of 32 out of every port, and forwards what comes back, for ever: these packets circulate. */
  async circulate(bursts: number, segments: readonly number[] = [64]): Promise<void> {
    await this.command(`set txpkts ${segments.join(",")}`);
    await this.command("set fwd io");
    await this.command(`start tx_first ${bursts}`);
  }

  /**
   * Stops forwarding and takes in what is still under way; afterwards every packet sent is either received or lost.
   * Returns how many packets testpmd itself threw away because its transmit ring was full.
   */
  async drain(): Promise<number> {
    const summary = await this.command("stop");
    const dropped = [...summary.matchAll(/-- Forward statistics for port[^]*?TX-dropped: (\d+)/g)];
    await this.command("set fwd rxonly");
    await this.command("start");
    await this.#settled();
    await this.command("stop");
    return dropped.reduce((sum, match) => sum + Number(match[1]), 0);
  }

  /** How many packets each queue of a port has received since it was opened. */
  async queueCounters(port: number): Promise<number[]> {
    const text = await this.command(`show port xstats ${port}`);
    return Array.from({ length: this.options.queues ?? 1 }, (_, queue) => {
      const match = new RegExp(`rx_q${queue}_good_packets: (\\d+)`).exec(text);
      if (!match) throw new Error(`testpmd's extended statistics have no queue ${queue}: ${text}`);
      return Number(match[1]);
    });
  }

  async stop(): Promise<void> {
    await this.program.write("quit\n");
    await this.program.stop("SIGCONT");
  }

  kill(): Promise<Deno.CommandStatus> {
    return this.program.stop("SIGKILL");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  /** Waits until nothing has come in for a while. */
  async #settled(): Promise<void> {
    let before = -1;
    while (true) {
      let received = 0;
      for (const port of this.options.sockets.keys()) received += (await this.counters(port)).rx_packets;
      if (received === before) return;
      before = received;
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
  }

  /** The log comes by another way than the prompt, and may come after it. */
  async #checkPaths(): Promise<void> {
    if (this.options.vhost) return;
    for (const port of this.options.sockets.keys()) {
      for (const words of [`${this.options.path.rx} Rx`, `${this.options.path.tx} Tx`]) {
        await this.program.until(new RegExp(`using ${words} path on port ${port}`), log_timeout_ms);
      }
    }
  }
}

/** The MAC address of a port of testpmd's. */
export function portMac(port: number): string {
  return `52:54:00:da:7a:${port.toString(16).padStart(2, "0")}`;
}

function device({ path, queues = 1, queue_size = 256, server, vhost }: TestpmdOptions, socket: string, port: number) {
  const flag = (value: boolean | undefined) => (value ? 1 : 0);
  if (vhost) return `net_vhost${port},iface=${socket},queues=${queues},client=${flag(server === false)}`;
  return [
    `net_virtio_user${port}`,
    `path=${socket}`,
    `mac=${portMac(port)}`,
    `queues=${queues}`,
    `queue_size=${queue_size}`,
    `packed_vq=${flag(path.packed)}`,
    `in_order=${flag(path.in_order)}`,
    `mrg_rxbuf=${flag(path.mergeable)}`,
    `vectorized=${flag(path.vectorized)}`,
    `server=${flag(server)}`,
  ].join(",");
}

function testpmdArguments(options: TestpmdOptions): string[] {
  const { path, queues = 1, queue_size = 256, sockets } = options;
  const devices = sockets.flatMap((socket, port) => ["--vdev", device(options, socket, port)]);
  if (options.capture) {
    devices.push("--vdev", `net_pcap0,rx_pcap=${options.capture.read},tx_pcap=${options.capture.write}`);
  }
  // What a file holds must all come back: with fewer on their way than it has buffers, however late it takes them.
  const sendSize = options.capture ? queue_size / 2 : queue_size;
  // Each frame's destination is the port that it will arrive at, so that a learning switch need not flood.
  const destinations = sockets.length < 2 ? [] : sockets.map((_, port) => `--eth-peer=${port},${portMac(port ^ 1)}`);
  return [
    ...["--lcores", "0@1,1@1", "--no-huge", "-m", `${memory_mib}`, "--no-pci", "--no-telemetry", "--no-shconf"],
    ...[`--file-prefix=vhostctl-${Deno.pid}-${++started}`, "--log-level=pmd.net.virtio.init:info"],
    ...(!options.vhost && path.packed && path.vectorized ? ["--force-max-simd-bitwidth=512"] : []),
    ...devices,
    ...["--", "-i", "--nb-cores=1", "--total-num-mbufs=8192", `--rxq=${queues}`, `--txq=${queues}`],
    ...[`--txd=${sendSize}`, `--rxd=${queue_size}`, "--no-flush-rx", ...destinations],
    ...(options.many_flows ? ["--txonly-multi-flow"] : []),
  ];
}

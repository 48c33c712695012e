/**
 * `vhostctl serve` as a child, or `pmd-forward` with one port: the forwarder under test.
 *
 * @module
 */
import { join } from "node:path";
import type { Way } from "./bench_result.ts";
import { JsonProcess, type Message, ownProgram } from "./json_process.ts";
import type { IdleMode } from "./option.ts";

/** What the switch and its workers counted from start to end. */
export interface ServeCounters {
  /** Dropped packets by reason, over all ports; reasons without packets are left out. */
  readonly drops: Record<string, number>;
  /** By how many cutting made packets more. */
  readonly added: number;
  /** Cycles spent in bursts with packets, and these packets, over all workers. */
  readonly busyCycles: number;
  readonly packets: number;
  /** Packets that came from guests, and the bursts that they came in. */
  readonly fromGuests: number;
  readonly bursts: number;
}

export interface ServeOptions {
  /** Where the sockets go. */
  readonly directory: string;
  readonly queues: number;
  /** vm2vm, if undefined. */
  readonly way?: Way;
  /** A CPU for each worker, or how many workers go anywhere. */
  readonly workerCpus: readonly number[] | number;
  /** How many, if not as many as the way needs. */
  readonly ports?: number;
  /** When its workers rest; adaptive, if undefined. */
  readonly idle?: IdleMode;
  /** How often it counts, for `look`; never, if undefined. */
  readonly look_seconds?: number;
}

/** Counters of one port, by direction. */
export type PortCounters = Readonly<Record<"to_guest" | "from_guest", Readonly<Record<string, number>>>>;

const portCounts: Record<Way, number> = { vm2vm: 2, loop: 1 };
/** As in the switch, which has no other. */
const loopBurst = 64;
/** How `serve` heads the counters of reasons to drop. */
const dropPrefix = "drop_";

interface Summary {
  readonly ports: readonly PortCounters[];
  readonly workers: readonly Readonly<Record<"busy_cycles" | "packets", number>>[];
}

/** Dropped packets by reason; reasons without packets are left out. */
export function dropsOf(counters: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const drops: Record<string, number> = {};
  for (const [key, value] of counters.flatMap(Object.entries)) {
    if (!key.startsWith(dropPrefix) || value === 0) continue;
    const reason = key.slice(dropPrefix.length);
    drops[reason] = (drops[reason] ?? 0) + value;
  }
  return drops;
}

function countersOf({ ports, workers }: Summary): ServeCounters {
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  return {
    drops: dropsOf(ports.flatMap((port) => [port.to_guest, port.from_guest])),
    added: sum(ports.map((port) => (port.to_guest["pieces"] ?? 0) - (port.to_guest["cut"] ?? 0))),
    busyCycles: sum(workers.map((worker) => worker.busy_cycles)),
    packets: sum(workers.map((worker) => worker.packets)),
    fromGuests: sum(ports.map((port) => port.from_guest["packets"] ?? 0)),
    bursts: sum(ports.map((port) => port.from_guest["bursts"] ?? 0)),
  };
}

function socketsOf(directory: string, ports: number, name: string): string[] {
  return Array.from({ length: ports }, (_, port) => join(directory, `${name}${port}.sock`));
}

/** As many for a peer, beside ours. */
export function peerSockets(directory: string, way: Way, ports = portCounts[way]): string[] {
  return socketsOf(directory, ports, "peer");
}

function argumentsOf(options: ServeOptions): string[] {
  const { directory, queues, way = "vm2vm", workerCpus, look_seconds = 0, idle = "adaptive" } = options;
  const { ports = portCounts[way] } = options;
  const cpus = typeof workerCpus === "number" ? [] : ["--cpus", workerCpus.join(",")];
  if (way === "loop") {
    const vdevs = socketsOf(directory, ports, "port").map((socket, port) =>
      `eth_vhost${port},iface=${socket},queues=${queues}`
    );
    return [
      "pmd-forward",
      "--json",
      "--idle",
      idle,
      "--burst",
      `${loopBurst}`,
      ...vdevs.flatMap((vdev) => ["--vdev", vdev]),
      ...cpus,
    ];
  }
  return [
    ...["serve", "--json", "--ports", `${ports}`, "--dir", directory, "--stats", `${look_seconds}`],
    ...["--queues", `${queues}`, "--idle", idle, ...cpus],
    ...typeof workerCpus === "number" ? ["--workers", `${workerCpus}`] : [],
  ];
}

const isEvent = (name: string) => (message: Message) => message["event"] === name;

/** A `serve` with two ports, until it is disposed of. */
export class ServeProcess implements AsyncDisposable {
  readonly process: JsonProcess;
  /** One for each port. */
  readonly sockets: readonly string[];

  private constructor(process: JsonProcess, sockets: readonly string[]) {
    this.process = process;
    this.sockets = sockets;
  }

  /** Returns when it is ready. */
  static async start(options: ServeOptions): Promise<ServeProcess> {
    const words = argumentsOf(options);
    const process = new JsonProcess(`vhostctl ${words[0]}`, ownProgram(), words);
    try {
      await process.next(isEvent("ready"));
    } catch (reason) {
      await process[Symbol.asyncDispose]();
      throw reason;
    }
    const { directory, way = "vm2vm", ports = portCounts[way] } = options;
    return new ServeProcess(process, socketsOf(directory, ports, "port"));
  }

  /** The counters of its ports, counted after the call; with `look_seconds`. */
  async look(): Promise<readonly PortCounters[]> {
    const asked_ms = Date.now();
    // On a busy machine some may be on their way that were counted before.
    const isNew = (message: Message) => isEvent("stats")(message) && Date.parse(`${message["time"]}`) > asked_ms;
    return (await this.process.next(isNew) as unknown as Summary).ports;
  }

  /** Ends it, and returns what it had counted. */
  async finish(): Promise<ServeCounters> {
    const summary = this.process.next(isEvent("summary"));
    this.process.signal("SIGTERM");
    return countersOf(await summary as unknown as Summary);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.process[Symbol.asyncDispose]();
  }
}

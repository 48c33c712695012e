// `vhostctl serve` as a program, watched through the lines of JSON that it prints.

import { resolve } from "node:path";
import { describe, eventually, Program } from "./process.ts";

/** The program under test: $VHOSTCTL, else the one of the source tree. */
export const vhostctl = Deno.env.get("VHOSTCTL") ?? resolve(import.meta.dirname!, "../../scripts/vhostctl");

/** One line of its output. */
export interface ServeRecord {
  readonly event: string;
  /** What happened to one port has its name. */
  readonly port?: string;
  readonly [field: string]: unknown;
}

/** `packets`, `bytes`, `drop_no_buffer` and so on. */
export type Counters = Readonly<Record<string, number>>;

export interface PortReport {
  readonly port: string;
  readonly state: string;
  /** Why it still waits, where it is to connect. */
  readonly reason?: string;
  readonly queue_pairs_up: number;
  readonly to_guest: Counters;
  readonly from_guest: Counters;
}

// The source tree may have to be built first.
const start_timeout_ms = 180_000;
const event_timeout_ms = 30_000;

export class Serve implements AsyncDisposable {
  readonly program: Program;
  readonly #records: ServeRecord[] = [];
  #read = 0;

  private constructor(program: Program) {
    this.program = program;
  }

  /** Starts it, and waits until it says that it is ready. */
  static start(...args: string[]): Promise<Serve> {
    return Serve.#start(["serve", "--json", "--stats", "0.5", ...args]);
  }

  /** Starts one that waits until another one is gone. */
  static standBy(...args: string[]): Promise<Serve> {
    return Serve.standByBehind([], ...args);
  }

  static standByBehind(prefix: readonly string[], ...args: string[]): Promise<Serve> {
    return Serve.#start(["serve", "--json", "--stats", "0.5", "--standby", ...args], prefix, "standby");
  }

  /** The same as `start`, behind a command that runs others: in a network of its own, say. */
  static startBehind(prefix: readonly string[], ...args: string[]): Promise<Serve> {
    return Serve.#start(["serve", "--json", "--stats", "0.5", ...args], prefix);
  }

  /** The same for `pmd-forward`, which tells of its ports in the same way. */
  static forward(...args: string[]): Promise<Serve> {
    return Serve.forwardBehind([], ...args);
  }

  /** The same for `vhost-pci`. */
  static link(...args: string[]): Promise<Serve> {
    return Serve.#start(["vhost-pci", "--json", ...args]);
  }

  static forwardBehind(prefix: readonly string[], ...args: string[]): Promise<Serve> {
    return Serve.#start(["pmd-forward", "--json", "--stats-period", "0.5", ...args], prefix);
  }

  static async #start(args: string[], prefix: readonly string[] = [], event = "ready"): Promise<Serve> {
    const [command, ...words] = [...prefix, vhostctl, ...args];
    const serve = new Serve(new Program(command!, words));
    try {
      await serve.until(event, {}, { timeout_ms: start_timeout_ms });
    } catch (reason) {
      await serve.program.stop("SIGKILL");
      throw reason;
    }
    return serve;
  }

  /** Everything told so far. */
  get records(): readonly ServeRecord[] {
    const text = this.program.since(this.#read);
    const whole = text.slice(0, text.lastIndexOf("\n") + 1);
    this.#read += whole.length;
    for (const line of whole.split("\n")) if (line.startsWith("{")) this.#records.push(JSON.parse(line));
    return this.#records;
  }

  /** A place to give to `until`: it then minds only what comes later. */
  get now(): number {
    return this.records.length;
  }

  /** Waits until an event with these fields has been told. */
  until(
    event: string,
    fields: Readonly<Record<string, unknown>> = {},
    { from = 0, timeout_ms = event_timeout_ms }: { from?: number; timeout_ms?: number } = {},
  ): Promise<ServeRecord> {
    const wanted = (record: ServeRecord) =>
      record.event === event && Object.entries(fields).every(([field, value]) => record[field] === value);
    return eventually(`${JSON.stringify({ event, ...fields })} from serve`, timeout_ms, () => {
      const found = this.records.slice(from).find(wanted);
      if (!found && !this.program.running) {
        throw new Error(`serve ended by itself: ${this.program.since().slice(-4000)}`);
      }
      return found;
    }, 20);
  }

  /** Counters of all ports by name, as they are from now on. */
  async ports(): Promise<Map<string, PortReport>> {
    return byName(await this.until("stats", {}, { from: this.now }));
  }

  /** Waits until each port has so many queue pairs that carry packets: a driver may think so earlier than we do. */
  async up(queue_pairs: number): Promise<void> {
    await eventually(`serve has ${queue_pairs} queue pairs up on each port`, event_timeout_ms, async () => {
      return [...(await this.ports()).values()].every((port) => port.queue_pairs_up === queue_pairs) || undefined;
    }, 0);
  }

  /** Ends it as a user does, and returns the last counters. */
  async finish(): Promise<Map<string, PortReport>> {
    const status = await this.program.stop("SIGTERM");
    if (status.code !== 0) {
      throw new Error(`serve ended with ${describe(status)}: ${this.program.since().slice(-4000)}`);
    }
    const summary = this.records.findLast((record) => record.event === "summary");
    if (!summary) throw new Error(`serve told no summary: ${this.program.since().slice(-4000)}`);
    return byName(summary);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.program.stop("SIGKILL");
  }
}

/** Packets that were dropped in either direction, by reason; empty when there were none. */
export function drops(port: PortReport): Record<string, number> {
  const found: Record<string, number> = {};
  for (const counters of [port.to_guest, port.from_guest]) {
    for (const [name, count] of Object.entries(counters)) {
      if (name.startsWith("drop_") && count > 0) found[name] = (found[name] ?? 0) + count;
    }
  }
  return found;
}

function byName(record: ServeRecord): Map<string, PortReport> {
  return new Map((record["ports"] as PortReport[]).map((port) => [port.port, port]));
}

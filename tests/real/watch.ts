// `vhostctl reconnect-watch --json` as a program.

import { eventually, Program } from "./process.ts";
import { vhostctl } from "./serve.ts";

/** One line of its output. */
export interface WatchRecord {
  readonly event: string;
  readonly [field: string]: unknown;
}

/** A port in its summary. */
export interface WatchedPort {
  readonly port: string;
  readonly outages: number;
  readonly worst_ms: number | null;
  readonly total_ms: number;
  readonly lasting_ms: number | null;
}

const event_timeout_ms = 30_000;

export class Watch implements AsyncDisposable {
  readonly program: Program;

  private constructor(program: Program) {
    this.program = program;
  }

  /** Starts it, and waits until it has told something. */
  static async start(...args: string[]): Promise<Watch> {
    const watch = new Watch(new Program(vhostctl, ["reconnect-watch", "--json", ...args]));
    await watch.program.until(/^\{.*\}$/m, event_timeout_ms);
    return watch;
  }

  /** Everything told so far. */
  get records(): readonly WatchRecord[] {
    const lines = this.program.since().split("\n").slice(0, -1).filter((line) => line.startsWith("{"));
    return lines.map((line) => JSON.parse(line));
  }

  /** A place to give to `until`: it then minds only what comes later. */
  get now(): number {
    return this.records.length;
  }

  /** Waits until a moment with these fields has been told. */
  until(event: string, fields: Readonly<Record<string, unknown>> = {}, { from = 0 } = {}): Promise<WatchRecord> {
    const wanted = (record: WatchRecord) =>
      record.event === event && Object.entries(fields).every(([field, value]) => record[field] === value);
    return eventually(`${JSON.stringify({ event, ...fields })} from reconnect-watch`, event_timeout_ms, () => {
      const found = this.records.slice(from).find(wanted);
      if (!found && !this.program.running) {
        throw new Error(`reconnect-watch ended by itself: ${this.program.since().slice(-4000)}`);
      }
      return found;
    }, 20);
  }

  /** Ends it as a user does. */
  async finish(): Promise<{ code: number; errors: string; summary: readonly WatchedPort[] }> {
    const { code } = await this.program.stop("SIGINT");
    const summary = this.records.findLast(({ event }) => event === "summary");
    if (!summary) throw new Error(`reconnect-watch told no summary: ${this.program.since().slice(-4000)}`);
    const errors = this.program.since().split("\n").filter((line) => line.startsWith("vhostctl")).join("\n");
    return { code, errors, summary: summary["ports"] as WatchedPort[] };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.program.stop("SIGKILL");
  }
}

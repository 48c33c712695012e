/**
 * `vhostctl serve` as a program, as somebody sees it who trusts nothing: what it says, what it counts, and what the
 * kernel knows of it.
 *
 * @module
 */

import assert from "node:assert/strict";
import { describe, eventually, Program } from "./real/process.ts";

/** Something that it told of a port. */
export interface PortEvent {
  readonly event: string;
  readonly port: string;
  readonly [field: string]: unknown;
}

type Counters = Readonly<Record<string, number>>;

interface Stats {
  readonly time: string;
  readonly ports: readonly { readonly port: string; readonly to_guest: Counters; readonly from_guest: Counters }[];
}

/** Dropped packets as `victim to_guest bad_chain: 2`, only those that there are. */
export type Drops = Readonly<Record<string, number>>;

/** What the program has, as the kernel counts it. */
export interface Census {
  readonly fds: number;
  /** Mappings of guests' files. */
  readonly guestMaps: number;
  readonly maps: number;
}

/** The source tree may have to be built first. */
const start_ms = 240_000;
const patience_ms = 20_000;
const look_ms = 2;

function dropsOf({ ports }: Stats): Drops {
  const found: Record<string, number> = {};
  for (const port of ports) {
    for (const direction of ["to_guest", "from_guest"] as const) {
      for (const [name, count] of Object.entries(port[direction])) {
        if (!name.startsWith("drop_") || count === 0) continue;
        found[`${port.port} ${direction} ${name.slice("drop_".length)}`] = count;
      }
    }
  }
  return found;
}

export class HostileServe implements AsyncDisposable {
  readonly program: Program;
  readonly #directory: string;
  readonly #events: PortEvent[] = [];
  readonly #strays: string[] = [];
  #stats: Stats | undefined;
  #ready = false;
  #read = 0;

  private constructor(program: Program, directory: string) {
    this.program = program;
    this.#directory = directory;
  }

  /** @param ports As `--port` has them. */
  static async start(program: string, statsPeriod_s: number, ports: readonly string[]): Promise<HostileServe> {
    const directory = Deno.makeTempDirSync({ prefix: "vhostctl-hostile-" });
    const started = new Program(program, [
      ...["serve", "--json", "--stats", `${statsPeriod_s}`, "--dir", directory],
      ...ports.flatMap((port) => ["--port", port]),
    ]);
    const serve = new HostileServe(started, directory);
    try {
      await serve.until("that it is ready", () => serve.#ready || undefined, start_ms);
    } catch (reason) {
      await serve[Symbol.asyncDispose]();
      throw reason;
    }
    return serve;
  }

  socket(port: string): string {
    return `${this.#directory}/${port}.sock`;
  }

  /** Everything told of ports so far. */
  get events(): readonly PortEvent[] {
    const text = this.program.since(this.#read);
    const whole = text.slice(0, text.lastIndexOf("\n") + 1);
    this.#read += whole.length;
    for (const line of whole.split("\n")) if (line !== "") this.#hear(line);
    return this.#events;
  }

  #hear(line: string): void {
    let record: { event?: unknown } | undefined;
    try {
      record = JSON.parse(line);
    } catch {
      // While it is built, whoever builds it has the word.
      if (this.#ready) this.#strays.push(line);
      return;
    }
    if (record?.event === "stats") this.#stats = record as Stats & { event: unknown };
    else if (record?.event === "ready") this.#ready = true;
    else if (this.#ready) this.#events.push(record as PortEvent);
  }

  /** Lines that no program could read: there must be none. Whoever looks takes them. */
  get strays(): string[] {
    return this.#strays;
  }

  /** Waits for something that it tells. */
  until<T>(what: string, ask: () => T | undefined, timeout_ms = patience_ms): Promise<T> {
    return eventually(`${what}, from serve`, timeout_ms, () => {
      void this.events;
      const answer = ask();
      if (answer === undefined && !this.program.running) {
        throw new Error(`serve ended by itself: ${this.program.since().slice(-4000)}`);
      }
      return answer;
    }, look_ms);
  }

  /** What was dropped until now, or a moment later. */
  drops(): Promise<Drops> {
    // A line's time is taken after its counters are.
    const since_ms = Date.now() + 5;
    return this.until("counters", () => {
      const stats = this.#stats;
      return stats !== undefined && Date.parse(stats.time) > since_ms ? dropsOf(stats) : undefined;
    });
  }

  census(): Census {
    const { pid } = this.program;
    const maps = Deno.readTextFileSync(`/proc/${pid}/maps`).trimEnd().split("\n");
    return {
      fds: [...Deno.readDirSync(`/proc/${pid}/fd`)].length,
      guestMaps: maps.filter((line) => line.includes("/memfd:hostile")).length,
      maps: maps.length,
    };
  }

  /** Ends it as a user does. It must have lived until now. */
  async finish(): Promise<void> {
    assert.ok(this.program.running, "serve lives to the end");
    const status = await this.program.stop("SIGTERM");
    assert.equal(status.code, 0, `serve ended with ${describe(status)}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.program.stop("SIGKILL");
    Deno.removeSync(this.#directory, { recursive: true });
  }
}

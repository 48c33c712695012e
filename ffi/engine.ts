/**
 * A data plane: ports, the switch between them, and the native workers that serve it.
 *
 * @module
 */

import { IdleMode, limits } from "./abi.gen.ts";
import { check, library } from "./library.ts";
import { Port } from "./port.ts";
import { emptyStruct, readStruct, type Struct, writeStruct } from "./struct.ts";

/** When a worker rests: after a short while without traffic, never, or at once. */
export type Idle = keyof typeof IdleMode;

/** Counters of one worker since it was added. Cycles are of the CPU's constant-rate counter. */
export type WorkerStats = Struct<"WorkerStats">;

export interface EngineOptions {
  /** Ports that may be open at once, up to 1024. */
  portsMax?: number;
  /** A MAC address not seen for so long is forgotten. */
  macAgeMs?: number;
}

export interface WorkerOptions {
  /** CPU to run on; any, if undefined. */
  cpu?: number | undefined;
  idle?: Idle | undefined;
}

export interface PortOptions {
  /** 1 to 128. */
  queuePairs: number;
  /** Longest frame to the guest, without its Ethernet header, in bytes; no limit, if undefined. */
  mtu?: number | undefined;
  /** Features that no ring has here, whatever was negotiated: none, if undefined. */
  ignored?: bigint | undefined;
  /**
   * Told after a ring started, stopped, was enabled or disabled, or got another kick fd; all rings, if undefined. May
   * not throw.
   */
  changed?: (ring: number | undefined) => void;
}

/** Where a guest is. */
export interface LearnedMac {
  /** As in a frame: the first byte is the lowest. */
  readonly mac: bigint;
  readonly port: number;
}

const macMask = 0xffff_ffff_ffffn;

/** How long a hostile front end can hold a worker up, about. */
const checkMs = 250;

/**
 * One engine. All its calls, and those of its ports, are for the thread that opened it, and return at once: when a
 * call returns, the workers have adopted the change. Dispose of it to end the workers and close the ports.
 */
export class Engine implements AsyncDisposable {
  #handle: number;
  readonly #timer: ReturnType<typeof setInterval>;

  private constructor(handle: number) {
    this.#handle = handle;
    this.#timer = setInterval(() => library().engine_check(this.#handle), checkMs);
    this.#timer.unref();
  }

  /** Throws `VringError` when the limits are impossible or memory is short. */
  static open({ portsMax = 1024, macAgeMs = 300_000 }: EngineOptions = {}): Engine {
    const config = writeStruct("EngineConfig", { ports_max: portsMax, mac_age_ms: macAgeMs });
    return new Engine(check("open engine", library().engine_open(config)));
  }

  #live(): number {
    if (this.#handle === 0) throw new TypeError("Cannot use engine: closed");
    return this.#handle;
  }

  /**
   * Starts one more worker thread and returns its number. In an engine without any, `Port.receive` and `Port.send` move
   * the frames; rings that started then get no worker later.
   */
  addWorker({ cpu = -1, idle = "adaptive" }: WorkerOptions = {}): number {
    const config = writeStruct("WorkerConfig", { cpu, idle: IdleMode[idle] });
    return check("add worker", library().worker_add(this.#live(), config));
  }

  /** Opens a port of the switch. */
  openPort({ queuePairs, mtu = 0, ...options }: PortOptions): Port {
    const config = writeStruct("PortConfig", { queue_pairs: queuePairs, mtu });
    return new Port(this.#live(), check("open port", library().port_open(this.#live(), config)), options);
  }

  /**
   * Stops all rings, between two bursts, for another process to go on where they stand. What is done until `proceed`
   * comes into force with that; an engine that is closed before leaves the rings alone. Throws when a worker is stuck.
   */
  pause(): void {
    check("stop rings", library().engine_pause(this.#live()));
  }

  /** Lets all rings go on. */
  proceed(): void {
    check("let rings go on", library().engine_proceed(this.#live()));
  }

  /** Every address that was learned, with its port's number. */
  macs(): LearnedMac[] {
    const words = new BigUint64Array(limits.macs_max);
    const count = check("ask for addresses", library().engine_macs(this.#live(), words, words.length));
    return Array.from(words.subarray(0, count), (word) => ({ mac: word & macMask, port: Number(word >> 48n) - 1 }));
  }

  /** An eventfd of the engine's that becomes readable when a ring breaks; not to be closed. */
  get attentionFd(): number {
    return check("find attention fd", library().engine_attention(this.#live()));
  }

  /** A snapshot of one worker's counters. */
  workerStats(number: number): WorkerStats {
    const buffer = emptyStruct("WorkerStats");
    check(`read counters of worker ${number}`, library().worker_stats(this.#live(), number, buffer));
    return readStruct("WorkerStats", buffer);
  }

  /** Joins the workers and closes every port. May be called again. */
  async close(): Promise<void> {
    if (this.#handle === 0) return;
    const handle = this.#handle;
    this.#handle = 0;
    clearInterval(this.#timer);
    check("close engine", await library().engine_close(handle));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

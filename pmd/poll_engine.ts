/**
 * What all devices of a program share: an engine without workers, and a pump for their sockets.
 *
 * @module
 */
import { setImmediate } from "node:timers";
import { Engine } from "../ffi/engine.ts";
import { drainEventfd } from "../ffi/fd.ts";
import { Pump } from "../ffi/pump.ts";
import type { PortServer } from "./port_server.ts";

const tick_ms = 1000;
/** Whoever moves packets without a pause lets messages through this often. */
const turn_ms = 1;

let current: PollEngine | undefined;

/** Opened with its first device, closed with its last one. */
export class PollEngine {
  readonly engine: Engine;
  readonly pump: Pump;
  readonly servers = new Set<PortServer>();
  readonly #timer: ReturnType<typeof setInterval>;
  #users = 0;
  #turned_ms = -Infinity;

  private constructor() {
    this.engine = Engine.open();
    this.pump = Pump.open();
    this.#timer = setInterval(() => this.servers.forEach((server) => server.tick()), tick_ms);
    this.pump.watch(this.engine.attentionFd, () => {
      drainEventfd(this.engine.attentionFd);
      this.servers.forEach((server) => server.lookForBroken());
    });
    void this.pump.run();
  }

  /** The one there is. Each call needs a `release`. */
  static acquire(): PollEngine {
    current ??= new PollEngine();
    current.#users++;
    return current;
  }

  async release(): Promise<void> {
    if (--this.#users > 0) return;
    current = undefined;
    clearInterval(this.#timer);
    await this.pump[Symbol.asyncDispose]();
    await this.engine.close();
  }

  /** Lets timers and messages have their turn; undefined: they just had it. */
  turn(now_ms: number): Promise<void> | undefined {
    return now_ms - this.#turned_ms < turn_ms ? undefined : this.#turn();
  }

  async #turn(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    this.#turned_ms = performance.now();
  }
}

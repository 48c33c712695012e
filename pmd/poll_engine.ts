/**
 * What all devices of a program share: an engine without workers, and a pump for their sockets.
 *
 * @module
 */
import { setImmediate } from "node:timers";
import { Engine } from "../ffi/engine.ts";
import { drainEventfd } from "../ffi/fd.ts";
import { Pump } from "../ffi/pump.ts";

const tick_ms = 1000;
/** Whoever moves packets without a pause lets messages through this often. */
const turn_ms = 1;

let current: PollEngine | undefined;

/** What lives in it. */
export interface Resident {
  /** Called every second. */
  tick(): void;
  /** Called after a ring broke, of whichever resident. */
  attend(): void;
}

/** Opened with its first device, closed with its last one. */
export class PollEngine {
  readonly engine: Engine;
  readonly pump: Pump;
  readonly residents = new Set<Resident>();
  readonly #timer: ReturnType<typeof setInterval>;
  #users = 0;
  #turned_ms = -Infinity;

  private constructor(engine: Engine, pump: Pump) {
    this.engine = engine;
    this.pump = pump;
    pump.watch(engine.attentionFd, () => {
      drainEventfd(engine.attentionFd);
      this.residents.forEach((resident) => resident.attend());
    });
    this.#timer = setInterval(() => this.residents.forEach((resident) => resident.tick()), tick_ms);
    void pump.run();
  }

  /** All or nothing. */
  static #open(): PollEngine {
    const engine = Engine.open();
    let pump: Pump | undefined;
    try {
      pump = Pump.open();
      return new PollEngine(engine, pump);
    } catch (error) {
      void pump?.[Symbol.asyncDispose]();
      void engine.close();
      throw error;
    }
  }

  /** The one there is. Each call needs a `release`. */
  static acquire(): PollEngine {
    current ??= PollEngine.#open();
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

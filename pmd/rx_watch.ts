/**
 * Waiting for packets without burning a core.
 *
 * @module
 */
import type { Port } from "../ffi/port.ts";
import type { Pump } from "../ffi/pump.ts";
import type { PollEngine } from "./poll_engine.ts";

/** Without traffic for so long, the wait is for a kick; until then a poll is cheaper. */
const spin_ms = 0.05;
/** A ring that the guest cannot kick is looked at this often. */
const unkicked_ms = 1;

/** The receive queues of one device. */
export class RxWatch implements Disposable {
  /** Whether a burst brought something since the last wait. */
  found = false;
  readonly #pump: Pump;
  readonly #port: Port;
  readonly #queues: number;
  /** By queue. */
  readonly #kicks = new Map<number, Disposable>();
  #idleSince_ms = -Infinity;
  /** Of those who wait. */
  readonly #wakes = new Set<() => void>();

  constructor(pump: Pump, port: Port, queues: number) {
    this.#pump = pump;
    this.#port = port;
    this.#queues = queues;
  }

  /** See `EthDev.rxReady`; undefined: at once. */
  static ready(shared: PollEngine, watches: readonly RxWatch[]): Promise<void> | undefined {
    const now_ms = performance.now();
    const isLively = watches.map((watch) => watch.#isLively(now_ms)).includes(true);
    return shared.turn(now_ms) ?? (isLively ? undefined : RxWatch.#kicked(watches));
  }

  static #kicked(watches: readonly RxWatch[]): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = watches.some((watch) => watch.#hasUnkicked()) ? setTimeout(resolve, unkicked_ms) : undefined;
    const pending = watches.map((watch) => watch.#arm(resolve)).includes(true);
    if (pending) resolve();
    return promise.finally(() => {
      clearTimeout(timer);
      for (const watch of watches) watch.#disarm(resolve);
    });
  }

  /** Something about a ring is another thing now, or about all of them: look again. */
  changed(ring: number | undefined): void {
    for (const [queue, kick] of this.#kicks) {
      if (ring !== undefined && ring !== 2 * queue + 1) continue;
      kick[Symbol.dispose]();
      this.#kicks.delete(queue);
    }
    this.wake();
  }

  /** Ends the wait. */
  wake(): void {
    for (const wake of this.#wakes) wake();
  }

  [Symbol.dispose](): void {
    this.changed(undefined);
  }

  #isLively(now_ms: number): boolean {
    if (this.found) this.#idleSince_ms = now_ms;
    this.found = false;
    return now_ms - this.#idleSince_ms < spin_ms;
  }

  #hasUnkicked(): boolean {
    return this.#numbers().some((queue) => this.#port.isUp(2 * queue + 1) && this.#port.kickFd(queue) === undefined);
  }

  /** Whether something is there already. */
  #arm(wake: () => void): boolean {
    this.#wakes.add(wake);
    for (const queue of this.#numbers()) {
      const fd = this.#port.kickFd(queue);
      if (fd !== undefined && !this.#kicks.has(queue)) this.#kicks.set(queue, this.#pump.watch(fd, () => this.wake()));
    }
    return this.#numbers().map((queue) => this.#port.arm(queue, true)).includes(true);
  }

  #disarm(wake: () => void): void {
    this.#wakes.delete(wake);
    if (this.#wakes.size === 0 && this.#port.isOpen) {
      for (const queue of this.#numbers()) {
        this.#port.arm(queue, false);
      }
    }
  }

  #numbers(): number[] {
    return Array.from({ length: this.#queues }, (_, queue) => queue);
  }
}

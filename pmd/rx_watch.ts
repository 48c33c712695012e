/**
 * Waiting for packets without burning a core.
 *
 * @module
 */
import { VringError } from "../ffi/library.ts";
import type { Port } from "../ffi/port.ts";
import type { Pump } from "../ffi/pump.ts";
import type { PollEngine } from "./poll_engine.ts";

/** Without traffic for so long, the wait is for a kick; until then a poll is cheaper. */
const spin_ms = 0.05;
/** A ring whose kicks are not heard is looked at this often. */
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

  static async #kicked(watches: readonly RxWatch[]): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    let timer: ReturnType<typeof setTimeout> | undefined;
    try {
      if (watches.map((watch) => watch.#arm(resolve)).includes(true)) return;
      if (watches.some((watch) => watch.#hasUnwatched())) timer = setTimeout(resolve, unkicked_ms);
      await promise;
    } finally {
      clearTimeout(timer);
      for (const watch of watches) watch.#disarm(resolve);
    }
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

  /** A ring without kicks, or whose kicks cannot be watched for want of descriptors. */
  #hasUnwatched(): boolean {
    return this.#numbers().some((queue) => !this.#kicks.has(queue) && this.#port.isUp(2 * queue + 1));
  }

  /** Whether something is there already. */
  #arm(wake: () => void): boolean {
    this.#wakes.add(wake);
    for (const queue of this.#numbers()) this.#watch(queue);
    return this.#numbers().map((queue) => this.#port.arm(queue, true)).includes(true);
  }

  #watch(queue: number): void {
    const fd = this.#port.kickFd(queue);
    if (fd === undefined || this.#kicks.has(queue)) return;
    try {
      this.#kicks.set(queue, this.#pump.watch(fd, () => this.wake()));
    } catch (error) {
      if (!(error instanceof VringError)) throw error;
    }
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

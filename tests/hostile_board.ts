/**
 * What the thread of honest traffic tells the thread of hostile cases, in memory of both.
 *
 * @module
 */

import type { GuestOptions } from "./hostile_guest.ts";

/** What the traffic's thread is told to do. */
export interface TrafficJob {
  readonly guests: readonly [GuestOptions, GuestOptions];
  /** Of a `Board`. */
  readonly memory: SharedArrayBuffer;
}

const states = ["starting", "running", "failed", "stopped"] as const;
type State = (typeof states)[number];

const place = { stop: 0, state: 1, arrived: 2, textBytes: 4 } as const;
const textAt = 32;
const bytes = 8192;

/** Both threads have one, over the same memory. */
export class Board {
  readonly memory: SharedArrayBuffer;
  readonly #numbers: Int32Array;

  constructor(memory = new SharedArrayBuffer(bytes)) {
    this.memory = memory;
    this.#numbers = new Int32Array(memory, 0, textAt / 4);
  }

  get state(): State {
    return states[Atomics.load(this.#numbers, place.state)]!;
  }

  set state(state: State) {
    Atomics.store(this.#numbers, place.state, states.indexOf(state));
  }

  get stopAsked(): boolean {
    return Atomics.load(this.#numbers, place.stop) !== 0;
  }

  askToStop(): void {
    Atomics.store(this.#numbers, place.stop, 1);
  }

  /** Frames that arrived so far, there and back. */
  get arrived(): [number, number] {
    return [0, 1].map((direction) => Atomics.load(this.#numbers, place.arrived + direction)) as [number, number];
  }

  count(direction: number, frames: number): void {
    Atomics.add(this.#numbers, place.arrived + direction, frames);
  }

  /** Why the traffic failed. */
  get reason(): string {
    return new TextDecoder().decode(new Uint8Array(this.memory, textAt).slice(0, this.#numbers[place.textBytes]));
  }

  fail(reason: string): void {
    const text = new TextEncoder().encode(reason).subarray(0, bytes - textAt);
    new Uint8Array(this.memory, textAt).set(text);
    Atomics.store(this.#numbers, place.textBytes, text.length);
    this.state = "failed";
  }
}

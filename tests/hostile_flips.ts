/**
 * The thread that changes words of guest memory, as those see it who start and stop it.
 *
 * @module
 */

import type { GuestMemory } from "./hostile_memory.ts";
import { patiently } from "./hostile_patience.ts";

/** What a word is to be in turn. */
export interface Values {
  /** Of the word, in bytes. */
  readonly width: 2 | 4 | 8;
  readonly value: readonly bigint[];
}

/** What the thread is told to do. */
export interface FlipJob {
  readonly fd: number;
  /** Of the file. */
  readonly bytes: number;
  /** Where the word is in it. */
  readonly at: number;
  readonly values: Values;
  /** Of a `FlipSwitch`. */
  readonly memory: SharedArrayBuffer;
}

const place = { stop: 0, running: 1 } as const;

/** Both threads have one, over the same memory. */
export class FlipSwitch {
  readonly memory: SharedArrayBuffer;
  readonly #numbers: Int32Array;

  constructor(memory = new SharedArrayBuffer(8)) {
    this.memory = memory;
    this.#numbers = new Int32Array(memory);
  }

  get running(): boolean {
    return Atomics.load(this.#numbers, place.running) !== 0;
  }

  set running(running: boolean) {
    Atomics.store(this.#numbers, place.running, running ? 1 : 0);
  }

  get stopAsked(): boolean {
    return Atomics.load(this.#numbers, place.stop) !== 0;
  }

  set stopAsked(asked: boolean) {
    Atomics.store(this.#numbers, place.stop, asked ? 1 : 0);
  }
}

/** One thread, for one word at a time. */
export class Flipper {
  readonly #worker: Worker;
  readonly #switch = new FlipSwitch();

  private constructor(worker: Worker) {
    this.#worker = worker;
  }

  /** Returns when the thread is there. */
  static async open(): Promise<Flipper> {
    const worker = new Worker(new URL("hostile_flipper.ts", import.meta.url), { type: "module" });
    await new Promise((resolve) => worker.onmessage = resolve);
    return new Flipper(worker);
  }

  /** Begins to change the word at a guest address, and goes on until the result is disposed of. */
  start(memory: GuestMemory, at: bigint, values: Values): Disposable {
    const part = memory.parts.find(({ gpa, size }) => at >= gpa && at < gpa + size)!;
    const job: FlipJob = {
      fd: part.fd,
      bytes: part.bytes.length,
      at: Number(at - part.gpa),
      values,
      memory: this.#switch.memory,
    };
    this.#switch.stopAsked = false;
    this.#worker.postMessage(job);
    patiently("the flipper's start", () => this.#switch.running || undefined);
    return {
      [Symbol.dispose]: () => {
        this.#switch.stopAsked = true;
        patiently("the flipper's end", () => !this.#switch.running || undefined);
      },
    };
  }

  close(): void {
    this.#worker.terminate();
  }
}

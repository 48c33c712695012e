/**
 * Counts the instructions of a thread of another process.
 *
 * @module
 */

import { check, library } from "./library.ts";

/**
 * Holds a thread of another process that this one may trace (ptrace(2)), such as a child's, and lets it go on by single
 * steps. Everything blocks, a step takes some microseconds. Dispose of it to let the thread go.
 */
export class Tracer implements Disposable {
  readonly #thread: number;

  private constructor(thread: number) {
    this.#thread = thread;
  }

  /** Throws `VringError`: errno 1 where this is not allowed, 3 where there is no such thread. */
  static hold(thread: number): Tracer {
    check(`hold thread ${thread}`, library().trace_begin(thread));
    return new Tracer(thread);
  }

  /**
   * Lets it go on for so many steps. Returns how many instructions these were: one that repeats itself takes several.
   * Throws `VringError`: status `closed` when it has ended.
   */
  step(steps: number): number {
    return check(`step thread ${this.#thread}`, library().trace_step(this.#thread, steps));
  }

  [Symbol.dispose](): void {
    check(`let thread ${this.#thread} go`, library().trace_end(this.#thread));
  }
}

/**
 * One owner for each file descriptor.
 *
 * A descriptor belongs to the message it came with until somebody takes it; one that nobody took
 * is closed when its owner is disposed. How to close is given from outside, so that this folder
 * needs no foreign functions.
 *
 * @module
 */

/** A file descriptor with exactly one owner. */
export class Fd implements Disposable {
  #number: number;
  readonly #close: (number: number) => void;

  /**
   * @param number An open descriptor of this process; the new object owns it.
   * @param close Closes it; called at most once.
   */
  constructor(number: number, close: (number: number) => void) {
    this.#number = number;
    this.#close = close;
  }

  /** The descriptor, for a call that only borrows it. Throws after `take` or disposal. */
  get number(): number {
    if (this.#number < 0) throw new TypeError("Cannot use file descriptor: already taken or closed");
    return this.#number;
  }

  /** Hands the descriptor over: the caller owns it from now on. */
  take(): number {
    const number = this.number;
    this.#number = -1;
    return number;
  }

  /** Hands the descriptor over to a new owner, for one that outlives this. */
  move(): Fd {
    return new Fd(this.take(), this.#close);
  }

  /** Closes the descriptor if nobody took it. May be called again. */
  [Symbol.dispose](): void {
    if (this.#number < 0) return;
    this.#close(this.take());
  }
}

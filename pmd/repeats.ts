/**
 * The same thing again and again, told once and then by number.
 *
 * @module
 */

/** Things further apart than this are not the same again. */
const gap_ms = 2000;
/** The first number is told after so long, the next each after twice the time. */
const firstInterval_ms = 10_000;
const lastInterval_ms = 300_000;

/** Counts one kind of occurrence. Times are of a steady clock, in milliseconds. */
export class Repeats {
  readonly #tell: (count: number, seconds: number) => void;
  #count = 0;
  #last_ms = -Infinity;
  #told_ms = 0;
  #interval_ms = firstInterval_ms;

  /** @param tell Gets how many were not told by themselves, and over how many seconds. */
  constructor(tell: (count: number, seconds: number) => void) {
    this.#tell = tell;
  }

  /** Whether it would be told by itself. */
  isNews(now_ms: number): boolean {
    return now_ms - this.#last_ms > gap_ms;
  }

  /** It happened. Returns whether it is to be told by itself: it is the first for some time. */
  again(now_ms: number): boolean {
    const first = this.isNews(now_ms);
    if (first) {
      this.#flush(now_ms);
      this.#told_ms = now_ms;
      this.#interval_ms = firstInterval_ms;
    } else {
      this.#count++;
    }
    this.#last_ms = now_ms;
    if (now_ms - this.#told_ms >= this.#interval_ms) {
      this.#flush(now_ms);
      this.#interval_ms = Math.min(2 * this.#interval_ms, lastInterval_ms);
    }
    return first;
  }

  /** To be called now and then: tells the number once it has stopped. */
  tick(now_ms: number): void {
    if (this.isNews(now_ms)) this.#flush(now_ms);
  }

  #flush(now_ms: number): void {
    if (this.#count === 0) return;
    this.#tell(this.#count, Math.ceil((now_ms - this.#told_ms) / 1000));
    this.#count = 0;
    this.#told_ms = now_ms;
  }
}

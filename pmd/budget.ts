/**
 * So much at once, and so much a second: for lines that a peer can cause at will.
 *
 * @module
 */

/** A bucket of tokens. Times are of a steady clock, in milliseconds. */
export class Budget {
  readonly #burst: number;
  readonly #perSecond: number;
  #tokens: number;
  #last_ms = 0;

  constructor(burst: number, perSecond: number) {
    this.#burst = burst;
    this.#perSecond = perSecond;
    this.#tokens = burst;
  }

  /** Takes one if there is one. */
  take(now_ms: number): boolean {
    const earned = (now_ms - this.#last_ms) / 1000 * this.#perSecond;
    this.#tokens = Math.min(this.#burst, this.#tokens + earned);
    this.#last_ms = now_ms;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }
}

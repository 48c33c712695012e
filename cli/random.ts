/**
 * Choices that a test makes at random, and can make again.
 *
 * @module
 */

/** Numbers that look random, by a seed (SplitMix32). */
export class Random {
  #state: number;

  /** @param seed 0 to 2^32 - 1. */
  constructor(seed: number) {
    this.#state = seed;
  }

  /** 0 to 2^32 - 1. */
  next(): number {
    this.#state = this.#state + 0x9e3779b9 >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ mixed >>> 16, 0x21f0aaad);
    mixed = Math.imul(mixed ^ mixed >>> 15, 0x735a2d97);
    return (mixed ^ mixed >>> 15) >>> 0;
  }

  /** From `least` to `most`, both included. */
  between(least: number, most: number): number {
    return least + this.next() % (most - least + 1);
  }

  pick<T>(items: readonly [T, ...T[]]): T {
    return items[this.next() % items.length]!;
  }

  /** True `percent` times of a hundred. */
  chance(percent: number): boolean {
    return this.next() % 100 < percent;
  }
}

/**
 * When to look again at something: now and then, and often while there is something to wait for.
 *
 * @module
 */

const rarely_ms = 500;
const often_ms = 20;

/** Calls `look` after each `again`, until it is disposed of. */
export class LookTimer implements Disposable {
  readonly #look: () => void;
  readonly #isCurious: () => boolean;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isOver = false;

  /** @param isCurious Whether looking soon makes sense. */
  constructor(look: () => void, isCurious: () => boolean) {
    this.#look = look;
    this.#isCurious = isCurious;
  }

  /** The last look is done. */
  again(): void {
    if (!this.#isOver) this.#set(this.#isCurious() ? often_ms : rarely_ms);
  }

  /** Something happened: there may be something to wait for now. Does nothing while a look is under way. */
  hurry(): void {
    if (this.#timer !== undefined && this.#isCurious()) this.#set(0);
  }

  [Symbol.dispose](): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
  }

  #set(pause_ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#look();
    }, pause_ms);
  }
}

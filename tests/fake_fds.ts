/** File descriptors that are only numbers, each of which must be closed exactly once. */

import { Fd } from "../vhost/fd.ts";

export class FakeFds {
  readonly #live = new Set<number>();
  /** What was wrong; empty when all is well. */
  readonly violations: string[] = [];
  #next = 1000;

  /** Numbers not closed yet. */
  get live(): ReadonlySet<number> {
    return this.#live;
  }

  open(): Fd {
    const number = this.#next++;
    this.#live.add(number);
    return new Fd(number, (closed) => this.close(closed));
  }

  openMany(count: number): Fd[] {
    return Array.from({ length: count }, () => this.open());
  }

  close(number: number): void {
    if (!this.#live.delete(number)) this.violations.push(`fd ${number} closed twice, or never open`);
  }
}

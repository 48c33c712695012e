/**
 * What only the rings of a port show: that one gave up, or that its memory is not the guest's.
 *
 * @module
 */
import type { Port, VringStats } from "../ffi/port.ts";

/** What was found, once for each start of a ring or for each connection. */
export type RingFinding =
  | { readonly event: "ring_broken"; readonly ring: number; readonly reason: string }
  | { readonly event: "not_shared"; readonly ring: number; readonly kicks: number };

/**
 * A driver kicks when it has made something available; QEMU itself kicks once at each start. So with the second kick
 * something must have been there.
 */
const emptyKicks = 2;
/** Whoever kicks first and fills the ring then gets so long for it. */
const emptyPatience_ms = 2000;

/** Watches the rings of one port through one connection at a time. */
export class RingWatch {
  readonly #port: Port;
  readonly #found: (finding: RingFinding) => void;
  readonly #rings: number;
  readonly #broken = new Set<number>();
  /** Counters of the rings from the guest before they started. */
  #before: VringStats[] = [];
  #notShared = false;

  constructor(port: Port, queuePairs: number, found: (finding: RingFinding) => void) {
    this.#port = port;
    this.#rings = 2 * queuePairs;
    this.#found = found;
  }

  /** A connection begins; no ring runs. */
  begin(): void {
    this.#notShared = false;
    this.rest();
  }

  /** No ring runs any more. */
  rest(): void {
    this.#broken.clear();
    this.#before = this.#fromGuest().map((ring) => this.#port.vringStats(ring));
  }

  /** Tells of rings that gave up since they started; called now and then, also of those that were started again. */
  lookForBroken(): void {
    for (let ring = 0; ring < this.#rings && this.#port.isOpen; ring++) {
      const { broken, started } = this.#port.vringState(ring);
      if (broken === undefined || !started) this.#broken.delete(ring);
      else if (!this.#broken.has(ring)) {
        this.#broken.add(ring);
        this.#found({ event: "ring_broken", ring, reason: broken });
      }
    }
  }

  /**
   * QEMU with private RAM maps its file privately: we see a file of zeros then, and nothing else tells of it (QEMU 7.2
   * says nothing). Rings that started at 0, were kicked and stay at 0 are the sign. A worker that never sleeps does not
   * count kicks: with `--idle busy` this finds nothing.
   *
   * @param running_ms Since the first ring started.
   */
  lookForPrivateMemory(running_ms: number): void {
    if (!this.#port.isOpen || this.#notShared || running_ms < emptyPatience_ms) return;
    this.#fromGuest().forEach((ring, index) => {
      if (this.#notShared) return;
      const { started, base } = this.#port.vringState(ring);
      const kicks = kicksAlone(this.#port.vringStats(ring), this.#before[index]!);
      if (this.#notShared || !started || !isInitial(base) || kicks < emptyKicks) return;
      this.#notShared = true;
      this.#found({ event: "not_shared", ring, kicks });
    });
  }

  #fromGuest(): number[] {
    return Array.from({ length: this.#rings / 2 }, (_, pair) => 2 * pair + 1);
  }
}

/** How many kicks came if nothing else was counted, else 0. */
function kicksAlone(now: VringStats, before: VringStats): number {
  const others = Object.keys(now).filter((key) => key !== "kicks") as (keyof VringStats)[];
  return others.every((key) => now[key] === before[key]) ? Number(now.kicks - before.kicks) : 0;
}

/** Where a ring stands that a driver has never used: split, and packed with both wrap counters set. */
function isInitial(base: number): boolean {
  return base === 0 || base === 0x80008000;
}

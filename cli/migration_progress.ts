/**
 * How far a migration is, and whether it will ever end.
 *
 * @module
 */

/** What QEMU answers to query-migrate, as far as it is used here. Everything may be missing. */
export interface MigrateInfo {
  readonly status?: string;
  readonly "error-desc"?: string;
  readonly "blocked-reasons"?: readonly string[];
  readonly "socket-address"?: readonly unknown[];
  /** Milliseconds. */
  readonly "total-time"?: number;
  readonly "setup-time"?: number;
  readonly downtime?: number;
  readonly "expected-downtime"?: number;
  readonly "cpu-throttle-percentage"?: number;
  readonly ram?: Readonly<Record<string, number>>;
}

/** One moment of a migration. */
export interface Progress {
  readonly event: "progress";
  readonly seconds: number;
  /** QEMU's word: `setup`, `active`, `postcopy-active`, `device`. */
  readonly status: string;
  /** Of the dirty bitmap; the first one sends everything. */
  readonly pass: number;
  readonly remaining_bytes: number;
  readonly total_bytes: number;
  readonly transferred_bytes: number;
  readonly dirty_pages_per_second: number;
  readonly dirty_bytes_per_second: number;
  readonly bytes_per_second: number;
  /** Until the guest is handed over; null where it is not in sight. */
  readonly estimated_ms: number | null;
  /** For how long the guest would stand still now; null while that is not known. */
  readonly expected_downtime_ms: number | null;
  /** Pages that `serve` has marked; null where that is not known. */
  readonly logged_pages: number | null;
}

const pageBytesDefault = 4096;

/** What QEMU says, in our terms. */
export function progressOf(info: MigrateInfo, seconds: number, loggedPages: number | undefined): Progress {
  const ram = info.ram ?? {};
  const dirtyPages = ram["dirty-pages-rate"] ?? 0;
  const dirtyBytes = dirtyPages * (ram["page-size"] ?? pageBytesDefault);
  // Megabits of ten to the sixth.
  const sentBytes = (ram["mbps"] ?? 0) * 1e6 / 8;
  const remaining = ram["remaining"] ?? 0;
  const gain = sentBytes - dirtyBytes;
  return {
    event: "progress",
    seconds: Number(seconds.toFixed(3)),
    status: info.status ?? "none",
    pass: ram["dirty-sync-count"] ?? 0,
    remaining_bytes: remaining,
    total_bytes: ram["total"] ?? 0,
    transferred_bytes: ram["transferred"] ?? 0,
    dirty_pages_per_second: dirtyPages,
    dirty_bytes_per_second: dirtyBytes,
    bytes_per_second: Math.round(sentBytes),
    estimated_ms: gain > 0 ? Math.round(1000 * remaining / gain) : null,
    expected_downtime_ms: info["expected-downtime"] ?? null,
    logged_pages: loggedPages ?? null,
  };
}

/** Found by `Convergence`: what is left does not become less. */
export interface Stall {
  readonly event: "stalled";
  readonly pass: number;
  readonly remaining_bytes: number;
  readonly dirty_bytes_per_second: number;
  readonly bytes_per_second: number;
  /** With this limit the guest could be handed over as it is. */
  readonly downtime_needed_ms: number;
}

/** So many passes are compared, and the first, which sends everything, is none of them. */
const passesCompared = 4;
/** What is left must have fallen below this share. */
const fallShare = 0.9;
/** Told again after so many passes, and after so long. */
const again_s = 30;

/**
 * Looks at what is left at the beginning of each pass. As long as it falls from pass to pass there is an end to it;
 * where the guest writes as fast as is sent, or always the same pages, it does not.
 */
export class Convergence {
  #starts: number[] = [];
  #pass = 1;
  #told_s = -Infinity;

  /** Takes in a moment; returns a stall when there is one, and again every half minute. */
  look(now: Progress): Stall | undefined {
    if (now.status !== "active" || now.pass <= 1 || now.bytes_per_second === 0) return undefined;
    if (now.pass !== this.#pass) {
      this.#pass = now.pass;
      this.#starts = [...this.#starts, now.remaining_bytes].slice(-passesCompared);
    }
    if (!this.#isStalled() || now.seconds - this.#told_s < again_s) return undefined;
    this.#told_s = now.seconds;
    const worst = Math.max(...this.#starts);
    return {
      event: "stalled",
      pass: now.pass,
      remaining_bytes: worst,
      dirty_bytes_per_second: now.dirty_bytes_per_second,
      bytes_per_second: now.bytes_per_second,
      downtime_needed_ms: Math.ceil(1000 * worst / now.bytes_per_second),
    };
  }

  #isStalled(): boolean {
    const [first, ...later] = this.#starts;
    return first !== undefined && later.length + 1 === passesCompared && Math.min(...later) >= fallShare * first;
  }
}

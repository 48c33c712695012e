/**
 * When a port's front end came, and when its rings ran: what is to be known of a port by somebody who was not there.
 *
 * Times are the host's, in milliseconds since 1970: two processes that serve the same port one after the other, and
 * whoever watches them, have no other clock in common.
 *
 * @module
 */

/** Packets of both directions that were delivered to the guest, or taken from it, since the port was opened. */
export type PacketCounts = Readonly<Record<"toGuest" | "fromGuest", bigint>>;

/** Rings that run. */
export interface RingStart {
  readonly time_ms: number;
  readonly ring: "split" | "packed";
  readonly features: readonly string[];
}

/** Rings that ceased to run, the last time. */
export interface RingEnd {
  readonly time_ms: number;
  /** Why the front end has gone; undefined: it is still there, and stopped them itself. */
  readonly reason: string | undefined;
  /** What had been counted by then. */
  readonly packets: PacketCounts;
}

/** All of it, at one moment. */
export interface PortLife {
  /** This process serves the port since then. */
  readonly opened_ms: number;
  /** A front end is there since then; one that comes and goes in a hurry is not taken for there. */
  readonly connected_ms: number | undefined;
  /** How often the first ring of all was started. */
  readonly starts: number;
  /** Undefined while no ring runs. */
  readonly started: RingStart | undefined;
  readonly ended: RingEnd | undefined;
  /** Where we connect: attempts that found nobody since the last front end has gone. */
  readonly attempts: number;
  /** Why the last of them failed. */
  readonly failure: string | undefined;
  /** Frames that a dead back end had in hand and that were given back, in all starts. */
  readonly recovered: number;
}

/** All of it as JSON can carry it, to another process. */
export type CarriedLife = Omit<PortLife, "ended"> & {
  readonly ended?: Omit<RingEnd, "packets"> & { readonly packets: Readonly<Record<keyof PacketCounts, string>> };
};

/** Takes the times of one port. */
export class PortLog {
  readonly #count: () => PacketCounts;
  readonly #opened_ms = Date.now();
  #connected_ms: number | undefined;
  #starts = 0;
  #started: RingStart | undefined;
  #ended: RingEnd | undefined;
  #attempts = 0;
  #failure: string | undefined;
  #recovered = 0;

  /** @param count What is counted now. */
  constructor(count: () => PacketCounts) {
    this.#count = count;
  }

  get life(): PortLife {
    return {
      opened_ms: this.#opened_ms,
      connected_ms: this.#connected_ms,
      starts: this.#starts,
      started: this.#started,
      ended: this.#ended,
      attempts: this.#attempts,
      failure: this.#failure,
      recovered: this.#recovered,
    };
  }

  /** For `resume`. */
  carried(): CarriedLife {
    const { ended, ...life } = this.life;
    if (ended === undefined) return life;
    const { toGuest, fromGuest } = ended.packets;
    return { ...life, ended: { ...ended, packets: { toGuest: `${toGuest}`, fromGuest: `${fromGuest}` } } };
  }

  /** Goes on where another process was. */
  resume({ connected_ms, starts, started, ended, attempts, failure, recovered }: CarriedLife): void {
    this.#connected_ms = connected_ms;
    this.#starts = starts;
    this.#started = started;
    this.#ended = ended && {
      ...ended,
      packets: { toGuest: BigInt(ended.packets.toGuest), fromGuest: BigInt(ended.packets.fromGuest) },
    };
    this.#attempts = attempts;
    this.#failure = failure;
    this.#recovered = recovered;
  }

  /** Nobody listened where we connect to. */
  failed(reason: string): void {
    this.#attempts++;
    this.#failure = reason;
  }

  connected(): void {
    this.#connected_ms = Date.now();
    this.#failure = undefined;
  }

  started(ring: RingStart["ring"], features: readonly string[]): void {
    this.#starts++;
    this.#started = { time_ms: Date.now(), ring, features };
  }

  /** The front end stopped its last ring. */
  stopped(): void {
    this.#end(undefined);
  }

  /** The front end has gone. */
  disconnected(reason: string): void {
    this.#end(reason);
    this.#connected_ms = undefined;
    this.#attempts = 0;
  }

  recovered(returned: number): void {
    this.#recovered += returned;
  }

  #end(reason: string | undefined): void {
    if (this.#started === undefined) return;
    this.#started = undefined;
    this.#ended = { time_ms: Date.now(), reason, packets: this.#count() };
  }
}

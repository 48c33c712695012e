/**
 * A port as it is at one moment: what a control socket answers to `ports`, as far as it matters to who watches.
 *
 * @module
 */
import type { PortLife, PortSample } from "../mod.ts";

/** The two ways of packets, as programs read them. */
export type Way = "to_guest" | "from_guest";

/** Times are the host's, in milliseconds since 1970, as whoever serves the port takes them. */
export interface LookedLife {
  /** When this was looked at. */
  readonly now_ms: number;
  readonly opened_ms: number;
  readonly connected_ms?: number | undefined;
  readonly starts: number;
  readonly started?: PortLife["started"];
  readonly ended?: {
    readonly time_ms: number;
    readonly reason?: string | undefined;
    readonly packets: Readonly<Record<Way, number>>;
  } | undefined;
  readonly attempts: number;
  readonly failure?: string | undefined;
  readonly recovered: number;
}

/** One port. */
export interface PortLook {
  readonly port: string;
  /** Absolute; missing where the port has none. */
  readonly socket?: string;
  readonly state: string;
  readonly queue_pairs_up: number;
  readonly queue_pairs: number;
  readonly to_guest: { readonly packets?: number };
  readonly from_guest: { readonly packets?: number };
  /** Missing where no front end comes and goes, and in older versions. */
  readonly life?: LookedLife | undefined;
}

/** As it is now, of a port that serves guests. */
export function lifeOf({ life }: PortSample): LookedLife | undefined {
  if (life === undefined) return undefined;
  const { ended, ...rest } = life;
  if (ended === undefined) return { now_ms: Date.now(), ...rest };
  const { toGuest, fromGuest } = ended.packets;
  const packets = { to_guest: Number(toGuest), from_guest: Number(fromGuest) };
  return { now_ms: Date.now(), ...rest, ended: { ...ended, packets } };
}

/** The same as who asks at a control socket gets it. */
export function lookOf(sample: PortSample, socket: string): PortLook {
  const { port, state, queuePairsUp, queuePairs, counters } = sample;
  return {
    port,
    socket,
    state,
    queue_pairs_up: queuePairsUp,
    queue_pairs: queuePairs,
    to_guest: { packets: Number(counters.toGuest.packets) },
    from_guest: { packets: Number(counters.fromGuest.packets) },
    life: lifeOf(sample),
  };
}

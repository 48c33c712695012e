/**
 * What the queues of a device counted since some moment.
 *
 * @module
 */
import type { Port, VringStats } from "../ffi/port.ts";
import type { EthStats, EthXstats } from "./eth_info.ts";
import { dropped, statsSince } from "./port_sample.ts";
import { xstatsOf, xstatsOfRings } from "./xstats.ts";

type Counters = Readonly<Record<"rx" | "tx", VringStats>>;

/** Of one port. */
export class QueueCounters {
  readonly #port: Port;
  readonly #queues: number;
  #since: readonly VringStats[] | undefined;

  constructor(port: Port, queues: number) {
    this.#port = port;
    this.#queues = queues;
  }

  /** Counts from now on. */
  reset(): void {
    this.#since = this.#read();
  }

  stats(): EthStats {
    const { rx, tx } = this.#sums();
    return {
      ipackets: rx.packets,
      opackets: tx.packets,
      ibytes: rx.bytes,
      obytes: tx.bytes,
      ierrors: BigInt(dropped(rx)),
      oerrors: BigInt(dropped(tx)),
    };
  }

  xstats(): EthXstats {
    const { rx, tx } = this.#sums();
    return Object.fromEntries([...xstatsOf("rx", rx), ...xstatsOf("tx", tx), ...xstatsOfRings(this.#now())]);
  }

  #sums(): Counters {
    const rings = this.#now();
    const sum = (first: number) => rings.filter((_, ring) => ring % 2 === first).reduce(add);
    return { tx: sum(0), rx: sum(1) };
  }

  /** By ring, as numbered on the wire. */
  #now(): VringStats[] {
    return this.#read().map((stats, ring) => statsSince(stats, this.#since?.[ring]));
  }

  #read(): VringStats[] {
    return Array.from({ length: 2 * this.#queues }, (_, ring) => this.#port.vringStats(ring));
  }
}

function add(one: VringStats, other: VringStats): VringStats {
  const entries = Object.entries(one).map(([name, value]) => [name, value + other[name as keyof VringStats]]);
  return Object.fromEntries(entries) as VringStats;
}

/**
 * What the queues of a device counted since some moment.
 *
 * @module
 */
import type { Port, VringStats } from "../ffi/port.ts";
import type { EthStats, EthXstats } from "./eth_info.ts";
import { dropped } from "./port_sample.ts";
import { xstatsOf } from "./xstats.ts";

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
    const each = this.#now().flatMap((stats, ring) =>
      xstatsOf(`${ring % 2 === 1 ? "rx" : "tx"}_q${Math.floor(ring / 2)}`, stats)
    );
    return Object.fromEntries([...xstatsOf("rx", rx), ...xstatsOf("tx", tx), ...each]);
  }

  #sums(): Counters {
    const rings = this.#now();
    const sum = (first: number) => rings.filter((_, ring) => ring % 2 === first).reduce((a, b) => combine(a, b, 1n));
    return { tx: sum(0), rx: sum(1) };
  }

  /** By ring, as numbered on the wire. */
  #now(): VringStats[] {
    return this.#read().map((stats, ring) =>
      this.#since === undefined ? stats : combine(stats, this.#since[ring]!, -1n)
    );
  }

  #read(): VringStats[] {
    return Array.from({ length: 2 * this.#queues }, (_, ring) => this.#port.vringStats(ring));
  }
}

function combine(one: VringStats, other: VringStats, sign: bigint): VringStats {
  const entries = Object.entries(one).map(([name, value]) => [name, value + sign * other[name as keyof VringStats]]);
  return Object.fromEntries(entries) as VringStats;
}

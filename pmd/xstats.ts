/**
 * Extended statistics, named as DPDK's vhost PMD names them.
 *
 * @module
 */
import type { VringStats } from "../ffi/port.ts";
import { dropReasons } from "./port_sample.ts";

/**
 * What one ring, or all of a direction, counted. `prefix` is `rx` or `tx`, or `rx_q0` and the like. A counter for each
 * reason to drop is ours, and so is that of the notifications which the guest did not want.
 */
export function xstatsOf(prefix: string, stats: VringStats): [name: string, value: bigint][] {
  const drops = dropReasons(stats).map((reason): [string, bigint] => [
    `${prefix}_drop_${reason}`,
    stats[`drop_${reason}` as keyof VringStats],
  ]);
  return [
    [`${prefix}_good_packets`, stats.packets],
    [`${prefix}_good_bytes`, stats.bytes],
    [`${prefix}_multicast_packets`, stats.multicast],
    [`${prefix}_broadcast_packets`, stats.broadcast],
    [`${prefix}_guest_notifications`, stats.calls],
    [`${prefix}_guest_notifications_suppressed`, stats.calls_suppressed],
    ...drops,
  ];
}

/** The same of each ring, as numbered on the wire: `rx_q0_good_packets` and so on. */
export function xstatsOfRings(rings: readonly VringStats[]): [name: string, value: bigint][] {
  return rings.flatMap((stats, ring) => xstatsOf(`${ring % 2 === 1 ? "rx" : "tx"}_q${Math.floor(ring / 2)}`, stats));
}

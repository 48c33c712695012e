/**
 * One case measured at several starts of its processes: one start has the pages and the places of one chance.
 *
 * @module
 */
import { ratioOf } from "./bench_ratio.ts";
import type { Arrivals, CaseResult, PeerResult, Speed } from "./bench_result.ts";
import { quantile } from "./statistics.ts";

type Several<T> = readonly [T, ...T[]];

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** The middle one of those that are known. */
function median(values: readonly (number | undefined)[]): number | undefined {
  const known = values.filter((value) => value !== undefined);
  return known.length === 0 ? undefined : quantile(known, 0.5);
}

/** Over all the time that was measured. */
function mergeSpeeds(speeds: Several<Speed>): Speed {
  const seconds = sum(speeds.map((speed) => speed.seconds));
  const mean = (value: (speed: Speed) => number) =>
    seconds > 0 ? sum(speeds.map((speed) => speed.seconds * value(speed))) / seconds : 0;
  return { seconds, mpps: mean(({ mpps }) => mpps), gbps: mean(({ gbps }) => gbps) };
}

function mergeArrivals(arrivals: Several<Arrivals>): Arrivals {
  const total = (value: (arrived: Arrivals) => number) => sum(arrivals.map(value));
  return {
    packets: total(({ packets }) => packets),
    lost: total(({ lost }) => lost),
    duplicated: total(({ duplicated }) => duplicated),
    reordered: total(({ reordered }) => reordered),
    corrupted: total(({ corrupted }) => corrupted),
    checked: total(({ checked }) => checked),
  };
}

function mergePeers(peers: Several<PeerResult>): PeerResult {
  const pairs = peers.flatMap((peer) => peer.pairs);
  const instructions_per_packet = median(peers.map((peer) => peer.instructions_per_packet));
  return {
    ...peers[0],
    ...mergeSpeeds(peers),
    ...mergeArrivals(peers),
    ...{ pairs, ratio: ratioOf(pairs), pairs_disturbed: sum(peers.map((peer) => peer.pairs_disturbed)) },
    ...instructions_per_packet === undefined ? {} : { instructions_per_packet },
  };
}

function mergeDrops(starts: Several<CaseResult>): Record<string, number> {
  const drops: Record<string, number> = {};
  for (const [reason, packets] of starts.flatMap((start) => Object.entries(start.drops))) {
    drops[reason] = (drops[reason] ?? 0) + packets;
  }
  return drops;
}

/** All starts of one case together: rates over all their time, ratios over all their pairs, medians of the rest. */
export function mergeStarts(starts: Several<CaseResult>): CaseResult {
  const [first, ...others] = starts;
  if (others.length === 0) return first;
  const [peer, ...peers] = starts.flatMap((start) => start.peer ?? []);
  const instructions_per_packet = median(starts.map((start) => start.instructions_per_packet));
  return {
    ...first,
    ...mergeSpeeds(starts),
    ...mergeArrivals(starts),
    starts: sum(starts.map((start) => start.starts)),
    drops: mergeDrops(starts),
    unaccounted: sum(starts.map((start) => start.unaccounted)),
    cycles_per_packet: median(starts.map((start) => start.cycles_per_packet)),
    packets_per_burst: median(starts.map((start) => start.packets_per_burst)),
    core_distance_ns: median(starts.map((start) => start.core_distance_ns)),
    floor_gbps: median(starts.map((start) => start.floor_gbps)),
    ...instructions_per_packet === undefined ? {} : { instructions_per_packet },
    ...peer === undefined ? {} : { peer: mergePeers([peer, ...peers]) },
  };
}

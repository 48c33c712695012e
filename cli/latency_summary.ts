/**
 * What rounds of turns say together, for each distance of the CPUs.
 *
 * @module
 */
import { latencyQuantile } from "../mod.ts";
import { distanceOf, distances } from "./distance.ts";
import type { LatencyRound, LatencyTurn } from "./latency_measure.ts";
import type { ForwarderLatency, ForwarderName, LatencyCase, LatencyCaseResult } from "./latency_result.ts";
import { quantile, type Spread, spread } from "./statistics.ts";

/** With fewer undisturbed rounds than these, all count. */
const undisturbedMin = 3;

function median_ns({ latency }: LatencyTurn): number {
  return latencyQuantile(latency, 0.5) ?? NaN;
}

/** One forwarder's median by another's, round by round; undefined without the other. */
function ratios(rounds: readonly LatencyRound[], index: number, other: number): Spread | undefined {
  if (other < 0 || other === index) return undefined;
  const values = rounds.map(({ turns }) => median_ns(turns[index]!) / median_ns(turns[other]!));
  return spread(values.filter(Number.isFinite));
}

function summarize(rounds: readonly LatencyRound[], names: readonly ForwarderName[], index: number): ForwarderLatency {
  const turns = rounds.map((round) => round.turns[index]!);
  const all = turns[0]!.latency.map((_, bucket) => turns.reduce((sum, { latency }) => sum + latency[bucket]!, 0n));
  const quantile_us = (fraction: number) => {
    const found_ns = latencyQuantile(all, fraction);
    return found_ns === undefined ? undefined : found_ns / 1000;
  };
  return {
    name: names[index]!,
    round_trips: Number(all.reduce((sum, count) => sum + count, 0n)),
    ...{ p50_us: quantile_us(0.5), p90_us: quantile_us(0.9), p99_us: quantile_us(0.99), p999_us: quantile_us(0.999) },
    to_busy: ratios(rounds, index, names.indexOf("busy")),
    to_peer: ratios(rounds, index, names.indexOf("testpmd")),
    load_pps: quantile(turns.map(({ load_pps }) => load_pps), 0.5),
  };
}

/** One result for each distance of the CPUs that there was. */
export function summarizeLatency(
  wanted: LatencyCase,
  names: readonly ForwarderName[],
  rounds: readonly LatencyRound[],
): LatencyCaseResult[] {
  return distances.flatMap((distance) => {
    const there = rounds.filter(({ core_distance_ns }) => distanceOf(core_distance_ns) === distance);
    if (there.length === 0) return [];
    const undisturbed = there.filter(({ disturbed }) => !disturbed);
    const counted = undisturbed.length >= undisturbedMin ? undisturbed : there;
    return {
      ...wanted,
      distance,
      core_distance_ns: spread(counted.flatMap(({ core_distance_ns }) => core_distance_ns ?? []))?.median,
      ...{ rounds: counted.length, rounds_disturbed: there.length - undisturbed.length },
      forwarders: names.map((_, index) => summarize(counted, names, index)),
    };
  });
}

/**
 * What pairs of turns say of ours and the peer's rate.
 *
 * @module
 */
import type { PairResult } from "./bench_result.ts";
import { type Spread, spread } from "./statistics.ts";

/** With fewer undisturbed pairs than these, all pairs count. */
const undisturbedMin = 3;

/** Our rate divided by the peer's in each pair that counts; undefined where none does. */
export function ratioOf(pairs: readonly PairResult[]): Spread | undefined {
  const undisturbed = pairs.filter(({ disturbed }) => !disturbed);
  const counted = undisturbed.length >= undisturbedMin ? undisturbed : pairs;
  // Without a CPU the peer may have moved nothing at all.
  return spread(counted.map(({ mpps, peer_mpps }) => mpps / peer_mpps).filter(Number.isFinite));
}

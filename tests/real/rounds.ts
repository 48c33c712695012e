// How often something is done again, and what the times of it were. They are told, not judged.

import { quantile } from "../../cli/statistics.ts";

/** Rounds of tests that could go on for ever: few where everything is tested, $VHOSTCTL_ROUNDS by hand. */
export const rounds = Number(Deno.env.get("VHOSTCTL_ROUNDS") ?? 10);

export function tellTimes(what: string, times_ms: readonly number[]): void {
  const [least, middle, most] = [0, 0.5, 1].map((share) => quantile(times_ms, share).toFixed(0));
  console.error(`${what}: median ${middle} ms, ${least} to ${most} ms, of ${times_ms.length}`);
}

/** Waits for a random while, so that a crash can come at any moment. */
export function somewhile(longest_ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.random() * longest_ms));
}

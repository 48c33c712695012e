/**
 * Turns of forwarders that live at once on the same CPUs: one works, the others are stopped, and their guests rest.
 *
 * @module
 */
import { type Measurement, sleep, speedBetween, warmUp_ms } from "./bench_measure.ts";
import { waitedForCpu_ns } from "./contention.ts";
import type { GuestPair } from "./guest_pair.ts";
import type { JsonProcess } from "./json_process.ts";

/** How long a turn is measured. */
export const turn_ms = 250;
/** Whoever waited for a CPU for more of its turn than this was disturbed. */
export const waitShareMax = 0.05;

/** A forwarder with its guests. */
export interface Contender {
  readonly forwarder: JsonProcess;
  readonly pair: GuestPair;
}

/** What one turn brought. */
export interface Turn {
  readonly packets: number;
  readonly seconds: number;
  readonly disturbed: boolean;
}

function waited_ns({ forwarder, pair }: Contender): number {
  const pids = [forwarder.pid, ...pair.processes.map(({ process }) => process.pid)];
  return pids.reduce((sum, pid) => sum + waitedForCpu_ns(pid), 0);
}

/** Wakes a forwarder, measures, and puts it to sleep again. */
export async function takeTurn(contender: Contender, measurement: Measurement): Promise<Turn> {
  const { forwarder, pair } = contender;
  const { stop } = measurement;
  forwarder.signal("SIGCONT");
  await pair.listen();
  await pair.send();
  await sleep(warmUp_ms, stop);
  const waitedBefore = waited_ns(contender);
  const first = await pair.received();
  await sleep(turn_ms, stop);
  const last = await pair.received();
  const waited = waited_ns(contender) - waitedBefore;
  await pair.stop();
  await pair.rest();
  forwarder.signal("SIGSTOP");
  const { seconds } = speedBetween(first, last);
  const packets = last.received - first.received;
  return { packets, seconds, disturbed: waited / 1e9 > waitShareMax * seconds };
}

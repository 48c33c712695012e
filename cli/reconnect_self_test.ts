/**
 * `vhostctl reconnect-watch --self-test`: the back end is killed again and again under guests that go on, and every
 * packet and every buffer is looked after.
 *
 * @module
 */
import type { Ring } from "./bench_result.ts";
import { CommandError } from "./error.ts";
import { describeMachine, machineText } from "./machine.ts";
import { duration, Output } from "./output.ts";
import { type LifePlan, planLives } from "./self_reconnect_plan.ts";
import type { RingResult, SelfTestResult } from "./self_reconnect_result.ts";
import { ReconnectRig } from "./self_reconnect_rig.ts";
import { playRound } from "./self_reconnect_round.ts";
import { Tally } from "./self_reconnect_tally.ts";
import { failureLines, resultNotes, resultTable } from "./self_reconnect_text.ts";
import { stoppable } from "./stoppable.ts";

export interface SelfTestOptions {
  /** With each ring format. */
  readonly rounds: number;
  readonly rings: readonly Ring[];
  /** 0 to 2^32 - 1. */
  readonly seed: number;
  readonly maxOutage_ms: number | undefined;
  /** Whether another back end stands by. */
  readonly standby: boolean;
  readonly json: boolean;
}

/** Told after every round. */
type Progress = (result: RingResult) => void;

/** Two guests' rounds. */
async function live(rig: ReconnectRig, life: LifePlan, tally: Tally, stop: AbortSignal, progress: Progress) {
  tally.begin(life);
  await rig.start(life);
  await rig.open(life);
  await rig.host.call("attached");
  await rig.host.call("run");
  await rig.host.call("recovered");
  // Rings run before it can be asked.
  await rig.ready();
  for (const plan of life.rounds) {
    if (stop.aborted) break;
    tally.add(plan, await playRound(rig, life, plan));
    progress(tally.result());
    if (tally.failed) break;
  }
  const stuck = await rig.host.call("settle");
  const counted = await rig.look();
  const pair = await rig.host.call("counters");
  const astray = await rig.host.call("leave");
  await rig.host.call("close");
  tally.finish(life, { ...pair, counted, stuck, astray });
  await rig.end(life);
}

async function testRing(
  ring: Ring,
  { seed, rounds, maxOutage_ms, standby }: SelfTestOptions,
  stop: AbortSignal,
  progress: Progress,
): Promise<RingResult> {
  const tally = new Tally(ring, maxOutage_ms);
  await using rig = await ReconnectRig.open(standby);
  for (const life of planLives(seed, ring, rounds)) {
    if (stop.aborted || tally.failed) break;
    try {
      await live(rig, life, tally, stop, progress);
    } catch (reason) {
      if (!(reason instanceof CommandError)) throw reason;
      tally.interrupt(reason.message);
    }
  }
  return tally.result();
}

/** Tests, while a terminal shows how far that is. */
async function test(options: SelfTestOptions, stop: AbortSignal): Promise<SelfTestResult> {
  const screen = new Output(Deno.stderr, { NO_COLOR: Deno.env.get("NO_COLOR"), TERM: Deno.env.get("TERM") });
  const { rounds, seed } = options;
  const rings: RingResult[] = [];
  try {
    for (const ring of options.rings) {
      if (stop.aborted) break;
      const progress: Progress = (now) =>
        screen.frame([
          `${ring}: round ${now.rounds} of ${rounds}, ${now.kills} kills, median outage ${
            duration(now.outage?.median_ms ?? 0)
          }`,
        ]);
      rings.push(await testRing(ring, options, stop, progress));
    }
  } finally {
    await screen.close();
  }
  const ok = rings.every(({ failure }) => failure === undefined);
  return { test: "reconnect", machine: describeMachine(), seed, rounds, rings, interrupted: stop.aborted, ok };
}

function print(output: Output, { machine, seed, rings }: SelfTestResult): void {
  const [head = "", ...rows] = resultTable(rings);
  output.line(output.style("bold", `reconnect-watch --self-test: ${machineText(machine)}, seed ${seed}`), "");
  output.line(output.style("bold", head), ...rows, "", ...resultNotes(rings));
  const failures = rings.flatMap(failureLines);
  if (failures.length > 0) output.line("", ...failures.map((line) => output.style("red", line)));
}

/** Tests and prints. Throws a `CommandError` when something was wrong, or not all was tested. */
export async function selfTest(options: SelfTestOptions): Promise<void> {
  const output = Output.standard();
  const result = await stoppable((stop) => test(options, stop));
  if (options.json) output.json(result);
  else print(output, result);
  await output.close();
  const failed = result.rings.find(({ failure }) => failure !== undefined);
  const words = `--seed ${options.seed} --ring ${failed?.ring}${options.standby ? " --standby" : ""}`;
  const again = `vhostctl reconnect-watch --self-test ${words}`;
  if (failed?.failure !== undefined) {
    const { round, reason } = failed.failure;
    throw new CommandError(`self-test failed: ${failed.ring}, round ${round}: ${reason}: repeat it with ${again}`);
  }
  const done = result.rings.reduce((sum, { rounds }) => sum + rounds, 0);
  const all = options.rounds * options.rings.length;
  if (done < all) throw new CommandError(`interrupted: ${done} of ${all} rounds passed: run it again`);
}

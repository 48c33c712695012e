/**
 * One round of the self-test of `migrate`: a guest's memory goes to the other host while packets go on, by the dirty
 * log alone; then both memories are compared.
 *
 * @module
 */
import type { Comparison, Logged } from "./self_migration_host.ts";
import type { LifePlan, RoundPlan } from "./self_migration_plan.ts";
import { pause } from "./pause.ts";
import { type MigrationRig, otherSide, type Side } from "./self_migration_rig.ts";

export interface RoundOutcome {
  /** Where the guest is now. */
  readonly side: Side;
  readonly logged: Logged;
  /** Of a guest that arrived, at the moment when its device had stopped. */
  readonly comparison: Comparison | undefined;
  /** From the moment when the guest was halted until its rings ran elsewhere; 0 where it was not. */
  readonly stop_ms: number;
}

/** Memory for the guest at the other host; the log, and all of memory once. */
async function begin(rig: MigrationRig, side: Side, { shape }: LifePlan, { log }: RoundPlan): Promise<void> {
  const there = otherSide(side);
  const [source, target] = [rig.host(side), rig.host(there)];
  const path = rig.meeting();
  await target.call("open", { socket: rig.socket(there), shape });
  await target.call("expect", { path });
  await source.call("migrate", { path });
  await source.call("log", log);
  await source.call("copy", { pages: "all" });
}

/** The guest runs. */
async function pass(rig: MigrationRig, side: Side, { passes_ms, incident, sending, end }: RoundPlan): Promise<void> {
  const source = rig.host(side);
  for (const [number, wait_ms] of passes_ms.entries()) {
    await pause(wait_ms);
    if (incident?.pass === number) {
      const happening = source.call(incident.what === "restart" ? "restart" : "log", incident.log);
      // What is written just then is not to be written again, where nothing more is to be sent anyhow.
      const last = number + 1 === passes_ms.length && end === "arrives" && sending === "ends";
      await Promise.all([happening, ...last ? [rig.hush(side)] : []]);
    }
    await source.call("copy", { pages: "logged" });
  }
}

/** The guest is halted, and its device works on: nothing but the log tells what it writes. */
async function halt(rig: MigrationRig, side: Side, life: LifePlan, plan: RoundPlan): Promise<void> {
  const source = rig.host(side);
  if (plan.sending !== "goes on") {
    await rig.hush(side);
    await pause(plan.halted_ms[0]!);
  }
  await source.call("pause", { frames: plan.frames });
  if (plan.sending === "pauses") await rig.send(side, life);
  for (const [number, wait_ms] of plan.halted_ms.entries()) {
    await pause(wait_ms);
    if (plan.kick === number) await source.call("kick");
    await source.call("copy", { pages: "logged" });
  }
}

/** The device stops; then all that is left in the log, and the guest goes on elsewhere. */
async function switchOver(rig: MigrationRig, side: Side, life: LifePlan): Promise<Comparison> {
  const there = otherSide(side);
  const [source, target] = [rig.host(side), rig.host(there)];
  const bases = await source.call("stopRings");
  await source.call("copy", { pages: "logged" });
  const comparison = await source.call("compare");
  if (comparison.different > 0) return comparison;
  await target.call("load", await source.call("save"));
  await target.call("attach", { bases });
  await rig.run(there, life);
  return comparison;
}

/** The guest stays; that it misses nothing is seen when its packets are counted. */
async function giveUp(rig: MigrationRig, side: Side, { end }: RoundPlan): Promise<Logged> {
  const there = otherSide(side);
  if (end === "killed") await rig.host(there).kill();
  const logged = await rig.host(side).call("logged");
  await rig.host(side).call("cancel");
  if (end === "killed") await rig.replaceHost(there);
  else await rig.host(there).call("close");
  return logged;
}

/** Plays one round. */
export async function playRound(
  rig: MigrationRig,
  side: Side,
  life: LifePlan,
  plan: RoundPlan,
): Promise<RoundOutcome> {
  await begin(rig, side, life, plan);
  await pass(rig, side, plan);
  if (plan.end !== "arrives") {
    const logged = await giveUp(rig, side, plan);
    await pause(plan.after_ms);
    return { side, logged, comparison: undefined, stop_ms: 0 };
  }
  const began_ms = performance.now();
  await halt(rig, side, life, plan);
  const comparison = await switchOver(rig, side, life);
  const stop_ms = performance.now() - began_ms;
  const logged = await rig.host(side).call("logged");
  if (comparison.different > 0) return { side, logged, comparison, stop_ms };
  await rig.host(side).call("close");
  const there = otherSide(side);
  await rig.send(there, life);
  await rig.hush(side);
  await pause(plan.after_ms);
  return { side: there, logged, comparison, stop_ms };
}

/**
 * One round of the self-test of `reconnect-watch`: packets pass, the back end is killed, another one comes, and packets
 * pass again.
 *
 * @module
 */
import type { ControlPort } from "./control_client.ts";
import { pause } from "./pause.ts";
import type { LifePlan, RoundPlan } from "./self_reconnect_plan.ts";
import type { ReconnectRig } from "./self_reconnect_rig.ts";

/** How long one guest was without packets, and what of it each step took; milliseconds. */
export interface Outage {
  /** From the kill to the first frame that arrived again. */
  readonly length_ms: number;
  /** Until another back end could be connected to, or connected. */
  readonly startUp_ms: number;
  /** Until both sides had agreed on features. */
  readonly handshake_ms: number;
  /** Until memory was mapped, and all rings ran. */
  readonly rings_ms: number;
  readonly traffic_ms: number;
}

export interface RoundOutcome {
  /** What the back end had counted before it was killed. */
  readonly counted: readonly ControlPort[];
  readonly outages: readonly Outage[];
  /** From the start of the last back end until it said that it is ready. */
  readonly ready_ms: number;
}

const halt_ms = 2;

async function killEarly(rig: ReconnectRig, life: LifePlan, { early }: RoundPlan, first_ms: number): Promise<number> {
  let killed_ms = first_ms;
  for (const { since, wait_ms } of early) {
    await rig.start(life);
    if (since === "ready") await rig.ready();
    await pause(wait_ms);
    await rig.prepare(life);
    killed_ms = await rig.kill();
  }
  return killed_ms;
}

/** Waits until packets pass, and says how long they did not. */
async function recover(rig: ReconnectRig, killed_ms: number): Promise<Outage[]> {
  const recoveries = await rig.host.call("recovered");
  return recoveries.map(({ connected_ms, agreed_ms, started_ms, traffic_ms }) => ({
    length_ms: traffic_ms - killed_ms,
    startUp_ms: connected_ms - killed_ms,
    handshake_ms: agreed_ms - connected_ms,
    rings_ms: started_ms - agreed_ms,
    traffic_ms: traffic_ms - started_ms,
  }));
}

/** Plays one round. */
export async function playRound(rig: ReconnectRig, life: LifePlan, plan: RoundPlan): Promise<RoundOutcome> {
  for (const guest of plan.halts) await rig.host.call("halt", { guest, pause_ms: halt_ms });
  const counted = await rig.look();
  await rig.host.call("arm", { resets: plan.resets });
  await rig.prepare(life);
  await pause(plan.after_ms);
  const killed_ms = await killEarly(rig, life, plan, await rig.kill());
  await rig.start(life);
  const ready_ms = await rig.ready();
  return { counted, outages: await recover(rig, killed_ms), ready_ms };
}

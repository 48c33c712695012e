/**
 * What the self-test of `reconnect-watch` has come to with one ring format.
 *
 * @module
 */
import type { Ring } from "./bench_result.ts";
import type { ControlPort } from "./control_client.ts";
import type { GuestCounters } from "./guest_process.ts";
import type { Astray, PairCounters } from "./self_reconnect_host.ts";
import type { LifePlan, RoundPlan } from "./self_reconnect_plan.ts";
import { type Faults, faultsText, type Losses, type OutageResult, type RingResult } from "./self_reconnect_result.ts";
import type { Outage, RoundOutcome } from "./self_reconnect_round.ts";
import { dropsOf } from "./serve_process.ts";
import { quantile } from "./statistics.ts";

/** A back end takes no more frames at once from a ring. */
const burstMax = 64;
const givenBack = "crash";

const nothing: Losses = {
  ...{ rounds: 0, lost: 0, given_back: 0, given_back_unseen_max: 0, dropped: {}, abandoned_max: 0 },
};

/** What two guests and their back ends have come to at their end. */
export interface PairOutcome extends PairCounters {
  /** Of the last back end. */
  readonly counted: readonly ControlPort[];
  readonly stuck: number;
  readonly astray: readonly Astray[];
}

function withDrops(losses: Losses, ports: readonly ControlPort[]): Losses {
  const dropped: Record<string, number> = { ...losses.dropped };
  const { [givenBack]: returned = 0, ...others } = dropsOf(ports.flatMap((port) => [port.to_guest, port.from_guest]));
  for (const [reason, count] of Object.entries(others)) dropped[reason] = (dropped[reason] ?? 0) + count;
  return { ...losses, given_back: losses.given_back + returned, dropped };
}

/** What may have been lost at most. */
function explained({ given_back, given_back_unseen_max, dropped, abandoned_max }: Losses): number {
  const drops = Object.values(dropped).reduce((sum, count) => sum + count, 0);
  return given_back + given_back_unseen_max + drops + abandoned_max;
}

function sumOf(one: Losses, other: Losses): Losses {
  const dropped: Record<string, number> = { ...one.dropped };
  for (const [reason, count] of Object.entries(other.dropped)) dropped[reason] = (dropped[reason] ?? 0) + count;
  return {
    rounds: one.rounds + other.rounds,
    lost: one.lost + other.lost,
    given_back: one.given_back + other.given_back,
    given_back_unseen_max: one.given_back_unseen_max + other.given_back_unseen_max,
    dropped,
    abandoned_max: one.abandoned_max + other.abandoned_max,
  };
}

/** Two guests' share. */
class LifeTally {
  readonly #life: LifePlan;
  losses: Losses = nothing;

  constructor(life: LifePlan) {
    this.#life = life;
  }

  add({ counted }: RoundOutcome, { early }: RoundPlan): void {
    const unseen = early.length * burstMax * 2 * this.#life.shape.queuePairs;
    const { rounds, given_back_unseen_max } = this.losses;
    this.losses = {
      ...withDrops(this.losses, counted),
      ...{ rounds: rounds + 1, given_back_unseen_max: given_back_unseen_max + unseen },
    };
  }

  /** Returns what is wrong. */
  finish({ guests, abandoned, counted, stuck, astray }: PairOutcome): Faults & { readonly overtaken: number } {
    const sent = (one: GuestCounters) => one.sent + one.announced;
    const received = (one: GuestCounters) => one.received + one.heard + one.foreign;
    const missing = guests.map((guest, number) => sent(guest) - received(guests[1 - number]!));
    const sum = (what: (one: GuestCounters) => number) => guests.reduce((total, guest) => total + what(guest), 0);
    const late = sum(({ reordered }) => reordered);
    const mayOvertake = this.#life.shape.queuePairs > 1;
    const lost = missing.reduce((total, count) => total + Math.max(0, count), 0);
    this.losses = { ...withDrops(this.losses, counted), lost, abandoned_max: abandoned };
    const inStep = this.#life.window !== undefined;
    return {
      stuck: stuck + astray.length,
      // More than were sent are there twice, also where their numbers do not say so.
      duplicated: Math.max(
        sum(({ duplicated }) => duplicated),
        missing.reduce((total, count) => total + Math.max(0, -count), 0),
      ),
      corrupted: sum(({ corrupted }) => corrupted),
      reordered: mayOvertake ? 0 : late,
      broken: sum(({ broken }) => broken),
      unexplained: inStep ? Math.max(0, lost - explained(this.losses)) : 0,
      overtaken: mayOvertake ? late : 0,
    };
  }
}

const zero: Faults = { stuck: 0, duplicated: 0, corrupted: 0, reordered: 0, broken: 0, unexplained: 0 };

/** All guests, one pair after the other. */
export class Tally {
  readonly #ring: Ring;
  readonly #maxOutage_ms: number | undefined;
  readonly #outages: Outage[] = [];
  readonly #ready_ms: number[] = [];
  #faults = zero;
  #counts = { rounds: 0, kills: 0, pairs: 0, resets: 0, halts: 0, sent: 0, received: 0, overtaken: 0 };
  #losses = { in_step: nothing, at_full_speed: nothing };
  #life: LifeTally | undefined;
  #failure: RingResult["failure"];

  constructor(ring: Ring, maxOutage_ms: number | undefined) {
    this.#ring = ring;
    this.#maxOutage_ms = maxOutage_ms;
  }

  get failed(): boolean {
    return this.#failure !== undefined;
  }

  begin(life: LifePlan): void {
    this.#life = new LifeTally(life);
  }

  /** A round was played. */
  add(plan: RoundPlan, outcome: RoundOutcome): void {
    const counts = this.#counts;
    counts.rounds += 1;
    counts.kills += 1 + plan.early.length;
    counts.resets += plan.resets.length;
    counts.halts += plan.halts.length;
    this.#life!.add(outcome, plan);
    this.#outages.push(...outcome.outages);
    this.#ready_ms.push(outcome.ready_ms);
    const longest = Math.max(...outcome.outages.map(({ length_ms }) => length_ms));
    if (this.#maxOutage_ms === undefined || longest <= this.#maxOutage_ms) return;
    this.#fail(`an outage of ${Math.ceil(longest)} ms: --max-outage allows ${this.#maxOutage_ms} ms`);
  }

  /** Two guests have come to their end: what became of every packet and every buffer. */
  finish(life: LifePlan, outcome: PairOutcome): void {
    const { overtaken, ...faults } = this.#life!.finish(outcome);
    this.#counts.pairs += 1;
    this.#counts.overtaken += overtaken;
    for (const guest of outcome.guests) {
      this.#counts.sent += guest.sent + guest.announced;
      this.#counts.received += guest.received + guest.heard + guest.foreign;
    }
    const pace = life.window === undefined ? "at_full_speed" : "in_step";
    const { losses } = this.#life!;
    this.#losses[pace] = sumOf(this.#losses[pace], losses);
    const names = Object.keys(zero) as (keyof Faults)[];
    const entries = names.map((name) => [name, this.#faults[name] + faults[name]]);
    this.#faults = Object.fromEntries(entries) as unknown as Faults;
    const text = faultsText(faults);
    if (text === "") return;
    const rings = outcome.astray.map(({ guest, ring, told, base }) => {
      return `ring ${ring} of guest ${guest} stands at 0x${base.toString(16)}, the back end at 0x${told.toString(16)}`;
    });
    const account = faults.unexplained > 0 ? [`${losses.lost} lost, ${explained(losses)} explained`] : [];
    this.#fail([text, ...account, ...rings].join("; "));
  }

  /** A round came to no end. */
  interrupt(reason: string): void {
    this.#failure ??= { round: this.#counts.rounds + 1, reason };
  }

  /** The first fault counts. */
  #fail(reason: string): void {
    this.#failure ??= { round: this.#counts.rounds, reason };
  }

  #outage(): OutageResult | null {
    if (this.#outages.length === 0) return null;
    const median = (values: readonly number[]) => Math.round(10 * quantile(values, 0.5)) / 10;
    const step = (name: keyof Outage) => median(this.#outages.map((outage) => outage[name]));
    return {
      count: this.#outages.length,
      median_ms: step("length_ms"),
      worst_ms: Math.ceil(Math.max(...this.#outages.map(({ length_ms }) => length_ms))),
      start_up_ms: step("startUp_ms"),
      handshake_ms: step("handshake_ms"),
      rings_ms: step("rings_ms"),
      traffic_ms: step("traffic_ms"),
      ready_ms: median(this.#ready_ms),
    };
  }

  result(): RingResult {
    return {
      ...{ ring: this.#ring, ...this.#counts, ...this.#faults, ...this.#losses, outage: this.#outage() },
      ...this.#failure === undefined ? {} : { failure: this.#failure },
    };
  }
}

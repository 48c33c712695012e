/**
 * `vhostctl migrate --self-test`: guests migrate between two hosts of our own, again and again, by the dirty log alone.
 *
 * @module
 */
import type { Ring } from "./bench_result.ts";
import { CommandError } from "./error.ts";
import type { GuestCounters } from "./guest_process.ts";
import { describeMachine, machineText } from "./machine.ts";
import type { Logged } from "./self_migration_host.ts";
import { type LifePlan, planLives, type RoundEnd } from "./self_migration_plan.ts";
import {
  type Faults,
  faultsText,
  type MigrationFailure,
  type RingResult,
  type SelfTestResult,
  wayText,
} from "./self_migration_result.ts";
import { type Account, MigrationRig, type Side, switched } from "./self_migration_rig.ts";
import { playRound, type RoundOutcome } from "./self_migration_round.ts";
import { failureLines, resultNotes, resultTable } from "./self_migration_text.ts";
import { Output, quantity } from "./output.ts";
import { stoppable } from "./stoppable.ts";

export interface SelfTestOptions {
  /** With each ring format. */
  readonly rounds: number;
  readonly rings: readonly Ring[];
  /** 0 to 2^32 - 1. */
  readonly seed: number;
  readonly json: boolean;
}

const zero = { unaccounted: 0, duplicated: 0, reordered: 0, corrupted: 0, broken: 0 };

/** What one ring format has come to so far. */
class Tally {
  readonly #ring: Ring;
  readonly #ends: Record<RoundEnd, number> = { arrives: 0, cancelled: 0, killed: 0 };
  readonly #dropped: Record<string, number> = {};
  #rounds = 0;
  #guests = 0;
  #faults: Faults = zero;
  #sent = 0;
  #received = 0;
  #overtaken = 0;
  #marked: number | undefined = 0;
  #logged: Logged = { pages: 0, same: 0, outside: 0 };
  #compared = 0;
  #different = 0;
  #stop_max_ms = 0;
  #failure: MigrationFailure | undefined;

  constructor(ring: Ring) {
    this.#ring = ring;
  }

  get failed(): boolean {
    return this.#failure !== undefined;
  }

  get rounds(): number {
    return this.#rounds;
  }

  /** A round was played. */
  add(end: RoundEnd, { logged, comparison, stop_ms }: RoundOutcome): void {
    this.#rounds += 1;
    this.#ends[end] += 1;
    const { pages, same, outside } = this.#logged;
    this.#logged = { pages: pages + logged.pages, same: same + logged.same, outside: outside + logged.outside };
    this.#compared += comparison?.pages ?? 0;
    this.#different += comparison?.different ?? 0;
    this.#stop_max_ms = Math.max(this.#stop_max_ms, stop_ms);
    const reasons = [
      ...comparison !== undefined && comparison.different > 0
        ? [`${comparison.different} of ${comparison.pages} pages differ: they were written and not logged`]
        : [],
      ...logged.outside > 0 ? [`${logged.outside} pages were logged that are no memory of the guest's`] : [],
    ];
    if (reasons.length > 0) this.fail(reasons.join("; "), comparison?.differences);
  }

  /** A guest has come to its end: what became of every packet from and to it. */
  count(guest: GuestCounters, { shape, gso_bytes }: LifePlan, before: Account, after: Account): void {
    this.#guests += 1;
    const sent = (one: GuestCounters) => one.sent + one.announced;
    // What a halted guest had left in its rings goes to the sender of where it was, and is shown to the other.
    const received = (one: GuestCounters) => one.received + one.heard + one.foreign;
    const senders = (what: (one: GuestCounters) => number) => what(after.senders) - what(before.senders);
    const { toGuest, fromGuest, marked } = switched(before, after);
    const names = ["to the guest", "from the guest"];
    const ways = [
      { ...toGuest, sent: senders(sent) + toGuest.added, received: received(guest) },
      { ...fromGuest, sent: sent(guest) + fromGuest.added, received: senders(received) },
    ].map((way) => ({ ...way, dropped: Object.values(way.drops).reduce((sum, count) => sum + count, 0) }));
    for (const way of ways) {
      for (const [reason, count] of Object.entries(way.drops)) {
        this.#dropped[reason] = (this.#dropped[reason] ?? 0) + count;
      }
      this.#sent += way.sent;
      this.#received += way.received;
    }
    this.#marked = marked === undefined || this.#marked === undefined ? undefined : this.#marked + marked;
    const both = (name: "duplicated" | "corrupted" | "broken") => guest[name] + senders((one) => one[name]);
    const late = senders(({ reordered }) => reordered);
    const inOrder = shape.queuePairs === 1 ? guest.reordered : 0;
    const reordered = gso_bytes === undefined ? late + inOrder : 0;
    this.#overtaken += late + guest.reordered - reordered;
    this.#judge({
      // Lost packets may not hide behind others that nobody sent: each way counts by itself.
      unaccounted: ways.reduce((sum, way) => sum + Math.abs(way.sent - way.received - way.dropped), 0),
      ...{ reordered, duplicated: both("duplicated"), corrupted: both("corrupted"), broken: both("broken") },
    }, ways.map((way, index) => wayText(names[index]!, way)).filter((text) => text !== ""));
  }

  #judge(faults: Faults, details: readonly string[]): void {
    const names = Object.keys(zero) as (keyof Faults)[];
    this.#faults = Object.fromEntries(
      names.map((name) => [name, this.#faults[name] + faults[name]]),
    ) as unknown as Faults;
    const text = faultsText(faults);
    if (text !== "") this.fail([`packets: ${text}`, ...details].join("; "));
  }

  /** A round came to no end. */
  interrupt(reason: string): void {
    this.#failure ??= { round: this.#rounds + 1, reason, differences: [] };
  }

  /** The first fault counts. */
  fail(reason: string, differences: MigrationFailure["differences"] = []): void {
    this.#failure ??= { round: this.#rounds, reason, differences };
  }

  result(): RingResult {
    return {
      ...{ ring: this.#ring, rounds: this.#rounds, ends: { ...this.#ends }, guests: this.#guests },
      ...{ sent: this.#sent, received: this.#received, overtaken: this.#overtaken },
      ...{ dropped: { ...this.#dropped } },
      ...this.#faults,
      ...{ pages_marked: this.#marked, pages_logged: this.#logged, pages_compared: this.#compared },
      ...{ pages_different: this.#different, stop_max_ms: Math.round(this.#stop_max_ms) },
      ...this.#failure === undefined ? {} : { failure: this.#failure },
    };
  }
}

/** Told after every round. */
type Progress = (result: RingResult) => void;

/** A guest's rounds; it begins where the last one ended, and that is returned. */
async function live(
  rig: MigrationRig,
  first: Side,
  life: LifePlan,
  tally: Tally,
  stop: AbortSignal,
  progress: Progress,
): Promise<Side> {
  let side = first;
  await rig.listen(life);
  await rig.settle(undefined);
  const before = await rig.account();
  await rig.host(side).call("open", { socket: rig.socket(side), shape: life.shape });
  await rig.host(side).call("attach", {});
  await rig.run(side, life);
  await rig.send(side, life);
  for (const plan of life.rounds) {
    if (stop.aborted) break;
    const outcome = await playRound(rig, side, life, plan);
    tally.add(plan.end, outcome);
    side = outcome.side;
    progress(tally.result());
    if (tally.failed) return side;
  }
  await rig.hush(side);
  await rig.calm(side, life);
  await rig.settle(side);
  const guest = await rig.host(side).call("counters");
  tally.count(guest, life, before, await rig.account());
  await rig.host(side).call("close");
  return side;
}

async function testRing(
  ring: Ring,
  options: SelfTestOptions,
  stop: AbortSignal,
  progress: Progress,
): Promise<RingResult> {
  const tally = new Tally(ring);
  await using rig = await MigrationRig.open(ring);
  let side: Side = 0;
  for (const life of planLives(options.seed, ring, options.rounds)) {
    if (stop.aborted || tally.failed) break;
    try {
      side = await live(rig, side, life, tally, stop, progress);
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
        screen.frame([`${ring}: round ${now.rounds} of ${rounds}, ${quantity(now.pages_logged.pages)} pages logged`]);
      rings.push(await testRing(ring, options, stop, progress));
    }
  } finally {
    await screen.close();
  }
  const ok = rings.every(({ failure }) => failure === undefined);
  return { test: "migrate", machine: describeMachine(), seed, rounds, rings, interrupted: stop.aborted, ok };
}

function print(output: Output, { machine, seed, rings }: SelfTestResult): void {
  const [head = "", ...rows] = resultTable(rings);
  output.line(output.style("bold", `migrate --self-test: ${machineText(machine)}, seed ${seed}`), "");
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
  const again = `vhostctl migrate --self-test --seed ${options.seed} --ring ${failed?.ring}`;
  if (failed?.failure !== undefined) {
    const { round, reason } = failed.failure;
    throw new CommandError(`self-test failed: ${failed.ring}, round ${round}: ${reason}: repeat it with ${again}`);
  }
  const done = result.rings.reduce((sum, { rounds }) => sum + rounds, 0);
  const all = options.rounds * options.rings.length;
  if (done < all) throw new CommandError(`interrupted: ${done} of ${all} rounds passed: run it again`);
}

/**
 * Flows through one worker, by turns with a receiver that does not read.
 *
 * @module
 */
import { sleep, socketFolder, warmUp_ms } from "./bench_measure.ts";
import type { Placement } from "./bench_result.ts";
import { turn_ms, waitShareMax } from "./bench_turn.ts";
import { waitedForCpu_ns } from "./contention.ts";
import { GuestProcess } from "./guest_process.ts";
import { ServeProcess } from "./serve_process.ts";
import type { StarvationCase, StarvationCaseResult, StarvationPair } from "./starvation_result.ts";
import { quantile, spread } from "./statistics.ts";

/** With fewer undisturbed pairs than these, all pairs count. */
const undisturbedMin = 3;

/** How to measure. */
export interface StarvationMeasurement {
  readonly seconds: number;
  readonly rate_pps: number | undefined;
  readonly placement: Placement;
  /** Aborted when the user wants no more. */
  readonly stop: AbortSignal;
  /** Called after each pair with all there are, and how much is done, 0 to 1. */
  progress(found: StarvationCaseResult, done: number): void;
}

/** Locally administered: the senders' first, then the receivers'. */
function macOf(guest: number): string {
  return `02:00:00:00:00:${(0x10 + guest).toString(16).padStart(2, "0")}`;
}

/** All guests on one thread: senders first, the receiver of sender i behind them in the same order. */
class Flows implements AsyncDisposable {
  readonly guests: GuestProcess;
  readonly serve: ServeProcess;
  readonly #wanted: StarvationCase;
  readonly #rate: number | undefined;
  readonly #stack: AsyncDisposableStack;

  private constructor(
    stack: AsyncDisposableStack,
    serve: ServeProcess,
    guests: GuestProcess,
    wanted: StarvationCase,
    rate: number | undefined,
  ) {
    this.#stack = stack;
    this.serve = serve;
    this.guests = guests;
    this.#wanted = wanted;
    this.#rate = rate;
  }

  static async start(wanted: StarvationCase, { placement, rate_pps }: StarvationMeasurement): Promise<Flows> {
    const { ring, variant, ring_size: ringSize, size_bytes: frameBytes, flows } = wanted;
    const { worker_cpus: workerCpus, guest_cpus } = placement;
    await using stack = new AsyncDisposableStack();
    const directory = await socketFolder(stack);
    const serve = stack.use(await ServeProcess.start({ directory, queues: 1, ports: 2 * flows, workerCpus }));
    const cpu = guest_cpus[0]!;
    const wait = workerCpus.includes(cpu) ? "yield" as const : "poll" as const;
    const { sockets } = serve;
    const macs = sockets.map((_, guest) => macOf(guest));
    const shape = { ring, variant, ringSize, queues: 1, frameBytes, cpu, wait };
    const guests = stack.use(await GuestProcess.start({ sockets, macs, ...shape }));
    const started = new Flows(stack.move(), serve, guests, wanted, rate_pps);
    for (let flow = 0; flow < flows; flow++) await started.read(flow, true);
    for (let flow = 0; flow < flows; flow++) await started.#send(flow);
    return started;
  }

  #traffic(to: number) {
    return { size_bytes: this.#wanted.size_bytes, check_every: 0, to: macOf(to) };
  }

  /** Lets the receiver of a flow read, or not. */
  async read(flow: number, reads: boolean): Promise<void> {
    const receiver = this.#wanted.flows + flow;
    if (reads) await this.guests.listen(receiver, this.#traffic(flow));
    else await this.guests.ignore(receiver, this.#traffic(flow));
  }

  async #send(flow: number): Promise<void> {
    await this.guests.start(flow, { ...this.#traffic(this.#wanted.flows + flow), rate: this.#rate });
  }

  /** What the others have received, and what the sender of the first flow has sent. */
  async look(): Promise<{ readonly received: number; readonly sent: number; readonly time_ns: number }> {
    const { flows } = this.#wanted;
    const { sent, time_ns } = await this.guests.counters(0);
    let received = 0;
    for (let flow = 1; flow < flows; flow++) received += (await this.guests.counters(flows + flow)).received;
    return { received, sent, time_ns };
  }

  waited_ns(): number {
    return waitedForCpu_ns(this.guests.process.pid) + waitedForCpu_ns(this.serve.process.pid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
  }
}

interface Turn {
  readonly others_mpps: number;
  readonly sent_mpps: number;
  readonly disturbed: boolean;
}

async function takeTurn(flows: Flows, reads: boolean, stop: AbortSignal): Promise<Turn> {
  await flows.read(0, reads);
  await sleep(warmUp_ms, stop);
  const waited_ns = flows.waited_ns();
  const before = await flows.look();
  await sleep(turn_ms, stop);
  const after = await flows.look();
  const taken_ns = after.time_ns - before.time_ns;
  return {
    others_mpps: 1000 * (after.received - before.received) / taken_ns,
    sent_mpps: 1000 * (after.sent - before.sent) / taken_ns,
    disturbed: flows.waited_ns() - waited_ns > waitShareMax * taken_ns,
  };
}

/** Both turns, in either order. */
async function takePair(flows: Flows, stoppedFirst: boolean, stop: AbortSignal): Promise<StarvationPair> {
  const first = await takeTurn(flows, !stoppedFirst, stop);
  const second = await takeTurn(flows, stoppedFirst, stop);
  const [reading, stopped] = stoppedFirst ? [second, first] : [first, second];
  return {
    reading_mpps: reading.others_mpps,
    stopped_mpps: stopped.others_mpps,
    sent_to_stopped_mpps: stopped.sent_mpps,
    disturbed: reading.disturbed || stopped.disturbed,
  };
}

/** What pairs of turns say together. */
export function summarizeStarvation(wanted: StarvationCase, pairs: readonly StarvationPair[]): StarvationCaseResult {
  const undisturbed = pairs.filter(({ disturbed }) => !disturbed);
  const counted = undisturbed.length >= undisturbedMin ? undisturbed : pairs;
  const median = (value: (pair: StarvationPair) => number) => quantile(counted.map(value), 0.5);
  const ratios = counted.map(({ reading_mpps, stopped_mpps }) => stopped_mpps / reading_mpps);
  return {
    ...wanted,
    reading_mpps: median(({ reading_mpps }) => reading_mpps),
    stopped_mpps: median(({ stopped_mpps }) => stopped_mpps),
    sent_to_stopped_mpps: median(({ sent_to_stopped_mpps }) => sent_to_stopped_mpps),
    ratio: spread(ratios.filter(Number.isFinite)),
    pairs,
    pairs_disturbed: pairs.length - undisturbed.length,
  };
}

/** Measures one case; undefined when it was stopped before one pair of turns was over. */
export async function measureStarvation(
  wanted: StarvationCase,
  measurement: StarvationMeasurement,
): Promise<StarvationCaseResult | undefined> {
  const { seconds, stop, progress } = measurement;
  const count = Math.max(1, Math.ceil(seconds * 1000 / (2 * turn_ms)));
  const pairs: StarvationPair[] = [];
  await using flows = await Flows.start(wanted, measurement);
  while (pairs.length < count && !stop.aborted) {
    const pair = await takePair(flows, pairs.length % 2 === 1, stop);
    // A turn that was cut short is no half of a pair.
    if (stop.aborted) break;
    pairs.push(pair);
    progress(summarizeStarvation(wanted, pairs), pairs.length / count);
  }
  return pairs.length === 0 ? undefined : summarizeStarvation(wanted, pairs);
}

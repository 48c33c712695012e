/**
 * Round trips of single packets through forwarders that live at once and take turns on the same CPUs.
 *
 * @module
 */
import { distance_ns, sleep, socketFolder } from "./bench_measure.ts";
import type { Placement } from "./bench_result.ts";
import { turn_ms, waitShareMax } from "./bench_turn.ts";
import { waitedForCpu_ns } from "./contention.ts";
import { stayed } from "./distance.ts";
import { GuestProcess } from "./guest_process.ts";
import type { JsonProcess } from "./json_process.ts";
import type { ForwarderName, LatencyCase } from "./latency_result.ts";
import { peerSockets, ServeProcess } from "./serve_process.ts";
import { StopGuard } from "./stop_guard.ts";
import { Testpmd, type TestpmdProgram } from "./testpmd.ts";

/** Locally administered: of the guest that asks, the one that answers, and the two that load the forwarder. */
const macs = ["02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c", "02:00:00:00:00:0d"] as const;
const [asking, answering, loading, loaded] = [0, 1, 2, 3] as const;
/** Until then all is awake, and what was left on its way at the turn before is back. */
const warmUp_ms = 50;

/** How to measure. */
export interface LatencyMeasurement {
  /** Those that take turns, in this order and back. */
  readonly names: readonly ForwarderName[];
  readonly seconds: number;
  readonly placement: Placement;
  readonly testpmd: TestpmdProgram | undefined;
  /** Aborted when the user wants no more. */
  readonly stop: AbortSignal;
  /** Called after each round with all there are, and how much is done, 0 to 1. */
  progress(rounds: readonly LatencyRound[], done: number): void;
}

/** What one forwarder did in its turn. */
export interface LatencyTurn {
  /** How many packets came back after how long; see `latencyQuantile`. */
  readonly latency: readonly bigint[];
  readonly load_pps: number;
  readonly disturbed: boolean;
}

/** A turn of each. */
export interface LatencyRound {
  readonly turns: readonly LatencyTurn[];
  readonly core_distance_ns: number | undefined;
  readonly disturbed: boolean;
}

interface Contender {
  readonly name: ForwarderName;
  readonly forwarder: JsonProcess;
  readonly guests: GuestProcess;
}

async function startForwarder(
  stack: AsyncDisposableStack,
  name: ForwarderName,
  ports: number,
  { placement, testpmd: program }: LatencyMeasurement,
): Promise<{ forwarder: JsonProcess; sockets: readonly string[] }> {
  const directory = await socketFolder(stack);
  const workerCpus = placement.worker_cpus;
  if (name !== "testpmd") {
    const options = { directory, queues: 1, ports, idle: name, workerCpus };
    const { process, sockets } = stack.use(await ServeProcess.start(options));
    return { forwarder: process, sockets };
  }
  const sockets = peerSockets(directory, "vm2vm", ports);
  const testpmd = await Testpmd.start({ program: program!, sockets, queues: 1, cpu: workerCpus[0]! });
  return { forwarder: stack.use(testpmd).process, sockets };
}

async function start(
  stack: AsyncDisposableStack,
  name: ForwarderName,
  { ring, variant, ring_size: ringSize, size_bytes: frameBytes, load_pps }: LatencyCase,
  measurement: LatencyMeasurement,
): Promise<Contender> {
  const ports = load_pps > 0 ? 4 : 2;
  const { forwarder, sockets } = await startForwarder(stack, name, ports, measurement);
  stack.use(new StopGuard([forwarder.pid]));
  const { worker_cpus, guest_cpus } = measurement.placement;
  const cpu = guest_cpus[0]!;
  // All on one thread: through the kernel they would hand a CPU over too slowly.
  const place = { cpu, wait: worker_cpus.includes(cpu) ? "yield" as const : "poll" as const };
  const shape = { ring, variant, ringSize, queues: 1, frameBytes };
  const guests = stack.use(await GuestProcess.start({ sockets, macs: macs.slice(0, ports), ...shape, ...place }));
  forwarder.signal("SIGSTOP");
  return { name, forwarder, guests };
}

async function beginTraffic(guests: GuestProcess, { size_bytes, load_pps }: LatencyCase): Promise<void> {
  const traffic = { size_bytes, check_every: 0 };
  if (load_pps > 0) {
    await guests.listen(loaded, { ...traffic, to: macs[loading] });
    await guests.start(loading, { ...traffic, to: macs[loaded], rate: load_pps });
  }
  await guests.echo(answering, { ...traffic, to: macs[asking] });
  await guests.start(asking, { ...traffic, to: macs[answering], window: 1 });
}

async function endTraffic(guests: GuestProcess, { load_pps }: LatencyCase): Promise<void> {
  await guests.stop(asking);
  if (load_pps > 0) await guests.stop(loading);
  await guests.rest();
}

/** What is woken waits a little each time: that is no disturbance, but what sleeping costs. */
function waited_ns({ name, forwarder, guests }: Contender): number {
  return waitedForCpu_ns(guests.process.pid) + (name === "sleep" ? 0 : waitedForCpu_ns(forwarder.pid));
}

async function takeTurn(
  contender: Contender,
  wanted: LatencyCase,
  stop: AbortSignal,
): Promise<LatencyTurn> {
  const { forwarder, guests } = contender;
  const look = async () => ({
    latency: await guests.latency(asking),
    load: wanted.load_pps > 0 ? await guests.counters(loaded) : undefined,
    waited_ns: waited_ns(contender),
    time_ns: performance.now() * 1e6,
  });
  forwarder.signal("SIGCONT");
  await beginTraffic(guests, wanted);
  await sleep(warmUp_ms, stop);
  const before = await look();
  await sleep(turn_ms, stop);
  const after = await look();
  await endTraffic(guests, wanted);
  forwarder.signal("SIGSTOP");
  const loads = after.load === undefined ? 0 : after.load.received - before.load!.received;
  const load_seconds = after.load === undefined ? 1 : (after.load.time_ns - before.load!.time_ns) / 1e9;
  return {
    latency: after.latency.map((count, bucket) => count - before.latency[bucket]!),
    load_pps: loads / load_seconds,
    disturbed: after.waited_ns - before.waited_ns > waitShareMax * (after.time_ns - before.time_ns),
  };
}

/** Undefined when it was cut short. */
async function takeRound(
  contenders: readonly Contender[],
  backwards: boolean,
  wanted: LatencyCase,
  { placement, stop }: LatencyMeasurement,
): Promise<LatencyRound | undefined> {
  const before_ns = await distance_ns(placement);
  const turns: LatencyTurn[] = [];
  const order = contenders.map((_, index) => index);
  for (const index of backwards ? order.toReversed() : order) {
    turns[index] = await takeTurn(contenders[index]!, wanted, stop);
    if (stop.aborted) return undefined;
  }
  const moved = !stayed(before_ns, await distance_ns(placement));
  const disturbed = moved || turns.some((turn) => turn.disturbed || turn.latency.every((count) => count === 0n));
  return { turns, core_distance_ns: before_ns, disturbed };
}

/** Rounds of one case, all processes started for it; at least one, unless the user wants no more. */
export async function measureLatency(
  wanted: LatencyCase,
  measurement: LatencyMeasurement,
): Promise<LatencyRound[]> {
  const { names, seconds, stop, progress } = measurement;
  await using stack = new AsyncDisposableStack();
  const contenders: Contender[] = [];
  for (const name of names) {
    if (stop.aborted) return [];
    contenders.push(await start(stack, name, wanted, measurement));
  }
  const rounds: LatencyRound[] = [];
  const begin_ms = performance.now();
  const done = () => (performance.now() - begin_ms) / (1000 * seconds);
  do {
    const round = await takeRound(contenders, rounds.length % 2 === 1, wanted, measurement);
    if (round === undefined) break;
    rounds.push(round);
    progress(rounds, Math.min(1, done()));
  } while (done() < 1 && !stop.aborted);
  return rounds;
}

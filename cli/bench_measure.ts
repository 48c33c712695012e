/**
 * One case of `bench`: the switch with two guests, alone.
 *
 * @module
 */
import { coreDistance, VringError } from "../mod.ts";
import { floor_gbps } from "./bench_floor.ts";
import {
  type Arrivals,
  type Case,
  type CaseResult,
  type Placement,
  type Speed,
  speed,
  type Way,
} from "./bench_result.ts";
import type { GuestCounters } from "./guest_process.ts";
import { arrivals, GuestPair, type PairOptions } from "./guest_pair.ts";
import { ServeProcess } from "./serve_process.ts";

/** How to measure. */
export interface Measurement {
  readonly way: Way;
  readonly seconds: number;
  /** Every so many packets one is checked byte by byte. */
  readonly check_every: number;
  readonly placement: Placement;
  /** Aborted when the user wants no more. */
  readonly stop: AbortSignal;
  /** Called now and then with the speed so far, and how much of the measurement is done, 0 to 1. */
  progress(now: Speed, done: number): void;
}

/** Until then everybody is awake, and caches are warm. */
export const warmUp_ms = 100;
const look_ms = 200;

/** Sleeps; returns early when the user wants no more. */
export function sleep(ms: number, stop: AbortSignal): Promise<void> {
  if (stop.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      stop.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    stop.addEventListener("abort", end);
  });
}

/** A folder for sockets, gone with its stack. */
export async function socketFolder(stack: AsyncDisposableStack): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "vhostctl-bench-" });
  stack.defer(() => Deno.remove(folder, { recursive: true }));
  return folder;
}

/** From the worker's CPU to the sender's, in nanoseconds; undefined where it is the same, or not to be had in peace. */
export async function distance_ns({ worker_cpus, guest_cpus }: Placement): Promise<number | undefined> {
  const [worker, sender] = [worker_cpus[0]!, guest_cpus[0]!];
  if (worker === sender) return undefined;
  try {
    return await coreDistance(worker, sender);
  } catch (reason) {
    if (reason instanceof VringError && reason.status === "busy") return undefined;
    throw reason;
  }
}

/** Guests that must share a CPU share a process and a thread: through the kernel they would hand it over too slowly. */
export function pairOptions(sockets: readonly string[], { placement, check_every }: Measurement): PairOptions {
  const { worker_cpus, guest_cpus: cpus } = placement;
  const crowded = cpus.some((cpu) => worker_cpus.includes(cpu));
  const together = new Set(cpus).size < cpus.length;
  return { sockets, cpus, together, wait: crowded ? "yield" : "poll", checkEvery: check_every };
}

/** Speed between two looks at the receiver. */
export function speedBetween(first: GuestCounters, last: GuestCounters): Speed {
  const packets = last.received - first.received;
  const mean_bytes = packets > 0 ? (last.received_bytes - first.received_bytes) / packets : 0;
  return speed(packets, mean_bytes, (last.time_ns - first.time_ns) / 1e9);
}

async function watch(pair: GuestPair, measurement: Measurement): Promise<Speed> {
  const { seconds, stop, progress } = measurement;
  await sleep(warmUp_ms, stop);
  const first = await pair.received();
  let now = speed(0, 0, 0);
  while (now.seconds < seconds && !stop.aborted) {
    await sleep(Math.min(look_ms, 1000 * (seconds - now.seconds)), stop);
    now = speedBetween(first, await pair.received());
    progress(now, Math.min(1, now.seconds / seconds));
  }
  return now;
}

/** Stops a pair and then its switch; tells how its packets arrived, and what became of those that did not. */
export async function account(pair: GuestPair, serve: ServeProcess): Promise<
  Arrivals & Pick<CaseResult, "cycles_per_packet" | "packets_per_burst" | "drops" | "unaccounted">
> {
  await pair.stop();
  const [guests, received] = [await pair.counters(), await pair.received()];
  const counters = await serve.finish();
  const dropped = Object.values(counters.drops).reduce((sum, packets) => sum + packets, 0);
  const missing = guests.reduce(
    (sum, { sent, announced, received, heard }) => sum + sent + announced - received - heard,
    0,
  );
  return {
    ...arrivals(received),
    unaccounted: missing + counters.added - dropped,
    cycles_per_packet: counters.packets > 0 ? counters.busyCycles / counters.packets : undefined,
    packets_per_burst: counters.bursts > 0 ? counters.fromGuests / counters.bursts : undefined,
    drops: counters.drops,
  };
}

/** Measures one case; undefined when it was stopped before anything arrived. */
export async function measure(wanted: Case, measurement: Measurement): Promise<CaseResult | undefined> {
  const { way, placement, stop } = measurement;
  await using stack = new AsyncDisposableStack();
  const directory = await socketFolder(stack);
  const { queues } = wanted;
  const serve = stack.use(await ServeProcess.start({ directory, queues, way, workerCpus: placement.worker_cpus }));
  const pair = stack.use(await GuestPair.start(wanted, pairOptions(serve.sockets, measurement)));
  if (stop.aborted) return undefined;
  const core_distance_ns = await distance_ns(placement);
  const floor = await floor_gbps(wanted, measurement);
  await pair.send();
  const found = await watch(pair, measurement);
  const arrived = await account(pair, serve);
  if (arrived.packets === 0 && stop.aborted) return undefined;
  return { ...wanted, ...found, ...arrived, starts: 1, core_distance_ns, floor_gbps: floor };
}

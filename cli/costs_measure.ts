/**
 * What a back end costs while nothing passes.
 *
 * @module
 */
import { listSystemDirectory, readSystemFile } from "../mod.ts";
import { sleep, socketFolder } from "./bench_measure.ts";
import type { Placement } from "./bench_result.ts";
import { waitShareMax } from "./bench_turn.ts";
import { waitedForCpu_ns } from "./contention.ts";
import type { BackEnd } from "./costs_back_end.ts";
import type { StandingCosts } from "./costs_result.ts";
import { CommandError } from "./error.ts";
import { GuestPair } from "./guest_pair.ts";
import { pause } from "./pause.ts";
import { peerSockets } from "./serve_process.ts";

const look_ms = 1;
const patience_ms = 20_000;
/** After a start, and after guests have come. */
const settle_ms = 300;
/** Linux counts the CPU time of a process in hundredths of a second (USER_HZ). */
const tick_ms = 10;

/** How to measure. */
export interface CostsMeasurement {
  /** For which its CPU time is counted, twice. */
  readonly seconds: number;
  readonly placement: Placement;
  /** Aborted when the user wants no more. */
  readonly stop: AbortSignal;
}

/** One start. */
export interface CostsRound extends StandingCosts {
  /** Somebody else had its CPU while its time was counted. */
  readonly disturbed: boolean;
}

async function listens(socket: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path: socket })).close();
    return true;
  } catch {
    return false;
  }
}

async function listening(name: string, sockets: readonly string[]): Promise<void> {
  const deadline_ms = performance.now() + patience_ms;
  for (const socket of sockets) {
    while (!await listens(socket)) {
      if (performance.now() > deadline_ms) {
        throw new CommandError(`${name} does not listen: ${socket}: see what it says`);
      }
      await pause(look_ms);
    }
  }
}

/** CPU time of a process in milliseconds: of its threads to the nanosecond, or in ticks where those are not counted. */
function cpu_ms(pid: number): number {
  const folder = `/proc/${pid}/task`;
  // Time on the CPU comes first (Linux, Documentation/scheduler/sched-stats.rst).
  const threads = listSystemDirectory(folder).map((thread) => readSystemFile(`${folder}/${thread}/schedstat`));
  if (threads.length > 0 && threads.every((text) => text !== undefined)) {
    return threads.reduce((sum, text) => sum + Number(text.split(" ")[0]) / 1e6, 0);
  }
  const fields = readSystemFile(`/proc/${pid}/stat`)?.split(") ")[1]?.split(" ");
  return tick_ms * (Number(fields?.[11]) + Number(fields?.[12]));
}

interface Usage {
  readonly percent: number;
  /** Somebody else had its CPU: who gets none uses none. */
  readonly disturbed: boolean;
}

async function usage(pid: number, { seconds, stop }: CostsMeasurement): Promise<Usage> {
  const [before_ms, waited_ns, begin_ms] = [cpu_ms(pid), waitedForCpu_ns(pid), performance.now()];
  await sleep(1000 * seconds, stop);
  const taken_ms = performance.now() - begin_ms;
  const disturbed = waitedForCpu_ns(pid) - waited_ns > waitShareMax * taken_ms * 1e6;
  return { percent: 100 * (cpu_ms(pid) - before_ms) / taken_ms, disturbed };
}

/** Of a process (proc(5), smaps_rollup). */
function memory(pid: number): Pick<StandingCosts, "rss_mib" | "private_mib" | "huge_mib"> {
  const rollup = readSystemFile(`/proc/${pid}/smaps_rollup`) ?? "";
  const sum = (pattern: RegExp) =>
    [...rollup.matchAll(pattern)].reduce((total, [, kib]) => total + Number(kib) / 1024, 0);
  return {
    rss_mib: sum(/^Rss:\s+(\d+)/gm),
    private_mib: sum(/^Private_(?:Clean|Dirty):\s+(\d+)/gm),
    huge_mib: sum(/^(?:Shared|Private)_Hugetlb:\s+(\d+)/gm),
  };
}

/** Starts a back end and measures it once; undefined when the user wanted no more before the end. */
export async function measureCosts(
  backEnd: BackEnd,
  measurement: CostsMeasurement,
): Promise<CostsRound | undefined> {
  const { placement, stop } = measurement;
  await using stack = new AsyncDisposableStack();
  const directory = await socketFolder(stack);
  const sockets = peerSockets(directory, "vm2vm");
  const cpu = placement.worker_cpus[0]!;
  const begin_ms = performance.now();
  const starting = backEnd.start({ sockets, directory, cpu, connects: false });
  const stopping = starting.then((process) => stack.use(process));
  await Promise.all([stopping, listening(backEnd.name, sockets)]);
  const listening_ms = performance.now() - begin_ms;
  const { pid } = await starting;
  await sleep(settle_ms, stop);
  const idle = await usage(pid, measurement);
  const used = memory(pid);
  if (stop.aborted) return undefined;
  const options = { sockets, cpus: placement.guest_cpus, together: true, wait: "yield" as const, checkEvery: 1024 };
  const pair = stack.use(await GuestPair.start({ size_bytes: 64, ring: "split", queues: 1, ring_size: 256 }, options));
  await pair.rest();
  await sleep(settle_ms, stop);
  const guests = await usage(pid, measurement);
  if (stop.aborted) return undefined;
  const disturbed = idle.disturbed || guests.disturbed;
  return { listening_ms, idle_percent: idle.percent, guests_percent: guests.percent, ...used, disturbed };
}

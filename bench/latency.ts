/**
 * How long one packet takes from a guest to another and back, while nothing else is on its way: through `serve` that
 * polls, that waits before it sleeps (as by default), that always sleeps, and through DPDK's testpmd, by turns.
 *
 *   ./scripts/deno run --allow-all bench/latency.ts [--ring split,packed] [--size 64] [--seconds 10]
 *
 * Prints for each the quantiles over all its turns, and the median of what its median was to DPDK's in the same round,
 * for both distances of the CPUs. Wants the machine for itself.
 */

import { parseArgs } from "node:util";
import { distance_ns, socketFolder } from "../cli/bench_measure.ts";
import { place } from "../cli/bench_options.ts";
import type { Ring } from "../cli/bench_result.ts";
import { turn_ms } from "../cli/bench_turn.ts";
import { nearMax_ns, stayed } from "../cli/distance.ts";
import { GuestProcess } from "../cli/guest_process.ts";
import { JsonProcess, ownProgram } from "../cli/json_process.ts";
import { allowedCpus } from "../cli/machine.ts";
import { table } from "../cli/output.ts";
import { pause } from "../cli/pause.ts";
import { peerSockets } from "../cli/serve_process.ts";
import { quantile } from "../cli/statistics.ts";
import { StopGuard } from "../cli/stop_guard.ts";
import { findTestpmd, Testpmd } from "../cli/testpmd.ts";
import { latencyQuantile } from "../mod.ts";

const { values } = parseArgs({
  args: Deno.args,
  options: {
    ring: { type: "string", default: "split,packed" },
    size: { type: "string", default: "64" },
    seconds: { type: "string", default: "10" },
  },
});
Deno.env.set("VHOSTCTL_SELF", Deno.env.get("VHOSTCTL") ?? new URL("../scripts/vhostctl", import.meta.url).pathname);
const program = await findTestpmd(undefined);
const placement = place(allowedCpus());
const cpu = placement.worker_cpus[0]!;
const macs = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"] as const;
const warmUp_ms = 50;

interface Contender {
  readonly name: string;
  readonly backEnd: JsonProcess;
  readonly guests: GuestProcess;
}

async function startServe(stack: AsyncDisposableStack, idle: string, directory: string): Promise<JsonProcess> {
  const args = ["serve", "--json", "--dir", directory, "--cpus", `${cpu}`, "--idle", idle];
  const serve = stack.use(new JsonProcess("vhostctl serve", ownProgram(), args));
  await serve.next((message) => message["event"] === "ready");
  return serve;
}

async function start(stack: AsyncDisposableStack, name: string, ring: Ring): Promise<Contender> {
  const directory = await socketFolder(stack);
  const own = ["port0", "port1"].map((port) => `${directory}/${port}.sock`);
  const sockets = name === "dpdk" ? peerSockets(directory, "vm2vm") : own;
  const backEnd = name === "dpdk"
    ? stack.use(await Testpmd.start({ program, sockets, queues: 1, cpu })).process
    : await startServe(stack, name, directory);
  stack.use(new StopGuard([backEnd.pid]));
  const shape = { ring, ringSize: 256, queues: 1, frameBytes: Number(values.size) };
  const where = { cpu: placement.guest_cpus[0]!, wait: "poll" as const };
  const guests = stack.use(await GuestProcess.start({ sockets, macs, ...shape, ...where }));
  backEnd.signal("SIGSTOP");
  return { name, backEnd, guests };
}

/** How many packets came back after how long. */
async function takeTurn({ backEnd, guests }: Contender): Promise<bigint[]> {
  const traffic = { size_bytes: Number(values.size), check_every: 0 };
  backEnd.signal("SIGCONT");
  await guests.echo(1, { ...traffic, to: macs[0] });
  await guests.start(0, { ...traffic, to: macs[1], window: 1 });
  await pause(warmUp_ms);
  const before = await guests.latency(0);
  await pause(turn_ms);
  const after = await guests.latency(0);
  await guests.stop(0);
  await guests.rest();
  backEnd.signal("SIGSTOP");
  return after.map((count, bucket) => count - before[bucket]!);
}

type Round = readonly bigint[][];

async function rounds(names: readonly string[], ring: Ring): Promise<Record<"near" | "far", Round[]>> {
  await using stack = new AsyncDisposableStack();
  const contenders: Contender[] = [];
  for (const name of names) contenders.push(await start(stack, name, ring));
  const found: Record<"near" | "far", Round[]> = { near: [], far: [] };
  const deadline = Date.now() + 1000 * Number(values.seconds);
  for (let number = 0; Date.now() < deadline; number++) {
    const before_ns = await distance_ns(placement);
    const round: bigint[][] = [];
    const order = contenders.map((_, index) => index);
    for (const index of number % 2 === 0 ? order : order.toReversed()) {
      round[index] = await takeTurn(contenders[index]!);
    }
    if (before_ns === undefined || !stayed(before_ns, await distance_ns(placement))) continue;
    if (round.every((latency) => latency.some((count) => count > 0n))) {
      found[before_ns < nearMax_ns ? "near" : "far"].push(round);
    }
  }
  return found;
}

function row(all: readonly Round[], index: number, peer: number): string[] {
  const sums = all[0]![index]!.map((_, bucket) => all.reduce((sum, round) => sum + round[index]![bucket]!, 0n));
  const quantiles = [0.5, 0.99, 0.999].map((fraction) => (latencyQuantile(sums, fraction)! / 1000).toFixed(2));
  const median = (latency: readonly bigint[]) => latencyQuantile(latency, 0.5)!;
  const ratios = all.map((round) => median(round[index]!) / median(round[peer]!));
  return [`${all.length}`, ...quantiles, quantile(ratios, 0.5).toFixed(2)];
}

const names = ["busy", "adaptive", "sleep", "dpdk"];
const rows: string[][] = [];
for (const ring of values.ring.split(",") as Ring[]) {
  for (const [distance, all] of Object.entries(await rounds(names, ring))) {
    if (all.length === 0) continue;
    for (const [index, name] of names.entries()) {
      rows.push([ring, distance, name, ...row(all, index, names.indexOf("dpdk"))]);
    }
  }
}
const heads = ["TURNS", "p50 us", "p99", "p99.9", "TO DPDK"].map((title) => ({ title, align: "right" as const }));
console.log(table([{ title: "RING" }, { title: "CPUs" }, { title: "BACK END" }, ...heads], rows).join("\n"));

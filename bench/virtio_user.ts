/**
 * The comparison with DPDK's vhost, driven by DPDK's virtio-user: an independent driver, though in small packets it is
 * itself what limits. Its packets circulate: from its one port back to it (`loop`: pmd-forward), or between its two
 * ports (`vm2vm`: serve); ours and net_vhost live at once, and take turns on the same CPUs.
 *
 *   ./scripts/deno run --allow-all bench/virtio_user.ts \\
 *     [--way loop,vm2vm] [--size 64,1518] [--path NAME] [--seconds 10]
 *
 * --path: only ring paths with this in their name, such as `packed, in order`. Prints for each case the medians of both
 * rates, and of their ratio, near and far apart. Wants the machine for itself.
 */

import { parseArgs } from "node:util";
import { distance_ns } from "../cli/bench_measure.ts";
import { place } from "../cli/bench_common_options.ts";
import { type Way, ways } from "../cli/bench_result.ts";
import { turn_ms } from "../cli/bench_turn.ts";
import { nearMax_ns, stayed } from "../cli/distance.ts";
import type { JsonProcess } from "../cli/json_process.ts";
import { allowedCpus } from "../cli/machine.ts";
import { table } from "../cli/output.ts";
import { pause } from "../cli/pause.ts";
import { peerSockets, ServeProcess } from "../cli/serve_process.ts";
import { quantile } from "../cli/statistics.ts";
import { StopGuard } from "../cli/stop_guard.ts";
import { findTestpmd, Testpmd as NetVhost } from "../cli/testpmd.ts";
import { possible, ring_paths, type RingPath, Testpmd as VirtioUser } from "../tests/real/dpdk.ts";

const { values } = parseArgs({
  args: Deno.args,
  options: {
    way: { type: "string", default: ways.join(",") },
    size: { type: "string", default: "64,1518" },
    path: { type: "string", default: "" },
    seconds: { type: "string", default: "10" },
  },
});

Deno.env.set("VHOSTCTL_SELF", Deno.env.get("VHOSTCTL") ?? new URL("../scripts/vhostctl", import.meta.url).pathname);
const placement = place(allowedCpus());
const program = await findTestpmd(undefined);
/** Of 32 packets each: a ring of 256 is full of them. */
const bursts = 8;
const warmUp_ms = 100;

/** A back end and its driver. They stand still while it is another's turn. */
interface Contender {
  readonly backEnd: JsonProcess;
  readonly driver: VirtioUser;
}

async function startDriver(sockets: readonly string[], path: RingPath, size: number): Promise<VirtioUser> {
  const driver = await VirtioUser.start({ sockets, path });
  await driver.circulate(bursts, [size]);
  return driver;
}

async function start(stack: AsyncDisposableStack, way: Way, path: RingPath, size: number): Promise<Contender[]> {
  const directory = await Deno.makeTempDir({ prefix: "vhostctl-virtio-user-" });
  stack.defer(() => Deno.remove(directory, { recursive: true }));
  const serve = stack.use(
    await ServeProcess.start({ directory, queues: 1, way, workerCpus: placement.worker_cpus }),
  );
  const sockets = peerSockets(directory, way);
  const cpu = placement.worker_cpus[0]!;
  const peer = stack.use(await NetVhost.start({ program, sockets, queues: 1, cpu }));
  stack.use(new StopGuard([serve.process.pid, peer.process.pid]));
  const contenders: Contender[] = [];
  for (const [backEnd, places] of [[serve.process, serve.sockets], [peer.process, sockets]] as const) {
    const driver = stack.use(await startDriver(places, path, size));
    contenders.push({ backEnd, driver });
    driver.program.kill("SIGSTOP");
    backEnd.signal("SIGSTOP");
  }
  return contenders;
}

async function received({ driver }: Contender): Promise<number> {
  let packets = 0;
  for (const port of driver.options.sockets.keys()) packets += await driver.received(port);
  return packets;
}

/** Million packets a second. */
async function takeTurn(contender: Contender): Promise<number> {
  const { backEnd, driver } = contender;
  backEnd.signal("SIGCONT");
  driver.program.kill("SIGCONT");
  await pause(warmUp_ms);
  const [before, begin_ms] = [await received(contender), performance.now()];
  await pause(turn_ms);
  const [after, end_ms] = [await received(contender), performance.now()];
  driver.program.kill("SIGSTOP");
  backEnd.signal("SIGSTOP");
  return (after - before) / (end_ms - begin_ms) / 1000;
}

type Rates = readonly [ours: number, peers: number];

async function duel(way: Way, path: RingPath, size: number): Promise<Record<"near" | "far", Rates[]>> {
  await using stack = new AsyncDisposableStack();
  const [ours, peers] = await start(stack, way, path, size) as [Contender, Contender];
  const pairs: Record<"near" | "far", Rates[]> = { near: [], far: [] };
  const deadline = Date.now() + 1000 * Number(values.seconds);
  for (let turn = 0; Date.now() < deadline; turn++) {
    const before_ns = await distance_ns(placement);
    const order = turn % 2 === 0 ? [ours, peers] : [peers, ours];
    const rates = [await takeTurn(order[0]!), await takeTurn(order[1]!)];
    const after_ns = await distance_ns(placement);
    if (before_ns === undefined || !stayed(before_ns, after_ns)) continue;
    const [first, second] = rates as [number, number];
    pairs[before_ns < nearMax_ns ? "near" : "far"].push(turn % 2 === 0 ? [first, second] : [second, first]);
  }
  return pairs;
}

function summary(pairs: readonly Rates[]): string[] {
  if (pairs.length === 0) return ["", "", "", "0"];
  const median = (figures: readonly number[]) => quantile(figures, 0.5).toFixed(2);
  return [
    median(pairs.map(([ours]) => ours)),
    median(pairs.map(([, peers]) => peers)),
    median(pairs.map(([ours, peers]) => ours / peers)),
    `${pairs.length}`,
  ];
}

const rows: string[][] = [];
for (const way of values.way.split(",") as Way[]) {
  for (const path of ring_paths.filter((each) => possible(each) && each.name.includes(values.path))) {
    for (const size of values.size.split(",").map(Number)) {
      for (const [distance, pairs] of Object.entries(await duel(way, path, size))) {
        const row = [way, path.name, `${size}`, distance, ...summary(pairs)];
        console.error(row.join("  "));
        rows.push(row);
      }
    }
  }
}
const right = (title: string) => ({ title, align: "right" as const });
const heads = ["Mpps", "DPDK Mpps", "RATIO", "PAIRS"].map(right);
console.log(table([{ title: "WAY" }, { title: "RING" }, right("SIZE"), { title: "CPUs" }, ...heads], rows).join("\n"));

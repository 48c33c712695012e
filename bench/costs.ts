/**
 * What a back end with two ports costs while nothing passes: how long it takes to listen, its CPU time without guests
 * and with two that do nothing, its memory. `serve` and DPDK's testpmd with net_vhost, by turns.
 *
 *   ./scripts/deno run --allow-all bench/costs.ts [--rounds 10] [--idle SECONDS, 2]
 *
 * Prints medians. $VHOSTCTL names the program; by default the source tree's, which starts later than the one file.
 */

import { parseArgs } from "node:util";
import { socketFolder } from "../cli/bench_measure.ts";
import { GuestPair } from "../cli/guest_pair.ts";
import { JsonProcess } from "../cli/json_process.ts";
import { table } from "../cli/output.ts";
import { pause } from "../cli/pause.ts";
import { peerSockets } from "../cli/serve_process.ts";
import { quantile } from "../cli/statistics.ts";
import { findTestpmd, Testpmd } from "../cli/testpmd.ts";
import { readSystemFile } from "../mod.ts";

const { values } = parseArgs({
  args: Deno.args,
  options: { rounds: { type: "string", default: "10" }, idle: { type: "string", default: "2" } },
});
const vhostctl = Deno.env.get("VHOSTCTL") ?? new URL("../scripts/vhostctl", import.meta.url).pathname;
Deno.env.set("VHOSTCTL_SELF", vhostctl);
const testpmd = await findTestpmd(undefined);
const idle_ms = 1000 * Number(values.idle);
const look_ms = 1;
/** Linux counts CPU time in hundredths of a second (USER_HZ). */
const tick_ms = 10;
const settle_ms = 300;

interface Costs {
  readonly listening_ms: number;
  readonly idle_percent: number;
  readonly guests_percent: number;
  readonly rss_mib: number;
  readonly private_mib: number;
  readonly huge_mib: number;
}

interface BackEnd {
  readonly name: string;
  start(sockets: readonly string[], directory: string): Promise<AsyncDisposable & { readonly process: JsonProcess }>;
}

const cpu = 0;

const backEnds: readonly BackEnd[] = [
  {
    name: "vhostctl serve",
    start(sockets, directory) {
      const ports = sockets.flatMap((socket, port) => ["--port", `name=p${port},socket=${socket}`]);
      const args = ["serve", "--json", "--dir", directory, "--cpus", `${cpu}`, ...ports];
      const process = new JsonProcess("vhostctl serve", vhostctl, args);
      return Promise.resolve({ process, [Symbol.asyncDispose]: () => process[Symbol.asyncDispose]() });
    },
  },
  { name: testpmd.version, start: (sockets) => Testpmd.start({ program: testpmd, sockets, queues: 1, cpu }) },
];

async function listens(socket: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path: socket })).close();
    return true;
  } catch {
    return false;
  }
}

/** User and system time of all threads (proc(5), stat). */
function cpu_ms(pid: number): number {
  const fields = readSystemFile(`/proc/${pid}/stat`)!.split(") ")[1]!.split(" ");
  return tick_ms * (Number(fields[11]) + Number(fields[12]));
}

async function percent(pid: number): Promise<number> {
  const [before, begin] = [cpu_ms(pid), performance.now()];
  await pause(idle_ms);
  return 100 * (cpu_ms(pid) - before) / (performance.now() - begin);
}

/** In MiB. */
function memory(pid: number): Pick<Costs, "rss_mib" | "private_mib" | "huge_mib"> {
  const rollup = readSystemFile(`/proc/${pid}/smaps_rollup`)!;
  const sum = (pattern: RegExp) =>
    [...rollup.matchAll(pattern)].reduce((total, [, kib]) => total + Number(kib) / 1024, 0);
  return {
    rss_mib: sum(/^Rss:\s+(\d+)/gm),
    private_mib: sum(/^Private_(?:Clean|Dirty):\s+(\d+)/gm),
    huge_mib: sum(/^(?:Shared|Private)_Hugetlb:\s+(\d+)/gm),
  };
}

async function measure(backEnd: BackEnd): Promise<Costs> {
  await using stack = new AsyncDisposableStack();
  const directory = await socketFolder(stack);
  const sockets = peerSockets(directory, "vm2vm");
  const begin = performance.now();
  const starting = backEnd.start(sockets, directory);
  for (const socket of sockets) while (!await listens(socket)) await pause(look_ms);
  const listening_ms = performance.now() - begin;
  const { process: { pid } } = stack.use(await starting);
  await pause(settle_ms);
  const idle_percent = await percent(pid);
  const used = memory(pid);
  const options = { sockets, cpus: [1, 1], together: true, wait: "yield" as const, checkEvery: 1024 };
  const pair = stack.use(await GuestPair.start({ size_bytes: 64, ring: "split", queues: 1, ring_size: 256 }, options));
  await pair.rest();
  await pause(settle_ms);
  return { listening_ms, idle_percent, guests_percent: await percent(pid), ...used };
}

const found = backEnds.map((): Costs[] => []);
for (let round = 0; round < Number(values.rounds); round++) {
  for (const [index, backEnd] of backEnds.entries()) {
    const costs = await measure(backEnd);
    console.error(backEnd.name, JSON.stringify(costs));
    found[index]!.push(costs);
  }
}
const columns: readonly [keyof Costs, string, number][] = [
  ["listening_ms", "LISTENS AFTER ms", 0],
  ["idle_percent", "CPU % WITHOUT GUESTS", 1],
  ["guests_percent", "WITH TWO", 1],
  ["rss_mib", "RSS MiB", 0],
  ["private_mib", "OF THAT PRIVATE", 0],
  ["huge_mib", "HUGE PAGES", 0],
];
const rows = backEnds.map(({ name }, index) => [
  name,
  ...columns.map(([key, , digits]) => quantile(found[index]!.map((costs) => costs[key]), 0.5).toFixed(digits)),
]);
const heads = columns.map(([, title]) => ({ title, align: "right" as const }));
console.log(table([{ title: "BACK END" }, ...heads], rows).join("\n"));

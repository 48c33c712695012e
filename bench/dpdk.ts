/**
 * The comparison with DPDK, cell by cell: `vhostctl bench vm2vm --peer dpdk`, started anew several times.
 *
 * A start lays out memory anew, and that alone changes rates by some percent: so each cell is measured by several
 * starts, round after round, and its figure is the median of their medians; NEAR and FAR are of all pairs of turns
 * with the two CPUs so far apart.
 *
 *   ./scripts/deno run --allow-all bench/dpdk.ts [--starts 3] [--seconds 5] [-- OPTIONS OF bench vm2vm]
 *
 * Prints a table on stdout, and what each start found on stderr as it comes. Wants the machine for itself.
 */

import { parseArgs } from "node:util";
import type { BenchResult, CaseResult } from "../cli/bench_result.ts";
import { caseName } from "../cli/bench_result.ts";
import { nearMax_ns } from "../cli/distance.ts";
import { table } from "../cli/output.ts";
import { quantile } from "../cli/statistics.ts";

const program = Deno.env.get("VHOSTCTL") ?? new URL("../scripts/vhostctl", import.meta.url).pathname;

const { values, positionals } = parseArgs({
  args: Deno.args,
  options: { starts: { type: "string", default: "3" }, seconds: { type: "string", default: "5" } },
  allowPositionals: true,
});

/** One start of the program: every cell once. */
async function start(): Promise<readonly CaseResult[]> {
  const words = positionals.length > 0 ? positionals : ["--size", "64,1518"];
  const args = ["bench", "vm2vm", "--json", "--peer", "dpdk", "--seconds", values.seconds, ...words];
  const { success, stdout } = await new Deno.Command(program, { args, stderr: "inherit" }).output();
  if (!success) throw new Error(`bench failed: ${args.join(" ")}`);
  const result = JSON.parse(new TextDecoder().decode(stdout)) as BenchResult;
  return result.cases;
}

function median(values: readonly number[]): string {
  return quantile(values, 0.5).toFixed(2);
}

const cells = new Map<string, CaseResult[]>();
for (let number = 1; number <= Number(values.starts); number++) {
  for (const found of await start()) {
    const name = caseName(found);
    cells.set(name, [...cells.get(name) ?? [], found]);
    const { peer, mpps } = found;
    console.error(`start ${number}: ${name}: ${mpps.toFixed(2)} Mpps, ${peer?.version} ${peer?.mpps.toFixed(2)} Mpps`);
  }
}

/** The median ratio of the pairs of turns at one distance, and how many there were. */
function at(results: readonly CaseResult[], near: boolean): string {
  const pairs = results.flatMap(({ peer }) => peer?.pairs ?? []);
  const ratios = pairs.filter(({ core_distance_ns: ns }) => ns !== undefined && ns < nearMax_ns === near)
    .map(({ mpps, peer_mpps }) => mpps / peer_mpps).filter(Number.isFinite);
  return ratios.length === 0 ? "" : `${median(ratios)} of ${ratios.length}`;
}

const rows = [...cells].map(([name, results]) => {
  const ratios = results.flatMap(({ peer }) => peer?.ratio ?? []);
  const medians = ratios.map((ratio) => ratio.median);
  return [
    name,
    median(results.map(({ mpps }) => mpps)),
    median(results.flatMap(({ peer }) => peer?.mpps ?? [])),
    median(medians),
    `${Math.min(...medians).toFixed(2)}-${Math.max(...medians).toFixed(2)}`,
    at(results, true),
    at(results, false),
    median(results.flatMap(({ cycles_per_packet }) => cycles_per_packet ?? [])),
  ];
});
const right = (title: string) => ({ title, align: "right" as const });
const heads = ["Mpps", "DPDK Mpps", "RATIO", "OF STARTS", "NEAR", "FAR", "CYCLES/PACKET"].map(right);
console.log(table([{ title: "CASE" }, ...heads], rows).join("\n"));

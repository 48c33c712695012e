/**
 * `vhostctl bench`: how fast packets go from guest to guest, and whether they arrive as they were sent.
 *
 * @module
 */
import { compare } from "./bench_compare.ts";
import { withInstructions } from "./bench_instructions.ts";
import { measure, type Measurement } from "./bench_measure.ts";
import { benchCommand, type BenchOptions, type BenchPlan, planBench } from "./bench_options.ts";
import {
  type BenchResult,
  type Case,
  caseName,
  type CaseResult,
  faultless,
  type Speed,
  type Way,
} from "./bench_result.ts";
import { barValue, type CaseBar, caseBars, caseTable, notes, placementText } from "./bench_text.ts";
import { chart, chartColumns } from "./chart.ts";
import { CommandError } from "./error.ts";
import { allowedCpus, describeMachine, machineText } from "./machine.ts";
import { Output, table } from "./output.ts";
import { reportHtml } from "./report.ts";
import { stoppable } from "./stoppable.ts";
import { findTestpmd, type TestpmdProgram } from "./testpmd.ts";

/** One packet in so many is checked byte by byte when not all are. */
const checkEvery = 1024;

/** What is printed for people. */
class Screen {
  readonly #output: Output;

  constructor(output: Output) {
    this.#output = output;
  }

  begin({ way, placement }: BenchPlan, machine: string): void {
    this.#output.line(this.#output.style("bold", `${way}: ${machine}`), placementText(way, placement), "");
  }

  /** Draws what there is so far: what was measured, and the case under way. */
  progress(before: readonly CaseResult[], current: Case, now: Speed, done: number): void {
    const bar: CaseBar = {
      label: caseName(current),
      value: barValue(current, now),
      text: `${now.mpps.toFixed(2)} Mpps, ${now.gbps.toFixed(1)} Gbit/s  ${Math.round(100 * done)} %`,
      whose: "ours",
    };
    this.#output.frame(this.#chart([...caseBars(before), bar]));
  }

  #chart(bars: readonly CaseBar[]): string[] {
    return chart(
      bars,
      chartColumns(),
      (drawn, index) => this.#output.style(bars[index]!.whose === "ours" ? "green" : "dim", drawn),
    );
  }

  end(result: BenchResult): void {
    this.#output.frame([]);
    const { columns: heads, rows } = caseTable(result.cases);
    const [head, ...lines] = table(heads, rows);
    this.#output.line(this.#output.style("bold", head ?? ""), ...lines, "");
    this.#output.line(...this.#chart(caseBars(result.cases)), "", ...notes(result));
  }
}

/** Runs the cases one after the other; what was finished when the user wanted no more is what there is. */
async function runCases(
  plan: BenchPlan,
  testpmd: TestpmdProgram | undefined,
  stop: AbortSignal,
  progress: (before: readonly CaseResult[], current: Case, now: Speed, done: number) => void,
): Promise<CaseResult[]> {
  const { way, seconds, placement, verify, instructions } = plan;
  const results: CaseResult[] = [];
  for (const wanted of plan.cases) {
    const measurement: Measurement = {
      ...{ way, seconds, placement, stop, check_every: verify ? 1 : checkEvery },
      progress: (now, done) => progress(results, wanted, now, done),
    };
    const found = testpmd === undefined
      ? await measure(wanted, measurement)
      : await compare(wanted, testpmd, measurement);
    if (found === undefined) break;
    results.push(instructions && !stop.aborted ? await withInstructions(found, testpmd, measurement) : found);
    if (stop.aborted) break;
  }
  return results;
}

/** Opens the report's file before anything is measured: better now than after. */
async function openReport(path: string): Promise<Deno.FsFile> {
  return await Deno.open(path, { write: true, create: true }).catch((reason: Error) => {
    throw new CommandError(`cannot write the report: ${path}: ${reason.message}: choose another --report`);
  });
}

async function writeReport(file: Deno.FsFile, result: BenchResult): Promise<void> {
  await file.truncate();
  const writer = file.writable.getWriter();
  await writer.write(new TextEncoder().encode(reportHtml(result, new Date())));
  await writer.close();
}

async function run(way: Way, options: BenchOptions): Promise<void> {
  const plan = planBench(way, options, allowedCpus());
  const testpmd = plan.peer === undefined ? undefined : await findTestpmd(plan.testpmd);
  const report = options.report === undefined ? undefined : await openReport(options.report);
  const machine = describeMachine();
  const output = Output.standard();
  const screen = options.json ? undefined : new Screen(output);
  screen?.begin(plan, machineText(machine));
  const result = await stoppable(async (stop): Promise<BenchResult> => {
    const cases = await runCases(plan, testpmd, stop, (...state) => screen?.progress(...state));
    return {
      ...{ bench: plan.way, machine, placement: plan.placement, verify: plan.verify ? "all" : "sampled", cases },
      ...{ interrupted: stop.aborted, ok: cases.every((found) => faultless(found)) },
    };
  });
  if (options.json) output.json(result);
  else screen?.end(result);
  await output.close();
  if (result.cases.length === 0) throw new CommandError("interrupted before anything was measured");
  if (report !== undefined) await writeReport(report, result);
  if (!result.ok) {
    throw new CommandError("packets arrived duplicated, reordered or corrupted: see the figures: please report it");
  }
}

/** The command with its action. */
export function command() {
  return benchCommand().action(run);
}

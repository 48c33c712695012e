/**
 * `bench vm2vm` and `bench loop`: how fast packets go from guest to guest, and whether they arrive as they were sent.
 *
 * @module
 */
import { compare } from "./bench_compare.ts";
import { withInstructions } from "./bench_instructions.ts";
import { matrices } from "./bench_matrix.ts";
import { measure, type Measurement } from "./bench_measure.ts";
import { mergeStarts } from "./bench_merge.ts";
import { type BenchOptions, type BenchPlan, planBench, speedOptions } from "./bench_options.ts";
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
import { standardProgress } from "./progress.ts";
import { reportHtml } from "./report.ts";
import { openReport, writeReport } from "./report_file.ts";
import { stoppable } from "./stoppable.ts";
import { findTestpmd, type TestpmdProgram } from "./testpmd.ts";

/** One packet in so many is checked byte by byte when not all are. */
const checkEvery = 1024;

function draw(output: Output, bars: readonly CaseBar[]): string[] {
  return chart(
    bars,
    chartColumns(),
    (drawn, index) => output.style(bars[index]!.whose === "ours" ? "green" : "dim", drawn),
  );
}

/** The case under way. */
interface Step {
  /** What there is of other cases. */
  readonly before: readonly CaseResult[];
  readonly current: Case;
  readonly start: number;
  readonly now: Speed;
  /** How much of it is done, 0 to 1. */
  readonly done: number;
}

function drawProgress(output: Output, { starts }: BenchPlan, { before, current, start, now, done }: Step): void {
  const which = starts > 1 ? `, start ${start} of ${starts}` : "";
  const bar: CaseBar = {
    label: caseName(current),
    value: barValue(current, now),
    text: `${now.mpps.toFixed(2)} Mpps, ${now.gbps.toFixed(1)} Gbit/s  ${Math.round(100 * done)} %${which}`,
    whose: "ours",
  };
  output.frame(draw(output, [...caseBars(before), bar]));
}

function begin(output: Output, { way, placement }: BenchPlan, machine: string): void {
  output.line(output.style("bold", `${way}: ${machine}`), placementText(way, placement), "");
}

function end(output: Output, result: BenchResult): void {
  const { columns: heads, rows } = caseTable(result.cases);
  const [head, ...lines] = table(heads, rows);
  output.line(output.style("bold", head ?? ""), ...lines, "");
  for (const { title, columns, rows } of matrices(result.cases)) {
    output.line(output.style("bold", title), ...table(columns, rows), "");
  }
  output.line(...draw(output, caseBars(result.cases)), "", ...notes(result));
}

/** Each case that was measured, its starts together. */
function merge(found: readonly (readonly CaseResult[])[]): CaseResult[] {
  return found.flatMap(([first, ...others]) => first === undefined ? [] : [mergeStarts([first, ...others])]);
}

/** Measures one case once, all processes started for it. */
async function measureStart(
  wanted: Case,
  instructions: boolean,
  testpmd: TestpmdProgram | undefined,
  measurement: Measurement,
): Promise<CaseResult | undefined> {
  const found = testpmd === undefined
    ? await measure(wanted, measurement)
    : await compare(wanted, testpmd, measurement);
  if (found === undefined || !instructions || measurement.stop.aborted) return found;
  return await withInstructions(found, testpmd, measurement);
}

/**
 * Runs all cases, and all of them again, as often as they are to be started, so that no case has one moment alone.
 * What was finished when the user wanted no more is what there is.
 */
async function runCases(
  plan: BenchPlan,
  testpmd: TestpmdProgram | undefined,
  stop: AbortSignal,
  progress: (step: Step) => void,
): Promise<CaseResult[]> {
  const { way, seconds, placement, verify, instructions, cases, starts } = plan;
  const found: CaseResult[][] = cases.map(() => []);
  for (let start = 1; start <= starts; start++) {
    for (const [index, current] of cases.entries()) {
      const before = merge(found.filter((_, other) => other !== index));
      const measurement: Measurement = {
        ...{ way, seconds, placement, stop, check_every: verify ? 1 : checkEvery },
        progress: (now, done) => progress({ before, current, start, now, done }),
      };
      // Instructions are the same every time.
      const result = await measureStart(current, instructions && start === 1, testpmd, measurement);
      if (result !== undefined) found[index]!.push(result);
      if (stop.aborted) return merge(found);
    }
  }
  return merge(found);
}

async function run(way: Way, options: BenchOptions): Promise<void> {
  const plan = planBench(way, options, allowedCpus());
  const testpmd = plan.peer === undefined ? undefined : await findTestpmd(plan.testpmd);
  const report = options.report === undefined ? undefined : await openReport(options.report);
  const machine = describeMachine();
  const output = Output.standard();
  const progress = standardProgress();
  if (!options.json) begin(output, plan, machineText(machine));
  const result = await stoppable(async (stop): Promise<BenchResult> => {
    const cases = await runCases(plan, testpmd, stop, (step) => drawProgress(progress, plan, step));
    return {
      ...{ bench: plan.way, machine, placement: plan.placement, verify: plan.verify ? "all" : "sampled", cases },
      ...{ interrupted: stop.aborted, ok: cases.every((found) => faultless(found)) },
    };
  });
  await progress.close();
  if (options.json) output.json(result);
  else end(output, result);
  await output.close();
  if (result.cases.length === 0) throw new CommandError("interrupted before anything was measured");
  if (report !== undefined) await writeReport(report, reportHtml([result], new Date()));
  if (!result.ok) {
    throw new CommandError("packets arrived duplicated, reordered or corrupted: see the figures: please report it");
  }
}

/** The command for one way, with its action. */
export function speedCommand(way: Way) {
  return speedOptions(way).action((options) => run(way, options));
}

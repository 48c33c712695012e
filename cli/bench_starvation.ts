/**
 * `bench starvation`: what other flows lose while one receiver has stopped reading.
 *
 * @module
 */
import { checkRings, choosePlacement } from "./bench_common_options.ts";
import { ringName } from "./bench_result.ts";
import { placementText } from "./bench_text.ts";
import { CommandError } from "./error.ts";
import { allowedCpus, describeMachine, machineText } from "./machine.ts";
import { Output, table } from "./output.ts";
import { standardProgress } from "./progress.ts";
import { reportHtml } from "./report.ts";
import { openReport, writeReport } from "./report_file.ts";
import { measureStarvation, type StarvationMeasurement } from "./starvation_measure.ts";
import { type StarvationOptions, starvationOptions } from "./starvation_options.ts";
import type { StarvationCase, StarvationCaseResult, StarvationResult } from "./starvation_result.ts";
import { starvationNotes, starvationTable } from "./starvation_text.ts";
import { stoppable } from "./stoppable.ts";

function casesOf({ size, ring, ringSize: ring_size, flows }: StarvationOptions): StarvationCase[] {
  return size.flatMap((size_bytes) => ring.map((kind) => ({ size_bytes, ...kind, ring_size, flows })));
}

function lines(output: Output, cases: readonly StarvationCaseResult[]): string[] {
  const { columns, rows } = starvationTable(cases);
  const [head, ...rest] = table(columns, rows);
  return [output.style("bold", head ?? ""), ...rest];
}

/** Case by case; what was finished when the user wanted no more is what there is. */
async function runCases(
  cases: readonly StarvationCase[],
  measurement: Omit<StarvationMeasurement, "progress">,
  progress: Output,
): Promise<StarvationCaseResult[]> {
  const results: StarvationCaseResult[] = [];
  for (const wanted of cases) {
    const found = await measureStarvation(wanted, {
      ...measurement,
      progress: (now, done) => {
        const head = `${wanted.size_bytes} B ${ringName(wanted)}: ${Math.round(100 * done)} %`;
        progress.frame([head, ...lines(progress, [...results, now])]);
      },
    });
    if (found !== undefined) results.push(found);
    if (measurement.stop.aborted) break;
  }
  return results;
}

async function run(options: StarvationOptions): Promise<void> {
  checkRings(options);
  const placement = choosePlacement(options.cpus, allowedCpus());
  const report = options.report === undefined ? undefined : await openReport(options.report);
  const machine = describeMachine();
  const output = Output.standard();
  const progress = standardProgress();
  if (!options.json) {
    const title = output.style("bold", `starvation: ${machineText(machine)}`);
    output.line(title, placementText("loop", placement).replace("the guest", "all guests"), "");
  }
  const { seconds, rate: rate_pps } = options;
  const result = await stoppable(async (stop): Promise<StarvationResult> => {
    const cases = await runCases(casesOf(options), { seconds, rate_pps, placement, stop }, progress);
    return { bench: "starvation", machine, placement, rate_pps, cases, interrupted: stop.aborted };
  });
  await progress.close();
  if (options.json) output.json(result);
  else if (result.cases.length > 0) output.line(...lines(output, result.cases), "", ...starvationNotes(result));
  await output.close();
  if (result.cases.length === 0) throw new CommandError("interrupted before anything was measured");
  if (report !== undefined) await writeReport(report, reportHtml([result], new Date()));
}

/** The command with its action. */
export function starvationCommand() {
  return starvationOptions().action(run);
}

/**
 * `bench latency`: how long a packet takes from one guest to another and back, by what the worker does without traffic.
 *
 * @module
 */
import { placementText } from "./bench_text.ts";
import { CommandError } from "./error.ts";
import { type LatencyRound, measureLatency } from "./latency_measure.ts";
import { type LatencyOptions, latencyOptions, type LatencyPlan, planLatency } from "./latency_options.ts";
import type { ForwarderName, LatencyCase, LatencyResult } from "./latency_result.ts";
import { summarizeLatency } from "./latency_summary.ts";
import { forwarderName, latencyName, latencyNotes, latencyTable, microseconds } from "./latency_text.ts";
import { allowedCpus, describeMachine, machineText } from "./machine.ts";
import { Output, table } from "./output.ts";
import { standardProgress } from "./progress.ts";
import { reportHtml } from "./report.ts";
import { openReport, writeReport } from "./report_file.ts";
import { stoppable } from "./stoppable.ts";
import { chooseMemory, findTestpmd, type TestpmdProgram } from "./testpmd.ts";

function drawProgress(
  output: Output,
  wanted: LatencyCase,
  names: readonly ForwarderName[],
  rounds: readonly LatencyRound[],
  done: number,
): void {
  const parts = summarizeLatency(wanted, names, rounds).map(({ distance, forwarders }) => {
    const medians = forwarders.map((each) => `${forwarderName(each)} ${microseconds(each.p50_us)} us`);
    return `  CPUs ${distance}: ${medians.join(", ")}`;
  });
  output.frame([`${latencyName(wanted)}: ${Math.round(100 * done)} %`, ...parts]);
}

/** Runs all cases, and all of them again, as often as they are to be started; what there is when no more is wanted. */
async function runCases(
  plan: LatencyPlan,
  names: readonly ForwarderName[],
  testpmd: TestpmdProgram | undefined,
  stop: AbortSignal,
  progress: (wanted: LatencyCase, rounds: readonly LatencyRound[], done: number) => void,
): Promise<LatencyResult["cases"]> {
  const { cases, seconds, starts, placement } = plan;
  const found: LatencyRound[][] = cases.map(() => []);
  for (let start = 0; start < starts; start++) {
    for (const [index, wanted] of cases.entries()) {
      if (stop.aborted) break;
      const before = found[index]!;
      const rounds = await measureLatency(wanted, {
        ...{ names, seconds, placement, testpmd, stop },
        progress: (now, done) => progress(wanted, [...before, ...now], (start + done) / starts),
      });
      before.push(...rounds);
    }
  }
  return cases.flatMap((wanted, index) => summarizeLatency(wanted, names, found[index]!));
}

function end(output: Output, result: LatencyResult): void {
  // What is loaded is another thing than what is not: a table for each.
  for (const load of [...new Set(result.cases.map(({ load_pps }) => load_pps))]) {
    const { columns, rows } = latencyTable(result.cases.filter(({ load_pps }) => load_pps === load));
    const [head, ...lines] = table(columns, rows);
    output.line(output.style("bold", head ?? ""), ...lines, "");
  }
  output.line(...latencyNotes(result));
}

async function run(options: LatencyOptions): Promise<void> {
  const plan = planLatency(options, allowedCpus());
  const testpmd = options.peer === undefined ? undefined : await findTestpmd(options.testpmd);
  const report = options.report === undefined ? undefined : await openReport(options.report);
  const machine = describeMachine();
  const output = Output.standard();
  const progress = standardProgress();
  const { placement } = plan;
  const names: ForwarderName[] = [...plan.idle, ...testpmd === undefined ? [] : ["testpmd" as const]];
  if (!options.json) {
    const title = output.style("bold", `latency: ${machineText(machine)}`);
    output.line(title, placementText("loop", placement).replace("the guest", "all guests"), "");
  }
  const result = await stoppable(async (stop): Promise<LatencyResult> => {
    const peer = testpmd === undefined ? undefined : { version: testpmd.version, memory: chooseMemory() };
    const cases = await runCases(plan, names, testpmd, stop, (wanted, rounds, done) => {
      drawProgress(progress, wanted, names, rounds, done);
    });
    return { bench: "latency", machine, placement, peer, cases, interrupted: stop.aborted };
  });
  await progress.close();
  if (options.json) output.json(result);
  else if (result.cases.length > 0) end(output, result);
  await output.close();
  if (result.cases.length === 0) throw new CommandError("interrupted before anything was measured");
  if (report !== undefined) await writeReport(report, reportHtml([result], new Date()));
}

/** The command with its action. */
export function latencyCommand() {
  return latencyOptions().action(run);
}

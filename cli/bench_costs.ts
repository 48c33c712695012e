/**
 * `bench costs`: what a back end costs while nothing passes, and how long it is out when it is killed.
 *
 * @module
 */
import { checkPeer, choosePlacement } from "./bench_common_options.ts";
import { type BackEnd, ownBackEnd, peerBackEnd } from "./costs_back_end.ts";
import { type CostsMeasurement, type CostsRound, measureCosts } from "./costs_measure.ts";
import { type CostsOptions, costsOptions } from "./costs_options.ts";
import { measureOutages, type Outages } from "./costs_outage.ts";
import type { BackEndCosts, Cost, CostsResult } from "./costs_result.ts";
import { costsNotes, costsTable } from "./costs_text.ts";
import { CommandError } from "./error.ts";
import { allowedCpus, describeMachine, machineText } from "./machine.ts";
import { Output, table } from "./output.ts";
import { standardProgress } from "./progress.ts";
import { reportHtml } from "./report.ts";
import { openReport, writeReport } from "./report_file.ts";
import { spread } from "./statistics.ts";
import { stoppable } from "./stoppable.ts";
import { findTestpmd } from "./testpmd.ts";

/** With fewer undisturbed rounds than these, all count. */
const undisturbedMin = 3;

/** All rounds of one back end. */
interface Account {
  readonly backEnd: BackEnd;
  readonly rounds: CostsRound[];
  readonly outages: Outages[];
}

function summarize({ backEnd, rounds, outages }: Account): BackEndCosts[] {
  if (rounds.length === 0) return [];
  const undisturbed = rounds.filter(({ disturbed }) => !disturbed);
  const counted = undisturbed.length >= undisturbedMin ? undisturbed : rounds;
  const outages_ms = outages.flatMap((each) => each.outages_ms);
  const of = (cost: Cost) => spread(counted.map((round) => round[cost]))!;
  return [{
    ...{ name: backEnd.name, rounds: counted.length, rounds_disturbed: rounds.length - undisturbed.length },
    costs: {
      ...{ listening_ms: of("listening_ms"), idle_percent: of("idle_percent"), guests_percent: of("guests_percent") },
      ...{ rss_mib: of("rss_mib"), private_mib: of("private_mib"), huge_mib: of("huge_mib") },
    },
    kills: outages.reduce((sum, { kills }) => sum + kills, 0),
    survived: outages_ms.length,
    outage_ms: spread(outages_ms),
  }];
}

/** Rounds in which each back end has its turn; what was finished when the user wanted no more is what there is. */
async function runRounds(
  accounts: readonly Account[],
  { rounds: count, kills, ring }: CostsOptions,
  measurement: CostsMeasurement,
  progress: (round: number) => void,
): Promise<void> {
  for (let round = 1; round <= count; round++) {
    for (const { backEnd, rounds, outages } of accounts) {
      progress(round);
      if (measurement.stop.aborted) return;
      const found = await measureCosts(backEnd, measurement);
      if (found === undefined) return;
      rounds.push(found);
      if (kills > 0) outages.push(await measureOutages(backEnd, ring, kills, measurement));
    }
  }
}

function costsLines(output: Output, accounts: readonly BackEndCosts[]): string[] {
  const { columns, rows } = costsTable(accounts);
  const [head, ...lines] = table(columns, rows);
  return [output.style("bold", head ?? ""), ...lines];
}

async function run(options: CostsOptions): Promise<void> {
  checkPeer(options);
  const placement = choosePlacement(options.cpus, allowedCpus());
  const testpmd = options.peer === undefined ? undefined : await findTestpmd(options.testpmd);
  const report = options.report === undefined ? undefined : await openReport(options.report);
  const machine = describeMachine();
  const output = Output.standard();
  const progress = standardProgress();
  const backEnds = [ownBackEnd, ...testpmd === undefined ? [] : [peerBackEnd(testpmd)]];
  const accounts = backEnds.map((backEnd): Account => ({ backEnd, rounds: [], outages: [] }));
  if (!options.json) output.line(output.style("bold", `costs: ${machineText(machine)}`), "");
  const result = await stoppable(async (stop): Promise<CostsResult> => {
    await runRounds(accounts, options, { seconds: options.seconds, placement, stop }, (round) => {
      progress.frame([`round ${round} of ${options.rounds}`, ...costsLines(progress, accounts.flatMap(summarize))]);
    });
    const back_ends = accounts.flatMap(summarize);
    return { bench: "costs", machine, placement, ring: options.ring, back_ends, interrupted: stop.aborted };
  });
  await progress.close();
  if (options.json) output.json(result);
  else if (result.back_ends.length > 0) output.line(...costsLines(output, result.back_ends), "", ...costsNotes(result));
  await output.close();
  if (result.back_ends.length === 0) throw new CommandError("interrupted before anything was measured");
  if (report !== undefined) await writeReport(report, reportHtml([result], new Date()));
}

/** The command with its action. */
export function costsCommand() {
  return costsOptions().action(run);
}

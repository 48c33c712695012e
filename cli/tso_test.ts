/**
 * `vhostctl tso-test`: whether big packets, and packets without checksum, arrive as each receiver takes them.
 *
 * @module
 */
import { chartColumns } from "./chart.ts";
import { CommandError } from "./error.ts";
import { describeMachine, machineText } from "./machine.ts";
import { Output } from "./output.ts";
import { stoppable } from "./stoppable.ts";
import { planTso, tsoCommand, type TsoOptions } from "./tso_options.ts";
import { pairingsEach, receivers, runPairings } from "./tso_pairings.ts";
import type { Pairing, Throughput, TsoResult } from "./tso_result.ts";
import { behindTap, pairingsBehindTap, testBehindTap } from "./tso_tap.ts";
import {
  coverageText,
  failureLines,
  pairingTable,
  throughputChart,
  throughputNotes,
  withoutTapText,
} from "./tso_text.ts";
import { measureThroughput } from "./tso_throughput.ts";
import { watchGuests } from "./tso_watch.ts";

function paint(output: Output, line: string): string {
  return line.replaceAll("PASS", output.style("green", "PASS")).replaceAll("FAIL", output.style("red", "FAIL"));
}

/** Table and bars, as far as they are. */
function figures(output: Output, pairings: readonly Pairing[], throughput: readonly Throughput[]): string[] {
  const [head, ...rows] = pairingTable([...receivers, behindTap], pairings);
  const bars = throughputChart(throughput, chartColumns(), (bar) => output.style("green", bar));
  return [
    ...[output.style("bold", head ?? ""), ...rows.map((row) => paint(output, row))],
    ...bars.length > 0 ? ["", ...bars] : [],
  ];
}

/** Tests, while a terminal shows how far that is. */
async function test(seconds: number, stop: AbortSignal): Promise<TsoResult & { readonly trouble?: unknown }> {
  const screen = new Output(Deno.stderr, { NO_COLOR: Deno.env.get("NO_COLOR"), TERM: Deno.env.get("TERM") });
  const show = (...found: [readonly Pairing[], readonly Throughput[]]) => screen.frame(figures(screen, ...found));
  try {
    const between = await runPairings({ receivers, stop, progress: (found) => show(found, []) });
    const { pairings: beyond, reason: without_tap } = await pairingsBehindTap(stop);
    const pairings = [...between, ...beyond];
    const ok = pairings.every(({ result }) => result === "pass");
    const progress = (found: readonly Throughput[]) => show(pairings, found);
    const measured = ok && seconds > 0 ? measureThroughput({ seconds, stop, progress }) : Promise.resolve([]);
    // What was found before is not to be lost with it.
    const [outcome] = await Promise.allSettled([measured]);
    const common = {
      test: "tso",
      machine: describeMachine(),
      pairings,
      without_tap,
      interrupted: stop.aborted,
    } as const;
    return outcome.status === "fulfilled"
      ? { ...common, throughput: outcome.value, ok }
      : { ...common, throughput: [], ok: false, trouble: outcome.reason };
  } finally {
    await screen.close();
  }
}

function print(output: Output, { machine, pairings, without_tap, throughput }: TsoResult): void {
  output.line(output.style("bold", `tso-test: ${machineText(machine)}`), "");
  output.line(...figures(output, pairings, throughput), "");
  const failure = failureLines(pairings);
  if (failure.length > 0) output.line(...failure, "");
  output.line(coverageText(pairings));
  if (without_tap !== undefined) output.line(withoutTapText(without_tap));
  if (throughput.length > 0) output.line(...throughputNotes);
}

async function runTests(seconds: number, json: boolean): Promise<void> {
  const output = Output.standard();
  const { trouble, ...result } = await stoppable((stop) => test(seconds, stop));
  if (json) output.json(result);
  else print(output, result);
  await output.close();
  if (trouble !== undefined) throw trouble;
  const count = result.pairings.length;
  const failed = result.pairings.filter(({ result }) => result === "fail").length;
  if (failed > 0) throw new CommandError(`pairings failed: ${failed} of ${count}: please report it`);
  const all = (receivers.length + (result.without_tap === undefined ? 1 : 0)) * pairingsEach;
  if (count < all) throw new CommandError(`interrupted: ${count} of ${all} pairings passed: run it again`);
}

async function run(options: TsoOptions): Promise<void> {
  if (options.behindTap) return await testBehindTap();
  const plan = planTso(options);
  if (plan.sockets === undefined) await runTests(plan.seconds, plan.json);
  else await watchGuests(plan.sockets, plan.json);
}

/** The command with its action. */
export function command() {
  return tsoCommand().action((options) => run(options));
}

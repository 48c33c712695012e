/**
 * `vhostctl reconnect-watch`: who comes and goes at a port, when, and how long nothing passed.
 *
 * @module
 */
import { CommandError } from "./error.ts";
import { OutageReport } from "./outage_report.ts";
import { Output } from "./output.ts";
import { planReconnectWatch, reconnectWatchCommand, type ReconnectWatchPlan } from "./reconnect_watch_options.ts";
import { stoppable } from "./stoppable.ts";
import { watchOwnPort } from "./watched_port.ts";
import { watchQemu } from "./watched_qemu.ts";
import { watchServe } from "./watched_serve.ts";

/** The command, for `main.ts`. */
export function command() {
  return reconnectWatchCommand().action((options) => run(planReconnectWatch(options, Deno.cwd())));
}

/** Until that is stopped, or the time is over. */
async function watch({ watched, qmp, seconds }: ReconnectWatchPlan, report: OutageReport, stop: AbortSignal) {
  const end = new AbortController();
  const signal = AbortSignal.any([stop, end.signal]);
  const timer = seconds === undefined ? undefined : setTimeout(() => end.abort(), 1000 * seconds);
  const parts = [
    typeof watched === "string" ? watchServe(watched, report, signal) : watchOwnPort(watched, report, signal),
    ...qmp === undefined ? [] : [watchQemu(qmp, report, signal)],
  ];
  try {
    await Promise.all(parts);
  } finally {
    clearTimeout(timer);
    end.abort();
    await Promise.allSettled(parts);
  }
}

async function run(plan: ReconnectWatchPlan): Promise<void> {
  const output = Output.standard();
  const report = new OutageReport(output, plan.json);
  try {
    await stoppable((stop) => watch(plan, report, AbortSignal.any([stop, output.broken])));
    const wrong = report.summary(plan.maxOutage_ms);
    if (wrong !== undefined) throw new CommandError(wrong);
  } finally {
    await output.close();
  }
}

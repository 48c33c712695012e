/**
 * `vhostctl reconnect-watch`: who comes and goes at a port, when, and how long nothing passed; or a test of that.
 *
 * @module
 */
import { CommandError } from "./error.ts";
import { OutageReport } from "./outage_report.ts";
import { Output } from "./output.ts";
import { selfTest } from "./reconnect_self_test.ts";
import { planSelfTest } from "./reconnect_self_test_options.ts";
import {
  planReconnectWatch,
  reconnectWatchCommand,
  type ReconnectWatchOptions,
  type ReconnectWatchPlan,
} from "./reconnect_watch_options.ts";
import { stoppable } from "./stoppable.ts";
import { watchOwnPort } from "./watched_port.ts";
import { watchQemu } from "./watched_qemu.ts";
import { watchServe } from "./watched_serve.ts";

const frame_ms = 500;

/** The command, for `main.ts`. */
export function command() {
  return reconnectWatchCommand().action((options) => reconnectWatch(options));
}

async function reconnectWatch(options: ReconnectWatchOptions): Promise<void> {
  const test = planSelfTest(options);
  if (test === undefined) await run(planReconnectWatch(options, Deno.cwd()));
  else await selfTest(test);
}

/** Until that is stopped, or the time is over. */
async function watch({ watched, qmp, seconds }: ReconnectWatchPlan, report: OutageReport, stop: AbortSignal) {
  const end = new AbortController();
  const signal = AbortSignal.any([stop, end.signal]);
  const drawing = setInterval(() => report.draw(), frame_ms);
  const timer = seconds === undefined ? undefined : setTimeout(() => end.abort(), 1000 * seconds);
  const ports = typeof watched === "string"
    ? watchServe(watched, report, signal)
    : watchOwnPort(watched, report, signal);
  // At the end it is not waited for: a QEMU may not answer for as long as its back end does not.
  const view = qmp === undefined ? ports : watchQemu(qmp, report, signal).then(() => ports);
  try {
    await Promise.race([ports, view]);
  } finally {
    clearTimeout(timer);
    clearInterval(drawing);
    end.abort();
    await ports;
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

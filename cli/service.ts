/**
 * What the commands that serve ports until they are stopped have in common.
 *
 * @module
 */
import { Output } from "./output.ts";
import type { ServePlan, Surroundings } from "./serve_options.ts";
import { ServeReport, type Snapshot } from "./serve_report.ts";
import { SwitchServer } from "./switch_server.ts";

/** What a command says while its ports are served. */
export interface Service {
  readonly plan: ServePlan;
  readonly json: boolean | undefined;
  /** Rates come so often, 0 for never; undefined: every second on a terminal, elsewhere never. */
  readonly period_s: number | undefined;
  /** Called when the sockets are there. */
  announce(report: ServeReport): void | Promise<void>;
  /** Talks to the user meanwhile; the service ends when it resolves. */
  converse?(report: ServeReport, server: SwitchServer): Promise<void>;
  /** Called after something at a port was told. */
  happened?(report: ServeReport): void;
  /** Called at the end; `started_ms` as in the snapshot. */
  summary(report: ServeReport, last: Snapshot, started_ms: number): void;
}

/** Where this program runs, and on what. */
export function surroundings(): Surroundings {
  return {
    runtimeDirectory: Deno.env.get("XDG_RUNTIME_DIR"),
    workingDirectory: Deno.cwd(),
    cores: navigator.hardwareConcurrency,
  };
}

/** Serves until a signal comes, or nobody reads what is told. Throws a `CommandError`. */
export async function runService(service: Service): Promise<void> {
  const stopped = stopRequest();
  const output = Output.standard();
  const report = new ServeReport(output, service.json ?? false);
  try {
    await using server = await SwitchServer.open(service.plan, (event) => {
      report.happened(event);
      service.happened?.(report);
    });
    const running = server.run();
    const started_ms = performance.now();
    await service.announce(report);
    const timer = printRates(report, server, service.period_s);
    const ends = [stopped, running, ended(output.broken)];
    if (service.converse) ends.push(service.converse(report, server));
    await Promise.race(ends);
    clearInterval(timer);
    service.summary(report, server.snapshot(), started_ms);
  } finally {
    await output.close();
  }
}

/** Resolves at the first signal to stop; a second one ends the program at once, as if nobody listened. */
function stopRequest(): Promise<void> {
  return new Promise((resolve) => {
    const signals = ["SIGINT", "SIGTERM"] as const;
    const listener = () => {
      for (const signal of signals) Deno.removeSignalListener(signal, listener);
      resolve();
    };
    for (const signal of signals) Deno.addSignalListener(signal, listener);
  });
}

function ended(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

function printRates(report: ServeReport, server: SwitchServer, wanted: number | undefined) {
  const period_s = wanted ?? (report.live ? 1 : 0);
  if (period_s === 0) return undefined;
  report.rates(server.snapshot());
  return setInterval(() => report.rates(server.snapshot()), period_s * 1000);
}

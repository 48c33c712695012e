/**
 * What the commands that serve ports until they are stopped have in common.
 *
 * @module
 */
import { loadLibrary } from "../mod.ts";
import { ControlServer, type Request } from "./control_server.ts";
import { CommandError, HostError } from "./error.ts";
import { Output } from "./output.ts";
import { lifeOf } from "./port_look.ts";
import type { ServePlan, Surroundings } from "./serve_options.ts";
import { jsonPort, ServeReport, type Snapshot } from "./serve_report.ts";
import { rehearse } from "./rehearsal.ts";
import { makeSocketDirectory } from "./socket_directory.ts";
import { standBy, watchedFile } from "./standby.ts";
import { Successor } from "./successor.ts";
import { SwitchServer } from "./switch_server.ts";
import { whither } from "./whither.ts";

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
  let control: ControlServer | undefined;
  const report = new ServeReport(output, service.json ?? false, (object) => control?.tell(object));
  try {
    const { plan } = service;
    const open = () =>
      SwitchServer.open(plan, (event) => {
        report.happened(event);
        service.happened?.(report);
      });
    await using server = await (plan.standby === true ? openAfter(plan, report, stopped, open) : open());
    if (server === undefined) return;
    const running = server.run();
    const started_ms = performance.now();
    const successor = openSuccessor(plan, server, report);
    control = await openControl(plan, server, report, successor);
    tellTakeover(report, server);
    await service.announce(report);
    const timer = printRates(report, server, service.period_s);
    const ends = [stopped, running, ended(output.broken)];
    if (service.converse) ends.push(service.converse(report, server));
    if (successor) ends.push(successor.committed);
    await Promise.race(ends);
    clearInterval(timer);
    await successor?.stop();
    const last = server.snapshot();
    if (successor?.pid === undefined) return service.summary(report, last, started_ms);
    tellHandover(report, successor.pid, last);
    await control?.release();
    await successor.farewell(last);
  } finally {
    await control?.[Symbol.asyncDispose]();
    await output.close();
  }
}

/** Opens when another process has ended that serves the same ports; undefined: it was stopped before. */
async function openAfter(
  plan: ServePlan,
  report: ServeReport,
  stopped: Promise<void>,
  open: () => Promise<SwitchServer>,
): Promise<SwitchServer | undefined> {
  const path = watchedFile(plan);
  if (plan.directory !== undefined) makeSocketDirectory(plan.directory);
  await prepare(report);
  report.note({ event: "standby", waits_for: path }, `standing by until nobody has ${path}`);
  return await Promise.race([stopped.then(() => undefined), standBy(path, open)]);
}

/** Does beforehand what would take its time later. */
async function prepare(report: ServeReport): Promise<void> {
  try {
    await rehearse();
  } catch (error) {
    if (error instanceof HostError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    report.note({ event: "unrehearsed", reason }, `not rehearsed, and slower for it: ${reason}`);
  }
  loadLibrary();
}

/** Only what it asks for at the control socket leads to another process; lanes are set by one that has none. */
function openSuccessor(plan: ServePlan, server: SwitchServer, report: ServeReport): Successor | undefined {
  if (plan.control === undefined || plan.lanes !== undefined) return undefined;
  return new Successor(server.fabric, plan.control, (reason, pid) => {
    report.note({ event: "handover_failed", pid, reason }, `not handed over to process ${pid}: ${reason}`);
  });
}

function tellHandover(report: ServeReport, pid: number, { ports }: Snapshot): void {
  const object = { event: "handed_over", pid, ports: ports.length };
  report.note(object, `handed over to process ${pid}: ${ports.length} ports`);
}

function tellTakeover(report: ServeReport, { takeover }: SwitchServer): void {
  if (takeover === undefined) return;
  const { pid, ports, gap_ms } = takeover;
  const object = { event: "took_over", ...takeover };
  report.note(object, `took over from process ${pid}: ${ports} ports, which rested for ${gap_ms.toFixed(1)} ms`);
}

/** The ports of the plan, with what they counted. */
function controlledPorts({ ports }: ServePlan, server: SwitchServer): object[] {
  return server.snapshot().ports.map((port, index) => ({
    ...whither(ports[index]!),
    ...jsonPort(port),
    life: lifeOf(port),
  }));
}

/** Without one, the switch serves all the same. */
async function openControl(
  plan: ServePlan,
  server: SwitchServer,
  report: ServeReport,
  successor: Successor | undefined,
): Promise<ControlServer | undefined> {
  const { control: path, socketMode: mode } = plan;
  if (path === undefined) return undefined;
  try {
    const control = await ControlServer.open({
      path,
      mode,
      commands: {
        ports: () => controlledPorts(plan, server),
        ...successor && { takeover: (request: Request) => successor.ask(request) },
      },
    });
    report.note({ event: "control", socket: path });
    return control;
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    report.note(
      { event: "no_control", socket: path, reason: error.message },
      `no control socket: ${path}: ${error.message}`,
    );
    return undefined;
  }
}

/** Resolves at the first signal to stop; a second one ends the program at once, as if nobody listened. */
export function stopRequest(): Promise<void> {
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
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

function printRates(report: ServeReport, server: SwitchServer, wanted: number | undefined) {
  const period_s = wanted ?? (report.live ? 1 : 0);
  if (period_s === 0) return undefined;
  report.rates(server.snapshot());
  return setInterval(() => report.rates(server.snapshot()), period_s * 1000);
}

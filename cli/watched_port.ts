/**
 * A port of our own, in a switch with nobody else in it: what is watched with `reconnect-watch --socket`.
 *
 * @module
 */
import type { PortPlan } from "../mod.ts";
import { LookTimer } from "./look_timer.ts";
import type { OutageReport } from "./outage_report.ts";
import { lookOf } from "./port_look.ts";
import { findQemu, qemuArguments, qemuMemory, shellLines } from "./qemu_arguments.ts";
import { SwitchServer } from "./switch_server.ts";
import { whitherText } from "./whither.ts";

/** Serves it, and tells of it, until that is stopped. Throws a `CommandError` where the socket cannot be served. */
export async function watchOwnPort(plan: PortPlan, report: OutageReport, stop: AbortSignal): Promise<void> {
  const qemu = await findQemu();
  const parts = {
    ports: [plan],
    directory: undefined,
    socketMode: 0o600,
    workers: [undefined],
    idle: "sleep" as const,
  };
  await using server = await SwitchServer.open(parts, (event) => {
    report.happened(event, Date.now());
    timer.hurry();
  });
  const look = () => {
    report.looked(server.snapshot().ports.map((port) => lookOf(port, plan.socket)));
    timer.again();
  };
  using timer = new LookTimer(look, () => report.isCurious);
  const lines = shellLines([...qemuMemory, ...qemuArguments(plan, qemu)]);
  report.hint(`${plan.name} ${whitherText(plan)}; QEMU takes:`, ...lines);
  look();
  await Promise.race([server.run(), aborted(stop)]);
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

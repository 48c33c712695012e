/**
 * `vhostctl serve`: virtio-net ports for front ends, with a learning switch between them.
 *
 * @module
 */
import { libvirtInterface, libvirtMemory } from "./libvirt.ts";
import { Output } from "./output.ts";
import type { PortPlan } from "./port_option.ts";
import { assumedQemu, findQemu, type Qemu, qemuArguments, qemuMemory, shellLines } from "./qemu_arguments.ts";
import { planServe, serveCommand, type ServeOptions, type Surroundings } from "./serve_options.ts";
import { ServeReport } from "./serve_report.ts";
import { SwitchServer } from "./switch_server.ts";

/** The command, for `main.ts`. */
export function command() {
  return serveCommand().action(serve);
}

function surroundings(): Surroundings {
  return {
    runtimeDirectory: Deno.env.get("XDG_RUNTIME_DIR"),
    workingDirectory: Deno.cwd(),
    cores: navigator.hardwareConcurrency,
  };
}

async function serve(options: ServeOptions): Promise<void> {
  if (options.printCapabilities) {
    // vhost-user, "Backend program conventions"; QEMU docs/interop/vhost-user.json: nothing more is defined for net.
    console.log(JSON.stringify({ type: "net" }));
    return;
  }
  const plan = planServe(options, surroundings());
  const stopped = stopRequest();
  const qemu = options.libvirt ? assumedQemu : findQemu();
  const output = Output.standard();
  const report = new ServeReport(output, options.json ?? false);
  try {
    await using server = await SwitchServer.open(plan, (event) => report.happened(event));
    const running = server.run();
    const started_ms = performance.now();
    announce(report, plan.ports, await qemu, options.libvirt ?? false);
    const timer = printRates(report, server, options.stats);
    await Promise.race([stopped, running, ended(output.broken)]);
    clearInterval(timer);
    report.summary(server.snapshot(), started_ms);
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

/** Says how guests attach, and that they can. */
function announce(report: ServeReport, ports: readonly PortPlan[], qemu: Qemu, libvirt: boolean): void {
  const memory = libvirt ? libvirtMemory.map((line) => `  ${line}`) : shellLines(qemuMemory);
  report.note({ event: "memory", qemu: qemuMemory.flat() }, "each guest needs memory that can be shared:", ...memory);
  for (const port of ports) {
    const { name, socket, mode, mac, offer } = port;
    const { queuePairs, mtu } = offer;
    const how = mode === "server" ? "listens on" : "connects to";
    const size = queuePairs === 1 ? "1 queue pair" : `${queuePairs} queue pairs`;
    const attach = qemuArguments(port, qemu);
    report.note(
      { event: "port", port: name, socket, mode, queue_pairs: queuePairs, mac, mtu, qemu: attach.flat() },
      `${name} ${how} ${socket}, ${size}:`,
      ...libvirt ? libvirtInterface(port).map((line) => `  ${line}`) : shellLines(attach),
    );
  }
  report.note({ event: "ready", ports: ports.length }, "ready");
}

/** Rates come every second on a terminal, elsewhere only if asked for. */
function printRates(report: ServeReport, server: SwitchServer, wanted: number | undefined) {
  const period_s = wanted ?? (report.live ? 1 : 0);
  if (period_s === 0) return undefined;
  report.rates(server.snapshot());
  return setInterval(() => report.rates(server.snapshot()), period_s * 1000);
}

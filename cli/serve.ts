/**
 * `vhostctl serve`: virtio-net ports for front ends, with a learning switch between them.
 *
 * @module
 */
import type { PortPlan } from "../mod.ts";
import { libvirtInterface, libvirtMemory } from "./libvirt.ts";
import { assumedQemu, findQemu, type Qemu, qemuArguments, qemuMemory, shellLines } from "./qemu_arguments.ts";
import { planServe, serveCommand, type ServeOptions } from "./serve_options.ts";
import type { ServeReport } from "./serve_report.ts";
import { runService, surroundings } from "./service.ts";
import { whither, whitherText } from "./whither.ts";

/** The command, for `main.ts`. */
export function command() {
  return serveCommand().action(serve);
}

async function serve(options: ServeOptions): Promise<void> {
  if (options.printCapabilities) {
    // vhost-user, "Backend program conventions"; QEMU docs/interop/vhost-user.json: nothing more is defined for net.
    console.log(JSON.stringify({ type: "net" }));
    return;
  }
  const plan = planServe(options, surroundings());
  await runService({
    plan,
    json: options.json,
    period_s: options.stats,
    // QEMU is asked for its version when the sockets are there: front ends that wait need a CPU more than we an answer.
    announce: async (report) => {
      const qemu = options.libvirt ? assumedQemu : await findQemu();
      announce(report, plan.ports, qemu, options.libvirt ?? false);
    },
    summary: (report, last, started_ms) => report.summary(last, started_ms),
  });
}

/** Says how guests attach, and that they can. */
export function announce(report: ServeReport, ports: readonly PortPlan[], qemu: Qemu, libvirt: boolean): void {
  const memory = libvirt ? libvirtMemory.map((line) => `  ${line}`) : shellLines(qemuMemory);
  report.note({ event: "memory", qemu: qemuMemory.flat() }, "each guest needs memory that can be shared:", ...memory);
  for (const port of ports) {
    const { name, mac, offer: { queuePairs, mtu }, uplink } = port;
    const size = queuePairs === 1 ? "1 queue pair" : `${queuePairs} queue pairs`;
    const attach = uplink === undefined ? qemuArguments(port, qemu) : [];
    const lines = attach.length > 0 && libvirt ? libvirtInterface(port).map((line) => `  ${line}`) : shellLines(attach);
    report.note(
      { event: "port", port: name, ...whither(port), queue_pairs: queuePairs, mac, mtu, qemu: attach.flat() },
      `${name} ${whitherText(port)}, ${size}${lines.length > 0 ? ":" : ""}`,
      ...lines,
    );
  }
  report.note({ event: "ready", ports: ports.length }, "ready");
}

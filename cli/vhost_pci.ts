/**
 * `vhostctl vhost-pci`: one VM works on the network rings of another, through a PCI device.
 *
 * @module
 */
import { describeLinkEvent, Engine, linkBytes, LinkServer, Pump } from "../mod.ts";
import { findQemu, type Qemu, qemuArguments, qemuMemory, shellLines } from "./qemu_arguments.ts";
import { Output } from "./output.ts";
import { ServeReport } from "./serve_report.ts";
import { stopRequest } from "./service.ts";
import { commandError, openingError } from "./switch_server.ts";
import { planVhostPci, vhostPciCommand, type VhostPciOptions, type VhostPciPlan } from "./vhost_pci_options.ts";

/** The command, for `main.ts`. */
export function command() {
  return vhostPciCommand().action(vhostPci);
}

async function vhostPci(options: VhostPciOptions): Promise<void> {
  const plan = planVhostPci(options, Deno.cwd());
  const stopped = stopRequest();
  const output = Output.standard();
  const report = new ServeReport(output, options.json ?? false);
  try {
    // No worker: this program touches no ring.
    await using engine = openEngine();
    await using pump = Pump.open();
    using _server = openServer(plan, engine, pump, report);
    const running = pump.run();
    announce(report, plan, await findQemu());
    await Promise.race([stopped, running]);
    report.note({ event: "summary" }, "stopped: the link is down");
  } finally {
    await output.close();
  }
}

function openEngine(): Engine {
  try {
    return Engine.open({ portsMax: 1 });
  } catch (error) {
    throw openingError(error);
  }
}

function openServer({ port, ...rest }: VhostPciPlan, engine: Engine, pump: Pump, report: ServeReport): LinkServer {
  const { offer, socket } = port;
  try {
    return new LinkServer({
      ...rest,
      socket,
      offer,
      pump,
      port: engine.openPort({ queuePairs: offer.queuePairs }),
      happened: (event) => report.note(event, describeLinkEvent(event)),
    });
  } catch (error) {
    throw commandError(error);
  }
}

/** QEMU parts its settings with commas; one within a value is written twice. */
function escaped(path: string): string {
  return path.replaceAll(",", ",,");
}

/** Two devices: the memory with the doorbell, and the page that tells of the rings. */
function firstArguments({ port, pci, page }: VhostPciPlan): [string, string][] {
  const vectors = 2 * port.offer.queuePairs;
  return [
    ["-chardev", `socket,id=link0,path=${escaped(pci)}`],
    ["-device", `ivshmem-doorbell,chardev=link0,vectors=${vectors}`],
    ["-object", `memory-backend-file,id=page0,size=${linkBytes},share=on,mem-path=${escaped(page)}`],
    ["-device", "ivshmem-plain,memdev=page0"],
  ];
}

/** Says how both VMs attach, and what the one entrusts the other with. */
function announce(report: ServeReport, plan: VhostPciPlan, qemu: Qemu): void {
  const second = [...qemuMemory, ...qemuArguments(plan.port, qemu)];
  const first = firstArguments(plan);
  report.note(
    { event: "trust", reads: "all", writes: "all" },
    "trust: the first VM can read and write all of the second VM's memory",
  );
  report.note(
    { event: "second", socket: plan.port.socket, queue_pairs: plan.port.offer.queuePairs, qemu: second.flat() },
    "the second VM, whose network this is, is started first:",
    ...shellLines(second),
  );
  report.note(
    { event: "first", socket: plan.pci, page: plan.page, qemu: first.flat() },
    "the first VM, which works on its rings, is started next, or gets these devices plugged in:",
    ...shellLines(first),
  );
  report.note({ event: "ready" }, "ready");
}

/**
 * The command line of `vhost-pci`: its options, and the plan that follows from them.
 *
 * @module
 */
import { Command, Option } from "@commander-js/extra-typings";
import { resolve } from "node:path";
import { linkWithheld, makeOffer, type PortPlan } from "../mod.ts";
import { UsageError } from "./error.ts";
import { choice, socketModeOption } from "./option.ts";
import { checkSocket, checkTwice, parsePort, planPorts, type PortOption } from "./port_option.ts";

/** What an ivshmem device has vectors for, one a ring, and what one greeting of it holds. */
const queuePairsMax = 64;

const settings = ["name", "socket", "queues", "mac"] as const;

const examples = `
The first VM sees the second VM's memory in BAR 2 of an ivshmem-doorbell device, and works on its network rings there:
no packet passes through this program, and none is copied by the host. A second device, ivshmem-plain, shows a page that
tells of the rings. In the first VM, as root:

  vhostctl pmd-forward --vdev vhost_pci0,dev=0000:00:05.0 --vdev net_tap0,iface=link0

Trust: the first VM can read and write all of the second VM's memory. The second VM can do no more to the first one than
any guest can to a vhost-user port.

What cannot be: memory that is not one shared file, or no power of two (a BAR is one); memory plugged in later;
migration of either VM. The first VM's QEMU waits until the second VM's driver has started. If the second VM is started
again, with memory of its own, the first one's device has to be plugged in again; with a file of the same name
(memory-backend-file,mem-path=FILE) it need not.

Settings of --port, parted by commas (a comma within a value is written twice):
  socket=PATH   where the second VM's QEMU connects
  queues=N      queue pairs, 1 to ${queuePairsMax}
  name=NAME, mac=MAC   for the QEMU arguments

Examples:
  vhostctl vhost-pci --port socket=/tmp/second.sock --pci /tmp/first.sock
  vhostctl vhost-pci --port socket=/tmp/second.sock,queues=2 --pci /tmp/first.sock --json`;

function defineOptions() {
  return new Command("vhost-pci")
    .description("Show one VM's memory to another as a PCI device, which then works on its network rings.")
    .addOption(
      new Option("--port <settings>", "the second VM: socket=PATH, see below").argParser(parsePort)
        .makeOptionMandatory(),
    )
    .requiredOption("--pci <path>", "where the first VM's ivshmem-doorbell connects; the page is PATH.link")
    .addOption(
      new Option("--via <road>", "ivshmem, on any QEMU since 2.6").default("ivshmem" as const, "ivshmem")
        .argParser(road),
    )
    .addOption(socketModeOption())
    .option("--json", "print one JSON object a line")
    .addHelpText("after", examples);
}

function road(text: string): "ivshmem" {
  if (text === "auto") return "ivshmem";
  if (text !== "vfio-user") return choice("--via", ["ivshmem"])(text);
  throw new UsageError("cannot use --via: vfio-user: a later version brings it: give ivshmem");
}

/** The command, still without its action. */
export function vhostPciCommand() {
  return defineOptions();
}

/** What commander makes of the options. */
export type VhostPciOptions = ReturnType<ReturnType<typeof defineOptions>["opts"]>;

/** What is to be done. */
export interface VhostPciPlan {
  /** The second VM's. */
  readonly port: PortPlan;
  /** Absolute. */
  readonly pci: string;
  readonly page: string;
  readonly socketMode: number;
}

/** Checks everything that can be checked without touching anything; throws a `UsageError`. */
export function planVhostPci(options: VhostPciOptions, workingDirectory: string): VhostPciPlan {
  const { port: option, socketMode } = options;
  checkPort(option);
  const [planned] = planPorts([option], {
    directory: workingDirectory,
    queuePairs: 1,
    workingDirectory,
    stateDirectory: "none",
  });
  const pci = resolve(workingDirectory, options.pci);
  checkSocket(pci);
  checkTwice("socket", [planned!.socket, pci]);
  const offer = makeOffer({ queuePairs: option.queues ?? 1, withheld: linkWithheld });
  return { port: { ...planned!, offer }, pci, page: `${pci}.link`, socketMode };
}

function checkPort(option: PortOption): void {
  if (option.socket === undefined) throw new UsageError("missing in --port: socket: give socket=PATH");
  const strange = Object.keys(option).find((key) => !(settings as readonly string[]).includes(key));
  if (strange !== undefined) {
    throw new UsageError(`cannot use ${strange}= in --port of a link: choose from ${settings.join(", ")}`);
  }
  if ((option.queues ?? 1) <= queuePairsMax) return;
  throw new UsageError(`too many queues in --port: ${option.queues}: a link has ${queuePairsMax} queue pairs at most`);
}

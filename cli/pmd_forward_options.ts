/**
 * The command line of `pmd-forward`: its options, and the plan that follows from them.
 *
 * @module
 */
import { isAbsolute, join, normalize } from "node:path";
import { Command, Option } from "@commander-js/extra-typings";
import { DevargsError, type LaneMode, makeOffer, parseVdev, type VhostVdev } from "../mod.ts";
import { UsageError } from "./error.ts";
import { choice, cpuList, idleOption, seconds, socketModeOption, wholeNumber } from "./option.ts";
import { checkTwice, type PortPlan } from "./port_option.ts";
import type { LanePlan, ServePlan, Surroundings } from "./serve_options.ts";

/** testpmd's names, as ours for the data path. */
const modes = {
  io: "io",
  mac: "mac",
  macswap: "macswap",
  "5tswap": "swap5",
  rxonly: "rxonly",
  icmpecho: "icmpecho",
} as const satisfies Record<string, LaneMode>;
const modeNames = Object.keys(modes) as (keyof typeof modes)[];

const examples = `
Forwarding modes:
  io         frames go on as they are
  mac        from the port's address to 02:00:00:00:00:0N, N being the number of the port that sends
  macswap    source and destination address change places
  5tswap     so do the IP addresses, and the ports of TCP and UDP
  rxonly     frames are counted, and go nowhere
  icmpecho   ARP and ICMP echo requests are answered, all else goes nowhere

Ports forward in pairs, 0 to 1 and 1 to 0, 2 to 3 and so on; the last of an odd number to itself. Each queue has its
counterpart: frames never leave their queue.

Examples:
  vhostctl pmd-forward --vdev eth_vhost0,iface=/tmp/s0 --vdev eth_vhost1,iface=/tmp/s1
  vhostctl pmd-forward --vdev net_vhost0,iface=/tmp/s0,queues=2 --forward-mode macswap
  vhostctl pmd-forward --vdev eth_vhost0,iface=/tmp/s0,client=1 --forward-mode icmpecho --stats-period 1`;

function collect(text: string, before: readonly string[] | undefined): string[] {
  return [...(before ?? []), text];
}

/** The command, still without its action. */
export function pmdForwardCommand() {
  return new Command("pmd-forward")
    .description("Forward packets between vhost-user ports, as DPDK's testpmd does.")
    .addOption(
      new Option("--vdev <devargs>", "a port, as DPDK spells it; may be repeated").argParser(collect)
        .makeOptionMandatory(),
    )
    .addOption(
      new Option("--forward-mode <mode>", `${modeNames.join(", ")}`).default("io" as const, "io")
        .argParser(choice("--forward-mode", modeNames)),
    )
    .addOption(
      new Option("--nb-cores <n>", "native threads (default: cores - 1)").argParser(wholeNumber("--nb-cores", 1, 64)),
    )
    .addOption(new Option("--cpus <list>", "pin them, one to each CPU: 1,3 or 2-5").argParser(cpuList))
    .addOption(idleOption())
    .addOption(
      new Option("--stats-period <seconds>", "print rates every so often (default: on a terminal 1, else 0: never)")
        .argParser(seconds("--stats-period", 0.1)),
    )
    .addOption(socketModeOption())
    .option("--json", "print one JSON object a line")
    .addHelpText("after", examples);
}

/** What commander makes of the options. */
export type PmdForwardOptions = ReturnType<ReturnType<typeof pmdForwardCommand>["opts"]>;

function vhostVdev(text: string): VhostVdev {
  try {
    const vdev = parseVdev(text);
    if (vdev.driver === "vhost") return vdev;
    throw new UsageError(`driver not here yet: ${vdev.name}: a later version brings it, give eth_vhostN,iface=PATH`);
  } catch (error) {
    if (error instanceof DevargsError) throw new UsageError(error.message);
    throw error;
  }
}

/** "VHOST" and the number, as net_vhost's ports have it. */
function ownMac(port: number): number {
  return 0x5648_4f53_5400 + port;
}

function planPort(vdev: VhostVdev, number: number, workingDirectory: string): PortPlan {
  const { name, iface, queues, client, features } = vdev;
  const mac = ownMac(number).toString(16).match(/../g)!.join(":");
  return {
    name,
    socket: isAbsolute(iface) ? normalize(iface) : join(workingDirectory, iface),
    mode: client ? "client" : "server",
    mac,
    offer: makeOffer({ queuePairs: queues, withheld: features }),
  };
}

function planLane(mode: LaneMode, port: number, ports: number): LanePlan {
  const partner = Math.min(port ^ 1, ports - 1);
  const target = mode === "icmpecho" ? port : partner;
  return { mode, target, ownMac: ownMac(target), peerMac: 0x0200_0000_0000 + target };
}

/** Checks everything that can be checked without touching anything; throws a `UsageError`. */
export function planPmdForward(options: PmdForwardOptions, { workingDirectory, cores }: Surroundings): ServePlan {
  const ports = options.vdev.map((text, number) => planPort(vhostVdev(text), number, workingDirectory));
  checkTwice("name", ports.map(({ name }) => name));
  checkTwice("iface", ports.map(({ socket }) => socket));
  const rings = ports.reduce((sum, port) => sum + port.offer.queuePairs, 0);
  const count = options.nbCores ?? Math.max(1, Math.min(cores - 1, rings, 64));
  if (options.cpus !== undefined && options.nbCores !== undefined && options.cpus.length !== count) {
    throw new UsageError(
      `--nb-cores and --cpus differ: ${count} cores, ${options.cpus.length} CPUs: give one for each`,
    );
  }
  return {
    ports,
    lanes: ports.map((_, number) => planLane(modes[options.forwardMode], number, ports.length)),
    directory: undefined,
    socketMode: options.socketMode,
    workers: options.cpus ?? Array.from({ length: count }, () => undefined),
    idle: options.idle,
  };
}

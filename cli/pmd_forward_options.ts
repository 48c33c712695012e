/**
 * The command line of `pmd-forward`: its options, and the plan that follows from them.
 *
 * @module
 */
import { Command, Option } from "@commander-js/extra-typings";
import { absentModes, absentOptions } from "./absent.ts";
import { benchmarkAddresses, DevargsError, parseVdev, planVdev, type Vdev } from "../mod.ts";
import { UsageError } from "./error.ts";
import {
  burstMax,
  flowsMax,
  type ForwardConfig,
  type ForwardMode,
  forwardModes,
  frameBytesMax,
  frameBytesMin,
  planLanes,
} from "./forward_mode.ts";
import { choice, cpuList, idleOption, refuseOptions, seconds, socketModeOption, wholeNumber } from "./option.ts";
import { checkSocket, checkTwice } from "./port_option.ts";
import type { ServePlan, Surroundings } from "./serve_options.ts";

const examples = `
Forwarding modes:
  io         frames go on as they are
  mac        from the port's address to 02:00:00:00:00:0N, N being the number of the port that sends
  macswap    source and destination address change places
  5tswap     so do the IP addresses, and the ports of TCP and UDP
  rxonly     frames are counted, and go nowhere
  csum       as mac, with the checksums of IPv4, TCP and UDP computed anew
  icmpecho   ARP and ICMP echo requests are answered, all else goes nowhere
  txonly     packets of ours go to each guest, and what it sends stays in its rings
  flowgen    the same, in 1024 flows, and what it sends goes nowhere

Ports forward in pairs, 0 to 1 and 1 to 0, 2 to 3 and so on; the last of an odd number to itself. Each queue has its
counterpart: frames never leave their queue.

Examples:
  vhostctl pmd-forward --vdev eth_vhost0,iface=/tmp/s0 --vdev eth_vhost1,iface=/tmp/s1
  vhostctl pmd-forward --vdev net_vhost0,iface=/tmp/s0,queues=2 --forward-mode macswap
  vhostctl pmd-forward --vdev eth_vhost0,iface=/tmp/s0,client=1 --forward-mode icmpecho --stats-period 1
  vhostctl pmd-forward --vdev eth_vhost0,iface=/tmp/s0 --vdev virtio_user0,path=/run/ovs/p0
  vhostctl pmd-forward --vdev vhost_pci0,dev=0000:00:05.0 --vdev net_tap0,iface=link0    in a VM: see vhost-pci --help`;

/** Taken, and without effect: options of DPDK's EAL, and testpmd's about mbufs, both of which are not here. */
const needless = [
  ...["-c <mask>", "-l <list>", "--lcores <list>", "-n <channels>", "-m <MiB>", "--socket-mem <MiB>"],
  ...["--file-prefix <prefix>", "--huge-dir <dir>", "--log-level <level>", "--in-memory", "--no-huge", "--no-pci"],
  ...["--no-telemetry", "--single-file-segments", "--total-num-mbufs <n>", "--mbuf-size <bytes>", "--mbcache <n>"],
  ...["--max-pkt-len <bytes>", "--rxd <n>", "--txd <n>", "--no-flush-rx", "--disable-link-check"],
  ...["--no-lsc-interrupt", "--no-rmv-interrupt", "--no-numa", "--numa", "--socket-num <n>", "--socket-limit <MiB>"],
  ...["--port-numa-config <list>", "--ring-numa-config <list>", "--main-lcore <id>", "--mbuf-pool-ops-name <name>"],
  ...["-r <ranks>", "--iova-mode <mode>", "--vmware-tsc-map", "--syslog [facility]", "--base-virtaddr <address>"],
  ...["--telemetry", "--force-max-simd-bitwidth <bits>", "--huge-unlink [mode]", "--no-hpet", "--no-shconf"],
  ...["--vfio-intr <mode>", "--legacy-mem", "--match-allocations", "--huge-worker-stack [KiB]", "--enable-scatter"],
  ...["--rxpt <n>", "--rxht <n>", "--rxwt <n>", "--rxfreet <n>", "--txpt <n>", "--txht <n>", "--txwt <n>"],
  ...["--txfreet <n>", "--txrst <n>", "--disable-crc-strip", "--mlockall", "--no-mlockall", "--mp-alloc <mode>"],
  ...["--no-iova-contig"],
].map((flags) => new Option(flags).hideHelp());

function collect(text: string, before: readonly string[] | undefined): string[] {
  return [...(before ?? []), text];
}

function forwardMode(text: string): ForwardMode {
  if (!Object.hasOwn(absentModes, text)) return choice("--forward-mode", forwardModes)(text);
  throw new UsageError(`mode not here: ${text}: ${absentModes[text]}: choose from ${forwardModes.join(", ")}`);
}

/** Parses `a.b.c.d,a.b.c.d`. */
function addressPair(text: string): readonly [source: number, destination: number] {
  const addresses = text.split(",").map((part) => /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(part));
  const [source, destination, more] = addresses.map((match) => numberOfBytes(match?.slice(1).map(Number) ?? []));
  if (source !== undefined && destination !== undefined && more === undefined) return [source, destination];
  throw new UsageError(`cannot use --tx-ip: ${text}: give two IPv4 addresses, such as 198.18.0.1,198.18.0.2`);
}

function numberOfBytes(bytes: readonly number[]): number | undefined {
  if (bytes.length !== 4 || bytes.some((byte) => byte > 255)) return undefined;
  return bytes.reduce((sum, byte) => sum * 256 + byte, 0);
}

/** Parses `port` or `port,port`. */
function portPair(text: string): readonly [source: number, destination: number] {
  const match = /^(\d{1,5})(?:,(\d{1,5}))?$/.exec(text);
  const [source, destination] = [Number(match?.[1]), Number(match?.[2] ?? match?.[1])];
  if (source <= 65535 && destination <= 65535) return [source, destination];
  throw new UsageError(`cannot use --tx-udp: ${text}: give one or two ports from 0 to 65535, such as 9,9`);
}

function defineOptions() {
  return new Command("pmd-forward")
    .description("Forward packets between vhost-user ports, as DPDK's testpmd does.")
    .addOption(
      new Option("--vdev <devargs>", "a port, as DPDK spells it; may be repeated").argParser(collect),
    )
    .addOption(
      new Option("--forward-mode <mode>", forwardModes.join(", ")).default("io" as const, "io")
        .argParser(forwardMode),
    )
    .addOption(
      new Option("--burst <n>", "move so many packets together, at most").default(burstMax)
        .argParser(wholeNumber("--burst", 1, burstMax)),
    )
    .addOption(
      new Option("--txpkts <bytes>", "length of packets of ours").default(64)
        .argParser(wholeNumber("--txpkts", frameBytesMin, frameBytesMax)),
    )
    .addOption(
      new Option("--tx-ip <source,destination>", "addresses of packets of ours").argParser(addressPair)
        .default([benchmarkAddresses.source, benchmarkAddresses.destination] as const, "198.18.0.1,198.18.0.2"),
    )
    .addOption(
      new Option("--tx-udp <source,destination>", "their UDP ports; one for both").argParser(portPair)
        .default([benchmarkAddresses.sourcePort, benchmarkAddresses.destinationPort] as const, "9,9"),
    )
    .option("--txonly-multi-flow", `txonly sends ${flowsMax} flows: each packet from the address after the last one's`)
    .option("--tx-first", "send a burst of ours from each queue first, once both guests are there")
    .addOption(
      new Option("--nb-cores <n>", "native threads (default: cores - 1)").argParser(wholeNumber("--nb-cores", 1, 64)),
    )
    .addOption(
      new Option("--rxq <n>", "use so many queues of each port, no more than queues= says; --txq must be the same")
        .argParser(wholeNumber("--rxq", 1, 128)),
    )
    .addOption(new Option("--txq <n>").argParser(wholeNumber("--txq", 1, 128)).hideHelp())
    .addOption(new Option("--cpus <list>", "pin them, one to each CPU: 1,3 or 2-5").argParser(cpuList))
    .addOption(idleOption())
    .addOption(
      new Option("--stats-period <seconds>", "print rates every so often (default: on a terminal 1, else 0: never)")
        .argParser(seconds("--stats-period", 0.1)),
    )
    .addOption(socketModeOption())
    .option("-i, --interactive", "take commands, as testpmd's prompt does: see help there")
    .option("--auto-start", "with -i: forward from the beginning")
    .option("--cmdline-file <file>", "commands to begin with; implies -i")
    .option("--json", "print one JSON object a line")
    .addHelpText("after", examples);
}

/** Takes what testpmd takes, or says why not. */
function addOptionsOfTestpmd(command: ReturnType<typeof defineOptions>): void {
  for (const option of needless) command.addOption(option);
  for (const [flags, reason] of absentOptions) {
    refuseOptions(command, flags, (name) => `option of testpmd's that is not here: ${name}: ${reason}`);
  }
}

/** The command, still without its action. Behind `--` testpmd has options of its own: here they may stand anywhere. */
export function pmdForwardCommand() {
  const command = defineOptions();
  addOptionsOfTestpmd(command);
  return command.argument("[options...]", "more of them, behind --, as testpmd has it");
}

/** What commander makes of the options. */
export type PmdForwardOptions = ReturnType<ReturnType<typeof defineOptions>["opts"]>;

/** Options, and those that stood behind `--`. */
export function withOptionsOfTestpmd(options: PmdForwardOptions, more: readonly string[]): PmdForwardOptions {
  const command = defineOptions().exitOverride().configureOutput({ outputError: () => {} });
  addOptionsOfTestpmd(command);
  const { operands, unknown } = command.parseOptions([...more]);
  const stray = [...operands, ...unknown];
  if (stray.length > 0) throw new UsageError(`unknown option: ${stray.join(" ")}: see vhostctl pmd-forward --help`);
  const given = Object.entries(command.opts()).filter(([name]) =>
    command.getOptionValueSource(name as never) === "cli"
  );
  const vdev = [...options.vdev ?? [], ...command.opts().vdev ?? []];
  return { ...options, ...Object.fromEntries(given), ...vdev.length > 0 ? { vdev } : {} };
}

/** Those without effect that were given. */
export function needlessOptions(options: PmdForwardOptions): string[] {
  const values = options as Record<string, unknown>;
  // Commander has `--no-huge` as `huge`, which is true until it is given.
  const isGiven = (option: Option) =>
    option.negate ? values[option.attributeName()] === false : option.attributeName() in values;
  return needless.filter(isGiven).map(({ long, short }) => long ?? short ?? "");
}

/** How packets are made and moved, at first. */
export function forwardConfig(options: PmdForwardOptions): ForwardConfig {
  const { forwardMode, burst, txpkts, txIp, txUdp, txonlyMultiFlow } = options;
  return {
    mode: forwardMode,
    burst,
    frameBytes: txpkts,
    addresses: { source: txIp[0], destination: txIp[1], sourcePort: txUdp[0], destinationPort: txUdp[1] },
    flows: txonlyMultiFlow ? flowsMax : 1,
  };
}

/** Whether commands are taken. */
export function isInteractive({ interactive, cmdlineFile }: PmdForwardOptions): boolean {
  return interactive === true || cmdlineFile !== undefined;
}

/** So many queue pairs of a port are offered to its guest. */
function queuePairs({ name, queues }: Vdev, { rxq, txq = rxq }: PmdForwardOptions): number {
  if ((rxq ?? txq) !== txq) throw new UsageError(`--rxq and --txq differ: ${rxq}, ${txq}: give the same`);
  const wanted = txq ?? queues;
  if (wanted <= queues) return wanted;
  throw new UsageError(`too many queues: --rxq=${wanted}: ${name} has ${queues}, give it queues=${wanted}`);
}

function readVdev(text: string): Vdev {
  try {
    return parseVdev(text);
  } catch (error) {
    if (error instanceof DevargsError) throw new UsageError(error.message);
    throw error;
  }
}

/** Checks everything that can be checked without touching anything; throws a `UsageError`. */
export function planPmdForward(options: PmdForwardOptions, { workingDirectory, cores }: Surroundings): ServePlan {
  const { json, statsPeriod } = options;
  if (isInteractive(options) && (json || statsPeriod !== undefined)) {
    const other = json ? "--json" : "--stats-period";
    throw new UsageError(`options exclude each other: -i, ${other}: give one, and ask with show port stats all`);
  }
  if (isInteractive(options) && options.txFirst && !options.autoStart) {
    throw new UsageError("options do not go together: -i, --tx-first: add --auto-start, or say start tx_first there");
  }
  if (options.vdev === undefined) throw new UsageError("no port: give --vdev eth_vhost0,iface=PATH");
  const vdevs = options.vdev.map(readVdev);
  const ports = vdevs.map((vdev, number) =>
    planVdev(vdev, { number, queuePairs: queuePairs(vdev, options), workingDirectory })
  );
  ports.forEach(({ socket }) => checkSocket(socket));
  checkTwice("name", ports.map(({ name }) => name));
  checkTwice("iface", ports.map(({ socket, uplink, pci }) => uplink?.interface ?? pci?.device ?? socket));
  const rings = ports.reduce((sum, port) => sum + port.offer.queuePairs, 0);
  const count = options.nbCores ?? Math.max(1, Math.min(cores - 1, rings, 64));
  if (options.cpus !== undefined && options.nbCores !== undefined && options.cpus.length !== count) {
    throw new UsageError(
      `--nb-cores and --cpus differ: ${count} cores, ${options.cpus.length} CPUs: give one for each`,
    );
  }
  return {
    ports,
    lanes: planLanes(
      forwardConfig(options),
      ports,
      isInteractive(options) ? "stopped" : { firstBursts: options.txFirst ? 1 : 0 },
    ),
    directory: undefined,
    socketMode: options.socketMode,
    workers: options.cpus ?? Array.from({ length: count }, () => undefined),
    idle: options.idle,
  };
}

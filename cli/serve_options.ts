/**
 * The command line of `serve`: its options, and the plan that follows from them.
 *
 * @module
 */
import { Command, Option } from "@commander-js/extra-typings";
import { join, resolve } from "node:path";
import type { Lane, PortPlan } from "../mod.ts";
import { UsageError } from "./error.ts";
import { cpuList, idleOption, seconds, socketModeOption, wholeNumber } from "./option.ts";
import { checkSocket, checkTwice, collectPort, planPorts, type PortOption } from "./port_option.ts";
import { collectUplink, planUplinks } from "./uplink_option.ts";

const examples = `
A port's settings, parted by commas (a comma within a value is written twice):
  name=NAME            portN by default
  socket=PATH          DIR/NAME.sock by default
  mode=server|client   who listens: we (server, the default) or the front end
  queues=N             queue pairs, else as --queues says
  mac=MAC, mtu=BYTES   for the QEMU arguments; frames longer than the MTU are not delivered
  features=-NAME       withholds a feature, such as -EVENT_IDX or -RING_PACKED; several: -MQ-MTU
  guest-tso=off        cuts big packets for the guest, whatever it negotiated
  device-state=on      what the switch knows of a guest (its addresses, counters) migrates with it, by QEMU 10 or newer;
                       for both ends: to a port without it no guest can go from here
  postcopy=on          lets a guest run here before all of its memory has come (post-copy migration to here), with one
                       queue pair; for front ends that are trusted: until a page comes, 5 s at most, other ports wait

Uplinks, and their settings, parted by commas:
  tap:IF       a tap, made if it is not there; what was made goes at the end
  packet:IF    all that an interface there is receives, and is sent through it; needs CAP_NET_RAW
  xdp:IF       the same by AF_XDP, without the host's stack: for the first queues of it, what comes to others stays the
               host's; needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF
  name=NAME, queues=N, mtu=BYTES
  gro=off      does not put segments of a TCP stream together when they come

The control socket takes lines of JSON and answers each with one: {"command":"ports"} with ports and counters, and after
{"command":"events"} come those of --json. vhostctl migrate asks there. Where every port has a path of its own and no
--dir is given, there is one only with --control.

With --takeover, and otherwise the same options, it asks there for sockets, memory and rings of the serve that runs, of
this or another version, and goes on where that stops: no guest is connected anew, and no packet lost. The other one
then ends; if anything fails, it serves on, and this one ends. More ports may be given than it has.

With --standby, and otherwise the same options, it waits, loaded and rehearsed, until the serve that runs is gone: it
crashed, was killed, or was stopped. Then it takes its place, in a few milliseconds instead of those that a start takes.
Several may wait; one of them goes on. Where nobody serves, it does at once. So all may be started alike.

Examples:
  vhostctl serve --queues 4
  vhostctl serve --uplink tap:tap0,queues=2
  vhostctl serve --port name=web,socket=/tmp/web.sock,queues=2 --port name=db,socket=/tmp/db.sock
  vhostctl serve --ports 8 --dir /run/switch --socket-mode 0660 --cpus 2,3 --idle busy
  vhostctl serve --port socket=/tmp/qemu.sock,mode=client --libvirt
  vhostctl serve --queues 4 --takeover
  vhostctl serve --queues 4 --standby
  vhostctl serve --json --stats 1 | jq 'select(.event == "stats")'`;

/** The control socket in a folder of sockets. */
export const controlName = "control.sock";

function defineOptions() {
  return new Command("serve")
    .description("Serve virtio-net ports to QEMU and other vhost-user front ends, with a learning switch between them.")
    .addOption(
      new Option("--queues <n>", "queue pairs of each port").default(1).argParser(wholeNumber("--queues", 1, 128)),
    )
    .addOption(
      new Option("--ports <n>", "make so many ports, with sockets in --dir (default: 2)")
        .argParser(wholeNumber("--ports", 1, 1024)).conflicts(["port", "socketPath"]),
    )
    .addOption(new Option("--port <settings>", "make one port; may be repeated, see below").argParser(collectPort))
    .addOption(
      new Option(
        "--uplink <kind:interface>",
        "lead to an interface of the host's: tap:IF, packet:IF or xdp:IF; may be repeated, see below",
      )
        .argParser(collectUplink),
    )
    .option("--dir <dir>", "where sockets go (default: $XDG_RUNTIME_DIR/vhostctl or /run/vhostctl)")
    .addOption(
      new Option("--workers <n>", "native threads (default: cores - 1)").argParser(wholeNumber("--workers", 1, 64)),
    )
    .addOption(new Option("--cpus <list>", "pin the workers, one to each CPU: 1,3 or 2-5").argParser(cpuList))
    .addOption(idleOption())
    .addOption(
      new Option("--stats <seconds>", "print rates every so often (default: on a terminal 1, else 0, which is never)")
        .argParser(seconds("--stats", 0.1)),
    )
    .addOption(socketModeOption())
    .option("--control <path>", "where to listen for programs that ask, or none (default: control.sock in --dir)")
    .option("--state-dir <dir>", "where files go that outlive this program, or none (default: beside each socket)")
    .option("--takeover", "go on with the ports of the serve that runs, in its place; see below")
    .addOption(
      new Option("--standby", "wait beside the serve that runs, and take its place when it is gone; see below")
        .conflicts("takeover"),
    )
    .option("--libvirt", "print libvirt XML instead of QEMU arguments")
    .option("--json", "print one JSON object a line")
    .addOption(
      new Option("--socket-path <path>", "make one port on this socket, as vhost-user back ends do").conflicts("port"),
    )
    .option("--print-capabilities", "print what libvirt asks of a vhost-user back end, and stop")
    .addHelpText("after", examples);
}

/** The command, still without its action. */
export function serveCommand() {
  return defineOptions();
}

/** What commander makes of the options. */
export type ServeOptions = ReturnType<ReturnType<typeof serveCommand>["opts"]>;

/** What is to be done. */
export interface ServePlan {
  readonly ports: readonly PortPlan[];
  /** Where sockets without a path of their own go; undefined when there are none. */
  readonly directory: string | undefined;
  readonly socketMode: number;
  /** Where programs ask; nowhere, if undefined. */
  readonly control?: string | undefined;
  /** Whether to go on with what is served there. */
  readonly takeover?: boolean | undefined;
  /** Whether to wait until nobody serves these ports. */
  readonly standby?: boolean | undefined;
  /** A CPU for each worker, or undefined for any. */
  readonly workers: readonly (number | undefined)[];
  readonly idle: "adaptive" | "busy" | "sleep";
  /** Where each port's frames go, if not through the switch. */
  readonly lanes?: readonly LanePlan[];
}

/** A lane whose target is a port's place in the plan. */
export type LanePlan = Omit<Lane, "target"> & { readonly target: number };

/** What the plan takes from around the program. */
export interface Surroundings {
  readonly runtimeDirectory: string | undefined;
  readonly workingDirectory: string;
  readonly cores: number;
}

function portOptions(options: ServeOptions): PortOption[] {
  if (options.socketPath !== undefined) return [{ socket: options.socketPath }];
  return options.port ?? Array.from({ length: options.ports ?? 2 }, () => ({}));
}

function planWorkers(options: ServeOptions, rings: number, { cores }: Surroundings): ServePlan["workers"] {
  const { workers, cpus: wanted } = options;
  if (wanted === undefined) {
    // More threads than rings from guests would have nothing to do.
    const count = workers ?? Math.max(1, Math.min(cores - 1, rings, 64));
    return Array.from({ length: count }, () => undefined);
  }
  if (workers !== undefined && workers !== wanted.length) {
    throw new UsageError(
      `--workers and --cpus differ: ${workers} workers, ${wanted.length} CPUs: give one CPU for each`,
    );
  }
  return wanted;
}

/** @param directory Where the default is; undefined where there is none. */
function planControl(wanted: string | undefined, directory: string | undefined, workingDirectory: string) {
  if (wanted === "none" || (wanted === undefined && directory === undefined)) return undefined;
  const path = resolve(workingDirectory, wanted ?? join(directory!, controlName));
  if (wanted !== undefined) checkSocket(path);
  return path;
}

/** Checks everything that can be checked without touching anything; throws a `UsageError`. */
export function planServe(options: ServeOptions, surroundings: Surroundings): ServePlan {
  const { runtimeDirectory, workingDirectory } = surroundings;
  const directory = options.dir ?? (runtimeDirectory ? `${runtimeDirectory}/vhostctl` : "/run/vhostctl");
  const wanted = portOptions(options);
  const guests = planPorts(wanted, {
    directory,
    queuePairs: options.queues,
    workingDirectory,
    stateDirectory: options.stateDir,
  });
  const ports = [...guests, ...planUplinks(options.uplink ?? [])];
  checkTwice("name", ports.map(({ name }) => name));
  const isUsed = options.dir !== undefined || wanted.some((port) => port.socket === undefined);
  const control = planControl(options.control, isUsed ? directory : undefined, workingDirectory);
  if (guests.some(({ socket }) => socket === control)) {
    throw new UsageError(
      `control socket in a port's place: ${control}: give another with --control PATH, or --control none`,
    );
  }
  if (options.takeover === true && control === undefined) {
    throw new UsageError("--takeover asks at a control socket, and there is none: give --control PATH");
  }
  return {
    takeover: options.takeover,
    standby: options.standby,
    ports,
    directory: isUsed ? directory : undefined,
    socketMode: options.socketMode,
    control,
    workers: planWorkers(options, ports.reduce((sum, port) => sum + port.offer.queuePairs, 0), surroundings),
    idle: options.idle,
  };
}

/**
 * The command line of `reconnect-watch`.
 *
 * @module
 */
import { Command, Option } from "@commander-js/extra-typings";
import { resolve } from "node:path";
import type { PortPlan } from "../mod.ts";
import { UsageError } from "./error.ts";
import { seconds, wholeNumber } from "./option.ts";
import { checkSocket, planPorts } from "./port_option.ts";
import { addSelfTestOptions, selfTestHelp } from "./reconnect_self_test_options.ts";
import { type SocketAddress, socketAddress } from "./socket_address.ts";

const examples = `
An outage lasts from the moment when rings that ran cease to, because the front end or the back end has gone, until
rings run again; then the first packet of each way is told, if there were packets that way before. Rings that the front
end stops while it stays (a driver is unloaded, a guest is halted or migrates) are told, and are no outage.

With --attach the control socket of a vhostctl serve is asked, control.sock in its --dir. When that serve is killed,
stopped or replaced, the watch goes on, and every port that ran is out until it runs again. With --socket this command
serves one port of its own, and nobody else is behind it: connect QEMU, and see what it does. With --qmp what QEMU says
of itself is told as well: a path or HOST:PORT, as in its -qmp unix:PATH,server=on,wait=off, for one client at a time.

Ctrl-C ends it with the outages of each port. The exit code is 1 if one was longer than --max-outage, also one that
still lasts.

Examples:
  vhostctl reconnect-watch --attach /run/vhostctl/control.sock
  vhostctl reconnect-watch --attach /tmp/net/control.sock --qmp /run/a/qmp --max-outage 500 --seconds 60
  vhostctl reconnect-watch --socket /tmp/qemu.sock --client
  vhostctl reconnect-watch --attach /tmp/net/control.sock --json | jq -c 'select(.event == "outage")'`;

const outageMax_ms = 86_400_000;

/** The command, still without its action. */
export function reconnectWatchCommand() {
  return addSelfTestOptions(new Command("reconnect-watch"))
    .description("Watch front ends and back ends go and come back: a timeline of each port, and its outages.")
    .addOption(
      new Option("--socket <path>", "serve a port of its own there, and watch that").conflicts("attach"),
    )
    .addOption(new Option("--client", "connect to --socket, where QEMU listens (server=on)").conflicts("attach"))
    .addOption(
      new Option("--queues <n>", "queue pairs of that port (default: 1)")
        .argParser(wholeNumber("--queues", 1, 128)).conflicts("attach"),
    )
    .option("--attach <control>", "watch the ports of a vhostctl serve, by its control socket")
    .addOption(new Option("--qmp <qmp>", "QMP socket of a guest's QEMU").argParser(socketAddress("--qmp")))
    .addOption(
      new Option("--max-outage <ms>", "exit with 1 if an outage is longer")
        .argParser(wholeNumber("--max-outage", 1, outageMax_ms)),
    )
    .addOption(
      new Option("--seconds <n>", "end after so long, 0 for never (default: 0)").argParser(seconds("--seconds", 0.1)),
    )
    .option("--json", "print one JSON object a line: each moment, and the outages at the end")
    .addHelpText("after", examples + selfTestHelp);
}

/** What commander makes of the options. */
export type ReconnectWatchOptions = ReturnType<ReturnType<typeof reconnectWatchCommand>["opts"]>;

/** What is to be done. */
export interface ReconnectWatchPlan {
  /** A port of our own, or the control socket of a `serve`. */
  readonly watched: PortPlan | string;
  readonly qmp: SocketAddress | undefined;
  readonly maxOutage_ms: number | undefined;
  /** For ever, if undefined. */
  readonly seconds: number | undefined;
  readonly json: boolean;
}

/** Checks everything that can be checked without touching anything; throws a `UsageError`. */
export function planReconnectWatch(options: ReconnectWatchOptions, workingDirectory: string): ReconnectWatchPlan {
  return {
    watched: planWatched(options, workingDirectory),
    qmp: options.qmp,
    maxOutage_ms: options.maxOutage,
    seconds: options.seconds === 0 ? undefined : options.seconds,
    json: options.json ?? false,
  };
}

function planWatched({ socket, client, queues, attach }: ReconnectWatchOptions, workingDirectory: string) {
  if (attach !== undefined) {
    const control = resolve(workingDirectory, attach);
    checkSocket(control);
    return control;
  }
  if (socket === undefined) {
    throw new UsageError(
      "nothing to watch: neither --attach nor --socket: give the control socket of a vhostctl serve, " +
        "or a path where a port is to be served, or --self-test",
    );
  }
  const option = { socket, mode: client ? "client" as const : "server" as const };
  const [port] = planPorts([option], { directory: workingDirectory, queuePairs: queues ?? 1, workingDirectory });
  return port!;
}

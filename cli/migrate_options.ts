/**
 * The command line of `migrate`.
 *
 * @module
 */
import { Command, Option } from "@commander-js/extra-typings";
import { UsageError } from "./error.ts";
import { addSelfTestOptions, selfTestHelp } from "./migrate_self_test_options.ts";
import type { MigrationPlan } from "./migration.ts";
import { seconds, wholeNumber } from "./option.ts";
import { socketAddress } from "./socket_address.ts";

const examples = `
QEMU sends the guest; this tells it to (QMP), watches, and says what is to be done where it does not end. A QMP socket
is a path or HOST:PORT, as in QEMU's -qmp unix:PATH,server=on,wait=off; it takes one client at a time. Start the
destination with -incoming defer, and with --to-qmp it is told where to listen, and asked whether the guest runs.

What vhostctl serve counted is asked of its control socket, control.sock beside the guest's vhost-user socket, on both
sides: pages that it logged, announcements (RARP, gratuitous ARP), and packets that were dropped meanwhile.

Ctrl-C cancels: the guest runs on where it is.

Examples:
  vhostctl migrate --from /run/a/qmp --to tcp:host2:4444
  vhostctl migrate --from /run/a/qmp --to unix:/tmp/m --to-qmp /run/b/qmp --max-downtime 500
  vhostctl migrate --from localhost:5555 --to tcp:host2:4444 --to-qmp host2:5555 --postcopy
  vhostctl migrate --from /run/a/qmp --to 'exec:ssh host2 nc localhost 4444' --max-bandwidth 100M
  vhostctl migrate --from /run/a/qmp --to tcp:host2:4444 --json | jq -c 'select(.event == "progress")'`;

/** More than any way carries. QEMU's own limit is 1 Gbit/s. */
const bandwidthUnlimited = 2 ** 40;

/** Bytes a second, with k, M or G behind it: powers of ten. */
function bandwidth(text: string): number {
  const match = /^(\d{1,9}(?:\.\d{1,6})?)([kMG]?)B?$/.exec(text);
  const value = match ? Math.round(Number(match[1]) * { "": 1, k: 1e3, M: 1e6, G: 1e9 }[match[2] as "" | "k"]) : 0;
  if (value >= 1000 && value <= bandwidthUnlimited) return value;
  throw new UsageError(`cannot use --max-bandwidth: ${text}: give bytes a second, such as 500k, 100M or 1.2G`);
}

/** A migration URI of QEMU's. */
function uri(text: string): string {
  if (/^fd:/.test(text)) {
    throw new UsageError(
      `cannot use --to: ${text}: a file descriptor can be passed by its owner alone: give tcp: or unix:`,
    );
  }
  if (/^unix:./.test(text) || /^exec:./.test(text) || /^rdma:./.test(text)) return text;
  const port = Number(/^tcp:(?:\[[^\]]+\]|[^:]*):(\d{1,5})(?:,.*)?$/.exec(text)?.[1]);
  if (port >= 1 && port <= 65535) return text;
  throw new UsageError(`cannot use --to: ${text}: give QEMU's URI: tcp:HOST:PORT, unix:PATH or exec:COMMAND`);
}

/** The command, still without its action. */
export function migrateCommand() {
  return addSelfTestOptions(new Command("migrate"))
    .description("Migrate a running guest from one QEMU to another, and tell what became of it.")
    .addOption(new Option("--from <qmp>", "QMP socket of the guest's QEMU").argParser(socketAddress("--from")))
    .addOption(new Option("--to <uri>", "where it goes: tcp:HOST:PORT, unix:PATH or exec:COMMAND").argParser(uri))
    .addOption(
      new Option("--to-qmp <qmp>", "QMP socket of the QEMU that takes the guest").argParser(socketAddress("--to-qmp")),
    )
    .addOption(
      new Option("--max-downtime <ms>", "the guest may stand still for so long (default: QEMU's, 300)")
        .argParser(wholeNumber("--max-downtime", 1, 2_000_000)),
    )
    .addOption(
      new Option("--max-bandwidth <bytes>", "send no more a second: 100M, 1.2G (default: no limit)").argParser(
        bandwidth,
      ),
    )
    .option("--auto-converge", "slow the guest down where it writes faster than can be sent")
    .option("--postcopy", "where it does not end: start the guest there, and fetch the rest as it is missed")
    .addOption(
      new Option("--multifd <channels>", "send through so many connections").argParser(
        wholeNumber("--multifd", 1, 255),
      ),
    )
    .addOption(
      new Option("--cancel-after <seconds>", "cancel if it is not done by then").argParser(
        seconds("--cancel-after", 0.1),
      ),
    )
    .option("--control <path>", "control socket of the vhostctl serve that the guest leaves (default: found)")
    .option("--to-control <path>", "control socket of the one that it goes to (default: found, with --to-qmp)")
    .option("--json", "print one JSON object a line: progress, and the result at the end")
    .addHelpText("after", examples + selfTestHelp);
}

/** What commander makes of the options. */
export type MigrateOptions = ReturnType<ReturnType<typeof migrateCommand>["opts"]>;

/** Checks everything that can be checked without touching anything; throws a `UsageError`. */
export function planMigration(options: MigrateOptions): MigrationPlan {
  const { from, to, cancelAfter, multifd, maxDowntime, postcopy = false } = options;
  if (from === undefined) {
    throw new UsageError("option missing: --from: give the QMP socket of the guest's QEMU, or --self-test");
  }
  if (to === undefined) throw new UsageError("option missing: --to: give where it goes, such as tcp:host2:4444");
  const isSocket = !to.startsWith("exec:");
  if (!isSocket && (postcopy || multifd !== undefined)) {
    throw new UsageError(`cannot use --to with --postcopy or --multifd: ${to}: give tcp: or unix:`);
  }
  return {
    from,
    to,
    toQmp: options.toQmp,
    setting: {
      capabilities: {
        events: true,
        // The source then knows that the destination has taken the guest, before it lets go of it.
        "return-path": isSocket,
        "auto-converge": options.autoConverge ?? false,
        "postcopy-ram": postcopy,
        multifd: multifd !== undefined,
        "pause-before-switchover": false,
      },
      parameters: {
        "max-bandwidth": options.maxBandwidth ?? bandwidthUnlimited,
        ...maxDowntime === undefined ? {} : { "downtime-limit": maxDowntime },
        ...multifd === undefined ? {} : { "multifd-channels": multifd },
      },
    },
    postcopy,
    cancelAfter_s: cancelAfter === 0 ? undefined : cancelAfter,
    control: options.control,
    toControl: options.toControl,
  };
}

/**
 * The command line of `tso-test`.
 *
 * @module
 */
import { Command, Option } from "@commander-js/extra-typings";
import { UsageError } from "./error.ts";
import { seconds } from "./option.ts";
import { checkSocket, checkTwice } from "./port_option.ts";

const examples = `
A guest may leave the checksum of a packet, and its segmentation, to whoever is behind it (TSO, USO and UFO of virtio).
A receiver that negotiated the same gets such a packet as it is; for any other the switch finishes it. Here two
simulated guests exchange packets of every kind for every kind of receiver, over real sockets and rings, and what
arrives is compared, byte by byte, with what Linux would have made of them. The same goes out of a tap and through a
bridge, in a network of its own, where Linux makes it (RING tap; that takes root or user namespaces, unshare and ip).
Then the throughput is measured, with and without such offloads.

  TAKES all         what was left to do is left to the receiver
  TAKES checksums   the switch cuts, the receiver finishes checksums
  TAKES nothing     the switch cuts, and finishes checksums

With --socket A --socket B two guests of yours, with one queue pair each, are joined instead, and what they send is
watched until Ctrl-C: the longest frame, how much is left to be cut, and whether finished checksums are right.

Examples:
  vhostctl tso-test
  vhostctl tso-test --json | jq '.pairings[] | select(.result == "fail")'
  vhostctl tso-test --socket /tmp/a --socket /tmp/b`;

const secondsDefault = 1;

function collect(text: string, before: readonly string[] | undefined): string[] {
  return [...before ?? [], text];
}

/** The command, still without its action. */
export function tsoCommand() {
  return new Command("tso-test")
    .description("Prove that big packets and unfinished checksums arrive as each receiver takes them.")
    .addOption(
      new Option("--seconds <n>", `how long to measure each bar of throughput, 0 for none (default: ${secondsDefault})`)
        .argParser(seconds("--seconds", 0.1)),
    )
    .addOption(new Option("--socket <path>", "join two guests, one at each of two sockets").argParser(collect))
    .addOption(new Option("--behind-tap", "test that alone").hideHelp())
    .option("--json", "print one JSON object at the end; with --socket, one a line")
    .addHelpText("after", examples);
}

/** What commander makes of the options. */
export type TsoOptions = ReturnType<ReturnType<typeof tsoCommand>["opts"]>;

/** What is to be done. */
export interface TsoPlan {
  readonly seconds: number;
  /** Of two guests that are to be watched; simulated ones are tested, if undefined. */
  readonly sockets: readonly [string, string] | undefined;
  readonly json: boolean;
}

/** Checks everything that can be checked without touching anything; throws a `UsageError`. */
export function planTso(options: TsoOptions): TsoPlan {
  const { seconds, socket } = options;
  const json = options.json ?? false;
  if (socket === undefined) return { seconds: seconds ?? secondsDefault, sockets: undefined, json };
  if (seconds !== undefined) throw new UsageError(`--seconds with --socket: ${seconds}: leave one out`);
  const [first, second, ...others] = socket;
  if (first === undefined || second === undefined || others.length > 0) {
    throw new UsageError(`cannot join guests: ${socket.length} --socket: give two`);
  }
  checkTwice("socket", socket);
  socket.forEach(checkSocket);
  const odd = socket.find((path) => path.includes(","));
  if (odd !== undefined) throw new UsageError(`cannot use --socket: ${odd}: give a path without commas`);
  return { seconds: 0, sockets: [first, second], json };
}

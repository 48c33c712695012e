/**
 * The command line of `bench costs`.
 *
 * @module
 */
import { Command, Option } from "@commander-js/extra-typings";
import { cpusOption, peerOption, secondsOption, testpmdOption } from "./bench_common_options.ts";
import { choice, wholeNumber } from "./option.ts";

const examples = `
A \`serve\` with two ports is started, and asked for nothing: how long it takes to listen, what it uses of a CPU without
guests and with two that do nothing, and its memory. Then two guests exchange packets through it while it is killed, and
started again at once: how long nothing arrives. With --peer dpdk all is done to testpmd as well, round by round; under
kills both back ends connect to their guests, which outlive them as QEMU does.

Examples:
  vhostctl bench costs
  vhostctl bench costs --peer dpdk --rounds 10 --kills 5
  vhostctl bench costs --kills 0 --seconds 10
  vhostctl bench costs --json | jq '.back_ends[] | {name, outage_ms}'`;

/** The command, still without its action. */
export function costsOptions() {
  return new Command("costs")
    .description("Measure what a back end costs while nothing passes, and how long it is out when it is killed.")
    .addOption(
      new Option("--rounds <n>", "how often to start each back end").default(5)
        .argParser(wholeNumber("--rounds", 1, 1000)),
    )
    .addOption(secondsOption(2, "its CPU time, without guests and with them, each round"))
    .addOption(
      new Option("--kills <n>", "how often to kill it each round").default(3).argParser(
        wholeNumber("--kills", 0, 1000),
      ),
    )
    .addOption(
      new Option("--ring <layout>", "of the guests that see it killed: split, packed").default(
        "split" as const,
        "split",
      )
        .argParser(choice("--ring", ["split", "packed"])),
    )
    .addOption(cpusOption())
    .addOption(peerOption())
    .addOption(testpmdOption())
    .option("--report <file>", "write a report in HTML")
    .option("--json", "print one JSON object at the end")
    .addHelpText("after", examples);
}

/** What commander makes of the options. */
export type CostsOptions = ReturnType<ReturnType<typeof costsOptions>["opts"]>;

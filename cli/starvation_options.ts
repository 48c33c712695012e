/**
 * The command line of `bench starvation`.
 *
 * @module
 */
import { Command, Option } from "@commander-js/extra-typings";
import { cpusOption, ringOption, ringSizeOption, secondsOption, sizeOption } from "./bench_common_options.ts";
import { wholeNumber } from "./option.ts";

const examples = `
Several guests send to as many others through one worker. By turns of a quarter of a second all receivers read, and one
does not: its packets are dropped, and no descriptor of its sender is held for it. What is told is the rate of the other
flows while it does not read, by that while it does.

Examples:
  vhostctl bench starvation
  vhostctl bench starvation --flows 8 --ring all --size 64,1518
  vhostctl bench starvation --rate 20000
  vhostctl bench starvation --json | jq '.cases[].ratio.median'`;

/** The command, still without its action. */
export function starvationOptions() {
  return new Command("starvation")
    .description("Measure what other flows lose while one receiver has stopped reading.")
    .addOption(
      new Option("--flows <n>", "senders, and receivers").default(4).argParser(wholeNumber("--flows", 2, 64)),
    )
    .addOption(sizeOption())
    .addOption(ringOption())
    .addOption(ringSizeOption())
    .addOption(
      new Option("--rate <n>", "packets a second of each flow (default: as fast as it goes)")
        .argParser(wholeNumber("--rate", 1, 100_000_000)),
    )
    .addOption(secondsOption(5, "each case, both with it and without"))
    .addOption(cpusOption())
    .option("--report <file>", "write a report in HTML")
    .option("--json", "print one JSON object at the end")
    .addHelpText("after", examples);
}

/** What commander makes of the options. */
export type StarvationOptions = ReturnType<ReturnType<typeof starvationOptions>["opts"]>;

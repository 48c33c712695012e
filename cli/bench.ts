/**
 * `vhostctl bench`: what there is to measure, each a command of its own.
 *
 * @module
 */
import { Argument, Command, type CommandUnknownOpts } from "@commander-js/extra-typings";
import { ways } from "./bench_result.ts";
import { costsCommand } from "./bench_costs.ts";
import { latencyCommand } from "./bench_latency.ts";
import { reportCommand } from "./bench_report.ts";
import { speedCommand } from "./bench_speed.ts";
import { starvationCommand } from "./bench_starvation.ts";
import { choice } from "./option.ts";

const examples = `
Examples:
  vhostctl bench vm2vm                 from one guest to another
  vhostctl bench loop --peer dpdk      one guest's packets back to it, beside DPDK's testpmd
  vhostctl bench latency               there and back, by what the worker does without traffic
  vhostctl bench costs                 idle CPU, memory, start-up, and the outage after kill -9
  vhostctl bench starvation            other flows, while one receiver does not read
  vhostctl bench report page.html a.json b.json    one page of what these printed with --json
  vhostctl bench vm2vm --help          what a command can do`;

/** The command; its parts have the actions. */
export function command() {
  const parts: CommandUnknownOpts[] = [
    ...ways.map(speedCommand),
    latencyCommand(),
    costsCommand(),
    starvationCommand(),
    reportCommand(),
  ];
  const bench = new Command("bench")
    .description("Measure the way from guest to guest, and check that packets arrive as they were sent.")
    .usage("<what> [options]")
    .helpCommand(false)
    // Only words that name no part come here: of those the first is to be told.
    .allowUnknownOption().allowExcessArguments()
    .addArgument(new Argument("<what>").argParser(choice("bench", parts.map((part) => part.name()))))
    .action(() => {})
    .addHelpText("after", examples);
  for (const part of parts) bench.addCommand(part);
  return bench;
}

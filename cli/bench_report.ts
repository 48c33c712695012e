/**
 * `bench report`: one page from several benchmarks' results, as their `--json` printed them.
 *
 * @module
 */
import { Command } from "@commander-js/extra-typings";
import { CommandError } from "./error.ts";
import { reportHtml, reportKinds, type ReportResult } from "./report.ts";
import { openReport, writeReport } from "./report_file.ts";

const examples = `
Examples:
  vhostctl bench vm2vm --size 64,256,1518,9000 --ring all --peer dpdk --json >vm2vm.json
  vhostctl bench latency --peer dpdk --json >latency.json
  vhostctl bench report report.html vm2vm.json latency.json`;

async function read(path: string): Promise<ReportResult> {
  const text = await Deno.readTextFile(path).catch((reason: Error) => {
    throw new CommandError(`cannot read the result: ${path}: ${reason.message}: give what bench printed with --json`);
  });
  try {
    const result = JSON.parse(text) as ReportResult;
    if (reportKinds.includes(result.bench)) return result;
  } catch (reason) {
    if (!(reason instanceof SyntaxError || reason instanceof TypeError)) throw reason;
  }
  throw new CommandError(`cannot use the result: ${path}: it is none: give what bench printed with --json`);
}

async function run(file: string, paths: readonly string[]): Promise<void> {
  const results = await Promise.all(paths.map(read));
  await writeReport(await openReport(file), reportHtml(results, new Date()));
}

/** The command with its action. */
export function reportCommand() {
  return new Command("report")
    .description("Make one page of several results, as other benchmarks print them with --json.")
    .argument("<file>", "the page, in HTML")
    .argument("<results...>", "files with a result each, in the page's order")
    .addHelpText("after", examples)
    .action(run);
}

/**
 * `vhostctl pmd-forward`: packets go on fixed ways between vhost-user ports, as in DPDK's testpmd.
 *
 * @module
 */
import { Console, type Forwarder } from "./console.ts";
import { UsageError } from "./error.ts";
import { forwardStatistics, forwardTotals } from "./forward_statistics.ts";
import {
  forwardConfig,
  isInteractive,
  needlessOptions,
  planPmdForward,
  pmdForwardCommand,
  type PmdForwardOptions,
  withOptionsOfTestpmd,
} from "./pmd_forward_options.ts";
import { Prompt } from "./prompt.ts";
import type { ServePlan } from "./serve_options.ts";
import type { ServeReport } from "./serve_report.ts";
import { runService, surroundings } from "./service.ts";
import { whither, whitherText } from "./whither.ts";
import type { SwitchServer } from "./switch_server.ts";

/** The command, for `main.ts`. */
export function command() {
  return pmdForwardCommand().action((more, options) => pmdForward(withOptionsOfTestpmd(options, more)));
}

async function pmdForward(options: PmdForwardOptions): Promise<void> {
  const plan = planPmdForward(options, surroundings());
  const commands = options.cmdlineFile === undefined ? [] : await readCommands(options.cmdlineFile);
  let console: Console | undefined;
  let prompt: Prompt | undefined;
  const converse = async (report: ServeReport, server: SwitchServer) => {
    console = new Console(forwarderOf(plan, server), forwardConfig(options));
    await talk(
      console,
      report,
      options.autoStart ? [...commands, options.txFirst ? "start tx_first" : "start"] : commands,
      (shown) => prompt = shown,
    );
  };
  await runService({
    plan,
    json: options.json,
    period_s: options.statsPeriod ?? (isInteractive(options) ? 0 : undefined),
    announce: (report) => announce(report, options, plan),
    ...isInteractive(options) ? { converse } : {},
    happened: (report) => report.delivered.then(() => prompt?.show()),
    summary: (report, last, started_ms) => {
      if (console !== undefined) {
        return report.note({ event: "answer" }, ...console.over ? [] : console.execute("quit"));
      }
      const totals = last.ports.map(forwardTotals);
      report.note({ event: "forwarded", ports: totals }, ...forwardStatistics(totals));
      report.summary(last, started_ms, { asTable: false });
    },
  });
}

async function readCommands(path: string): Promise<string[]> {
  try {
    return (await Deno.readTextFile(path)).split("\n");
  } catch (error) {
    throw new UsageError(`cannot read --cmdline-file: ${path}: ${(error as Error).message}`);
  }
}

function forwarderOf({ ports, workers }: ServePlan, server: SwitchServer): Forwarder {
  const setLanes: Forwarder["setLanes"] = (lanes) => server.setLanes(lanes);
  const ringStats = (port: number) => server.ringStats(port);
  return { ports, cores: workers.length, snapshot: () => server.snapshot(), ringStats, setLanes };
}

/** Until the console has enough, or the input ends. */
async function talk(
  console: Console,
  report: ServeReport,
  commands: readonly string[],
  shown: (prompt: Prompt) => void,
): Promise<void> {
  const print = (lines: readonly string[]) => {
    report.note({ event: "answer" }, ...lines);
    return report.delivered;
  };
  for (const line of commands) if (!console.over) await print(console.execute(line));
  if (console.over) return;
  using prompt = await Prompt.open(console, print);
  shown(prompt);
  await prompt.closed;
}

function announce(report: ServeReport, options: PmdForwardOptions, { ports, lanes = [] }: ServePlan): void {
  const { forwardMode } = options;
  const needless = needlessOptions(options);
  if (needless.length > 0) {
    report.note({ event: "needless", options: needless }, `not needed here: ${needless.join(", ")}`);
  }
  report.note({ event: "mode", mode: forwardMode }, `Set ${forwardMode} packet forwarding mode`);
  ports.forEach((port, number) => {
    const { name, mac, offer: { queuePairs } } = port;
    const { target } = lanes[number]!;
    report.note(
      { event: "port", port: name, ...whither(port), mac, queue_pairs: queuePairs, target: ports[target]!.name },
      `Port ${number}: ${mac} ${name} ${whitherText(port)}, queues=${queuePairs}: RX P=${number} -> TX P=${target}`,
    );
  });
  report.note({ event: "ready", ports: ports.length }, "ready");
}

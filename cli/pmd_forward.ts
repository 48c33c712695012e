/**
 * `vhostctl pmd-forward`: packets go on fixed ways between vhost-user ports, as in DPDK's testpmd.
 *
 * @module
 */
import { forwardStatistics, forwardTotals } from "./forward_statistics.ts";
import { planPmdForward, pmdForwardCommand, type PmdForwardOptions } from "./pmd_forward_options.ts";
import type { ServePlan } from "./serve_options.ts";
import type { ServeReport } from "./serve_report.ts";
import { runService, surroundings } from "./service.ts";

/** The command, for `main.ts`. */
export function command() {
  return pmdForwardCommand().action(pmdForward);
}

async function pmdForward(options: PmdForwardOptions): Promise<void> {
  const plan = planPmdForward(options, surroundings());
  await runService({
    plan,
    json: options.json,
    period_s: options.statsPeriod,
    announce: (report) => announce(report, options.forwardMode, plan),
    summary: (report, { ports }) => {
      const totals = ports.map(forwardTotals);
      report.note({ event: "forwarded", ports: totals }, ...forwardStatistics(totals));
    },
  });
}

function announce(report: ServeReport, forwardMode: string, { ports, lanes = [] }: ServePlan): void {
  report.note({ event: "mode", mode: forwardMode }, `Set ${forwardMode} packet forwarding mode`);
  ports.forEach(({ name, socket, mode, mac, offer: { queuePairs } }, number) => {
    const { target } = lanes[number]!;
    const how = mode === "server" ? "listens on" : "connects to";
    report.note(
      { event: "port", port: name, socket, mode, mac, queue_pairs: queuePairs, target: ports[target]!.name },
      `Port ${number}: ${mac} ${name} ${how} ${socket}, queues=${queuePairs}: RX P=${number} -> TX P=${target}`,
    );
  });
  report.note({ event: "ready", ports: ports.length }, "ready");
}

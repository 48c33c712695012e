/**
 * What QEMU says of itself and of its back ends, beside what is seen from ours.
 *
 * @module
 */
import { pauseAfter } from "../mod.ts";
import { CommandError } from "./error.ts";
import type { OutageReport } from "./outage_report.ts";
import { pauseUnless } from "./pause.ts";
import { type VhostUserNetdev, vhostUserNetdevs } from "./qemu_netdev.ts";
import { Qmp, type QmpEvent, QmpRefusal } from "./qmp.ts";
import type { SocketAddress } from "./socket_address.ts";

/** QEMU before 10 does not tell when a back end comes or goes: it is asked so often. */
const period_ms = 100;
/** Which network devices there are is asked for each so many times. */
const netdevPeriod = 10;
const told: readonly string[] = ["STOP", "RESUME", "SHUTDOWN", "RESET"];
const connectedEvent = "NETDEV_VHOST_USER_CONNECTED";
const disconnectedEvent = "NETDEV_VHOST_USER_DISCONNECTED";

interface Chardev {
  readonly label: string;
  readonly filename: string;
}

/** Which back ends are connected, as far as QEMU has told. */
class BackEnds {
  readonly #report: OutageReport;
  /** By name of the network device. */
  readonly #connected = new Map<string, boolean>();
  #netdevs: readonly VhostUserNetdev[] = [];
  #looks = 0;
  #refused = false;

  constructor(report: OutageReport) {
    this.#report = report;
  }

  hear({ event, data = {}, timestamp }: QmpEvent): void {
    const time_ms = timestamp === undefined
      ? Date.now()
      : 1000 * timestamp.seconds + Math.floor(timestamp.microseconds / 1000);
    if (told.includes(event)) this.#report.tell({ time_ms, event: "qemu_event", name: event, data });
    if (event !== connectedEvent && event !== disconnectedEvent) return;
    const netdev = String(data["netdev-id"]);
    const chardev = data["chardev-id"] ?? this.#netdevs.find((one) => one.netdev === netdev)?.chardev ?? "";
    this.#take(netdev, String(chardev), event === connectedEvent, time_ms);
  }

  /** Asks for what is not told. A QEMU that refuses is told of once. */
  async look(qmp: Qmp): Promise<void> {
    try {
      await this.#look(qmp);
      this.#refused = false;
    } catch (error) {
      if (!(error instanceof QmpRefusal)) throw error;
      if (!this.#refused) this.#report.tell({ time_ms: Date.now(), event: "qemu_refused", reason: error.message });
      this.#refused = true;
    }
  }

  async #look(qmp: Qmp): Promise<void> {
    if (this.#looks++ % netdevPeriod === 0) this.#netdevs = await vhostUserNetdevs(qmp);
    const chardevs = await qmp.execute("query-chardev") as readonly Chardev[];
    for (const { netdev, chardev } of this.#netdevs) {
      const found = chardevs.find(({ label }) => label === chardev);
      if (found !== undefined) this.#take(netdev, chardev, !found.filename.startsWith("disconnected:"), Date.now());
    }
  }

  #take(netdev: string, chardev: string, connected: boolean, time_ms: number): void {
    if (this.#connected.get(netdev) === connected) return;
    this.#connected.set(netdev, connected);
    this.#report.tell({ time_ms, event: "qemu_back_end", connected, netdev, chardev });
  }
}

/** Tells of one QEMU, and of the next that listens in its place, until that is stopped. */
export async function watchQemu(address: SocketAddress, report: OutageReport, stop: AbortSignal): Promise<void> {
  let failures = 0;
  let waiting: string | undefined;
  while (!stop.aborted) {
    let attached = false;
    try {
      const backEnds = new BackEnds(report);
      await using qmp = await Qmp.open(address, (event) => backEnds.hear(event));
      attached = true;
      report.tell({ time_ms: Date.now(), event: "qemu_attached" });
      while (!stop.aborted) {
        await backEnds.look(qmp);
        await pauseUnless(stop, period_ms);
      }
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      if (stop.aborted) return;
      const reason = error.message;
      const isNews = attached || reason !== waiting;
      if (isNews) report.tell({ time_ms: Date.now(), event: attached ? "qemu_gone" : "qemu_waiting", reason });
      waiting = attached ? undefined : reason;
    }
    // One that hangs up as soon as it has greeted is not asked again at once.
    failures = attached ? 1 : failures + 1;
    await pauseUnless(stop, pauseAfter(failures));
  }
}

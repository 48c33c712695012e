/**
 * How long packets stand still when a back end is killed, and the same command line is started again at once. It
 * connects to two guests that outlive it, as under QEMU.
 *
 * @module
 */
import { join } from "node:path";
import type { GuestTraffic } from "../mod.ts";
import { sleep, socketFolder } from "./bench_measure.ts";
import type { Ring } from "./bench_result.ts";
import type { BackEnd } from "./costs_back_end.ts";
import type { CostsMeasurement } from "./costs_measure.ts";
import { CommandError } from "./error.ts";
import { macNumber } from "./guest.ts";
import type { GuestShape } from "./guest_shape.ts";
import { HostProcess } from "./host_process.ts";
import { moment_ms, type Place } from "./reconnecting_guest.ts";
import type { ReconnectHost } from "./self_reconnect_host.ts";

/** Locally administered. */
const macs = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"] as const;
const frameBytes = 64;
/** Of each guest: so that the first packet after an outage is not long in coming. */
const rate = 100_000;
/** So long packets pass at least before a kill, and for up to as long again. */
const life_ms = 200;

function shapeOf(ring: Ring): GuestShape {
  return {
    features: ["VERSION_1", "MRG_RXBUF", ...ring === "packed" ? ["RING_PACKED" as const] : []],
    ...{ queuePairs: 1, ringSize: 256, bufferBytes: 2048, frameBytesMax: 1514, gpa: 0x4000_0000 },
    ...{ sendSegments: 0, receiveSegments: 0, sendIndirect: false, receiveIndirect: false },
  };
}

function trafficsOf(cpu: number): GuestTraffic[] {
  return macs.map((mac, number) => ({
    ...{ sourceMac: macNumber(mac), destinationMac: macNumber(macs[1 - number]!), frameBytes, rate, cpu },
    wait: "yield",
  }));
}

/** Outages of one back end, killed one time after the other. */
export interface Outages {
  readonly kills: number;
  /** Of those kills after which packets came again. */
  readonly outages_ms: readonly number[];
}

/** Kills a back end so often, or until the user wants no more, or it does not come back. */
export async function measureOutages(
  backEnd: BackEnd,
  ring: Ring,
  times: number,
  { placement, stop }: CostsMeasurement,
): Promise<Outages> {
  await using stack = new AsyncDisposableStack();
  const directory = await socketFolder(stack);
  const host = stack.use(await HostProcess.start<ReconnectHost>("reconnect-host"));
  const places = macs.map((_, number): Place => ({ mode: "client", socket: join(directory, `guest${number}.sock`) }));
  const traffics = trafficsOf(placement.guest_cpus[0]!);
  await host.call("open", { shape: shapeOf(ring), places, traffics, together: true });
  const start = async (life: number) => {
    await host.call("expect", { life });
    const sockets = places.map(({ socket }) => socket);
    return stack.use(await backEnd.start({ sockets, directory, cpu: placement.worker_cpus[0]!, connects: true }));
  };
  let process = await start(0);
  await host.call("attached");
  await host.call("run");
  await host.call("recovered");
  const outages_ms: number[] = [];
  let kills = 0;
  while (kills < times) {
    await sleep(life_ms * (1 + Math.random()), stop);
    if (stop.aborted) break;
    const killed_ms = moment_ms();
    await process.kill();
    process = await start(++kills);
    try {
      const recoveries = await host.call("recovered");
      outages_ms.push(Math.max(...recoveries.map(({ traffic_ms }) => traffic_ms)) - killed_ms);
    } catch (reason) {
      if (!(reason instanceof CommandError)) throw reason;
      break;
    }
  }
  return { kills, outages_ms };
}

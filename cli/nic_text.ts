/**
 * Ports as testpmd's console shows them: rx is from the guest, tx to the guest.
 *
 * @module
 */
import {
  driverNames,
  dropped,
  type PortPlan,
  portRate,
  type PortSample,
  statsSince,
  type VringStats,
  xstatsOf,
  xstatsOfRings,
} from "../mod.ts";

/** A port's counters, those at an earlier moment taken off. */
export interface Counted {
  readonly now: PortSample;
  readonly since?: PortSample | undefined;
}

function linkOf({ state }: PortSample): "up" | "down" {
  return state === "running" ? "up" : "down";
}

function driverName({ driver, uplink }: PortPlan): string {
  return driverNames[uplink?.kind ?? (driver === undefined ? "vhost" : "virtio-user")];
}

function devargs({ driver, uplink, socket, mode, offer: { queuePairs } }: PortPlan): string {
  if (uplink !== undefined) return `iface=${uplink.interface},queues=${queuePairs}`;
  if (driver === undefined) return `iface=${socket},queues=${queuePairs}${mode === "client" ? ",client=1" : ""}`;
  return `path=${socket},queues=${queuePairs}${mode === "server" ? ",server=1" : ""}`;
}

/** `show port info`. */
export function portInfo(number: number, plan: PortPlan, sample: PortSample): string[] {
  return [
    `********************* Infos for port ${number}  *********************`,
    `MAC address: ${plan.mac.toUpperCase()}`,
    `Device name: ${plan.name}`,
    `Driver name: ${driverName(plan)}`,
    `Devargs: ${devargs(plan)}`,
    `Link status: ${linkOf(sample)}`,
    "Promiscuous mode: enabled",
    `Current number of RX queues: ${sample.queuePairsUp}`,
    `Max possible RX queues: ${sample.queuePairs}`,
  ];
}

/** `show port summary all`. */
export function portSummary(plans: readonly PortPlan[], samples: readonly PortSample[]): string[] {
  const rows = plans.map((plan, number) =>
    `${String(number).padEnd(5)}${plan.mac.toUpperCase().padEnd(18)}${plan.name.padEnd(13)}${
      driverName(plan).padEnd(15)
    }` +
    linkOf(samples[number]!)
  );
  return [
    `Number of available ports: ${plans.length}`,
    "Port MAC Address       Name         Driver         Status",
    ...rows,
  ];
}

function difference({ now, since }: Counted, direction: "toGuest" | "fromGuest"): VringStats {
  return statsSince(now.counters[direction], since?.counters[direction]);
}

function counts(name: "RX" | "TX", stats: VringStats, lost: string): string {
  const [packets, drops] = [String(stats.packets).padEnd(10), String(dropped(stats)).padEnd(10)];
  return `  ${name}-packets: ${packets} ${lost}: ${drops}  ${name}-bytes:  ${stats.bytes}`;
}

function throughput(name: "Rx" | "Tx", { packetsPerSecond, bitsPerSecond }: ReturnType<typeof portRate>): string {
  return `  ${name}-pps: ${String(Math.round(packetsPerSecond)).padStart(12)}` +
    `          ${name}-bps: ${String(Math.round(bitsPerSecond)).padStart(12)}`;
}

/** `show port stats`; `last` is the port when it was shown before, so many seconds ago. */
export function portStats(number: number, counted: Counted, last: PortSample | undefined, seconds: number): string[] {
  const { now } = counted;
  const of = (direction: "toGuest" | "fromGuest") =>
    last === undefined ? { packetsPerSecond: 0, bitsPerSecond: 0 } : portRate(now, last, direction, seconds);
  return [
    `  ######################## NIC statistics for port ${number}  ########################`,
    counts("RX", difference(counted, "fromGuest"), "RX-missed"),
    counts("TX", difference(counted, "toGuest"), "TX-errors"),
    "  Throughput (since last show)",
    throughput("Rx", of("fromGuest")),
    throughput("Tx", of("toGuest")),
    `  ${"#".repeat(76)}`,
  ];
}

/**
 * `show port xstats`: names as the vhost PMD's, and a counter for each reason to drop. `rings` is what each of
 * them counted, as numbered on the wire.
 */
export function portXstats(number: number, counted: Counted, rings: readonly VringStats[]): string[] {
  const all = [
    ...xstatsOf("rx", difference(counted, "fromGuest")),
    ...xstatsOf("tx", difference(counted, "toGuest")),
    ...xstatsOfRings(rings),
  ];
  return [`###### NIC extended statistics for port ${number}`, ...all.map(([name, value]) => `${name}: ${value}`)];
}

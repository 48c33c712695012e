/**
 * The ways that frames go in `pmd-forward`: testpmd's modes, and its pairs of ports.
 *
 * @module
 */
import { type Addresses, type LaneMode, macNumber, type PortPlan } from "../mod.ts";
import type { LanePlan } from "./serve_options.ts";

/** testpmd's names, as ours for the data path. */
const modes = {
  io: "io",
  mac: "mac",
  macswap: "macswap",
  "5tswap": "swap5",
  rxonly: "rxonly",
  csum: "csum",
  icmpecho: "icmpecho",
  txonly: "txonly",
  flowgen: "flowgen",
} as const satisfies Record<string, LaneMode>;

/** A mode that is here. */
export type ForwardMode = keyof typeof modes;

export const forwardModes = Object.keys(modes) as readonly ForwardMode[];

/** Packets that can be moved together, and bytes that a packet of ours can have. */
export const burstMax = 64;
export const frameBytesMin = 42;
export const frameBytesMax = 65549;

export const flowsMax = 1024;

/** How packets are made and moved. */
export interface ForwardConfig {
  readonly mode: ForwardMode;
  /** Packets that are moved together, at most. */
  readonly burst: number;
  /** Of packets of ours. */
  readonly frameBytes: number;
  /** Of packets of ours, but for `flowgen`. */
  readonly addresses: Addresses;
  /** Of `txonly`. */
  readonly flows: number;
}

/** What a start does: forward, send so many bursts first; or leave all packets where they are. */
export type Running = { readonly firstBursts: number } | "stopped";

/** Where a port's frames go: to its partner, the last of an odd number to itself; answers, and ours, to its guest. */
function targetOf(mode: ForwardMode, port: number, ports: number): number {
  const isOwn = mode === "icmpecho" || mode === "txonly" || mode === "flowgen";
  return isOwn ? port : Math.min(port ^ 1, ports - 1);
}

/** A lane for each port. */
export function planLanes(config: ForwardConfig, ports: readonly PortPlan[], running: Running): LanePlan[] {
  const { mode, ...packets } = config;
  return ports.map((_, port) => {
    const target = targetOf(mode, port, ports.length);
    const ownMac = macNumber(ports[target]!.mac);
    const way = { ...packets, target, ownMac, peerMac: 0x0200_0000_0000 + target };
    if (running === "stopped") return { ...way, mode: "none" };
    return { ...way, mode: modes[mode], first: running.firstBursts * config.burst };
  });
}

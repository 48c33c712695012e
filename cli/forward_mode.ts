/**
 * The ways that frames go in `pmd-forward`: testpmd's modes, and its pairs of ports.
 *
 * @module
 */
import type { LaneMode } from "../mod.ts";
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
} as const satisfies Record<string, LaneMode>;

/** A mode that is here. */
export type ForwardMode = keyof typeof modes;

export const forwardModes = Object.keys(modes) as readonly ForwardMode[];

/** Modes of testpmd's that are not here yet. */
export const absentModes: readonly string[] = ["flowgen", "noisy", "shared_rxq", "txonly"];

/** "VHOST" and the port's number: the address that net_vhost's ports have. */
export function ownMac(port: number): number {
  return 0x5648_4f53_5400 + port;
}

/** An address as people write it. */
export function macText(mac: number): string {
  return mac.toString(16).padStart(12, "0").match(/../g)!.join(":");
}

/** Where a port's frames go: to its partner, the last of an odd number to itself; answers go back. */
function targetOf(mode: ForwardMode, port: number, ports: number): number {
  return mode === "icmpecho" ? port : Math.min(port ^ 1, ports - 1);
}

/** A lane for each port; `stopped` leaves all frames where they are. */
export function planLanes(mode: ForwardMode, ports: number, stopped = false): LanePlan[] {
  return Array.from({ length: ports }, (_, port) => {
    const target = targetOf(mode, port, ports);
    const peerMac = 0x0200_0000_0000 + target;
    return { mode: stopped ? "none" : modes[mode], target, ownMac: ownMac(target), peerMac };
  });
}

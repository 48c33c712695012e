/**
 * The ways that frames go in `pmd-forward`: testpmd's modes, and its pairs of ports.
 *
 * @module
 */
import { type LaneMode, vhostMac } from "../mod.ts";
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

/** Where a port's frames go: to its partner, the last of an odd number to itself; answers go back. */
function targetOf(mode: ForwardMode, port: number, ports: number): number {
  return mode === "icmpecho" ? port : Math.min(port ^ 1, ports - 1);
}

/** A lane for each port; `stopped` leaves all frames where they are. */
export function planLanes(mode: ForwardMode, ports: number, stopped = false): LanePlan[] {
  return Array.from({ length: ports }, (_, port) => {
    const target = targetOf(mode, port, ports);
    const peerMac = 0x0200_0000_0000 + target;
    return { mode: stopped ? "none" : modes[mode], target, ownMac: vhostMac(target), peerMac };
  });
}

/**
 * Where a port leads, for programs and for people.
 *
 * @module
 */
import type { PortPlan } from "../mod.ts";

/** As fields of an object. */
export function whither({ socket, mode, uplink, pci }: PortPlan): Record<string, string> {
  if (pci !== undefined) return { pci: pci.device };
  return uplink === undefined ? { socket, mode } : { uplink: `${uplink.kind}:${uplink.interface}` };
}

/** As the rest of a sentence that begins with the port's name. */
export function whitherText({ socket, mode, uplink, pci }: PortPlan): string {
  if (pci !== undefined) return `works on another VM's rings, through PCI device ${pci.device}`;
  if (uplink !== undefined) return `leads to ${uplink.kind} ${uplink.interface}`;
  return `${mode === "server" ? "listens on" : "connects to"} ${socket}`;
}

/**
 * The libvirt XML with which a guest attaches to a port.
 *
 * @module
 */
import type { PortPlan } from "../mod.ts";

function escape(text: string): string {
  const names: Record<string, string> = { "<": "&lt;", ">": "&gt;", "&": "&amp;", "'": "&apos;", '"': "&quot;" };
  return text.replaceAll(/[<>&'"]/g, (character) => names[character]!);
}

/** For each guest once, inside `<domain>`: memory that can be shared. */
export const libvirtMemory: readonly string[] = [
  "<memoryBacking>",
  "  <source type='memfd'/>",
  "  <access mode='shared'/>",
  "</memoryBacking>",
];

/** For each port, inside `<devices>`. `mode` is the front end's side: libvirt's client connects to our socket. */
export function libvirtInterface(port: PortPlan): string[] {
  const socket = `type='unix' path='${escape(port.socket)}'`;
  const source = port.mode === "client" ? [`  <source ${socket} mode='server'/>`] : [
    `  <source ${socket} mode='client'>`,
    "    <reconnect enabled='yes' timeout='1'/>",
    "  </source>",
  ];
  return [
    "<interface type='vhostuser'>",
    `  <mac address='${port.mac}'/>`,
    ...source,
    "  <model type='virtio'/>",
    ...port.offer.queuePairs > 1 ? [`  <driver queues='${port.offer.queuePairs}'/>`] : [],
    ...port.offer.mtu !== undefined ? [`  <mtu size='${port.offer.mtu}'/>`] : [],
    "</interface>",
  ];
}

/**
 * The vhost-user network devices of a QEMU.
 *
 * @module
 */
import type { Qmp } from "./qmp.ts";

/** One, however many queue pairs it has. */
export interface VhostUserNetdev {
  readonly netdev: string;
  readonly chardev: string;
  /** Of its socket, where that is a unix one. */
  readonly path: string | undefined;
}

/** Asks for them. Throws a `CommandError`. */
export async function vhostUserNetdevs(qmp: Qmp): Promise<VhostUserNetdev[]> {
  // The only place where QEMU tells which character device a network device has.
  const network = await qmp.execute("human-monitor-command", { "command-line": "info network" });
  const found = new Map<string, VhostUserNetdev>();
  for (const match of String(network).matchAll(/(\S+): index=\d+,type=vhost-user,vhost-user\d+ to (\S+)/g)) {
    const [, netdev = "", chardev = ""] = match;
    if (found.has(netdev)) continue;
    const address = await qmp.execute("qom-get", { path: `/chardevs/${chardev}`, property: "addr" });
    found.set(netdev, { netdev, chardev, path: (address as { path?: string }).path });
  }
  return [...found.values()];
}

/**
 * Ports of all kinds: those that serve a guest, here or through a PCI device, that face a back end, or that lead to an
 * interface.
 *
 * @module
 */
import { DriverServer } from "./driver_server.ts";
import type { KeptState } from "./kept_state.ts";
import type { Json } from "../vhost/session_snapshot.ts";
import type { ParcelFds } from "./parcel.ts";
import type { PortPlan } from "./port_plan.ts";
import { UplinkServer } from "./uplink_server.ts";
import { VhostPciServer } from "./vhost_pci_server.ts";
import { PortServer, type PortServerParts, type PortService } from "./port_server.ts";

/** Opens what the plan says. Throws what `Pump.listen`, `Uplink.open` and `VhostPciServer.open` throw. */
export function openPortService(parts: PortServerParts): PortService {
  const { plan } = parts;
  const { driver, uplink, pci } = plan;
  if (driver !== undefined) return DriverServer.open({ ...parts, plan: { ...plan, driver } });
  if (uplink !== undefined) return UplinkServer.open({ ...parts, plan: { ...plan, uplink } });
  if (pci !== undefined) return VhostPciServer.open({ ...parts, plan: { ...plan, pci } });
  return PortServer.open(parts);
}

/** What outlives a port that `MovingPort.parcel` packed, for `PortServerParts`: the port needs rings enough for it. */
export function adoptKeptState({ uplink }: PortPlan, state: Json): KeptState | undefined {
  return uplink === undefined ? PortServer.keptState(state) : undefined;
}

/**
 * Goes on, frozen, with what `MovingPort.parcel` packed; what is left of `fds` is the caller's. Throws with the reason
 * why it cannot.
 */
export function adoptPortService(parts: PortServerParts, state: Json, fds: ParcelFds): PortService {
  const { plan } = parts;
  const { uplink } = plan;
  if (uplink !== undefined) return UplinkServer.adopt({ ...parts, plan: { ...plan, uplink } }, state, fds);
  return PortServer.adopt(parts, state, fds);
}

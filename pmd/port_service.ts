/**
 * Ports of both kinds: those that serve a guest, and those that face a back end.
 *
 * @module
 */
import { DriverServer } from "./driver_server.ts";
import { PortServer, type PortServerParts, type PortService } from "./port_server.ts";

/** Opens what the plan says. Throws what `Pump.listen` throws. */
export function openPortService(parts: PortServerParts): PortService {
  const { plan } = parts;
  const { driver } = plan;
  if (driver === undefined) return PortServer.open(parts);
  return DriverServer.open({ ...parts, plan: { ...plan, driver } });
}

/**
 * The data plane of a guest's port on its way to another process: memory, log and eventfds.
 *
 * @module
 */
import type { Port } from "../ffi/port.ts";
import type { VringFd } from "../vhost/dataplane.ts";
import type { SessionState } from "../vhost/session.ts";
import { mtuOf } from "../vhost/session.ts";
import { bits, hex, type Json, rowOf } from "../vhost/session_snapshot.ts";
import type { NamedFd, ParcelFds, Positions } from "./parcel.ts";

const kinds: readonly VringFd[] = ["kick", "call", "err"];

/** Descriptors of a port in this session, and what is to be known of them. Throws where some could not be kept. */
export function packDataplane(port: Port, { memory, vrings }: SessionState): { log: Json; fds: NamedFd[] } {
  const fds: NamedFd[] = memory.regions.map((region, index) => {
    const fd = port.regionFd(region);
    if (fd === undefined) {
      throw new Error("descriptors of its guest's memory could not be kept: more files must be allowed");
    }
    return [`region${index}`, fd];
  });
  for (const { index } of vrings) {
    for (const kind of kinds) add(fds, `${kind}${index}`, port.vringFd(index, kind));
  }
  add(fds, "inflight", port.inflightFd());
  const log = port.log();
  add(fds, "log", log?.fd);
  add(fds, "bell", port.logBell());
  return { log: log === undefined ? null : { size: hex(log.size), offset: hex(log.offset) }, fds };
}

function add(fds: NamedFd[], name: string, fd: number | undefined): void {
  if (fd !== undefined) fds.push([name, fd]);
}

/** Makes a fresh port as the other one was, but for running rings. */
export function unpackDataplane(port: Port, state: SessionState, log: Json, fds: ParcelFds): void {
  const { memory: { regions }, vrings, inflight } = state;
  const mtu = mtuOf(state);
  if (mtu !== undefined) port.setMtu(mtu);
  if (regions.length > 0) port.setMemory(regions, regions.map((_, index) => fds.get(`region${index}`)));
  const bell = fds.look("bell");
  if (bell !== undefined) port.setLogFd(bell);
  if (log !== null) {
    const part = rowOf(log, "log");
    port.setLog(fds.get("log"), bits(part, "size"), bits(part, "offset"));
  }
  if (inflight !== undefined) port.adoptInflight(fds.get("inflight"), inflight);
  for (const { index, enabled } of vrings) {
    for (const kind of kinds) {
      const fd = fds.look(`${kind}${index}`);
      if (fd !== undefined) port.setVringFd(index, kind, fd);
    }
    port.enableVring(index, enabled);
  }
}

/** Where a port's rings stand. */
export function positionsOf(port: Port, { vrings }: SessionState): Positions {
  const { count, mac } = port.announcements();
  const bases = vrings.map(({ index, running }) => running === undefined ? null : port.vringState(index).base);
  return { bases, announcements: [count, Number(mac)] };
}

/** Starts the rings of a port that ran, where they stand. */
export function beginRings(
  port: Port,
  { vrings }: SessionState,
  { bases, announcements: [count, mac] }: Positions,
): void {
  for (const { index, running } of vrings) {
    if (running === undefined) continue;
    const base = bases[index];
    if (typeof base !== "number") throw new Error(`no position of ring ${index} came`);
    // Its record says where it stands, and goes on with what the front end believes, which may be another place.
    port.startVring(index, running);
    if (port.vringState(index).base === base) continue;
    // Unless the guest wrote to what the record knows it by.
    port.stopVring(index);
    port.startVring(index, { ...running, base });
  }
  for (let announced = 0; announced < count; announced++) port.announce(BigInt(mac));
}

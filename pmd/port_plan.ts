/**
 * A port before it is opened.
 *
 * @module
 */
import { isAbsolute, join, normalize } from "node:path";
import { makeOffer, type Offer } from "../vhost/offer.ts";
import type { VhostVdev } from "./devargs.ts";

/** Who listens on the socket: we (`server`) or the front end. */
export type PortMode = "server" | "client";

/** A port as it will be opened. */
export interface PortPlan {
  readonly name: string;
  /** Absolute. */
  readonly socket: string;
  readonly mode: PortMode;
  /** For the front end's arguments: we never see a guest's MAC but in its packets. */
  readonly mac: string;
  readonly offer: Offer;
}

/** "VHOST" and the port's number: the address that net_vhost's ports have. */
export function vhostMac(port: number): number {
  return 0x5648_4f53_5400 + port;
}

/** 48 bits as people write them: `52:54:00:12:34:56`. */
export function macText(mac: number): string {
  return mac.toString(16).padStart(12, "0").match(/../g)!.join(":");
}

/** What a vdev string leaves open. */
export interface VdevUse {
  /** The port's, for its address. */
  readonly number: number;
  readonly queuePairs: number;
  /** Names of features not to offer, beside those that the string withholds. */
  readonly withheld?: readonly string[];
  /** To resolve a relative path. */
  readonly workingDirectory: string;
}

/** The port that a vdev string asks for. */
export function planVdev({ name, iface, client, features }: VhostVdev, use: VdevUse): PortPlan {
  return {
    name,
    socket: isAbsolute(iface) ? normalize(iface) : join(use.workingDirectory, iface),
    mode: client ? "client" : "server",
    mac: macText(vhostMac(use.number)),
    offer: makeOffer({ queuePairs: use.queuePairs, withheld: [...features, ...use.withheld ?? []] }),
  };
}

/**
 * A port before it is opened.
 *
 * @module
 */
import { isAbsolute, join, normalize } from "node:path";
import type { UplinkKindName } from "../ffi/uplink.ts";
import { makeOffer, type Offer } from "../vhost/offer.ts";
import type { PacketVdev, TapVdev, Vdev, VhostPciVdev, XdpVdev } from "./devargs.ts";

/** Who listens on the socket: we (`server`) or the front end. */
export type PortMode = "server" | "client";

/** A port as it will be opened. */
export interface PortPlan {
  readonly name: string;
  /** Absolute; empty where there is none. */
  readonly socket: string;
  readonly mode: PortMode;
  /** For the front end's arguments: we never see a guest's MAC but in its packets. */
  readonly mac: string;
  /** Of a port that faces a back end, or of an uplink: what it takes, where that is on offer. */
  readonly offer: Offer;
  /** The file that outlives us; undefined: there is none. */
  readonly state?: string | undefined;
  /** false: big packets are cut for the guest, whatever it negotiated. */
  readonly guestTso?: boolean | undefined;
  /** How such a port drives its rings; undefined: the port serves a guest. */
  readonly driver?: DriverPlan;
  /** Where a port leads that has no front end; then `socket` is empty. */
  readonly uplink?: UplinkPlan;
  /** Where the guest is another VM than this one; then `socket` is empty. */
  readonly pci?: PciPlan;
}

/** PCI devices of this VM, as `0000:00:05.0`. */
export interface PciPlan {
  /** BAR 2 is the other VM's memory. */
  readonly device: string;
  /** BAR 2 is the link page; to be found, if undefined. */
  readonly link: string | undefined;
}

/** An interface of the host's. */
export interface UplinkPlan {
  readonly kind: UplinkKindName;
  readonly interface: string;
  /** To be set; as it is, if undefined. */
  readonly mtu?: number | undefined;
  /** Whether segments of a TCP stream are put together when they come: by default true. */
  readonly gro?: boolean | undefined;
  /** Of XDP: whether the kernel copies frames, although the driver could do without. By default false. */
  readonly copy?: boolean | undefined;
}

/** Rings of which we are the driver. */
export interface DriverPlan {
  /** Descriptors of each. */
  readonly queueSize: number;
  readonly packed: boolean;
  readonly mergeable: boolean;
  readonly inOrder: boolean;
  /** Of a receive buffer, virtio-net header included. */
  readonly bufferBytes: number;
}

/** What net_virtio_user's mbufs hold. */
const bufferBytesDefault = 2048;

/** "VHOST" and the port's number: the address that net_vhost's ports have. */
export function vhostMac(port: number): number {
  return 0x5648_4f53_5400 + port;
}

/** 48 bits as people write them: `52:54:00:12:34:56`. */
export function macText(mac: number): string {
  return mac.toString(16).padStart(12, "0").match(/../g)!.join(":");
}

/** What `macText` gave. */
export function macNumber(text: string): number {
  return parseInt(text.replaceAll(":", ""), 16);
}

/** What a vdev string leaves open. */
export interface VdevUse {
  /** The port's, for its address. */
  readonly number: number;
  readonly queuePairs: number;
  /** Names of features not to offer, nor to take, beside those that the string withholds. */
  readonly withheld?: readonly string[];
  /** Of the receive buffers, where we are the driver, virtio-net header included; by default 2048. */
  readonly bufferBytes?: number | undefined;
  /** To resolve a relative path. */
  readonly workingDirectory: string;
}

/** The port that a vdev string asks for. */
export function planVdev(vdev: Vdev, use: VdevUse): PortPlan {
  if (vdev.driver === "vhost-pci") return planVhostPci(vdev, use);
  if (vdev.driver === "tap" || vdev.driver === "packet" || vdev.driver === "xdp") return planUplink(vdev, use);
  const path = vdev.driver === "vhost" ? vdev.iface : vdev.path;
  const isServer = vdev.driver === "vhost" ? !vdev.client : vdev.server;
  const withheld = [...vdev.driver === "vhost" ? vdev.features : [], ...use.withheld ?? []];
  const plan: PortPlan = {
    name: vdev.name,
    socket: isAbsolute(path) ? normalize(path) : join(use.workingDirectory, path),
    mode: isServer ? "server" : "client",
    mac: macText(vhostMac(use.number)),
    offer: makeOffer({ queuePairs: use.queuePairs, withheld }),
  };
  if (vdev.driver === "vhost") return plan;
  const { queueSize, packed, mergeable, inOrder } = vdev;
  const { bufferBytes = bufferBytesDefault } = use;
  return { ...plan, mac: vdev.mac ?? randomMac(), driver: { queueSize, packed, mergeable, inOrder, bufferBytes } };
}

function planVhostPci({ name, device, link }: VhostPciVdev, { number, queuePairs, withheld = [] }: VdevUse): PortPlan {
  return {
    name,
    socket: "",
    mode: "client",
    mac: macText(vhostMac(number)),
    offer: makeOffer({ queuePairs, withheld }),
    pci: { device, link },
  };
}

function planUplink(vdev: TapVdev | PacketVdev | XdpVdev, { number, queuePairs, withheld }: VdevUse): PortPlan {
  return {
    name: vdev.name,
    socket: "",
    mode: "client",
    mac: (vdev.driver === "tap" ? vdev.mac : undefined) ?? macText(vhostMac(number)),
    offer: makeOffer({ queuePairs, withheld: withheld ?? [] }),
    uplink: {
      kind: vdev.driver,
      interface: vdev.iface,
      ...vdev.driver === "xdp" ? { copy: vdev.copy } : {},
    },
  };
}

/** Unicast, locally administered. */
function randomMac(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  bytes[0] = bytes[0]! & 0xfc | 2;
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(":");
}

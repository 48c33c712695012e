/**
 * DPDK's vdev strings: a device's name, then its devargs, as in `eth_vhost0,iface=/tmp/sock0,queues=2`.
 *
 * What DPDK 22.11 or later takes is taken with the same meaning, or refused by name with the reason (DPDK's guides:
 * "Vhost PMD arguments", "Virtio PMD arguments"). The driver is what the name begins with; any end will do. Empty pairs
 * are skipped. Stricter than DPDK: numbers are decimal, switches 0 or 1, and nothing is given twice.
 *
 * Two defaults are ours: `tso=1`, since a port offers all that works, and `busy_budget=0`.
 *
 * @module
 */
import { type FeatureName, limits } from "../vhost/spec.ts";

/** A vdev string that cannot be used. The message is one line: what failed, the value, what to do. */
export class DevargsError extends Error {
  override name = "DevargsError";
}

/** `eth_vhostN` or `net_vhostN`: a port for a guest. The defaults are those of "Vhost PMD arguments". */
export interface VhostVdev {
  readonly driver: "vhost";
  /** As given: `eth_vhost0`. */
  readonly name: string;
  /** The socket's path as given: it may be relative, or too long for a socket. */
  readonly iface: string;
  /** Queue pairs: 1 to 128, by default 1. */
  readonly queues: number;
  /** Whether we connect, and connect again, instead of listening; by default false. */
  readonly client: boolean;
  /** What not to offer, for `makeOffer()`'s `withheld`; by default nothing. */
  readonly features: readonly FeatureName[];
}

/** `virtio_userN` or `net_virtio_userN`: the driver's side. The defaults are those of "Virtio PMD arguments". */
export interface VirtioUserVdev {
  readonly driver: "virtio-user";
  /** As given: `virtio_user0`. */
  readonly name: string;
  /** The socket's path as given: it may be relative, or too long for a socket. */
  readonly path: string;
  /** Queue pairs: 1 to 128, by default 1. */
  readonly queues: number;
  /** Descriptors of each ring: 1 to 32768, a power of two unless `packed`; by default 256. */
  readonly queueSize: number;
  /** Unicast, as `52:54:00:12:34:56` in lower case; a random one is to be made if undefined. */
  readonly mac?: string | undefined;
  /** Whether we listen for the back end instead of connecting; by default false. */
  readonly server: boolean;
  /** Whether RING_PACKED is accepted; by default false. */
  readonly packed: boolean;
  /** Whether MRG_RXBUF is accepted; by default true. */
  readonly mergeable: boolean;
  /** Whether IN_ORDER is accepted; by default true. */
  readonly inOrder: boolean;
  /** The link's speed to report, in Mbit/s; unknown if undefined. */
  readonly speed?: number | undefined;
}

/** `net_tapN`: an interface of the host's, made if it is not there. The defaults are those of "Tun/Tap PMD". */
export interface TapVdev {
  readonly driver: "tap";
  /** As given: `net_tap0`. */
  readonly name: string;
  /** The interface; by default `dtapN`. */
  readonly iface: string;
  /** Queue pairs: 1 to 128, by default 1. */
  readonly queues: number;
  /** Of this end, unicast, as `52:54:00:12:34:56` in lower case; one is to be made if undefined. */
  readonly mac?: string | undefined;
}

/** `net_af_packetN`: an interface of the host's that is there. The defaults are those of "AF_PACKET PMD". */
export interface PacketVdev {
  readonly driver: "packet";
  /** As given: `net_af_packet0`. */
  readonly name: string;
  readonly iface: string;
  /** Queue pairs: 1 to 128, by default 1. */
  readonly queues: number;
}

/** `net_af_xdpN`: an interface of the host's that is there. The defaults are those of "AF_XDP PMD", or follow. */
export interface XdpVdev {
  readonly driver: "xdp";
  /** As given: `net_af_xdp0`. */
  readonly name: string;
  readonly iface: string;
  /** Queue pairs: 1 to 128, by default 1. */
  readonly queues: number;
  /** Whether the kernel copies frames, although the driver could do without; by default false. */
  readonly copy: boolean;
}

/** `vhost_pciN`, which DPDK has not: another VM's rings, through PCI devices of this one. */
export interface VhostPciVdev {
  readonly driver: "vhost-pci";
  /** As given: `vhost_pci0`. */
  readonly name: string;
  /** The device whose BAR 2 is the other VM's memory, as `0000:00:05.0`. */
  readonly device: string;
  /** The device whose BAR 2 is the link page; to be found, if undefined. */
  readonly link?: string | undefined;
  /** Queue pairs: 1 to 128, by default 1. */
  readonly queues: number;
}

/** What a vdev string asks for. */
export type Vdev = VhostVdev | VirtioUserVdev | TapVdev | PacketVdev | XdpVdev | VhostPciVdev;

/** What DPDK calls them. */
export const driverNames = {
  vhost: "net_vhost",
  "virtio-user": "net_virtio_user",
  tap: "net_tap",
  packet: "net_af_packet",
  xdp: "net_af_xdp",
  "vhost-pci": "vhost_pci",
} as const;

/** How the value of a key is read; undefined is for one that cannot be used, and `advice` says what can. */
interface Key<Value> {
  readonly read: (text: string) => Value | undefined;
  readonly advice: string;
}

type Values<Keys> = { readonly [Name in keyof Keys]?: Keys[Name] extends Key<infer Value> ? Value : never };

const socket: Key<string> = {
  read: (value) => value.startsWith("/dev/vhost-") ? undefined : value,
  advice: "give a vhost-user socket, vhost-net and vDPA are not supported",
};

const flag: Key<boolean> = {
  read: (value) => value === "0" ? false : value === "1" ? true : undefined,
  advice: "give 0 or 1",
};

const mac: Key<string> = {
  read: (value) =>
    /^(?!00(:00){5}$)[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/i.test(value) ? value.toLowerCase() : undefined,
  advice: "give a unicast address such as 52:54:00:12:34:56",
};

/** In Mbit/s; those that DPDK's virtio driver takes. */
const speeds = [10000, 20000, 25000, 40000, 50000, 56000, 100000, 200000];

const speed: Key<number> = {
  read: (value) => speeds.find((candidate) => String(candidate) === value),
  advice: `choose from ${speeds.join(", ")}`,
};

function wholeNumber(most: number): Key<number> {
  const read = (value: string) => {
    const number = /^\d{1,15}$/.test(value) ? Number(value) : 0;
    return number >= 1 && number <= most ? number : undefined;
  };
  return { read, advice: `give a whole number from 1 to ${most}` };
}

/** A switch that stays off. */
function off(reason: string): Key<false> {
  return { read: (value) => value === "0" ? false : undefined, advice: `give 0, ${reason}` };
}

function refused(reason: string): Key<never> {
  return { read: () => undefined, advice: `leave it out, ${reason}` };
}

const vhostKeys = {
  iface: socket,
  queues: wholeNumber(limits.queuePairs),
  client: flag,
  "dequeue-zero-copy": refused("DPDK removed it in 20.11, and from guest to guest there is one copy anyway"),
  "iommu-support": off("an IOTLB is not supported"),
  "postcopy-support": off("post-copy migration is not supported"),
  tso: flag,
  // These three are about mbufs, which are not here. The first is felt by guests, though: see `withheld`.
  "linear-buffer": flag,
  "ext-buffer": flag,
  "legacy-ol-flags": flag,
};

const virtioUserKeys = {
  path: socket,
  mac,
  queues: wholeNumber(limits.queuePairs),
  queue_size: wholeNumber(limits.vringSize),
  iface: refused("it names the tap of a vhost-net back end: a socket is given by path="),
  server: flag,
  mrg_rxbuf: flag,
  in_order: flag,
  packed_vq: flag,
  speed,
  // Which of DPDK's code paths is chosen: no effect here.
  vectorized: flag,
  // DPDK's driver answers its control queue itself; of that, only SET_VRING_ENABLE reaches a vhost-user back end, and
  // this is sent without one. So cq=0 does not forbid several queues, as it does in DPDK.
  cq: flag,
};

const interfaceName: Key<string> = {
  read: (value) => /^[^\s/]{1,15}$/.test(value) && value !== "." && value !== ".." ? value : undefined,
  advice: "give the name of an interface, 1 to 15 bytes",
};

const tapKeys = {
  iface: interfaceName,
  mac,
  // DPDK has as many as the application sets up.
  queues: wholeNumber(limits.queuePairs),
  remote: refused("a bridge joins interfaces: ip link set IF master BRIDGE"),
  persist: refused("an interface that was there before stays: ip tuntap add"),
};

const ringSize = refused("the ring has 255 places of 68 KiB, for packets that are not cut");

const packetKeys = {
  iface: interfaceName,
  qpairs: wholeNumber(limits.queuePairs),
  qdisc_bypass: {
    read: (value) => value === "1" ? true : undefined,
    advice: "give 1: packets go past the queueing discipline",
  } satisfies Key<true>,
  fanout_mode: {
    read: (value) => value === "hash" ? value : undefined,
    advice: "give hash: a flow stays in its queue",
  } satisfies Key<string>,
  blocksz: ringSize,
  framesz: ringSize,
  framecnt: ringSize,
};

const xdpKeys = {
  iface: interfaceName,
  queue_count: wholeNumber(limits.queuePairs),
  start_queue: off("one program leads the interface's queues from the first on: queue_count= says how many"),
  shared_umem: off("each queue has memory of its own"),
  force_copy: flag,
  // DPDK's default is 64: see above.
  busy_budget: off("the rings are polled, and the kernel is not made to poll for them"),
  xdp_prog: refused("the program is our own: all that comes to the queues is led to their sockets"),
  use_cni: off("the program is attached by us, and takes the capabilities for that"),
  use_pinned_map: off("the map of sockets is made by us, and goes with us"),
  dp_path: refused("nobody is asked for a map of sockets"),
};

/** As lspci prints it, with or without the domain. */
const pciAddress: Key<string> = {
  read: (value) => {
    const match = /^([0-9a-f]{4}:)?([0-9a-f]{2}:[01][0-9a-f]\.[0-7])$/i.exec(value);
    return match ? `${match[1] ?? "0000:"}${match[2]}`.toLowerCase() : undefined;
  },
  advice: "give the address of a PCI device, such as 0000:00:05.0",
};

const vhostPciKeys = {
  dev: pciAddress,
  link: pciAddress,
  queues: wholeNumber(limits.queuePairs),
};

function choose(words: readonly string[]): string {
  return `choose from ${words.join(", ")}`;
}

function unusable(name: string, key: string, value: string, what: string): DevargsError {
  return new DevargsError(`cannot use ${key}= in ${name}: ${value}: ${what}`);
}

function readPairs<Keys extends Record<string, Key<unknown>>>(name: string, pairs: string[], keys: Keys): Values<Keys> {
  const values: Record<string, unknown> = {};
  for (const pair of pairs) {
    const [word = "", ...rest] = pair.split("=");
    const value = rest.join("=");
    const key = Object.hasOwn(keys, word) ? keys[word] : undefined;
    if (key === undefined) {
      throw new DevargsError(`unknown key in ${name}: ${word}: ${choose(Object.keys(keys))}`);
    }
    if (value === "") throw new DevargsError(`no value in ${name}: ${word}: give ${word}=VALUE`);
    if (word in values) throw new DevargsError(`twice in ${name}: ${word}: give it once`);
    values[word] = key.read(value);
    if (values[word] === undefined) throw unusable(name, word, value, key.advice);
  }
  return values as Values<Keys>;
}

function missing(name: string, key: string, value = "PATH"): never {
  throw new DevargsError(`missing in ${name}: ${key}: add ${key}=${value}`);
}

/**
 * DPDK's `tso=0` withholds these two, and what the front end may send stays. A linear buffer that is not an external
 * one forbids all segmentation by the host; HOST_USO, which DPDK does not offer, goes with the rest.
 */
function withheld(tso: boolean, linear: boolean): FeatureName[] {
  if (linear) return ["HOST_TSO4", "HOST_TSO6", "HOST_UFO", "HOST_USO"];
  return tso ? [] : ["HOST_TSO4", "HOST_TSO6"];
}

function vhost(name: string, pairs: string[]): VhostVdev {
  const values = readPairs(name, pairs, vhostKeys);
  const { iface = missing(name, "iface"), queues = 1, client = false, tso = true } = values;
  const linear = values["linear-buffer"] === true && values["ext-buffer"] !== true;
  return { driver: "vhost", name, iface, queues, client, features: withheld(tso, linear) };
}

function virtioUser(name: string, pairs: string[]): VirtioUserVdev {
  const values = readPairs(name, pairs, virtioUserKeys);
  const { path = missing(name, "path"), queues = 1, queue_size: queueSize = 256, packed_vq: packed = false } = values;
  if (!packed && (queueSize & (queueSize - 1)) !== 0) {
    throw unusable(name, "queue_size", `${queueSize}`, "give a power of two, or packed_vq=1");
  }
  return {
    driver: "virtio-user",
    name,
    path,
    queues,
    queueSize,
    mac: values.mac,
    server: values.server ?? false,
    packed,
    mergeable: values.mrg_rxbuf ?? true,
    inOrder: values.in_order ?? true,
    speed: values.speed,
  };
}

function tap(name: string, pairs: string[]): TapVdev {
  const values = readPairs(name, pairs, tapKeys);
  const { iface = `dtap${/\d*$/.exec(name)![0]}`, queues = 1 } = values;
  return { driver: "tap", name, iface, queues, mac: values.mac };
}

function packet(name: string, pairs: string[]): PacketVdev {
  const values = readPairs(name, pairs, packetKeys);
  const { iface = missing(name, "iface", "INTERFACE"), qpairs = 1 } = values;
  return { driver: "packet", name, iface, queues: qpairs };
}

function xdp(name: string, pairs: string[]): XdpVdev {
  const values = readPairs(name, pairs, xdpKeys);
  const { iface = missing(name, "iface", "INTERFACE"), queue_count: queues = 1, force_copy: copy = false } = values;
  return { driver: "xdp", name, iface, queues, copy };
}

function vhostPci(name: string, pairs: string[]): VhostPciVdev {
  const { dev: device = missing(name, "dev", "0000:00:05.0"), link, queues = 1 } = readPairs(name, pairs, vhostPciKeys);
  if (link === device) throw unusable(name, "link", link, "the page is another device than the memory");
  return { driver: "vhost-pci", name, device, link, queues };
}

/** By what names begin with. */
const drivers = new Map<string, (name: string, pairs: string[]) => Vdev>([
  ["eth_vhost", vhost],
  ["net_vhost", vhost],
  ["virtio_user", virtioUser],
  ["net_virtio_user", virtioUser],
  ["net_tap", tap],
  ["net_af_packet", packet],
  ["net_af_xdp", xdp],
  ["vhost_pci", vhostPci],
]);

/**
 * Parses one vdev string. Nothing is looked up: neither paths nor other vdevs.
 *
 * @throws DevargsError for a driver or a key that is unknown or not supported, a key without value or given twice, a
 * value that cannot be used, a socket that is missing
 */
export function parseVdev(text: string): Vdev {
  const [name = "", ...pairs] = text.split(",");
  for (const [start, parse] of drivers) {
    if (name.startsWith(start)) return parse(name, pairs.filter((pair) => pair !== ""));
  }
  const names = [...drivers.keys()];
  throw new DevargsError(`unknown driver: ${name}: ${choose(names)}`);
}

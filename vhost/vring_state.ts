/**
 * One ring as the control plane sees it: what was configured, whether it runs, whether it is enabled.
 *
 * A ring is stopped or started, and enabled or disabled, independently (vhost-user, Ring states). It starts as soon as
 * its size, base, addresses and a kick are there. The specification lets it start at the first kick through that fd;
 * QEMU's kick fd comes already kicked, so that is the same moment. From then on size, base and place are frozen: front
 * ends repeat them for running rings, and an identical repeat is accepted.
 *
 * @module
 */
import type { VringConfig } from "./dataplane.ts";
import { RefusedError } from "./error.ts";
import type { MemoryTable } from "./memory_table.ts";
import { featureSet, hasFeature, limits, vringAddressFlags } from "./spec.ts";
import type { Value, vringAddress } from "./wire.ts";

/** As in SET_VRING_ADDR. */
export type VringAddress = Value<typeof vringAddress>;

export interface VringState {
  readonly index: number;
  /** Number of descriptors; undefined before SET_VRING_NUM. */
  readonly size: number | undefined;
  /** Where to start, or was started; after a stop, where it stopped. Undefined before SET_VRING_BASE. */
  readonly base: number | undefined;
  /** Forgotten at each stop: a stale one is worth nothing. */
  readonly address: VringAddress | undefined;
  /** SET_VRING_KICK came since the last stop. */
  readonly kicked: boolean;
  /** What the data plane was given; undefined while stopped. */
  readonly running: VringConfig | undefined;
  readonly enabled: boolean;
}

export function initialVring(index: number): VringState {
  return {
    index,
    size: undefined,
    base: undefined,
    address: undefined,
    kicked: false,
    running: undefined,
    enabled: false,
  };
}

/** SET_VRING_NUM. Whether the size suits the ring's format is seen at the start, when the format is known. */
export function withSize(vring: VringState, size: number): VringState {
  if (size === 0 || size > limits.vringSize) {
    throw new RefusedError(`size of ring ${vring.index}: ${size}: give 1 to ${limits.vringSize}`);
  }
  if (vring.running !== undefined && size !== vring.size) throw frozen(vring, "size", vring.size, size);
  return { ...vring, size };
}

/** SET_VRING_BASE. */
export function withBase(vring: VringState, base: number): VringState {
  if (vring.running !== undefined && base !== vring.base) throw frozen(vring, "base", vring.base, base);
  return { ...vring, base };
}

/** SET_VRING_ADDR. Flags and log address may change under a running ring, when a migration begins or ends. */
export function withAddress(vring: VringState, address: VringAddress): VringState {
  if ((address.flags & ~vringAddressFlags.log) !== 0) {
    throw new RefusedError(`flags of ring ${vring.index}: ${hex(address.flags)}: only bit 0 has a meaning`);
  }
  for (const area of ["desc", "avail", "used"] as const) {
    const before = vring.address?.[area];
    if (vring.running !== undefined && address[area] !== before) throw frozen(vring, area, before, address[area]);
  }
  return { ...vring, address };
}

/** Everything that the ring needs to start is there, and it does not run yet. */
export function isReady(vring: VringState): boolean {
  return vring.running === undefined && vring.kicked && vring.size !== undefined && vring.base !== undefined &&
    vring.address !== undefined;
}

/** What a stop leaves: size, enabled, and the base, which is to be brought up to date if the ring ran. */
export function stoppedVring(vring: VringState): VringState {
  return { ...vring, address: undefined, kicked: false, running: undefined };
}

/** Bytes and alignments of the three areas: virtio 2.7 for split, 2.8.10 and 2.8.14 for packed rings. */
function areasOf(size: number, packed: boolean) {
  return packed
    ? { desc: { bytes: 16 * size, align: 16n }, avail: { bytes: 4, align: 4n }, used: { bytes: 4, align: 4n } }
    : {
      desc: { bytes: 16 * size, align: 16n },
      avail: { bytes: 6 + 2 * size, align: 2n },
      used: { bytes: 6 + 8 * size, align: 4n },
    };
}

/**
 * The configuration to start a ready ring with. Throws `RefusedError` when size or base do not suit the ring's format,
 * or an area is misaligned or lies in no region whole.
 *
 * @param features Acknowledged by SET_FEATURES.
 */
export function configOf(vring: VringState, features: bigint, memory: MemoryTable): VringConfig {
  const { index, size, base, address } = vring;
  if (size === undefined || base === undefined || address === undefined) {
    throw new TypeError(`Cannot configure ring ${index}: not ready`);
  }
  const packed = hasFeature(features, "RING_PACKED");
  checkFormat(index, size, base, packed);
  const areas = areasOf(size, packed);
  const place = (area: "desc" | "avail" | "used"): bigint => {
    const { bytes, align } = areas[area];
    const gpa = memory.guestAddress(address[area], bytes);
    if (gpa === undefined) {
      const where = `${hex(address[area])}+${hex(bytes)}`;
      throw new RefusedError(`${area} area of ring ${index}: ${where}: lies in no memory region`);
    }
    if (gpa % align === 0n) return gpa;
    throw new RefusedError(`${area} area of ring ${index}: ${hex(gpa)}: must be a multiple of ${align}`);
  };
  return {
    features,
    size,
    base,
    desc: place("desc"),
    avail: place("avail"),
    used: place("used"),
    flags: address.flags,
    log: address.log,
  };
}

/** What a running ring is to log by now, as its configuration says it. */
export function logOf(
  vring: VringState,
  running: VringConfig,
  features: bigint,
): Pick<VringConfig, "features" | "flags" | "log"> {
  const bit = featureSet(["LOG_ALL"]);
  const { flags, log } = vring.address ?? running;
  return { features: running.features & ~bit | features & bit, flags, log };
}

function checkFormat(index: number, size: number, base: number, packed: boolean): void {
  if (packed) {
    // Bits 0-14 and 16-30 are places in the ring, 15 and 31 their wrap counters.
    if ((base & 0x7fff) < size && (base >>> 16 & 0x7fff) < size) return;
    throw new RefusedError(`base of packed ring ${index}: ${hex(base)}: lies outside the ring's ${size} descriptors`);
  }
  if ((size & (size - 1)) !== 0) {
    throw new RefusedError(`size of split ring ${index}: ${size}: must be a power of two`);
  }
  if (base > limits.splitBase) {
    throw new RefusedError(`base of split ring ${index}: ${base}: give 0 to ${limits.splitBase}`);
  }
}

/**
 * Whether a running ring can go on with this memory: its addresses must lead to where it is. Throws `RefusedError` when
 * they do not.
 */
export function checkPlace(vring: VringState, memory: MemoryTable): void {
  const { running } = vring;
  if (running === undefined) return;
  const moved = configOf(vring, running.features, memory);
  for (const area of ["desc", "avail", "used"] as const) {
    if (moved[area] !== running[area]) throw frozen(vring, area, running[area], moved[area]);
  }
}

function frozen(
  vring: VringState,
  what: string,
  before: number | bigint | undefined,
  after: number | bigint,
): RefusedError {
  const values = `${hex(before ?? 0)} to ${hex(after)}`;
  return new RefusedError(`${what} of running ring ${vring.index} from ${values}: stop it first, by GET_VRING_BASE`);
}

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

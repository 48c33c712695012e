/**
 * Memory that a front end keeps for its back end, with a region for each ring: how much it takes, and which is refused
 * (vhost-user, Inflight I/O tracking). What is in it is the data plane's.
 *
 * @module
 */
import { RefusedError } from "./error.ts";
import { limits } from "./spec.ts";
import type { inflight, Value } from "./wire.ts";

/** As in GET_INFLIGHT_FD and SET_INFLIGHT_FD. */
export type Inflight = Value<typeof inflight>;

/** Bytes of a region's head, and of each descriptor's entry. */
const layouts = { split: { head: 16, entry: 16 }, packed: { head: 32, entry: 32 } } as const;
/** Every region begins at a multiple of it, as in other back ends. */
const regionAlign = 64;

/** Bytes of all regions; the last one needs no more than it has. */
function bytesOf({ queueCount, queueSize }: Inflight, format: keyof typeof layouts): bigint {
  const { head, entry } = layouts[format];
  const region = head + queueSize * entry;
  return BigInt((queueCount - 1) * Math.ceil(region / regionAlign) * regionAlign + region);
}

function checkQueues({ queueCount, queueSize }: Inflight, rings: number): void {
  if (queueCount === 0 || queueCount > rings) {
    throw new RefusedError(`${queueCount} queues: this port has 1 to ${rings}`);
  }
  if (queueSize === 0 || queueSize > limits.vringSize) {
    throw new RefusedError(`queues of ${queueSize}: give 1 to ${limits.vringSize}`);
  }
}

/** What is to be made for a front end: enough for either format, since the driver's choice may not be known yet. */
export function madeInflight(wanted: Inflight, rings: number): Inflight {
  checkQueues(wanted, rings);
  return { ...wanted, mmapSize: bytesOf(wanted, "packed"), mmapOffset: 0n };
}

/** Throws `RefusedError` where it does not hold what it says. */
export function checkInflight(given: Inflight, rings: number, packed: boolean): void {
  checkQueues(given, rings);
  const least = bytesOf(given, packed ? "packed" : "split");
  if (given.mmapSize < least) {
    const regions = `${given.queueCount} queues of ${given.queueSize}`;
    throw new RefusedError(`memory of ${given.mmapSize} bytes: ${regions} need ${least}`);
  }
}

/** Whether a ring can start beside it. Throws `RefusedError`: its region is for shorter ones, or of another format. */
export function checkTracked(given: Inflight | undefined, index: number, size: number, packed: boolean): void {
  if (given === undefined || index >= given.queueCount) return;
  const least = bytesOf({ ...given, queueCount: index + 1 }, packed ? "packed" : "split");
  if (size <= given.queueSize && least <= given.mmapSize) return;
  const regions = `${given.mmapSize} bytes for queues of ${given.queueSize}`;
  throw new RefusedError(`ring ${index} of ${size} does not fit its inflight memory of ${regions}`);
}

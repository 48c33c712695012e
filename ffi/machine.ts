/**
 * What only native code can tell of the machine.
 *
 * @module
 */

import { check, library } from "./library.ts";

/**
 * How long a cache line takes from one CPU to another, in nanoseconds. Takes some milliseconds of both. Throws
 * `VringError`: status `busy` when somebody else had one of them all the time.
 */
export async function coreDistance(cpu: number, other: number): Promise<number> {
  return check(`measure distance of CPUs ${cpu} and ${other}`, await library().core_distance(cpu, other));
}

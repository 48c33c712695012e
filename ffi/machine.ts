/**
 * What only native code can tell of the machine.
 *
 * @module
 */

import type { Fd } from "../vhost/fd.ts";
import { ownFd } from "./fd.ts";
import { check, library, VringError } from "./library.ts";

const errnoAbsent = 2;
const errnoNoProcess = 3;
const fileBytesMax = 1 << 16;

/**
 * How long a cache line takes from one CPU to another, in nanoseconds. Takes some milliseconds of both. Throws
 * `VringError`: status `busy` when somebody else had one of them all the time.
 */
export async function coreDistance(cpu: number, other: number): Promise<number> {
  return check(`measure distance of CPUs ${cpu} and ${other}`, await library().core_distance(cpu, other));
}

/** What is copied, as guests have it. */
export interface CopyWork {
  readonly frameBytes: number;
  /** Of each frame, by the CPU that sends it. */
  readonly writtenBytes: number;
  /** Of a receive buffer, the virtio-net header included; a longer frame takes several. */
  readonly bufferBytes: number;
  readonly ringSize: number;
}

/**
 * How long one CPU needs to copy a frame that another CPU has written, in nanoseconds: what no forwarder can be quicker
 * than. Takes some milliseconds to a second of both. Throws `VringError`: status `busy` when somebody else had one of
 * them all the time.
 */
export async function copyFloor(cpu: number, other: number, work: CopyWork): Promise<number> {
  const { frameBytes, writtenBytes, bufferBytes, ringSize } = work;
  const taken = library().copy_floor(cpu, other, frameBytes, writtenBytes, bufferBytes, ringSize);
  return check(`measure copies from CPU ${other} by ${cpu}`, await taken) / 1000;
}

/**
 * The text of a file of the kernel, below /proc or /sys, which Deno keeps from programs that may not do everything.
 * At most 64 KiB are read. Undefined where there is no such file.
 */
export function readSystemFile(path: string): string | undefined {
  return ask(`read ${path}`, library().system_file_read, path);
}

/** The names in a directory of the kernel's; none where there is no such directory. */
export function listSystemDirectory(path: string): string[] {
  return ask(`list ${path}`, library().system_file_list, path)?.split("\n").slice(0, -1) ?? [];
}

/** Opens a file of the kernel's to be mapped and written to, such as a BAR of a PCI device. Throws `VringError`. */
export function openSystemFile(path: string): Fd {
  const name = new TextEncoder().encode(path);
  return ownFd(check(`open ${path}`, library().system_file_open(name, name.length)));
}

type Question = ReturnType<typeof library>["system_file_read"];

function ask(operation: string, question: Question, path: string): string | undefined {
  const bytes = new Uint8Array(fileBytesMax);
  const name = new TextEncoder().encode(path);
  try {
    const length = check(operation, question(name, name.length, bytes, bytes.length));
    return new TextDecoder().decode(bytes.subarray(0, length));
  } catch (reason) {
    const absent = reason instanceof VringError && [errnoAbsent, errnoNoProcess].includes(reason.errno);
    if (absent) return undefined;
    throw reason;
  }
}

/** A clock that all processes of this machine share, in nanoseconds. */
export function steadyClock(): bigint {
  const time = new BigUint64Array(1);
  library().steady_clock(time);
  return time[0]!;
}

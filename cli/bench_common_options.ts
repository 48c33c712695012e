/**
 * Options that benchmarks have in common, and what follows from them.
 *
 * @module
 */
import { Option } from "@commander-js/extra-typings";
import { type Case, type Placement, type Ring, variants } from "./bench_result.ts";
import { UsageError } from "./error.ts";
import { choice, cpuList, wholeNumber } from "./option.ts";

/** Ethernet's shortest frame without its checksum, and the longest that rings carry. */
const sizeMin = 60;
export const sizeMax = 65535;

const sizeOf = wholeNumber("--size", sizeMin, sizeMax);

/** Parses one or more frame sizes. */
function sizes(text: string): number[] {
  const list = text.split(",").map(sizeOf);
  const twice = list.find((size, index) => list.indexOf(size) !== index);
  if (twice !== undefined) throw new UsageError(`cannot use --size: ${text}: give ${twice} once`);
  return list;
}

/** A kind of rings. */
export type RingCase = Pick<Case, "ring" | "variant">;

const layouts: readonly Ring[] = ["split", "packed"];
const allRings = layouts.flatMap((ring): RingCase[] => [{ ring }, ...variants.map((variant) => ({ ring, variant }))]);
const plainRings = allRings.filter(({ variant }) => variant === undefined);

/** As the command line calls them: `split`, `packed-in-order`. */
function ringWord({ ring, variant }: RingCase): string {
  return variant === undefined ? ring : `${ring}-${variant}`;
}

const ringWords = [...allRings.map(ringWord), "both", "all"];

/** Parses one or more kinds of rings. */
function ringList(text: string): readonly RingCase[] {
  const sets: Record<string, readonly RingCase[]> = { both: plainRings, all: allRings };
  const words = text.split(",").map(choice("--ring", ringWords));
  const list = words.flatMap((word) => sets[word] ?? allRings.filter((kind) => ringWord(kind) === word));
  const twice = list.find((kind, index) => list.indexOf(kind) !== index);
  if (twice !== undefined) throw new UsageError(`cannot use --ring: ${text}: give ${ringWord(twice)} once`);
  return list;
}

function seconds(text: string): number {
  const value = /^\d{1,5}(\.\d{1,3})?$/.test(text) ? Number(text) : NaN;
  if (value >= 0.1) return value;
  throw new UsageError(`cannot use --seconds: ${text}: give 0.1 or more`);
}

/** Rings that the switch takes: packed ones of any size, split ones of a power of two (virtio 2.7). */
const ringSize = wholeNumber("--ring-size", 2, 32768);

/** Of frames, one or more. */
export function sizeOption() {
  return new Option("--size <list>", "frame sizes in bytes, 60 to 65535").default([64], "64").argParser(sizes);
}

/** Kinds of rings, one or more. */
export function ringOption() {
  return new Option("--ring <list>", `${ringWords.join(", ")}`).default(plainRings, "both").argParser(ringList);
}

/** Of all rings. */
export function ringSizeOption() {
  return new Option("--ring-size <n>", "descriptors of each ring").default(256).argParser(ringSize);
}

/** For how long. */
export function secondsOption(usual: number, what: string) {
  return new Option("--seconds <n>", `how long to measure ${what}`).default(usual).argParser(seconds);
}

/** How often. */
export function startsOption() {
  return new Option("--starts <n>", "how often to start everything anew, and measure all again").default(1)
    .argParser(wholeNumber("--starts", 1, 1000));
}

/** Who does what where. */
export function cpusOption() {
  return new Option("--cpus <list>", "the worker's CPU, then the sender's and the receiver's").argParser(cpuList);
}

/** Who else is measured. */
export function peerOption() {
  return new Option("--peer <name>", "compare with dpdk").argParser(choice("--peer", ["dpdk"]));
}

/** Which of them. */
export function testpmdOption() {
  return new Option("--testpmd <path>", "the testpmd to compare with (default: dpdk-testpmd in the PATH)");
}

/** Which testpmd is named, and whether it is to be used; throws a `UsageError` where that does not fit. */
export function checkPeer({ peer, testpmd }: { peer?: string | undefined; testpmd?: string | undefined }): void {
  if (testpmd !== undefined && peer === undefined) {
    throw new UsageError(`--testpmd without --peer: ${testpmd}: add --peer dpdk`);
  }
}

/** Throws a `UsageError` where there are no such rings. */
export function checkRings({ ring, ringSize }: { ring: readonly RingCase[]; ringSize: number }): void {
  if (ring.some(({ ring }) => ring === "split") && (ringSize & (ringSize - 1)) !== 0) {
    throw new UsageError(`cannot use --ring-size: ${ringSize}: split rings have a power of two, or --ring packed`);
  }
}

/**
 * One CPU for the worker, the others for the guests: each its own where there are enough, else one for both. On a
 * machine with one CPU everybody shares it.
 */
export function place(cpus: readonly number[]): Placement {
  const [worker, ...rest] = cpus;
  if (worker === undefined) throw new RangeError("Cannot place the worker: no CPUs");
  const sender = rest[0] ?? worker;
  return { worker_cpus: [worker], guest_cpus: [sender, rest[1] ?? sender] };
}

function checkCpus(wanted: readonly number[], allowed: readonly number[]): void {
  if (wanted.length > 3) {
    throw new UsageError(
      `too many CPUs in --cpus: ${wanted.join(",")}: give the worker's, the sender's, the receiver's`,
    );
  }
  const missing = wanted.find((cpu) => !allowed.includes(cpu));
  if (missing !== undefined) {
    throw new UsageError(`cannot run on CPU: ${missing}: this process may use ${allowed.join(",")}`);
  }
}

/** Where all run: on the CPUs that are wanted, else on those that are allowed. Throws a `UsageError`. */
export function choosePlacement(wanted: readonly number[] | undefined, allowed: readonly number[]): Placement {
  if (wanted !== undefined) checkCpus(wanted, allowed);
  return place(wanted ?? allowed);
}

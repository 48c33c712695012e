/**
 * The command line of `bench vm2vm` and `bench loop`: its options, and the plan that follows from them.
 *
 * @module
 */
import { Command, Option } from "@commander-js/extra-typings";
import {
  type Case,
  type CaseOffload,
  type Placement,
  type Ring,
  type Taking,
  takings,
  variants,
  type Way,
} from "./bench_result.ts";
import { UsageError } from "./error.ts";
import { choice, cpuList, wholeNumber } from "./option.ts";

const about = `
Every packet carries a number; one in about a thousand is checked byte by byte, with --verify every one. Gbit/s counts
frames, without preamble, gap and checksum.

With --gso the sender leaves its frames to others to be cut, as TSO and USO do: a receiver that takes all gets them
whole, for any other the switch cuts them, and one that takes nothing gets finished checksums. Of pieces, packets are
counted, and one in about a thousand is checked by its checksum.

With --instructions the worker is held, and let go on by single steps for a while, so that what it executes for each
packet is counted, with full rings; this says more of a change to its code than any rate on a machine that is not idle.

Of rings, --ring both means split and packed; all adds those of drivers without MRG_RXBUF, and with IN_ORDER. One start
of the processes has the memory and the places of one chance: with --starts all cases are measured so often anew.

With --peer dpdk, testpmd forwards between its net_vhost ports for the same guests on the same CPUs, in turns of a
quarter of a second: only figures taken so can be compared. It uses huge pages where some are free, and says so.
`;

const introductions: Record<Way, string> = {
  vm2vm: `
Two simulated guests, each with its own memory, and a process of its own where there is a CPU for each, are attached to
a \`serve\` with two ports, over real sockets and real rings. One sends to the other as fast as it can.`,
  loop: `
A simulated guest is attached to \`pmd-forward\`, which gives its packets back to it.`,
};

const examples: Record<Way, string> = {
  vm2vm: `
Examples:
  vhostctl bench vm2vm
  vhostctl bench vm2vm --size 64,1518,65535 --ring packed --verify
  vhostctl bench vm2vm --size 65535 --gso 1448
  vhostctl bench vm2vm --queues 4 --seconds 20 --report bench.html
  vhostctl bench vm2vm --size 64,256,1518,9000 --ring all --starts 5 --peer dpdk
  vhostctl bench vm2vm --json | jq '.cases[].mpps'`,
  loop: `
Examples:
  vhostctl bench loop
  vhostctl bench loop --ring all --size 64,256,1518,9000 --peer dpdk`,
};

const descriptions: Record<Way, string> = {
  vm2vm: "Measure how fast packets go from one guest to another, and check that they arrive as they were sent.",
  loop: "Measure how fast a guest's packets go back to it, and check that they arrive as they were sent.",
};

/** Ethernet's shortest frame without its checksum, and the longest that rings carry. */
const sizeMin = 60;
const sizeMax = 65535;

/** Of Ethernet, IPv4 and UDP, in the frames of simulated guests. */
export const frameHeaderBytes = 42;

const sizeOf = wholeNumber("--size", sizeMin, sizeMax);

/** Parses one or more frame sizes. */
function sizes(text: string): number[] {
  const list = text.split(",").map(sizeOf);
  const twice = list.find((size, index) => list.indexOf(size) !== index);
  if (twice !== undefined) throw new UsageError(`cannot use --size: ${text}: give ${twice} once`);
  return list;
}

type RingCase = Pick<Case, "ring" | "variant">;

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

/** Parses one or more of what a receiver can take. */
function takingList(text: string): Taking[] {
  const list = text.split(",").map(choice("--takes", takings));
  const twice = list.find((word, index) => list.indexOf(word) !== index);
  if (twice !== undefined) throw new UsageError(`cannot use --takes: ${text}: give ${twice} once`);
  return list;
}

function seconds(text: string): number {
  const value = /^\d{1,5}(\.\d{1,3})?$/.test(text) ? Number(text) : NaN;
  if (value >= 0.1) return value;
  throw new UsageError(`cannot use --seconds: ${text}: give 0.1 or more`);
}

/** Rings that the switch takes: packed ones of any size, split ones of a power of two (virtio 2.7). */
const ringSize = wholeNumber("--ring-size", 2, 32768);

/** The command for one way, still without its action. */
export function speedOptions(way: Way) {
  return new Command(way)
    .description(descriptions[way])
    .addOption(new Option("--size <list>", "frame sizes in bytes, 60 to 65535").default([64], "64").argParser(sizes))
    .addOption(
      new Option("--queues <n>", "queue pairs of each guest").default(1).argParser(wholeNumber("--queues", 1, 128)),
    )
    .addOption(
      new Option("--ring <list>", `${ringWords.join(", ")}`).default(plainRings, "both").argParser(ringList),
    )
    .addOption(new Option("--ring-size <n>", "descriptors of each ring").default(256).argParser(ringSize))
    .addOption(
      new Option("--gso <bytes>", "leave each frame to be cut into datagrams of so much payload (USO)")
        .argParser(wholeNumber("--gso", 48, sizeMax)),
    )
    .addOption(
      new Option(
        "--takes <list>",
        "with --gso, what the receiver takes: all, checksums, nothing (default: all,nothing)",
      )
        .argParser(takingList),
    )
    .addOption(new Option("--seconds <n>", "how long to measure each case").default(5).argParser(seconds))
    .addOption(
      new Option("--starts <n>", "how often to start everything anew, and measure all cases again").default(1)
        .argParser(wholeNumber("--starts", 1, 1000)),
    )
    .option("--instructions", "count the instructions of the worker, for each packet")
    .option("--verify", "check every byte of every packet")
    .addOption(
      new Option("--cpus <list>", "the worker's CPU, then the sender's and the receiver's").argParser(cpuList),
    )
    .addOption(new Option("--peer <name>", "compare with dpdk").argParser(choice("--peer", ["dpdk"])))
    .option("--testpmd <path>", "the testpmd to compare with (default: dpdk-testpmd in the PATH)")
    .option("--report <file>", "write a report in HTML")
    .option("--json", "print one JSON object at the end")
    .addHelpText("after", introductions[way] + about + examples[way]);
}

/** What commander makes of the options. */
export type BenchOptions = ReturnType<ReturnType<typeof speedOptions>["opts"]>;

/** What is to be done. */
export interface BenchPlan {
  readonly way: Way;
  readonly cases: readonly Case[];
  readonly seconds: number;
  readonly starts: number;
  readonly verify: boolean;
  readonly instructions: boolean;
  readonly placement: Placement;
  readonly peer: "dpdk" | undefined;
  readonly testpmd: string | undefined;
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

/** What the sender leaves to others, one case after the other. */
function planOffloads({ size, gso, takes, peer }: BenchOptions): readonly (CaseOffload | undefined)[] {
  if (gso === undefined) {
    if (takes !== undefined) throw new UsageError(`--takes without --gso: ${takes.join(",")}: add --gso 1448`);
    return [undefined];
  }
  if (peer !== undefined) {
    throw new UsageError(`--gso with --peer: ${peer}: leave one out, testpmd does not cut datagrams`);
  }
  const short = size.find((bytes) => bytes <= frameHeaderBytes + gso);
  if (short !== undefined) {
    throw new UsageError(
      `frame too short for --gso ${gso}: ${short}: give --size ${frameHeaderBytes + gso + 1} or more`,
    );
  }
  return (takes ?? ["all", "nothing"]).map((receiver_takes) => ({ gso_bytes: gso, receiver_takes }));
}

/** Checks everything that can be checked without touching anything; throws a `UsageError`. */
export function planBench(way: Way, options: BenchOptions, allowedCpus: readonly number[]): BenchPlan {
  if (options.ring.some(({ ring }) => ring === "split") && (options.ringSize & (options.ringSize - 1)) !== 0) {
    throw new UsageError(
      `cannot use --ring-size: ${options.ringSize}: split rings have a power of two, or --ring packed`,
    );
  }
  if (options.testpmd !== undefined && options.peer === undefined) {
    throw new UsageError(`--testpmd without --peer: ${options.testpmd}: add --peer dpdk`);
  }
  if (options.cpus !== undefined) checkCpus(options.cpus, allowedCpus);
  const offloads = planOffloads(options);
  return {
    way,
    cases: options.size.flatMap((size_bytes) =>
      options.ring.flatMap((kind) =>
        offloads.map((offload) => ({
          ...{ size_bytes, ...kind, queues: options.queues, ring_size: options.ringSize },
          ...offload === undefined ? {} : { offload },
        }))
      )
    ),
    seconds: options.seconds,
    starts: options.starts,
    verify: options.verify ?? false,
    instructions: options.instructions ?? false,
    placement: place(options.cpus ?? allowedCpus),
    peer: options.peer,
    testpmd: options.testpmd,
  };
}

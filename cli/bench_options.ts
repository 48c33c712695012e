/**
 * The command line of `bench vm2vm` and `bench loop`: its options, and the plan that follows from them.
 *
 * @module
 */
import { Command, Option } from "@commander-js/extra-typings";
import {
  checkPeer,
  checkRings,
  choosePlacement,
  cpusOption,
  peerOption,
  ringOption,
  ringSizeOption,
  secondsOption,
  sizeMax,
  sizeOption,
  startsOption,
  testpmdOption,
} from "./bench_common_options.ts";
import { type Case, type CaseOffload, type Placement, type Taking, takings, type Way } from "./bench_result.ts";
import { UsageError } from "./error.ts";
import { choice, wholeNumber } from "./option.ts";

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

/** Of Ethernet, IPv4 and UDP, in the frames of simulated guests. */
export const frameHeaderBytes = 42;

/** Parses one or more of what a receiver can take. */
function takingList(text: string): Taking[] {
  const list = text.split(",").map(choice("--takes", takings));
  const twice = list.find((word, index) => list.indexOf(word) !== index);
  if (twice !== undefined) throw new UsageError(`cannot use --takes: ${text}: give ${twice} once`);
  return list;
}

/** The command for one way, still without its action. */
export function speedOptions(way: Way) {
  return new Command(way)
    .description(descriptions[way])
    .addOption(sizeOption())
    .addOption(
      new Option("--queues <n>", "queue pairs of each guest").default(1).argParser(wholeNumber("--queues", 1, 128)),
    )
    .addOption(ringOption())
    .addOption(ringSizeOption())
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
    .addOption(secondsOption(5, "each case"))
    .addOption(startsOption())
    .option("--instructions", "count the instructions of the worker, for each packet")
    .option("--verify", "check every byte of every packet")
    .addOption(cpusOption())
    .addOption(peerOption())
    .addOption(testpmdOption())
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
  checkRings(options);
  checkPeer(options);
  const placement = choosePlacement(options.cpus, allowedCpus);
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
    placement,
    peer: options.peer,
    testpmd: options.testpmd,
  };
}

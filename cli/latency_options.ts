/**
 * The command line of `bench latency`: its options, and the plan that follows from them.
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
  sizeOption,
  startsOption,
  testpmdOption,
} from "./bench_common_options.ts";
import type { Placement } from "./bench_result.ts";
import { UsageError } from "./error.ts";
import type { LatencyCase } from "./latency_result.ts";
import { choice, type IdleMode, idleModes, wholeNumber } from "./option.ts";

const examples = `
One guest sends a packet to another, which sends it back; then the next one is sent. A \`serve\` that polls, one that
waits before it sleeps, as by default, and one that always sleeps have turns of a quarter of a second with guests of
their own on the same CPUs, as has DPDK's testpmd with --peer dpdk. Only figures of the same rounds can be compared.

With a load, two other guests exchange so many packets a second meanwhile.

Examples:
  vhostctl bench latency
  vhostctl bench latency --ring all --size 64,1518 --load 0 --peer dpdk
  vhostctl bench latency --idle adaptive,busy --load 10000,1000000 --starts 3
  vhostctl bench latency --report latency.html
  vhostctl bench latency --json | jq '.cases[].forwarders[] | {name, p50_us, p99_us}'`;

const loadMax = 100_000_000;

/** Parses one or more of a kind, none twice. */
function listOf<T>(name: string, each: (text: string) => T): (text: string) => T[] {
  return (text) => {
    const list = text.split(",").map(each);
    const twice = list.find((value, index) => list.indexOf(value) !== index);
    if (twice !== undefined) throw new UsageError(`cannot use ${name}: ${text}: give ${twice} once`);
    return list;
  };
}

/** The command, still without its action. */
export function latencyOptions() {
  return new Command("latency")
    .description("Measure how long a packet takes from one guest to another and back.")
    .addOption(sizeOption())
    .addOption(ringOption())
    .addOption(ringSizeOption())
    .addOption(
      new Option("--idle <list>", "what the worker does without traffic: busy, adaptive, sleep")
        .default<IdleMode[]>(["busy", "adaptive", "sleep"], "all three")
        .argParser(listOf("--idle", choice("--idle", idleModes))),
    )
    .addOption(
      new Option("--load <list>", "packets a second between two other guests; 0: none")
        .default([0, 100_000], "0,100000").argParser(listOf("--load", wholeNumber("--load", 0, loadMax))),
    )
    .addOption(secondsOption(10, "each size, ring and load"))
    .addOption(startsOption())
    .addOption(cpusOption())
    .addOption(peerOption())
    .addOption(testpmdOption())
    .option("--report <file>", "write a report in HTML")
    .option("--json", "print one JSON object at the end")
    .addHelpText("after", examples);
}

/** What commander makes of the options. */
export type LatencyOptions = ReturnType<ReturnType<typeof latencyOptions>["opts"]>;

/** What is to be done. */
export interface LatencyPlan {
  readonly cases: readonly LatencyCase[];
  readonly idle: readonly IdleMode[];
  readonly seconds: number;
  readonly starts: number;
  readonly placement: Placement;
}

/** Checks everything that can be checked without touching anything; throws a `UsageError`. */
export function planLatency(options: LatencyOptions, allowedCpus: readonly number[]): LatencyPlan {
  checkRings(options);
  checkPeer(options);
  const { size, ring, ringSize: ring_size, load, idle, seconds, starts, cpus } = options;
  return {
    cases: size.flatMap((size_bytes) =>
      ring.flatMap((kind) => load.map((load_pps) => ({ size_bytes, ...kind, ring_size, load_pps })))
    ),
    ...{ idle, seconds, starts },
    placement: choosePlacement(cpus, allowedCpus),
  };
}

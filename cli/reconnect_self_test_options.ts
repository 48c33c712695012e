/**
 * The options of `reconnect-watch --self-test`.
 *
 * @module
 */
import { type Command, Option } from "@commander-js/extra-typings";
import { UsageError } from "./error.ts";
import { choice, wholeNumber } from "./option.ts";
import type { SelfTestOptions } from "./reconnect_self_test.ts";

const roundsDefault = 100;
const roundsMax = 1_000_000;
const seedMax = 2 ** 32 - 1;

/** To stand in the help of the command. */
export const selfTestHelp = `
With --self-test two simulated guests, in a process of their own, send to each other under full load, while a back end
of our own (vhostctl serve) is killed with SIGKILL at a random instant, round after round, and started again. The guests
do what QEMU's do: memory and rings stay, and whoever comes is told all of it again, with the used index of a split
ring, and for a packed ring what was known when it was stopped in order the last time, which is stale. Some back ends
are killed again before packets pass; some drivers begin anew while nobody is there, with their rings in the same place.
Rings, buffers and features are other ones for each pair of guests, by --seed. Every ring must go round again after
every kill; in the end every buffer has come back, and every packet came once, in order, or is counted as lost.

In step, a guest sends no more than the other has buffers for: then nothing can be lost but what the killed process had
in hand, 64 frames a ring at most, and that bound is checked. At full speed frames are dropped where there is no buffer
or nobody there, and a process that is killed takes its counters along: there losses are counted, and not explained.

With --standby the next back end waits beside the one that is killed (vhostctl serve --standby): an outage is then that
without a start.

Examples:
  vhostctl reconnect-watch --self-test
  vhostctl reconnect-watch --self-test --standby
  vhostctl reconnect-watch --self-test --rounds 500 --ring packed --max-outage 2000
  vhostctl reconnect-watch --self-test --seed 7 --json | jq '.rings[] | {ring, kills, stuck, duplicated, outage}'`;

/** What commander makes of them. */
export interface SelfTestFlags {
  readonly selfTest?: true | undefined;
  readonly rounds?: number | undefined;
  readonly ring?: "split" | "packed" | "both" | undefined;
  readonly seed?: number | undefined;
  readonly standby?: true | undefined;
  readonly maxOutage?: number | undefined;
  readonly json?: true | undefined;
}

/** Adds them to a command. */
export function addSelfTestOptions(command: Command) {
  return command
    .addOption(
      new Option("--self-test", "kill a back end of our own under simulated guests, and check every packet and buffer")
        .conflicts(["socket", "client", "queues", "attach", "qmp", "seconds"]),
    )
    .addOption(
      new Option("--rounds <n>", `of --self-test: how often, with each ring format (default: ${roundsDefault})`)
        .argParser(wholeNumber("--rounds", 1, roundsMax)),
    )
    .addOption(
      new Option("--ring <layout>", "of --self-test: split, packed or both (default: both)")
        .argParser(choice("--ring", ["split", "packed", "both"])),
    )
    .option("--standby", "of --self-test: another back end stands by, and takes the place of the one that is killed")
    .addOption(
      new Option("--seed <n>", "of --self-test: repeat what was chosen at random (default: another every time)")
        .argParser(wholeNumber("--seed", 0, seedMax)),
    );
}

/** What is to be tested; undefined, if nothing is. Throws a `UsageError`. */
export function planSelfTest({ selfTest, rounds, ring, seed, standby, maxOutage, json }: SelfTestFlags) {
  if (selfTest === undefined) {
    const alone = Object.entries({ rounds, ring, seed, standby }).find(([, value]) => value !== undefined);
    if (alone === undefined) return undefined;
    const value = alone[1] === true ? "" : ` ${alone[1]}:`;
    throw new UsageError(`--${alone[0]} without --self-test:${value} give that too, or leave it out`);
  }
  return {
    rounds: rounds ?? roundsDefault,
    rings: ring === undefined || ring === "both" ? ["split", "packed"] : [ring],
    seed: seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!,
    maxOutage_ms: maxOutage,
    standby: standby ?? false,
    json: json ?? false,
  } satisfies SelfTestOptions;
}

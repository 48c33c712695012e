/**
 * The options of `migrate --self-test`.
 *
 * @module
 */
import { type Command, Option } from "@commander-js/extra-typings";
import { UsageError } from "./error.ts";
import type { SelfTestOptions } from "./migrate_self_test.ts";
import { choice, wholeNumber } from "./option.ts";

const roundsDefault = 20;
const roundsMax = 1_000_000;
const seedMax = 2 ** 32 - 1;

/** To stand in the help of the command. */
export const selfTestHelp = `
With --self-test two hosts of our own are started, each with a back end (vhostctl serve) and a process for a simulated
guest; a third process sends to the guest at full speed. Round after round the guest's memory goes to the other host,
there and back, while packets go on: all of it once, then what the back end's dirty log says. The guest is halted, its
device works on for a moment, and stops; then every page of both memories is compared, and the guest goes on at the
other host, from the bases that the first back end told. Some rounds are cancelled half-way, in some the other host is
killed, the log is replaced, or the device is stopped and started. Rings, buffers and features are other ones for each
guest, by --seed. In the end every packet was delivered once, or is counted as dropped.

Examples:
  vhostctl migrate --self-test
  vhostctl migrate --self-test --rounds 200 --ring packed
  vhostctl migrate --self-test --seed 7 --json | jq '.rings[] | {ring, rounds, pages_different, unaccounted}'`;

/** What commander makes of them. */
export interface SelfTestFlags {
  readonly selfTest?: true | undefined;
  readonly rounds?: number | undefined;
  readonly ring?: "split" | "packed" | "both" | undefined;
  readonly seed?: number | undefined;
  readonly json?: true | undefined;
}

/** Adds them to a command. */
export function addSelfTestOptions(command: Command) {
  return command
    .addOption(
      new Option("--self-test", "let simulated guests migrate between two hosts of our own, and compare every page")
        .conflicts(["from", "to", "toQmp"]),
    )
    .addOption(
      new Option("--rounds <n>", `of --self-test: how often, with each ring format (default: ${roundsDefault})`)
        .argParser(wholeNumber("--rounds", 1, roundsMax)),
    )
    .addOption(
      new Option("--ring <layout>", "of --self-test: split, packed or both (default: both)")
        .argParser(choice("--ring", ["split", "packed", "both"])),
    )
    .addOption(
      new Option("--seed <n>", "of --self-test: repeat what was chosen at random (default: another every time)")
        .argParser(wholeNumber("--seed", 0, seedMax)),
    );
}

/** What is to be tested; undefined, if nothing is. Throws a `UsageError`. */
export function planSelfTest({ selfTest, rounds, ring, seed, json }: SelfTestFlags): SelfTestOptions | undefined {
  if (selfTest === undefined) {
    const alone = Object.entries({ rounds, ring, seed }).find(([, value]) => value !== undefined);
    if (alone === undefined) return undefined;
    throw new UsageError(`--${alone[0]} without --self-test: ${alone[1]}: give that too, or leave it out`);
  }
  return {
    rounds: rounds ?? roundsDefault,
    rings: ring === undefined || ring === "both" ? ["split", "packed"] : [ring],
    seed: seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!,
    json: json ?? false,
  };
}

/** Runs the parts of the whole test, or those that were asked for, and counts; started by scripts/test. */

import { step, sum, type Tally } from "./outcome.ts";
import { type Options, type Part, parts } from "./parts.ts";

const usage = `Usage: scripts/test [PART]... [NAME] [--seconds N] [--seed N]
Sets up, builds, and runs every part; or only the parts named, or only the tests whose name contains NAME.

${parts.map(({ name, about }) => `  ${name.padEnd(10)}${about}`).join("\n")}

  --seconds N  how long each fuzzer runs (60 with CI set, else 10)
  --seed N     replay the fuzzers from this seed

Tests that need DPDK, QEMU or a guest kernel are left out, by name, where these cannot be installed; with CI set
that is a failure. The last line is \`N passed, N failed\`; the exit code is 0 when none failed.`;

interface Wish {
  chosen: Part[];
  options: Options;
}

function number(name: string, text: string | undefined): number {
  const value = Number(text);
  if (text === undefined || !Number.isSafeInteger(value) || value < 0) {
    throw new Error(`${name}: not a number: ${text}`);
  }
  return value;
}

function parse(args: string[]): Wish {
  const chosen: Part[] = [];
  const options: Options = { fuzz_seconds: Deno.env.get("CI") ? 60 : 10 };
  for (let index = 0; index < args.length; index++) {
    const argument = args[index] ?? "";
    const part = parts.find(({ name }) => name === argument);
    if (part !== undefined) chosen.push(part);
    else if (argument === "--seconds") options.fuzz_seconds = number(argument, args[++index]);
    else if (argument === "--seed") options.fuzz_seed = String(number(argument, args[++index]));
    else if (argument.startsWith("-") || options.filter !== undefined) throw new Error(`unknown argument: ${argument}`);
    else options.filter = argument;
  }
  // Most parts load the library: an old one must not pass for the new.
  if (chosen.length > 0) {
    return { chosen: parts.filter((part) => part.name === "build" || chosen.includes(part)), options };
  }
  const filtered = ["build", "zig", "ts", "real"];
  return { chosen: parts.filter(({ name }) => options.filter === undefined || filtered.includes(name)), options };
}

interface Report {
  part: Part;
  tally: Tally;
  seconds: number;
}

async function play(part: Part, options: Options): Promise<Report> {
  const started = performance.now();
  console.error(`== ${part.name}: ${part.about}`);
  const tally = await part.run(options).catch((error: Error) => {
    console.error(`${part.name}: ${error.message}`);
    return step(false, part.name);
  });
  return { part, tally, seconds: (performance.now() - started) / 1000 };
}

/** The fuzzers run beside the parts that follow, up to the first that wants the machine for itself. */
async function playAll({ chosen, options }: Wish): Promise<Report[]> {
  const reports: Report[] = [];
  let beside: Promise<Report>[] = [];
  for (const part of chosen) {
    if (part.company === "alone") {
      reports.push(...await Promise.all(beside));
      beside = [];
    }
    if (part.company === "beside others") beside.push(play(part, options));
    else reports.push(await play(part, options));
  }
  return [...reports, ...await Promise.all(beside)];
}

function summary(reports: Report[], { failures, left_out }: Tally): string {
  const lines = reports.map(({ part, tally, seconds }) => {
    const counts = `${String(tally.passed).padStart(5)} passed ${String(tally.failed).padStart(4)} failed`;
    return `  ${part.name.padEnd(10)}${counts} ${seconds.toFixed(1).padStart(7)} s`;
  });
  const notes = [...failures.map((name) => `  FAILED: ${name}`), ...left_out.map((name) => `  LEFT OUT: ${name}`)];
  const reason = Deno.env.get("CI") && left_out.length > 0 ? ["  with CI set, a test left out is a failure"] : [];
  return ["== summary", ...lines, ...notes, ...reason].join("\n");
}

function main(): Promise<number> | number {
  if (Deno.args.includes("--help") || Deno.args.includes("-h")) {
    console.log(usage);
    return 0;
  }
  try {
    return finish(parse(Deno.args));
  } catch (error) {
    console.error(`scripts/test: ${(error as Error).message}: see scripts/test --help`);
    return 2;
  }
}

async function finish(wish: Wish): Promise<number> {
  const reports = await playAll(wish);
  const total = sum(reports.map((report) => report.tally));
  const { passed, failed, left_out } = total;
  const nowhere = wish.options.filter !== undefined && passed + failed === 0;
  if (nowhere) console.error(`scripts/test: no test has this in its name: ${wish.options.filter}`);
  const refused = Deno.env.get("CI") ? left_out.length : 0;
  console.error(summary(reports, total));
  console.log(`${passed} passed, ${failed + refused} failed`);
  return failed + refused === 0 && !nowhere ? 0 : 1;
}

Deno.exit(await main());

/**
 * Builds zig/fuzz.zig and runs each of its fuzzers for a time, from a fixed seed and from a fresh one; beside them the
 * session of vhost/, under random messages.
 */

import { exists, root, run, tool } from "./process.ts";
import { nothing, step, sum, type Tally } from "./outcome.ts";

const fixedSeed = "1";

interface Round {
  name: string;
  seed: string;
  seconds: number;
}

function freshSeed(): string {
  return String(crypto.getRandomValues(new Uint32Array(1))[0]);
}

async function build(): Promise<string | undefined> {
  await Deno.mkdir(`${root}/build`, { recursive: true });
  const program = `${root}/build/fuzz-${Deno.pid}`;
  const args = ["build-exe", "-O", "ReleaseSafe", "-lc", "--name", "fuzz", `-femit-bin=${program}`, "zig/fuzz.zig"];
  const { code, text } = await run(tool("ZIG"), args);
  if (code === 0) return program;
  console.error(text);
  return undefined;
}

/** The fuzzer that is TypeScript: its properties, each of which gets its share of the time. */
const session = { name: "session", test: "tests/vhost_session_test.ts", properties: 6 };

async function play(program: string, { name, seed, seconds }: Round): Promise<Tally> {
  const { code, text } = name === session.name
    ? await run(tool("DENO"), ["test", "--no-check", "--quiet", "--allow-env", session.test], {
      env: { FUZZ_SECONDS: String(seconds / session.properties), FUZZ_SEED: seed },
    })
    : await run(program, [name, seed, String(seconds)]);
  if (code === 0) return { ...nothing, passed: 1 };
  console.error(`${text}\nfuzz: ${name} FAILED from seed ${seed}: to replay it: scripts/test fuzz --seed ${seed}`);
  return step(false, `fuzzer ${name} from seed ${seed}`);
}

/** A third of the time from the fixed seed, the rest from a fresh one; or all from the seed that was asked for. */
function rounds(names: string[], seconds: number, seed?: string): Round[] {
  if (seed !== undefined) return names.map((name) => ({ name, seed, seconds }));
  const fixed = Math.ceil(seconds / 3);
  return names.flatMap((name) => [
    { name, seed: fixedSeed, seconds: fixed },
    { name, seed: freshSeed(), seconds: Math.max(1, seconds - fixed) },
  ]);
}

export async function fuzz(seconds: number, seed?: string): Promise<Tally> {
  if (!await exists(`${root}/zig/fuzz.zig`)) return nothing;
  const program = await build();
  if (program === undefined) return step(false, "zig/fuzz.zig does not compile");
  try {
    const listed = await run(program, ["--list"]);
    const names = listed.text.split("\n").map((name) => name.trim()).filter((name) => name !== "");
    if (listed.code !== 0 || names.length === 0) {
      console.error(`fuzz: fuzz --list names no fuzzers:\n${listed.text}`);
      return step(false, "fuzz --list");
    }
    names.push(session.name);
    const queue = rounds(names, seconds, seed);
    const results: Tally[] = [];
    // Half of the cores are left to what runs beside.
    const lanes = Math.max(1, Math.floor(navigator.hardwareConcurrency / 2));
    await Promise.all(Array.from({ length: lanes }, async () => {
      for (let round = queue.shift(); round !== undefined; round = queue.shift()) {
        results.push(await play(program, round));
      }
    }));
    console.error(`fuzz: ${names.join(", ")}: ${seconds} s each`);
    return sum(results);
  } finally {
    await Deno.remove(program);
  }
}

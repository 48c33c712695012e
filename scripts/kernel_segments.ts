/**
 * Builds zig/kernel_segments.zig, which compares our segmentation with this machine's Linux, and runs it for a time,
 * from a fixed seed and from a fresh one.
 */

import { exists, root, run, tool } from "./process.ts";
import { nothing, step, sum, type Tally } from "./outcome.ts";

const fixedSeed = "1";
/** Of the program, where it can compare nothing: its last line says what is missing. */
const codeMissing = 3;

async function build(): Promise<string | undefined> {
  await Deno.mkdir(`${root}/build`, { recursive: true });
  const program = `${root}/build/kernel-segments-${Deno.pid}`;
  const source = ["--name", "kernel_segments", `-femit-bin=${program}`, "zig/kernel_segments.zig"];
  const { code, text } = await run(tool("ZIG"), ["build-exe", "-O", "ReleaseSafe", "-lc", ...source]);
  if (code === 0) return program;
  console.error(text);
  return undefined;
}

async function play(program: string, seed: string, seconds: number): Promise<Tally> {
  const { code, text } = await run(program, [seed, String(seconds)]);
  console.error(text.trimEnd());
  if (code === 0) return { ...nothing, passed: 1 };
  // With CI set, what is left out is a failure.
  if (code === codeMissing) return { ...nothing, left_out: [text.trim().split("\n").at(-1) ?? ""] };
  console.error(`segments: FAILED from seed ${seed}: to replay it: scripts/test segments --seed ${seed}`);
  return step(false, `segments as Linux cuts them, from seed ${seed}`);
}

/** Half of the time from the fixed seed, the rest from a fresh one; or all from the seed that was asked for. */
export async function kernelSegments(seconds: number, seed?: string): Promise<Tally> {
  if (!await exists(`${root}/zig/kernel_segments.zig`)) return nothing;
  const program = await build();
  if (program === undefined) return step(false, "zig/kernel_segments.zig does not compile");
  try {
    if (seed !== undefined) return await play(program, seed, seconds);
    const fixed = Math.ceil(seconds / 2);
    const fresh = String(crypto.getRandomValues(new Uint32Array(1))[0]);
    return sum([
      await play(program, fixedSeed, fixed),
      await play(program, fresh, Math.max(1, seconds - fixed)),
    ]);
  } finally {
    await Deno.remove(program);
  }
}

/** Runs the tests of the working tree and counts them; started by scripts/test. */

import { resolve } from "node:path";

const root = resolve(import.meta.dirname!, "..");

interface Tally {
  passed: number;
  failed: number;
}

function environment(name: string): string {
  const value = Deno.env.get(name);
  if (value === undefined) throw new Error(`${name} is not set: start the tests with scripts/test`);
  return value;
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

async function run(program: string, args: string[]): Promise<{ code: number; text: string }> {
  const child = new Deno.Command(program, { args, cwd: root, stdin: "null", stdout: "piped", stderr: "piped" }).spawn();
  const decoder = new TextDecoder();
  let text = "";
  const copy = async (stream: ReadableStream<Uint8Array>) => {
    for await (const chunk of stream) {
      text += decoder.decode(chunk, { stream: true });
      await Deno.stderr.write(chunk);
    }
  };
  const [status] = await Promise.all([child.status, copy(child.stdout), copy(child.stderr)]);
  return { code: status.code, text };
}

/** Zig's runner ends with `All 7 tests passed.` or `5 passed; 1 skipped; 1 failed.`; a file that does not compile has neither. */
async function zigTests(): Promise<Tally> {
  if (!await exists(`${root}/zig/lib.zig`)) return { passed: 0, failed: 0 };
  const { code, text } = await run(environment("ZIG"), ["test", "-lc", "zig/lib.zig"]);
  const all = text.match(/All (\d+) tests? passed/);
  const some = text.match(/(\d+) passed; \d+ skipped; (\d+) failed/);
  const passed = Number(all?.[1] ?? some?.[1] ?? 0);
  const failed = Number(some?.[2] ?? 0);
  return { passed, failed: failed === 0 && code !== 0 ? 1 : failed };
}

async function denoTests(): Promise<Tally> {
  if (!await exists(`${root}/tests`)) return { passed: 0, failed: 0 };
  const args = ["test", "--quiet", "--allow-all", "--permit-no-files"];
  const { code, text } = await run(environment("DENO"), args);
  // deno-lint-ignore no-control-regex
  const plain = text.replaceAll(/\x1b\[[0-9;]*m/g, "");
  const counts = [...plain.matchAll(/^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed/gm)].at(-1);
  const passed = Number(counts?.[1] ?? 0);
  const failed = Number(counts?.[2] ?? 0);
  return { passed, failed: failed === 0 && code !== 0 ? 1 : failed };
}

const tallies = [await zigTests(), await denoTests()];
const passed = tallies.reduce((sum, tally) => sum + tally.passed, 0);
const failed = tallies.reduce((sum, tally) => sum + tally.failed, 0);
console.log(`${passed} passed, ${failed} failed`);
Deno.exit(failed === 0 ? 0 : 1);

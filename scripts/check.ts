/** Everything about the tree that can be judged without running it; started by scripts/check. */

import { exists, root, run, tool } from "./process.ts";
import { type Source, zigBreaches } from "./zig_rules.ts";

/** What is wrong, ready to print; empty when nothing is. */
type Check = () => Promise<string>;

async function failing(program: string, args: string[]): Promise<string> {
  const { code, text } = await run(program, args);
  return code === 0 ? "" : text;
}

async function zigSources(): Promise<Source[]> {
  const names: string[] = [];
  for await (const entry of Deno.readDir(`${root}/zig`)) if (entry.name.endsWith(".zig")) names.push(entry.name);
  return await Promise.all(
    names.toSorted().map(async (name) => ({ name, text: await Deno.readTextFile(`${root}/zig/${name}`) })),
  );
}

/** The committed bindings must be what today's zig/abi.zig and zig/exports.zig make. */
async function bindings(): Promise<string> {
  if (!await exists(`${root}/zig/manifest.zig`)) return "";
  const { code, text } = await run(tool("ZIG"), ["run", "-fllvm", "-lc", "zig/manifest.zig"]);
  if (code !== 0) return text;
  const committed = await Deno.readTextFile(`${root}/ffi/abi.gen.ts`).catch(() => "");
  return committed === text
    ? ""
    : "ffi/abi.gen.ts is stale: ./scripts/zig run -fllvm -lc zig/manifest.zig >ffi/abi.gen.ts\n";
}

const checks: Record<string, Check> = {
  "deno fmt": () => failing(tool("DENO"), ["fmt", "--check"]),
  "deno lint": () => failing(tool("DENO"), ["lint", "--quiet"]),
  "deno check": () => failing(tool("DENO"), ["check", "--quiet"]),
  "zig fmt": () => failing(tool("ZIG"), ["fmt", "--check", "zig"]),
  "zig rules": async () => zigBreaches(await zigSources()).map((breach) => `${breach}\n`).join(""),
  "ffi/abi.gen.ts": bindings,
};

const results = await Promise.all(
  Object.entries(checks).map(async ([name, check]) => ({ name, wrong: await check() })),
);
for (const { name, wrong } of results) {
  console.error(wrong === "" ? `check: ${name}: ok` : `check: ${name}: FAILED\n${wrong.trimEnd()}`);
}
const failed = results.filter((result) => result.wrong !== "").length;
Deno.exit(failed === 0 ? 0 : 1);

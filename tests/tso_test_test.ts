/** `vhostctl tso-test` as a program: what it prints, and how it ends. */

import assert from "node:assert/strict";
import { resolve } from "node:path";
import type { TsoResult } from "../cli/tso_result.ts";

const program = Deno.env.get("VHOSTCTL") ?? resolve(import.meta.dirname!, "../scripts/vhostctl");

async function tsoTest(args: readonly string[]) {
  const { code, stdout, stderr } = await new Deno.Command(program, { args: ["tso-test", ...args], stdin: "null" })
    .output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

Deno.test("tso-test passes every pairing, and says so in JSON", async () => {
  const { code, stdout, stderr } = await tsoTest(["--json", "--seconds", "0"]);
  assert.equal(code, 0, stderr);
  assert.equal(stderr, "");
  const { ok, interrupted, pairings, without_tap, throughput } = JSON.parse(stdout) as TsoResult;
  assert.deepEqual({ ok, interrupted, throughput }, { ok: true, interrupted: false, throughput: [] });
  if (Deno.env.get("CI")) assert.equal(without_tap, undefined);
  // Rings, buffers, what is taken, or a tap; kinds of packets, tags.
  assert.equal(pairings.length, (2 * 2 * 3 + (without_tap === undefined ? 1 : 0)) * 5 * 2);
  for (const { result, packets, frames, takes, offload } of pairings) {
    assert.equal(result, "pass");
    assert.ok(packets >= 20, `${packets}`);
    assert.equal(frames > packets, takes !== "all" && offload !== "CSUM", `${takes} of ${offload}: ${frames}`);
  }
});

Deno.test("tso-test prints a table, and bars", async () => {
  const { code, stdout, stderr } = await tsoTest(["--seconds", "0.3"]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^RING +MERGEABLE +TAKES +TSO4 +VLAN +TSO6 +VLAN +USO +VLAN +UFO +VLAN +CSUM +VLAN$/m);
  assert.match(stdout, /^packed +no +nothing +(PASS +){9}PASS$/m);
  const hasTap = !stdout.includes("not tested: a tap in a network of its own: ");
  assert.equal(/^tap +yes +nothing +(PASS +){9}PASS$/m.test(stdout), hasTap);
  assert.match(stdout, new RegExp(`packets in ${hasTap ? 130 : 120} pairings must arrive as .* frames`));
  for (const name of ["TSO on", "off at the receiver", "off at the sender"]) {
    // On a busy machine nothing may have moved in a moment so short.
    const bars = stdout.matchAll(new RegExp(`^(split|packed) +${name} +[█-▏]* +[0-9.]+ Gbit/s$`, "gm"));
    assert.equal([...bars].length, 2, name);
  }
  assert.ok(stdout.split("\n").every((line) => line.length <= 120));
  assert.ok(!stdout.includes("\x1b"), "no colours and no frames where there is no terminal");
});

Deno.test("tso-test stops at Ctrl-C, prints what it has, and leaves nothing behind", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const options = { env: { TMPDIR: folder }, stdin: "null", stdout: "piped", stderr: "piped" } as const;
    // First while it tests, then while it measures: all pairings is all there is to prove.
    for (
      const [place, code, told] of [["vhostctl-tso", 1, /: interrupted: \d+ of 120 /], ["vhostctl-bench", 0, /^$/]]
    ) {
      const args = ["tso-test", "--json", "--seconds", "600"];
      const child = new Deno.Command(program, { ...options, args }).spawn();
      const timer = setTimeout(() => child.kill("SIGKILL"), 60_000);
      while (!Array.from(Deno.readDirSync(folder)).some(({ name }) => name.startsWith(place as string))) {
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      child.kill("SIGINT");
      const output = await child.output();
      clearTimeout(timer);
      const { ok, interrupted, pairings } = JSON.parse(new TextDecoder().decode(output.stdout)) as TsoResult;
      assert.deepEqual({ ok, interrupted, all: pairings.length >= 120 }, {
        ok: true,
        interrupted: true,
        all: code === 0,
      });
      assert.equal(output.code, code);
      assert.match(new TextDecoder().decode(output.stderr), told as RegExp);
      assert.deepEqual([...Deno.readDirSync(folder)], []);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

for (
  const [words, said] of [
    [["--fast"], "unknown option: --fast: see vhostctl tso-test --help"],
    [["--seconds", "0.01"], "cannot use --seconds: 0.01: give seconds, 0.1 or more, or 0 for none"],
    [["--socket", "/tmp/a"], "cannot join guests: 1 --socket: give two"],
    [["--socket", "/tmp/a", "--socket", "/tmp/a"], "two ports with the same socket: /tmp/a: give each its own"],
    [["--socket", "/a,b", "--socket", "/tmp/a"], "cannot use --socket: /a,b: give a path without commas"],
    [["--socket", "/a", "--socket", "/b", "--seconds", "1"], "--seconds with --socket: 1: leave one out"],
  ] as const
) {
  Deno.test(`tso-test ${words.join(" ")} is wrong usage`, async () => {
    assert.deepEqual(await tsoTest(words), { code: 2, stdout: "", stderr: `vhostctl tso-test: ${said}\n` });
  });
}

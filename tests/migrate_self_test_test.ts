/** `vhostctl migrate --self-test` as a program: what it prints, and how it ends; and what it plans. */

import assert from "node:assert/strict";
import { resolve } from "node:path";
import { planLives } from "../cli/self_migration_plan.ts";
import type { RingResult, SelfTestResult } from "../cli/self_migration_result.ts";
import { differenceText, failureLines } from "../cli/self_migration_text.ts";

const program = Deno.env.get("VHOSTCTL") ?? resolve(import.meta.dirname!, "../scripts/vhostctl");

async function migrate(args: readonly string[]) {
  const { code, stdout, stderr } = await new Deno.Command(program, { args: ["migrate", ...args], stdin: "null" })
    .output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

const clean = { unaccounted: 0, duplicated: 0, reordered: 0, corrupted: 0, broken: 0, pages_different: 0 };

Deno.test("migrate --self-test finds all pages the same and every packet, and says so in JSON", async () => {
  const { code, stdout, stderr } = await migrate(["--self-test", "--rounds", "12", "--seed", "5", "--json"]);
  assert.equal(code, 0, stderr);
  assert.equal(stderr, "");
  const { ok, interrupted, seed, rings } = JSON.parse(stdout) as SelfTestResult;
  assert.deepEqual({ ok, interrupted, seed }, { ok: true, interrupted: false, seed: 5 });
  assert.deepEqual(rings.map(({ ring }) => ring), ["split", "packed"]);
  for (const result of rings) {
    assert.partialDeepStrictEqual(result, { ...clean, rounds: 12 });
    const { ends, sent, received, dropped, pages_marked, pages_logged, pages_compared } = result;
    assert.equal(ends.arrives + ends.cancelled + ends.killed, 12);
    const gone = Object.values(dropped).reduce((sum, count) => sum + count, 0);
    assert.equal(sent, received + gone);
    assert(received > 0 && pages_logged.pages > 0 && pages_compared > 0 && pages_marked! > 0, JSON.stringify(result));
    assert.equal(pages_logged.outside, 0);
  }
});

Deno.test("migrate --self-test prints a table", async () => {
  const { code, stdout, stderr } = await migrate(["--self-test", "--rounds", "2", "--ring", "packed"]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^migrate --self-test: .*, seed \d+$/m);
  assert.match(
    stdout,
    /^RING +ROUNDS +ARRIVED +DELIVERED +UNACCOUNTED +DUPLICATED +PAGES LOGGED +COMPARED +DIFFERENT/m,
  );
  assert.match(stdout, /^packed +2 /m);
  assert(!/^split/m.test(stdout));
});

Deno.test("migrate --self-test stops at Ctrl-C, prints what it has, and leaves nothing behind", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const args = ["migrate", "--self-test", "--rounds", "100000", "--json"];
    const options = { args, env: { TMPDIR: folder }, stdin: "null", stdout: "piped", stderr: "piped" } as const;
    const child = new Deno.Command(program, options).spawn();
    const timer = setTimeout(() => child.kill("SIGKILL"), 60_000);
    while ([...Deno.readDirSync(folder)].length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    child.kill("SIGINT");
    const { code, stdout, stderr } = await child.output();
    clearTimeout(timer);
    assert.equal(code, 1);
    assert.match(new TextDecoder().decode(stderr), /: interrupted: \d+ of 200000 rounds passed: run it again\n$/);
    assert.equal((JSON.parse(new TextDecoder().decode(stdout)) as SelfTestResult).interrupted, true);
    assert.deepEqual([...Deno.readDirSync(folder)], []);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("the same seed plans the same, and a few hundred rounds have everything", () => {
  for (const ring of ["split", "packed"] as const) {
    const lives = planLives(7, ring, 300);
    assert.deepEqual(planLives(7, ring, 300), lives);
    const rounds = lives.flatMap((life) => life.rounds);
    assert.equal(rounds.length, 300);
    for (const end of ["arrives", "cancelled", "killed"]) assert(rounds.some((round) => round.end === end), end);
    for (const what of ["new log", "restart"]) assert(rounds.some(({ incident }) => incident?.what === what), what);
    for (const sending of ["goes on", "pauses", "ends"]) {
      assert(rounds.some((round) => round.sending === sending), sending);
    }
    for (const { shape, gso_bytes, size_bytes } of lives) {
      assert.equal(shape.features.includes("RING_PACKED"), ring === "packed");
      assert(gso_bytes === undefined || shape.ringSize <= 256);
      assert(size_bytes >= 60 && size_bytes <= 9014);
    }
  }
  assert.notDeepEqual(planLives(8, "split", 10), planLives(7, "split", 10));
});

Deno.test("a page that differs is told by what lies there", () => {
  const difference = { gpa: 0x4000_3004, area: "used", ring: 2, buffer: 0 } as const;
  assert.equal(
    differenceText("split", difference),
    "page 0x40003000: from 0x40003004 on: used ring of ring 2 (receives)",
  );
  const buffer = { gpa: 0x1_0000_0fff, area: "buffer", ring: 1, buffer: 7 } as const;
  assert.equal(differenceText("packed", buffer), "page 0x100000000: from 0x100000fff on: buffer 7 of ring 1 (sends)");
  assert.match(differenceText("packed", { ...difference, area: "event" }), /: device event area of ring 2 /);
  const failure = { round: 3, reason: "9 pages differ", differences: Array.from({ length: 9 }, () => difference) };
  const lines = failureLines({ ring: "split", failure } as unknown as RingResult);
  assert.equal(lines[0], "split, round 3: 9 pages differ");
  assert.deepEqual([lines.length, lines.at(-1)], [10, "  and others"]);
});

for (
  const [words, said] of [
    [["--rounds", "3"], "--rounds without --self-test: 3: give that too, or leave it out"],
    [["--self-test", "--rounds", "0"], "cannot use --rounds: 0: give a whole number from 1 to 1000000"],
    [["--self-test", "--ring", "round"], "cannot use --ring: round: choose from split, packed, both"],
    [
      ["--self-test", "--seed", "4294967296"],
      "cannot use --seed: 4294967296: give a whole number from 0 to 4294967295",
    ],
  ] as const
) {
  Deno.test(`migrate ${words.join(" ")} is wrong usage`, async () => {
    assert.deepEqual(await migrate(words), { code: 2, stdout: "", stderr: `vhostctl migrate: ${said}\n` });
  });
}

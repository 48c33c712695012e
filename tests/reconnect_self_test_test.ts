/** `vhostctl reconnect-watch --self-test` as a program: what it prints, and how it ends; and what it plans. */

import assert from "node:assert/strict";
import { resolve } from "node:path";
import type { ControlPort } from "../cli/control_client.ts";
import type { GuestCounters } from "../cli/guest_process.ts";
import { planLives } from "../cli/self_reconnect_plan.ts";
import type { SelfTestResult } from "../cli/self_reconnect_result.ts";
import type { RoundOutcome } from "../cli/self_reconnect_round.ts";
import { type PairOutcome, Tally } from "../cli/self_reconnect_tally.ts";
import { failureLines } from "../cli/self_reconnect_text.ts";

const program = Deno.env.get("VHOSTCTL") ?? resolve(import.meta.dirname!, "../scripts/vhostctl");

async function watch(args: readonly string[]) {
  const { code, stdout, stderr } = await new Deno.Command(program, {
    args: ["reconnect-watch", ...args],
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

const clean = { stuck: 0, duplicated: 0, corrupted: 0, reordered: 0, broken: 0, unexplained: 0 };

Deno.test("reconnect-watch --self-test: nothing stuck, nothing twice, losses counted, in JSON", async () => {
  const { code, stdout, stderr } = await watch(["--self-test", "--rounds", "6", "--seed", "5", "--json"]);
  assert.equal(code, 0, stderr);
  assert.equal(stderr, "");
  const { test, ok, interrupted, seed, rings } = JSON.parse(stdout) as SelfTestResult;
  assert.deepEqual({ test, ok, interrupted, seed }, { test: "reconnect", ok: true, interrupted: false, seed: 5 });
  assert.deepEqual(rings.map(({ ring }) => ring), ["split", "packed"]);
  for (const result of rings) {
    assert.partialDeepStrictEqual(result, { ...clean, rounds: 6 });
    const { kills, sent, received, in_step, at_full_speed, outage } = result;
    assert(kills >= 6 && received > 0, JSON.stringify(result));
    assert.equal(sent, received + in_step.lost + at_full_speed.lost);
    assert.equal(in_step.rounds + at_full_speed.rounds, 6);
    assert.equal(outage!.count, 12);
    assert(outage!.median_ms > 0 && outage!.worst_ms >= outage!.median_ms, JSON.stringify(outage));
  }
});

Deno.test("reconnect-watch --self-test prints a table, and fails where an outage is too long", async () => {
  const args = ["--self-test", "--rounds", "2", "--ring", "packed", "--seed", "1", "--max-outage", "1"];
  const { code, stdout, stderr } = await watch(args);
  assert.equal(code, 1);
  assert.match(stderr, /: self-test failed: packed, round 1: an outage of \d+ ms: --max-outage allows 1 ms: repeat it/);
  assert.match(stdout, /^reconnect-watch --self-test: .*, seed 1$/m);
  assert.match(
    stdout,
    /^RING +KILLS +DELIVERED +STUCK +DUPLICATED +CORRUPTED +OUT OF ORDER +LOST +OUTAGE median +worst$/m,
  );
  assert.match(stdout, /^packed +\d+ .* 0 +0 +0 +0 /m);
  assert.match(stdout, /^ {2}outage, medians: .* until a back end was there/m);
  assert(!/^split/m.test(stdout));
});

Deno.test("reconnect-watch --self-test stops at Ctrl-C, prints what it has, and leaves nothing behind", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const args = ["reconnect-watch", "--self-test", "--rounds", "100000", "--json"];
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
    for (const guest of [0, 1] as const) {
      assert(rounds.some(({ resets }) => resets.includes(guest)));
      assert(rounds.some(({ halts }) => halts.includes(guest)));
    }
    for (const since of ["start", "ready"]) {
      assert(rounds.some(({ early }) => early.some((kill) => kill.since === since)));
    }
    assert(rounds.some(({ early }) => early.length > 1));
    for (const mode of ["server", "client"] as const) assert(lives.some(({ modes }) => modes.includes(mode)));
    for (const wait of ["yield", "sleep"]) assert(lives.some((life) => life.wait === wait));
    for (const { shape, window, size_bytes, size_min_bytes, gso_bytes, wait } of lives) {
      assert.equal(shape.features.includes("RING_PACKED"), ring === "packed");
      assert(window === undefined || (window >= 1 && window <= shape.ringSize / 2 && wait === "yield"));
      assert((size_min_bytes ?? size_bytes) <= size_bytes && size_bytes >= 60);
      assert((size_min_bytes ?? size_bytes) > (gso_bytes ?? 0) + 42);
    }
  }
  assert.notDeepEqual(planLives(8, "split", 10), planLives(7, "split", 10));
});

const life = planLives(1, "split", 50).find(({ window, shape }) => window !== undefined && shape.queuePairs === 1)!;
const round = { after_ms: 0, early: [], halts: [], resets: [] };
const outage = { length_ms: 9, startUp_ms: 6, handshake_ms: 1, rings_ms: 1, traffic_ms: 1 };

function counted(from_guest: Record<string, number>): ControlPort[] {
  return [{ to_guest: {}, from_guest } as unknown as ControlPort];
}

const silent = { announced: 0, heard: 0, foreign: 0, duplicated: 0, reordered: 0, corrupted: 0, broken: 0 };

/** Two guests, of which the first sends. */
function pair(sent: number, received: number, change: Partial<PairOutcome> = {}): PairOutcome {
  const guests = [{ ...silent, sent, received: 0 }, { ...silent, sent: 0, received }] as unknown as GuestCounters[];
  return { guests, abandoned: 0, counted: counted({}), stuck: 0, astray: [], ...change };
}

function resultOf(outcome: PairOutcome, before: Record<string, number>, early: number) {
  const tally = new Tally("split", undefined);
  tally.begin(life);
  const kills = Array.from({ length: early }, () => ({ since: "ready", wait_ms: 0 }) as const);
  tally.add({ ...round, early: kills }, { counted: counted(before), outages: [outage], ready_ms: 5 } as RoundOutcome);
  tally.finish(life, outcome);
  return tally.result();
}

Deno.test("packets that are lost must have a reason", () => {
  const back = { drop_crash: 7, drop_link_down: 3 };
  assert.equal(resultOf(pair(100, 90), back, 0).failure, undefined);
  const wrong = resultOf(pair(100, 89), back, 0);
  assert.equal(wrong.unexplained, 1);
  assert.deepEqual(failureLines(wrong), ["split, round 1: 1 lost for no reason; 11 lost, 10 explained"]);
  // A back end that was not asked may have given back 64 frames of each ring that sends.
  assert.equal(resultOf(pair(1000, 1000 - 138), back, 1).unexplained, 0);
  assert.equal(resultOf(pair(1000, 1000 - 139), back, 1).unexplained, 1);
  assert.equal(resultOf(pair(100, 85, { abandoned: 5 }), back, 0).unexplained, 0);
  assert.equal(resultOf(pair(100, 80, { counted: counted({ drop_no_port: 10 }) }), back, 0).unexplained, 0);
});

Deno.test("whatever else is wrong with a guest is a fault", () => {
  assert.equal(resultOf(pair(100, 101), {}, 0).failure?.reason, "1 duplicated");
  assert.equal(resultOf(pair(1, 1, { stuck: 3 }), {}, 0).failure?.reason, "3 stuck buffers or rings");
  const astray = [{ guest: 1, ring: 2, told: 0x11, base: 0x10 }];
  assert.equal(
    resultOf(pair(1, 1, { astray }), {}, 0).failure?.reason,
    "1 stuck buffers or rings; ring 2 of guest 1 stands at 0x10, the back end at 0x11",
  );
  for (const [name, text] of [["reordered", "out of order"], ["corrupted", "corrupted"], ["broken", "broken rings"]]) {
    const outcome = pair(1, 1);
    const guests = outcome.guests.map((guest) => ({ ...guest, [name!]: 1 }));
    assert.equal(resultOf({ ...outcome, guests }, {}, 0).failure?.reason, `2 ${text}`);
  }
  assert.equal(resultOf(pair(1, 1), {}, 0).failure, undefined);
});

for (
  const [words, said] of [
    [["--rounds", "3"], "--rounds without --self-test: 3: give that too, or leave it out"],
    [["--standby"], "--standby without --self-test: give that too, or leave it out"],
    [["--self-test", "--rounds", "0"], "cannot use --rounds: 0: give a whole number from 1 to 1000000"],
    [["--self-test", "--socket", "/tmp/a"], "options exclude each other: --self-test, --socket <path>"],
    [["--self-test", "--ring", "round"], "cannot use --ring: round: "],
  ] as const
) {
  Deno.test(`reconnect-watch ${words.join(" ")} is refused`, async () => {
    const { code, stderr } = await watch(words);
    assert.equal(code, 2);
    assert(stderr.startsWith(`vhostctl reconnect-watch: ${said}`), stderr);
  });
}

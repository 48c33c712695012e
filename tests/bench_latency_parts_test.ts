/** Parts of `bench latency` that need no process: its plan, what rounds say together, its table and its charts. */

import assert from "node:assert/strict";
import { UsageError } from "../cli/error.ts";
import type { LatencyRound, LatencyTurn } from "../cli/latency_measure.ts";
import { latencyOptions, planLatency } from "../cli/latency_options.ts";
import type { ForwarderName, LatencyResult } from "../cli/latency_result.ts";
import { summarizeLatency } from "../cli/latency_summary.ts";
import { latencyName, latencyNotes, latencyTable } from "../cli/latency_text.ts";
import { reportHtml } from "../cli/report.ts";

function plan(words: readonly string[]) {
  const command = latencyOptions().exitOverride().configureOutput({ writeErr: () => {} });
  command.action(() => {});
  command.parse(words, { from: "user" });
  return planLatency(command.opts(), [0, 1]);
}

Deno.test("bench latency measures both rings without and with a load when nothing is asked", () => {
  const { cases, idle, starts } = plan([]);
  assert.deepEqual(cases.map(latencyName), [
    ...["64 B split", "64 B split, 100 k packets/s beside"],
    ...["64 B packed", "64 B packed, 100 k packets/s beside"],
  ]);
  assert.deepEqual([idle, starts], [["busy", "adaptive", "sleep"], 1]);
});

for (
  const [words, said] of [
    [["--idle", "bussy"], /cannot use --idle: bussy: did you mean busy\?/],
    [["--idle", "busy,busy"], /cannot use --idle: busy,busy: give busy once/],
    [["--load", "0,fast"], /cannot use --load: fast: give a whole number from 0 to 100000000/],
    [["--load", "5,5"], /cannot use --load: 5,5: give 5 once/],
    [["--ring-size", "300"], /split rings have a power of two/],
    [["--testpmd", "/x"], /--testpmd without --peer: \/x: add --peer dpdk/],
    [["--cpus", "0,7"], /cannot run on CPU: 7/],
  ] as [string[], RegExp][]
) {
  Deno.test(`bench latency refuses ${words.join(" ")}`, () => {
    assert.throws(() => plan(words), (error) => error instanceof UsageError && said.test(error.message));
  });
}

/** So many round trips of 2^exponent nanoseconds and a little. */
function turn(...counts: readonly (readonly [exponent: number, count: number])[]): LatencyTurn {
  const latency = new Array<bigint>(640).fill(0n);
  for (const [exponent, count] of counts) latency[16 * exponent] = BigInt(count);
  return { latency, load_pps: 5000, disturbed: false };
}

function round(core_distance_ns: number, disturbed: boolean, ...turns: LatencyTurn[]): LatencyRound {
  return { turns, core_distance_ns, disturbed };
}

const names: readonly ForwarderName[] = ["busy", "adaptive", "testpmd"];
const wanted = { size_bytes: 64, ring: "packed" as const, ring_size: 256, load_pps: 5000 };
const usual = [turn([11, 980], [14, 20]), turn([12, 1000]), turn([13, 1000])];
const rounds = [
  ...[1, 2, 3].map(() => round(60, false, ...usual)),
  round(60, true, turn([20, 1000]), turn([20, 1000]), turn([20, 1000])),
  round(300, false, turn([12, 1000]), turn(), turn([12, 1000])),
];

Deno.test("rounds of one distance are one result, without those that were disturbed", () => {
  const [near, far, ...others] = summarizeLatency(wanted, names, rounds);
  assert.deepEqual(others, []);
  assert.deepEqual([near!.distance, near!.rounds, near!.rounds_disturbed], ["near", 3, 1]);
  const [busy, adaptive, dpdk] = near!.forwarders;
  assert.deepEqual([busy!.round_trips, busy!.load_pps], [3000, 5000]);
  const bucket = 16.5 / 16 / 1000;
  assert.deepEqual([busy!.p50_us, busy!.p90_us, busy!.p99_us], [2048 * bucket, 2048 * bucket, 16384 * bucket]);
  assert.deepEqual([adaptive!.to_busy?.median, adaptive!.to_busy?.count, adaptive!.to_peer?.median], [2, 3, 0.5]);
  assert.deepEqual([busy!.to_busy, dpdk!.to_peer], [undefined, undefined]);
  // Nothing came back in the only round.
  assert.deepEqual([far!.distance, far!.forwarders[1]!.p50_us, far!.forwarders[1]!.to_busy], [
    "far",
    undefined,
    undefined,
  ]);
});

const result: LatencyResult = {
  bench: "latency",
  machine: { cpu: "A <fast> CPU", cpus: [0, 1], level: "x86-64-v3", kernel: "6.1", virtual: true },
  placement: { worker_cpus: [0], guest_cpus: [1, 1] },
  peer: { version: "DPDK 1.2", memory: "huge pages" },
  cases: summarizeLatency(wanted, names, rounds),
  interrupted: true,
};

Deno.test("the table and the notes tell quantiles and ratios", () => {
  const { columns, rows } = latencyTable(result.cases);
  const row = (index: number) => Object.fromEntries(columns.map(({ title }, at) => [title, rows[index]![at]]));
  assert.deepEqual(row(1), {
    ...{ SIZE: "64", RING: "packed", CPUs: "near", "BACK END": "adaptive", "ROUND TRIPS": "3.00 k" },
    ...{ "p50 us": "4.22", p90: "4.22", p99: "4.22", "p99.9": "4.22", "BESIDE packets/s": "5.00 k" },
    ...{ "TO BUSY": "2.00", "TO DPDK": "0.50" },
  });
  assert.deepEqual([row(4)["BACK END"], row(4)["p50 us"], row(4)["TO BUSY"]], ["adaptive", "-", ""]);
  const notes = latencyNotes(result).join("\n");
  assert.match(notes, /^4 rounds counted[^]*In 1 somebody[^]*DPDK 1\.2: testpmd, [^]*huge pages\.\nInterrupted/);
});

Deno.test("the report draws every back end's quantiles on one scale, slower ones further to the right", () => {
  const html = reportHtml([result], new Date(0));
  assert.doesNotMatch(html, /<fast>|undefined|NaN|Infinity|https?:\/\/|<script/);
  const charts = [...html.matchAll(/<figure>[^]*?<\/figure>/g)].map(([chart]) => chart);
  assert.deepEqual(charts.map((chart) => /<h3>([^<]*)/.exec(chart)![1]), [
    ...["64 B packed, 5.00 k packets/s beside, near", "64 B packed, 5.00 k packets/s beside, far"],
  ]);
  const places = [...charts[0]!.matchAll(/<circle class="(\w+)" cx="([0-9.]+)"/g)].map(([, whose, x]) => [whose, +x!]);
  assert.equal(places.length, 12);
  assert.deepEqual(places.slice(8).map(([whose]) => whose), ["peer", "peer", "peer", "peer"]);
  const medians = [places[0]!, places[4]!, places[8]!].map(([, x]) => x as number);
  assert.ok(medians[0]! < medians[1]! && medians[1]! < medians[2]!, `${medians}`);
  assert.ok(places.every(([, x]) => (x as number) >= 70 && (x as number) <= 420));
  assert.match(
    charts[0]!,
    /aria-label="[^"]*median round trips in microseconds: busy 2\.11, adaptive 4\.22, DPDK 8\.45"/,
  );
});

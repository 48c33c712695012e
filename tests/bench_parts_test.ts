/** Parts of `bench` that need no process: its plan, its chart, its report, and what repeated measurements say. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { matrices } from "../cli/bench_matrix.ts";
import { mergeStarts } from "../cli/bench_merge.ts";
import { place } from "../cli/bench_common_options.ts";
import { planBench, speedOptions } from "../cli/bench_options.ts";
import { type BenchResult, type CaseResult, faultless, ringName, speed } from "../cli/bench_result.ts";
import { caseBars, caseTable, notes } from "../cli/bench_text.ts";
import { bar, chart } from "../cli/chart.ts";
import { UsageError } from "../cli/error.ts";
import { levelOf } from "../cli/machine.ts";
import { reportHtml } from "../cli/report.ts";
import { summarizeStarvation } from "../cli/starvation_measure.ts";
import { starvationTable } from "../cli/starvation_text.ts";
import { quantile, spread } from "../cli/statistics.ts";
import { escapeHtml } from "../cli/svg.ts";

function plan(words: readonly string[], cpus: readonly number[] = [0, 1]) {
  const command = speedOptions("vm2vm").exitOverride().configureOutput({ writeErr: () => {} });
  command.action(() => {});
  command.parse(words, { from: "user" });
  return planBench("vm2vm", command.opts(), cpus);
}

Deno.test("bench measures 64 bytes on both rings when nothing is asked", () => {
  const { cases, seconds, verify, peer } = plan([]);
  assert.deepEqual(cases, [
    { size_bytes: 64, ring: "split", queues: 1, ring_size: 256 },
    { size_bytes: 64, ring: "packed", queues: 1, ring_size: 256 },
  ]);
  assert.deepEqual({ seconds, verify, peer }, { seconds: 5, verify: false, peer: undefined });
});

Deno.test("bench makes one case of each size and ring", () => {
  const { cases } = plan(["--size", "60,65535", "--ring", "packed", "--queues", "128", "--ring-size", "300"]);
  assert.deepEqual(cases.map(({ size_bytes }) => size_bytes), [60, 65535]);
  assert.ok(cases.every(({ ring, queues, ring_size }) => ring === "packed" && queues === 128 && ring_size === 300));
});

Deno.test("bench makes one case of each kind of ring", () => {
  const rings = (words: string) => plan(["--ring", words]).cases.map(ringName);
  assert.deepEqual(rings("all"), [
    ...["split", "split no-mrg", "split in-order"],
    ...["packed", "packed no-mrg", "packed in-order"],
  ]);
  assert.deepEqual(rings("packed-in-order,both"), ["packed in-order", "split", "packed"]);
});

Deno.test("bench makes one case of each kind of receiver where frames are to be cut", () => {
  const { cases } = plan(["--size", "9000,65535", "--ring", "packed", "--gso", "1448"]);
  const receivers = ["all", "nothing"].map((receiver_takes) => ({ gso_bytes: 1448, receiver_takes }));
  assert.deepEqual(cases.map(({ offload }) => offload), [...receivers, ...receivers]);
  assert.equal(plan(["--size", "9000", "--gso", "8000", "--takes", "checksums"]).cases.length, 2);
});

for (
  const [words, said] of [
    [["--size", "59"], /cannot use --size: 59: give a whole number from 60 to 65535/],
    [["--size", "65536"], /cannot use --size: 65536/],
    [["--size", "64,"], /cannot use --size: : /],
    [["--size", "64,128,64"], /give 64 once/],
    [["--queues", "0"], /cannot use --queues: 0: give a whole number from 1 to 128/],
    [["--queues", "129"], /cannot use --queues: 129/],
    [["--ring", "spilt"], /cannot use --ring: spilt: did you mean split\?/],
    [["--ring", "both,packed"], /cannot use --ring: both,packed: give packed once/],
    [["--ring-size", "1"], /cannot use --ring-size: 1/],
    [["--ring-size", "300"], /split rings have a power of two/],
    [["--starts", "0"], /cannot use --starts: 0: give a whole number from 1 to 1000/],
    [["--seconds", "0"], /cannot use --seconds: 0: give 0.1 or more/],
    [["--seconds", "-1"], /cannot use --seconds: -1/],
    [["--seconds", "1e3"], /cannot use --seconds: 1e3/],
    [["--peer", "ovs"], /cannot use --peer: ovs/],
    [["--testpmd", "/x"], /--testpmd without --peer: \/x: add --peer dpdk/],
    [["--takes", "all"], /--takes without --gso: all: add --gso 1448/],
    [["--gso", "1448"], /frame too short for --gso 1448: 64: give --size 1491 or more/],
    [["--gso", "47", "--size", "9000"], /cannot use --gso: 47: give a whole number from 48 to 65535/],
    [["--gso", "1448", "--size", "9000", "--takes", "al"], /cannot use --takes: al: did you mean all\?/],
    [["--gso", "1448", "--size", "9000", "--takes", "all,all"], /cannot use --takes: all,all: give all once/],
    [["--gso", "1448", "--size", "9000", "--peer", "dpdk"], /--gso with --peer: dpdk: leave one out/],
    [["--cpus", "0,7"], /cannot run on CPU: 7: this process may use 0,1/],
    [["--cpus", "0,0"], /give CPU 0 once/],
  ] as [string[], RegExp][]
) {
  Deno.test(`bench refuses ${words.join(" ")}`, () => {
    assert.throws(() => plan(words), (error) => error instanceof UsageError && said.test(error.message));
  });
}

Deno.test("place() gives the worker a CPU of its own while there is more than one", () => {
  assert.deepEqual(place([3]), { worker_cpus: [3], guest_cpus: [3, 3] });
  assert.deepEqual(place([0, 1]), { worker_cpus: [0], guest_cpus: [1, 1] });
  assert.deepEqual(place([4, 2, 0, 1]), { worker_cpus: [4], guest_cpus: [2, 0] });
});

Deno.test("quantile() lies between its neighbours, and does not care for the order", () => {
  assert.equal(quantile([4, 1, 3, 2], 0.5), 2.5);
  assert.ok(Number.isNaN(quantile([], 0.5)));
  const numbers = fc.array(fc.double({ noNaN: true, min: -1e9, max: 1e9 }), { minLength: 1 });
  fc.assert(fc.property(numbers, fc.double({ noNaN: true, min: 0, max: 1 }), (values, share) => {
    const found = quantile(values, share);
    const sorted = values.toSorted((one, other) => one - other);
    const below = sorted[Math.floor((values.length - 1) * share)]!;
    const above = sorted[Math.ceil((values.length - 1) * share)]!;
    assert.ok(found >= below && found <= above + 1e-6, `${found} is not in ${below}..${above}`);
    assert.equal(quantile(values.toReversed(), share), found);
  }));
});

Deno.test("spread() of nothing is nothing", () => {
  assert.equal(spread([]), undefined);
  assert.deepEqual(spread([1, 2, 3, 4, 5]), { median: 3, low: 2, high: 4, count: 5 });
});

Deno.test("bar() is drawn to an eighth of a column", () => {
  assert.equal(bar(0), "");
  assert.equal(bar(2), "██");
  assert.equal(bar(1.5), "█▌");
  assert.equal(bar(0.001), "▏");
});

Deno.test("chart() keeps to its columns, and to proportion", () => {
  const bars = fc.array(fc.record({
    label: fc.string({ maxLength: 12 }),
    value: fc.double({ noNaN: true, min: 0, max: 1e9 }),
    text: fc.string({ maxLength: 12 }),
  }));
  fc.assert(fc.property(bars, fc.integer({ min: 40, max: 200 }), (given, columns) => {
    for (const line of chart(given, columns, (drawn) => drawn)) assert.ok(line.length <= columns, line);
  }));
  const lengths: number[] = [];
  const given = [{ label: "a", value: 30, text: "" }, { label: "b", value: 15, text: "" }];
  chart(given, 80, (drawn) => (lengths.push(drawn.length), drawn));
  assert.ok(Math.abs(lengths[0]! - 2 * lengths[1]!) <= 1, `${lengths}`);
});

Deno.test("levelOf() wants every flag of a level", () => {
  const v3 = ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"];
  const v4 = [...v3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"];
  assert.equal(levelOf(new Set(v4)), "x86-64-v4");
  assert.equal(levelOf(new Set(v4.slice(0, -1))), "x86-64-v3");
  assert.equal(levelOf(new Set(v4.filter((flag) => flag !== "movbe"))), "x86-64-v2");
  assert.equal(levelOf(new Set()), "x86-64-v2");
});

Deno.test("speed() counts frames, not what a wire adds", () => {
  assert.deepEqual(speed(10_000_000, 1000, 2), { seconds: 2, mpps: 5, gbps: 40 });
  assert.deepEqual(speed(0, 64, 0), { seconds: 0, mpps: 0, gbps: 0 });
});

const found: CaseResult = {
  starts: 1,
  ...{ size_bytes: 64, ring: "split", queues: 2, ring_size: 256 },
  ...speed(30_000_000, 64, 2),
  ...{ packets: 30_000_000, lost: 1_200_000, duplicated: 0, reordered: 0, corrupted: 0, checked: 30_000 },
  ...{
    cycles_per_packet: 85.4,
    packets_per_burst: 32,
    drops: { no_buffer: 1_200_000 },
    unaccounted: 0,
    core_distance_ns: 170,
    floor_gbps: 10.24,
  },
};

const result: BenchResult = {
  bench: "vm2vm",
  machine: { cpu: "A <fast> CPU", cpus: [0, 1], level: "x86-64-v3", kernel: "6.1", virtual: true },
  placement: { worker_cpus: [0], guest_cpus: [1, 1] },
  verify: "sampled",
  cases: [found],
  interrupted: false,
  ok: true,
};

Deno.test("the table, the bars and the notes tell a case's figures", () => {
  const { columns, rows } = caseTable([found]);
  const row = Object.fromEntries(columns.map(({ title }, index) => [title, rows[0]![index]]));
  assert.deepEqual(row, {
    ...{ SIZE: "64", RING: "split", QUEUES: "2", Mpps: "15.00", "Gbit/s": "7.68", "CYCLES/PACKET": "85" },
    ...{ "FLOOR Gbit/s": "10.24", "OF IT": "0.75" },
    ...{ ARRIVALS: "ok", DROPS: "1.20 M no buffer" },
  });
  assert.equal(caseBars([found])[0]!.label, "64 B split, 2 queues");
  assert.match(notes(result).join("\n"), /one in 1000; .* Nothing was duplicated[^]* 170 ns between/);
});

Deno.test("what arrives wrong is told, and is no success", () => {
  const wrong = { ...found, corrupted: 3, reordered: 1 };
  assert.ok(faultless(found) && !faultless(wrong));
  assert.ok(caseTable([wrong]).rows[0]!.includes("1 reordered, 3 corrupted"));
  assert.doesNotMatch(notes({ ...result, cases: [wrong] }).join("\n"), /Nothing was/);
});

Deno.test("where frames are cut the table says by whom, and bars are bits", () => {
  const cut: CaseResult = { ...found, offload: { gso_bytes: 1448, receiver_takes: "nothing" } };
  const { columns, rows } = caseTable([cut]);
  assert.equal(rows[0]![columns.findIndex(({ title }) => title === "CUT BY")], "switch, summed");
  const [bar] = caseBars([cut]);
  assert.deepEqual([bar!.label, bar!.value], ["64 B split, 2 queues, takes nothing", found.gbps]);
});

Deno.test("a peer's figures stand beside ours", () => {
  const { packets, lost, duplicated, reordered, corrupted, checked } = found;
  const peer = {
    ...{ packets, lost, duplicated, reordered, corrupted, checked, ...speed(10_000_000, 64, 2) },
    ...{ name: "testpmd", version: "DPDK 1.2", memory: "huge pages" as const },
    ...{ ratio: spread([3, 3.1, 2.9])!, pairs: [], pairs_disturbed: 2 },
  };
  const compared: CaseResult = { ...found, peer };
  const { columns, rows } = caseTable([compared]);
  const row = Object.fromEntries(columns.map(({ title }, index) => [title, rows[0]![index]]));
  assert.equal(row["DPDK Mpps"], "5.00");
  assert.equal(row["RATIO (middle half)"], "3.00 (2.95-3.05)");
  assert.deepEqual(caseBars([compared]).map(({ whose }) => whose), ["ours", "peer"]);
  assert.match(
    notes({ ...result, cases: [compared] }).join("\n"),
    /huge pages[^]*\n3 pairs counted\. In 2 somebody/,
  );
});

/** Of two pairs with the CPUs near, and one with them far. */
function comparedAt(size_bytes: number, ring: "split" | "packed", factor: number): CaseResult {
  const { packets, lost, duplicated, reordered, corrupted, checked, seconds, mpps, gbps } = found;
  const pair = (ratio: number, core_distance_ns: number) => ({
    ...{ mpps: ratio * factor, peer_mpps: 1, core_distance_ns, disturbed: false },
  });
  return {
    ...{ ...found, size_bytes, ring },
    peer: {
      ...{ name: "testpmd", version: "DPDK 1.2", memory: "huge pages" as const, seconds, mpps, gbps },
      ...{ packets, lost, duplicated, reordered, corrupted, checked, ratio: undefined, pairs_disturbed: 1 },
      pairs: [pair(3, 50), pair(5, 60), pair(2, 300)],
    },
  };
}

Deno.test("many cases make a matrix of rings and sizes for each distance that there was", () => {
  assert.deepEqual(matrices([found, { ...found, ring: "packed" }]), [], "one size");
  const cases = [comparedAt(1518, "split", 2), comparedAt(64, "split", 1), comparedAt(64, "packed", 3)];
  const [near, far, ...others] = matrices(cases);
  assert.equal(others.length, 1);
  assert.match(near!.title, /near/);
  assert.deepEqual(near!.columns.map(({ title }) => title), ["RING", "64 B", "1518 B"]);
  const [split, packed] = ["split, 2 queues", "packed, 2 queues"];
  assert.deepEqual(near!.rows, [[split, "4.00 (2)", "8.00 (2)"], [packed, "12.00 (2)", "-"]]);
  assert.match(far!.title, /far/);
  assert.deepEqual(far!.rows, [[split, "2.00 (1)", "4.00 (1)"], [packed, "6.00 (1)", "-"]]);
  const [plain, floor] = matrices(cases.map(({ peer: _, ...rest }) => rest));
  assert.deepEqual([floor!.title, floor!.rows[0]], ["Share of the floor", [split, "0.75", "0.75"]]);
  assert.deepEqual([plain!.title, plain!.rows[0]], ["Mpps", [split, "15.00", "15.00"]]);
});

Deno.test("several starts of a case are one result, of all their pairs", () => {
  assert.equal(mergeStarts([found]), found);
  const one = comparedAt(64, "split", 1);
  const other = { ...comparedAt(64, "split", 2), mpps: 30, seconds: 6, corrupted: 2, core_distance_ns: 190 };
  const merged = mergeStarts([one, other]);
  assert.deepEqual([merged.starts, merged.seconds, merged.mpps], [2, 8, (2 * 15 + 6 * 30) / 8]);
  assert.deepEqual([merged.packets, merged.corrupted, merged.core_distance_ns], [60_000_000, 2, 180]);
  assert.deepEqual(merged.drops, { no_buffer: 2_400_000 });
  assert.equal(merged.peer!.pairs.length, 6);
  assert.deepEqual([merged.peer!.ratio!.median, merged.peer!.ratio!.count], [4.5, 6]);
  assert.equal(merged.peer!.pairs_disturbed, 2);
});

Deno.test("pairs of turns tell what the others lose to one that does not read", () => {
  const wanted = { size_bytes: 64, ring: "split" as const, ring_size: 256, flows: 4 };
  const pair = (stopped_mpps: number, disturbed: boolean) => ({
    ...{ reading_mpps: 2, stopped_mpps, sent_to_stopped_mpps: 1, disturbed },
  });
  const few = summarizeStarvation(wanted, [pair(1, true), pair(2, false)]);
  assert.deepEqual([few.ratio!.count, few.ratio!.median, few.pairs_disturbed], [2, 0.75, 1]);
  const many = summarizeStarvation(wanted, [pair(0, true), ...[1.8, 2, 2.2].map((mpps) => pair(mpps, false))]);
  assert.deepEqual([many.ratio!.count, many.ratio!.median, many.stopped_mpps], [3, 1, 2]);
  const { rows } = starvationTable([many]);
  assert.deepEqual(rows[0], ["64", "split", "2.00", "2.00", "1.00 (0.95-1.05)", "1.00"]);
});

/** Tags that are opened and closed in their order; what stands alone. */
function checkTags(html: string): void {
  const alone = new Set(["meta", "br", "rect", "circle", "line"]);
  const open: string[] = [];
  for (const [, closes, name, rest] of html.matchAll(/<(\/?)([a-z][a-z0-9]*)([^>]*)>/g)) {
    if (closes === "/") assert.equal(open.pop(), name, `</${name}>`);
    else if (!alone.has(name!)) open.push(name!);
    else assert.ok(name === "meta" || name === "br" || rest!.endsWith("/"), `<${name}${rest}>`);
  }
  assert.deepEqual(open, []);
}

Deno.test("the report is whole, needs nothing else, and holds no foreign tags", () => {
  const html = reportHtml([result], new Date(0));
  assert.match(html, /A &lt;fast&gt; CPU/);
  assert.match(html, /<svg [^]*15\.00 Mpps[^]*<\/svg>/);
  assert.match(html, /<td>1\.20 M no buffer<\/td>/);
  assert.doesNotMatch(html, /<fast>|undefined|NaN|https?:\/\/|<script|<link|<img|url\(/);
  assert.equal(escapeHtml(`<a href="x">&`), "&lt;a href=&quot;x&quot;&gt;&amp;");
  checkTags(html);
});

Deno.test("the report can be read on a phone, and in print", () => {
  const html = reportHtml([result], new Date(0));
  assert.match(html, /<meta name="viewport" content="width=device-width, initial-scale=1">/);
  assert.match(html, /@media print \{/);
  assert.match(html, /@media \(max-width: 40rem\) \{/);
  // What is drawn is no wider than a phone: it is not shrunk there until nobody can read it.
  for (const [, width] of html.matchAll(/viewBox="0 0 (\d+) /g)) assert.ok(Number(width) <= 420, width);
});

Deno.test("the report draws ours, the peer's and the floor for each ring, a chart for each size", () => {
  const cases = [comparedAt(1518, "split", 2), comparedAt(64, "split", 1), comparedAt(64, "packed", 3)];
  const html = reportHtml([{ ...result, cases }], new Date(0));
  checkTags(html);
  const charts = [...html.matchAll(/<figure>[^]*?<\/figure>/g)].map(([chart]) => chart);
  assert.deepEqual(charts.map((chart) => /<h3>([^<]*)/.exec(chart)![1]), ["64 B", "1518 B"]);
  const widths = (chart: string, whose: string) =>
    [...chart.matchAll(new RegExp(`<rect class="${whose}"[^>]* width="([0-9.]+)"`, "g"))].map(([, width]) => +width!);
  const [small] = charts;
  assert.deepEqual(["ours", "peer", "floor"].map((whose) => widths(small!, whose).length), [2, 2, 2]);
  // 64 B: 15 Mpps, and the floor is 20.
  assert.ok(Math.abs(widths(small!, "ours")[0]! / widths(small!, "floor")[0]! - 0.75) < 0.01);
  assert.match(small!, /4\.00 x/, "the nearer pairs' ratio");
  assert.match(html, /<caption>Ours to DPDK[^<]*near/);
});

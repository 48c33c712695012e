/**
 * `vhostctl bench` as a whole: real processes, sockets and rings, and every packet looked at.
 *
 * Times are never judged: machines that run tests are busy with other things.
 */

import assert from "node:assert/strict";
import { type BenchResult, ringName, type Way } from "../cli/bench_result.ts";
import type { BackEndCosts, CostsResult } from "../cli/costs_result.ts";
import type { LatencyResult } from "../cli/latency_result.ts";
import type { StarvationResult } from "../cli/starvation_result.ts";

const program = Deno.env.get("VHOSTCTL") ?? new URL("../scripts/vhostctl", import.meta.url).pathname;

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function bench(words: readonly string[], env: Record<string, string> = {}): Promise<Outcome> {
  const args = ["bench", ...words];
  const { code, stdout, stderr } = await new Deno.Command(program, { args, env, stdin: "null" }).output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

function measured(...words: readonly string[]): Promise<BenchResult> {
  return measuredWay("vm2vm", ...words);
}

async function measuredWay(way: Way, ...words: readonly string[]): Promise<BenchResult> {
  const { code, stdout, stderr } = await bench([way, "--json", "--seconds", "0.3", ...words]);
  assert.equal(code, 0, stderr);
  assert.equal(stdout.trim().split("\n").length, 1, "one object");
  return JSON.parse(stdout) as BenchResult;
}

/** What every result must be, however fast the machine. */
function checkResult(result: BenchResult, cases: number): void {
  assert.equal(result.cases.length, cases);
  assert.deepEqual({ ok: result.ok, interrupted: result.interrupted }, { ok: true, interrupted: false });
  assert.ok(result.machine.cpu !== "" && result.machine.cpus.length > 0 && result.machine.kernel !== "");
  for (const found of result.cases) {
    const { packets, mpps, gbps, checked, cycles_per_packet, duplicated, reordered, corrupted, unaccounted } = found;
    assert.ok(packets > 0 && mpps > 0 && gbps > 0 && checked > 0, JSON.stringify(found));
    assert.ok(cycles_per_packet !== undefined && cycles_per_packet > 0, JSON.stringify(found));
    assert.deepEqual({ duplicated, reordered, corrupted, unaccounted }, {
      ...{ duplicated: 0, reordered: 0, corrupted: 0, unaccounted: 0 },
    });
  }
}

Deno.test("bench vm2vm moves frames of every kind of size over both rings, and all arrive whole", async () => {
  const result = await measured("--size", "60,64,1518,65535", "--verify");
  checkResult(result, 8);
  assert.equal(result.verify, "all");
  for (const { checked, packets, ring, size_bytes } of result.cases) {
    assert.equal(checked, packets, `${size_bytes} ${ring}: every packet is checked`);
  }
});

Deno.test("bench vm2vm has frames cut for whoever does not take them, and no piece is wrong", async () => {
  const words = ["--size", "9000", "--gso", "1448", "--takes", "all,checksums,nothing"];
  for (const queues of ["1", "2"]) {
    const result = await measured(...words, "--queues", queues, "--verify");
    checkResult(result, 6);
    for (const { checked, packets, offload } of result.cases) assert.equal(checked, packets, JSON.stringify(offload));
  }
  checkResult(await measured(...words), 6);
});

Deno.test("bench vm2vm checks a part of the packets unless all are wanted", async () => {
  const result = await measured("--ring", "packed");
  checkResult(result, 1);
  const [found] = result.cases;
  assert.equal(result.verify, "sampled");
  assert.ok(found!.checked < found!.packets / 100, `${found!.checked} of ${found!.packets}`);
});

Deno.test("bench vm2vm measures a matrix of sizes and rings, and starts everything anew for it", async () => {
  const words = ["vm2vm", "--size", "64,9000", "--ring", "both", "--starts", "2", "--seconds", "0.2"];
  const { code, stdout, stderr } = await bench(words);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^Mpps\nRING +64 B +9000 B\nsplit( +\d+\.\d+){2}\npacked( +\d+\.\d+){2}\n/m);
  const result = await measured(...words.slice(1));
  checkResult(result, 4);
  assert.ok(result.cases.every(({ starts }) => starts === 2));
});

Deno.test("bench vm2vm uses several queues, and reorders no flow", async () => {
  const result = await measured("--queues", "2", "--verify");
  checkResult(result, 2);
  assert.ok(result.cases.every(({ queues }) => queues === 2));
});

Deno.test("bench vm2vm takes rings of other sizes", async () => {
  checkResult(await measured("--ring", "packed", "--ring-size", "100", "--size", "1518", "--verify"), 1);
  checkResult(await measured("--ring", "split", "--ring-size", "1024", "--size", "1518", "--verify"), 1);
});

Deno.test("bench takes rings without mergeable buffers and in order, from guest to guest and back to one", async () => {
  for (const way of ["vm2vm", "loop"] as const) {
    const result = await measuredWay(way, "--ring", "all", "--size", "64,9000", "--verify");
    checkResult(result, 12);
    assert.equal(result.bench, way);
    assert.equal(new Set(result.cases.map(ringName)).size, 6);
  }
});

Deno.test("bench counts the instructions of a packet, which are more where there is more to copy", async () => {
  const { cases } = await measured("--ring", "packed-in-order", "--size", "64,900", "--instructions");
  const [short, long] = cases.map(({ instructions_per_packet: count }) => count!);
  // There are 64 frames of 64 bytes in a burst; whatever else a worker does is shared by them.
  assert.ok(short! > 50 && short! < 1000 && long! > short!, `${short}, ${long}`);
});

Deno.test("bench vm2vm works on one CPU", async () => {
  const { machine } = await measured("--ring", "split");
  checkResult(await measured("--cpus", `${machine.cpus[0]}`, "--verify"), 2);
});

Deno.test("bench vm2vm prints a table and a chart, and writes a report", async () => {
  const file = await Deno.makeTempFile({ suffix: ".html" });
  try {
    const { code, stdout, stderr } = await bench(["vm2vm", "--seconds", "0.3", "--report", file]);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /SIZE +RING/);
    assert.match(stdout, /64 B split +█+.* Mpps/);
    assert.match(stdout, /Nothing was duplicated, reordered or corrupted/);
    assert.ok(!stdout.includes("\x1b"), "no colours and no frames where there is no terminal");
    assert.match(await Deno.readTextFile(file), /<h3>64 B<\/h3>[^]*<svg [^]*>packed<[^]*<\/html>/);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("bench latency times round trips by every idle mode, with and without a load", async () => {
  const file = await Deno.makeTempFile({ suffix: ".html" });
  try {
    const words = ["latency", "--seconds", "0.3", "--ring", "both", "--load", "0,20000", "--starts", "2"];
    const { code, stdout, stderr } = await bench([...words, "--json", "--report", file]);
    assert.equal(code, 0, stderr);
    const result = JSON.parse(stdout) as LatencyResult;
    assert.equal(result.interrupted, false);
    for (const ring of ["split", "packed"]) {
      for (const load of [0, 20_000]) {
        const found = result.cases.filter((wanted) => wanted.ring === ring && wanted.load_pps === load);
        assert.ok(found.length > 0, `${ring}, ${load}`);
        assert.ok(found.reduce((sum, { rounds }) => sum + rounds, 0) >= 1);
        for (const { forwarders } of found) {
          assert.deepEqual(forwarders.map(({ name }) => name), ["busy", "adaptive", "sleep"]);
        }
        // A machine that is busy may let nothing through in a turn, but not in all.
        assert.ok(found.some(({ forwarders }) => forwarders.some(({ round_trips }) => round_trips > 0)));
        assert.ok(load === 0 || found.some(({ forwarders }) => forwarders.some(({ load_pps }) => load_pps > 0)));
      }
    }
    assert.match(await Deno.readTextFile(file), /<h2>latency<\/h2>[^]*<circle [^]*<\/html>/);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("bench costs tells what a back end costs, and how long it is out", async () => {
  const file = await Deno.makeTempFile({ suffix: ".html" });
  try {
    for (const ring of ["split", "packed"]) {
      const words = ["--rounds", "1", "--seconds", "0.2", "--kills", "2", "--ring", ring, "--report", file];
      const { code, stdout, stderr } = await bench(["costs", "--json", ...words]);
      assert.equal(code, 0, stderr);
      const { back_ends, interrupted } = JSON.parse(stdout) as CostsResult;
      assert.deepEqual([interrupted, back_ends.length], [false, 1]);
      const [{ name, rounds, kills, survived, outage_ms, costs }] = back_ends as [BackEndCosts];
      assert.deepEqual({ name, rounds, kills, survived }, { name: "vhostctl serve", rounds: 1, kills: 2, survived: 2 });
      assert.ok(outage_ms!.median > 0 && costs.listening_ms.median > 0 && costs.rss_mib.median > 1);
      assert.ok(costs.private_mib.median <= costs.rss_mib.median);
    }
    assert.match(await Deno.readTextFile(file), /<h2>costs<\/h2>[^]*<td>vhostctl serve<\/td>[^]*<\/html>/);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("bench costs prints a table, without what was not asked for", async () => {
  const { code, stdout, stderr } = await bench(["costs", "--rounds", "1", "--seconds", "0.1", "--kills", "0"]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /BACK END +LISTENS AFTER ms[^]*\nvhostctl serve +\d+[^]*Medians/);
  assert.doesNotMatch(stdout, /KILLS/);
});

Deno.test("bench starvation measures the other flows while one receiver does not read", async () => {
  const words = ["--flows", "3", "--ring", "both", "--seconds", "1"];
  const { code, stdout, stderr } = await bench(["starvation", "--json", ...words]);
  assert.equal(code, 0, stderr);
  const { cases, interrupted } = JSON.parse(stdout) as StarvationResult;
  assert.deepEqual([interrupted, cases.map(({ ring }) => ring)], [false, ["split", "packed"]]);
  for (const { pairs, flows } of cases) {
    assert.deepEqual([flows, pairs.length], [3, 2]);
    // Nobody's descriptors are held: its sender sends on, and the others receive.
    assert.ok(pairs.some(({ sent_to_stopped_mpps }) => sent_to_stopped_mpps > 0));
    assert.ok(pairs.some(({ stopped_mpps }) => stopped_mpps > 0));
  }
});

Deno.test("bench starvation prints a table, and writes a report", async () => {
  const file = await Deno.makeTempFile({ suffix: ".html" });
  try {
    const words = ["--rate", "5000", "--ring", "packed", "--seconds", "0.5", "--report", file];
    const { code, stdout, stderr } = await bench(["starvation", ...words]);
    assert.equal(code, 0, stderr);
    assert.match(
      stdout,
      /SIZE +RING +OTHERS Mpps, ALL READ[^]*\n +64 +packed[^]*4 guests sent to 4 others, 5000 packets/,
    );
    assert.match(await Deno.readTextFile(file), /<h2>starvation<\/h2>[^]*<td>packed<\/td>[^]*<\/html>/);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("bench report makes one page of several results, and refuses what is none", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const [page, costs, other] = ["page.html", "costs.json", "other.json"].map((name) => `${folder}/${name}`);
    const { stdout } = await bench(["costs", "--json", "--rounds", "1", "--seconds", "0.1", "--kills", "0"]);
    await Deno.writeTextFile(costs!, stdout);
    const kept = ["vm2vm", "loop"].map((way) =>
      new URL(`../bench/results/2026-11-28-${way}.json`, import.meta.url).pathname
    );
    const { code, stderr } = await bench(["report", page!, ...kept, costs!]);
    assert.equal(code, 0, stderr);
    const html = await Deno.readTextFile(page!);
    assert.deepEqual([...html.matchAll(/<h2>(\w+)/g)].map(([, name]) => name), ["vm2vm", "loop", "costs"]);
    assert.doesNotMatch(html.replace(/<pre>[^]*<\/pre>/, ""), /undefined|NaN/);
    for (const text of ["{}", "null", "not JSON"]) {
      await Deno.writeTextFile(other!, text);
      const refused = await bench(["report", page!, costs!, other!]);
      assert.deepEqual([refused.code, refused.stderr.includes(`cannot use the result: ${other}`)], [1, true]);
    }
    assert.equal(await Deno.readTextFile(page!), html, "it is left as it was");
    assert.match((await bench(["report", page!])).stderr, /argument missing: results/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** Waits until something in a folder of its own has a name that ends so. */
async function appears(folder: string, ending: string): Promise<void> {
  for (;;) {
    for await (const { name } of Deno.readDir(folder)) {
      if (await Deno.stat(`${folder}/${name}/${ending}`).then(() => true, () => false)) return;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Ends a benchmark by Ctrl-C after a while of traffic, and returns what it printed. */
async function interrupted(...words: readonly string[]): Promise<unknown> {
  const folder = await Deno.makeTempDir();
  try {
    const args = ["bench", ...words, "--json", "--seconds", "600"];
    const options = { args, env: { TMPDIR: folder }, stdin: "null", stdout: "piped", stderr: "piped" } as const;
    const child = new Deno.Command(program, options).spawn();
    const timer = setTimeout(() => child.kill("SIGKILL"), 60_000);
    await appears(folder, "port1.sock");
    // The guests connect, and packets begin to move.
    await new Promise((resolve) => setTimeout(resolve, 6000));
    child.kill("SIGINT");
    const { code, stdout, stderr } = await child.output();
    clearTimeout(timer);
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    assert.deepEqual([...Deno.readDirSync(folder)], [], "nothing is left behind");
    return JSON.parse(new TextDecoder().decode(stdout));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("bench vm2vm stops at Ctrl-C, prints what it has, and leaves nothing behind", async () => {
  const result = await interrupted("vm2vm", "--ring", "split") as BenchResult;
  assert.equal(result.interrupted, true);
  assert.ok(result.cases[0]!.packets > 0);
});

Deno.test("bench latency and starvation stop at Ctrl-C, and print what they have", async () => {
  const latency = await interrupted("latency", "--idle", "busy", "--load", "0", "--ring", "split") as LatencyResult;
  assert.equal(latency.interrupted, true);
  assert.ok(latency.cases[0]!.rounds > 0);
  const starvation = await interrupted("starvation", "--flows", "2", "--ring", "split") as StarvationResult;
  assert.equal(starvation.interrupted, true);
  assert.ok(starvation.cases[0]!.pairs.length > 0);
});

for (
  const [words, said] of [
    [[], /argument missing: what/],
    [["vm2nic"], /cannot use bench: vm2nic/],
    [["latncy", "--seconds", "3"], /cannot use bench: latncy: did you mean latency\?/],
    [["latency", "--idle", "never"], /cannot use --idle: never/],
    [["costs", "--rounds", "0"], /cannot use --rounds: 0: give a whole number from 1 to 1000/],
    [["vm2vm", "--size", "10"], /cannot use --size: 10/],
    [["vm2vm", "--sise", "64"], /unknown option: --sise: did you mean --size\?/],
    [["vm2vm", "--cpus", "4095"], /cannot run on CPU: 4095/],
  ] as [string[], RegExp][]
) {
  Deno.test(`bench ${words.join(" ")} is wrong usage`, async () => {
    const { code, stdout, stderr } = await bench(words);
    assert.equal(code, 2, stderr);
    assert.equal(stdout, "");
    assert.match(stderr, said);
    assert.equal(stderr.trim().split("\n").length, 1, "one line");
  });
}

Deno.test("bench vm2vm --peer dpdk names the package where there is no testpmd", async () => {
  const { code, stderr } = await bench(["vm2vm", "--peer", "dpdk", "--testpmd", "dpdk-testpmd-of-another-name"]);
  assert.equal(code, 3, stderr);
  assert.match(stderr, /cannot find testpmd: dpdk-testpmd-of-another-name: .*apt-get install .*dpdk-dev/);
});

Deno.test("bench vm2vm says at once that a report cannot be written", async () => {
  const { code, stderr } = await bench(["vm2vm", "--report", "/nonexistent/report.html"]);
  assert.equal(code, 1, stderr);
  assert.match(stderr, /cannot write the report: \/nonexistent\/report.html/);
});

// `vhostctl bench vm2vm --peer dpdk`: testpmd and serve by turns, with the same guests.

import assert from "node:assert/strict";
import type { BenchResult } from "../../cli/bench_result.ts";
import type { CostsResult } from "../../cli/costs_result.ts";
import type { LatencyResult } from "../../cli/latency_result.ts";
import { realTest, testpmd_command } from "./peers.ts";
import { eventually } from "./process.ts";

const program = Deno.env.get("VHOSTCTL") ?? new URL("../../scripts/vhostctl", import.meta.url).pathname;

function start(words: readonly string[], env: Record<string, string> = {}, what = "vm2vm"): Deno.ChildProcess {
  const args = ["bench", what, "--json", "--peer", "dpdk", "--testpmd", testpmd_command, ...words];
  return new Deno.Command(program, { args, env, stdin: "null", stdout: "piped", stderr: "piped" }).spawn();
}

/** Processes, by id, whose command line has this in it. */
function processesWith(text: string): number[] {
  return [...Deno.readDirSync("/proc")].flatMap(({ name }) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      return Deno.readTextFileSync(`/proc/${name}/cmdline`).includes(text) ? [Number(name)] : [];
    } catch {
      return [];
    }
  });
}

realTest("bench compares with testpmd in turns, on both rings and several queues", ["dpdk"], async () => {
  const child = start(["--seconds", "0.5", "--size", "64,1518", "--queues", "2", "--verify"]);
  const { code, stdout, stderr } = await child.output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  const { cases, ok } = JSON.parse(new TextDecoder().decode(stdout)) as BenchResult;
  assert.ok(ok);
  assert.equal(cases.length, 4);
  for (const { peer, packets, unaccounted } of cases) {
    assert.ok(peer !== undefined);
    assert.ok(packets > 0 && peer.packets > 0 && peer.mpps > 0);
    assert.equal(unaccounted, 0);
    assert.equal(peer.pairs.length, 2);
    assert.equal(peer.ratio?.count, 2);
    assert.match(peer.version, /^DPDK \d+\./);
    assert.deepEqual([peer.corrupted, peer.duplicated], [0, 0]);
  }
});

realTest("bench latency times testpmd's round trips beside ours, with a load and without", ["dpdk"], async () => {
  const words = ["--seconds", "0.3", "--ring", "packed", "--load", "0,20000", "--idle", "busy"];
  const { code, stdout, stderr } = await start(words, {}, "latency").output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  const { cases, peer } = JSON.parse(new TextDecoder().decode(stdout)) as LatencyResult;
  assert.match(peer!.version, /^DPDK \d+\./);
  for (const load of [0, 20_000]) {
    const found = cases.filter(({ load_pps }) => load_pps === load);
    assert.ok(found.length > 0);
    for (const { forwarders } of found) assert.deepEqual(forwarders.map(({ name }) => name), ["busy", "testpmd"]);
    assert.ok(found.some(({ forwarders }) => forwarders[1]!.round_trips > 0));
  }
});

realTest("bench costs measures testpmd beside ours, and its guests survive it", ["dpdk"], async () => {
  const words = ["--rounds", "1", "--seconds", "0.2", "--kills", "1"];
  const { code, stdout, stderr } = await start(words, {}, "costs").output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  const { back_ends: [ours, peers] } = JSON.parse(new TextDecoder().decode(stdout)) as CostsResult;
  assert.match(peers!.name, /^DPDK \d+\./);
  for (const found of [ours!, peers!]) {
    assert.deepEqual([found.rounds, found.kills, found.survived], [1, 1, 1], found.name);
    assert.ok(found.costs.listening_ms.median > 0 && found.costs.rss_mib.median > 1);
  }
});

realTest("bench that is killed leaves no process behind, stopped or not", ["dpdk"], async () => {
  // Killed, it cannot tidy up.
  const folder = await Deno.makeTempDir();
  try {
    const child = start(["--seconds", "600", "--ring", "split"], { TMPDIR: folder });
    const mine = `vhostctl-${child.pid}`;
    await eventually("testpmd starts", 60_000, () => processesWith(mine).length > 0 ? true : undefined);
    // Somewhere among the turns.
    await new Promise((resolve) => setTimeout(resolve, 3000));
    child.kill("SIGKILL");
    await child.output();
    const gone = () => processesWith(mine).length + processesWith(folder).length === 0 ? true : undefined;
    await eventually("testpmd, serve and the guests are gone", 20_000, gone);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

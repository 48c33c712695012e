/** `vhostctl tso-test`: it passes here, and it does not pass what is wrong. */

import assert from "node:assert/strict";
import { resolve } from "node:path";
import { type Arrival, arrivalsOf, type OffloadedPacket, type Taken } from "../cli/segment_model.ts";
import { receivers, runPairings } from "../cli/tso_pairings.ts";
import type { Pairing, Receiver, TsoResult } from "../cli/tso_result.ts";
import { failureLines } from "../cli/tso_text.ts";
import { library } from "../ffi/library.ts";

// It stays open for good: opened here, it belongs to no test.
library();

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
    const bars = stdout.matchAll(new RegExp(`^(split|packed) +${name} +[█-▏]+ +[0-9.]+ Gbit/s$`, "gm"));
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

/** The pairings of one receiver, by another model than the right one. */
async function pairingsBy(
  wanted: Omit<Receiver, "ring">,
  mutate: (arrivals: Arrival[], offloaded: OffloadedPacket) => Arrival[],
): Promise<Pairing[]> {
  const model = (offloaded: OffloadedPacket, taken: Taken) => mutate(arrivalsOf(offloaded, taken), offloaded);
  const chosen = receivers.filter(({ ring, mergeable, takes }) =>
    ring === "packed" && mergeable === wanted.mergeable && takes === wanted.takes
  );
  return await runPairings({ receivers: chosen, stop: new AbortController().signal, progress() {}, model });
}

/** One more in the 16-bit word at a place in the second of the arrivals. */
function changeAt(place: number) {
  return (arrivals: Arrival[]): Arrival[] =>
    arrivals.map((arrival, number) => {
      if (number !== 1) return arrival;
      const bytes = arrival.bytes.slice();
      bytes[place + 1] = bytes[place + 1]! + 1;
      return { ...arrival, bytes };
    });
}

const nothing = { mergeable: true, takes: "nothing" } as const;

/** What a wrong model expects, of whom, and how that is told of the first pairing that fails. */
const mutations: [
  what: string,
  receiver: Omit<Receiver, "ring">,
  mutate: (arrivals: Arrival[], offloaded: OffloadedPacket) => Arrival[],
  told: RegExp,
][] = [
  ["an identification", nothing, changeAt(18), /piece 2 of \d+: byte 5 of the IP header differs/],
  ["a sequence number", nothing, changeAt(40), /piece 2 of \d+: byte 7 of the TCP header differs/],
  ["a checksum", nothing, changeAt(50), /piece 2 of \d+: byte 17 of the TCP header differs/],
  ["a byte of payload", nothing, changeAt(70), /piece 2 of \d+: byte 17 of the payload differs/],
  ["the order", nothing, (arrivals) => arrivals.toReversed(), /piece 1 of \d+: byte \d+ of the IP header differs/],
  ["one piece less", nothing, (arrivals) => arrivals.length > 2 ? arrivals.slice(0, -1) : arrivals, /differs|too many/],
  ["one piece more", nothing, (arrivals) => [...arrivals, arrivals[0]!], /piece 2 of 2: .* differs|did not arrive/],
  [
    "a header field",
    { mergeable: false, takes: "all" },
    ([arrival]) => [{ ...arrival!, header: { ...arrival!.header, gsoSize: 7 } }],
    /virtio-net header: gso_size is 1448, not 7/,
  ],
  [
    "a flag",
    { mergeable: false, takes: "checksums" },
    (arrivals) => arrivals.map((arrival) => ({ ...arrival, header: { ...arrival.header, flags: 0 } })),
    /virtio-net header: flags is 1, not 0/,
  ],
];

for (const [what, receiver, mutate, told] of mutations) {
  Deno.test(`tso-test fails where the switch is other than the model: ${what}`, async () => {
    const pairings = await pairingsBy(receiver, mutate);
    assert.equal(pairings.length, 10);
    assert.equal(pairings[0]!.result, "fail");
    const lines = failureLines(pairings);
    assert.match(lines[0]!, /^TSO4 to a guest with packed rings, .*: TCP over IPv4, \d+ bytes by 1448/);
    assert.match(lines[1]!, told);
  });
}

Deno.test("the identification of IPv6 fragments is the choice of the switch, and nothing else of them", async () => {
  const pairings = await pairingsBy(nothing, (arrivals, { segmentation, packet }) => {
    if (segmentation !== "fragments" || packet.family === 4) return arrivals;
    return arrivals.map(({ header, bytes }) => ({ header, bytes }));
  });
  assert.deepEqual(pairings.filter(({ result }) => result === "fail").map(({ offload }) => offload), ["UFO", "UFO"]);
  assert.match(failureLines(pairings)[1]!, /byte \d+ behind the IP header differs/);
  assert.match(failureLines(pairings)[2]!, /^ {2}[0-9a-f]{4} {2}expected {2}([0-9a-f]{2} ?)+$/);
});

/** What `tso-test` compares with: where the switch does other than a model says, that is found, and told. */

import assert from "node:assert/strict";
import { type Arrival, arrivalsOf, type OffloadedPacket, type Taken } from "../cli/segment_model.ts";
import { receivers, runPairings } from "../cli/tso_pairings.ts";
import type { Pairing, Receiver } from "../cli/tso_result.ts";
import { failureLines } from "../cli/tso_text.ts";
import { loadLibrary } from "../ffi/library.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

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

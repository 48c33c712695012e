/**
 * Every row of the request table against what a hostile front end makes of it: each wrong length, each wrong number of
 * descriptors, each missing feature, odd flags. The cases are generated from the table.
 */

import assert from "node:assert/strict";
import { makeOffer, type Offer } from "../vhost/offer.ts";
import { requestName, requests, type Row } from "../vhost/request.ts";
import { featureBits, protocolFeatureBits } from "../vhost/spec.ts";
import { type Answer, fdCountOf, Peer, verdictOf } from "./vhost_peer.ts";
import { type FrontendRequestName, samples } from "./vhost_sample.ts";

const rows = Object.entries(requests) as [FrontendRequestName, Row<unknown, unknown>][];
const frontendRows = rows.filter(([, row]) => row.sender === "front end");

/** More than is offered by default, so that every row can be reached. */
const everything: Offer = {
  ...makeOffer({ queuePairs: 2 }),
  features: (1n << 64n) - 1n,
  protocolFeatures: (1n << 22n) - 1n,
};

function without(offer: Offer, { need }: Row<unknown, unknown>): Offer {
  const feature = need?.feature === undefined ? 0n : 1n << BigInt(featureBits[need.feature]);
  const protocol = need?.protocolFeature === undefined ? 0n : 1n << BigInt(protocolFeatureBits[need.protocolFeature]);
  return { ...offer, features: offer.features & ~feature, protocolFeatures: offer.protocolFeatures & ~protocol };
}

function negotiated(offer: Offer): Peer {
  const peer = new Peer(offer);
  if ((offer.features & 1n << 30n) !== 0n) peer.tell("SET_PROTOCOL_FEATURES", offer.protocolFeatures);
  peer.tell("SET_FEATURES", offer.features);
  peer.dataplane.takeCalls();
  return peer;
}

/** Without and with need_reply. */
const requestFlags = [0x1, 0x9];
const oddFlags = [0x0, 0x2, 0x3, 0x5, 0xd, 0x11, 0x8000_0001];

/** One message that must be refused, in a session of its own, for each of `requestFlags`. */
function refused(offer: Offer, name: string, row: Row<unknown, unknown>, message: Message, reason: RegExp): void {
  for (const flags of requestFlags) {
    const peer = negotiated(offer);
    const hasAck = (offer.features & 1n << 30n) !== 0n && (offer.protocolFeatures & 1n << 3n) !== 0n;
    const judges = (row.reply === "verdict" || row.refusal !== undefined) && message.legal;
    const verdict = row.reply === "none" ? flags === 0x9 && hasAck : judges;
    const nacked = verdict || (row.reply === "verdict" && flags === 0x9 && hasAck);
    const answer = peer.raw(row.number, flags, message.payload, message.fdCount);
    assert.deepEqual(peer.dataplane.takeCalls(), nacked ? [] : ["reset"], `${name} does nothing`);
    if (nacked) goesOn(peer, name, answer, reason, row.refusal);
    else ended(name, answer, reason);
    peer.finish();
  }
}

interface Message {
  readonly payload: Uint8Array;
  readonly fdCount: number;
  /** Its feature was negotiated. */
  readonly legal: boolean;
}

function goesOn(peer: Peer, name: string, answer: Answer, reason: RegExp, refusal = 1n): void {
  assert.equal(verdictOf(answer), refusal, name);
  assert.match(peer.events.at(-1) ?? "", reason);
  assert.ok(peer.events.at(-1)?.startsWith(`refused: ${name} refused: `));
  assert.equal(peer.number("GET_FEATURES", null), peer.backend.state.offer.features);
}

function ended(name: string, answer: Answer, reason: RegExp): void {
  assert.ok(typeof answer === "object" && "closed" in answer, `${name}: ${JSON.stringify(answer)}`);
  assert.match(answer.closed, reason);
  assert.ok(answer.closed.startsWith(`${name} refused: `), answer.closed);
}

function fdCountsAllowed(row: Row<unknown, unknown>, payload: unknown): number[] {
  const right = fdCountOf(row, payload);
  return row.fds === "none, or one to be closed" || row.fds === "one or none" ? [0, 1] : [right];
}

Deno.test("The table has every request of the specification once", () => {
  const numbers = frontendRows.map(([, row]) => row.number);
  assert.deepEqual(numbers, Array.from({ length: 44 }, (_, i) => i + 1));
  const others = rows.filter(([, row]) => row.sender === "back end").map(([, row]) => row.number);
  assert.deepEqual(others, Array.from({ length: 10 }, (_, i) => i + 1));
  for (const [name, row] of rows) assert.equal(requestName(row.number, row.sender), name);
  assert.equal(requestName(0, "front end"), undefined);
  assert.equal(requestName(45, "front end"), undefined);
});

function wrongLengths(row: Row<unknown, unknown>, bytes: Uint8Array): Message[] {
  const lengths = new Set([0, 1, 4, 7, 8, 9, 12, bytes.length - 1, bytes.length + 1, bytes.length * 2, 1024]);
  const wrong = [...lengths].filter((length) => length >= 0 && length !== bytes.length).map((length) => {
    const payload = new Uint8Array(length);
    payload.set(bytes.subarray(0, length));
    return { payload, fdCount: fdCountOf(row, row.payload.decode(bytes)), legal: true };
  });
  return wrong.filter(({ payload }) => row.payload.decode(payload) === undefined);
}

function wrongFdCounts(row: Row<unknown, unknown>, payload: Uint8Array): Message[] {
  const allowed = fdCountsAllowed(row, row.payload.decode(payload));
  const counts = [0, 1, 2, 3, 4, 5, 6, 7, 8].filter((count) => !allowed.includes(count));
  return counts.map((fdCount) => ({ payload, fdCount, legal: true }));
}

let caseCount = 0;

for (const [name, row] of frontendRows) {
  const payload = row.payload.encode(samples[name]);
  const fdCount = fdCountOf(row, samples[name]);
  const lengths = wrongLengths(row, payload);
  const counts = wrongFdCounts(row, payload);
  caseCount += requestFlags.length * (lengths.length + counts.length) + oddFlags.length;

  Deno.test(`${name}: wrong lengths`, () => {
    for (const message of lengths) refused(everything, name, row, message, /payload of \d+ bytes/);
  });

  Deno.test(`${name}: wrong numbers of descriptors`, () => {
    for (const message of counts) refused(everything, name, row, message, /\d file descriptors: .+ here/);
  });

  if (row.need !== undefined) {
    caseCount += requestFlags.length;
    Deno.test(`${name}: feature that was not ${row.need.when}`, () => {
      const message = { payload, fdCount, legal: false };
      refused(without(everything, row), name, row, message, /feature [A-Z_]+ was not (offered|negotiated)/);
    });
  }

  Deno.test(`${name}: odd flags end the session`, () => {
    for (const flags of oddFlags) {
      const peer = negotiated(everything);
      const answer = peer.raw(row.number, flags, payload, fdCount);
      assert.ok(typeof answer === "object" && "closed" in answer);
      assert.match(answer.closed, new RegExp(`^${name}: (version|an answer|flags)`));
      peer.finish();
    }
  });
}

Deno.test("The cases above are as many as were meant", () => {
  assert.ok(caseCount > 1500, `${caseCount} cases`);
});

Deno.test("Requests of later work are refused as long as they are not offered", () => {
  const later: FrontendRequestName[] = [
    "IOTLB_MSG",
    "SET_VRING_ENDIAN",
    "GET_CONFIG",
    "SET_CONFIG",
    "CREATE_CRYPTO_SESSION",
    "CLOSE_CRYPTO_SESSION",
    "GPU_SET_SOCKET",
    "VRING_KICK",
    "GET_SHARED_OBJECT",
    "SET_DEVICE_STATE_FD",
    "CHECK_DEVICE_STATE",
    "GET_SHMEM_CONFIG",
  ];
  const offer = makeOffer({ queuePairs: 2 });
  for (const name of later) {
    const row = requests[name] as Row<unknown, unknown>;
    const fdCount = fdCountOf(row, samples[name]);
    const message = { payload: row.payload.encode(samples[name]), fdCount, legal: false };
    refused(offer, name, row, message, /was not (offered|negotiated)|cannot do it/);
    // Were they on offer, nobody here could do them: that must not be silent.
    refused(everything, name, row, { ...message, legal: true }, /this back end cannot do it/);
  }
});

Deno.test("Unknown requests are refused", () => {
  for (const number of [0, 45, 46, 100, 0x7fff_ffff, 0xffff_ffff]) {
    const row = { number, reply: "none" } as Row<unknown, unknown>;
    const message = { payload: new Uint8Array(8), fdCount: 3, legal: true };
    refused(everything, `request ${number}`, row, message, /the specification has no such request/);
  }
});

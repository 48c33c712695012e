/**
 * A session under random messages, most of them sensible: whatever comes, the data plane is only asked for what is
 * legal, every descriptor ends in exactly one place, and nothing but a refusal ever comes of a bad message.
 *
 * With FUZZ_SECONDS set, each property is tried for so long instead of for some runs; FUZZ_SEED sets where they begin.
 */

import assert from "node:assert/strict";
import fc from "fast-check";
import type { Region } from "../vhost/dataplane.ts";
import { makeOffer } from "../vhost/offer.ts";
import { type PayloadOf, requestName, requests, type Row } from "../vhost/request.ts";
import { isRunning, type SessionState } from "../vhost/session.ts";
import { readSession, snapshotVersion, writeSession } from "../vhost/session_snapshot.ts";
import { featureSet, headerFlags } from "../vhost/spec.ts";
import {
  addressOf,
  type Answer,
  fdCountOf,
  guestFeatures,
  packedFeatures,
  Peer,
  ram,
  verdictOf,
} from "./vhost_peer.ts";
import { type FrontendRequestName, samples } from "./vhost_sample.ts";

interface Message {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly fdCount: number;
}

const dimm: Region = { gpa: 1n << 32n, size: 1n << 27n, userAddress: 0x7e00_0000_0000n, mmapOffset: 0n };
const indexes = fc.oneof(
  { weight: 20, arbitrary: fc.integer({ min: 0, max: 3 }) },
  { weight: 1, arbitrary: fc.constantFrom(4, 255, 0x1_0000, 0xffff_ffff) },
);
const sizes = fc.constantFrom(256, 256, 256, 1024, 32768, 255, 1, 0, 65536);
const bases = fc.constantFrom(0, 0, 255, 0x8000_8000, 0x8000, 0x8001_8001, 0xffff, 0x1_0000);
const features = fc.constantFrom(
  guestFeatures,
  guestFeatures,
  packedFeatures,
  packedFeatures | featureSet(["IN_ORDER"]),
  featureSet(["VERSION_1"]),
  guestFeatures | featureSet(["MTU"]),
  guestFeatures | featureSet(["LOG_ALL"]),
  packedFeatures | featureSet(["LOG_ALL"]),
  featureSet(["PROTOCOL_FEATURES"]),
  0n,
  1n << 40n,
);
const regions = fc.constantFrom<Region>(
  ram,
  ram,
  ram,
  dimm,
  dimm,
  { ...ram, size: 0x40_0000n },
  { ...ram, gpa: 0x100_0000n },
  { ...dimm, mmapOffset: 4096n },
  { ...dimm, size: 0n },
  { ...dimm, gpa: (1n << 64n) - 4096n },
);
const shifts = fc.constantFrom(0n, 0n, 0n, 0n, 16n, 2n, 1n, 0x1000_0000n, -0x100_0000n);
const addresses = fc.tuple(indexes, shifts, shifts, shifts, fc.constantFrom(0, 0, 1, 1, 2)).map((
  [index, desc, avail, used, flags],
) => {
  const place = addressOf(index < 4 ? index : 0, flags);
  return { ...place, index, desc: place.desc + desc, avail: place.avail + avail, used: place.used + used };
});
const eventfds = fc.tuple(indexes, fc.constantFrom(0n, 0n, 0n, 0x100n, 0x200n)).map(([index, bits]) =>
  BigInt(index) | bits
);

/** What the payloads of the more interesting requests may be; the others' are as the samples. */
/** Mostly what a port of four rings has. */
const inflight = fc.record({
  mmapSize: fc.constantFrom(0n, 4096n, 0x8000n, 1n << 21n, 1n << 63n),
  mmapOffset: fc.constantFrom(0n, 4096n, 7n),
  queueCount: fc.constantFrom(0, 1, 2, 4, 5, 0xffff),
  queueSize: fc.constantFrom(0, 1, 256, 32768, 32769),
});

const payloads: { readonly [N in FrontendRequestName]?: fc.Arbitrary<PayloadOf<N>> } = {
  SET_FEATURES: features,
  SET_MEM_TABLE: fc.array(regions, { maxLength: 3 }),
  SET_LOG_BASE: fc.record({ size: fc.constantFrom(0x2000n, 0x1000n, 0n), offset: fc.constantFrom(0n, 4096n) }),
  SET_LOG_FD: fc.constant(null),
  SEND_RARP: fc.constantFrom(0x0100_0054_52n, 1n << 63n),
  SET_VRING_NUM: fc.record({ index: indexes, num: sizes }),
  SET_VRING_ADDR: addresses,
  SET_VRING_BASE: fc.record({ index: indexes, num: bases }),
  GET_VRING_BASE: fc.record({ index: indexes, num: fc.constant(0) }),
  SET_VRING_KICK: eventfds,
  SET_VRING_CALL: eventfds,
  SET_VRING_ERR: eventfds,
  SET_PROTOCOL_FEATURES: fc.constantFrom(0x1_a03fn & makeOffer().protocolFeatures, 0n, 8n, 1n << 9n),
  SET_VRING_ENABLE: fc.record({ index: indexes, num: fc.constantFrom(0, 1, 1, 2) }),
  NET_SET_MTU: fc.constantFrom(1500n, 9000n, 0n),
  ADD_MEM_REG: regions,
  REM_MEM_REG: regions,
  GET_INFLIGHT_FD: inflight,
  SET_INFLIGHT_FD: inflight,
  SET_STATUS: fc.constantFrom(0n, 8n, 15n, 256n),
};

const flags = fc.oneof(
  { weight: 10, arbitrary: fc.constant(0x1) },
  { weight: 500, arbitrary: fc.constant(0x9) },
  { weight: 1, arbitrary: fc.constantFrom(0x0, 0x5, 0x11) },
);

function encoded<N extends FrontendRequestName>(name: N): fc.Arbitrary<Message> {
  const row = requests[name] as Row<unknown, unknown>;
  const payload = payloads[name] ?? fc.constant(samples[name] as PayloadOf<N>);
  const strayFds = fc.constantFrom(...Array.from({ length: 60 }, () => 0), 1, -1);
  return fc.tuple(payload, flags, strayFds).map(([value, flags, stray]) => ({
    request: row.number,
    flags,
    payload: row.payload.encode(value),
    fdCount: Math.max(0, fdCountOf(row, value) + stray),
  }));
}

const names = Object.keys(samples) as FrontendRequestName[];
const sensible = Object.keys(payloads) as FrontendRequestName[];
const message = fc.oneof(
  { weight: 400, arbitrary: fc.oneof(...sensible.map(encoded)) },
  { weight: 1, arbitrary: fc.oneof(...names.map(encoded)) },
);

function told<N extends FrontendRequestName>(name: N, payload: PayloadOf<N>): Message {
  const row = requests[name] as Row<unknown, unknown>;
  return { request: row.number, flags: 0x9, payload: row.payload.encode(payload), fdCount: fdCountOf(row, payload) };
}

/** All that starts a ring, if the features, the memory and these values allow. */
const start = fc.tuple(fc.integer({ min: 0, max: 3 }), sizes, bases, fc.boolean()).map(([index, num, base, stop]) => [
  ...stop ? [told("GET_VRING_BASE", { index, num: 0 })] : [],
  told("SET_VRING_NUM", { index, num }),
  told("SET_VRING_BASE", { index, num: base }),
  told("SET_VRING_ADDR", addressOf(index)),
  told("SET_VRING_KICK", BigInt(index)),
  told("SET_VRING_CALL", BigInt(index)),
]);
const junk: fc.Arbitrary<Message> = fc.record({
  request: fc.oneof(fc.integer({ min: 0, max: 50 }), fc.nat(0xffff_ffff)),
  flags: fc.oneof(fc.constantFrom(0x1, 0x9), fc.nat(0xffff_ffff)),
  payload: fc.constantFrom(0, 8, 16, 24, 32, 40, 72, 13).chain((length) =>
    fc.uint8Array({ minLength: length, maxLength: length })
  ),
  fdCount: fc.integer({ min: 0, max: 8 }),
});

/** Delivers one message, and holds the back end to everything that can be said of any message. */
function deliver(peer: Peer, message: Message): void {
  const before = peer.backend.state;
  const name = requestName(message.request, "front end");
  const row: Row<unknown, unknown> | undefined = name === undefined ? undefined : requests[name];
  peer.dataplane.takeCalls();
  const answer = peer.raw(message.request, message.flags, message.payload, message.fdCount);
  assert.deepEqual([...peer.dataplane.violations, ...peer.fds.violations], []);
  if (peer.closed !== undefined) {
    assert.ok(!peer.closed.startsWith("internal"), peer.closed);
    assert.ok(!peer.closed.includes("\n") && peer.closed.length < 300, peer.closed);
    return;
  }
  const calls = peer.dataplane.takeCalls();
  assert.ok(row?.quiesces === true || calls.length === 0, `${name} must not touch the data plane: ${calls.join()}`);
  const after = peer.backend.state;
  const acknowledged = (message.flags & headerFlags.needReply) !== 0 && (after.protocolFeatures & 8n) !== 0n;
  if (typeof row?.reply === "object") {
    assert.ok(answer !== "none" && "payload" in answer);
    assert.notEqual(row.reply.decode(answer.payload), undefined);
  } else if (answer === "none") {
    const known = before.postCopy === "listening" && message.payload.length === 8 &&
      (name === "ADD_MEM_REG" || name === "SET_MEM_TABLE");
    assert.ok(!acknowledged || known, `${name} must be answered`);
  } else if (before.postCopy === "listening" && answerOf(answer).length !== 8) {
    assert.equal(answerOf(answer).length, message.payload.length, "where memory is, in the same form");
  } else if (verdictOf(answer) !== 0n) {
    assert.equal(after, before, "a refusal changes nothing");
    assert.deepEqual(calls.filter((call) => !call.endsWith("failed")), []);
  }
}

function answerOf(answer: Answer): Uint8Array {
  assert.ok(typeof answer === "object" && "payload" in answer, JSON.stringify(answer));
  return answer.payload;
}

/** What the session believes, and what the data plane was told. */
function compare(peer: Peer): void {
  const { vrings, memory, mtu, features } = peer.backend.state;
  const { running, enabled, regions } = peer.dataplane;
  assert.deepEqual(
    vrings.filter((vring) => vring.running !== undefined).map((vring) => vring.index),
    [...running.keys()].toSorted((a, b) => a - b),
  );
  assert.equal(isRunning(peer.backend.state), running.size > 0);
  assert.deepEqual(
    vrings.filter((vring) => vring.enabled).map((vring) => vring.index),
    [...enabled].toSorted((a, b) => a - b),
  );
  assert.deepEqual(memory.regions, regions);
  assert.equal(peer.dataplane.mtu, ((features ?? 0n) & featureSet(["MTU"])) === 0n ? undefined : mtu);
  const kept = peer.fds.live.size - peer.dataplane.fdCount;
  assert.ok(kept === 0 || kept === 1, `${kept} fds are held beside the data plane's; only the request socket may be`);
}

/** Another process would have the same. */
function survives(state: SessionState): void {
  if (state.postCopy === "advised" || state.postCopy === "listening") return;
  const text = JSON.stringify(writeSession(state, snapshotVersion));
  assert.deepEqual(readSession(JSON.parse(text), state.offer), state);
}

function play(peer: Peer, sequence: readonly Message[], advances: readonly number[] = [0]): void {
  for (const [i, message] of sequence.entries()) {
    peer.dataplane.advance = advances[i % advances.length]!;
    deliver(peer, message);
    if (peer.closed !== undefined) break;
    compare(peer);
  }
  if (peer.closed === undefined) survives(peer.backend.state);
  peer.finish();
}

function tryAll<T>(property: fc.IProperty<T>, runs: number): void {
  const seconds = Number(Deno.env.get("FUZZ_SECONDS") ?? 0);
  const seed = Number(Deno.env.get("FUZZ_SEED") ?? 0);
  const seeded = seed === 0 ? {} : { seed };
  if (seconds === 0) fc.assert(property, { numRuns: runs, ...seeded });
  else fc.assert(property, { numRuns: Infinity, interruptAfterTimeLimit: seconds * 1000, ...seeded });
}

const chunks = fc.oneof(
  { weight: 10, arbitrary: message.map((one) => [one]) },
  { weight: 1, arbitrary: start },
);
const sequences = fc.array(chunks, { minLength: 1, maxLength: 100, size: "max" }).map((parts) => parts.flat());
const advances = fc.array(fc.nat(40000), { minLength: 1, maxLength: 5 });

Deno.test("Any messages after a handshake", () => {
  let reached = 0;
  tryAll(
    fc.property(features, sequences, advances, (chosen, sequence, steps) => {
      const peer = new Peer();
      peer.handshake();
      if ((chosen & ~peer.backend.state.offer.features) === 0n) peer.tell("SET_FEATURES", chosen);
      peer.tell("ADD_MEM_REG", ram);
      play(peer, sequence, steps);
      reached += peer.events.filter((event) => event.startsWith("started")).length;
    }),
    300,
  );
  assert.ok(reached > 20, `rings must run in enough of the sessions, not in ${reached}`);
});

Deno.test("Any messages while rings run", () => {
  tryAll(
    fc.property(fc.boolean(), sequences, advances, (packed, sequence, steps) => {
      const peer = new Peer();
      peer.prepare(packed ? packedFeatures : guestFeatures);
      for (let index = 0; index < 4; index++) peer.startVring(index, { base: packed ? 0x8000_8000 : 0 });
      play(peer, sequence, steps);
    }),
    300,
  );
});

Deno.test("Any messages in post-copy", () => {
  const told = fc.constantFrom<FrontendRequestName>("POSTCOPY_ADVISE", "POSTCOPY_LISTEN", "POSTCOPY_END");
  const known = message.filter(({ request }) => request === requests.ADD_MEM_REG.number || request === 5)
    .map((one) => ({ ...one, payload: new Uint8Array(8), fdCount: 0 }));
  const among = fc.array(
    fc.oneof({ weight: 20, arbitrary: message }, { weight: 2, arbitrary: told.chain(encoded) }, known),
    { maxLength: 100, size: "max" },
  );
  const offer = makeOffer({ queuePairs: 2, postCopy: true });
  tryAll(
    fc.property(fc.boolean(), among, (listens, sequence) => {
      const peer = new Peer(offer);
      peer.handshake();
      peer.tell("SET_FEATURES", guestFeatures);
      peer.ask("POSTCOPY_ADVISE", null);
      if (listens) peer.ask("POSTCOPY_LISTEN", null);
      play(peer, sequence);
    }),
    300,
  );
});

Deno.test("Any messages from the first byte on", () => {
  tryAll(fc.property(sequences, (sequence) => play(new Peer(), sequence)), 300);
});

Deno.test("Any messages on a port that offers everything, also what nobody can do", () => {
  const offer = { ...makeOffer({ queuePairs: 2 }), features: (1n << 64n) - 1n, protocolFeatures: (1n << 22n) - 1n };
  tryAll(
    fc.property(sequences, (sequence) => {
      const peer = new Peer(offer);
      peer.tell("SET_PROTOCOL_FEATURES", offer.protocolFeatures);
      peer.tell("SET_FEATURES", guestFeatures);
      peer.tell("ADD_MEM_REG", ram);
      play(peer, sequence);
    }),
    300,
  );
});

Deno.test("Random bytes, at any time", () => {
  tryAll(
    fc.property(fc.boolean(), fc.array(junk, { maxLength: 50, size: "max" }), (prepared, sequence) => {
      const peer = new Peer();
      if (prepared) peer.prepare();
      if (prepared) peer.startVring(1);
      play(peer, sequence);
    }),
    1000,
  );
});

Deno.test("A data plane that fails now and then", () => {
  tryAll(
    fc.property(sequences, fc.infiniteStream(fc.nat(9)), (sequence, dice) => {
      const peer = new Peer();
      peer.prepare();
      peer.startVring(0);
      peer.dataplane.beforeCall = (call) => {
        if (dice.next().value === 0) throw new Error(`Cannot ${call}: out of memory`);
      };
      play(peer, sequence);
    }),
    300,
  );
});

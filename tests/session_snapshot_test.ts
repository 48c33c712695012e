/** A session as JSON, for another process that is to go on with it, of this build or of another. */

import assert from "node:assert/strict";
import { makeOffer } from "../vhost/offer.ts";
import { type Json, readSession, snapshotVersion, writeSession } from "../vhost/session_snapshot.ts";
import { guestFeatures, packedFeatures, Peer } from "./vhost_peer.ts";

type Row = Record<string, Json>;

/** What version 1 wrote of a guest with a running ring, while it migrated. */
const version1 = `{"version":1,"features":"0x144000000","protocolFeatures":"0x1800b","status":15,"mtu":1500,
  "postCopy":"none","regions":[{"gpa":"0x0","size":"0x40000000","userAddress":"0x7f0000000000","mmapOffset":"0x0"}],
  "vrings":[{"size":256,"base":7,"kicked":true,"enabled":true,
    "address":{"desc":"0x7f0000100000","avail":"0x7f0000180000","used":"0x7f0000190000","log":"0x190000","flags":1},
    "running":{"desc":"0x100000","avail":"0x180000","used":"0x190000","log":"0x190000","features":"0x144000000",
      "size":256,"base":7,"flags":1}},
  {"size":null,"base":null,"address":null,"kicked":false,"enabled":false,"running":null}]}`;

function snapshot(peer: Peer): Row {
  return JSON.parse(JSON.stringify(writeSession(peer.backend.state, snapshotVersion))) as Row;
}

function running(): Peer {
  const peer = new Peer();
  peer.prepare(packedFeatures);
  for (let index = 0; index < 4; index++) peer.startVring(index, { base: 0x8000_8000 });
  return peer;
}

Deno.test("what version 1 wrote is read", () => {
  const { features, mtu, status, memory, vrings } = readSession(JSON.parse(version1), makeOffer({ queuePairs: 2 }));
  assert.deepEqual([features, mtu, status, memory.regions.length], [0x1_4400_0000n, 1500, 15, 1]);
  assert.deepEqual(vrings.map(({ index, enabled }) => [index, enabled]), [[0, true], [1, false], [2, false], [
    3,
    false,
  ]]);
  const { base, running } = vrings[0]!;
  assert.deepEqual([base, running?.desc, running?.features, running?.flags], [7, 0x10_0000n, 0x1_4400_0000n, 1]);
  assert.deepEqual(vrings[3], { ...vrings[1]!, index: 3 });
});

/** What version 2 wrote of the same guest, whose front end keeps memory of what is in flight. */
const version2 = version1.replace('"version":1', '"version":2').replace(
  '"vrings"',
  '"inflight":{"mmapSize":"0x4000","mmapOffset":"0x40","queueCount":4,"queueSize":256},"vrings"',
);

Deno.test("what version 2 wrote is read, and written for one who reads it, and for nobody else", () => {
  const state = readSession(JSON.parse(version2), makeOffer({ queuePairs: 2 }));
  assert.deepEqual(state.inflight, { mmapSize: 0x4000n, mmapOffset: 0x40n, queueCount: 4, queueSize: 256 });
  assert.equal((writeSession(state, 2) as Row)["version"], 2);
  assert.throws(() => writeSession(state, 1), /in flight, and it takes a newer program/);
  const without = writeSession({ ...state, inflight: undefined }, 2) as Row;
  assert.deepEqual([without["version"], without["inflight"]], [1, undefined]);
  assert.throws(
    () => readSession({ ...without, version: 2 }, makeOffer({ queuePairs: 2 })),
    /inflight memory is missing/,
  );
});

Deno.test("a later version is refused by its number", () => {
  const peer = running();
  const later = { ...snapshot(peer), version: snapshotVersion + 1 };
  assert.throws(() => readSession(later, makeOffer({ queuePairs: 2 })), /version 3: this program reads those up to 2/);
  peer.finish();
});

Deno.test("what was agreed and is not on offer is named, and more may be on offer", () => {
  const peer = running();
  const read = (offer: Parameters<typeof makeOffer>[0]) => readSession(snapshot(peer), makeOffer(offer));
  assert.throws(() => read({ queuePairs: 2, withheld: ["RING_PACKED"] }), /^Error: features RING_PACKED were agreed/);
  assert.throws(() => read({ queuePairs: 2, withheld: ["STATUS"] }), /^Error: protocol features STATUS were agreed/);
  assert.throws(() => read({ queuePairs: 1 }), /2 queue pairs are in use, and 1 are planned/);
  const more = read({ queuePairs: 8, postCopy: true });
  assert.equal(more.vrings.length, 16);
  assert.deepEqual(more.vrings.slice(0, 4), peer.backend.state.vrings);
  peer.finish();
});

Deno.test("a guest that is still on its way cannot go", () => {
  const peer = new Peer(makeOffer({ queuePairs: 2, postCopy: true }));
  peer.handshake();
  peer.tell("SET_FEATURES", guestFeatures);
  peer.ask("POSTCOPY_ADVISE", null);
  assert.throws(() => writeSession(peer.backend.state, snapshotVersion), /post-copy/);
  peer.finish();
});

Deno.test("what is no session is refused, whatever is missing or wrong in it", () => {
  const offer = makeOffer({ queuePairs: 2 });
  const whole = JSON.parse(version1) as Row;
  for (const value of [null, 7, "text", [], {}]) assert.throws(() => readSession(value as Json, offer), Error);
  const wrong: Json[] = ["0x", "-0x1", -1, 1.5, {}, "0x1ffffffffffffffff"];
  for (const key of Object.keys(whole)) {
    assert.throws(() => readSession({ ...whole, [key]: undefined as unknown as Json }, offer), Error, key);
    for (const value of wrong) assert.throws(() => readSession({ ...whole, [key]: value }, offer), Error, key);
  }
  const ring = (whole["vrings"] as Row[])[0]!;
  for (const key of ["size", "base", "address", "running"]) {
    for (const value of wrong) {
      assert.throws(() => readSession({ ...whole, vrings: [{ ...ring, [key]: value }] }, offer), Error, key);
    }
  }
});

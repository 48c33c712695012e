/** Post-copy as a session: what QEMU 7.2 and 11.1 send, and what nobody should. */

import assert from "node:assert/strict";
import type { Region } from "../vhost/dataplane.ts";
import { makeOffer } from "../vhost/offer.ts";
import { requests } from "../vhost/request.ts";
import { protocolFeatureNames, protocolFeatureSet } from "../vhost/spec.ts";
import { u64 } from "../vhost/wire.ts";
import { mappedAt } from "./recorder.ts";
import { type Answer, guestFeatures, Peer, ram } from "./vhost_peer.ts";

const offer = makeOffer({ queuePairs: 2, postCopy: true });
const dimm: Region = { gpa: 1n << 32n, size: 1n << 27n, userAddress: 0x7e00_0000_0000n, mmapOffset: 0n };
const ack = { ...requests.SET_MEM_TABLE, zero: u64.encode(0n) };

function begun(): Peer {
  const peer = new Peer(offer);
  peer.handshake();
  peer.tell("SET_FEATURES", guestFeatures);
  return peer;
}

/** The userfaultfd goes with the answer. */
function advise(peer: Peer): void {
  const answer = peer.ask("POSTCOPY_ADVISE", null);
  assert.ok(typeof answer === "object" && "payload" in answer);
  assert.equal(answer.payload.length, 0);
  assert.equal(peer.channel.sent.at(-1)!.fds.length, 1);
}

function listening(): Peer {
  const peer = begun();
  advise(peer);
  peer.tell("POSTCOPY_LISTEN", null, { needReply: true });
  peer.dataplane.takeCalls();
  return peer;
}

function payloadOf(answer: Answer): Uint8Array {
  assert.ok(typeof answer === "object" && "payload" in answer, JSON.stringify(answer));
  return answer.payload;
}

const here = (region: Region): Region => ({ ...region, userAddress: region.gpa + mappedAt });

Deno.test("PAGEFAULT is offered only where it is asked for", () => {
  assert.ok(!protocolFeatureNames(makeOffer().protocolFeatures).includes("PAGEFAULT"));
  assert.ok(protocolFeatureNames(offer.protocolFeatures).includes("PAGEFAULT"));
  const peer = new Peer(makeOffer({ queuePairs: 2 }));
  peer.handshake();
  peer.ends("POSTCOPY_ADVISE", null, /PAGEFAULT was not negotiated/);
});

Deno.test("Two queue pairs in post-copy by slots, as QEMU has it: each asks for all, and acks regions once", () => {
  const peer = begun();
  for (let pair = 0; pair < 2; pair++) advise(peer);
  for (let pair = 0; pair < 2; pair++) peer.tell("POSTCOPY_LISTEN", null, { needReply: true });
  assert.deepEqual(peer.dataplane.takeCalls(), ["advise", "advise", "listen"]);
  for (let pair = 0; pair < 2; pair++) {
    const answer = requests.ADD_MEM_REG.payload.decode(payloadOf(peer.ask("ADD_MEM_REG", ram)));
    assert.deepEqual(answer, here(ram));
    assert.equal(peer.raw(requests.ADD_MEM_REG.number, 0x1, ack.zero, 0), "none");
    for (const index of [2 * pair, 2 * pair + 1]) peer.startVring(index);
  }
  assert.deepEqual(peer.dataplane.takeCalls().filter((call) => call.startsWith("add")), ["add 0"]);
  for (let pair = 0; pair < 2; pair++) assert.equal(peer.number("POSTCOPY_END", null), 0n);
  assert.deepEqual(peer.events.filter((event) => event.startsWith("post-copy")), [
    "post-copy listening",
    "post-copy over",
  ]);
  peer.tell("ADD_MEM_REG", dimm, { needReply: true });
  peer.finish();
});

Deno.test("A whole table is answered with where it is, and acknowledged when the front end knows", () => {
  const peer = listening();
  const answer = peer.ask("SET_MEM_TABLE", [ram, dimm], { needReply: true });
  assert.deepEqual(requests.SET_MEM_TABLE.payload.decode(payloadOf(answer)), [here(ram), here(dimm)]);
  assert.deepEqual(payloadOf(peer.raw(ack.number, 0x9, ack.zero, 0)), ack.zero);
  assert.deepEqual(peer.dataplane.takeCalls(), ["memory 2"]);
  peer.startVring(0);
  peer.dataplane.takeCalls();
  payloadOf(peer.ask("SET_MEM_TABLE", [ram, dimm], { needReply: true }));
  assert.deepEqual(peer.dataplane.takeCalls(), [], "what is there stays where it is");
  peer.finish();
});

Deno.test("A table whose answer nobody minds: the session goes on", () => {
  const peer = listening();
  payloadOf(peer.ask("SET_MEM_TABLE", [ram], { needReply: true }));
  peer.startVring(0);
  assert.equal(peer.base(0), 0);
  payloadOf(peer.ask("SET_MEM_TABLE", [dimm], { needReply: true }));
  assert.equal(peer.number("POSTCOPY_END", null), 0n);
  peer.finish();
});

Deno.test("A front end that cannot fetch is turned out", () => {
  const peer = listening();
  payloadOf(peer.ask("ADD_MEM_REG", ram));
  const answer = peer.raw(requests.ADD_MEM_REG.number, 0x1, u64.encode(1n), 0);
  assert.deepEqual(answer, { closed: "the front end cannot fetch the guest's memory" });
  peer.finish();
});

Deno.test("Post-copy in any other order is refused, and changes nothing", () => {
  const peer = begun();
  peer.refuses("POSTCOPY_LISTEN", null, /was not prepared: send POSTCOPY_ADVISE first/);
  peer.refuses("POSTCOPY_END", null, /has not begun/);
  peer.tell("ADD_MEM_REG", ram, { needReply: true });
  advise(peer);
  peer.refuses("POSTCOPY_LISTEN", null, /memory came before it: 1 regions/);
  peer.tell("REM_MEM_REG", ram, { needReply: true });
  peer.tell("POSTCOPY_LISTEN", null, { needReply: true });
  payloadOf(peer.ask("ADD_MEM_REG", ram));
  peer.startVring(0);
  peer.refuses("ADD_MEM_REG", dimm, /memory changes in post-copy while rings run/);
  peer.refuses("SET_MEM_TABLE", [ram, dimm], /memory changes in post-copy while rings run/);
  peer.ends("POSTCOPY_ADVISE", null, /post-copy has begun already/);
  peer.finish();
});

Deno.test("What was prepared and not begun ends with the session", () => {
  const peer = begun();
  advise(peer);
  assert.equal(peer.number("POSTCOPY_END", null), 0n);
  advise(peer);
  assert.deepEqual(peer.events, []);
  peer.finish();
});

Deno.test("A front end that cannot be told where memory is has no post-copy", () => {
  const peer = new Peer(offer);
  peer.handshake(protocolFeatureSet(["PAGEFAULT"]));
  peer.ends("POSTCOPY_LISTEN", null, /PAGEFAULT was not negotiated/);
});

/** INFLIGHT_SHMFD as a session: what is made, what is taken, and what is refused. */

import assert from "node:assert/strict";
import { makeOffer } from "../vhost/offer.ts";
import type { PayloadOf } from "../vhost/request.ts";
import { inflight } from "../vhost/wire.ts";
import { addressOf, guestFeatures, packedFeatures, Peer } from "./vhost_peer.ts";

type Inflight = PayloadOf<"SET_INFLIGHT_FD">;

function begun(features = guestFeatures): Peer {
  const peer = new Peer();
  peer.prepare(features);
  peer.dataplane.takeCalls();
  return peer;
}

function of(queueCount: number, queueSize: number, mmapSize = 0n, mmapOffset = 0n): Inflight {
  return { mmapSize, mmapOffset, queueCount, queueSize };
}

function made(peer: Peer, wanted: Inflight): Inflight {
  const answer = peer.ask("GET_INFLIGHT_FD", wanted);
  assert.ok(typeof answer === "object" && "payload" in answer, JSON.stringify(answer));
  assert.equal(answer.payload.length, 24);
  return inflight.decode(answer.payload)!;
}

Deno.test("Memory is made that holds either format, and of all that are made none is kept", () => {
  const peer = begun();
  // A head of 32 bytes and as much for each descriptor; regions begin at multiples of 64.
  assert.deepEqual(made(peer, of(1, 1)), of(1, 1, 64n));
  assert.deepEqual(made(peer, of(4, 256)), of(4, 256, 3n * 8256n + 8224n));
  assert.deepEqual(made(peer, of(4, 32768)), of(4, 32768, 3n * 1_048_640n + 1_048_608n));
  const live = peer.fds.live.size;
  for (let i = 0; i < 1000; i++) made(peer, of(4, 256, 77n, 99n));
  assert.equal(peer.fds.live.size, live);
  peer.finish();
});

Deno.test("What asks for more rings than there are, or for none, ends the session: it waits for another answer", () => {
  for (
    const [wanted, reason] of [
      [of(0, 256), /0 queues: this port has 1 to 4/],
      [of(5, 256), /5 queues: this port has 1 to 4/],
      [of(0xffff, 0xffff), /65535 queues/],
      [of(4, 0), /queues of 0: give 1 to 32768/],
      [of(4, 32769), /queues of 32769: give 1 to 32768/],
    ] as const
  ) {
    const peer = begun();
    peer.ends("GET_INFLIGHT_FD", wanted, reason);
    peer.finish();
  }
});

Deno.test("Memory is taken before rings run, as it is; what cannot hold the rings is refused", () => {
  const peer = begun();
  peer.tell("SET_INFLIGHT_FD", of(4, 256, 0x8000n, 4096n), { needReply: true });
  assert.deepEqual(peer.dataplane.takeCalls(), ["inflight 32768@4096 4x256"]);
  peer.tell("SET_INFLIGHT_FD", of(2, 4, 128n + 80n), { needReply: true });
  peer.refuses("SET_INFLIGHT_FD", of(2, 4, 128n + 79n), /memory of 207 bytes: 2 queues of 4 need 208/);
  peer.refuses("SET_INFLIGHT_FD", of(2, 4), /memory of 0 bytes/);
  peer.refuses("SET_INFLIGHT_FD", of(5, 4, 1n << 20n), /5 queues/);
  peer.refuses("SET_INFLIGHT_FD", of(2, 0, 1n << 20n), /queues of 0/);
  peer.tell("SET_INFLIGHT_FD", of(4, 256, 0x8000n), { needReply: true });
  peer.startVring(1);
  peer.refuses("SET_INFLIGHT_FD", of(4, 256, 0x8000n), /rings run: stop them first/);
  assert.equal(peer.base(1), 0);
  peer.tell("SET_INFLIGHT_FD", of(4, 256, 0x8000n), { needReply: true });
  peer.finish();
});

Deno.test("Packed rings need more room", () => {
  const peer = begun(packedFeatures);
  peer.refuses("SET_INFLIGHT_FD", of(1, 4, 159n), /1 queues of 4 need 160/);
  peer.tell("SET_INFLIGHT_FD", of(1, 4, 160n), { needReply: true });
  peer.finish();
});

Deno.test("A ring does not start beside memory that was given for another format, or for shorter rings", () => {
  const peer = begun(packedFeatures);
  peer.tell("SET_FEATURES", guestFeatures);
  peer.tell("SET_INFLIGHT_FD", of(2, 256, 8272n), { needReply: true });
  peer.tell("SET_FEATURES", packedFeatures);
  peer.dataplane.takeCalls();
  for (const index of [0, 1]) {
    peer.tell("SET_VRING_NUM", { index, num: 256 });
    peer.tell("SET_VRING_BASE", { index, num: 0x8000_8000 });
    peer.tell("SET_VRING_ADDR", addressOf(index));
  }
  peer.tell("SET_VRING_KICK", 0n, { needReply: true });
  peer.refuses("SET_VRING_KICK", 1n, /ring 1 of 256 does not fit its inflight memory of 8272 bytes/);
  assert.deepEqual(peer.dataplane.takeCalls(), ["kick 0", "start 0"]);
  peer.base(0);
  peer.tell("SET_INFLIGHT_FD", of(1, 128, 8272n), { needReply: true });
  peer.refuses("SET_VRING_NUM", { index: 0, num: 0 }, /size of ring 0/);
  peer.tell("SET_VRING_KICK", 1n, { needReply: true });
  peer.tell("SET_VRING_ADDR", addressOf(0));
  peer.refuses("SET_VRING_KICK", 0n, /ring 0 of 256 does not fit .* for queues of 128/);
  peer.finish();
});

Deno.test("It can be withheld", () => {
  const peer = new Peer(makeOffer({ queuePairs: 2, withheld: ["INFLIGHT_SHMFD"] }));
  peer.handshake();
  peer.ends("GET_INFLIGHT_FD", of(1, 1), /INFLIGHT_SHMFD was not negotiated/);
  peer.finish();
});

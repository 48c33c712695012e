/** What travels with a guest: as bytes, and as requests. */

import assert from "node:assert/strict";
import fc from "fast-check";
import {
  decodeState,
  type DeviceState,
  encodeState,
  stateBytesMax,
  type StateTransfer,
} from "../vhost/device_state.ts";
import { makeOffer } from "../vhost/offer.ts";
import { protocolFeatureNames } from "../vhost/spec.ts";
import { guestFeatures, Peer, verdictOf } from "./vhost_peer.ts";

const macs = fc.array(fc.bigInt({ min: 1n, max: (1n << 47n) - 1n }).map((mac) => mac * 2n), { maxLength: 400 });
const counters = fc.dictionary(fc.constantFrom("packets", "bytes", "drop_no_buffer"), fc.integer({ min: 1 }));
const states: fc.Arbitrary<DeviceState> = fc.record({
  macs,
  mtu: fc.option(fc.integer({ min: 68, max: 65535 }), { nil: undefined }),
  toGuest: counters.map((one) => ({ ...one })),
  fromGuest: counters.map((one) => ({ ...one })),
});

Deno.test("A state comes as it went, but for addresses that do not fit", () => {
  fc.assert(fc.property(states, (state) => {
    const bytes = encodeState(state);
    assert.ok(bytes.length <= stateBytesMax);
    const came = decodeState(bytes);
    assert.deepEqual(came, { ...state, macs: state.macs.slice(0, came.macs.length) });
    assert.ok(came.macs.length === state.macs.length || came.macs.length > 100);
  }));
});

Deno.test("A state that was cut off, added to or changed is none", () => {
  fc.assert(fc.property(states, fc.nat(), fc.integer({ min: 1, max: 255 }), (state, place, change) => {
    const bytes = encodeState(state);
    const at = place % bytes.length;
    // Four bytes of the head mean nothing.
    if (at < 20 || at >= 24) assert.throws(() => decodeState(bytes.map((byte, i) => i === at ? byte ^ change : byte)));
    assert.throws(() => decodeState(bytes.slice(0, at)));
    assert.throws(() => decodeState(Uint8Array.from([...bytes, 0])), /were announced|more than/);
  }));
});

Deno.test("Any bytes are a state or a reason why not", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
    assert.throws(() => decodeState(bytes), Error);
  }));
  assert.throws(() => decodeState(new Uint8Array(9000)), /9000 bytes of another back end/);
});

class FakeTransfer implements StateTransfer {
  readonly calls: string[] = [];
  failure: string | undefined;

  save(): void {
    this.#record("save");
  }

  load(): void {
    this.#record("load");
  }

  check(): void {
    this.#record("check");
  }

  #record(call: string): void {
    if (this.failure !== undefined) throw new Error(this.failure);
    this.calls.push(call);
  }
}

function prepared(): { peer: Peer; transfer: FakeTransfer } {
  const transfer = new FakeTransfer();
  const peer = new Peer(makeOffer({ queuePairs: 2, deviceState: true }), transfer);
  peer.prepare();
  return { peer, transfer };
}

Deno.test("DEVICE_STATE is offered only where it is asked for", () => {
  assert.ok(!protocolFeatureNames(makeOffer().protocolFeatures).includes("DEVICE_STATE"));
  assert.ok(protocolFeatureNames(makeOffer({ deviceState: true }).protocolFeatures).includes("DEVICE_STATE"));
  assert.throws(() => makeOffer({ withheld: ["DEVICE_STATE"] }), RangeError);
});

Deno.test("A state is saved once the rings are stopped, and loaded before they start", () => {
  const { peer, transfer } = prepared();
  assert.equal(peer.number("SET_DEVICE_STATE_FD", { direction: 1, phase: 0 }), 0x100n);
  assert.equal(peer.number("CHECK_DEVICE_STATE", null), 0n);
  peer.startVring(0);
  const refusal = peer.number("SET_DEVICE_STATE_FD", { direction: 0, phase: 0 });
  assert.equal(refusal, 0x101n);
  assert.match(peer.events.at(-1)!, /SET_DEVICE_STATE_FD refused: rings run: stop them first, by GET_VRING_BASE/);
  peer.base(0);
  assert.equal(peer.number("SET_DEVICE_STATE_FD", { direction: 0, phase: 0 }), 0x100n);
  assert.equal(peer.number("CHECK_DEVICE_STATE", null), 0n);
  assert.deepEqual(transfer.calls, ["load", "check", "save", "check"]);
  peer.finish();
});

Deno.test("A transfer that cannot be is refused, and the session goes on", () => {
  const { peer, transfer } = prepared();
  for (const [direction, phase] of [[2, 0], [0, 1], [1, 0xffff_ffff]] as const) {
    assert.equal(peer.number("SET_DEVICE_STATE_FD", { direction, phase }), 0x101n);
  }
  transfer.failure = "out of luck";
  assert.equal(verdictOf(peer.ask("SET_DEVICE_STATE_FD", { direction: 0, phase: 0 }, { needReply: true })), 0x101n);
  assert.equal(peer.number("CHECK_DEVICE_STATE", null), 1n);
  assert.match(peer.events.at(-1)!, /CHECK_DEVICE_STATE refused: out of luck/);
  peer.tell("SET_FEATURES", guestFeatures, { needReply: true });
  peer.finish();
});

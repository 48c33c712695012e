/** A back end with everything around it played: its channel by the test, its data plane by a recorder. */

import assert from "node:assert/strict";
import { Backend } from "../vhost/backend.ts";
import type { Region } from "../vhost/dataplane.ts";
import type { StateTransfer } from "../vhost/device_state.ts";
import { makeOffer, type Offer } from "../vhost/offer.ts";
import { type PayloadOf, type RequestName, requests, type Row } from "../vhost/request.ts";
import { featureSet } from "../vhost/spec.ts";
import { u64 } from "../vhost/wire.ts";
import { FakeChannel } from "./fake_channel.ts";
import { FakeFds } from "./fake_fds.ts";
import { Recorder } from "./recorder.ts";

/** What came back for one message. */
export type Answer = { readonly payload: Uint8Array } | "none" | { readonly closed: string };

export interface AskOptions {
  /** How many descriptors to send along; by default what belongs there. */
  readonly fdCount?: number;
  readonly needReply?: boolean;
}

/** 256 MiB from 0, as QEMU's `-m 256M` without VGA. */
export const ram: Region = { gpa: 0n, size: 0x1000_0000n, userAddress: 0x7f00_0000_f000n, mmapOffset: 0n };

/** What QEMU 7.2 acknowledges for a Linux guest, without RING_RESET, which is not offered. */
export const guestFeatures = 0x1017020ff83n & ~(1n << 40n);

export const packedFeatures = guestFeatures | featureSet(["RING_PACKED"]);

export class Peer {
  readonly fds = new FakeFds();
  readonly channel = new FakeChannel();
  readonly dataplane = new Recorder(this.fds);
  readonly backend: Backend;
  readonly events: string[] = [];
  closed: string | undefined;

  constructor(offer: Offer = makeOffer({ queuePairs: 2 }), state?: StateTransfer) {
    this.backend = new Backend({
      state,
      channel: this.channel,
      dataplane: this.dataplane,
      offer,
      listener: {
        started: (features) => this.events.push(`started 0x${features.toString(16)}`),
        stopped: () => this.events.push("stopped"),
        postCopy: (phase) => this.events.push(`post-copy ${phase}`),
        refused: (reason) => this.events.push(`refused: ${reason}`),
        closed: (reason) => {
          assert.equal(this.closed, undefined, "closed is told once");
          this.closed = reason;
        },
      },
    });
  }

  /** Any message at all. */
  raw(request: number, flags: number, payload: Uint8Array, fdCount: number): Answer {
    const before = this.channel.sent.length;
    this.channel.deliver({ request, flags, payload, fds: this.fds.openMany(fdCount) });
    const answers = this.channel.sent.slice(before);
    assert.ok(answers.length <= 1, "one answer at most");
    if (this.closed !== undefined) {
      assert.equal(answers.length, 0, "no answer before the end");
      return { closed: this.closed };
    }
    const [answer] = answers;
    if (answer === undefined) return "none";
    assert.equal(answer.request, request);
    assert.equal(answer.flags, 0x5);
    const withFd: readonly number[] = [requests.POSTCOPY_ADVISE.number, requests.GET_INFLIGHT_FD.number];
    assert.equal(answer.fds.length, withFd.includes(request) ? 1 : 0);
    return { payload: answer.payload };
  }

  ask<N extends RequestName>(name: N, payload: PayloadOf<N>, options: AskOptions = {}): Answer {
    const row = requests[name] as Row<unknown, unknown>;
    const { fdCount = fdCountOf(row, payload), needReply = false } = options;
    return this.raw(row.number, needReply ? 0x9 : 0x1, row.payload.encode(payload), fdCount);
  }

  /** A request that must be done: without an answer, or, with `needReply`, acknowledged. */
  tell<N extends RequestName>(name: N, payload: PayloadOf<N>, options: AskOptions = {}): void {
    const answer = this.ask(name, payload, options);
    if (options.needReply !== true) assert.equal(answer, "none", name);
    else assert.equal(verdictOf(answer), 0n, name);
  }

  /** A request that is answered with a number. */
  number<N extends RequestName>(name: N, payload: PayloadOf<N>): bigint {
    return verdictOf(this.ask(name, payload));
  }

  base(index: number): number {
    const answer = this.ask("GET_VRING_BASE", { index, num: 0 });
    assert.ok(typeof answer === "object" && "payload" in answer, JSON.stringify(answer));
    const state = requests.GET_VRING_BASE.payload.decode(answer.payload);
    assert.equal(state?.index, index);
    return state!.num;
  }

  /** Refused by a nack, and the session goes on. */
  refuses<N extends RequestName>(name: N, payload: PayloadOf<N>, reason: RegExp, options: AskOptions = {}): void {
    const before = this.events.length;
    assert.equal(verdictOf(this.ask(name, payload, { ...options, needReply: true })), 1n, name);
    const told = this.events.slice(before).join();
    if (told !== "") assert.match(told, reason);
    assert.match(this.events.filter((event) => event.startsWith("refused")).at(-1) ?? "", reason);
  }

  /** Refused where nobody waits for a verdict: the session ends. */
  ends<N extends RequestName>(name: N, payload: PayloadOf<N>, reason: RegExp, options: AskOptions = {}): void {
    const answer = this.ask(name, payload, options);
    assert.ok(typeof answer === "object" && "closed" in answer, `${name} is not refused: ${JSON.stringify(answer)}`);
    assert.match(answer.closed, reason);
  }

  handshake(withheld = 0n): void {
    this.number("GET_FEATURES", null);
    const protocolFeatures = this.number("GET_PROTOCOL_FEATURES", null) & ~withheld;
    this.tell("SET_PROTOCOL_FEATURES", protocolFeatures);
    this.tell("SET_OWNER", null);
  }

  /** NUM, BASE, ADDR, KICK, CALL, as QEMU does; the ring lies at its own MiB of `ram`. */
  startVring(index: number, options: { size?: number; base?: number; flags?: number } & AskOptions = {}): void {
    const { size = 256, base = 0, flags = 0, ...ask } = options;
    this.tell("SET_VRING_NUM", { index, num: size }, ask);
    this.tell("SET_VRING_BASE", { index, num: base }, ask);
    this.tell("SET_VRING_ADDR", addressOf(index, flags), ask);
    this.tell("SET_VRING_KICK", BigInt(index), ask);
    this.tell("SET_VRING_CALL", BigInt(index), ask);
  }

  /** Handshake, features, memory: everything before the first ring. */
  prepare(features = guestFeatures): void {
    this.handshake();
    this.tell("SET_FEATURES", features);
    this.tell("ADD_MEM_REG", ram, { needReply: true });
  }

  /** Ends the session; nothing may be left, and nothing may have been illegal. */
  finish(): void {
    if (this.closed === undefined) this.channel.hangUp("test over");
    assert.deepEqual(this.dataplane.violations, []);
    assert.deepEqual(this.fds.violations, []);
    assert.deepEqual([...this.fds.live], [], "every fd is closed");
    assert.equal(this.dataplane.resetCount, 1);
    assert.ok(this.channel.closed);
  }
}

/** Where test rings lie, in the front end's addresses. */
export function addressOf(index: number, flags = 0) {
  const at = ram.userAddress + 0x10_0000n * BigInt(index + 1);
  const log = ram.gpa + 0x10_0000n * BigInt(index + 1) + 0x4_0000n;
  return { index, flags, desc: at, avail: at + 0x8_0000n, used: at + 0x9_0000n, log };
}

export function verdictOf(answer: Answer): bigint {
  assert.ok(typeof answer === "object" && "payload" in answer, `no answer: ${JSON.stringify(answer)}`);
  const value = u64.decode(answer.payload);
  assert.ok(value !== undefined, `an answer of ${answer.payload.length} bytes`);
  return value;
}

/** How many descriptors belong to a well-formed request. */
export function fdCountOf(row: Row<unknown, unknown>, payload: unknown): number {
  switch (row.fds) {
    case "one":
      return 1;
    case "one, or bit 8 set":
      return ((payload as bigint) & 0x100n) === 0n ? 1 : 0;
    case "one for each region":
      return (payload as readonly unknown[]).length;
    default:
      return 0;
  }
}

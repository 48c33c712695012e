/**
 * Cases of hostile messages: at what stage of a session what is sent, and what must come of it.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type PayloadOf, type RequestName, requests, type Row } from "../vhost/request.ts";
import { Closed, messageFlags } from "./hostile_peer.ts";
import { type Guest, type GuestOptions, ringNumbers } from "./hostile_guest.ts";
import { gone, type Outcome, type World } from "./hostile_world.ts";

/** One test. */
export interface Case {
  readonly name: string;
  run(world: World): Outcome | Promise<Outcome>;
}

/**
 * How far a session is, after it was running in any case: one that came to nothing is told differently. `reset` is
 * without features and memory.
 */
export type Stage = "running" | "stopped" | "reset";

/** What is sent. */
export interface Hostility {
  readonly name: string;
  readonly stage?: Stage;
  readonly guest?: Partial<GuestOptions>;
  readonly request: number;
  readonly payload?: Uint8Array | ((guest: Guest) => Uint8Array);
  /** Descriptors to send along. They stay whoever's they are. */
  readonly fds?: readonly number[] | ((guest: Guest) => readonly number[]);
  /** To be done before, at that stage. */
  readonly prepare?: (guest: Guest) => void;
}

export interface Refusal extends Hostility {
  readonly reason: RegExp;
}

/** A request's number and its bytes. */
export function message<N extends RequestName>(name: N, payload: PayloadOf<N>) {
  const row = requests[name] as Row<unknown, unknown>;
  return { request: row.number, payload: row.payload.encode(payload) };
}

function bringTo(stage: Stage, guest: Guest): void {
  if (stage === "running") return;
  for (const ring of Object.values(ringNumbers)) guest.stopRing(ring);
  if (stage === "stopped") return;
  guest.peer.tell("RESET_DEVICE", null);
  for (const part of guest.memory.parts) guest.peer.tell("REM_MEM_REG", part);
}

function bringBack(stage: Stage, guest: Guest): void {
  if (stage === "running") return;
  if (stage === "reset") {
    guest.setFeatures();
    guest.giveMemory();
  }
  for (const ring of Object.values(ringNumbers)) guest.startRing(ring);
  guest.offerBuffers();
}

/** What is done with a guest, and what comes of it: the usual, if nothing is said. */
export type Act = (guest: Guest, world: World) => Outcome | void | Promise<Outcome | void>;

/** Runs `act` with a guest whose rings run. */
export async function withGuest(world: World, options: Partial<GuestOptions>, act: Act): Promise<Outcome> {
  using guest = world.hostileGuest(options);
  guest.start();
  guest.offerBuffers();
  world.greet(guest);
  return await act(guest, world) ?? {};
}

interface Sent {
  readonly payload: Uint8Array;
  readonly fds: readonly number[];
}

function sentBy({ payload = new Uint8Array(), fds = [] }: Hostility, guest: Guest): Sent {
  return {
    payload: typeof payload === "function" ? payload(guest) : payload,
    fds: typeof fds === "function" ? fds(guest) : fds,
  };
}

function atStage(
  world: World,
  what: Hostility,
  act: (guest: Guest, sent: Sent) => Outcome,
): Promise<Outcome> {
  const { stage = "running", guest: options = {}, prepare } = what;
  return withGuest(world, options, (guest) => {
    bringTo(stage, guest);
    prepare?.(guest);
    return act(guest, sentBy(what, guest));
  });
}

/** The sender waits for a verdict and gets a nack; the session goes on, and nothing has changed. */
export function nacked(refusal: Refusal): Case {
  return {
    name: `${refusal.name}: nack`,
    run: (world) =>
      atStage(world, refusal, (guest, { payload, fds }) => {
        assert.equal(guest.peer.rawVerdict(refusal.request, payload, fds), 1n, "verdict");
        bringBack(refusal.stage ?? "running", guest);
        world.greet(guest);
        return { told: [["nack", refusal.reason], gone] };
      }),
  };
}

/** Nobody waits for a verdict, or for an answer that cannot be given: the session ends, without an answer. */
export function ended(refusal: Refusal, flags: number = messageFlags.plain): Case {
  return {
    name: `${refusal.name}: the session ends`,
    run: (world) =>
      atStage(world, refusal, (guest, { payload, fds }) => {
        guest.peer.send(refusal.request, payload, { flags, fds });
        assert.deepEqual(guest.peer.untilClosed(), [], "no answer before the end");
        return { told: [["disconnected", refusal.reason]] };
      }),
  };
}

/** Both ways to refuse. */
export function refused(refusal: Refusal): Case[] {
  return [nacked(refusal), ended(refusal)];
}

/** Odd, but legal: it is done, and the session goes on. */
export function accepted(what: Hostility): Case {
  return {
    name: `${what.name}: passes`,
    run: (world) =>
      atStage(world, what, (guest, { payload, fds }) => {
        assert.equal(guest.peer.rawVerdict(what.request, payload, fds), 0n, "verdict");
        bringBack(what.stage ?? "running", guest);
        world.greet(guest);
        return {};
      }),
  };
}

/** A case of its own making, with a guest whose rings run. */
export function scene(name: string, act: Act, options: Partial<GuestOptions> = {}): Case {
  return { name, run: (world) => withGuest(world, options, act) };
}

/** The back end must have ended this connection without a word. */
export function assertClosed(guest: Guest): void {
  assert.throws(() => guest.peer.receive(), Closed);
}

/**
 * Eventfds in the hands of somebody who means ill: full, blocking, shared, missing, replaced.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Act, type Case, scene } from "./hostile_case.ts";
import { type Guest, ringNumbers } from "./hostile_guest.ts";
import type { Format } from "./hostile_ring.ts";
import * as system from "./hostile_system.ts";
import { patiently } from "./hostile_patience.ts";
import { gone, macs, type Told, type World } from "./hostile_world.ts";

const { receive, send } = ringNumbers;
const formats: readonly Format[] = ["split", "packed"];
const callBlocked: Told = ["ring_broken", /^call_blocked$/];

/** An eventfd for as long as `act` takes. */
function withEventfd<T>(act: (fd: number) => T, options = {}): T {
  const fd = system.eventfd(options);
  try {
    return act(fd);
  } finally {
    system.close(fd);
  }
}

function greetOften(guest: Guest, world: World): void {
  for (let i = 0; i < 20; i++) world.greet(guest);
}

/** Makes every writer of an eventfd wait for a reader, who never comes. */
function block(fd: number): void {
  system.fill(fd);
  system.makeBlocking(fd);
}

function afterwards(guest: Guest, world: World, ring: number): void {
  guest.stopRing(ring);
  guest.startRing(ring);
  if (ring === receive) guest.offerBuffers();
  world.greet(guest);
}

function blockedCases(format: Format): Case[] {
  const about = (text: string, act: Act) => scene(`${format} rings, ${text}`, act, { format });
  return [
    about(
      "the send ring's call eventfd blocks: that ring is broken, and can be started again",
      async (guest, world) => {
        block(guest.eventfds[send].call);
        guest.send(guest.frame(macs.friend));
        world.nextAtFriend();
        assert.equal((await world.event("ring_broken"))["ring"], send);
        assert.notEqual(system.drain(guest.eventfds[send].err), 0n, "its error eventfd is signalled");
        const frame = world.friend.frame(guest.mac);
        world.friend.send(frame);
        patiently("a frame on the other ring", () => guest.arrivals()[0]);
        afterwards(guest, world, send);
        return { told: [callBlocked, gone] };
      },
    ),
    about(
      "the receive ring's call eventfd blocks: that ring is broken, and can be started again",
      async (guest, world) => {
        block(guest.eventfds[receive].call);
        world.friend.send(world.friend.frame(guest.mac));
        assert.equal((await world.event("ring_broken"))["ring"], receive);
        guest.send(guest.frame(macs.friend));
        world.nextAtFriend();
        afterwards(guest, world, receive);
        return { told: [callBlocked, gone] };
      },
    ),
    about("both error eventfds block, and both calls: both rings are broken", async (guest, world) => {
      for (const { call, err } of guest.eventfds) [call, err].forEach(block);
      world.friend.send(world.friend.frame(guest.mac));
      await world.event("ring_broken");
      guest.send(guest.frame(macs.friend));
      world.nextAtFriend();
      await world.event("ring_broken", 2);
      for (const ring of [receive, send]) guest.stopRing(ring);
      for (const ring of [receive, send]) guest.startRing(ring);
      guest.offerBuffers();
      world.greet(guest);
      return { told: [callBlocked, callBlocked, gone] };
    }),
    about("a new call eventfd that blocks and is full, under a running ring: passes", (guest, world) =>
      // It is made nonblocking, and signalled once, as every new one.
      withEventfd((fd) => {
        block(fd);
        guest.peer.tell("SET_VRING_CALL", BigInt(send), [fd]);
        greetOften(guest, world);
        return {};
      })),
    about("the call eventfd blocks, and the guest leaves: nothing is held up", async (guest, world) => {
      block(guest.eventfds[send].call);
      guest.send(guest.frame(macs.friend));
      world.nextAtFriend();
      await world.event("ring_broken");
      return { told: [callBlocked, gone] };
    }),
  ];
}

function passing(format: Format, text: string, act: (guest: Guest, world: World) => void): Case {
  return scene(`${format} rings, ${text}: pass`, act, { format });
}

/** Odd ones, which harm nobody. */
function oddCases(format: Format): Case[] {
  const about = passing.bind(undefined, format);
  return [
    about("call eventfds that are full", (guest, world) => {
      for (const { call } of guest.eventfds) system.fill(call);
      greetOften(guest, world);
    }),
    about("error eventfds that are full and block", (guest, world) => {
      for (const { err } of guest.eventfds) block(err);
      greetOften(guest, world);
    }),
    about("kick eventfds that block", (guest, world) => {
      for (const { kick } of guest.eventfds) system.makeBlocking(kick);
      greetOften(guest, world);
    }),
    about("a kick eventfd that is full, replaced by another", (guest, world) =>
      withEventfd((fd) => {
        system.fill(guest.eventfds[send].kick);
        guest.send(guest.frame(macs.friend));
        guest.peer.tell("SET_VRING_KICK", BigInt(send), [fd]);
        system.signal(fd);
        world.nextAtFriend();
        guest.peer.tell("SET_VRING_KICK", BigInt(send), [guest.eventfds[send].kick]);
        system.drain(guest.eventfds[send].kick);
        greetOften(guest, world);
      })),
    about("semaphores for eventfds", (guest, world) =>
      withEventfd((fd) => {
        for (const name of ["SET_VRING_CALL", "SET_VRING_ERR"] as const) guest.peer.tell(name, BigInt(send), [fd]);
        guest.peer.tell("SET_VRING_CALL", BigInt(receive), [fd]);
        greetOften(guest, world);
      }, { semaphore: true })),
    about("one eventfd for everything", (guest, world) => {
      const fd = guest.eventfds[send].kick;
      for (const ring of [receive, send]) {
        for (const name of ["SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR"] as const) {
          guest.peer.tell(name, BigInt(ring), [fd]);
        }
      }
      greetOften(guest, world);
    }),
    about("no eventfds at all", (guest, world) => {
      for (const ring of [receive, send]) {
        for (const name of ["SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR"] as const) {
          guest.peer.tell(name, BigInt(ring) | 0x100n);
        }
      }
      greetOften(guest, world);
    }),
  ];
}

/** Others in their place, under running rings. */
function replacedCases(format: Format): Case[] {
  const about = passing.bind(undefined, format);
  return [
    about(
      "a new call eventfd: it is signalled at once, since a call before it may have gone to nobody",
      (guest, world) =>
        withEventfd((fd) => {
          guest.peer.tell("SET_VRING_CALL", BigInt(send), [fd]);
          assert.equal(system.drain(fd), 1n);
          world.greet(guest);
          assert.notEqual(system.drain(fd), 0n, "calls go to the new one");
        }),
    ),
    about(
      "a new kick eventfd: kicks count there, and what came before is not lost",
      (guest, world) =>
        withEventfd((fd) => {
          const frame = guest.frame(macs.friend);
          guest.peer.tell("SET_VRING_KICK", BigInt(send), [fd]);
          guest.send(frame);
          system.signal(fd);
          world.nextAtFriend();
        }),
    ),
    about("eventfds replaced 500 times while frames pass", (guest, world) => {
      const before = world.serve.census();
      for (let i = 0; i < 500; i++) {
        const name = i % 2 === 0 ? "SET_VRING_CALL" : "SET_VRING_KICK";
        const fds = guest.eventfds[i % 4 < 2 ? receive : send];
        guest.peer.tell(name, BigInt(i % 4 < 2 ? receive : send), [i % 2 === 0 ? fds.call : fds.kick]);
        if (i % 25 === 0) world.greet(guest);
      }
      world.has(before);
      world.greet(guest);
    }),
  ];
}

export const eventfdCases: readonly Case[] = formats.flatMap((format) => [
  ...blockedCases(format),
  ...oddCases(format),
  ...replacedCases(format),
]);

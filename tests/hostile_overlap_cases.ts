/**
 * Guests that harm themselves: buffers that lie in rings, and rings that lie in each other. Whatever becomes of their
 * own rings, nobody else notices, and all is well once the rings are started anew.
 *
 * @module
 */

import assert from "node:assert/strict";
import { room } from "./hostile_attack.ts";
import { headerOf, joined } from "./hostile_bytes.ts";
import { type Case, scene } from "./hostile_case.ts";
import { type Guest, layout, ringNumbers, ringSize } from "./hostile_guest.ts";
import { patiently } from "./hostile_patience.ts";
import { flag, type Format, type Places } from "./hostile_ring.ts";
import { gone, macs, type Outcome, type World } from "./hostile_world.ts";

const { receive, send } = ringNumbers;
const rings = [receive, send] as const;
const frames = 40;

function startAnew(guest: Guest, world: World): Outcome {
  for (const ring of rings) guest.stopRing(ring);
  for (const ring of rings) guest.startRing(ring);
  guest.offerBuffers();
  world.reach(guest);
  world.greet(guest);
  return { told: [gone], anyDrops: true, mayBreak: /^bad_(avail_index|head|packed_id)$/ };
}

/** Frames in both directions, as long as the rings last. */
function talk(guest: Guest, world: World): void {
  for (let i = 0; i < frames; i++) {
    world.friend.send(world.friend.frame(guest.mac));
    guest.kick(send);
  }
  patiently("what the friend sends is taken", () => world.friend.allSent || undefined);
  world.friend.arrivals();
}

const areas: Readonly<Record<string, bigint>> = {
  "its own descriptors": layout.receive.desc,
  "where it says what is available": layout.receive.avail,
  "where the device says what is used": layout.receive.used,
  "the other ring's descriptors": layout.send.desc,
  "where the other ring says what is available": layout.send.avail,
};

function receivedInto(format: Format): Case[] {
  return Object.entries(areas).map(([name, at]) =>
    scene(`${format} rings, receive buffers over ${name}: nobody else notices`, (guest, world) => {
      guest.stopRing(receive);
      guest.startRing(receive);
      for (let i = 0; i < 64; i++) guest.receiveRing.offer([{ at, len: 2048, flags: flag.write }]);
      guest.kick(receive);
      talk(guest, world);
      return startAnew(guest, world);
    }, { format })
  );
}

/** Where it goes to is the friend's; the rest is whatever is there at that moment. */
function sentFrom(format: Format): Case[] {
  return Object.entries({ "descriptors": layout.send.desc, "used ring": layout.send.used }).map(([name, at]) =>
    scene(`${format} rings, a frame out of the ring's own ${name}: passes`, (guest, world) => {
      const head = joined(headerOf(), guest.frame(macs.friend, 20));
      guest.memory.write(room.first, head);
      guest.sendRing.offer([{ at: room.first, len: head.length }, { at, len: 1000 }]);
      guest.kick(send);
      assert.equal(world.nextAtFriend().frame.length, 1020);
      world.greet(guest);
    }, { format })
  );
}

/** Stops a ring and starts it at other places, without touching what is there. */
function startAt(guest: Guest, ring: number, places: Places): void {
  const { peer } = guest;
  guest.stopRing(ring);
  peer.tell("SET_VRING_NUM", { index: ring, num: ringSize });
  peer.tell("SET_VRING_BASE", { index: ring, num: guest.ring(ring).base });
  peer.tell("SET_VRING_ADDR", guest.addressOf(ring, places));
  peer.tell("SET_VRING_KICK", BigInt(ring), [guest.eventfds[ring as 0 | 1].kick]);
}

function ringsIn(format: Format): Case[] {
  const { receive: one, send: other } = layout;
  const starts: Readonly<Record<string, readonly [ring: number, places: Places]>> = {
    "both rings in one place": [send, one],
    "both rings with the same descriptors": [send, { ...other, desc: one.desc }],
    "both rings with the same used area": [send, { ...other, used: one.used }],
    "a send ring whose areas are all one": [send, { desc: other.desc, avail: other.desc, used: other.desc }],
    "a receive ring whose areas are all one": [receive, { desc: one.desc, avail: one.desc, used: one.desc }],
    "a ring whose used area is its avail area": [send, { ...other, used: other.avail }],
    "rings that are each other's": [send, { desc: one.desc, avail: one.used, used: one.avail }],
    "a ring in its own buffers": [receive, {
      desc: layout.receiveBuffers,
      avail: layout.receiveBuffers + 0x2000n,
      used: layout.receiveBuffers + 0x3000n,
    }],
  };
  return Object.entries(starts).map(([name, [ring, places]]) =>
    scene(`${format} rings, ${name}: nobody else notices`, (guest, world) => {
      guest.offerBuffers();
      startAt(guest, ring, places);
      talk(guest, world);
      return startAnew(guest, world);
    }, { format })
  );
}

export const overlapCases: readonly Case[] = (["split", "packed"] as const).flatMap((format) => [
  ...receivedInto(format),
  ...sentFrom(format),
  ...ringsIn(format),
]);

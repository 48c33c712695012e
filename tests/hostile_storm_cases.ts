/**
 * Too much of everything: messages, kicks, front ends; and too little: peers that do not read, or stop in the middle.
 *
 * @module
 */

import assert from "node:assert/strict";
import { eventually } from "./real/process.ts";
import { requests } from "../vhost/request.ts";
import { equals, joined } from "./hostile_bytes.ts";
import { type Act, type Case, message, scene, withGuest } from "./hostile_case.ts";
import { Guest, layout, ringNumbers, ringSize } from "./hostile_guest.ts";
import { Closed, laid, messageFlags, Peer } from "./hostile_peer.ts";
import { type Format, SplitRing } from "./hostile_ring.ts";
import { gone, macs, slowPorts, type World } from "./hostile_world.ts";

const { receive, send } = ringNumbers;
const formats: readonly Format[] = ["split", "packed"];
const question = laid(requests.GET_FEATURES.number);
/** Answers to so many questions fit into any socket's buffer. */
const batch = 100;

/** Sends so many messages, and reads their answers. Then both can still talk to each other. */
async function ask(
  guest: Guest,
  world: World,
  count: number,
  of: (i: number) => Uint8Array<ArrayBuffer>,
): Promise<void> {
  for (let done = 0; done < count; done += batch) {
    guest.peer.sendBytes(joined(...Array.from({ length: batch }, (_, i) => of(done + i))));
    for (let i = 0; i < batch; i++) assert.equal(guest.peer.receive().payload.length, 8);
    await world.breathe();
  }
  world.greet(guest);
}

function told(name: "SET_VRING_ENABLE" | "SET_VRING_NUM", num: number): Uint8Array<ArrayBuffer> {
  const { request, payload } = message(name, { index: send, num });
  return laid(request, payload, { flags: messageFlags.needReply });
}

const messageCases: readonly Case[] = [
  scene("10,000 questions: each is answered", (guest, world) => ask(guest, world, 10_000, () => question)),
  scene(
    "10,000 times the same size for a running ring: each is acknowledged",
    (guest, world) => ask(guest, world, 10_000, () => told("SET_VRING_NUM", 256)),
  ),
  scene(
    "a ring disabled and enabled 10,000 times while it runs: passes",
    (guest, world) => ask(guest, world, 10_000, (i) => told("SET_VRING_ENABLE", i % 2)),
  ),
  scene("10,000 refusals: one line for all of them", async (guest, world) => {
    await ask(guest, world, 10_000, () => told("SET_VRING_ENABLE", 2));
    return { told: [["nack", /^SET_VRING_ENABLE refused: state of ring 1: 2: give 0 or 1$/], gone] };
  }),
  scene("1,000 different refusals: each is one", async (guest, world) => {
    await ask(guest, world, 1000, (i) => told("SET_VRING_ENABLE", 2 + i));
    return { noisy: true };
  }),
  scene("rings stopped and started 300 times: pass", async (guest, world) => {
    for (let i = 0; i < 300; i++) {
      for (const ring of [receive, send]) guest.stopRing(ring);
      for (const ring of [receive, send]) guest.startRing(ring);
      guest.offerBuffers();
      if (i % 30 === 0) world.greet(guest);
      await world.breathe();
    }
    world.greet(guest);
    return { noisy: true };
  }),
];

/** Kicks one ring after the other, so many times in all. */
async function kickOften(guest: Guest, world: World, rings: readonly number[], count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    guest.kick(rings[i % rings.length]!);
    if (i % 1000 === 0) await world.breathe();
  }
}

function kickCases(format: Format): Case[] {
  const about = (text: string, act: Act) => scene(`${format} rings, ${text}`, act, { format });
  return [
    about("100,000 kicks of rings with nothing in them: pass", async (guest, world) => {
      await kickOften(guest, world, [receive, send], 100_000);
      world.greet(guest);
    }),
    about("20,000 kicks of a stopped ring: it starts again", async (guest, world) => {
      guest.stopRing(send);
      await kickOften(guest, world, [send], 20_000);
      guest.startRing(send);
      world.greet(guest);
    }),
    about("20,000 kicks of a disabled ring: it can be enabled again", async (guest, world) => {
      guest.peer.tell("SET_VRING_ENABLE", { index: send, num: 0 });
      await kickOften(guest, world, [send], 20_000);
      guest.peer.tell("SET_VRING_ENABLE", { index: send, num: 1 });
      world.greet(guest);
    }),
    about("20,000 kicks of a broken ring: it starts again", async (guest, world) => {
      if (guest.sendRing instanceof SplitRing) guest.sendRing.publish(ringSize);
      else guest.sendRing.offer([{ at: layout.sendBuffers, len: 72, id: ringSize }]);
      guest.kick(send);
      await world.event("ring_broken");
      await kickOften(guest, world, [send], 20_000);
      guest.stopRing(send);
      guest.startRing(send);
      world.greet(guest);
      return { told: [["ring_broken", /^(bad_head|bad_packed_id)$/], gone] };
    }),
    about("2,000 frames one by one, each kicked ten times: each arrives", async (guest, world) => {
      for (let i = 0; i < 2000; i++) {
        const frame = guest.frame(macs.friend);
        guest.send(frame);
        for (let k = 0; k < 9; k++) guest.kick(send);
        assert.ok(equals(world.nextAtFriend().frame, frame));
        if (i % 50 === 0) await world.breathe();
      }
    }),
  ];
}

const turnedAway = /^another one is connected: disconnect that first, or use another port$/;

const busyPortCases: readonly Case[] = [
  {
    name: "20 more front ends at a port that has one: all are turned away, and told of once by name, once by number",
    run: async (world) => {
      await withGuest(world, {}, (guest) => {
        for (let i = 0; i < 20; i++) {
          using other = new Peer(world.socket);
          assert.throws(() => other.receive(), Closed);
          world.greet(guest);
        }
      });
      assert.equal((await world.event("repeated"))["count"], 19);
      return { told: [["refused", turnedAway], gone, ["repeated"]] };
    },
  },
  scene("a second front end that talks at once: it gets no answer", (guest, world) => {
    using other = new Peer(world.socket);
    other.sendBytes(joined(question, question));
    assert.throws(() => other.receive(), Closed);
    world.greet(guest);
    return { told: [["refused", turnedAway], gone] };
  }),
];

/** Who came and went in vain is let in late, and others are turned away meanwhile. */
function isLetIn(guest: Guest): true | undefined {
  try {
    guest.start();
    return true;
  } catch (error) {
    if (!(error instanceof Closed)) throw error;
    guest.disconnect();
    return undefined;
  }
}

/** Whole sessions, and connections without a word. */
const comingCases: readonly Case[] = [
  {
    name: "1,000 front ends one after the other, with memory and running rings: nothing is kept",
    run: async (world) => {
      const before = world.serve.census();
      using split = world.hostileGuest();
      using packed = world.hostileGuest({ format: "packed" });
      for (let i = 0; i < 1000; i++) {
        const guest = i % 2 === 0 ? split : packed;
        guest.start();
        guest.offerBuffers();
        guest.disconnect();
        world.has(before);
        await world.breathe();
      }
      return { noisy: true };
    },
  },
  {
    name: "1,000 connections without a word: nothing is kept, and then a front end is let in",
    run: async (world) => {
      const before = world.serve.census();
      for (let i = 0; i < 1000; i++) {
        new Peer(world.socket).close();
        if (i % 10 === 0) await world.breathe();
      }
      using guest = world.hostileGuest();
      await eventually("to be let in", 20_000, () => isLetIn(guest));
      guest.offerBuffers();
      world.greet(guest);
      guest.disconnect();
      world.has(before);
      return { noisy: true };
    },
  },
  {
    name: "100 front ends that leave in the middle of traffic: nothing is kept",
    run: async (world) => {
      const before = world.serve.census();
      for (let i = 0; i < 100; i++) {
        using guest = world.hostileGuest({ format: i % 2 === 0 ? "split" : "packed" });
        guest.start();
        guest.offerBuffers();
        world.reach(guest);
        for (let k = 0; k < 16; k++) world.friend.send(world.friend.frame(guest.mac));
        for (let k = 0; k < 16; k++) guest.send(guest.frame(macs.friend));
        guest.disconnect();
        world.has(before);
        await world.breathe();
      }
      return { noisy: true, anyDrops: true };
    },
  },
];

const stallLimit = /^peer began a message and did not finish it within 10 s$/;
const unread = /^peer does not read what it is sent$/;

/** How many answers there are until the back end gives up on a peer that reads none. */
function questionsUntilUnread(guest: Guest): number {
  try {
    for (let i = 0;; i += batch) guest.peer.sendBytes(joined(...Array.from({ length: batch }, () => question)));
  } catch (error) {
    if (!(error instanceof Closed)) throw error;
  }
  return guest.peer.untilClosed().length;
}

const silentCases: readonly Case[] = [
  scene("a peer that asks and asks and reads nothing: the session ends", (guest) => {
    answersThatFit = questionsUntilUnread(guest);
    assert.ok(answersThatFit > batch);
    return { told: [["disconnected", unread]] };
  }),
  scene("a peer that asks much, reads nothing and leaves: the session ends", (guest) => {
    guest.peer.sendBytes(joined(...Array.from({ length: batch }, () => question)));
    guest.disconnect();
  }),
];

/** What peers do before they are silent for more than 10 s, and what must then be said of them. */
const silences: readonly { name: string; reason: RegExp; begin: (guest: Guest) => void }[] = [
  { name: "half a header", reason: stallLimit, begin: ({ peer }) => peer.sendBytes(question.slice(0, 6)) },
  {
    name: "a header whose payload never comes",
    reason: stallLimit,
    begin: ({ peer }) => peer.sendBytes(laid(requests.SET_FEATURES.number, undefined, { size: 8 })),
  },
  {
    name: "a payload without its last byte",
    reason: stallLimit,
    begin: ({ peer }) => peer.sendBytes(laid(requests.SET_FEATURES.number, new Uint8Array(7), { size: 8 })),
  },
  {
    name: "some more questions than there is room for their answers",
    reason: unread,
    begin: ({ peer }) => {
      for (let i = 0; i < answersThatFit + 30; i++) peer.sendBytes(question);
    },
  },
];

/** Found by who gave up on reading before. */
let answersThatFit = 0;

interface Silence {
  readonly port: string;
  readonly guest: Guest;
}

let begun: readonly Silence[] | undefined;

/** All begin together, so that all are over after one wait. Their rings go on. */
function silentGuests(world: World): readonly Silence[] {
  begun ??= slowPorts.map((port, i) => {
    const guest = new Guest({ path: world.serve.socket(port), mac: macs.hostile + 1 + i });
    guest.start();
    guest.offerBuffers();
    world.greet(guest);
    silences[i]!.begin(guest);
    world.greet(guest);
    return { port, guest };
  });
  return begun;
}

const slowCases: readonly Case[] = silences.map(({ name, reason }, i) => ({
  name: `silence after ${name}: the session ends after 10 s`,
  run: async (world) => {
    const { port, guest } = silentGuests(world)[i]!;
    const told = () => world.serve.events.filter((each) => each.port === port);
    const end = await world.serve.until(
      `the end of ${port}`,
      () => told().find(({ event }) => event === "disconnected"),
    );
    assert.match(`${end["reason"]}`, reason);
    assert.deepEqual(told().map(({ event }) => event), ["connected", "started", "disconnected"]);
    guest.peer.untilClosed();
    guest[Symbol.dispose]();
    return { noisy: true };
  },
}));

export const stormCases: readonly Case[] = [
  ...messageCases,
  ...formats.flatMap(kickCases),
  ...busyPortCases,
  ...comingCases,
  ...silentCases,
  ...slowCases,
];

/**
 * Memory for what a back end has in hand, that is none, holds less than it should, says anything, or goes away.
 * Whatever it is, nothing is written outside of it, and only this guest's own rings may suffer.
 *
 * @module
 */

import assert from "node:assert/strict";
import { accepted, type Act, type Case, ended, message, nacked, refused, scene } from "./hostile_case.ts";
import { type Guest, ringNumbers } from "./hostile_guest.ts";
import type { Format } from "./hostile_ring.ts";
import * as system from "./hostile_system.ts";
import { gone, type World } from "./hostile_world.ts";

const { receive, send } = ringNumbers;
const formats: readonly Format[] = ["split", "packed"];

const queueSize = 256;
/** Of either format, for two rings; so much of its file lies before it and behind it. */
const regionBytes = { split: 4160, packed: 8256 } as const;
const trackedBytes = 2 * regionBytes.packed;
const marginBytes = 4096;
const fileBytes = 2 * marginBytes + trackedBytes;
const addressMax = 0xffff_ffff_ffff_ffffn;

function described(mmapSize: number | bigint, mmapOffset: number | bigint = 0, queueCount = 2, size = queueSize) {
  return { mmapSize: BigInt(mmapSize), mmapOffset: BigInt(mmapOffset), queueCount, queueSize: size };
}

const file = system.memoryFile(fileBytes);
const [pipeEnd] = system.pipe();

interface BadMemory {
  readonly name: string;
  readonly given: ReturnType<typeof described>;
  readonly fd?: number;
  readonly reason: string;
}

const bad: readonly BadMemory[] = [
  { name: "of no size", given: described(0), reason: "memory of 0 bytes" },
  { name: "too short for its queues", given: described(4160 + 4111), reason: "2 queues of 256 need 8272" },
  { name: "for no queue", given: described(trackedBytes, 0, 0), reason: "0 queues" },
  { name: "for more queues than there are", given: described(1 << 20, 0, 5), reason: "5 queues" },
  { name: "for queues of nothing", given: described(trackedBytes, 0, 2, 0), reason: "queues of 0" },
  { name: "for queues that are too long", given: described(1n << 40n, 0, 2, 65535), reason: "queues of 65535" },
  { name: "longer than its file", given: described(fileBytes + 1), reason: "file too short" },
  { name: "behind its file", given: described(trackedBytes, fileBytes), reason: "file too short" },
  { name: "that wraps", given: described(trackedBytes, addressMax - 7n), reason: "invalid argument" },
  { name: "of the whole address space", given: described(addressMax), reason: "file too short" },
  { name: "that begins at an odd place", given: described(trackedBytes, 4), reason: "misaligned" },
  { name: "that is a pipe", given: described(trackedBytes), fd: pipeEnd, reason: "wrong fd" },
  { name: "that is an eventfd", given: described(trackedBytes), fd: system.eventfd(), reason: "wrong fd" },
  {
    name: "that may only be read",
    given: described(trackedBytes),
    fd: system.reopen(file, "read"),
    reason: "permission denied",
  },
];

const badCases = bad.map(({ name, given, fd = file, reason }) =>
  nacked({
    name: `SET_INFLIGHT_FD, memory ${name}`,
    stage: "stopped",
    ...message("SET_INFLIGHT_FD", given),
    fds: [fd],
    reason: new RegExp(`^SET_INFLIGHT_FD refused: .*${reason}`),
  })
);

const wrongTimes = [
  ...refused({
    name: "SET_INFLIGHT_FD while rings run",
    ...message("SET_INFLIGHT_FD", described(trackedBytes)),
    fds: [file],
    reason: /^SET_INFLIGHT_FD refused: rings run/,
  }),
  ...[0, 2, 8].map((count) =>
    nacked({
      name: `SET_INFLIGHT_FD with ${count} descriptors`,
      stage: "stopped",
      ...message("SET_INFLIGHT_FD", described(trackedBytes)),
      fds: Array(count).fill(file),
      reason: new RegExp(`^SET_INFLIGHT_FD refused: ${count} file descriptors: `),
    })
  ),
  accepted({
    name: "SET_INFLIGHT_FD after RESET_DEVICE",
    stage: "reset",
    ...message("SET_INFLIGHT_FD", described(trackedBytes, marginBytes)),
    fds: [file],
  }),
  ...[[0, 256], [5, 256], [65535, 65535], [2, 0], [2, 32769]].map(([queues, size]) =>
    ended({
      name: `GET_INFLIGHT_FD for ${queues} queues of ${size}`,
      ...message("GET_INFLIGHT_FD", described(0, 0, queues, size)),
      reason: /^GET_INFLIGHT_FD refused: .*queues/,
    })
  ),
];

/** All that are asked for are of the greatest size. */
const manyCase = scene("GET_INFLIGHT_FD thousands of times: nothing of it is kept", (guest, world) => {
  const before = world.serve.census();
  for (let i = 0; i < 3000; i++) guest.peer.query("GET_INFLIGHT_FD", described(0, 0, 4, 32768));
  world.has(before);
  world.greet(guest);
});

/** Memory in the middle of a file. */
class Tracked {
  readonly fd = system.memoryFile(fileBytes);
  readonly #bytes = system.mapShared(this.fd, fileBytes);
  readonly region = this.#bytes.subarray(marginBytes, marginBytes + trackedBytes);

  /** Begins the rings of a guest anew, with this. */
  start(guest: Guest): void {
    for (const ring of [receive, send]) guest.stopRing(ring);
    guest.peer.tell("SET_INFLIGHT_FD", described(trackedBytes, marginBytes), [this.fd]);
    for (const ring of [receive, send]) guest.startRing(ring);
  }

  /** Nothing is written outside. */
  check(): void {
    // It may have been cut off: then we must not touch it.
    system.truncate(this.fd, fileBytes);
    const outside = [this.#bytes.subarray(0, marginBytes), this.#bytes.subarray(marginBytes + trackedBytes)];
    assert.ok(outside.every((bytes) => bytes.every((byte) => byte === 0)), "nothing is written outside of the memory");
  }
}

type TrackedAct = (guest: Guest, world: World, tracked: Tracked) => ReturnType<Act>;

function tracking(format: Format, text: string, act: TrackedAct): Case {
  return scene(`memory for what is in hand, ${format} rings, ${text}`, async (guest, world) => {
    const tracked = new Tracked();
    try {
      return await act(guest, world, tracked);
    } finally {
      tracked.check();
      system.close(tracked.fd);
    }
  }, { format });
}

/** Numbers that are good in one place or another, and any. */
function scribble(region: Uint8Array<ArrayBuffer>, format: Format): void {
  const view = new DataView(region.buffer, region.byteOffset, region.length);
  const entryBytes = format === "split" ? 16 : 32;
  for (const at of [0, regionBytes[format]]) {
    for (let i = 0; i < 400; i++) {
      const value = Math.floor(Math.random() * (i % 2 === 0 ? queueSize + 2 : 65536));
      view.setUint16(at + 2 * Math.floor(Math.random() * (regionBytes[format] / 2 - 32)), value, true);
    }
    for (let entry = 0; entry < queueSize; entry++) {
      view.setUint8(at + entryBytes * (entry + 1), Math.random() < 0.1 ? 1 : 0);
    }
    view.setBigUint64(at, 0n, true);
    view.setUint16(at + 8, 1, true);
    view.setUint16(at + 10, queueSize, true);
  }
}

function trackingCases(format: Format): Case[] {
  const about = (text: string, act: TrackedAct) => tracking(format, text, act);
  const version = (tracked: Tracked) => [0, regionBytes[format]].map((at) => tracked.region[at + 8]);
  return [
    about("honest: it says that rings run, and no more when they were stopped", (guest, world, tracked) => {
      tracked.start(guest);
      guest.offerBuffers();
      world.greet(guest);
      assert.deepEqual(version(tracked), [1, 1]);
      for (const ring of [receive, send]) guest.stopRing(ring);
      assert.deepEqual(version(tracked), [0, 0]);
    }),
    about("changed all the time under running rings: nobody minds", (guest, world, tracked) => {
      tracked.start(guest);
      guest.offerBuffers();
      for (let i = 0; i < 100; i++) {
        scribble(tracked.region, format);
        world.greet(guest);
      }
    }),
    about("cut off under running rings: they go on", (guest, world, tracked) => {
      tracked.start(guest);
      guest.offerBuffers();
      world.greet(guest);
      system.truncate(tracked.fd, 0);
      for (let i = 0; i < 20; i++) world.greet(guest);
      system.truncate(tracked.fd, fileBytes);
      tracked.start(guest);
      guest.offerBuffers();
      world.greet(guest);
    }),
    about("cut off between SET_INFLIGHT_FD and the rings' start: they start", (guest, world, tracked) => {
      for (const ring of [receive, send]) guest.stopRing(ring);
      guest.peer.tell("SET_INFLIGHT_FD", described(trackedBytes, marginBytes), [tracked.fd]);
      system.truncate(tracked.fd, 0);
      for (const ring of [receive, send]) guest.startRing(ring);
      guest.offerBuffers();
      world.greet(guest);
    }),
    about("that says anything where rings start: only they may break", (guest, world, tracked) => {
      for (let i = 0; i < 200; i++) {
        scribble(tracked.region, format);
        tracked.start(guest);
        guest.kick(send);
      }
      tracked.region.fill(0);
      tracked.start(guest);
      guest.offerBuffers();
      world.reach(guest);
      world.greet(guest);
      return { anyDrops: true, noisy: true };
    }),
    about("for rings that are longer than it says: they do not start", (guest, world, tracked) => {
      for (const ring of [receive, send]) guest.stopRing(ring);
      guest.peer.tell("SET_INFLIGHT_FD", described(trackedBytes, marginBytes, 2, 128), [tracked.fd]);
      guest.peer.tell("SET_VRING_NUM", { index: send, num: queueSize });
      guest.peer.tell("SET_VRING_ADDR", guest.addressOf(send));
      const kick = guest.eventfds[send].kick;
      assert.equal(guest.peer.verdict("SET_VRING_KICK", BigInt(send), [kick]), 1n);
      tracked.start(guest);
      guest.offerBuffers();
      world.greet(guest);
      return { told: [["nack", /ring 1 of 256 does not fit its inflight memory/], gone] };
    }),
  ];
}

export const inflightCases: readonly Case[] = [
  ...badCases,
  ...wrongTimes,
  manyCase,
  ...formats.flatMap(trackingCases),
];

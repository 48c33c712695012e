/**
 * Dirty logs that are none, or too short, or go away under a guest that migrates. Whatever they are, nothing is written
 * outside of them, and only rings of that port rest.
 *
 * @module
 */

import assert from "node:assert/strict";
import { featureSet } from "../vhost/spec.ts";
import { type Act, type Case, message, nacked, refused, scene } from "./hostile_case.ts";
import { commonFeatures, type Guest, layout, ringNumbers } from "./hostile_guest.ts";
import { type Format } from "./hostile_ring.ts";
import * as system from "./hostile_system.ts";
import { patiently } from "./hostile_patience.ts";
import { farBytes, gone, macs, regions, type Told, type World } from "./hostile_world.ts";

const { receive, send } = ringNumbers;
const formats: readonly Format[] = ["split", "packed"];

const pageBytes = 4096n;
/** Of a log for all that a hostile guest has. */
const logBytes = Number((regions.far + BigInt(farBytes)) / pageBytes / 8n);
/** So much of a log's file lies before it, and behind it. */
const marginBytes = 4096;
const fileBytes = 2 * marginBytes + logBytes;
const addressMax = 0xffff_ffff_ffff_ffffn;

const file = system.memoryFile(4096);
const hugeFile = system.memoryFile(2n ** 62n);
const [pipeEnd] = system.pipe();

interface BadLog {
  readonly name: string;
  readonly size: bigint;
  readonly offset?: bigint;
  readonly fd?: number;
  readonly reason: string;
}

const bad: readonly BadLog[] = [
  { name: "of no size", size: 0n, reason: "log of 0 bytes" },
  { name: "one byte longer than its file", size: 4097n, reason: "file too short" },
  { name: "behind its file", size: 8n, offset: 4096n, reason: "file too short" },
  { name: "that wraps", size: 4096n, offset: addressMax - 4095n, reason: "invalid argument" },
  { name: "of the whole address space", size: addressMax, reason: "file too short" },
  { name: "that is a pipe", size: 4096n, fd: pipeEnd, reason: "wrong fd" },
  { name: "that is an eventfd", size: 8n, fd: system.eventfd(), reason: "wrong fd" },
];

function badCases(): Case[] {
  return bad.map(({ name, size, offset = 0n, fd = file, reason }) =>
    nacked({
      name: `SET_LOG_BASE, a log ${name}`,
      ...message("SET_LOG_BASE", { size, offset }),
      fds: [fd],
      reason: new RegExp(`^SET_LOG_BASE refused: .*${reason}`),
    })
  );
}

const badBells = refused({
  name: "SET_LOG_FD, not an eventfd",
  ...message("SET_LOG_FD", null),
  fds: [file],
  reason: /^SET_LOG_FD refused: Cannot set log fd of port \d+: wrong fd$/,
});

/** A log in the middle of a file. */
class Log {
  readonly fd = system.memoryFile(fileBytes);
  readonly #bytes = system.mapShared(this.fd, fileBytes);

  get bits(): Uint8Array {
    return this.#bytes.subarray(marginBytes, marginBytes + logBytes);
  }

  has(gpa: bigint): boolean {
    const page = gpa / pageBytes;
    return (this.bits[Number(page / 8n)]! >> Number(page % 8n) & 1) !== 0;
  }

  /** Nothing is written outside. */
  check(): void {
    // It may have been cut off: then we must not touch it.
    system.truncate(this.fd, fileBytes);
    const outside = [this.#bytes.subarray(0, marginBytes), this.#bytes.subarray(marginBytes + logBytes)];
    assert.ok(outside.every((bytes) => bytes.every((byte) => byte === 0)), "nothing is written outside of the log");
  }

  close(): void {
    system.close(this.fd);
  }
}

function give(guest: Guest, log: Log, size = logBytes): void {
  assert.equal(guest.peer.verdict("SET_LOG_BASE", { size: BigInt(size), offset: BigInt(marginBytes) }, [log.fd]), 0n);
}

/** As QEMU begins a migration, but for the log. */
function migrate(guest: Guest, logAddress = (ring: number) => guest.ring(ring).places.used): void {
  const packed = guest.ring(send).format === "packed" ? featureSet(["RING_PACKED"]) : 0n;
  guest.setFeatures(commonFeatures | packed | featureSet(["LOG_ALL"]));
  for (const ring of [receive, send]) {
    guest.peer.tell("SET_VRING_ADDR", { ...guest.addressOf(ring), flags: 1, log: logAddress(ring) });
  }
}

/** As QEMU ends one. */
function remain(guest: Guest): void {
  guest.setFeatures();
  for (const ring of [receive, send]) guest.peer.tell("SET_VRING_ADDR", guest.addressOf(ring));
}

/** As SEND_RARP has it: the first byte is the lowest. */
function reversed(mac: number): bigint {
  return new DataView(macBytes(mac).buffer).getBigUint64(0, true);
}

function macBytes(mac: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(8);
  for (let i = 0; i < 6; i++) bytes[i] = Math.floor(mac / 2 ** (40 - 8 * i)) % 256;
  return bytes;
}

/** RFC 903: who am I, asked by and for this address; padded to what Ethernet needs. */
function rarp(mac: number): Uint8Array<ArrayBuffer> {
  const from = macBytes(mac).subarray(0, 6);
  const frame = new Uint8Array(60);
  frame.set([...Array(6).fill(0xff), ...from, 0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3, ...from, 0, 0, 0, 0, ...from]);
  return frame;
}

const rests: Told = ["ring_broken", /^no_log$/];
/** Told of either ring; how often depends on when somebody looks. */
const mayRest = /^no_log$/;

/** Nothing passes, in no direction. */
async function expectRest(guest: Guest, world: World): Promise<void> {
  await world.event("ring_broken", 2);
  // What came before that.
  guest.arrivals();
  world.friend.arrivals();
  guest.send(guest.frame(macs.friend));
  world.friend.send(world.friend.frame(guest.mac));
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual(guest.arrivals(), []);
  assert.deepEqual(world.friend.arrivals(), []);
}

/** What had to wait comes when it may. */
function expectWaited(guest: Guest, world: World): void {
  world.nextAtFriend();
  world.greet(guest);
}

type LogAct = (guest: Guest, world: World, log: Log) => ReturnType<Act>;

function migrating(format: Format, text: string, act: LogAct): Case {
  return scene(`a guest that migrates, ${format} rings, ${text}`, async (guest, world) => {
    const log = new Log();
    try {
      return await act(guest, world, log);
    } finally {
      log.check();
      log.close();
    }
  }, { format });
}

/** As QEMU does it under running rings, but for its refusal to plug memory in while a guest migrates. */
const plugging: LogAct = (guest, world, log) => {
  const short = new Log();
  const far = guest.memory.parts.find(({ gpa }) => gpa === regions.far)!;
  guest.stopRing(receive);
  guest.startRing(receive);
  give(guest, log);
  migrate(guest);
  /** A frame of the friend, to here. */
  const fetch = (at: bigint) => {
    guest.receiveRing.offer([{ at, len: 2048, flags: 2 }]);
    guest.kick(receive);
    world.friend.send(world.friend.frame(guest.mac));
    patiently("a frame of the friend", () => guest.receiveRing.used());
  };
  for (let i = 0; i < 20; i++) {
    guest.peer.tell("REM_MEM_REG", far);
    give(guest, short, Number(regions.end / pageBytes / 8n));
    short.bits.fill(0);
    fetch(regions.second);
    assert.ok(short.has(regions.second));
    guest.peer.tell("ADD_MEM_REG", far, [far.fd]);
    give(guest, log);
    log.bits.fill(0);
    fetch(regions.far);
    assert.ok(log.has(regions.far) && !log.has(regions.second));
  }
  short.check();
  short.close();
};

function markCases(format: Format): Case[] {
  const about = (text: string, act: LogAct) => migrating(format, text, act);
  return [
    about("an honest log: everything that is written to is in it, and what is not is not", (guest, world, log) => {
      give(guest, log);
      migrate(guest);
      const { desc, used } = guest.receiveRing.places;
      const ringAreas = format === "packed" ? [desc, used] : [used];
      for (const at of ringAreas) assert.ok(log.has(at), "rings are marked when logging begins");
      log.bits.fill(0);
      world.greet(guest);
      const written = format === "packed" ? [desc, guest.sendRing.places.desc] : [used, guest.sendRing.places.used];
      for (const at of [...written, layout.receiveBuffers]) assert.ok(log.has(at), at.toString(16));
      for (const at of [layout.sendBuffers, guest.sendRing.places.avail, regions.second, regions.far]) {
        assert.ok(!log.has(at), at.toString(16));
      }
      remain(guest);
      log.bits.fill(0);
      world.greet(guest);
      assert.ok(log.bits.every((byte) => byte === 0), "nothing is marked afterwards");
    }),
    about("a buffer over the edges of pages and regions: all of them are marked", (guest, world, log) => {
      give(guest, log);
      migrate(guest);
      for (let sent = 0; sent < 64; sent++) world.friend.send(world.friend.frame(guest.mac));
      patiently("frames of the friend", () => guest.arrivals().length > 0 || undefined);
      log.bits.fill(0);
      const at = regions.second - 40n;
      guest.stopRing(receive);
      guest.startRing(receive);
      migrate(guest);
      log.bits.fill(0);
      const write = 2;
      guest.receiveRing.offer([{ at, len: 40, flags: write }, { at: regions.second, len: 100, flags: write }]);
      guest.kick(receive);
      const frame = world.friend.frame(guest.mac);
      world.friend.send(frame);
      patiently("a frame of the friend", () => guest.receiveRing.used());
      assert.ok(log.has(at) && log.has(regions.second));
      assert.ok(!log.has(regions.second - pageBytes - 1n) && !log.has(regions.second + pageBytes));
    }),
    about("memory plugged out and in, and a log of another size each time: all is marked", plugging),
    about("a log of one byte: passes, and nothing is written behind it", (guest, world, log) => {
      give(guest, log, 1);
      migrate(guest);
      world.greet(guest);
      assert.ok(log.bits.every((byte) => byte === 0));
    }),
    about("log addresses that are none: passes", (guest, world, log) => {
      give(guest, log);
      for (const at of [addressMax, addressMax - 3n, 1n << 62n, 3n]) {
        migrate(guest, () => at);
        world.greet(guest);
      }
    }),
  ];
}

function restCases(format: Format): Case[] {
  const about = (text: string, act: LogAct) => migrating(format, text, act);
  return [
    about("no log: they rest, and go on when there is one", async (guest, world, log) => {
      migrate(guest);
      await expectRest(guest, world);
      give(guest, log);
      expectWaited(guest, world);
      return { told: [rests, rests, gone], anyDrops: true };
    }),
    about("no log: they rest, and go on when it is over", async (guest, world) => {
      migrate(guest);
      await expectRest(guest, world);
      remain(guest);
      expectWaited(guest, world);
      return { told: [rests, rests, gone], anyDrops: true };
    }),
    about("a log that is cut off: they rest, and go on with another", async (guest, world, log) => {
      give(guest, log);
      migrate(guest);
      world.greet(guest);
      const other = new Log();
      log.bits.fill(0);
      system.truncate(log.fd, 0);
      guest.send(guest.frame(macs.friend));
      await expectRest(guest, world);
      give(guest, other);
      world.reach(guest);
      world.greet(guest);
      other.check();
      other.close();
      return { anyDrops: true, mayBreak: mayRest };
    }),
    about("another log again and again: passes", (guest, world, log) => {
      const other = new Log();
      migrate(guest);
      for (let i = 0; i < 20; i++) {
        give(guest, i % 2 === 0 ? log : other, i % 3 === 0 ? logBytes / 2 : logBytes);
        world.greet(guest);
      }
      other.check();
      other.close();
      return { mayBreak: mayRest };
    }),
  ];
}

function signalCases(format: Format): Case[] {
  const about = (text: string, act: LogAct) => migrating(format, text, act);
  return [
    about("a log that their front end signals for, and blocks: passes", (guest, world, log) => {
      const bell = system.eventfd();
      try {
        guest.peer.tell("SET_LOG_FD", null, [bell]);
        give(guest, log);
        migrate(guest);
        assert.notEqual(system.drain(bell), 0n, "it is signalled");
        system.fill(bell);
        system.makeBlocking(bell);
        for (let i = 0; i < 20; i++) {
          log.bits.fill(0);
          world.greet(guest);
        }
        system.drain(bell);
        log.bits.fill(0);
        world.greet(guest);
        assert.equal(system.wait(bell, system.polled.readable, 0), 0, "it is not signalled any more");
      } finally {
        system.close(bell);
      }
    }),
    about(
      "RARP asked for while its rings rest: one comes for each, and the switch knows where it is",
      (guest, world) => {
        for (const ring of [receive, send]) guest.stopRing(ring);
        for (let i = 0; i < 3; i++) guest.peer.tell("SEND_RARP", reversed(guest.mac));
        for (const ring of [receive, send]) guest.startRing(ring);
        guest.offerBuffers();
        for (let i = 0; i < 3; i++) assert.deepEqual(world.nextAtFriend().frame, rarp(guest.mac));
        const frame = world.friend.frame(guest.mac);
        world.friend.send(frame);
        patiently("a frame from the friend", () => guest.arrivals()[0]);
        world.greet(guest);
      },
    ),
    about("RARP asked for thousands of times: some come, and nobody is disturbed", (guest) => {
      for (let i = 0; i < 5000; i++) guest.peer.tell("SEND_RARP", 0x0100_0054_52n | BigInt(i) << 40n);
      return { anyDrops: true, noisy: true };
    }),
  ];
}

/** A log larger than any address space can be told of, but not mapped: the front end would not survive a refusal. */
const unmappable = scene(
  "SET_LOG_BASE, a log that cannot be mapped: rings rest until it is over",
  async (guest, world) => {
    assert.equal(guest.peer.verdict("SET_LOG_BASE", { size: 1n << 61n, offset: 0n }, [hugeFile]), 0n);
    migrate(guest);
    await expectRest(guest, world);
    remain(guest);
    expectWaited(guest, world);
    return { told: [rests, rests, gone], anyDrops: true };
  },
);

export const logCases: readonly Case[] = [
  ...badCases(),
  ...badBells,
  unmappable,
  ...formats.flatMap((format) => [...markCases(format), ...restCases(format), ...signalCases(format)]),
];

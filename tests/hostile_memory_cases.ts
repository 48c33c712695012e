/**
 * Guest memory that is not what it is said to be, or does not stay so.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Region } from "../vhost/dataplane.ts";
import { requests } from "../vhost/request.ts";
import { accepted, type Case, message, nacked, refused, scene } from "./hostile_case.ts";
import { base, Guest, layout, ringNumbers } from "./hostile_guest.ts";
import { GuestMemory, makePart, type Part } from "./hostile_memory.ts";
import type { Format } from "./hostile_ring.ts";
import * as system from "./hostile_system.ts";
import { farBytes, gone, macs, regions, type World } from "./hostile_world.ts";

const { receive, send } = ringNumbers;
const formats: readonly Format[] = ["split", "packed"];

const pageBytes = 4096;
const file = system.memoryFile(16 * pageBytes);
/** As large as a file can be, and nothing in it. */
const hugeFile = system.memoryFile(2n ** 62n);
const addressMax = 0xffff_ffff_ffff_ffffn;

/** A region beside all others. */
const good: Region = {
  gpa: 0x2_0000_0000n,
  size: BigInt(16 * pageBytes),
  userAddress: 0x6000_0000_0000n,
  mmapOffset: 0n,
};

interface BadRegion {
  readonly name: string;
  readonly region: Partial<Region>;
  readonly fd?: number;
  readonly reason: string;
}

const bad: readonly BadRegion[] = [
  { name: "of no size", region: { size: 0n }, reason: "region \\S+ has no size" },
  { name: "that wraps by its guest address", region: { gpa: addressMax - 4095n }, reason: "goes beyond 64 bits" },
  { name: "that wraps by its user address", region: { userAddress: addressMax - 1n }, reason: "goes beyond 64 bits" },
  { name: "that wraps by its offset", region: { mmapOffset: addressMax - 4095n }, reason: "goes beyond 64 bits" },
  { name: "that is all there is", region: { size: addressMax }, reason: "goes beyond 64 bits" },
  { name: "that is all there is, from 0 on", region: { gpa: 0n, size: addressMax }, reason: "goes beyond 64 bits" },
  { name: "that overlaps another", region: { gpa: regions.far + 4096n }, reason: "overlaps \\S+ in guest addresses" },
  { name: "around another", region: { gpa: regions.far - 4096n }, reason: "overlaps \\S+ in guest addresses" },
  {
    name: "that overlaps by one byte",
    region: { gpa: regions.far + BigInt(farBytes) - 1n },
    reason: "overlaps \\S+ in guest addresses",
  },
  {
    name: "whose user addresses overlap others",
    region: { userAddress: 0x7f00_0000_0000n + regions.far },
    reason: "overlaps \\S+ in user addresses",
  },
  { name: "beyond its file", region: { mmapOffset: 16n * 4096n }, reason: "file too short" },
  { name: "one byte beyond its file", region: { mmapOffset: 1n }, reason: "file too short" },
  { name: "far beyond its file", region: { mmapOffset: 1n << 62n }, reason: "file too short" },
  {
    name: "larger than any address space",
    region: { size: 1n << 62n, userAddress: 1n << 63n },
    fd: hugeFile,
    reason: "out of memory",
  },
  {
    name: "at the end of a huge file, beyond what can be mapped",
    region: { mmapOffset: (1n << 62n) - 4096n },
    fd: hugeFile,
    reason: "file too short",
  },
];

function regionCases(): Case[] {
  return bad.flatMap(({ name, region, fd = file, reason }, i) => {
    const whole = { ...good, ...region };
    const added = {
      name: `ADD_MEM_REG of a region ${name}`,
      ...message("ADD_MEM_REG", whole),
      fds: [fd],
      reason: new RegExp(`^ADD_MEM_REG refused: .*${reason}`),
    };
    const table = {
      name: `SET_MEM_TABLE with a region ${name}`,
      request: requests.SET_MEM_TABLE.number,
      payload: (guest: Guest) => message("SET_MEM_TABLE", [...guest.memory.parts, whole]).payload,
      fds: (guest: Guest) => [...guest.memory.parts.map((part) => part.fd), fd],
      reason: new RegExp(`^SET_MEM_TABLE refused: .*${reason}`),
    };
    return i % 3 === 0 ? [...refused(added), ...refused(table)] : [nacked(added), nacked(table)];
  });
}

/** A table whose count is not that of its regions. */
function countCases(): Case[] {
  const counted = (count: number, present: number) => {
    const payload = new Uint8Array(8 + 32 * present);
    new DataView(payload.buffer).setUint32(0, count, true);
    return payload;
  };
  const cases = [[9, 9], [3, 2], [2, 3], [0, 1], [0x1_0001, 1], [0xffff_ffff, 1], [0x800_0001, 1], [31, 31]] as const;
  return cases.flatMap(([count, present], i) => {
    const refusal = {
      name: `SET_MEM_TABLE of ${count} regions, ${present} of which are there`,
      request: requests.SET_MEM_TABLE.number,
      payload: counted(count, present),
      fds: Array.from({ length: Math.min(8, present) }, () => file),
      reason: new RegExp(`^SET_MEM_TABLE refused: payload of ${8 + 32 * present} bytes: `),
    };
    return i % 2 === 0 ? refused(refusal) : [nacked(refusal)];
  });
}

function partAt(guest: Guest, gpa: bigint): Part {
  return guest.memory.parts.find((part) => part.gpa === gpa)!;
}

/** Requests about the far region, in which nothing lies. */
function far(name: "ADD_MEM_REG" | "REM_MEM_REG", change: Partial<Region> = {}) {
  return {
    request: requests[name].number,
    payload: (guest: Guest) => message(name, { ...partAt(guest, regions.far), ...change }).payload,
    ...name === "ADD_MEM_REG" ? { fds: (guest: Guest) => [partAt(guest, regions.far).fd] } : {},
  };
}

function slotCases(): Case[] {
  const other = /^REM_MEM_REG refused: region \S+ is not in the table, but \S+ is in its place$/;
  const inUse = /^REM_MEM_REG refused: desc area of ring 0: \S+: lies in no memory region$/;
  return [
    accepted({ name: "ADD_MEM_REG of a region that is there", ...far("ADD_MEM_REG") }),
    nacked({
      name: "ADD_MEM_REG of a region that is there, but for its offset",
      ...far("ADD_MEM_REG", { mmapOffset: 4096n }),
      reason: /^ADD_MEM_REG refused: region \S+ overlaps/,
    }),
    accepted({ name: "REM_MEM_REG of a region that is not there", ...message("REM_MEM_REG", good) }),
    accepted({ name: "REM_MEM_REG of a region under running rings that has none", ...far("REM_MEM_REG") }),
    accepted({ name: "REM_MEM_REG with another offset", ...far("REM_MEM_REG", { mmapOffset: 1n }) }),
    ...refused({
      name: "REM_MEM_REG with another size",
      ...far("REM_MEM_REG", { size: BigInt(farBytes) - 1n }),
      reason: other,
    }),
    nacked({
      name: "REM_MEM_REG with another user address",
      ...far("REM_MEM_REG", { userAddress: 0n }),
      reason: other,
    }),
    nacked({
      name: "REM_MEM_REG with another guest address",
      ...far("REM_MEM_REG", { gpa: regions.far + 1n }),
      reason: other,
    }),
    ...refused({
      name: "REM_MEM_REG of no size",
      ...message("REM_MEM_REG", { ...good, size: 0n }),
      reason: /^REM_MEM_REG refused: region \S+ has no size$/,
    }),
    nacked({
      name: "REM_MEM_REG that wraps",
      ...message("REM_MEM_REG", { ...good, gpa: addressMax }),
      reason: /^REM_MEM_REG refused: region \S+ goes beyond 64 bits/,
    }),
    ...refused({
      name: "REM_MEM_REG of the memory of running rings",
      request: requests.REM_MEM_REG.number,
      payload: (guest) => message("REM_MEM_REG", partAt(guest, regions.first)).payload,
      reason: inUse,
    }),
    accepted({
      name: "ADD_MEM_REG of the last bytes of all",
      ...message("ADD_MEM_REG", { ...good, gpa: addressMax - good.size }),
      fds: [file],
    }),
    accepted({ name: "ADD_MEM_REG of one byte", ...message("ADD_MEM_REG", { ...good, size: 1n }), fds: [file] }),
  ];
}

/** SET_MEM_TABLE under running rings, in place of what was there. */
function tableCases(): Case[] {
  const table = (name: string, change: (parts: readonly Part[]) => readonly Part[]) => ({
    name: `SET_MEM_TABLE ${name}`,
    request: requests.SET_MEM_TABLE.number,
    payload: (guest: Guest) => message("SET_MEM_TABLE", change(guest.memory.parts)).payload,
    fds: (guest: Guest) => change(guest.memory.parts).map((part) => part.fd),
  });
  const none = /^SET_MEM_TABLE refused: desc area of ring 0: \S+: lies in no memory region$/;
  const moved = /^SET_MEM_TABLE refused: desc of running ring 0 from \S+ to \S+: stop it first/;
  return [
    accepted(table("again, unchanged", (parts) => parts)),
    accepted(table("in another order", (parts) => parts.toReversed())),
    accepted(table("without regions that no ring needs", (parts) => parts.slice(0, 1))),
    ...refused({ ...table("of no regions", () => []), reason: none }),
    nacked({ ...table("without the rings' region", (parts) => parts.slice(1)), reason: none }),
    nacked({
      ...table("with the rings elsewhere", (parts) => parts.map((part) => ({ ...part, gpa: part.gpa + 0x1000_0000n }))),
      reason: moved,
    }),
    nacked({
      ...table("with the same region twice", (parts) => [...parts, parts[0]!]),
      reason: /^SET_MEM_TABLE refused: region \S+ overlaps \S+ in guest addresses$/,
    }),
  ];
}

const slotsMax = 509;

/** So many regions of one page. */
function fillSlots(guest: Guest): Region[] {
  const added = Array.from({ length: slotsMax - guest.memory.parts.length }, (_, i) => ({
    gpa: good.gpa + BigInt(i) * 8192n,
    size: 4096n,
    userAddress: good.userAddress + BigInt(i) * 8192n,
    mmapOffset: BigInt(i % 16) * 4096n,
  }));
  for (const region of added) guest.peer.tell("ADD_MEM_REG", region, [file]);
  return added;
}

const manyCases: readonly Case[] = [
  scene("509 regions, and one more: nack", (guest, world) => {
    fillSlots(guest);
    world.greet(guest);
    const more = { ...good, gpa: 0x10_0000_0000n, userAddress: 0x6100_0000_0000n };
    assert.equal(guest.peer.verdict("ADD_MEM_REG", more, [file]), 1n);
    world.greet(guest);
    return { told: [["nack", /^ADD_MEM_REG refused: one region too many: \S+: 509 are the limit$/], gone] };
  }),
  scene("509 regions, taken out again in another order: passes", (guest, world) => {
    const before = world.serve.census();
    const added = fillSlots(guest);
    assert.equal(world.serve.census().guestMaps, before.guestMaps + added.length);
    for (let i = 0; i < added.length; i++) guest.peer.tell("REM_MEM_REG", added[(i * 7) % added.length]!);
    assert.equal(world.serve.census().guestMaps, before.guestMaps);
    world.greet(guest);
  }),
  scene("ADD_MEM_REG and REM_MEM_REG of one region 500 times: nothing is kept", (guest, world) => {
    const before = world.serve.census();
    for (let i = 0; i < 500; i++) {
      for (let twice = 0; twice < 2; twice++) guest.peer.tell("ADD_MEM_REG", good, [file]);
      for (let twice = 0; twice < 2; twice++) guest.peer.tell("REM_MEM_REG", good);
    }
    world.has(before);
    world.greet(guest);
  }),
  scene("SET_MEM_TABLE 500 times under running rings: nothing is kept", (guest, world) => {
    const before = world.serve.census();
    for (let i = 0; i < 500; i++) {
      guest.peer.tell("SET_MEM_TABLE", guest.memory.parts, guest.memory.parts.map((part) => part.fd));
      if (i % 50 === 0) world.greet(guest);
    }
    world.has(before);
    world.greet(guest);
  }),
];

/** Runs `act` with a guest whose memory is its own, so that it can be cut. */
function ownMemory(
  name: string,
  format: Format,
  makeParts: () => Part[],
  act: (guest: Guest, world: World) => ReturnType<Case["run"]>,
): Case {
  return {
    name,
    run: async (world) => {
      const memory = new GuestMemory(makeParts());
      try {
        using guest = new Guest({ path: world.socket, mac: macs.hostile, memory, format });
        return await act(guest, world);
      } finally {
        for (const { fd } of memory.parts) system.close(fd);
      }
    },
  };
}

const firstBytes = Number(layout.receiveBuffers - base) + 64 * 2048;

/** Offsets that are no multiple of a page: rings must be aligned in our mapping too. */
const offsetCases: readonly Case[] = formats.flatMap((format) => [
  ...[16, 0x850, 4096].map((mmapOffset) =>
    ownMemory(
      `${format} rings in a region ${mmapOffset} bytes into its file: pass`,
      format,
      () => [makePart(base, firstBytes, { mmapOffset })],
      (guest, world) => {
        guest.start();
        guest.offerBuffers();
        world.greet(guest);
        return {};
      },
    )
  ),
  scene(`${format} rings in a region one byte into its file, where none can be: the session ends`, (guest) => {
    for (const ring of [receive, send]) guest.stopRing(ring);
    const part = partAt(guest, regions.first);
    guest.peer.tell("REM_MEM_REG", part);
    guest.peer.tell("ADD_MEM_REG", { ...part, size: part.size - 1n, mmapOffset: 1n }, [part.fd]);
    guest.peer.tell("SET_VRING_ADDR", guest.addressOf(send));
    const { request, payload } = message("SET_VRING_KICK", BigInt(send));
    guest.peer.send(request, payload, { fds: [guest.eventfds[1].kick] });
    assert.deepEqual(guest.peer.untilClosed(), []);
    return { told: [["disconnected", /^SET_VRING_KICK half done: Cannot start vring 1: misaligned$/]] };
  }, { format }),
]);

const brokenByFault = ["ring_broken", /^memory_fault$/] as const;

function wholeAndSecond(): Part[] {
  return [makePart(base, firstBytes), makePart(regions.far, farBytes)];
}

/** From here on the guest's own mapping must not be touched: a fault of ours would end the test. */
function cut(part: Part, bytes = 0): void {
  system.truncate(part.fd, bytes);
}

/** The file may get its length back, but not its pages: what is mapped then is another. */
function uncut(part: Part): void {
  system.truncate(part.fd, part.size);
}

function start(guest: Guest, world: World): void {
  guest.start();
  guest.offerBuffers();
  world.greet(guest);
}

function truncationCases(format: Format): Case[] {
  const about = (text: string, act: Parameters<typeof ownMemory>[3]) =>
    ownMemory(`${format} rings, ${text}`, format, wholeAndSecond, act);
  return [
    about("a file cut to nothing while they rest: broken at the next kick", async (guest, world) => {
      start(guest, world);
      cut(guest.memory.parts[0]!);
      guest.kick(send);
      await world.event("ring_broken");
      return { told: [brokenByFault, brokenByFault, gone], anyDrops: true };
    }),
    about("a file cut to nothing while frames come: broken", async (guest, world) => {
      start(guest, world);
      cut(guest.memory.parts[0]!);
      world.friend.send(world.friend.frame(guest.mac));
      await world.event("ring_broken");
      return { told: [brokenByFault, brokenByFault, gone], anyDrops: true };
    }),
    about("a file cut to nothing before they start: broken", async (guest, world) => {
      start(guest, world);
      for (const ring of [receive, send]) guest.stopRing(ring);
      const address = guest.addressOf(send);
      guest.peer.tell("SET_VRING_ADDR", address);
      cut(guest.memory.parts[0]!);
      assert.equal(guest.peer.verdict("SET_VRING_KICK", BigInt(send), [guest.eventfds[1].kick]), 0n);
      await world.event("ring_broken");
      return { told: [brokenByFault, gone], anyDrops: true };
    }),
    about("a file cut in the middle of their buffers: broken when one of them is used", async (guest, world) => {
      start(guest, world);
      cut(guest.memory.parts[0]!, Number(layout.receiveBuffers - base));
      guest.send(guest.frame(macs.friend));
      world.nextAtFriend();
      world.friend.send(world.friend.frame(guest.mac));
      await world.event("ring_broken");
      return { told: [brokenByFault, brokenByFault, gone], anyDrops: true };
    }),
    about("a file of buffers alone cut: broken when a frame in it is sent", async (guest, world) => {
      start(guest, world);
      cut(guest.memory.parts[1]!);
      guest.sendRing.offer([{ at: regions.far, len: 100 }]);
      guest.kick(send);
      await world.event("ring_broken");
      return { told: [brokenByFault, brokenByFault, gone], anyDrops: true };
    }),
    about("a file of buffers alone cut, and taken out before it is used: passes", (guest, world) => {
      start(guest, world);
      cut(guest.memory.parts[1]!);
      guest.peer.tell("REM_MEM_REG", guest.memory.parts[1]!);
      world.greet(guest);
      return {};
    }),
  ];
}

function recoveryCases(format: Format): Case[] {
  const about = (text: string, act: Parameters<typeof ownMemory>[3]) =>
    ownMemory(`${format} rings, ${text}`, format, wholeAndSecond, act);
  const fault = async (guest: Guest, world: World) => {
    start(guest, world);
    cut(guest.memory.parts[0]!);
    guest.kick(send);
    await world.event("ring_broken");
    uncut(guest.memory.parts[0]!);
    for (const ring of [receive, send]) guest.stopRing(ring);
  };
  return [
    about("started again in memory that was cut: broken again", async (guest, world) => {
      await fault(guest, world);
      guest.startRing(send);
      await world.event("ring_broken", 3);
      return { told: [brokenByFault, brokenByFault, brokenByFault, gone], anyDrops: true };
    }),
    about("started again in memory that was given anew by a table: pass", async (guest, world) => {
      await fault(guest, world);
      guest.peer.tell("SET_MEM_TABLE", guest.memory.parts, guest.memory.parts.map((part) => part.fd));
      for (const ring of [receive, send]) guest.startRing(ring);
      guest.offerBuffers();
      world.greet(guest);
      return { told: [brokenByFault, brokenByFault, gone], anyDrops: true };
    }),
    about("started again in memory that was taken out and given again: pass", async (guest, world) => {
      await fault(guest, world);
      for (const part of guest.memory.parts) guest.peer.tell("REM_MEM_REG", part);
      guest.giveMemory();
      for (const ring of [receive, send]) guest.startRing(ring);
      guest.offerBuffers();
      world.greet(guest);
      return { told: [brokenByFault, brokenByFault, gone], anyDrops: true };
    }),
  ];
}

/** A file's pages can go without its length: there is no fault then, only zeros. */
const holeCases: readonly Case[] = [
  ownMemory("split rings, their pages taken out: broken", "split", wholeAndSecond, async (guest, world) => {
    start(guest, world);
    system.punchHole(guest.memory.parts[0]!.fd, 0, Number(layout.receiveBuffers - base));
    guest.kick(send);
    await world.event("ring_broken");
    guest.stopRing(send);
    guest.startRing(send);
    guest.send(guest.frame(macs.friend));
    world.nextAtFriend();
    return { told: [["ring_broken", /^bad_avail_index$/], gone], anyDrops: true };
  }),
  ownMemory(
    "packed rings, their pages taken out: nothing is there to send",
    "packed",
    wholeAndSecond,
    (guest, world) => {
      start(guest, world);
      system.punchHole(guest.memory.parts[0]!.fd, 0, Number(layout.receiveBuffers - base));
      guest.kick(send);
      for (const ring of [receive, send]) guest.stopRing(ring);
      for (const ring of [receive, send]) guest.startRing(ring);
      guest.offerBuffers();
      world.greet(guest);
      return {};
    },
  ),
];

/** One region's file can be that of another: QEMU gives the same memfd for two regions. */
const sharedFileCases: readonly Case[] = [
  accepted({
    name: "a second region over the same bytes of a file",
    request: requests.ADD_MEM_REG.number,
    payload: (guest) => message("ADD_MEM_REG", { ...good, size: partAt(guest, regions.first).size }).payload,
    fds: (guest) => [partAt(guest, regions.first).fd],
  }),
];

export const memoryCases: readonly Case[] = [
  ...regionCases(),
  ...countCases(),
  ...slotCases(),
  ...tableCases(),
  ...manyCases,
  ...offsetCases,
  ...formats.flatMap(truncationCases),
  ...formats.flatMap(recoveryCases),
  ...holeCases,
  ...sharedFileCases,
];

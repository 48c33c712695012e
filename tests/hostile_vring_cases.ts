/**
 * Rings that cannot be: indexes, sizes, addresses, and what is frozen while they run.
 *
 * @module
 */

import assert from "node:assert/strict";
import { requests } from "../vhost/request.ts";
import { featureSet } from "../vhost/spec.ts";
import { accepted, type Case, ended, message, nacked, refused, scene, withGuest } from "./hostile_case.ts";
import { commonFeatures, type Guest, layout, ringNumbers, ringSize } from "./hostile_guest.ts";
import type { Format, Places } from "./hostile_ring.ts";
import { userAddress } from "./hostile_memory.ts";
import { patiently } from "./hostile_patience.ts";
import { farBytes, gone, regions } from "./hostile_world.ts";

const { send } = ringNumbers;
/** The hostile port has rings 0 to 3. Some of these are 0 or 1 when cut to 8 or 16 bits. */
const indexes = [4, 255, 256, 257, 0x1_0000, 0x1_0001, 0x8000_0001, 0xffff_ffff];

function indexCases(): Case[] {
  return indexes.flatMap((index, i) => {
    const reason = (name: string) => new RegExp(`^${name} refused: ring ${index}: this port has rings 0 to 3$`);
    const address = { index, flags: 0, desc: 0n, used: 0n, avail: 0n, log: 0n };
    const ways = [
      { name: "SET_VRING_NUM", ...message("SET_VRING_NUM", { index, num: 256 }) },
      { name: "SET_VRING_BASE", ...message("SET_VRING_BASE", { index, num: 0 }) },
      { name: "SET_VRING_ADDR", ...message("SET_VRING_ADDR", address) },
      { name: "SET_VRING_ENABLE", ...message("SET_VRING_ENABLE", { index, num: 1 }) },
    ];
    const refusals = ways.map((way) => ({ ...way, name: `${way.name} of ring ${index}`, reason: reason(way.name) }));
    const question = {
      name: `GET_VRING_BASE of ring ${index}`,
      ...message("GET_VRING_BASE", { index, num: 0 }),
      reason: reason("GET_VRING_BASE"),
    };
    return [...refusals.map((refusal, k) => (i + k) % 2 === 0 ? nacked(refusal) : ended(refusal)), ended(question)];
  });
}

/** Here the index has eight bits, and a ninth says that there is no descriptor. */
function fdIndexCases(): Case[] {
  return (["SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR"] as const).flatMap((name, i) => {
    const outside = [4n, 255n].map((index) => ({
      name: `${name} of ring ${index}`,
      ...message(name, index | 0x100n),
      reason: new RegExp(`^${name} refused: ring ${index}: this port has rings 0 to 3$`),
    }));
    const garbage = [0x301n, 1n << 16n, 1n << 32n, 0xffff_ffff_ffff_ff01n].map((payload) => ({
      name: `${name} with bits 0x${payload.toString(16)}`,
      ...message(name, payload),
      fds: (guest: Guest) => (payload & 0x100n) === 0n ? [guest.eventfds[1].err] : [],
      reason: new RegExp(`^${name} refused: ring and flag 0x\\w+: bits above 8 have no meaning$`),
    }));
    return [...outside, ...garbage].map((refusal, k) => (i + k) % 2 === 0 ? nacked(refusal) : ended(refusal));
  });
}

function sizeCases(): Case[] {
  return [0, 32769, 65536, 0x1_0100, 0xffff_ffff].flatMap((num) =>
    refused({
      name: `SET_VRING_NUM ${num}`,
      stage: "stopped",
      ...message("SET_VRING_NUM", { index: send, num }),
      reason: new RegExp(`^SET_VRING_NUM refused: size of ring 1: ${num}: give 1 to 32768$`),
    })
  );
}

/** What a ring is to start with. */
interface Start {
  readonly num?: number;
  readonly base?: number;
  /** By the front end's addresses. */
  readonly areas?: Partial<Places>;
}

/** Configures the send ring, but for the kick that would start it. */
function configure(guest: Guest, { num = ringSize, base = guest.sendRing.base, areas = {} }: Start): void {
  guest.sendRing.reset();
  guest.peer.tell("SET_VRING_NUM", { index: send, num });
  guest.peer.tell("SET_VRING_BASE", { index: send, num: base });
  guest.peer.tell("SET_VRING_ADDR", { ...guest.addressOf(send), ...areas });
}

function startCase(format: Format, name: string, start: Start, reason: RegExp): Case[] {
  const refusal = {
    name: `a ${format} ring ${name}`,
    guest: { format },
    stage: "stopped" as const,
    prepare: (guest: Guest) => configure(guest, start),
    ...message("SET_VRING_KICK", BigInt(send)),
    fds: (guest: Guest) => [guest.eventfds[1].kick],
    reason,
  };
  return name.length % 3 === 0 ? refused(refusal) : [nacked(refusal)];
}

function formatCases(): Case[] {
  const outside = /^SET_VRING_KICK refused: base of packed ring 1: 0x\w+: lies outside the ring's 256 descriptors$/;
  return [
    ...[3, 255, 257, 32767].flatMap((num) =>
      startCase(
        "split",
        `of ${num} descriptors`,
        { num },
        /refused: size of split ring 1: \d+: must be a power of two$/,
      )
    ),
    ...[0x1_0000, 0x8000_0000, 0xffff_ffff].flatMap((base) =>
      startCase("split", `from ${base} on`, { base }, /refused: base of split ring 1: \d+: give 0 to 65535$/)
    ),
    ...[0x8000_8100, 0x8100_8000, 0x7fff, 0x7fff_0000, 0xffff_ffff].flatMap((base) =>
      startCase("packed", `from 0x${base.toString(16)} on`, { base }, outside)
    ),
  ];
}

/** Where each area could not be. The hole begins at the end of the second region. */
function placeCases(): Case[] {
  const areas = ["desc", "avail", "used"] as const;
  const align = { split: { desc: 16, avail: 2, used: 4 }, packed: { desc: 16, avail: 4, used: 4 } };
  const places: Readonly<Record<string, bigint>> = {
    "in no region": userAddress(0x5000_0000n),
    "at address 0": 0n,
    "at a guest address": layout.send.desc,
    "at the end of the last region": userAddress(regions.far + BigInt(farBytes)),
    "at the end of its region but for 4 bytes": userAddress(regions.end - 4n),
    "at the last 16 bytes of all": 0xffff_ffff_ffff_fff0n,
    "at the last byte of all": 0xffff_ffff_ffff_ffffn,
  };
  return (["split", "packed"] as const).flatMap((format) =>
    areas.flatMap((area) => {
      const bad = Object.entries(places).flatMap(([where, at]) => {
        // The event areas of a packed ring are no longer than what is left there.
        if (format === "packed" && area !== "desc" && where.includes("but for")) return [];
        const reason = new RegExp(`refused: ${area} area of ring 1: 0x\\w+\\+0x\\w+: lies in no memory region$`);
        return startCase(format, `whose ${area} area lies ${where}`, { areas: { [area]: at } }, reason);
      });
      const odd = userAddress(layout.send[area]) + BigInt(align[format][area] / 2);
      const reason = new RegExp(
        `refused: ${area} area of ring 1: 0x\\w+: must be a multiple of ${align[format][area]}$`,
      );
      return [...bad, ...startCase(format, `whose ${area} area is misaligned`, { areas: { [area]: odd } }, reason)];
    })
  );
}

/** An area over two regions is contiguous for the guest, not for the front end's address that names it. */
const straddlingCases: readonly Case[] = (["split", "packed"] as const).flatMap((format) =>
  startCase(
    format,
    "whose descriptors lie in two regions",
    { areas: { desc: userAddress(regions.second - 2048n) } },
    /refused: desc area of ring 1: 0x\w+\+0x1000: lies in no memory region$/,
  )
);

const flagCases: readonly Case[] = [2, 0x8000_0000, 0xffff_ffff].flatMap((flags) =>
  refused({
    name: `SET_VRING_ADDR with flags 0x${flags.toString(16)}`,
    ...message("SET_VRING_ADDR", { index: send, flags, desc: 0n, used: 0n, avail: 0n, log: 0n }),
    payload: (guest: Guest) => message("SET_VRING_ADDR", { ...guest.addressOf(send), flags }).payload,
    reason: /^SET_VRING_ADDR refused: flags of ring 1: 0x\w+: only bit 0 has a meaning$/,
  })
);

/** Sizes at both ends of what is legal, and none that splits evenly. */
const legalSizeCases: readonly Case[] =
  ([["split", 1], ["split", 2], ["packed", 1], ["packed", 3], ["packed", 255]] as const)
    .map(([format, size]) => ({
      name: `${format} rings of ${size} descriptors: pass`,
      run: (world) => {
        using guest = world.hostileGuest({ format, size, buffers: size });
        guest.start();
        guest.offerBuffers();
        for (let i = 0; i < 8; i++) world.greet(guest);
        return {};
      },
    }));

/** Size, base and place belong to a ring as long as it runs; the same again is what QEMU sends. */
function frozenCases(format: Format): Case[] {
  const base = format === "split" ? 0 : 0x8000_8000;
  const about = (text: string) => ({ name: `${text} of a running ${format} ring`, guest: { format } });
  const reason = (what: string) =>
    new RegExp(`^SET_VRING_\\w+ refused: ${what} of running ring 1 from 0x\\w+ to 0x\\w+: stop it first`);
  const address = (places: Partial<Places>) => ({
    request: requests.SET_VRING_ADDR.number,
    payload: (guest: Guest) => message("SET_VRING_ADDR", guest.addressOf(send, { ...layout.send, ...places })).payload,
  });
  const size = message("SET_VRING_NUM", { index: send, num: 128 });
  const next = message("SET_VRING_BASE", { index: send, num: base + 1 });
  return [
    ...refused({ ...about("another size"), ...size, reason: reason("size") }),
    ...refused({ ...about("another base"), ...next, reason: reason("base") }),
    ...(["desc", "avail", "used"] as const).map((area) =>
      nacked({ ...about(`another ${area} area`), ...address({ [area]: layout.tables }), reason: reason(area) })
    ),
    accepted({ ...about("the same size"), ...message("SET_VRING_NUM", { index: send, num: ringSize }) }),
    accepted({ ...about("the same base"), ...message("SET_VRING_BASE", { index: send, num: base }) }),
    accepted({ ...about("the same place"), ...address({}) }),
  ];
}

function enableCases(): Case[] {
  return [2, 0x100, 0xffff_ffff].flatMap((num) =>
    refused({
      name: `SET_VRING_ENABLE ${num}`,
      ...message("SET_VRING_ENABLE", { index: send, num }),
      reason: /^SET_VRING_ENABLE refused: state of ring 1: \d+: give 0 or 1$/,
    })
  );
}

function assertBase(guest: Guest, ring: number, expected: number): void {
  assert.equal(guest.stopRing(ring), expected, `base of ring ${ring}`);
}

const sceneCases: readonly Case[] = [
  scene("GET_VRING_BASE again and again, also of rings that never ran: passes", (guest, world) => {
    for (let i = 0; i < 3; i++) assertBase(guest, send, 1);
    for (let i = 0; i < 3; i++) assertBase(guest, 3, 0);
    guest.startRing(send);
    world.greet(guest);
  }),
  scene("rings started with the kick first: pass", (guest, world) => {
    guest.stopRing(send);
    guest.peer.tell("SET_VRING_KICK", BigInt(send), [guest.eventfds[1].kick]);
    configure(guest, {});
    world.greet(guest);
  }),
  scene("a ring that is asked to start without an address: waits for it", (guest, world) => {
    guest.stopRing(send);
    guest.peer.tell("SET_VRING_KICK", BigInt(send), [guest.eventfds[1].kick]);
    guest.peer.tell("SET_VRING_ENABLE", { index: send, num: 1 });
    guest.kick(send);
    configure(guest, {});
    world.greet(guest);
  }),
  scene("RESET_DEVICE while rings run, and everything again: passes", (guest, world) => {
    guest.peer.tell("RESET_DEVICE", null);
    guest.setFeatures();
    for (const ring of Object.values(ringNumbers)) guest.startRing(ring);
    guest.offerBuffers();
    world.greet(guest);
  }),
  scene("features without PROTOCOL_FEATURES: rings are enabled from the start", (guest, world) => {
    guest.peer.tell("RESET_DEVICE", null);
    guest.setFeatures(commonFeatures & ~featureSet(["PROTOCOL_FEATURES"]));
    for (const ring of Object.values(ringNumbers)) guest.startRing(ring);
    guest.offerBuffers();
    world.greet(guest);
  }),
  scene("SET_VRING_NUM 2,000 times, of every legal size: nothing is kept of them", (guest, world) => {
    guest.stopRing(send);
    for (let i = 0; i < 2000; i++) guest.peer.tell("SET_VRING_NUM", { index: send, num: 1 + i * 16 });
    guest.startRing(send);
    world.greet(guest);
  }),
  scene("a disabled send ring is taken and discarded, by count", (guest) => {
    guest.peer.tell("SET_VRING_ENABLE", { index: send, num: 0 });
    while (guest.sendRing.used() !== undefined);
    for (let i = 0; i < 5; i++) {
      guest.sendRing.offer([{ at: layout.sendBuffers, len: 72 }]);
      guest.kick(send);
      patiently("a discarded frame's buffer", () => guest.sendRing.used());
    }
    return { drops: { "hostile from_guest disabled": 5 } };
  }),
];

/** QEMU without share=on gives no memory at all, and then rings. */
const noMemoryCases: readonly Case[] = (["nack", "the session ends"] as const).map((verdict) => ({
  name: `rings without any guest memory: ${verdict}`,
  run: (world) =>
    withGuest(world, {}, (guest) => {
      for (const ring of Object.values(ringNumbers)) guest.stopRing(ring);
      for (const part of guest.memory.parts) guest.peer.tell("REM_MEM_REG", part);
      configure(guest, {});
      const kick = [guest.eventfds[1].kick];
      const reason =
        /^SET_VRING_KICK refused: ring 1 has addresses, but no guest memory .*memory-backend-memfd,share=on$/;
      if (verdict === "nack") {
        assert.equal(guest.peer.verdict("SET_VRING_KICK", BigInt(send), kick), 1n);
        return { told: [["nack", reason], gone] };
      }
      guest.peer.send(12, message("SET_VRING_KICK", BigInt(send)).payload, { fds: kick });
      assert.deepEqual(guest.peer.untilClosed(), []);
      return { told: [["disconnected", reason]] };
    }),
}));

export const vringCases: readonly Case[] = [
  ...indexCases(),
  ...fdIndexCases(),
  ...sizeCases(),
  ...formatCases(),
  ...placeCases(),
  ...straddlingCases,
  ...flagCases,
  ...legalSizeCases,
  ...frozenCases("split"),
  ...frozenCases("packed"),
  ...enableCases(),
  ...sceneCases,
  ...noMemoryCases,
];

/** Well-formed messages with values that cannot be, or at a time when they cannot be: refused, and nothing happens. */

import assert from "node:assert/strict";
import type { Region } from "../vhost/dataplane.ts";
import type { PayloadOf } from "../vhost/request.ts";
import { makeOffer } from "../vhost/offer.ts";
import { featureSet, protocolFeatureSet } from "../vhost/spec.ts";
import { addressOf, guestFeatures, packedFeatures, Peer, ram } from "./vhost_peer.ts";
import { type FrontendRequestName, samples } from "./vhost_sample.ts";

interface Case<N extends FrontendRequestName = FrontendRequestName> {
  readonly title: string;
  readonly name: N;
  readonly payload: PayloadOf<N>;
  readonly reason: RegExp;
  readonly fdCount?: number;
}

function bad<N extends FrontendRequestName>(
  title: string,
  name: N,
  payload: PayloadOf<N>,
  reason: RegExp,
  fdCount?: number,
): Case {
  return { title, name, payload, reason, ...fdCount === undefined ? {} : { fdCount } } as unknown as Case;
}

/** Ring numbers that are no ring of a port with two pairs, some of which are when cut to 8 or 16 bits. */
const badIndexes = [4, 5, 255, 256, 0x100, 0x1_0000, 0x1_0001, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

const indexCases = badIndexes.flatMap((index) => [
  bad(`ring ${index}`, "SET_VRING_NUM", { index, num: 256 }, /ring \d+: this port has rings 0 to 3/),
  bad(`ring ${index}`, "SET_VRING_BASE", { index, num: 0 }, /ring \d+: this port has rings 0 to 3/),
  bad(`ring ${index}`, "SET_VRING_ADDR", { ...addressOf(0), index }, /ring \d+: this port has rings 0 to 3/),
  bad(`ring ${index}`, "SET_VRING_ENABLE", { index, num: 1 }, /ring \d+: this port has rings 0 to 3/),
]);

const eventfdCases = (["SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR"] as const).flatMap((name) => [
  bad("a ring that is none", name, 4n, /ring 4: this port has rings 0 to 3/),
  bad("the last ring that can be named", name, 255n, /ring 255: this port has rings 0 to 3/),
  bad("a ring that is none, without an fd", name, 0x1ffn, /ring 255/),
  bad("bit 9", name, 0x200n, /0x200: bits above 8 have no meaning/),
  bad("bit 16, a ring when cut to 8 bits", name, 0x1_0000n, /bits above 8/),
  bad("bit 63", name, 1n << 63n, /bits above 8/),
]);

const gib = 1n << 30n;
const top = 1n << 64n;
const other: Region = { gpa: gib, size: gib, userAddress: 0x7e00_0000_0000n, mmapOffset: 0n };

const regions: [string, Region, RegExp][] = [
  ["no size", { ...other, size: 0n }, /has no size/],
  ["guest addresses that wrap", { ...other, gpa: top - 4096n }, /goes beyond 64 bits/],
  ["guest addresses up to the very end", { ...other, gpa: top - gib }, /goes beyond 64 bits/],
  ["user addresses that wrap", { ...other, userAddress: top - 4096n }, /goes beyond 64 bits/],
  ["a file offset that wraps", { ...other, mmapOffset: top - 4096n }, /goes beyond 64 bits/],
  ["a size that wraps", { ...other, size: top - 1n }, /goes beyond 64 bits/],
  ["the same guest addresses", { ...other, gpa: 0n }, /overlaps 0x0\+0x10000000@0x7f000000f000 in guest addresses/],
  ["the last byte of another", { ...other, gpa: ram.size - 1n }, /overlaps .* in guest addresses/],
  ["another within", { ...ram, gpa: 4096n, size: 4096n, userAddress: 4096n }, /overlaps .* in guest addresses/],
  ["the same user addresses", { ...other, userAddress: ram.userAddress }, /overlaps .* in user addresses/],
  ["user addresses that end in another", { ...other, userAddress: ram.userAddress + 1n - gib }, /in user addresses/],
  ["a known place with another offset", { ...ram, mmapOffset: 4096n }, /overlaps .* in guest addresses/],
];

const regionCases = regions.flatMap(([title, region, reason]) => [
  bad(title, "ADD_MEM_REG", region, reason),
  bad(title, "SET_MEM_TABLE", [ram, region], reason),
]);

const removalCases = [
  bad("another size", "REM_MEM_REG", { ...ram, size: 4096n }, /is not in the table, but .* is in its place/),
  bad("another user address", "REM_MEM_REG", { ...ram, userAddress: 4096n }, /is not in the table/),
  bad("no size", "REM_MEM_REG", { ...ram, size: 0n }, /has no size/),
];

const valueCases = [
  ...[0, 32769, 65536, 0x1_0100, 0x8000_0000, 0xffff_ffff].map((num) =>
    bad(`a size of ${num}`, "SET_VRING_NUM", { index: 0, num }, /size of ring 0: \d+: give 1 to 32768/)
  ),
  ...[2, 3, 0xff, 0x100, 0xffff_ffff].map((num) =>
    bad(`a state of ${num}`, "SET_VRING_ENABLE", { index: 0, num }, /state of ring 0: \d+: give 0 or 1/)
  ),
  ...[2, 3, 0x8000_0000, 0xffff_ffff].map((flags) =>
    bad(`flags of ${flags}`, "SET_VRING_ADDR", addressOf(0, flags), /flags of ring 0: 0x[0-9a-f]+: only bit 0/)
  ),
  bad("a feature that was not offered", "SET_FEATURES", featureSet(["RING_RESET", "CSUM"]), /features RING_RESET were/),
  bad("a bit that is no feature", "SET_FEATURES", 1n << 45n, /features bit 45 were not offered/),
  bad("every feature", "SET_FEATURES", top - 1n, /were not offered/),
  bad("CONFIG", "SET_PROTOCOL_FEATURES", protocolFeatureSet(["CONFIG"]), /protocol features CONFIG were not offered/),
  bad("every protocol feature", "SET_PROTOCOL_FEATURES", top - 1n, /were not offered/),
  bad("a status of two bytes", "SET_STATUS", 0x100n, /status 0x100: it is one byte/),
  bad("a status of 64 bits", "SET_STATUS", top - 1n, /it is one byte/),
];

for (
  const { title, name, payload, reason, fdCount } of [
    ...indexCases,
    ...eventfdCases,
    ...regionCases,
    ...removalCases,
    ...valueCases,
  ]
) {
  Deno.test(`${name} with ${title}`, () => {
    const options = fdCount === undefined ? {} : { fdCount };
    const peer = new Peer();
    peer.prepare();
    peer.startVring(2);
    peer.dataplane.takeCalls();
    const before = peer.backend.state;
    peer.refuses(name, payload, reason, options);
    assert.equal(peer.backend.state, before, "nothing changed");
    assert.deepEqual(peer.dataplane.takeCalls(), []);
    peer.ends(name, payload, reason, options);
    peer.finish();
  });
}

Deno.test("GET_VRING_BASE of a ring that is none ends the session: its sender waits for a base", () => {
  for (const index of badIndexes) {
    const peer = new Peer();
    peer.prepare();
    peer.ends("GET_VRING_BASE", { index, num: 0 }, /^GET_VRING_BASE refused: ring \d+: this port/, { needReply: true });
    peer.finish();
  }
});

/** What a ring is given, beside a size of 256 and a base of 0. */
interface RingCase {
  readonly title: string;
  readonly reason: RegExp;
  readonly size?: number;
  readonly base?: number;
  readonly address?: Partial<ReturnType<typeof addressOf>>;
  readonly features?: bigint;
}

const end = ram.userAddress + ram.size;
const outside = /(desc|avail|used) area of ring 0: 0x[0-9a-f]+\+0x[0-9a-f]+: lies in no memory region/;
const misaligned = /(desc|avail|used) area of ring 0: 0x[0-9a-f]+: must be a multiple of (16|4|2)/;
const place = addressOf(0).desc;

const ringCases: readonly RingCase[] = [
  ...(["desc", "avail", "used"] as const).flatMap((area): RingCase[] => [
    { title: `${area} at 0`, address: { [area]: 0n }, reason: outside },
    { title: `${area} before the region`, address: { [area]: ram.userAddress - 16n }, reason: outside },
    { title: `${area} behind the region`, address: { [area]: end }, reason: outside },
    { title: `${area} across the region's end`, address: { [area]: end - 16n }, reason: outside },
    { title: `${area} that wraps`, address: { [area]: top - 16n }, reason: outside },
    { title: `${area} at an odd address`, address: { [area]: place + 1n }, reason: misaligned },
    { title: `${area} at a guest address`, address: { [area]: 0x10_0000n }, reason: outside },
    {
      title: `packed ${area} across the end`,
      address: { [area]: end - 2n },
      reason: outside,
      features: packedFeatures,
    },
    { title: `packed ${area}, odd`, address: { [area]: place + 2n }, reason: misaligned, features: packedFeatures },
  ]),
  { title: "descriptors at a multiple of 8", address: { desc: place + 8n }, reason: misaligned },
  { title: "a used ring at a multiple of 2", address: { used: place + 2n }, reason: misaligned },
  { title: "a size that is no power of two", size: 255, reason: /size of split ring 0: 255: must be a power of two/ },
  { title: "a base of 65536", base: 0x1_0000, reason: /base of split ring 0: 65536: give 0 to 65535/ },
  { title: "a base of 32 bits", base: 0xffff_ffff, reason: /base of split ring 0/ },
  { title: "a packed base on a split ring", base: 0x8000_8000, reason: /base of split ring 0/ },
  {
    title: "an avail place outside",
    base: 0x0100,
    features: packedFeatures,
    reason: /base of packed ring 0: 0x100: lies/,
  },
  { title: "a used place outside", base: 0x0100_0000, features: packedFeatures, reason: /base of packed ring 0/ },
  {
    title: "places outside of both wraps",
    base: 0xffff_ffff,
    features: packedFeatures,
    reason: /base of packed ring 0/,
  },
];

for (const { title, size = 256, base = 0, address = {}, features = guestFeatures, reason } of ringCases) {
  Deno.test(`A ring does not start with ${title}`, () => {
    const peer = new Peer();
    peer.prepare(features);
    peer.startVring(2, { base: features === packedFeatures ? 0x8000_8000 : 0 });
    peer.dataplane.takeCalls();
    peer.tell("SET_VRING_NUM", { index: 0, num: size });
    peer.tell("SET_VRING_BASE", { index: 0, num: base });
    peer.tell("SET_VRING_ADDR", { ...addressOf(0), ...address });
    peer.refuses("SET_VRING_KICK", 0n, reason);
    assert.deepEqual(peer.dataplane.takeCalls(), []);
    // Mended, it starts.
    peer.startVring(0, { base: features === packedFeatures ? 0x8000_8000 : 0 });
    assert.equal(peer.dataplane.running.size, 2);
    peer.finish();
  });
}

Deno.test("Each area of a ring may end where its region ends, and not a step beyond", () => {
  const size = 64;
  const areas = {
    split: { features: guestFeatures, desc: [1024, 16], avail: [134, 2], used: [518, 4] },
    packed: { features: packedFeatures, desc: [1024, 16], avail: [4, 4], used: [4, 4] },
  } as const;
  for (const { features, ...layout } of Object.values(areas)) {
    for (const [area, [bytes, align]] of Object.entries(layout)) {
      const last = (end - BigInt(bytes)) / BigInt(align) * BigInt(align);
      // The region begins at a multiple of any alignment, in both kinds of address.
      const peer = new Peer();
      peer.prepare(features);
      peer.tell("SET_VRING_NUM", { index: 0, num: size });
      peer.tell("SET_VRING_BASE", { index: 0, num: 0 });
      peer.tell("SET_VRING_ADDR", { ...addressOf(0), [area]: last + BigInt(align) });
      peer.refuses("SET_VRING_KICK", 0n, outside);
      peer.tell("SET_VRING_ADDR", { ...addressOf(0), [area]: last });
      peer.tell("SET_VRING_KICK", 0n, { needReply: true });
      assert.equal(peer.dataplane.running.size, 1, area);
      peer.finish();
    }
  }
});

Deno.test("Every legal size starts: powers of two for split, any for packed rings", () => {
  for (const size of [1, 2, 4, 256, 1024, 32768]) {
    const peer = new Peer();
    peer.prepare();
    peer.startVring(0, { size, base: 65535 });
    assert.equal(peer.dataplane.running.get(0)?.size, size);
    peer.finish();
  }
  for (const size of [1, 3, 255, 1000, 32767, 32768]) {
    const peer = new Peer();
    peer.prepare(packedFeatures);
    peer.startVring(0, { size, base: 0x8000_8000 | (size - 1) });
    assert.equal(peer.dataplane.running.get(0)?.size, size);
    peer.finish();
  }
});

Deno.test("While a ring runs, size, base and place are frozen, and an identical repeat is accepted", () => {
  const peer = new Peer();
  peer.prepare();
  peer.startVring(0, { base: 7 });
  peer.dataplane.takeCalls();
  peer.tell("SET_VRING_NUM", { index: 0, num: 256 }, { needReply: true });
  peer.tell("SET_VRING_BASE", { index: 0, num: 7 }, { needReply: true });
  peer.tell("SET_VRING_ADDR", addressOf(0), { needReply: true });
  const { desc, avail, used } = addressOf(0);
  peer.refuses("SET_VRING_NUM", { index: 0, num: 512 }, /size of running ring 0 from 0x100 to 0x200: stop it first/);
  peer.refuses("SET_VRING_BASE", { index: 0, num: 8 }, /base of running ring 0 from 0x7 to 0x8: stop it first/);
  peer.refuses("SET_VRING_ADDR", { ...addressOf(0), desc: desc + 16n }, /desc of running ring 0/);
  peer.refuses("SET_VRING_ADDR", { ...addressOf(0), avail: avail + 2n }, /avail of running ring 0/);
  peer.refuses("SET_VRING_ADDR", { ...addressOf(0), used: used + 4n }, /used of running ring 0/);
  peer.refuses("SET_PROTOCOL_FEATURES", 8n, /protocol features .* change while rings run/);
  peer.refuses("REM_MEM_REG", ram, /desc area of ring 0/);
  assert.deepEqual(peer.dataplane.takeCalls(), []);
  peer.finish();
});

Deno.test("A ring starts whatever comes last: kick, size, base, addresses or features", () => {
  const orders = [
    ["SET_VRING_KICK", "SET_VRING_NUM", "SET_VRING_BASE", "SET_VRING_ADDR", "SET_FEATURES"],
    ["SET_FEATURES", "SET_VRING_KICK", "SET_VRING_ADDR", "SET_VRING_NUM", "SET_VRING_BASE"],
    ["SET_FEATURES", "SET_VRING_KICK", "SET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_NUM"],
    ["SET_VRING_ADDR", "SET_VRING_BASE", "SET_FEATURES", "SET_VRING_NUM", "SET_VRING_KICK"],
  ] as const;
  for (const order of orders) {
    const peer = new Peer();
    peer.handshake();
    peer.tell("ADD_MEM_REG", ram);
    for (const [i, name] of order.entries()) {
      assert.equal(peer.dataplane.running.size, 0, `before ${name}`);
      peer.tell(name, samples[name]);
      assert.equal(peer.dataplane.running.size, i === order.length - 1 ? 1 : 0, `after ${name}`);
    }
    peer.finish();
  }
});

Deno.test("A kick before its ring stops is forgotten: addresses must come again, and so must the kick", () => {
  const peer = new Peer();
  peer.prepare();
  peer.startVring(0);
  peer.base(0);
  assert.equal(peer.backend.state.vrings[0]?.address, undefined);
  peer.tell("SET_VRING_ADDR", addressOf(0));
  peer.tell("SET_VRING_NUM", { index: 0, num: 256 });
  assert.equal(peer.dataplane.running.size, 0);
  peer.tell("SET_VRING_KICK", 0n);
  assert.equal(peer.dataplane.running.size, 1);
  // A kick that never led to a start goes with GET_VRING_BASE, too.
  peer.tell("SET_VRING_KICK", 1n);
  peer.dataplane.takeCalls();
  peer.base(1);
  assert.deepEqual(peer.dataplane.takeCalls(), ["kick 1 none", "call 1 none"]);
  peer.finish();
});

Deno.test("The 510th region is refused", () => {
  const peer = new Peer();
  peer.handshake();
  const region = (i: number): Region => ({
    gpa: BigInt(i) * 4096n,
    size: 4096n,
    userAddress: 0x7f00_0000_0000n + BigInt(i) * 8192n,
    mmapOffset: BigInt(i) * 4096n,
  });
  for (let i = 0; i < 509; i++) peer.tell("ADD_MEM_REG", region(i), { needReply: true });
  peer.refuses("ADD_MEM_REG", region(509), /one region too many: .*: 509 are the limit/);
  peer.tell("ADD_MEM_REG", region(508), { needReply: true });
  peer.tell("REM_MEM_REG", region(3), { needReply: true });
  peer.tell("ADD_MEM_REG", region(509), { needReply: true });
  peer.finish();
});

Deno.test("What the data plane refuses is a nack while nothing happened, and the end after that", () => {
  const peer = new Peer();
  peer.prepare();
  const fail = (which: string) => (call: string) => {
    if (call === which) throw new Error(`Cannot ${call}: wrong fd`);
  };
  peer.dataplane.beforeCall = fail("call 0");
  peer.refuses("SET_VRING_CALL", 0n, /SET_VRING_CALL refused: Cannot call 0: wrong fd/);
  peer.dataplane.beforeCall = fail("enable 0");
  peer.refuses("SET_VRING_ENABLE", { index: 0, num: 1 }, /Cannot enable 0/);
  assert.equal(peer.backend.state.vrings[0]?.enabled, false);
  peer.dataplane.beforeCall = fail("start 0");
  peer.tell("SET_VRING_NUM", { index: 0, num: 256 });
  peer.tell("SET_VRING_BASE", { index: 0, num: 0 });
  peer.tell("SET_VRING_ADDR", addressOf(0));
  const reason = /^SET_VRING_KICK half done: Cannot start 0: wrong fd$/;
  peer.ends("SET_VRING_KICK", 0n, reason, { needReply: true });
  peer.finish();
});

Deno.test("The same refusal again and again is told once", () => {
  const peer = new Peer();
  peer.handshake();
  for (let i = 0; i < 100; i++) peer.refuses("SET_VRING_NUM", { index: 0, num: 0 }, /size of ring 0: 0/);
  peer.refuses("SET_VRING_NUM", { index: 1, num: 0 }, /size of ring 1: 0/);
  assert.equal(peer.events.length, 2);
  peer.finish();
});

Deno.test("The socket for our requests is kept to the end, and replaced by another", () => {
  const peer = new Peer();
  peer.handshake();
  peer.tell("SET_BACKEND_REQ_FD", null, { needReply: true });
  assert.equal(peer.fds.live.size, 1);
  peer.tell("SET_BACKEND_REQ_FD", null, { needReply: true });
  assert.equal(peer.fds.live.size, 1);
  peer.finish();
});

Deno.test("Backend.close() ends a session from our side, silently, once", () => {
  const peer = new Peer();
  peer.prepare();
  peer.startVring(0);
  peer.tell("SET_BACKEND_REQ_FD", null);
  peer.backend.close();
  peer.backend.close();
  peer.channel.hangUp("late");
  assert.equal(peer.closed, undefined);
  peer.finish();
});

Deno.test("A port has as many rings as its offer says", () => {
  const peer = new Peer(makeOffer({ queuePairs: 128 }));
  peer.prepare();
  peer.tell("SET_VRING_ENABLE", { index: 255, num: 1 }, { needReply: true });
  peer.tell("SET_VRING_CALL", 255n, { needReply: true });
  peer.refuses("SET_VRING_ENABLE", { index: 256, num: 1 }, /ring 256: this port has rings 0 to 255/);
  peer.finish();
});

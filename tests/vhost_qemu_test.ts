/** The habits of QEMU 7.2 and 11.1, each as a session; what was captured of them is told beside each. */

import assert from "node:assert/strict";
import { makeOffer } from "../vhost/offer.ts";
import { featureSet, protocolFeatureSet } from "../vhost/spec.ts";
import { addressOf, guestFeatures, packedFeatures, Peer, ram, verdictOf } from "./vhost_peer.ts";

const noFd = 0x100n;

/** What QEMU does per queue pair at connect: eventfds that nobody in the guest listens to yet. */
function connectPair(peer: Peer, pair: number, options = {}): void {
  for (const index of [2 * pair, 2 * pair + 1]) {
    peer.tell("SET_VRING_CALL", BigInt(index), options);
    peer.tell("SET_VRING_ERR", BigInt(index), options);
  }
}

function enableRow(peer: Peer, states: readonly number[], options = {}): void {
  states.forEach((num, index) => peer.tell("SET_VRING_ENABLE", { index, num }, options));
}

Deno.test("QEMU cold start of one pair, message by message", () => {
  const peer = new Peer(makeOffer({ queuePairs: 1 }));
  const features = peer.number("GET_FEATURES", null);
  assert.equal(guestFeatures & ~features, 0n, "everything that a Linux guest takes is offered");
  const protocolFeatures = peer.number("GET_PROTOCOL_FEATURES", null);
  peer.tell("SET_PROTOCOL_FEATURES", protocolFeatures);
  assert.equal(peer.number("GET_QUEUE_NUM", null), 1n);
  assert.equal(peer.number("GET_MAX_MEM_SLOTS", null), 509n);
  peer.tell("SET_BACKEND_REQ_FD", null, { needReply: true });
  peer.tell("SET_OWNER", null);
  assert.equal(peer.number("GET_FEATURES", null), features);
  connectPair(peer, 0);
  for (let i = 0; i < 5; i++) enableRow(peer, [1, 1]);
  assert.deepEqual(peer.dataplane.takeCalls(), ["call 0", "err 0", "call 1", "err 1", "enable 0", "enable 1"]);
  peer.tell("SET_FEATURES", guestFeatures);
  assert.equal(peer.number("GET_STATUS", null), 0n);
  peer.tell("SET_STATUS", 0x8n);
  assert.equal(peer.number("GET_STATUS", null), 0x8n);
  peer.tell("ADD_MEM_REG", ram, { needReply: true });
  assert.deepEqual(peer.events, []);
  peer.startVring(0);
  assert.deepEqual(peer.dataplane.takeCalls(), ["add 0", "kick 0", "start 0", "call 0", "call 0 signalled"]);
  assert.deepEqual(peer.events, [`started 0x${guestFeatures.toString(16)}`]);
  peer.startVring(1);
  peer.tell("SET_STATUS", 0xfn);
  assert.deepEqual(peer.dataplane.running.get(1), {
    features: guestFeatures,
    size: 256,
    base: 0,
    desc: 0x20_0000n,
    avail: 0x28_0000n,
    used: 0x29_0000n,
    flags: 0,
    log: 0x24_0000n,
  });
  assert.equal(peer.fds.live.size, 7, "three eventfds a ring and the request socket; memory's fd is closed");
  peer.finish();
});

Deno.test("QEMU opens one vhost device per pair over one socket: all comes again while earlier pairs run", () => {
  const peer = new Peer(makeOffer({ queuePairs: 4 }));
  const features = guestFeatures | featureSet(["MQ"]);
  for (let pair = 0; pair < 4; pair++) {
    peer.number("GET_FEATURES", null);
    peer.tell("SET_PROTOCOL_FEATURES", peer.number("GET_PROTOCOL_FEATURES", null));
    if (pair === 0) assert.equal(peer.number("GET_QUEUE_NUM", null), 4n);
    peer.number("GET_MAX_MEM_SLOTS", null);
    if (pair === 0) peer.tell("SET_OWNER", null);
    connectPair(peer, pair);
  }
  enableRow(peer, [1, 1, 0, 0, 0, 0, 0, 0]);
  for (let pair = 0; pair < 4; pair++) {
    peer.tell("SET_FEATURES", features);
    peer.number("GET_STATUS", null);
    peer.tell("ADD_MEM_REG", ram, { needReply: true });
    peer.startVring(2 * pair);
    peer.startVring(2 * pair + 1);
  }
  assert.equal(peer.dataplane.takeCalls().filter((call) => call.startsWith("add")).length, 1);
  assert.equal(peer.dataplane.running.size, 8, "rings of unused pairs start, too");
  assert.deepEqual([...peer.dataplane.enabled], [0, 1]);
  assert.equal(peer.fds.live.size, 24, "the fds of repeated regions are closed");

  // `ethtool -L eth0 combined 4` is one row of ENABLE and nothing else.
  enableRow(peer, [1, 1, 1, 1, 1, 1, 1, 1]);
  const expected = ["enable 2", "enable 3", "enable 4", "enable 5", "enable 6", "enable 7"];
  assert.deepEqual(peer.dataplane.takeCalls(), expected);

  // DIMM away: once per pair, without an fd.
  const dimm = { gpa: 1n << 32n, size: 1n << 27n, userAddress: 0x7e00_0000_0000n, mmapOffset: 0n };
  for (let pair = 0; pair < 4; pair++) peer.tell("ADD_MEM_REG", dimm, { needReply: true });
  for (let pair = 0; pair < 4; pair++) peer.tell("REM_MEM_REG", dimm, { needReply: true });
  assert.deepEqual(peer.dataplane.takeCalls(), ["add 100000000", "remove 100000000"]);

  // stop with 4 pairs: rings 0-5, status 0, rings 6-7.
  peer.dataplane.advance = 9;
  for (const index of [0, 1, 2, 3, 4, 5]) assert.equal(peer.base(index), 9);
  peer.tell("SET_STATUS", 0n);
  for (const index of [6, 7]) assert.equal(peer.base(index), 9);
  assert.deepEqual(peer.events.slice(1), ["stopped"]);
  peer.finish();
});

Deno.test("ENABLE is a remembered flag: before SET_FEATURES, and for stopped rings", () => {
  const peer = new Peer();
  peer.handshake();
  enableRow(peer, [1, 0, 1, 0]);
  peer.tell("SET_FEATURES", guestFeatures);
  peer.tell("ADD_MEM_REG", ram);
  for (const index of [0, 1]) peer.startVring(index);
  peer.base(0);
  enableRow(peer, [0, 1, 1, 0]);
  assert.deepEqual([...peer.dataplane.enabled].toSorted(), [1, 2]);
  assert.deepEqual(peer.backend.state.vrings.map((vring) => vring.enabled), [false, true, true, false]);
  peer.finish();
});

Deno.test("REM_MEM_REG: with an fd, which is closed; the mmap offset does not count", () => {
  const peer = new Peer();
  peer.prepare();
  peer.tell("REM_MEM_REG", { ...ram, mmapOffset: 0x1000n }, { fdCount: 1, needReply: true });
  peer.tell("REM_MEM_REG", ram, { fdCount: 1, needReply: true });
  assert.deepEqual(peer.dataplane.takeCalls(), ["add 0", "remove 0"]);
  assert.equal(peer.fds.live.size, 0);
  peer.finish();
});

Deno.test("One memfd for two regions, with a hole between them (-m 1G with VGA)", () => {
  const peer = new Peer();
  peer.handshake();
  peer.tell("SET_FEATURES", guestFeatures);
  const low = { gpa: 0n, size: 0xa_0000n, userAddress: 0x7f11_1110_0000n, mmapOffset: 0n };
  const high = {
    gpa: 0xc_0000n,
    size: 0x3ff4_0000n,
    userAddress: low.userAddress + 0xc_0000n,
    mmapOffset: 0xc_0000n,
  };
  peer.tell("ADD_MEM_REG", low, { needReply: true });
  peer.tell("ADD_MEM_REG", high, { needReply: true });
  peer.tell("SET_VRING_NUM", { index: 0, num: 256 });
  peer.tell("SET_VRING_BASE", { index: 0, num: 0 });
  const desc = low.userAddress + 0x2b3_0000n;
  peer.tell("SET_VRING_ADDR", { index: 0, flags: 0, desc, avail: desc + 0x1000n, used: desc + 0x2000n, log: 0n });
  peer.tell("SET_VRING_KICK", 0n);
  assert.equal(peer.dataplane.running.get(0)?.desc, 0x2b3_0000n);
  peer.finish();
});

Deno.test("-m 4G: two regions by SET_MEM_TABLE, guest addresses with a hole, user addresses without", () => {
  const peer = new Peer();
  peer.handshake(protocolFeatureSet(["CONFIGURE_MEM_SLOTS"]));
  peer.tell("SET_FEATURES", guestFeatures);
  const userAddress = 0x7f00_0000_0000n;
  const regions = [
    { gpa: 0n, size: 0xc000_0000n, userAddress, mmapOffset: 0n },
    {
      gpa: 0x1_0000_0000n,
      size: 0x4000_0000n,
      userAddress: userAddress + 0xc000_0000n,
      mmapOffset: 0xc000_0000n,
    },
  ];
  peer.tell("SET_MEM_TABLE", regions, { needReply: true });
  peer.tell("SET_VRING_NUM", { index: 1, num: 256 });
  peer.tell("SET_VRING_BASE", { index: 1, num: 0 });
  const desc = userAddress + 0xc000_0000n;
  const address = { index: 1, flags: 0, desc, avail: desc + 0x1000n, used: desc + 0x2000n, log: 0n };
  peer.tell("SET_VRING_ADDR", address);
  peer.tell("SET_VRING_KICK", 1n);
  assert.equal(peer.dataplane.running.get(1)?.desc, 0x1_0000_0000n);
  // Areas that are contiguous for QEMU but not for the guest.
  peer.tell("SET_VRING_NUM", { index: 0, num: 256 });
  peer.tell("SET_VRING_BASE", { index: 0, num: 0 });
  peer.tell("SET_VRING_ADDR", { ...address, index: 0, desc: desc - 16n });
  peer.refuses("SET_VRING_KICK", 0n, /desc area of ring 0: 0x7f00bffffff0\+0x1000: lies in no memory region/);
  peer.finish();
});

Deno.test("Unshared RAM without a file: rings whose addresses lie in no region are refused with a hint", () => {
  const peer = new Peer();
  peer.handshake();
  peer.tell("SET_FEATURES", guestFeatures);
  peer.tell("SET_VRING_NUM", { index: 0, num: 256 });
  peer.tell("SET_VRING_BASE", { index: 0, num: 0 });
  peer.tell("SET_VRING_ADDR", addressOf(0));
  const hint = /^SET_VRING_KICK refused: .*guest RAM is not shared: use -object memory-backend-memfd,share=on$/;
  peer.ends("SET_VRING_KICK", 0n, hint);
  peer.finish();
});

Deno.test("QMP stop and cont: SET_STATUS 0 before GET_VRING_BASE forgets no position", () => {
  const peer = new Peer();
  peer.prepare();
  peer.startVring(0);
  peer.startVring(1);
  peer.tell("SET_VRING_BASE", { index: 2, num: 0x55 });
  peer.tell("SET_STATUS", 0xfn);
  peer.dataplane.advance = 0x67;
  peer.tell("SET_STATUS", 0n);
  assert.equal(peer.base(2), 0x55, "nor the base of a ring that has not started");
  assert.equal(peer.base(0), 0x67);
  assert.equal(peer.base(1), 0x67);
  assert.deepEqual(peer.events.slice(1), ["stopped"]);
  peer.dataplane.takeCalls();

  enableRow(peer, [1, 1]);
  peer.tell("SET_FEATURES", guestFeatures);
  peer.startVring(0, { base: 0x67 });
  assert.equal(peer.dataplane.running.get(0)?.base, 0x67);
  const calls = peer.dataplane.takeCalls();
  assert.deepEqual(calls, ["enable 0", "enable 1", "kick 0", "start 0", "call 0", "call 0 signalled"]);
  assert.equal(peer.base(0), 0xce);
  peer.finish();
});

Deno.test("Stopping drops the eventfds of kick and call, and keeps that of err, which came at connect only", () => {
  const peer = new Peer();
  peer.prepare();
  connectPair(peer, 0);
  peer.startVring(0);
  assert.equal(peer.fds.live.size, 5);
  peer.dataplane.takeCalls();
  peer.base(0);
  assert.deepEqual(peer.dataplane.takeCalls(), ["stop 0", "kick 0 none", "call 0 none"]);
  assert.equal(peer.fds.live.size, 3);
  peer.finish();
});

Deno.test("A call eventfd that comes while the ring runs is signalled once, each time", () => {
  const peer = new Peer();
  peer.prepare();
  connectPair(peer, 0);
  peer.startVring(0);
  peer.dataplane.takeCalls();
  peer.tell("SET_VRING_CALL", 0n);
  peer.tell("SET_VRING_CALL", 0n, { needReply: true });
  assert.deepEqual(peer.dataplane.takeCalls(), ["call 0", "call 0 signalled", "call 0", "call 0 signalled"]);
  peer.finish();
});

Deno.test("SET_MEM_TABLE under running rings, unchanged or with a DIMM more, and no GET_VRING_BASE around it", () => {
  const peer = new Peer();
  peer.handshake(protocolFeatureSet(["CONFIGURE_MEM_SLOTS"]));
  peer.tell("SET_FEATURES", guestFeatures);
  peer.tell("SET_MEM_TABLE", [ram], { needReply: true });
  peer.startVring(0);
  const dimm = { gpa: 1n << 32n, size: 1n << 27n, userAddress: 0x7e00_0000_0000n, mmapOffset: 0n };
  peer.dataplane.takeCalls();
  peer.tell("SET_MEM_TABLE", [ram], { needReply: true });
  peer.tell("SET_MEM_TABLE", [ram, dimm], { needReply: true });
  peer.tell("SET_MEM_TABLE", [ram], { needReply: true });
  assert.deepEqual(peer.dataplane.takeCalls(), ["memory 1", "memory 2", "memory 1"]);
  peer.refuses("SET_MEM_TABLE", [dimm], /desc area of ring 0: .* lies in no memory region/);
  peer.refuses("SET_MEM_TABLE", [{ ...ram, gpa: 1n << 30n }], /desc of running ring 0 from 0x100000 to 0x40100000/);
  peer.refuses("SET_MEM_TABLE", [], /desc area of ring 0/);
  assert.deepEqual(peer.dataplane.takeCalls(), []);
  assert.deepEqual(peer.backend.state.memory.regions, [ram]);
  peer.finish();
});

Deno.test("A refused region stays refused, others come and go, and the device goes on", () => {
  const peer = new Peer();
  peer.prepare();
  peer.startVring(0);
  const dimm = { gpa: 1n << 32n, size: 1n << 27n, userAddress: 0x7e00_0000_0000n, mmapOffset: 0n };
  peer.dataplane.beforeCall = (call) => {
    if (call.startsWith("add")) throw new Error("Cannot map: no room");
  };
  peer.refuses("ADD_MEM_REG", dimm, /ADD_MEM_REG refused: Cannot map: no room/);
  peer.tell("REM_MEM_REG", dimm, { needReply: true });
  peer.dataplane.beforeCall = () => {};
  peer.tell("ADD_MEM_REG", dimm, { needReply: true });
  assert.equal(peer.backend.state.memory.regions.length, 2);
  peer.finish();
});

Deno.test("Migration's start and cancel: SET_VRING_ADDR for running rings, only flags and log change", () => {
  const logAll = featureSet(["LOG_ALL"]);
  const peer = new Peer();
  peer.prepare();
  peer.startVring(0);
  peer.startVring(1);
  peer.dataplane.takeCalls();
  assert.equal(peer.number("SET_LOG_BASE", { size: 0x2000n, offset: 0n }), 0n);
  for (let pair = 0; pair < 2; pair++) peer.tell("SET_FEATURES", guestFeatures | logAll, { needReply: true });
  for (const index of [0, 1]) peer.tell("SET_VRING_ADDR", addressOf(index, 1), { needReply: true });
  const all = ["log 0 all 1 140000", "log 1 all 1 240000"];
  assert.deepEqual(peer.dataplane.takeCalls(), [
    ...["log 8192@0", "log 0 all 0 140000", "log 1 all 0 240000"],
    ...all,
  ]);
  peer.tell("SET_FEATURES", guestFeatures);
  for (const index of [1, 0]) peer.tell("SET_VRING_ADDR", addressOf(index, 0), { needReply: true });
  assert.deepEqual(peer.dataplane.takeCalls(), [
    ...["log 0 none 1 140000", "log 1 none 1 240000"],
    ...["log 1 none 0 240000", "log 0 none 0 140000"],
  ]);
  const { desc } = addressOf(0);
  peer.refuses("SET_VRING_ADDR", { ...addressOf(0), desc: desc + 16n }, /desc of running ring 0/);
  peer.finish();
});

Deno.test("A device that starts again while its guest migrates logs from its first packet on", () => {
  const features = guestFeatures | featureSet(["LOG_ALL"]);
  const peer = new Peer();
  peer.prepare();
  peer.tell("SET_FEATURES", features, { needReply: true });
  peer.tell("SET_VRING_NUM", { index: 0, num: 256 });
  peer.tell("SET_VRING_BASE", { index: 0, num: 0 });
  peer.tell("SET_VRING_ADDR", addressOf(0, 1), { needReply: true });
  peer.tell("SET_VRING_KICK", 0n);
  const config = peer.dataplane.running.get(0);
  assert.deepEqual([config?.features, config?.flags, config?.log], [features, 1, 0x14_0000n]);
  peer.dataplane.takeCalls();
  assert.equal(peer.number("SET_LOG_BASE", { size: 0x2000n, offset: 0x1000n }), 0n);
  assert.deepEqual(peer.dataplane.takeCalls(), ["log 8192@4096"]);
  peer.refuses("SET_LOG_BASE", { size: 0n, offset: 0n }, /log of 0 bytes/);
  peer.finish();
});

Deno.test("SEND_RARP comes before there are rings, with the address in its first six bytes", () => {
  const peer = new Peer();
  peer.handshake();
  peer.dataplane.takeCalls();
  peer.tell("SEND_RARP", 0x5634_1200_5452n);
  assert.deepEqual(peer.dataplane.takeCalls(), ["announce 563412005452"]);
  peer.finish();
});

Deno.test("SET_FEATURES under running rings: the same set is accepted, another refused", () => {
  const peer = new Peer();
  peer.prepare();
  peer.startVring(0);
  peer.tell("SET_FEATURES", guestFeatures, { needReply: true });
  const without = guestFeatures & ~featureSet(["MRG_RXBUF"]);
  peer.refuses("SET_FEATURES", without, /features MRG_RXBUF change while rings run/);
  peer.base(0);
  peer.tell("SET_FEATURES", without, { needReply: true });
  peer.finish();
});

Deno.test("device_del and device_add on the same netdev: no handshake, no memory, other addresses", () => {
  const peer = new Peer();
  peer.prepare();
  peer.startVring(0);
  peer.startVring(1);
  peer.tell("SET_STATUS", 0n);
  peer.base(0);
  peer.base(1);
  for (let i = 0; i < 5; i++) enableRow(peer, [1, 1]);
  peer.tell("SET_FEATURES", guestFeatures);
  const moved = addressOf(7);
  for (const index of [0, 1]) {
    peer.tell("SET_VRING_NUM", { index, num: 1024 });
    peer.tell("SET_VRING_BASE", { index, num: 0 });
    const desc = moved.desc + 0x1000n * BigInt(index);
    peer.tell("SET_VRING_ADDR", { ...moved, index, desc, avail: moved.avail, used: moved.used });
    peer.tell("SET_VRING_KICK", BigInt(index));
  }
  assert.equal(peer.dataplane.running.get(0)?.desc, 0x80_0000n);
  assert.equal(peer.dataplane.running.get(0)?.size, 1024);
  peer.finish();
});

Deno.test("Packed rings begin at 0x80008000, and go on where they stopped", () => {
  const peer = new Peer();
  peer.prepare(packedFeatures);
  peer.startVring(0, { base: 0x8000_8000 });
  peer.startVring(1, { base: 0x8000_8000 });
  assert.equal(peer.dataplane.running.get(0)?.base, 0x8000_8000);
  peer.dataplane.advance = 0x67;
  assert.equal(peer.base(0), 0x8067_8067);
  peer.startVring(0, { base: 0x8067_8067 });
  peer.dataplane.advance = 200;
  assert.equal(peer.base(0), 0x002f_002f, "the wrap counter turned");
  // DPDK's virtio-user knows the avail half only.
  peer.startVring(0, { base: 0x8000, size: 1000 });
  peer.finish();
});

Deno.test("QEMU 11: need_reply on CALL, ERR, KICK and ENABLE, RESET_DEVICE again and again", () => {
  const peer = new Peer();
  const answered = { needReply: true };
  peer.handshake();
  connectPair(peer, 0, answered);
  enableRow(peer, [1, 1], answered);
  peer.tell("RESET_DEVICE", null);
  peer.tell("SET_FEATURES", guestFeatures);
  peer.tell("ADD_MEM_REG", ram, answered);
  enableRow(peer, [1, 1], answered);
  peer.startVring(0, answered);
  peer.startVring(1, answered);
  peer.base(0);
  peer.base(1);
  peer.tell("SET_STATUS", 0n);
  for (let i = 0; i < 4; i++) peer.tell("RESET_DEVICE", null, answered);
  const { features, status, memory, vrings } = peer.backend.state;
  assert.deepEqual([features, status, memory.regions.length], [undefined, 0, 1]);
  assert.ok(vrings.every((vring) => !vring.enabled && vring.base === undefined));
  enableRow(peer, [1, 1], answered);
  peer.tell("SET_FEATURES", guestFeatures);
  peer.startVring(0, answered);
  assert.equal(peer.dataplane.running.size, 1);
  peer.finish();
});

Deno.test("RESET_DEVICE stops rings that run, and forgets where they were", () => {
  const peer = new Peer();
  peer.prepare();
  enableRow(peer, [1, 1]);
  peer.startVring(0);
  peer.dataplane.advance = 5;
  peer.dataplane.takeCalls();
  peer.tell("RESET_DEVICE", null, { needReply: true });
  const expected = ["stop 0", "kick 0 none", "call 0 none", "disable 0", "disable 1"];
  assert.deepEqual(peer.dataplane.takeCalls(), expected);
  assert.equal(peer.base(0), 0);
  assert.deepEqual(peer.events.slice(1), ["stopped"]);
  peer.finish();
});

Deno.test("Without bit 30 every ring is enabled at SET_FEATURES", () => {
  const peer = new Peer();
  peer.tell("SET_OWNER", null);
  peer.tell("SET_FEATURES", featureSet(["VERSION_1"]));
  assert.deepEqual([...peer.dataplane.enabled], [0, 1, 2, 3]);
  peer.tell("SET_MEM_TABLE", [ram]);
  peer.startVring(0);
  assert.deepEqual([...peer.dataplane.running.keys()], [0]);
  peer.finish();
});

Deno.test("A kick without an fd means polling: the ring starts, and its fd goes", () => {
  const peer = new Peer();
  peer.prepare();
  peer.startVring(0);
  peer.tell("SET_VRING_NUM", { index: 1, num: 256 });
  peer.tell("SET_VRING_BASE", { index: 1, num: 0 });
  peer.tell("SET_VRING_ADDR", addressOf(1));
  peer.dataplane.takeCalls();
  peer.tell("SET_VRING_KICK", 1n | noFd);
  peer.tell("SET_VRING_CALL", 1n | noFd);
  peer.tell("SET_VRING_KICK", 0n | noFd);
  assert.deepEqual(peer.dataplane.takeCalls(), ["kick 1 none", "start 1", "call 1 none", "kick 0 none"]);
  peer.finish();
});

Deno.test("GET_VRING_BASE of a ring that never ran answers the base that was set", () => {
  const peer = new Peer();
  peer.prepare();
  assert.equal(peer.base(0), 0);
  peer.tell("SET_VRING_BASE", { index: 0, num: 77 });
  assert.equal(peer.base(0), 77);
  assert.equal(peer.base(0), 77);
  assert.deepEqual(peer.dataplane.takeCalls(), ["add 0"]);
  peer.finish();
});

Deno.test("x-query-virtio-queue-status: GET_VRING_BASE again after the ring stopped answers the same", () => {
  const peer = new Peer();
  peer.prepare();
  peer.startVring(0);
  peer.dataplane.advance = 10;
  assert.equal(peer.base(0), 10);
  assert.equal(peer.base(0), 10);
  peer.finish();
});

Deno.test("NET_SET_MTU: any valid one without a limit of ours, else up to that", () => {
  const free = new Peer();
  free.handshake();
  for (const mtu of [68n, 1500n, 9000n, 65535n]) free.tell("NET_SET_MTU", mtu, { needReply: true });
  assert.equal(free.backend.state.mtu, 65535);
  for (const mtu of [0n, 67n, 65536n, 1n << 32n]) {
    free.refuses("NET_SET_MTU", mtu, /MTU \d+: this port takes 68 to 65535/);
  }
  free.finish();
  const bound = new Peer(makeOffer({ mtu: 1500 }));
  bound.handshake();
  bound.tell("NET_SET_MTU", 1500n, { needReply: true });
  bound.refuses("NET_SET_MTU", 9000n, /MTU 9000: this port takes 68 to 1500/);
  bound.finish();
});

Deno.test("host_mtu=: the MTU comes before the feature, and binds once the feature is acknowledged", () => {
  const peer = new Peer();
  const withMtu = guestFeatures | featureSet(["MTU"]);
  peer.handshake();
  peer.tell("NET_SET_MTU", 1400n, { needReply: true });
  assert.deepEqual(peer.dataplane.takeCalls(), []);
  peer.tell("SET_FEATURES", withMtu);
  assert.equal(peer.dataplane.mtu, 1400);
  peer.tell("NET_SET_MTU", 1400n, { needReply: true });
  peer.tell("SET_FEATURES", withMtu);
  peer.tell("NET_SET_MTU", 9000n, { needReply: true });
  assert.deepEqual(peer.dataplane.takeCalls(), ["mtu 1400", "mtu 9000"]);
  peer.tell("RESET_DEVICE", null);
  assert.deepEqual(peer.dataplane.takeCalls(), ["mtu undefined"]);
  peer.tell("SET_FEATURES", guestFeatures);
  assert.equal(peer.dataplane.mtu, undefined, "a guest without the feature was told of no MTU");
  peer.finish();
});

Deno.test("Without REPLY_ACK need_reply asks for nothing", () => {
  const peer = new Peer();
  peer.handshake(protocolFeatureSet(["REPLY_ACK"]));
  assert.equal(peer.ask("SET_OWNER", null, { needReply: true }), "none");
  peer.ends("SET_VRING_NUM", { index: 0, num: 0 }, /size of ring 0: 0/, { needReply: true });
  peer.finish();
});

Deno.test("need_reply on a request with an answer of its own changes nothing", () => {
  const peer = new Peer();
  peer.handshake();
  assert.equal(verdictOf(peer.ask("GET_QUEUE_NUM", null, { needReply: true })), 2n);
  peer.finish();
});

Deno.test("Reconnect inside a device reset: QEMU acknowledges PROTOCOL_FEATURES alone", () => {
  const peer = new Peer();
  peer.prepare(0x4000_0000n);
  enableRow(peer, [1, 1]);
  peer.startVring(0, { base: 5 });
  assert.equal(peer.dataplane.running.get(0)?.features, 0x4000_0000n);
  peer.finish();
});

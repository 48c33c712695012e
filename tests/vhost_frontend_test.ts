/** The front end: what it sends, byte for byte, what it makes of answers, and both ends against each other. */

import assert from "node:assert/strict";
import { Backend } from "../vhost/backend.ts";
import type { Region } from "../vhost/dataplane.ts";
import { HangupError, NackError, ProtocolError } from "../vhost/error.ts";
import { Frontend } from "../vhost/frontend.ts";
import { makeOffer, type Offer } from "../vhost/offer.ts";
import { protocolFeatureSet } from "../vhost/spec.ts";
import { u64, vringState } from "../vhost/wire.ts";
import { FakeChannel, joinedChannels } from "./fake_channel.ts";
import { FakeFds } from "./fake_fds.ts";
import { Recorder } from "./recorder.ts";
import { addressOf, guestFeatures, ram } from "./vhost_peer.ts";

/** A front end whose back end answers by a script: what is popped for each message that awaits an answer. */
function scripted(answers: readonly (Uint8Array | undefined)[]) {
  const channel = new FakeChannel();
  const fds = new FakeFds();
  const left = [...answers];
  const send = channel.send.bind(channel);
  channel.send = (request, flags, payload, fdNumbers) => {
    send(request, flags, payload, fdNumbers);
    const answer = left.shift();
    if (answer === undefined) return;
    queueMicrotask(() => channel.deliver({ request, flags: 0x5, payload: answer, fds: [] }));
  };
  return { channel, fds, frontend: new Frontend(channel, { timeoutMs: 50 }) };
}

/** `request flags payload fds`, as sent. */
function lines(channel: FakeChannel): string[] {
  return channel.sent.map(({ request, flags, payload, fds }) =>
    [request, flags, payload.toHex(), fds.join()].join(" ").trim()
  );
}

/** Both roles, joined. */
function joined(offer: Offer = makeOffer({ queuePairs: 2 })) {
  const fds = new FakeFds();
  const [left, right] = joinedChannels(fds);
  const dataplane = new Recorder(fds);
  const events: string[] = [];
  const backend = new Backend({
    channel: right,
    dataplane,
    offer,
    listener: {
      started: () => events.push("started"),
      stopped: () => events.push("stopped"),
      refused: (reason) => events.push(reason),
      closed: (reason) => events.push(reason),
    },
  });
  return { fds, dataplane, backend, events, frontend: new Frontend(left, { timeoutMs: 1000 }) };
}

const dimm: Region = { gpa: 1n << 32n, size: 1n << 27n, userAddress: 0x7e00_0000_0000n, mmapOffset: 4096n };
const { desc, avail, used, log } = addressOf(0);

Deno.test("Frontend sends a cold start as QEMU does, byte for byte", async () => {
  const offered = makeOffer({ queuePairs: 2 });
  const zero = u64.encode(0n);
  const { channel, frontend } = scripted([
    u64.encode(offered.features),
    u64.encode(offered.protocolFeatures),
    undefined,
    u64.encode(2n),
    u64.encode(509n),
    zero,
    zero,
    u64.encode(offered.features),
  ]);
  await frontend.handshake({ requestSocket: 21 });
  assert.deepEqual([frontend.features, frontend.queuePairs], [offered.features, 2]);
  assert.equal(frontend.protocolFeatures, offered.protocolFeatures);
  assert.deepEqual(lines(channel), [
    "1 1",
    "15 1",
    "16 1 3fb0010000000000",
    "17 1",
    "36 1",
    "21 9  21",
    "3 9",
    "1 1",
  ]);
  frontend.close();
});

Deno.test("Frontend starts a ring in QEMU's order: NUM, BASE, ADDR, KICK, CALL", async () => {
  const { channel, frontend } = scripted([]);
  await frontend.setFeatures(guestFeatures);
  await frontend.setMemory([ram, dimm], [30, 31]);
  await frontend.startVring(1, { size: 256, base: 0x8000_8000, desc, avail, used, log, kick: 7, call: 8 });
  await frontend.setEventfd(1, "err", 9);
  await frontend.enableVring(1, true);
  await frontend.startVring(0, { size: 1, base: 0, desc, avail, used, flags: 1 });
  assert.deepEqual(lines(channel), [
    "2 1 83ff207001000000",
    "5 1 0200000000000000" + "0000000000000000000000100000000000f00000007f00000000000000000000" +
    "0000000001000000000000080000000000000000007e00000010000000000000 30,31",
    "8 1 0100000000010000",
    "10 1 0100000000800080",
    "9 1 0100000000000000" + "00f01000007f0000" + "00f01900007f0000" + "00f01800007f0000" + "0000140000000000",
    "12 1 0100000000000000 7",
    "13 1 0100000000000000 8",
    "14 1 0100000000000000 9",
    "18 1 0100000001000000",
    "8 1 0000000001000000",
    "10 1 0000000000000000",
    "9 1 0000000001000000" + "00f01000007f0000" + "00f01900007f0000" + "00f01800007f0000" + "0000000000000000",
    "12 1 0001000000000000",
    "13 1 0001000000000000",
  ]);
  frontend.close();
});

Deno.test("A whole life: handshake, memory, rings, stop, and back again", async () => {
  const { fds, dataplane, events, frontend } = joined();
  await frontend.handshake();
  await frontend.setFeatures(guestFeatures);
  const files = fds.openMany(6);
  await frontend.setMemory([ram, dimm], [files[0]!.number, files[1]!.number]);
  assert.deepEqual(dataplane.regions, [ram, dimm]);
  await frontend.removeRegion(dimm);
  const [kick, call] = [files[2]!.number, files[3]!.number];
  await frontend.startVring(0, { size: 256, base: 0, desc, avail, used, kick, call });
  await frontend.startVring(1, { size: 256, base: 0, desc: desc + 0x10_0000n, avail, used });
  await frontend.enableVring(0, true);
  assert.deepEqual([...dataplane.running.keys()], [0, 1]);
  dataplane.advance = 33;
  assert.equal(await frontend.stopVring(0), 33);
  assert.equal(await frontend.stopVring(1), 33);
  await frontend.startVring(0, { size: 256, base: 33, desc, avail, used, kick, call });
  assert.equal(dataplane.running.get(0)?.base, 33);
  frontend.close();
  await Promise.resolve();
  assert.deepEqual(events, ["started", "stopped", "started", "peer closed the connection"]);
  for (const file of files) file[Symbol.dispose]();
  assert.deepEqual([...fds.live], []);
  assert.deepEqual([...dataplane.violations, ...fds.violations], []);
});

Deno.test("Without slots the memory is given as one table", async () => {
  const { fds, dataplane, frontend } = joined();
  await frontend.handshake({ protocolFeatures: protocolFeatureSet(["REPLY_ACK", "MQ"]) });
  await frontend.setFeatures(guestFeatures);
  await frontend.setMemory([ram, dimm], [fds.open().number, fds.open().number]);
  assert.deepEqual(dataplane.takeCalls(), ["memory 2"]);
  frontend.close();
});

Deno.test("Requests that overlap wait for each other", async () => {
  const { frontend } = joined();
  await frontend.handshake();
  const [features, queues, base, slots] = await Promise.all([
    frontend.request("GET_FEATURES", null),
    frontend.request("GET_QUEUE_NUM", null),
    frontend.stopVring(3),
    frontend.request("GET_MAX_MEM_SLOTS", null),
  ]);
  assert.deepEqual([features, queues, base, slots], [frontend.features, 2n, 0, 509n]);
  frontend.close();
});

Deno.test("A nack is a NackError, and the session goes on", async () => {
  const { frontend, events } = joined();
  await frontend.handshake();
  await assert.rejects(frontend.enableVring(4, true), (error) => {
    assert.ok(error instanceof NackError);
    return error.message === "SET_VRING_ENABLE refused by the back end: 1";
  });
  assert.equal(events.length, 1);
  await frontend.enableVring(3, true);
  frontend.close();
});

Deno.test("A hang-up is a HangupError for who waits and for who comes later, and resolves `hangup`", async () => {
  const { frontend, events } = joined();
  await frontend.handshake();
  await assert.rejects(frontend.stopVring(4), (error) => {
    assert.ok(error instanceof HangupError);
    return error.message === "GET_VRING_BASE: peer closed the connection";
  });
  assert.match(events[0]!, /^GET_VRING_BASE refused: ring 4: this port has rings 0 to 3$/);
  assert.equal(await frontend.hangup, "peer closed the connection");
  await assert.rejects(frontend.enableVring(0, true), /SET_VRING_ENABLE not sent: peer closed the connection/);
  await assert.rejects(frontend.receive(), HangupError);
});

Deno.test("An answer that does not come in time ends the connection", async () => {
  const { channel, frontend } = scripted([]);
  await assert.rejects(frontend.request("GET_FEATURES", null), /^ProtocolError: GET_FEATURES: no answer within 50 ms$/);
  assert.ok(channel.closed);
});

Deno.test("An answer of another request, with other flags or of another size ends the connection", async () => {
  const wrong = [
    { request: 15, flags: 0x5, payload: u64.encode(0n), reason: /answered with request 15, flags 0x5/ },
    { request: 1, flags: 0x1, payload: u64.encode(0n), reason: /answered with request 1, flags 0x1/ },
    { request: 1, flags: 0xd, payload: u64.encode(0n), reason: /answered with request 1, flags 0xd/ },
    { request: 1, flags: 0x5, payload: new Uint8Array(7), reason: /answered with a payload of another size/ },
  ];
  for (const { reason, ...answer } of wrong) {
    const channel = new FakeChannel();
    const fds = new FakeFds();
    const frontend = new Frontend(channel);
    const asked = frontend.request("GET_FEATURES", null);
    await Promise.resolve();
    channel.deliver({ ...answer, fds: fds.openMany(2) });
    await assert.rejects(asked, (error) => error instanceof ProtocolError && reason.test(error.message));
    assert.ok(channel.closed);
    assert.equal(fds.live.size, 0, "descriptors that nobody asked for are closed");
  }
});

Deno.test("send() and receive(): any message at all, and what comes back", async () => {
  const { fds, frontend, events } = joined();
  await frontend.handshake();
  frontend.send(8, 0x9, vringState.encode({ index: 9, num: 256 }), []);
  const nack = await frontend.receive();
  assert.deepEqual([nack.request, nack.flags, u64.decode(nack.payload)], [8, 0x5, 1n]);
  await assert.rejects(frontend.receive(5), /no answer within 5 ms/);
  const file = fds.open();
  frontend.send(99, 0x1, new Uint8Array(3), [file.number, file.number, file.number]);
  assert.equal(await frontend.hangup, "peer closed the connection");
  assert.equal(events.at(-1), "request 99 refused: the specification has no such request");
  assert.deepEqual([...fds.live], [file.number], "the copies that came with it are closed");
});

Deno.test("close() rejects who waits, and may be repeated", async () => {
  const { frontend } = scripted([]);
  const asked = frontend.request("GET_FEATURES", null);
  await Promise.resolve();
  frontend.close();
  frontend[Symbol.dispose]();
  await assert.rejects(asked, HangupError);
});

Deno.test("A front end without protocol features still gets its rings, all enabled", async () => {
  const { fds, dataplane, frontend } = joined(makeOffer({ withheld: ["PROTOCOL_FEATURES"] }));
  await frontend.handshake();
  assert.equal(frontend.protocolFeatures, 0n);
  await frontend.setFeatures(1n << 32n);
  await frontend.setMemory([ram], [fds.open().number]);
  await frontend.startVring(0, { size: 256, base: 0, desc, avail, used });
  assert.equal(await frontend.stopVring(0), 0);
  assert.deepEqual([...dataplane.enabled], [0, 1]);
  frontend.close();
});

Deno.test("Memory to keep for a back end comes with a descriptor, and is given as it came", async () => {
  const { fds, dataplane, frontend } = joined();
  await frontend.handshake();
  const before = fds.live.size;
  const { inflight, fd } = await frontend.getInflight(4, 256);
  assert.equal(inflight.mmapSize, 3n * 8256n + 8224n);
  assert.equal(fds.live.size, before + 1);
  await frontend.setInflight(inflight, fd.number);
  assert.deepEqual(dataplane.calls, [`inflight ${inflight.mmapSize}@0 4x256`]);
  fd[Symbol.dispose]();
  frontend.close();
  assert.deepEqual([fds.live.size, ...fds.violations], [0]);
});

Deno.test("An answer to GET_INFLIGHT_FD without a descriptor, or of another size, ends the connection", async () => {
  for (const bytes of [24, 8]) {
    const { channel, frontend } = scripted([new Uint8Array(bytes)]);
    await assert.rejects(frontend.getInflight(2, 256), /^ProtocolError: GET_INFLIGHT_FD: answered with 0 descriptors/);
    assert.equal(channel.sent[0]?.payload.toHex(), "00".repeat(16) + "0200000100000000");
    await assert.rejects(frontend.request("GET_FEATURES", null), HangupError);
  }
});

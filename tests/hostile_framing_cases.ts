/**
 * Bytes that are no message, messages in pieces, and messages at the wrong time.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Case, message, scene } from "./hostile_case.ts";
import { joined } from "./hostile_bytes.ts";
import { type Guest, ringNumbers } from "./hostile_guest.ts";
import { laid, messageFlags, Peer } from "./hostile_peer.ts";
import { gone, type Told, type World } from "./hostile_world.ts";
import { u64 } from "../vhost/wire.ts";

const noMessage: Told = [
  "disconnected",
  /^peer sent no message: wrong version bits, or a payload over 1024 bytes$/,
];
const cutShort: Told = ["disconnected", /^peer closed the connection in the middle of a message$/];

const size = message("SET_VRING_NUM", { index: ringNumbers.send, num: 256 });
/** A message that is acknowledged and changes nothing. */
const harmless = laid(size.request, size.payload, { flags: messageFlags.needReply });

/** These bytes end the session of a guest that ran. */
function ends(name: string, bytes: Uint8Array<ArrayBuffer>, told: Told): Case {
  return scene(`${name}: the session ends`, (guest) => {
    guest.peer.sendBytes(bytes);
    assert.deepEqual(guest.peer.untilClosed(), []);
    return { told: [told] };
  });
}

const headerCases: readonly Case[] = [
  ...[0, 2, 3, 8, 0xffff_fffe].map((flags) =>
    ends(`flags 0x${flags.toString(16)}, not of version 1`, laid(1, undefined, { flags }), noMessage)
  ),
  ...[0x5, 0xd].map((flags) =>
    ends(`flags 0x${flags.toString(16)} of an answer`, laid(1, undefined, { flags }), [
      "disconnected",
      /^GET_FEATURES: an answer to no question$/,
    ])
  ),
  ...[0x11, 0x1_0001, 0x8000_0001, 0xffff_fff9].map((flags) =>
    ends(`flags 0x${flags.toString(16)}, some of which mean nothing`, laid(1, undefined, { flags }), [
      "disconnected",
      /^GET_FEATURES: flags 0x\w+: bits above 3 have no meaning$/,
    ])
  ),
  ...[1025, 4096, 0x7fff_ffff, 0x8000_0000, 0xffff_fff4, 0xffff_ffff].map((said) =>
    ends(`a header that promises ${said} bytes`, laid(1, undefined, { size: said }), noMessage)
  ),
];

const lyingCases: readonly Case[] = [
  ends(
    "a size that takes the next message for its payload",
    joined(laid(3, undefined, { size: 12 }), laid(1)),
    ["disconnected", /^SET_OWNER refused: payload of 12 bytes: 0 bytes belong here$/],
  ),
  ends(
    "a size that leaves half its payload for a message",
    laid(size.request, joined(size.payload, new Uint8Array(12)), { size: 8 }),
    noMessage,
  ),
  scene("a size that leaves half its payload, with an ack wanted: nack, and then the session ends", (guest) => {
    guest.peer.sendBytes(laid(size.request, new Uint8Array(16), { size: 4, flags: messageFlags.needReply }));
    assert.deepEqual(guest.peer.answerTo(size.request), u64.encode(1n));
    guest.peer.untilClosed();
    return { told: [["nack", /^SET_VRING_NUM refused: payload of 4 bytes: 8 bytes belong here$/], noMessage] };
  }),
];

/** Leaves after so many bytes of a message of 20. */
const cutCases: readonly Case[] = [1, 4, 11, 12, 13, 19].map((count) =>
  scene(`the end after ${count} bytes of a message: the session ends`, (guest) => {
    guest.peer.sendBytes(harmless.slice(0, count));
    return { told: [cutShort] };
  })
);

/** Sends a stream in pieces of these lengths, again and again. */
function sendInPieces(guest: Guest, bytes: Uint8Array<ArrayBuffer>, lengths: readonly number[]): void {
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const end = Math.min(bytes.length, at + lengths[i % lengths.length]!);
    guest.peer.sendBytes(bytes.slice(at, end));
    at = end;
  }
}

function pieceCase(name: string, count: number, lengths: readonly number[]): Case {
  return scene(`${name}: pass`, (guest, world) => {
    const stream = joined(...Array.from({ length: count }, (_, i) => i % 3 === 0 ? laid(1) : harmless));
    sendInPieces(guest, stream, lengths);
    for (let i = 0; i < count; i++) assert.equal(guest.peer.answerTo(i % 3 === 0 ? 1 : size.request).length, 8);
    world.greet(guest);
  });
}

const pieceCases: readonly Case[] = [
  pieceCase("messages in pieces of one byte", 12, [1]),
  pieceCase("messages in pieces of 11 bytes", 60, [11]),
  pieceCase("messages in pieces of all lengths", 100, Array.from({ length: 37 }, (_, i) => i + 1)),
  pieceCase("two messages in one piece", 2, [1000]),
  pieceCase("100 messages in one piece", 100, [10_000]),
  scene("a message in pieces of one byte, its descriptors with the first: passes", (guest, world) => {
    const { parts } = guest.memory;
    const { request, payload } = message("SET_MEM_TABLE", parts);
    const bytes = laid(request, payload, { flags: messageFlags.needReply });
    guest.peer.sendBytes(bytes.slice(0, 1), parts.map((part) => part.fd));
    sendInPieces(guest, bytes.slice(1), [1]);
    assert.deepEqual(guest.peer.answerTo(request), u64.encode(0n));
    world.greet(guest);
  }),
  scene("a message cut in two, with other things between: passes", (guest, world) => {
    for (let i = 1; i < harmless.length; i++) {
      guest.peer.sendBytes(harmless.slice(0, i));
      world.greet(guest);
      guest.peer.sendBytes(harmless.slice(i));
      assert.deepEqual(guest.peer.answerTo(size.request), u64.encode(0n));
    }
  }),
];

/** A connection on which nothing was said before. */
function fresh(name: string, told: Told, act: (peer: Peer, world: World) => void): Case {
  return {
    name: `at once, ${name}`,
    run: (world) => {
      using peer = new Peer(world.socket);
      act(peer, world);
      return { told: [told] };
    },
  };
}

function freshBytes(name: string, bytes: Uint8Array<ArrayBuffer>, told: Told): Case {
  return fresh(`${name}: the session ends`, told, (peer) => {
    peer.sendBytes(bytes);
    assert.deepEqual(peer.untilClosed(), []);
  });
}

function refusal(name: string, reason: string): Told {
  return ["disconnected", new RegExp(`^${name} refused: ${reason}$`)];
}

const region = { gpa: 0n, size: 4096n, userAddress: 0n, mmapOffset: 0n };

const freshCases: readonly Case[] = [
  fresh("the end: one line", gone, () => {}),
  fresh("one byte and the end: one line", cutShort, (peer) => peer.sendBytes(new Uint8Array(1))),
  freshBytes("zeros", new Uint8Array(12), noMessage),
  freshBytes("4 KiB of ones", new Uint8Array(4096).fill(0xff), noMessage),
  freshBytes("a web browser", new TextEncoder().encode("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), noMessage),
  freshBytes("a secure shell", new TextEncoder().encode("SSH-2.0-OpenSSH_9.2\r\n"), noMessage),
  freshBytes("a QMP client", new TextEncoder().encode('{ "execute": "qmp_capabilities" }\n'), noMessage),
  ...[
    { name: "ADD_MEM_REG", ...message("ADD_MEM_REG", region), feature: "CONFIGURE_MEM_SLOTS" },
    { name: "REM_MEM_REG", ...message("REM_MEM_REG", region), feature: "CONFIGURE_MEM_SLOTS" },
    { name: "GET_MAX_MEM_SLOTS", ...message("GET_MAX_MEM_SLOTS", null), feature: "CONFIGURE_MEM_SLOTS" },
    { name: "SET_STATUS", ...message("SET_STATUS", 0n), feature: "STATUS" },
    { name: "GET_STATUS", ...message("GET_STATUS", null), feature: "STATUS" },
  ].flatMap(({ name, request, payload, feature }) =>
    Object.entries({ "without": messageFlags.plain, "with": messageFlags.needReply }).map(([how, flags]) =>
      freshBytes(
        `${name} ${how} need_reply, before it was negotiated`,
        laid(request, payload, { flags }),
        refusal(name, `feature ${feature} was not negotiated`),
      )
    )
  ),
  // Without REPLY_ACK need_reply means nothing.
  freshBytes(
    "a refusal with need_reply, before REPLY_ACK was negotiated",
    laid(8, message("SET_VRING_NUM", { index: 0, num: 0 }).payload, { flags: messageFlags.needReply }),
    refusal("SET_VRING_NUM", "size of ring 0: 0: give 1 to 32768"),
  ),
  fresh("need_reply before REPLY_ACK was negotiated: no ack", gone, (peer) => {
    peer.send(3, undefined, { flags: messageFlags.needReply });
    peer.send(1);
    peer.answerTo(1);
  }),
  fresh("ENABLE and GET_VRING_BASE before anything else: pass", gone, (peer) => {
    for (let index = 0; index < 4; index++) {
      peer.send(18, message("SET_VRING_ENABLE", { index, num: 1 }).payload);
      assert.deepEqual(peer.query("GET_VRING_BASE", { index, num: 0 }), new Uint8Array([index, 0, 0, 0, 0, 0, 0, 0]));
    }
  }),
  fresh("rings that are kicked before anything else: they wait", gone, (peer) => {
    for (let index = 0n; index < 4n; index++) peer.send(12, u64.encode(index | 0x100n));
    peer.number("GET_FEATURES", null);
  }),
];

export const framingCases: readonly Case[] = [
  ...headerCases,
  ...lyingCases,
  ...cutCases,
  ...pieceCases,
  ...freshCases,
];

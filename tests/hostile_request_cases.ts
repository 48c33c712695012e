/**
 * Requests of wrong sizes, of features that were not offered, and of no meaning at all.
 *
 * @module
 */

import { featureBits, featureSet, protocolFeatureBits, protocolFeatureSet } from "../vhost/spec.ts";
import { accepted, type Case, ended, message, nacked, refused } from "./hostile_case.ts";
import { messageFlags } from "./hostile_peer.ts";
import * as system from "./hostile_system.ts";
import { commonFeatures } from "./hostile_guest.ts";

interface Shape {
  readonly name: string;
  readonly number: number;
  /** Of its payload. */
  readonly bytes: number;
  /** Has an answer of its own, so that nobody can be told of a refusal. */
  readonly answered?: boolean;
  /** Its answer is a verdict, whether one was asked for or not. */
  readonly verdict?: boolean;
  /** A descriptor belongs to it. */
  readonly fd?: boolean;
}

/** Requests that this back end knows (vhost-user, Front-end message types). */
const known: readonly Shape[] = [
  { name: "GET_FEATURES", number: 1, bytes: 0, answered: true },
  { name: "SET_FEATURES", number: 2, bytes: 8 },
  { name: "SET_OWNER", number: 3, bytes: 0 },
  { name: "RESET_OWNER", number: 4, bytes: 0 },
  { name: "SET_MEM_TABLE", number: 5, bytes: 40 },
  { name: "SET_LOG_BASE", number: 6, bytes: 16, fd: true, verdict: true },
  { name: "SET_LOG_FD", number: 7, bytes: 0, fd: true },
  { name: "SET_VRING_NUM", number: 8, bytes: 8 },
  { name: "SET_VRING_ADDR", number: 9, bytes: 40 },
  { name: "SET_VRING_BASE", number: 10, bytes: 8 },
  { name: "GET_VRING_BASE", number: 11, bytes: 8, answered: true },
  { name: "SET_VRING_KICK", number: 12, bytes: 8 },
  { name: "SET_VRING_CALL", number: 13, bytes: 8 },
  { name: "SET_VRING_ERR", number: 14, bytes: 8 },
  { name: "GET_PROTOCOL_FEATURES", number: 15, bytes: 0, answered: true },
  { name: "SET_PROTOCOL_FEATURES", number: 16, bytes: 8 },
  { name: "GET_QUEUE_NUM", number: 17, bytes: 0, answered: true },
  { name: "SET_VRING_ENABLE", number: 18, bytes: 8 },
  { name: "SEND_RARP", number: 19, bytes: 8 },
  { name: "NET_SET_MTU", number: 20, bytes: 8 },
  { name: "SET_BACKEND_REQ_FD", number: 21, bytes: 0, fd: true },
  { name: "RESET_DEVICE", number: 34, bytes: 0 },
  { name: "GET_MAX_MEM_SLOTS", number: 36, bytes: 0, answered: true },
  { name: "ADD_MEM_REG", number: 37, bytes: 40, fd: true },
  { name: "REM_MEM_REG", number: 38, bytes: 40 },
  { name: "SET_STATUS", number: 39, bytes: 8 },
  { name: "GET_STATUS", number: 40, bytes: 0, answered: true },
];

/** Requests of features that are not offered. */
const foreign: readonly Shape[] = [
  { name: "IOTLB_MSG", number: 22, bytes: 32 },
  { name: "SET_VRING_ENDIAN", number: 23, bytes: 8 },
  { name: "GET_CONFIG", number: 24, bytes: 12 + 256, answered: true },
  { name: "SET_CONFIG", number: 25, bytes: 12 },
  { name: "CREATE_CRYPTO_SESSION", number: 26, bytes: 1024, answered: true },
  { name: "CLOSE_CRYPTO_SESSION", number: 27, bytes: 8 },
  { name: "POSTCOPY_ADVISE", number: 28, bytes: 0, answered: true },
  { name: "POSTCOPY_LISTEN", number: 29, bytes: 0 },
  { name: "POSTCOPY_END", number: 30, bytes: 0 },
  { name: "GPU_SET_SOCKET", number: 33, bytes: 0, fd: true },
  { name: "VRING_KICK", number: 35, bytes: 8 },
  { name: "GET_SHARED_OBJECT", number: 41, bytes: 16, answered: true },
  { name: "SET_DEVICE_STATE_FD", number: 42, bytes: 8, fd: true, answered: true },
  { name: "CHECK_DEVICE_STATE", number: 43, bytes: 0 },
  { name: "GET_SHMEM_CONFIG", number: 44, bytes: 0, answered: true },
];

const payloadMax = 1024;
const anyFile = system.memoryFile(4096);

/** One byte less, one more, none at all, and far too many; both ways to refuse in turn. */
function sizeCases({ name, number, bytes, answered = false, verdict = false, fd = false }: Shape): Case[] {
  const sizes = [bytes - 1, bytes + 1, 0, payloadMax].filter((size) => size >= 0 && size !== bytes);
  return sizes.map((size, i) => {
    const refusal = {
      name: `${name} of ${size} bytes`,
      request: number,
      payload: new Uint8Array(size),
      fds: fd ? [anyFile] : [],
      reason: new RegExp(`^${name} refused: payload of ${size} bytes: .* belong here$`),
    };
    if (answered) return ended(refusal, i % 2 === 0 ? messageFlags.plain : messageFlags.needReply);
    return verdict || i % 2 === 0 ? nacked(refusal) : ended(refusal);
  });
}

function foreignCases({ name, number, bytes, answered = false, fd = false }: Shape): Case[] {
  const refusal = {
    name: `${name}, which was not offered`,
    request: number,
    payload: new Uint8Array(bytes),
    fds: fd ? [anyFile] : [],
    reason: new RegExp(`^${name} refused: (feature .* was not (offered|negotiated)|this back end cannot do it)$`),
  };
  return answered ? [ended(refusal), ended(refusal, messageFlags.needReply)] : refused(refusal);
}

function unknownCases(): Case[] {
  return [0, 45, 1000, 0x1_0001, 0xffff_ffff].flatMap((request) =>
    refused({
      name: `request ${request}`,
      request,
      payload: new Uint8Array(8),
      reason: new RegExp(`^request ${request} refused: the specification has no such request$`),
    })
  );
}

/** Every feature that has a name or could have one, and is not offered. */
function featureCases(): Case[] {
  const bits = [featureBits.ACCESS_PLATFORM, featureBits.RING_RESET, featureBits.CTRL_VQ, 31, 63];
  return bits.flatMap((bit, i) => {
    const refusal = {
      name: `SET_FEATURES with bit ${bit}, which was not offered`,
      stage: "reset" as const,
      ...message("SET_FEATURES", commonFeatures | 1n << BigInt(bit)),
      reason: /^SET_FEATURES refused: features .* were not offered$/,
    };
    return i < 2 ? refused(refusal) : nacked(refusal);
  });
}

function protocolFeatureCases(): Case[] {
  const { PAGEFAULT, CONFIG, SHARED_OBJECT, DEVICE_STATE } = protocolFeatureBits;
  return [PAGEFAULT, CONFIG, SHARED_OBJECT, DEVICE_STATE, 31, 63].flatMap((bit, i) => {
    const refusal = {
      name: `SET_PROTOCOL_FEATURES with bit ${bit}, which was not offered`,
      stage: "reset" as const,
      ...message("SET_PROTOCOL_FEATURES", protocolFeatureSet(["REPLY_ACK"]) | 1n << BigInt(bit)),
      reason: /^SET_PROTOCOL_FEATURES refused: protocol features .* were not offered$/,
    };
    return i < 2 ? refused(refusal) : nacked(refusal);
  });
}

/** What may not change while rings run, and what may. */
function runningCases(): Case[] {
  const withRings = commonFeatures | featureSet(["RING_PACKED"]);
  return [
    ...refused({
      name: "SET_FEATURES with another ring format while rings run",
      ...message("SET_FEATURES", withRings),
      reason: /^SET_FEATURES refused: features RING_PACKED change while rings run/,
    }),
    nacked({
      name: "SET_FEATURES without VERSION_1 while rings run",
      ...message("SET_FEATURES", commonFeatures & ~featureSet(["VERSION_1"])),
      reason: /^SET_FEATURES refused: features VERSION_1 change while rings run/,
    }),
    nacked({
      name: "SET_FEATURES with nothing while rings run",
      ...message("SET_FEATURES", 0n),
      reason: /^SET_FEATURES refused: features .* change while rings run/,
    }),
    accepted({ name: "SET_FEATURES with the same while rings run", ...message("SET_FEATURES", commonFeatures) }),
    ...refused({
      name: "SET_PROTOCOL_FEATURES with fewer while rings run",
      ...message("SET_PROTOCOL_FEATURES", protocolFeatureSet(["REPLY_ACK"])),
      reason: /^SET_PROTOCOL_FEATURES refused: protocol features .* change while rings run/,
    }),
    accepted({ name: "SET_OWNER again while rings run", ...message("SET_OWNER", null) }),
    accepted({ name: "RESET_OWNER while rings run", ...message("RESET_OWNER", null) }),
    accepted({ name: "SET_STATUS 0 while rings run", ...message("SET_STATUS", 0n) }),
  ];
}

function valueCases(): Case[] {
  const mtu = [0n, 67n, 65536n, 1n << 32n, 0xffff_ffff_ffff_ffffn].map((value, i) => {
    const reason = new RegExp(`^NET_SET_MTU refused: MTU ${value}: this port takes 68 to 65535$`);
    const refusal = { name: `NET_SET_MTU ${value}`, ...message("NET_SET_MTU", value), reason };
    return i % 2 === 0 ? nacked(refusal) : ended(refusal);
  });
  const status = [256n, 0xffff_ffff_ffff_ffffn].flatMap((value) =>
    refused({ name: `SET_STATUS ${value}`, ...message("SET_STATUS", value), reason: /^SET_STATUS refused: status 0x/ })
  );
  return [
    ...mtu,
    ...status,
    ...[68n, 65535n].map((value) => accepted({ name: `NET_SET_MTU ${value}`, ...message("NET_SET_MTU", value) })),
    accepted({ name: "SET_STATUS 255", ...message("SET_STATUS", 255n) }),
  ];
}

export const requestCases: readonly Case[] = [
  ...known.flatMap(sizeCases),
  ...foreign.flatMap(foreignCases),
  ...unknownCases(),
  ...featureCases(),
  ...protocolFeatureCases(),
  ...runningCases(),
  ...valueCases(),
];

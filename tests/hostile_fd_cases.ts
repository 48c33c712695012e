/**
 * Descriptors: too few, too many, and of kinds that nobody can use.
 *
 * @module
 */

import assert from "node:assert/strict";
import { accepted, assertClosed, type Case, ended, message, nacked, refused, scene } from "./hostile_case.ts";
import { type Guest, ringNumbers } from "./hostile_guest.ts";
import type { Part } from "./hostile_memory.ts";
import { laid, messageFlags } from "./hostile_peer.ts";
import * as system from "./hostile_system.ts";
import { regions } from "./hostile_world.ts";

const bytes = 0x1_0000;
const event = system.eventfd();
const file = system.memoryFile(bytes);
const [pipeOut, pipeIn] = system.pipe();
const [socket, otherSocket] = system.socketPair();
const [lonelySocket, goneSocket] = system.socketPair();
system.close(goneSocket);
const [brokenPipe, gonePipe] = system.pipe();
system.close(gonePipe);

/** What is no eventfd. */
const noEventfds: Readonly<Record<string, number>> = {
  "the end of a pipe to read": pipeOut,
  "the end of a pipe to write": pipeIn,
  "a pipe that nobody writes to": brokenPipe,
  "a directory": system.open("/", "read"),
  "a socket": socket,
  "a socket without a peer": lonelySocket,
  "/dev/zero": system.open("/dev/zero", "both"),
  "a memory file": file,
  "a program": system.open("/proc/self/exe", "read"),
  "an epoll set": system.epoll(),
  "a timer": system.timer(),
  "an eventfd that was opened for its name only": system.reopen(event, "path"),
};

/** What cannot be guest memory, and why. */
const noMemory: Readonly<Record<string, readonly [fd: number, reason: string]>> = {
  "the end of a pipe to read": [pipeOut, "wrong fd"],
  "a directory": [system.open("/", "read"), "wrong fd"],
  "a socket": [otherSocket, "wrong fd"],
  "/dev/zero": [system.open("/dev/zero", "both"), "wrong fd"],
  "an epoll set": [system.epoll(), "wrong fd"],
  "a timer": [system.timer(), "wrong fd"],
  "an eventfd": [event, "wrong fd"],
  "a file that may only be read": [system.reopen(file, "read"), "permission denied"],
  "a file that may only be written": [system.reopen(file, "write"), "permission denied"],
  "a file that was opened for its name only": [system.reopen(file, "path"), "system error 9"],
  "a file sealed against writing": [system.memoryFile(bytes, system.seals.write), "operation not permitted"],
  "a file one byte too short": [system.memoryFile(bytes - 1), "file too short"],
  "an empty file": [system.memoryFile(0), "file too short"],
};

const eventfdRequests = ["SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR"] as const;

function eventfdKindCases(): Case[] {
  return eventfdRequests.flatMap((name, i) =>
    Object.entries(noEventfds).flatMap(([kind, fd], k) => {
      const refusal = {
        name: `${name} with ${kind}`,
        ...message(name, BigInt(ringNumbers.send)),
        fds: [fd],
        reason: new RegExp(`^${name} refused: Cannot set \\w+ fd of vring 1: (wrong fd|system error 9)$`),
      };
      return (k + i) % 4 === 0 ? refused(refusal) : nacked(refusal);
    })
  );
}

const extra = { gpa: 0x2_0000_0000n, size: BigInt(bytes), userAddress: 0x6000_0000_0000n, mmapOffset: 0n };

function memoryKindCases(): Case[] {
  return Object.entries(noMemory).flatMap(([kind, [fd, why]], i) => {
    const added = {
      name: `ADD_MEM_REG with ${kind}`,
      ...message("ADD_MEM_REG", extra),
      fds: [fd],
      reason: new RegExp(`^ADD_MEM_REG refused: Cannot map region at 0x200000000: ${why}$`),
    };
    // The regions before the bad one are mapped already when it turns out to be one.
    const table = {
      name: `SET_MEM_TABLE with ${kind} for its last region`,
      ...message("SET_MEM_TABLE", []),
      payload: (guest: Guest) => message("SET_MEM_TABLE", [...guest.memory.parts, extra]).payload,
      fds: (guest: Guest) => [...guest.memory.parts.map((part) => part.fd), fd],
      reason: new RegExp(`^SET_MEM_TABLE refused: Cannot map guest memory: ${why}$`),
    };
    return i % 4 === 0 ? [...refused(added), ...refused(table)] : [nacked(added), nacked(table)];
  });
}

/** Too few and too many of what belongs there. */
function countCases(): Case[] {
  const wrong = (count: number) => ({ fds: Array.from({ length: count }, () => event) });
  const reason = (name: string, count: number) => new RegExp(`^${name} refused: ${count} file descriptors: `);
  const one = (["SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR"] as const).flatMap((name) =>
    [0, 2, 8].flatMap((count, i) => {
      const what = { ...message(name, BigInt(ringNumbers.send)), ...wrong(count), reason: reason(name, count) };
      const refusal = { name: `${name} with ${count} descriptors`, ...what };
      return i === 0 ? refused(refusal) : nacked(refusal);
    })
  );
  const none = (["SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR"] as const).flatMap((name) =>
    [1, 8].map((count) =>
      nacked({
        name: `${name} that has none, with ${count} descriptors`,
        ...message(name, BigInt(ringNumbers.send) | 0x100n),
        ...wrong(count),
        reason: reason(name, count),
      })
    )
  );
  const unwanted = [
    message("SET_VRING_NUM", { index: 1, num: 256 }),
    message("SET_FEATURES", 0n),
    message("RESET_DEVICE", null),
  ].flatMap((what) =>
    [1, 8].flatMap((count) =>
      refused({
        name: `request ${what.request} with ${count} descriptors that do not belong there`,
        ...what,
        ...wrong(count),
        reason: /refused: [18] file descriptors: none belongs here$/,
      })
    )
  );
  return [...one, ...none, ...unwanted];
}

function memoryCountCases(): Case[] {
  const cases: Case[] = [0, 2, 8].map((count) =>
    nacked({
      name: `ADD_MEM_REG with ${count} descriptors`,
      ...message("ADD_MEM_REG", extra),
      fds: Array.from({ length: count }, () => file),
      reason: new RegExp(`^ADD_MEM_REG refused: ${count} file descriptors: one belongs here$`),
    })
  );
  const table = (guest: Guest) => message("SET_MEM_TABLE", guest.memory.parts).payload;
  cases.push(...[0, 2, 4, 8].flatMap((count) =>
    refused({
      name: `SET_MEM_TABLE of 3 regions with ${count} descriptors`,
      ...message("SET_MEM_TABLE", []),
      payload: table,
      fds: Array.from({ length: count }, () => file),
      reason: new RegExp(`^SET_MEM_TABLE refused: ${count} file descriptors: one for each region belongs here$`),
    })
  ));
  const far = (guest: Guest): Part => guest.memory.parts.find(({ gpa }) => gpa === regions.far)!;
  const removal = {
    ...message("REM_MEM_REG", extra),
    payload: (guest: Guest) => message("REM_MEM_REG", far(guest)).payload,
  };
  cases.push(
    accepted({ name: "REM_MEM_REG with a descriptor, which is closed", ...removal, fds: [file] }),
    nacked({
      name: "REM_MEM_REG with 2 descriptors",
      ...removal,
      fds: [file, file],
      reason: /^REM_MEM_REG refused: 2 file descriptors: none, or one to be closed belongs here$/,
    }),
  );
  return cases;
}

/** Those that wait for an answer cannot be told. */
const answeredCases: readonly Case[] = (["GET_FEATURES", "GET_QUEUE_NUM", "GET_STATUS"] as const).map((name, i) =>
  ended({
    name: `${name} with ${1 + 7 * i} descriptors`.replace("15", "8"),
    ...message(name, null),
    fds: Array.from({ length: Math.min(8, 1 + 7 * i) }, () => event),
    reason: new RegExp(`^${name} refused: \\d file descriptors: none belongs here$`),
  }, i === 1 ? messageFlags.needReply : messageFlags.plain)
);

/** More than a message may have: 253 are the kernel's own limit. */
const surplusCases: readonly Case[] = [9, 16, 100, 253].map((count) =>
  scene(`${count} descriptors with one message: the session ends`, (guest) => {
    const fds = Array.from({ length: count }, () => event);
    guest.peer.send(1, undefined, { fds });
    assertClosed(guest);
    return {
      told: [["disconnected", /^peer sent more file descriptors than 8, or than this process may open \(ulimit -n\)$/]],
    };
  })
);

/** Descriptors count with the header only: behind it the kernel is asked for none, and drops them. */
const lateCases: readonly Case[] = [12, 15].map((first) =>
  scene(`descriptors with byte ${first} of a message: they are dropped`, (guest, world) => {
    const bytes = laid(8, message("SET_VRING_NUM", { index: 1, num: 256 }).payload, { flags: messageFlags.needReply });
    guest.peer.sendBytes(bytes.slice(0, first));
    guest.peer.sendBytes(bytes.slice(first), Array.from({ length: 8 }, () => event));
    assert.deepEqual(guest.peer.answerTo(8), new Uint8Array(8));
    world.greet(guest);
  })
);

/** A socket for requests of ours that is none, or does not listen to us, is never missed: nothing is asked yet. */
const requestSocketCases: readonly Case[] = [
  ...Object.entries({ "a socket": socket, "a socket without a peer": lonelySocket, "a pipe": pipeIn, "a file": file })
    .map(([kind, fd]) =>
      accepted({ name: `SET_BACKEND_REQ_FD with ${kind}`, ...message("SET_BACKEND_REQ_FD", null), fds: [fd] })
    ),
  scene("SET_BACKEND_REQ_FD 200 times: one is kept", (guest, world) => {
    const before = world.serve.census().fds;
    for (let i = 0; i < 200; i++) guest.peer.tell("SET_BACKEND_REQ_FD", null, [socket]);
    assert.equal(world.serve.census().fds, before + 1);
    world.greet(guest);
  }),
];

export const fdCases: readonly Case[] = [
  ...eventfdKindCases(),
  ...memoryKindCases(),
  ...countCases(),
  ...memoryCountCases(),
  ...answeredCases,
  ...surplusCases,
  ...lateCases,
  ...requestSocketCases,
];

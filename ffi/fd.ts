/**
 * File descriptors by number: owning, closing, telling apart, and the two kinds that Deno cannot make.
 *
 * @module
 */

import { Fd } from "../vhost/fd.ts";
import type { FileIdentity } from "../vhost/link_table.ts";
import { FdKind } from "./abi.gen.ts";
import { check, library, VringError } from "./library.ts";
import { emptyStruct, readStruct } from "./struct.ts";

/** What a descriptor is; `closed` when it is none of this process. */
export type FdKindName = keyof typeof FdKind;

const errnoAgain = 11;
const kindNames = new Map(Object.entries(FdKind).map(([name, number]) => [number as number, name as FdKindName]));

/** Makes an owner for an open descriptor. */
export function ownFd(number: number): Fd {
  return new Fd(number, (fd) => library().fd_close(fd));
}

export function fdKind(fd: number): FdKindName {
  return kindNames.get(library().fd_kind(fd)) ?? "other";
}

/** Whether it is a Unix stream socket that listens. */
export function fdListens(fd: number): boolean {
  return library().fd_listens(fd) === 1;
}

/** Writes all of it, 4096 bytes at most, or throws; never waits. */
export function writePipe(fd: number, bytes: Uint8Array<ArrayBuffer>): void {
  if (fdKind(fd) !== "pipe") throw new TypeError(`Cannot write state: descriptor is a ${fdKind(fd)}: give a pipe`);
  check("write state", library().fd_write_now(fd, bytes, bytes.length));
}

/** What has come, `length` bytes at most, none at the end; undefined where nothing has come yet. Never waits. */
export function readPipe(fd: number, length: number): Uint8Array<ArrayBuffer> | undefined {
  if (fdKind(fd) !== "pipe") throw new TypeError(`Cannot read state: descriptor is a ${fdKind(fd)}: give a pipe`);
  const bytes = new Uint8Array(length);
  const code = library().fd_read_now(fd, bytes, length);
  if (code < 0 && new VringError("read state", code).errno === errnoAgain) return undefined;
  return bytes.slice(0, check("read state", code));
}

/** An eventfd with an empty counter. */
export function openEventfd(): Fd {
  return ownFd(check("open eventfd", library().fd_eventfd()));
}

/** Adds one to an eventfd's counter, which wakes whoever waits for it. */
export function signalEventfd(fd: number): void {
  library().fd_signal(fd);
}

/** Empties an eventfd's counter and returns what it was, at most 2^31 - 1; 0 when it was empty. */
export function drainEventfd(fd: number): number {
  return library().fd_drain(fd);
}

/** An anonymous file of `size` bytes that others may map; nobody can make it shorter. */
export function openMemoryFile(size: bigint): Fd {
  const bytes = new BigUint64Array([size]);
  return ownFd(check(`make memory file of ${size} bytes`, library().fd_memory_file(bytes)));
}

/** Which file it is. Throws `VringError`: status `wrong_fd` where it is no file. */
export function identifyFile(fd: number): FileIdentity {
  const row = emptyStruct("FileIdentity");
  check("identify file", library().fd_identify(fd, row));
  const { device, inode, size_bytes: size } = readStruct("FileIdentity", row);
  return { device, inode, size };
}

/**
 * Sends bytes, and a descriptor, borrowed, with them, through a Unix socket; never waits. Throws `VringError`:
 * `errno` 11 where there is no room.
 */
export function sendBytes(socket: number, bytes: Uint8Array<ArrayBuffer>, fd: number | undefined): void {
  check("send to peer", library().fd_send(socket, bytes, bytes.length, fd ?? -1));
}

/**
 * What the control plane asks of the data plane, as an interface.
 *
 * `vhost/` decides, an implementation (`ffi/port.ts`, or a recorder in tests) carries out. Every
 * call is synchronous: when it returns, the workers have adopted the change. Every call either does
 * all of its work or throws and changes nothing; a thrown error becomes a nack or ends the session.
 *
 * @module
 */
import type { Fd } from "./fd.ts";

/** A row of the memory table. Addresses and sizes in bytes. */
export interface Region {
  /** Guest-physical address: what descriptors hold. */
  readonly gpa: bigint;
  readonly size: bigint;
  /** The front end's own address of the region: what SET_VRING_ADDR holds. */
  readonly userAddress: bigint;
  readonly mmapOffset: bigint;
}

/** A ring's configuration, frozen from start to stop. Addresses are guest-physical. */
export interface VringConfig {
  readonly features: bigint;
  /** Number of descriptors. */
  readonly size: number;
  /** As in SET_VRING_BASE: split, the next avail index; packed, indexes and wrap counters. */
  readonly base: number;
  readonly desc: bigint;
  readonly avail: bigint;
  readonly used: bigint;
  /** As in SET_VRING_ADDR. */
  readonly flags: number;
  readonly log: bigint;
}

/** Which of a ring's three eventfds. */
export type VringFd = "kick" | "call" | "err";

/** One port's half of the data plane, driven by its session. Rings are numbered as on the wire. */
export interface Dataplane {
  /** The longest frame to the guest, without its Ethernet header, in bytes; the port's own limit, if undefined. */
  setMtu(mtu: number | undefined): void;
  /** Replaces the whole table at once, also under running rings. Maps `fds[i]` for `regions[i]`; borrows the fds. */
  setMemory(regions: readonly Region[], fds: readonly Fd[]): void;
  /** Adds one region under running rings; borrows the fd. */
  addRegion(region: Region, fd: Fd): void;
  /** Removes the region with this guest address and size. */
  removeRegion(region: Region): void;
  /** Memory of `size` bytes, all 0, for `setInflight`; the caller's. */
  makeInflight(size: bigint): Fd;
  /**
   * What it has in hand of the first `queues` rings, of `queueSize` at most, it writes to `size` bytes of a file from
   * `offset` on, too, and where nothing else is known takes it from there; borrows the fd. No ring runs.
   */
  setInflight(fd: Fd, size: bigint, offset: bigint, queues: number, queueSize: number): void;
  /** Starts a stopped ring. */
  startVring(index: number, config: VringConfig): void;
  /** Stops a ring, after its in-flight work is complete. Returns its base, as GET_VRING_BASE answers it. */
  stopVring(index: number): number;
  /**
   * Marks what is written to the guest in `size` bytes of a file from `offset` on, in place of any log before; borrows
   * the fd. Throws where the file has no such part. A want of our own is no reason to throw, since a front end may not
   * survive it (QEMU 7.2 aborts): then rings that are to log rest, until there is a log or they need none.
   */
  setLog(fd: Fd, size: bigint, offset: bigint): void;
  /** Takes over an eventfd that is signalled when something was marked. */
  setLogFd(fd: Fd): void;
  /** Changes what of a running ring is marked: LOG_ALL of `config.features`, `config.flags` and `config.log`. */
  logVring(index: number, config: VringConfig): void;
  /**
   * Sends RARP in the guest's name, once, as soon as its first ring is up.
   *
   * @param mac As it lies in a frame, first byte lowest.
   */
  announce(mac: bigint): void;
  /** Enables or disables a ring, started or not; remembered over stop and start. */
  enableVring(index: number, enabled: boolean): void;
  /** Takes over an eventfd for a ring, started or not; `undefined` drops the one it had. */
  setVringFd(index: number, kind: VringFd, fd: Fd | undefined): void;
  /**
   * Prepares post-copy. Returns a userfaultfd, borrowed, that the front end is to have; it takes the place of one of
   * before.
   */
  advisePostCopy(): number;
  /** What is mapped from now on is the front end's to fetch; there is no memory yet. */
  listenPostCopy(): void;
  /** All of the guest is here. */
  endPostCopy(): void;
  /** Where a region of the table is mapped in this process. */
  regionAddress(region: Region): bigint;
  /** The connection is gone: stops every ring, drops eventfds and memory. Throws only when a worker is stuck. */
  reset(): void;
}

/**
 * One port of an engine's switch: a guest's memory and rings.
 *
 * @module
 */

import type { Dataplane, Region, VringConfig, VringFd } from "../vhost/dataplane.ts";
import type { Fd } from "../vhost/fd.ts";
import type { Inflight } from "../vhost/inflight.ts";
import type { PortOptions } from "./engine.ts";
import type { Guest } from "./guest.ts";
import { ForwardMode, Status, VringBroken, VringFd as VringFdNumber } from "./abi.gen.ts";
import { openMemoryFile } from "./fd.ts";
import { check, library, VringError } from "./library.ts";
import { packetAccess, type Packets } from "./packets.ts";
import { emptyStruct, readStruct, type Struct, writeStruct, writeStructs } from "./struct.ts";
import type { Uplink } from "./uplink.ts";

/** Counters of one ring, or of all rings of one direction, since the port was opened. */
export type VringStats = Struct<"VringStats">;

/** From the guest's side. */
export type Direction = "toGuest" | "fromGuest";

/** How a ring is now. */
export interface VringState {
  /** What GET_VRING_BASE would answer. */
  readonly base: number;
  readonly started: boolean;
  readonly enabled: boolean;
  /** Why the ring gave up; undefined when it is whole. */
  readonly broken: Exclude<keyof typeof VringBroken, "no"> | undefined;
}

/** What is done to the frames of a lane, named as testpmd's modes; `none` leaves them in the guest's rings. */
export type LaneMode = Exclude<keyof typeof ForwardMode, "learn">;

/** A fixed way for the frames from a guest: each of its queues leads to the same queue of the target. */
export interface Lane {
  readonly mode: LaneMode;
  /** Where frames go; to the guest itself, if it is its own port. */
  readonly target: Port;
  /** `mac` sends from here, and `icmpecho` answers with it: 48 bits. */
  readonly ownMac: number;
  /** Where `mac` sends to: 48 bits. */
  readonly peerMac: number;
  /** Frames that are moved together, at most: 1 to 64, by default 64. */
  readonly burst?: number | undefined;
  /** Of frames of ours, from Ethernet header on: 42 to 65549, by default 64. */
  readonly frameBytes?: number | undefined;
  /** So many frames of ours go to the target first, from each queue, once both are up; by default none. */
  readonly first?: number | undefined;
  /** Where frames of ours are from and go to, but for `flowgen`, which has its own; by default those of RFC 2544. */
  readonly addresses?: Addresses | undefined;
  /** Of `txonly`: so many flows follow one another, each from the address after the one before: 1 to 1024. */
  readonly flows?: number | undefined;
}

/** IPv4 addresses as numbers of 32 bits, and ports of UDP. */
export interface Addresses {
  readonly source: number;
  readonly destination: number;
  readonly sourcePort: number;
  readonly destinationPort: number;
}

/** Of the range for measurements of networks (RFC 2544, C.2.2), and of the discard service. */
export const benchmarkAddresses: Addresses = {
  source: 0xc612_0001,
  destination: 0xc612_0002,
  sourcePort: 9,
  destinationPort: 9,
};

/** A dirty log: `size` bytes of a file from `offset` on. */
export interface LogPart {
  readonly fd: number;
  readonly size: bigint;
  readonly offset: bigint;
}

/** With these the library says that a file is not what the front end says of it. */
const foreignFaults: ReadonlySet<number> = new Set([Status.invalid_argument, Status.wrong_fd, Status.file_too_short]);

const macsMax = 256;

/** Opened by `Engine.openPort`. Rings are numbered as on the wire: 2i toGuest, 2i + 1 fromGuest. */
export class Port implements Dataplane, Disposable {
  readonly #engine: number;
  readonly number: number;
  readonly #changed: PortOptions["changed"];
  readonly #ignored: bigint;
  /** By ring. */
  readonly #kicks = new Map<number, number>();
  #open = true;

  constructor(engine: number, number: number, { changed, ignored = 0n }: Pick<PortOptions, "changed" | "ignored">) {
    this.#engine = engine;
    this.number = number;
    this.#changed = changed;
    this.#ignored = ignored;
  }

  #place(): [number, number] {
    this.#expectOpen();
    return [this.#engine, this.number];
  }

  #expectOpen(): void {
    if (!this.#open) throw new TypeError(`Cannot use port ${this.number}: closed`);
  }

  setMtu(mtu: number | undefined): void {
    check(`set MTU of port ${this.number}`, library().port_set_mtu(...this.#place(), mtu ?? 0));
  }

  /** Takes the frames from the guest out of the switch, from now on. They are dropped where the target is closed. */
  setLane(lane: Lane): void {
    const { source, destination, sourcePort, destinationPort } = lane.addresses ?? benchmarkAddresses;
    const row = writeStruct("Lane", {
      mode: ForwardMode[lane.mode],
      target: lane.target.number,
      own_mac: BigInt(lane.ownMac),
      peer_mac: BigInt(lane.peerMac),
      burst: lane.burst ?? 0,
      frame_bytes: lane.frameBytes ?? 0,
      first: lane.first ?? 0,
      flows: lane.flows ?? 0,
      source,
      destination,
      source_port: sourcePort,
      destination_port: destinationPort,
    });
    check(`set lane of port ${this.number}`, library().port_set_lane(...this.#place(), row));
  }

  /**
   * Makes the port face a back end, with memory and rings of `guest`, which does not run. Then tell the back end of
   * them, and when it is ready enable the rings 2i, through which it is sent to; `receive` and lanes bring what it
   * sends. Ends with `reset`; until then the guest cannot be closed.
   */
  drive(guest: Guest): void {
    check(`drive port ${this.number}`, library().port_drive(...this.#place(), guest.handle));
    for (let pair = 0; pair < guest.queuePairs; pair++) this.#kicks.set(2 * pair + 1, guest.vring(2 * pair).call);
    this.#changed?.(undefined);
  }

  /**
   * Makes the port lead to an interface, a queue pair to each of its own: toGuest is then to the interface. All of it
   * is up at once. Ends with `reset`.
   */
  attach(uplink: Uplink): void {
    check(`attach port ${this.number} to ${uplink.name}`, library().port_attach(...this.#place(), uplink.handle));
    this.#changed?.(undefined);
  }

  /**
   * What is known of the port's rings goes to a file of `openStateFile` from now on, and is what that says: a ring that
   * somebody left in the middle is taken up there when it starts, unless its driver has begun anew since. No ring runs
   * by now. Takes the file over, and makes it as long as it has to be.
   */
  keepState(file: Fd): void {
    check(`keep state of port ${this.number}`, library().port_set_journal(...this.#place(), file.number));
    file.take();
  }

  /** The file of `keepState`, or what there is in its place: the port's own. */
  stateFd(): number {
    return check(`ask for state of port ${this.number}`, library().port_journal_fd(...this.#place()));
  }

  /** Whether a ring runs, or was left by somebody who could not stop it. */
  isLeft(): boolean {
    return check(`look at rings of port ${this.number}`, library().port_is_left(...this.#place())) === 1;
  }

  setMemory(regions: readonly Region[], fds: readonly Fd[]): void {
    const rows = writeStructs("Region", regions.map(rowOf));
    const numbers = new Int32Array(fds.map((fd) => fd.number));
    check("map guest memory", library().port_set_memory(...this.#place(), rows, numbers, regions.length));
  }

  addRegion(region: Region, fd: Fd): void {
    const row = writeStruct("Region", rowOf(region));
    check(`map region at ${hex(region.gpa)}`, library().port_add_region(...this.#place(), row, fd.number));
  }

  removeRegion(region: Region): void {
    const row = writeStruct("Region", rowOf(region));
    check(`unmap region at ${hex(region.gpa)}`, library().port_remove_region(...this.#place(), row));
  }

  setLog(fd: Fd, size: bigint, offset: bigint): void {
    const part = writeStruct("Region", { gpa: 0n, size_bytes: size, mmap_offset: offset });
    const code = library().port_set_log(...this.#place(), part, fd.number);
    if (code >= 0 || foreignFaults.has(code)) check(`map log of port ${this.number}`, code);
    else check(`drop log of port ${this.number}`, library().port_set_log(...this.#place(), part, -1));
    this.#changed?.(undefined);
  }

  setLogFd(fd: Fd): void {
    check(`set log fd of port ${this.number}`, library().port_set_log_bell(...this.#place(), fd.number));
    fd.take();
  }

  logVring(index: number, config: VringConfig): void {
    check(`log vring ${index}`, library().vring_set_log(...this.#place(), index, this.#rowOf(config)));
    this.#changed?.(index);
  }

  makeInflight(size: bigint): Fd {
    return openMemoryFile(size);
  }

  setInflight(fd: Fd, size: bigint, offset: bigint, queues: number, queueSize: number): void {
    this.#mapInflight(fd, { mmapSize: size, mmapOffset: offset, queueCount: queues, queueSize }, true);
  }

  /** As `setInflight`, of memory that another process still writes to: nothing does here before `ownInflight`. */
  adoptInflight(fd: Fd, part: Inflight): void {
    this.#mapInflight(fd, part, false);
  }

  #mapInflight(fd: Fd, { mmapSize, mmapOffset, queueCount, queueSize }: Inflight, owned: boolean): void {
    const part = writeStruct("Region", { gpa: 0n, size_bytes: mmapSize, mmap_offset: mmapOffset });
    const numbers = [fd.number, queueCount, queueSize, owned ? 1 : 0] as const;
    const code = library().port_set_inflight(...this.#place(), part, ...numbers);
    check(`map inflight memory of port ${this.number}`, code);
  }

  /** Only we write to what was adopted, from now on. No ring was served since it was started. */
  ownInflight(): void {
    check(`own inflight memory of port ${this.number}`, library().port_own_inflight(...this.#place()));
  }

  /** Where the front end keeps what is in flight: the port's own. Undefined: nowhere. */
  inflightFd(): number | undefined {
    const code = library().port_inflight_fd(...this.#place());
    if (code === Status.no_such_handle) return undefined;
    return check(`keep the file of inflight memory of port ${this.number}`, code);
  }

  announce(mac: bigint): void {
    const [low, high] = [Number(mac & 0xffff_ffffn), Number(mac >> 32n)];
    check(`announce guest of port ${this.number}`, library().port_announce(...this.#place(), low, high));
  }

  startVring(index: number, config: VringConfig): void {
    check(`start vring ${index}`, library().vring_start(...this.#place(), index, this.#rowOf(config)));
    this.#changed?.(index);
  }

  #rowOf(config: VringConfig): Uint8Array<ArrayBuffer> {
    return writeStruct("VringConfig", {
      features: config.features & ~this.#ignored,
      desc_gpa: config.desc,
      avail_gpa: config.avail,
      used_gpa: config.used,
      log_gpa: config.log,
      size: config.size,
      base: config.base,
      flags: config.flags,
    });
  }

  stopVring(index: number): number {
    const buffer = emptyStruct("VringState");
    check(`stop vring ${index}`, library().vring_stop(...this.#place(), index, buffer));
    this.#changed?.(index);
    return readStruct("VringState", buffer).base;
  }

  enableVring(index: number, enabled: boolean): void {
    check(`enable vring ${index}`, library().vring_enable(...this.#place(), index, enabled ? 1 : 0));
    this.#changed?.(index);
  }

  setVringFd(index: number, kind: VringFd, fd: Fd | undefined): void {
    const number = fd?.number ?? -1;
    const code = library().vring_set_fd(...this.#place(), index, VringFdNumber[kind], number);
    check(`set ${kind} fd of vring ${index}`, code);
    fd?.take();
    if (kind !== "kick") return;
    if (fd === undefined) this.#kicks.delete(index);
    else this.#kicks.set(index, number);
    this.#changed?.(index);
  }

  /** Addresses that the switch has learned of the guest, as in a frame: the first byte is the lowest. 256 at most. */
  macs(): bigint[] {
    const found = new BigUint64Array(macsMax);
    const code = library().port_macs(...this.#place(), found, macsMax);
    const count = check(`ask for addresses of port ${this.number}`, code);
    return [...found.subarray(0, count)];
  }

  /** As if frames from these addresses had come from the guest. */
  learn(macs: readonly bigint[]): void {
    // The library takes no pointer to nothing.
    const list = BigUint64Array.from([...macs, 0n]);
    check(`learn addresses of port ${this.number}`, library().port_learn(...this.#place(), list, macs.length));
  }

  advisePostCopy(): number {
    return check("prepare post-copy", library().port_advise_post_copy(...this.#place()));
  }

  listenPostCopy(): void {
    check("begin post-copy", library().port_listen_post_copy(...this.#place()));
  }

  endPostCopy(): void {
    check("end post-copy", library().port_end_post_copy(...this.#place()));
  }

  /**
   * The guest's driver is called by a doorbell: `fd`, borrowed, is BAR 0 of an ivshmem device, which begins at `offset`
   * in its page, and each ring is `peer`'s vector of its number. Undefined: by eventfds.
   */
  setDoorbell(doorbell: { readonly fd: Fd; readonly offset: number; readonly peer: number } | undefined): void {
    const { offset = 0, peer = 0 } = doorbell ?? {};
    const code = library().port_set_doorbell(...this.#place(), doorbell?.fd.number ?? -1, offset, peer);
    check(`map doorbell of port ${this.number}`, code);
  }

  /** Bytes of the guest's memory. Throws `VringError`: status `unmapped` where not all of it is there. */
  read(gpa: bigint, length: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(length);
    const code = library().port_read(...this.#place(), BigUint64Array.of(gpa), bytes, length);
    check(`read guest memory at ${hex(gpa)}`, code);
    return bytes;
  }

  regionAddress(region: Region): bigint {
    const row = writeStruct("Region", rowOf(region));
    const address = new BigUint64Array(1);
    const code = library().port_region_address(...this.#place(), row, address);
    check(`locate region at ${hex(region.gpa)}`, code);
    return address[0]!;
  }

  reset(): void {
    check(`reset port ${this.number}`, library().port_reset(...this.#place()));
    this.#kicks.clear();
    this.#changed?.(undefined);
  }

  /**
   * Copies frames from the guest, for an engine without workers. What `packets` had is gone. Returns how many came: 0
   * where the ring does not run.
   */
  receive(queue: number, packets: Packets): number {
    this.#expectOpen();
    const { arena, rows } = packetAccess.empty(packets);
    // No spread here, and no closure: only plain calls are the fast ones.
    const ring = 2 * queue + 1;
    const { length } = arena;
    const code = library().vring_receive(this.#engine, this.number, ring, arena, length, rows, packets.capacity);
    if (code < 0) check(`receive from queue ${queue}`, code);
    packetAccess.fill(packets, code);
    return code;
  }

  /**
   * Copies frames to the guest, for an engine without workers. Returns how many are done with, and are gone from
   * `packets`; for the others there was no buffer, or the ring does not run.
   */
  send(queue: number, packets: Packets): number {
    this.#expectOpen();
    const { count } = packets;
    if (count === 0) return 0;
    const { arena, rows } = packetAccess.filled(packets);
    const code = library().vring_send(this.#engine, this.number, 2 * queue, arena, arena.length, rows, count);
    if (code < 0) check(`send to queue ${queue}`, code);
    packetAccess.take(packets, code);
    return code;
  }

  /**
   * Asks the guest of a ring without worker to kick when it sends, or not to. Returns whether something is there
   * already.
   */
  arm(queue: number, armed: boolean): boolean {
    const code = library().vring_arm(...this.#place(), 2 * queue + 1, armed ? 1 : 0);
    return check(`arm queue ${queue}`, code) === 1;
  }

  /** The eventfd, not the caller's, that the other side signals when it sends; undefined without one. */
  kickFd(queue: number): number | undefined {
    return this.#kicks.get(2 * queue + 1);
  }

  /** A snapshot of the counters of one direction, summed over its rings. */
  stats(direction: Direction): VringStats {
    const buffer = emptyStruct("VringStats");
    const which = direction === "toGuest" ? 0 : 1;
    check(`read counters of port ${this.number}`, library().port_stats(...this.#place(), which, buffer));
    return readStruct("VringStats", buffer);
  }

  /** A snapshot of one ring's counters. */
  vringStats(index: number): VringStats {
    const buffer = emptyStruct("VringStats");
    check(`read counters of vring ${index}`, library().vring_stats(...this.#place(), index, buffer));
    return readStruct("VringStats", buffer);
  }

  vringState(index: number): VringState {
    const buffer = emptyStruct("VringState");
    check(`read state of vring ${index}`, library().vring_state(...this.#place(), index, buffer));
    const { base, started, enabled, broken } = readStruct("VringState", buffer);
    return { base, started: started !== 0, enabled: enabled !== 0, broken: brokenName(broken) };
  }

  // For a process that is to go on in our place: descriptors, all of them still the port's.

  /** Of the file behind a region; undefined where there was none left to be kept. */
  regionFd(region: Region): number | undefined {
    return found(library().port_region_fd(...this.#place(), writeStruct("Region", rowOf(region))));
  }

  /** Of the dirty log, and which part of the file that is. Throws where there is a log, but no descriptor was left. */
  log(): LogPart | undefined {
    const row = emptyStruct("Region");
    const code = library().port_log_fd(...this.#place(), row);
    if (code === Status.no_such_handle) return undefined;
    const { size_bytes: size, mmap_offset: offset } = readStruct("Region", row);
    return { fd: check(`find log of port ${this.number}`, code), size, offset };
  }

  /** The eventfd that tells of marks. */
  logBell(): number | undefined {
    return found(library().port_log_bell(...this.#place()));
  }

  vringFd(index: number, kind: VringFd): number | undefined {
    return found(library().vring_fd(...this.#place(), index, VringFdNumber[kind]));
  }

  /** How often `announce` is still to be carried out, and for whom. */
  announcements(): { readonly mac: bigint; readonly count: number } {
    const mac = new BigUint64Array(1);
    const code = library().port_announcements(...this.#place(), mac);
    return { count: check(`ask port ${this.number} for announcements`, code), mac: mac[0]! };
  }

  /** Whether packets may pass through a ring. */
  isUp(index: number): boolean {
    const { started, enabled, broken } = this.vringState(index);
    return started && enabled && broken === undefined;
  }

  /** Whether it was not closed yet. */
  get isOpen(): boolean {
    return this.#open;
  }

  /** Stops every ring and closes the port. May be called again, and after the engine was closed. */
  [Symbol.dispose](): void {
    if (!this.#open) return;
    const code = library().port_close(...this.#place());
    this.#open = false;
    const error = code < 0 ? new VringError(`close port ${this.number}`, code) : undefined;
    if (error !== undefined && error.status !== "no_such_handle") throw error;
  }
}

function found(code: number): number | undefined {
  return code >= 0 ? code : undefined;
}

function rowOf(region: Region): Struct<"Region"> {
  return { gpa: region.gpa, size_bytes: region.size, mmap_offset: region.mmapOffset };
}

function brokenName(code: number): VringState["broken"] {
  for (const [name, value] of Object.entries(VringBroken)) {
    if (value === code && name !== "no") return name as VringState["broken"];
  }
  return undefined;
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}

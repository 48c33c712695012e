/**
 * A simulated guest: memory, virtio-net rings and traffic, without a virtual machine.
 *
 * It tells nobody where its rings are: give `regions`, `memoryFd` and `vring` to a `Frontend`.
 *
 * @module
 */

import type { Region } from "../vhost/dataplane.ts";
import type { FrontendVring } from "../vhost/frontend.ts";
import { GuestWait, limits } from "./abi.gen.ts";
import { check, library } from "./library.ts";
import { emptyStruct, readStruct, type Struct, writeStruct, writeStructs } from "./struct.ts";

/** Counters since the guest was opened. */
export type GuestStats = Struct<"GuestStats">;

/** Counters of one of its rings. */
export type GuestVringStats = Struct<"GuestVringStats">;

export interface GuestOptions {
  /** As negotiated. */
  features: bigint;
  /** 1 to 128. */
  queuePairs?: number;
  /** Descriptors of a ring, up to 32768: a power of two, or, packed, any number. */
  ringSize?: number;
  /** Of a receive buffer, the virtio-net header included. */
  bufferBytes?: number;
  /** Longest frame to send, up to `frameBytesMax`; in traffic of its own, 65535. */
  frameBytesMax?: number;
  /** Cut frames to be sent into so many pieces, behind a header by itself; all is one piece, if 0. */
  sendSegments?: number;
  /** The same of receive buffers. */
  receiveSegments?: number;
  /** Put descriptors into indirect tables. */
  sendIndirect?: boolean;
  receiveIndirect?: boolean;
  /** Guest-physical address of its memory, a multiple of 4096. */
  gpa?: bigint;
}

/** Traffic of Ethernet, IPv4 and UDP, from start to stop. */
export interface GuestTraffic {
  /** As it is written, first byte first: 52:54:00:00:00:01 is 0x525400000001. */
  sourceMac: number;
  destinationMac: number;
  /** 60 to 65535; where it only receives, what to expect. */
  frameBytes?: number;
  /** Lengths are chosen at random from here on; all are `frameBytes`, if undefined. */
  frameBytesMin?: number | undefined;
  /** One frame in about so many is checked in full; none, if 0; with 1, one that cannot be is corrupted. */
  checkEvery?: number;
  /** Frames to send; until stopped, if undefined. */
  count?: number | undefined;
  /** Frames a second; as fast as it goes, if undefined. */
  rate?: number | undefined;
  /** Flows, by UDP port, up to 256; one for each queue, if undefined. */
  flows?: number | undefined;
  /** Queue pairs in use. */
  queues?: number;
  /** Up to 256. */
  burst?: number;
  send?: boolean;
  receive?: boolean;
  /** Sends back what it receives; excludes `send`. */
  echo?: boolean;
  /** When there is nothing to do: look again, let others run, or wait for a call. */
  wait?: keyof typeof GuestWait;
  /** CPU to run on; any, if undefined. */
  cpu?: number | undefined;
  /**
   * Every frame is left to be cut into datagrams of so much payload (USO), and is longer. To a guest that did not
   * negotiate the same they come in pieces, each of which counts as received. None is to be cut, if undefined.
   */
  gsoSize?: number | undefined;
  /**
   * So many frames may be on their way to its partner, which nobody else sends to, or there and back, if that one
   * echoes: with no more than it has buffers, none is dropped for want of one. Of guests that are started together the
   * first and the second are partners, the third and the fourth, and so on. No limit, if undefined.
   */
  window?: number | undefined;
}

/** The longest frame that rings carry: IP's longest packet, and headers before it. */
export const frameBytesMax = limits.packet_bytes_max;

/** Room for what a guest with a few queue pairs and senders knows. */
const stateBytesMax = 8 << 20;

/** User addresses, as a front end has them, lie so far behind the guest-physical ones. */
const userOffset = 0x7e00_0000_0000n;

/** One guest. All calls are for the thread that opened it. Dispose of it to end its thread and free its memory. */
export class Guest implements AsyncDisposable {
  #handle: number;
  readonly #region: Struct<"Region">;
  /** Of the one region of its memory; the guest's own. */
  readonly memoryFd: number;
  readonly queuePairs: number;

  private constructor(handle: number, queuePairs: number) {
    this.#handle = handle;
    this.queuePairs = queuePairs;
    const buffer = emptyStruct("Region");
    this.memoryFd = check("find guest memory", library().guest_memory(handle, buffer));
    this.#region = readStruct("Region", buffer);
  }

  /** Takes memory and eventfds. Throws `VringError` when the options are impossible, or memory or descriptors short. */
  static open(options: GuestOptions): Guest {
    const { features, queuePairs = 1, ringSize = 256, bufferBytes = 2048, frameBytesMax = 1514 } = options;
    const config = writeStruct("GuestConfig", {
      features,
      gpa: options.gpa ?? 0x4000_0000n,
      queue_pairs: queuePairs,
      ring_size: ringSize,
      buffer_bytes: bufferBytes,
      frame_bytes_max: frameBytesMax,
      send_segments: options.sendSegments ?? 0,
      receive_segments: options.receiveSegments ?? 0,
      send_indirect: options.sendIndirect ? 1 : 0,
      receive_indirect: options.receiveIndirect ? 1 : 0,
    });
    return new Guest(check("open guest", library().guest_open(config)), queuePairs);
  }

  #live(): number {
    if (this.#handle === 0) throw new TypeError("Cannot use guest: closed");
    return this.#handle;
  }

  /** For ports: its number in libvring. */
  get handle(): number {
    return this.#live();
  }

  /** Its memory table, of one row; all of it is behind `memoryFd`. */
  get regions(): readonly Region[] {
    const { gpa, size_bytes, mmap_offset } = this.#region;
    return [{ gpa, size: size_bytes, userAddress: gpa + userOffset, mmapOffset: mmap_offset }];
  }

  /**
   * Where a ring is: 2i receives, 2i + 1 sends. Its eventfds stay the guest's. `base` is where a back end begins that
   * was told nothing else, and follows what the guest has seen done.
   */
  vring(index: number): FrontendVring & { readonly kick: number; readonly call: number } {
    const buffer = emptyStruct("GuestVring");
    check(`find vring ${index}`, library().guest_vring(this.#live(), index, buffer));
    const { desc_gpa, avail_gpa, used_gpa, size, base, kick, call } = readStruct("GuestVring", buffer);
    return {
      size,
      base,
      desc: desc_gpa + userOffset,
      avail: avail_gpa + userOffset,
      used: used_gpa + userOffset,
      log: used_gpa,
      kick,
      call,
    };
  }

  /** Starts its thread, and kicks every ring in use. Sequence numbers go on from run to run. */
  start(traffic: GuestTraffic): void {
    check("start guest", library().guest_start(this.#live(), writeStruct("GuestTraffic", trafficRow(traffic))));
  }

  /**
   * Starts several guests on one thread, which serves them by turns: where they must share a CPU, that costs least.
   * They cannot `sleep`. The first one's traffic says where, and how to wait.
   */
  static startTogether(guests: readonly Guest[], traffics: readonly GuestTraffic[]): GuestCrew {
    const handles = new Uint32Array(guests.map((guest) => guest.#live()));
    const rows = writeStructs("GuestTraffic", traffics.map(trafficRow));
    return new GuestCrew(check("start guests", library().crew_start(handles, rows, guests.length)));
  }

  /** Joins its thread, after the burst in hand; does nothing to a guest that does not run. */
  async stop(): Promise<void> {
    check("stop guest", await library().guest_stop(this.#live()));
  }

  /** Makes all rings as new, as a reboot does. It must not run, and the back end must have stopped the rings. */
  reset(): void {
    check("reset guest", library().guest_reset(this.#live()));
  }

  /** Gives the device up to so many frames more in each ring in use, and kicks nobody. Of a guest that was stopped. */
  offer(frames: number): number {
    return check("offer frames", library().guest_offer(this.#live(), frames));
  }

  /** Kicks every ring, as a hypervisor may at any time. */
  kick(): void {
    check("kick rings", library().guest_kick(this.#live()));
  }

  /** What it knows beside its memory. It must not run. For `load`, in a process of the same build. */
  save(): Uint8Array<ArrayBuffer> {
    const buffer = new Uint8Array(stateBytesMax);
    return buffer.slice(0, check("save guest", library().guest_save(this.#live(), buffer, buffer.length)));
  }

  /**
   * Makes it go on where a guest with the same options was saved, whose memory it must get as well. It must not run.
   * Throws `VringError` when that was no such guest.
   */
  load(state: Uint8Array<ArrayBuffer>): void {
    check("load guest", library().guest_load(this.#live(), state, state.length));
  }

  /** A snapshot. */
  stats(): GuestStats {
    const buffer = emptyStruct("GuestStats");
    check("read counters of guest", library().guest_stats(this.#live(), buffer));
    return readStruct("GuestStats", buffer);
  }

  /** A snapshot of one ring's counters. */
  vringStats(index: number): GuestVringStats {
    const buffer = emptyStruct("GuestVringStats");
    check(`read counters of vring ${index}`, library().guest_vring_stats(this.#live(), index, buffer));
    return readStruct("GuestVringStats", buffer);
  }

  /** Ends its thread and frees its memory. May be called again. */
  async close(): Promise<void> {
    if (this.#handle === 0) return;
    const handle = this.#handle;
    this.#handle = 0;
    check("close guest", await library().guest_close(handle));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function trafficRow(traffic: GuestTraffic): Struct<"GuestTraffic"> {
  const { sourceMac, destinationMac, queues = 1, burst = 32, send = true, receive = true, echo = false } = traffic;
  return {
    source_mac: BigInt(sourceMac),
    destination_mac: BigInt(destinationMac),
    count: BigInt(traffic.count ?? 0),
    rate: BigInt(traffic.rate ?? 0),
    frame_bytes: traffic.frameBytes ?? 60,
    frame_bytes_min: traffic.frameBytesMin ?? 0,
    check_every: traffic.checkEvery ?? 0,
    flows: traffic.flows ?? queues,
    queues,
    burst,
    send: send ? 1 : 0,
    receive: receive ? 1 : 0,
    echo: echo ? 1 : 0,
    wait: GuestWait[traffic.wait ?? "poll"],
    cpu: traffic.cpu ?? -1,
    gso_size: traffic.gsoSize ?? 0,
    window: traffic.window ?? 0,
  };
}

/** Guests that run on one thread. Until it is stopped, none of them may be stopped or closed by itself. */
export class GuestCrew {
  #handle: number;

  constructor(handle: number) {
    this.#handle = handle;
  }

  /** Joins the thread, after the bursts in hand. May be called again. */
  async stop(): Promise<void> {
    if (this.#handle === 0) return;
    const handle = this.#handle;
    this.#handle = 0;
    check("stop guests", await library().crew_stop(handle));
  }
}

/**
 * The latency that `fraction` (0 to 1) of all timed frames did not exceed, in nanoseconds, to a sixteenth of itself;
 * undefined without any. From the difference of two snapshots it is that of the time between them.
 */
export function latencyQuantile(latency: readonly bigint[], fraction: number): number | undefined {
  const total = latency.reduce((sum, count) => sum + count, 0n);
  if (total === 0n) return undefined;
  let left = Math.max(1, Math.ceil(Number(total) * fraction));
  const bucket = latency.findIndex((count) => (left -= Number(count)) <= 0);
  // Bucket 16 * e + m holds times from (16 + m) / 16 * 2^e on; its middle stands for it.
  return (16.5 + bucket % 16) / 16 * 2 ** Math.floor(bucket / 16);
}

/**
 * `vhostctl guest` as a child: one simulated guest, or two that share a thread.
 *
 * @module
 */
import type { CaseOffload, Ring, Variant } from "./bench_result.ts";
import { JsonProcess, ownProgram } from "./json_process.ts";

export interface GuestOptions {
  /** One guest is attached to each. */
  readonly sockets: readonly string[];
  /** Of each guest. */
  readonly macs: readonly string[];
  readonly ring: Ring;
  readonly variant?: Variant | undefined;
  readonly ringSize: number;
  readonly queues: number;
  /** The longest frame that is to be received, in bytes. */
  readonly frameBytes: number;
  /** Where the guests' thread runs, if not anywhere, and what it does without traffic. */
  readonly cpu?: number;
  readonly wait: "poll" | "yield";
  /** What the guests send may be left to others, and what they take of that; nothing and nothing, if undefined. */
  readonly offload?: CaseOffload | undefined;
  readonly logs?: boolean | undefined;
}

/** What a guest is to send, as fast as it can. */
export interface Traffic {
  readonly size_bytes: number;
  /** Lengths are chosen at random from here on; all are `size_bytes`, if undefined. */
  readonly size_min_bytes?: number | undefined;
  /** The destination's MAC address. */
  readonly to: string;
  /** Every so many packets one is filled and checked byte by byte. */
  readonly check_every: number;
  /** Frames are to be cut into datagrams of so much payload; as they are, if undefined. */
  readonly gso_bytes?: number | undefined;
  /** So many frames may be on their way. */
  readonly window?: number | undefined;
  /** Frames a second; as fast as it goes, if undefined. */
  readonly rate?: number | undefined;
}

/** What one guest has counted since it was started. */
export interface GuestCounters {
  /** When, by a steady clock. */
  readonly time_ns: number;
  readonly sent: number;
  /** Frames, or pieces of them, and their bytes. */
  readonly received: number;
  readonly received_bytes: number;
  /** Frames beside, by which guests announce themselves: sent and received. */
  readonly announced: number;
  readonly heard: number;
  /** Other frames that were not for this guest. */
  readonly foreign: number;
  readonly lost: number;
  readonly duplicated: number;
  readonly reordered: number;
  readonly corrupted: number;
  readonly checked: number;
  /** Frames that the device has not taken yet, or whose buffers it has not returned. */
  readonly in_flight: number;
  /** Looks at its rings, and those that found something to do. */
  readonly rounds: number;
  readonly busy_rounds: number;
  /** Rings that the device broke. */
  readonly broken: number;
}

function guestArguments(options: GuestOptions): string[] {
  return [
    "guest",
    ...options.sockets.flatMap((socket) => ["--socket", socket]),
    ...options.macs.flatMap((mac) => ["--mac", mac]),
    ...["--ring", options.ring, "--ring-size", `${options.ringSize}`, "--queues", `${options.queues}`],
    ...["--frame-bytes", `${options.frameBytes}`, "--wait", options.wait],
    ...options.variant === undefined ? [] : ["--variant", options.variant],
    ...options.cpu === undefined ? [] : ["--cpu", `${options.cpu}`],
    ...options.offload === undefined ? [] : ["--offload", options.offload.receiver_takes],
    ...options.logs === true ? ["--logs"] : [],
  ];
}

/** Guests in one process, until it is disposed of. Questions are answered one after the other. */
export class GuestProcess implements AsyncDisposable {
  readonly process: JsonProcess;

  private constructor(process: JsonProcess) {
    this.process = process;
  }

  /** Returns when every guest's rings run. */
  static async start(options: GuestOptions): Promise<GuestProcess> {
    const process = new JsonProcess("vhostctl guest", ownProgram(), guestArguments(options));
    try {
      await process.next((message) => message["ready"] === true);
    } catch (reason) {
      await process[Symbol.asyncDispose]();
      throw reason;
    }
    return new GuestProcess(process);
  }

  /** Makes a guest receive, and announce itself, by which a switch learns its address. */
  async listen(guest: number, traffic: Traffic): Promise<void> {
    await this.process.ask({ start: { guest, ...traffic, send: false } });
  }

  /** Makes a guest leave what comes where it is; its buffers are soon full. */
  async ignore(guest: number, traffic: Traffic): Promise<void> {
    await this.process.ask({ start: { guest, ...traffic, send: false, receive: false } });
  }

  /** Makes a guest send back what it receives. */
  async echo(guest: number, traffic: Traffic): Promise<void> {
    await this.process.ask({ start: { guest, ...traffic, window: undefined, echo: true } });
  }

  async start(guest: number, traffic: Traffic): Promise<void> {
    await this.process.ask({ start: { guest, ...traffic } });
  }

  /** Returns when the guest has sent its last packet. It goes on receiving. */
  async stop(guest: number): Promise<void> {
    await this.process.ask({ stop: { guest } });
  }

  /** Lets all guests stand still until the next start. */
  async rest(): Promise<void> {
    await this.process.ask({ rest: true });
  }

  async counters(guest: number): Promise<GuestCounters> {
    return await this.process.ask({ stats: { guest } }) as unknown as GuestCounters;
  }

  /** How many packets came after how long; see `latencyQuantile`. */
  async latency(guest: number): Promise<bigint[]> {
    return ((await this.process.ask({ latency: { guest } }))["latency"] as number[]).map(BigInt);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.process[Symbol.asyncDispose]();
  }
}

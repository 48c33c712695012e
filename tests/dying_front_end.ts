/**
 * A front end with a simulated guest that dies as a killed process does: at any message, in the middle of it, with
 * answers unread, or while its guest's rings are full of traffic.
 *
 * @module
 */
import { Guest, type GuestTraffic } from "../ffi/guest.ts";
import { type PayloadOf, type RequestName, requests, type Row } from "../vhost/request.ts";
import { type FeatureName, featureSet, protocolFeatureSet } from "../vhost/spec.ts";
import { Closed, laid, messageFlags, Peer } from "./hostile_peer.ts";
import { eventually } from "./real/process.ts";

const patience_ms = 20_000;

export interface Shape {
  readonly packed: boolean;
  readonly queues: number;
}

/** One message, and what comes after it in the order of QEMU's. */
interface Step {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly fds: readonly number[];
  readonly answered: boolean;
}

function step<N extends RequestName>(name: N, payload: PayloadOf<N>, fds: readonly number[] = [], ack = true): Step {
  const { number, payload: codec, reply } = requests[name] as Row<unknown, unknown>;
  const flags = ack && reply === "none" ? messageFlags.needReply : messageFlags.plain;
  return { bytes: laid(number, codec.encode(payload), { flags }), fds, answered: ack || reply !== "none" };
}

function steps(guest: Guest, features: bigint): Step[] {
  const acknowledged = protocolFeatureSet(["MQ", "REPLY_ACK", "CONFIGURE_MEM_SLOTS", "STATUS"]);
  const rings = Array.from({ length: 2 * guest.queuePairs }, (_, index) => index);
  return [
    step("GET_FEATURES", null),
    step("GET_PROTOCOL_FEATURES", null),
    step("SET_PROTOCOL_FEATURES", acknowledged, [], false),
    step("GET_QUEUE_NUM", null),
    step("SET_OWNER", null),
    step("SET_FEATURES", features),
    ...guest.regions.map((region) => step("ADD_MEM_REG", region, [guest.memoryFd])),
    ...rings.flatMap((index) => {
      const { size, base, desc, avail, used, log = 0n, kick, call } = guest.vring(index);
      return [
        step("SET_VRING_NUM", { index, num: size }),
        step("SET_VRING_BASE", { index, num: base }),
        step("SET_VRING_ADDR", { index, flags: 0, desc, used, avail, log }),
        step("SET_VRING_KICK", BigInt(index), [kick]),
        step("SET_VRING_CALL", BigInt(index), [call]),
      ];
    }),
    ...rings.map((index) => step("SET_VRING_ENABLE", { index, num: 1 })),
    step("SET_STATUS", 0xfn),
  ];
}

function atMost(most: number): number {
  return Math.floor(Math.random() * (most + 1));
}

export class DyingFrontEnd {
  readonly #path: string;
  readonly #guest: Guest;
  readonly #steps: readonly Step[];

  constructor(path: string, { packed, queues }: Shape) {
    this.#path = path;
    const names: FeatureName[] = ["VERSION_1", "PROTOCOL_FEATURES", "MRG_RXBUF", "EVENT_IDX"];
    const features = featureSet([...names, ...packed ? ["RING_PACKED"] as const : [], "MQ"]);
    this.#guest = Guest.open({ features, queuePairs: queues });
    this.#steps = steps(this.#guest, features);
  }

  /** Comes as far as to some message, of which a part is sent. */
  async dieWhileItStarts(): Promise<void> {
    const count = atMost(this.#steps.length - 1);
    const last = this.#steps[count]!;
    const read = Math.random() < 0.5;
    await this.#live(async () => {
      using peer = count === 0 ? new Peer(this.#path) : await this.#letIn();
      for (const one of this.#steps.slice(1, count)) send(peer, one, read);
      const part = atMost(last.bytes.length);
      if (part > 0) peer.sendBytes(last.bytes.slice(0, part), last.fds);
    });
  }

  /** Starts all rings, and dies after a moment of traffic, which another message may be part of. */
  async dieUnderTraffic(traffic: GuestTraffic, longest_ms: number): Promise<void> {
    await this.#live(async () => {
      using peer = await this.#letIn();
      for (const one of this.#steps.slice(1)) send(peer, one, true);
      this.#guest.start(traffic);
      await new Promise((resolve) => setTimeout(resolve, atMost(longest_ms)));
      const { bytes, fds } = this.#steps[atMost(this.#steps.length - 1)]!;
      peer.sendBytes(bytes.slice(0, atMost(bytes.length - 1)), fds);
    });
  }

  /**
   * Connects, and takes the first step. While the end of the one before has not been heard of, on a busy machine, it is
   * turned away, and comes again, as QEMU does.
   */
  async #letIn(): Promise<Peer> {
    return await eventually("a front end is let in", patience_ms, () => {
      const peer = new Peer(this.#path);
      try {
        send(peer, this.#steps[0]!, true);
        return peer;
      } catch (error) {
        peer.close();
        if (error instanceof Closed) return undefined;
        throw error;
      }
    });
  }

  async #live(life: () => Promise<void>): Promise<void> {
    try {
      await life();
    } finally {
      await this.#guest.close();
    }
  }
}

function send(peer: Peer, { bytes, fds, answered }: Step, read: boolean): void {
  peer.sendBytes(bytes, fds);
  if (answered && read) peer.receive();
}

/**
 * The other role: a front end, for simulated guests, benchmarks and tests. It sends what QEMU sends, in QEMU's order,
 * and, through `send`, anything else.
 *
 * @module
 */
import type { Channel, RawMessage } from "./channel.ts";
import type { Region, VringFd } from "./dataplane.ts";
import { HangupError, NackError, ProtocolError } from "./error.ts";
import type { Fd } from "./fd.ts";
import type { Inflight } from "./inflight.ts";
import { type AnswerOf, type PayloadOf, type RequestName, requests, type Row } from "./request.ts";
import {
  hasFeature,
  hasProtocolFeature,
  headerFlags,
  type ProtocolFeatureName,
  protocolFeatureSet,
  vringFdBits,
} from "./spec.ts";
import { u64 } from "./wire.ts";

export interface FrontendOptions {
  /** How long an answer may take. */
  readonly timeoutMs?: number;
}

export interface HandshakeOptions {
  /** What to acknowledge of the protocol features on offer; all that is listed below, if undefined. */
  readonly protocolFeatures?: bigint;
  /** Our end's twin of the socket for the back end's requests: sent if BACKEND_REQ is acknowledged. */
  readonly requestSocket?: number;
}

/** How to start a ring. Addresses are this process's own. */
export interface FrontendVring {
  readonly size: number;
  readonly base: number;
  readonly desc: bigint;
  readonly avail: bigint;
  readonly used: bigint;
  readonly flags?: number;
  /** Guest address of the used ring, for the log. */
  readonly log?: bigint;
  /** Eventfds; without one, the side that would wait polls. */
  readonly kick?: number | undefined;
  readonly call?: number | undefined;
}

const eventfdRequests = { kick: "SET_VRING_KICK", call: "SET_VRING_CALL", err: "SET_VRING_ERR" } as const;

const knownProtocolFeatures: readonly ProtocolFeatureName[] = [
  "MQ",
  "LOG_SHMFD",
  "RARP",
  "REPLY_ACK",
  "NET_MTU",
  "CONFIGURE_MEM_SLOTS",
  "STATUS",
  "RESET_DEVICE",
  "INFLIGHT_SHMFD",
];

/**
 * One connection to a back end. Calls may overlap: each waits for those before it. Descriptors are only borrowed. With
 * REPLY_ACK every request is acknowledged, so that a call that returned was carried out.
 *
 * Calls reject with `NackError` when the back end refuses, `HangupError` when it is gone, and `ProtocolError` when it
 * answers nonsense or not in time; after the last of these the connection is closed.
 */
export class Frontend implements Disposable {
  readonly #channel: Channel;
  readonly #timeoutMs: number;
  readonly #hangup = Promise.withResolvers<string>();
  #gone: string | undefined;
  #unread: RawMessage | undefined;
  #reader: PromiseWithResolvers<RawMessage> | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #features = 0n;
  #protocolFeatures = 0n;
  #queuePairs = 1;

  /** @param channel Nobody listens to it yet; `close` closes it. */
  constructor(channel: Channel, { timeoutMs = 5000 }: FrontendOptions = {}) {
    this.#channel = channel;
    this.#timeoutMs = timeoutMs;
    channel.listen({ message: (message) => this.#arrived(message), hangup: (reason) => this.#lost(reason) });
  }

  /** Resolves with the reason when the back end is gone; never after `close`. */
  get hangup(): Promise<string> {
    return this.#hangup.promise;
  }

  /** What the back end offers; known after `handshake`. */
  get features(): bigint {
    return this.#features;
  }

  /** What was acknowledged. */
  get protocolFeatures(): bigint {
    return this.#protocolFeatures;
  }

  /** What the back end has; 1 without MQ. */
  get queuePairs(): number {
    return this.#queuePairs;
  }

  /** Everything up to the point where QEMU waits for the guest's driver. */
  async handshake({ protocolFeatures, requestSocket }: HandshakeOptions = {}): Promise<void> {
    this.#features = await this.request("GET_FEATURES", null);
    if (hasFeature(this.#features, "PROTOCOL_FEATURES")) {
      const wanted = protocolFeatures ?? protocolFeatureSet([
        ...knownProtocolFeatures,
        ...requestSocket === undefined ? [] : ["BACKEND_REQ" as const],
      ]);
      await this.#negotiate(wanted, requestSocket);
    }
    await this.request("SET_OWNER", null);
    this.#features = await this.request("GET_FEATURES", null);
  }

  async #negotiate(wanted: bigint, requestSocket: number | undefined): Promise<void> {
    const protocolFeatures = wanted & await this.request("GET_PROTOCOL_FEATURES", null);
    await this.request("SET_PROTOCOL_FEATURES", protocolFeatures);
    this.#protocolFeatures = protocolFeatures;
    if (hasProtocolFeature(protocolFeatures, "MQ")) {
      this.#queuePairs = Number(await this.request("GET_QUEUE_NUM", null));
    }
    if (hasProtocolFeature(protocolFeatures, "CONFIGURE_MEM_SLOTS")) await this.request("GET_MAX_MEM_SLOTS", null);
    if (hasProtocolFeature(protocolFeatures, "BACKEND_REQ") && requestSocket !== undefined) {
      await this.request("SET_BACKEND_REQ_FD", null, [requestSocket]);
    }
  }

  /** Acknowledges features; those of the rings, too. */
  async setFeatures(features: bigint): Promise<void> {
    await this.request("SET_FEATURES", features);
  }

  /** Gives guest memory: region by region with CONFIGURE_MEM_SLOTS, else as a whole, in place of all before. */
  async setMemory(regions: readonly Region[], fds: readonly number[]): Promise<void> {
    if (!hasProtocolFeature(this.#protocolFeatures, "CONFIGURE_MEM_SLOTS")) {
      await this.request("SET_MEM_TABLE", regions, fds);
      return;
    }
    for (const [i, region] of regions.entries()) await this.request("ADD_MEM_REG", region, [fds[i]!]);
  }

  /** Needs CONFIGURE_MEM_SLOTS. */
  async removeRegion(region: Region): Promise<void> {
    await this.request("REM_MEM_REG", region);
  }

  /**
   * Asks for memory in which the back end is to write what it has in hand of so many rings, to be kept for it, and
   * given to it by `setInflight`. Needs INFLIGHT_SHMFD. The descriptor is the caller's.
   */
  getInflight(queueCount: number, queueSize: number): Promise<{ inflight: Inflight; fd: Fd }> {
    return this.#inTurn(async () => {
      const name = "GET_INFLIGHT_FD";
      const { number, payload } = requests[name];
      const wanted = { mmapSize: 0n, mmapOffset: 0n, queueCount, queueSize };
      if (this.#gone !== undefined) throw new HangupError(`${name} not sent: ${this.#gone}`);
      this.send(number, headerFlags.version, payload.encode(wanted));
      const answer = await this.#answerTo(name, number);
      const [fd, ...others] = answer.fds;
      for (const one of others) one[Symbol.dispose]();
      const inflight = payload.decode(answer.payload);
      if (fd !== undefined && inflight !== undefined) return { inflight, fd };
      fd?.[Symbol.dispose]();
      this.close();
      throw new ProtocolError(`${name}: answered with ${answer.fds.length} descriptors, or another size`);
    });
  }

  /** Before rings start. */
  async setInflight(inflight: Inflight, fd: number): Promise<void> {
    await this.request("SET_INFLIGHT_FD", inflight, [fd]);
  }

  async setEventfd(index: number, which: VringFd, fd: number | undefined): Promise<void> {
    const payload = fd === undefined ? BigInt(index) | vringFdBits.noFd : BigInt(index);
    await this.request(eventfdRequests[which], payload, fd === undefined ? [] : [fd]);
  }

  /** Sends the kick before the call eventfd, as QEMU does. */
  async startVring(index: number, vring: FrontendVring): Promise<void> {
    const { size, base, desc, avail, used, flags = 0, log = 0n, kick, call } = vring;
    await this.request("SET_VRING_NUM", { index, num: size });
    await this.request("SET_VRING_BASE", { index, num: base });
    await this.request("SET_VRING_ADDR", { index, flags, desc, used, avail, log });
    await this.setEventfd(index, "kick", kick);
    await this.setEventfd(index, "call", call);
  }

  /** Returns the base where the ring can be started again. */
  async stopVring(index: number): Promise<number> {
    return (await this.request("GET_VRING_BASE", { index, num: 0 })).num;
  }

  async enableVring(index: number, enabled: boolean): Promise<void> {
    await this.request("SET_VRING_ENABLE", { index, num: enabled ? 1 : 0 });
  }

  /**
   * Tells that the guest's driver is up, where STATUS was acknowledged: ACKNOWLEDGE, DRIVER, FEATURES_OK and DRIVER_OK
   * (virtio 2.1). DPDK moves no packet before it knows.
   */
  async driverOk(): Promise<void> {
    if (hasProtocolFeature(this.#protocolFeatures, "STATUS")) await this.request("SET_STATUS", 0xfn);
  }

  /** Sends a request and waits for the answer that its row of the table announces. */
  request<N extends RequestName>(name: N, payload: PayloadOf<N>, fds: readonly number[] = []): Promise<AnswerOf<N>> {
    return this.#inTurn(() => this.#exchange(name, payload, fds)) as Promise<AnswerOf<N>>;
  }

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(act);
    this.#last = turn.catch(() => {});
    return turn;
  }

  async #exchange(name: RequestName, payload: unknown, fds: readonly number[]): Promise<unknown> {
    if (this.#gone !== undefined) throw new HangupError(`${name} not sent: ${this.#gone}`);
    const { number, payload: codec, reply } = requests[name] as Row<unknown, unknown>;
    const acknowledged = reply === "none" && hasProtocolFeature(this.#protocolFeatures, "REPLY_ACK");
    const flags = headerFlags.version | (acknowledged ? headerFlags.needReply : 0);
    this.send(number, flags, codec.encode(payload), fds);
    if (reply === "none" && !acknowledged) return undefined;
    const { payload: answer, fds: others } = await this.#answerTo(name, number);
    for (const fd of others) fd[Symbol.dispose]();
    if (typeof reply === "object") return this.#decoded(name, reply.decode(answer));
    const verdict = this.#decoded(name, u64.decode(answer));
    if (verdict !== 0n) throw new NackError(`${name} refused by the back end: ${verdict}`);
    return undefined;
  }

  async #answerTo(name: RequestName, number: number): Promise<RawMessage> {
    const answer = await this.receive().catch((error) => {
      this.close();
      throw error instanceof HangupError
        ? new HangupError(`${name}: ${error.message}`)
        : new ProtocolError(`${name}: ${error.message}`);
    });
    if (answer.request === number && answer.flags === (headerFlags.version | headerFlags.reply)) return answer;
    for (const fd of answer.fds) fd[Symbol.dispose]();
    this.close();
    throw new ProtocolError(`${name}: answered with request ${answer.request}, flags 0x${answer.flags.toString(16)}`);
  }

  #decoded<T>(name: RequestName, answer: T | undefined): T {
    if (answer !== undefined) return answer;
    this.close();
    throw new ProtocolError(`${name}: answered with a payload of another size`);
  }

  /** Sends any bytes at all, and expects nothing. */
  send(request: number, flags: number, payload: Uint8Array, fds: readonly number[] = []): void {
    this.#channel.send(request, flags, payload, fds);
  }

  /** The next message from the back end, with its fds. Rejects when none comes in time; the connection stays. */
  async receive(timeoutMs: number = this.#timeoutMs): Promise<RawMessage> {
    const message = this.#unread ?? await this.#arrival(timeoutMs);
    this.#unread = undefined;
    this.#channel.resume();
    return message;
  }

  async #arrival(timeoutMs: number): Promise<RawMessage> {
    if (this.#gone !== undefined) throw new HangupError(this.#gone);
    if (this.#reader !== undefined) throw new TypeError("Cannot receive: somebody else waits for the next message");
    const reader = this.#reader = Promise.withResolvers<RawMessage>();
    const late = () => reader.reject(new ProtocolError(`no answer within ${timeoutMs} ms`));
    const timer = setTimeout(late, timeoutMs);
    try {
      return await reader.promise;
    } finally {
      clearTimeout(timer);
      this.#reader = undefined;
    }
  }

  #arrived(message: RawMessage): void {
    this.#unread = message;
    this.#reader?.resolve(message);
  }

  #lost(reason: string): void {
    this.#gone ??= reason;
    this.#reader?.reject(new HangupError(reason));
    this.#hangup.resolve(reason);
  }

  /** Ends the connection. May be called again. */
  close(): void {
    this.#gone ??= "connection closed";
    this.#channel.close();
    for (const fd of this.#unread?.fds ?? []) fd[Symbol.dispose]();
    this.#unread = undefined;
    this.#reader?.reject(new HangupError("connection closed"));
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

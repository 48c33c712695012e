/**
 * One front end's connection, from its first message to its end: raw message -> request -> session -> data plane ->
 * answer. One message at a time: the next is asked for when the data plane has adopted this one.
 *
 * @module
 */
import type { Channel, ChannelListener, RawMessage } from "./channel.ts";
import type { Dataplane, Region } from "./dataplane.ts";
import type { StateTransfer } from "./device_state.ts";
import { ProtocolError, RefusedError } from "./error.ts";
import type { Fd } from "./fd.ts";
import type { Offer } from "./offer.ts";
import { isMet, readRequest, type RequestName, requestName, requests, type Row } from "./request.ts";
import { afterStop, type Effect, initialSession, isRunning, type SessionState, type Step, step } from "./session.ts";
import { hasProtocolFeature, headerFlags } from "./spec.ts";
import { type Codec, u64 } from "./wire.ts";

/** Who hears how a session goes. May not throw. */
export interface BackendListener {
  /** The first ring runs. */
  started(features: bigint): void;
  /** The last running ring stopped; the front end is still there. */
  stopped(): void;
  /** Post-copy: from now on memory is fetched as it is needed, or all of it is here. */
  postCopy?(phase: "listening" | "over"): void;
  /** A request was refused by a nack, and the session goes on. The same, at once again, is not told again. */
  refused(reason: string): void;
  /**
   * The session is over: the front end is gone or broke the protocol. The channel is closed and the data plane reset.
   * Told once, and not after `Backend.close`.
   */
  closed(reason: string): void;
}

export interface BackendOptions {
  /** Nobody listens to it yet; the back end closes it. */
  readonly channel: Channel;
  /** Without rings, memory and fds; left so at the end. */
  readonly dataplane: Dataplane;
  readonly offer: Offer;
  readonly listener: BackendListener;
  /** Where DEVICE_STATE is on offer. The caller ends it with the session. */
  readonly state?: StateTransfer | undefined;
  /** A session that another process has begun; the data plane has what belongs to it. */
  readonly begun?: { readonly state: SessionState; readonly requestSocket: Fd | undefined } | undefined;
}

/** What is sent back. */
interface Answer {
  readonly payload: Uint8Array;
  readonly fds?: readonly number[];
}

const ack = 0n;
const nack = 1n;
/** Of that number. */
const knownBytes = 8;

/** Listens to its channel as soon as it exists, and holds nothing more once `closed` was told or `close` called. */
export class Backend implements ChannelListener {
  readonly #channel: Channel;
  readonly #dataplane: Dataplane;
  readonly #listener: BackendListener;
  readonly #transfer: StateTransfer | undefined;
  #state: SessionState;
  #open = true;
  #lastRefusal = "";
  #requestSocket: Fd | undefined;
  /** Goes with the answer under way; the front end then has one of its own. */
  #made: Fd | undefined;
  /** In post-copy: the request whose regions were located for the front end, until it has said that it knows. */
  #located: RawMessage | undefined;

  constructor({ channel, dataplane, offer, listener, state, begun }: BackendOptions) {
    this.#channel = channel;
    this.#dataplane = dataplane;
    this.#listener = listener;
    this.#transfer = state;
    this.#state = begun?.state ?? initialSession(offer);
    this.#requestSocket = begun?.requestSocket?.move();
    channel.listen(this);
  }

  /** What was negotiated and configured so far. */
  get state(): SessionState {
    return this.#state;
  }

  /** The socket for requests of ours, still the session's. */
  get requestSocket(): number | undefined {
    return this.#requestSocket?.number;
  }

  /** Ends the session from our side. May be called again. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#channel.close();
    this.#dataplane.reset();
    this.#requestSocket?.[Symbol.dispose]();
    this.#made?.[Symbol.dispose]();
  }

  message(raw: RawMessage): void {
    try {
      if (this.#open) this.#handle(raw);
    } catch (error) {
      this.#end(error instanceof ProtocolError ? error.message : `internal error: ${String(error)}`);
    } finally {
      for (const fd of raw.fds) fd[Symbol.dispose]();
    }
    if (this.#open) this.#channel.resume();
  }

  hangup(reason: string): void {
    this.#end(reason);
  }

  #end(reason: string): void {
    if (!this.#open) return;
    this.close();
    this.#listener.closed(reason);
  }

  /** Throws `ProtocolError` when the session cannot go on. */
  #handle(raw: RawMessage): void {
    const name = requestName(raw.request, "front end");
    const title = name ?? `request ${raw.request}`;
    checkFlags(title, raw.flags);
    if (this.#isKnown(raw)) return;
    const before = this.#state;
    try {
      const answer = this.#perform(name, raw);
      if (answer !== undefined) this.#answer(raw, answer);
      else if (this.#awaitsVerdict(name, raw)) this.#answer(raw, { payload: u64.encode(ack) });
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
      const reason = `${title} refused: ${error.message}`;
      if (!this.#awaitsVerdict(name, raw)) throw new ProtocolError(reason);
      const row: Row<unknown, unknown> | undefined = name === undefined ? undefined : requests[name];
      this.#answer(raw, { payload: u64.encode(row?.refusal ?? nack) });
      this.#tellRefusal(reason);
    }
    this.#tellChange(before);
  }

  /** Does what a message asks for. Returns its own answer, if it has one. */
  #perform(name: RequestName | undefined, raw: RawMessage): Answer | undefined {
    if (name === undefined) throw new RefusedError("the specification has no such request");
    const next = step(this.#state, readRequest(name, raw, this.#state));
    let fds: readonly number[] = [];
    this.#state = this.#carryOut(name, next, (fd) => fds = [fd]);
    if (next.located !== undefined) return this.#locate(name, raw, next.located);
    const reply: Row<unknown, unknown>["reply"] = requests[name].reply;
    if (typeof reply === "string" || next.answer === undefined) return undefined;
    return { payload: reply.encode(next.answer(this.#state)), fds };
  }

  /** The payload of a request with regions, whose user addresses are ours. */
  #locate(name: RequestName, raw: RawMessage, regions: readonly Region[]): Answer {
    this.#located = raw;
    const here = regions.map((one) => ({ ...one, userAddress: this.#dataplane.regionAddress(one) }));
    const payload: Codec<unknown> = requests[name].payload;
    return { payload: payload.encode(name === "SET_MEM_TABLE" ? here : here[0]) };
  }

  /**
   * Takes in that the front end knows where the regions are: the same request, with a number instead of regions. The
   * ack of a whole table comes only after it; after single ones QEMU waits for none.
   */
  #isKnown(raw: RawMessage): boolean {
    const asked = this.#located;
    if (asked === undefined || asked.request !== raw.request || raw.payload.length !== knownBytes) return false;
    this.#located = undefined;
    if (this.#state.postCopy !== "listening") return false;
    if (u64.decode(raw.payload) !== ack) throw new ProtocolError("the front end cannot fetch the guest's memory");
    const whole = asked.request === requests.SET_MEM_TABLE.number;
    if (whole && this.#awaitsVerdict("SET_MEM_TABLE", asked)) this.#answer(asked, { payload: u64.encode(ack) });
    return true;
  }

  /**
   * Whether the sender waits for zero or not zero. Who waits for an answer of another kind cannot be told of a refusal,
   * and who uses what was not negotiated waits for nothing but an ack.
   */
  #awaitsVerdict(name: RequestName | undefined, raw: RawMessage): boolean {
    const row: Row<unknown, unknown> | undefined = name === undefined ? undefined : requests[name];
    const judges = row?.reply === "verdict" || row?.refusal !== undefined;
    if (judges && isMet(row.need, this.#state)) return true;
    if (typeof row?.reply === "object") return false;
    return (raw.flags & headerFlags.needReply) !== 0 && hasProtocolFeature(this.#state.protocolFeatures, "REPLY_ACK");
  }

  #answer(raw: RawMessage, { payload, fds = [] }: Answer): void {
    // QEMU takes an answer only with exactly these flags.
    this.#channel.send(raw.request, headerFlags.version | headerFlags.reply, payload, fds);
    this.#made?.[Symbol.dispose]();
  }

  #tellRefusal(reason: string): void {
    if (reason !== this.#lastRefusal) this.#listener.refused(reason);
    this.#lastRefusal = reason;
  }

  #tellChange(before: SessionState): void {
    const { postCopy } = this.#state;
    if (postCopy !== before.postCopy && (postCopy === "listening" || before.postCopy === "listening")) {
      this.#listener.postCopy?.(postCopy === "listening" ? "listening" : "over");
    }
    const ran = isRunning(before);
    const runs = isRunning(this.#state);
    if (runs && !ran) this.#listener.started(this.#state.features ?? 0n);
    if (!runs && ran) this.#listener.stopped();
  }

  /** Returns the state that is reached. If the first effect fails, nothing changed; after a later one, nobody knows. */
  #carryOut(name: RequestName, { state, effects }: Step, yielded: (fd: number) => void): SessionState {
    effects.forEach((effect, i) => {
      try {
        const number = this.#apply(effect);
        if (effect.kind === "stopVring" && effect.keepBase) state = afterStop(state, effect.index, number!);
        if (effect.kind === "advisePostCopy" || effect.kind === "makeInflight") yielded(number!);
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        throw i === 0 ? new RefusedError(reason) : new ProtocolError(`${name} half done: ${reason}`);
      }
    });
    return state;
  }

  #states(): StateTransfer {
    if (this.#transfer === undefined) throw new RefusedError("this back end cannot do it");
    return this.#transfer;
  }

  /** Returns the base where a ring stopped, or a descriptor, borrowed, that the front end is to have. */
  #apply(effect: Effect): number | undefined {
    const dataplane = this.#dataplane;
    switch (effect.kind) {
      case "setMtu":
        dataplane.setMtu(effect.mtu);
        break;
      case "setMemory":
        dataplane.setMemory(effect.regions, effect.fds);
        break;
      case "addRegion":
        dataplane.addRegion(effect.region, effect.fd);
        break;
      case "removeRegion":
        dataplane.removeRegion(effect.region);
        break;
      case "setLog":
        dataplane.setLog(effect.fd, effect.size, effect.offset);
        break;
      case "setLogFd":
        dataplane.setLogFd(effect.fd);
        break;
      case "logVring":
        dataplane.logVring(effect.index, effect.config);
        break;
      case "makeInflight":
        this.#made = dataplane.makeInflight(effect.size);
        return this.#made.number;
      case "setInflight": {
        const { mmapSize, mmapOffset, queueCount, queueSize } = effect.inflight;
        dataplane.setInflight(effect.fd, mmapSize, mmapOffset, queueCount, queueSize);
        break;
      }
      case "announce":
        dataplane.announce(effect.mac);
        break;
      case "startVring":
        dataplane.startVring(effect.index, effect.config);
        break;
      case "stopVring":
        return dataplane.stopVring(effect.index);
      case "enableVring":
        dataplane.enableVring(effect.index, effect.enabled);
        break;
      case "setVringFd":
        dataplane.setVringFd(effect.index, effect.which, effect.fd);
        break;
      case "saveState":
        this.#states().save(effect.fd);
        break;
      case "loadState":
        this.#states().load(effect.fd);
        break;
      case "checkState":
        this.#states().check();
        break;
      case "advisePostCopy":
        return dataplane.advisePostCopy();
      case "listenPostCopy":
        dataplane.listenPostCopy();
        break;
      case "endPostCopy":
        dataplane.endPostCopy();
        break;
      case "keepRequestSocket":
        this.#requestSocket?.[Symbol.dispose]();
        this.#requestSocket = effect.fd.move();
    }
    return undefined;
  }
}

function checkFlags(title: string, flags: number): void {
  if ((flags & headerFlags.versionMask) !== headerFlags.version) {
    throw new ProtocolError(`${title}: version ${flags & headerFlags.versionMask} of the protocol: only 1 is known`);
  }
  if ((flags & headerFlags.reply) !== 0) throw new ProtocolError(`${title}: an answer to no question`);
  if ((flags & ~headerFlags.requestMask) === 0) return;
  throw new ProtocolError(`${title}: flags 0x${(flags >>> 0).toString(16)}: bits above 3 have no meaning`);
}

/**
 * One front end's connection, from its first message to its end: raw message -> request -> session -> data plane ->
 * answer. One message at a time: the next is asked for when the data plane has adopted this one.
 *
 * @module
 */
import type { Channel, ChannelListener, RawMessage } from "./channel.ts";
import type { Dataplane } from "./dataplane.ts";
import { ProtocolError, RefusedError } from "./error.ts";
import type { Fd } from "./fd.ts";
import type { Offer } from "./offer.ts";
import { isMet, readRequest, type RequestName, requestName, requests, type Row } from "./request.ts";
import { afterStop, type Effect, initialSession, isRunning, type SessionState, type Step, step } from "./session.ts";
import { hasProtocolFeature, headerFlags } from "./spec.ts";
import { u64 } from "./wire.ts";

/** Who hears how a session goes. May not throw. */
export interface BackendListener {
  /** The first ring runs. */
  started(features: bigint): void;
  /** The last running ring stopped; the front end is still there. */
  stopped(): void;
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
}

const ack = 0n;
const nack = 1n;

/** Listens to its channel as soon as it exists, and holds nothing more once `closed` was told or `close` called. */
export class Backend implements ChannelListener {
  readonly #channel: Channel;
  readonly #dataplane: Dataplane;
  readonly #listener: BackendListener;
  #state: SessionState;
  #open = true;
  #lastRefusal = "";
  #requestSocket: Fd | undefined;

  constructor({ channel, dataplane, offer, listener }: BackendOptions) {
    this.#channel = channel;
    this.#dataplane = dataplane;
    this.#listener = listener;
    this.#state = initialSession(offer);
    channel.listen(this);
  }

  /** What was negotiated and configured so far. */
  get state(): SessionState {
    return this.#state;
  }

  /** Ends the session from our side. May be called again. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#channel.close();
    this.#dataplane.reset();
    this.#requestSocket?.[Symbol.dispose]();
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
    const ran = isRunning(this.#state);
    try {
      const answer = this.#perform(name, raw);
      if (answer !== undefined) this.#answer(raw, answer);
      else if (this.#awaitsVerdict(name, raw)) this.#answer(raw, u64.encode(ack));
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
      const reason = `${title} refused: ${error.message}`;
      if (!this.#awaitsVerdict(name, raw)) throw new ProtocolError(reason);
      this.#answer(raw, u64.encode(nack));
      this.#tellRefusal(reason);
    }
    this.#tellChange(ran);
  }

  /** Does what a message asks for. Returns the payload of its own answer, if it has one. */
  #perform(name: RequestName | undefined, raw: RawMessage): Uint8Array | undefined {
    if (name === undefined) throw new RefusedError("the specification has no such request");
    const next = step(this.#state, readRequest(name, raw, this.#state));
    this.#state = this.#carryOut(name, next);
    const reply: Row<unknown, unknown>["reply"] = requests[name].reply;
    return typeof reply === "string" || next.answer === undefined ? undefined : reply.encode(next.answer(this.#state));
  }

  /**
   * Whether the sender waits for zero or not zero. Who waits for an answer of another kind cannot be told of a refusal,
   * and who uses what was not negotiated waits for nothing but an ack.
   */
  #awaitsVerdict(name: RequestName | undefined, raw: RawMessage): boolean {
    const row: Row<unknown, unknown> | undefined = name === undefined ? undefined : requests[name];
    if (typeof row?.reply === "object") return false;
    if (row?.reply === "verdict" && isMet(row.need, this.#state)) return true;
    return (raw.flags & headerFlags.needReply) !== 0 && hasProtocolFeature(this.#state.protocolFeatures, "REPLY_ACK");
  }

  #answer(raw: RawMessage, payload: Uint8Array): void {
    // QEMU takes an answer only with exactly these flags.
    this.#channel.send(raw.request, headerFlags.version | headerFlags.reply, payload, []);
  }

  #tellRefusal(reason: string): void {
    if (reason !== this.#lastRefusal) this.#listener.refused(reason);
    this.#lastRefusal = reason;
  }

  #tellChange(ran: boolean): void {
    const runs = isRunning(this.#state);
    if (runs && !ran) this.#listener.started(this.#state.features ?? 0n);
    if (!runs && ran) this.#listener.stopped();
  }

  /** Returns the state that is reached. If the first effect fails, nothing changed; after a later one, nobody knows. */
  #carryOut(name: RequestName, { state, effects }: Step): SessionState {
    effects.forEach((effect, i) => {
      try {
        const base = this.#apply(effect);
        if (effect.kind === "stopVring" && effect.keepBase) state = afterStop(state, effect.index, base!);
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        throw i === 0 ? new RefusedError(reason) : new ProtocolError(`${name} half done: ${reason}`);
      }
    });
    return state;
  }

  /** Returns the base where a ring stopped. */
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

/**
 * One port's front ends: lets one in at a time, connects again where we connect, and tells what happens.
 *
 * @module
 */
import type { Port, VringState } from "../ffi/port.ts";
import type { SocketChannel } from "../ffi/channel.ts";
import { signalEventfd } from "../ffi/fd.ts";
import type { Pump, SocketOptions } from "../ffi/pump.ts";
import { VringError } from "../ffi/library.ts";
import { Backend, type BackendOptions } from "../vhost/backend.ts";
import type { Offer } from "../vhost/offer.ts";
import { isRunning } from "../vhost/session.ts";
import { bits, hex, type Json, readSession, rowOf, writeSession } from "../vhost/session_snapshot.ts";
import { featureNames, hasFeature } from "../vhost/spec.ts";
import { Budget } from "./budget.ts";
import { beginRings, packDataplane, positionsOf, unpackDataplane } from "./guest_parcel.ts";
import type { Inheritance, MovingPort, NamedFd, Parcel, ParcelFds, Positions } from "./parcel.ts";
import type { Occurrence, PortEvent } from "./port_event.ts";
import { type CarriedLife, type PacketCounts, PortLog } from "./port_life.ts";
import type { PortPlan } from "./port_plan.ts";
import { isSame, KeptState, type StateFailure } from "./kept_state.ts";
import { type PortSample, type PortState, statsSum } from "./port_sample.ts";
import { PortSocket, type PortSocketParts } from "./port_socket.ts";
import { Repeats } from "./repeats.ts";
import { callAfter } from "./shared_timer.ts";
import { type Carried, PortStateTransfer } from "./state_transfer.ts";
import { RingWatch } from "./ring_watch.ts";

/** A session that ends earlier, and without a running ring, has come to nothing. */
const shortSession_ms = 1000;
/** A front end that returns at once, so many times in vain, is answered late: it would use up a CPU of ours too. */
const vainMax = 3;
/** One that returns later than this does not hurry. */
const hurry_ms = 500;
/** The old connection's end may be heard after the new one's beginning: a newcomer may wait so long for it. */
const handover_ms = 100;
/** All rings of a front end start within such a time. */
const startedAll_ms = 50;
const firstPause_ms = 100;
const lastPause_ms = 1000;
/** A front end or a guest that makes more happen is told of by number. */
const tellBurst = 50;
const tellPerSecond = 5;

/** What a port works with. */
export interface PortServerParts {
  readonly plan: PortPlan;
  readonly port: Port;
  readonly pump: Pump;
  readonly socketMode: number;
  /** Begun with the port; without one, rings are not taken up after this process died. */
  readonly state?: KeptState | undefined;
  /** Why there is none. */
  readonly stateFailure?: StateFailure | undefined;
  readonly happened: (event: PortEvent) => void;
}

interface Session {
  readonly backend: Backend | undefined;
  readonly channel: SocketChannel;
  readonly state: PortStateTransfer | undefined;
  readonly since_ms: number;
  /** Whether its beginning was told. */
  told: boolean;
  /** When its rings started, the last time. */
  started_ms: number | undefined;
  everStarted: boolean;
}

/** Pauses between attempts: none, 100 ms, twice as long each time up to 1 s, all give or take a fifth. */
export function pauseAfter(failures: number): number {
  if (failures === 0) return 0;
  return Math.min(firstPause_ms * 2 ** (failures - 1), lastPause_ms) * (0.8 + 0.4 * Math.random());
}

/** Whoever looks after a port. */
export interface PortService extends Disposable {
  readonly port: Port;
  readonly plan: PortPlan;
  /** To be called every second: tells what only shows over time. */
  tick(): void;
  /** To be called when a ring broke, of whichever port. */
  lookForBroken(): void;
  /** The port as it is now. */
  sample(): PortSample;
  /** How it changes its process, if it can. */
  readonly moving: MovingPort | undefined;
}

/** Serves a port from `open` until it is disposed of, before its pump and its engine. */
export class PortServer implements PortService, MovingPort {
  readonly #parts: PortServerParts;
  readonly #vain: Repeats;
  readonly #turnedAway: Repeats;
  readonly #unaccepted: Repeats;
  readonly #rings: RingWatch;
  readonly #log: PortLog;
  readonly #budget = new Budget(tellBurst, tellPerSecond);
  /** Occurrences that were not told. */
  #untold = 0;
  #socket: PortSocket | undefined;
  #session: Session | undefined;
  /** The newcomer while another session is there. */
  #candidate: { readonly channel: SocketChannel; readonly timer: Disposable } | undefined;
  /** A pause before the next attempt, ours or the front end's. */
  #pause: Disposable | undefined;
  /** Attempts in a row that came to nothing. */
  #failures = 0;
  #lastEnd_ms = -Infinity;
  #waitReason = "";
  /** Something is to be told. */
  #soon: Disposable | undefined;
  #offer: Offer;
  /** What was told of buffers that somebody who died had in hand. */
  #recovered = 0;
  #closed = false;
  /** Another process has the port as well. */
  #frozen = false;
  #inherited: Inheritance | undefined;

  private constructor(parts: PortServerParts) {
    this.#parts = parts;
    this.#log = new PortLog(() => this.#packets());
    this.#offer = this.#currentOffer();
    this.#rings = new RingWatch(parts.port, this.#offer.queuePairs, (found) => this.#tell(found));
    this.#vain = this.#repeats("front end came and went");
    this.#turnedAway = this.#repeats("front end not let in");
    this.#unaccepted = this.#repeats("front end not let in");
  }

  /** Listens, or begins to connect. Throws what `Pump.listen` throws. */
  static open(parts: PortServerParts): PortServer {
    const server = new PortServer(parts);
    if (parts.plan.mode === "server") {
      server.#socket = PortSocket.open(server.#socketParts());
    } else {
      server.#pause = callAfter(0, () => server.#connect());
    }
    // What is told, nobody hears before the server is there.
    server.#soon = callAfter(0, () => server.#tellState());
    return server;
  }

  /** What outlives a port that another process had; undefined where nothing does. */
  static keptState(state: Json): KeptState | undefined {
    const { statePath } = rowOf(state, "port");
    return typeof statePath === "string" ? KeptState.adopt(statePath) : undefined;
  }

  /**
   * Goes on, frozen, with what another process had, of which `parts` have the kept state. Throws with the reason why it
   * cannot.
   */
  static adopt(parts: PortServerParts, state: Json, fds: ParcelFds): PortServer {
    const row = rowOf(state, "port");
    parts.port.keepState(fds.get("journal"));
    const server = new PortServer(parts);
    server.#frozen = true;
    try {
      if (parts.plan.mode === "server") {
        const file = rowOf(row["file"], "socket's file");
        const identity = { device: bits(file, "device"), inode: bits(file, "inode") };
        const fd = fds.get("listener");
        server.#socket = PortSocket.adopt(server.#socketParts(), fd.number, identity);
        fd.take();
      }
      server.#log.resume(row["life"] as unknown as CarriedLife);
      if (row["session"] !== null) server.#adoptSession(rowOf(row["session"], "session"), fds);
      server.#soon = callAfter(0, () => server.#tellState());
      return server;
    } catch (error) {
      server[Symbol.dispose]();
      parts.port.reset();
      throw error;
    }
  }

  #socketParts(): PortSocketParts {
    const { plan, pump, socketMode } = this.#parts;
    const options: SocketOptions = {
      mode: socketMode,
      accept: (channel) => this.#accept(channel),
      refused: (reason) => this.#notAccepted(reason),
    };
    return { pump, path: plan.socket, options, tell: (what) => this.#tell(what) };
  }

  get moving(): MovingPort {
    return this;
  }

  get port(): Port {
    return this.#parts.port;
  }

  get plan(): PortPlan {
    return this.#parts.plan;
  }

  /** Turns everybody out and stops listening. May be called again. */
  [Symbol.dispose](): void {
    this.#closed = true;
    this.#pause?.[Symbol.dispose]();
    this.#soon?.[Symbol.dispose]();
    if (this.#candidate !== undefined) this.#dropCandidate();
    this.#socket?.[Symbol.dispose]();
    this.#session?.backend?.close();
    this.#session?.state?.[Symbol.dispose]();
    this.#session?.channel.close();
    this.#session = undefined;
    // Else it is another process's.
    if (!this.#frozen) this.#parts.state?.end(this.port);
  }

  // What outlives us.

  #currentOffer(): Offer {
    const { plan, port, state } = this.#parts;
    return state?.offer(port, plan.offer) ?? plan.offer;
  }

  #tellState(): void {
    const { state, stateFailure, plan } = this.#parts;
    if (stateFailure !== undefined) this.#tell({ event: "no_state", ...stateFailure });
    if (state?.setAside !== undefined) this.#tell({ event: "state_set_aside", ...state.setAside });
    if (isSame(this.#offer, plan.offer)) return;
    const { queuePairs, features } = this.#offer;
    this.#tell({ event: "offer_kept", queue_pairs: queuePairs, features: featureNames(features) });
  }

  #tellRecovered(): void {
    const returned = Number(this.port.stats("fromGuest").drop_crash) - this.#recovered;
    if (returned === 0) return;
    this.#recovered += returned;
    this.#tell({ event: "recovered", returned });
  }

  // Coming and going.

  #accept(channel: SocketChannel): void {
    if (this.#session === undefined) return this.#admit(channel);
    if (this.#candidate !== undefined) return this.#turnAway(channel);
    const timer = callAfter(handover_ms, () => {
      this.#candidate = undefined;
      this.#turnAway(channel);
    });
    this.#candidate = { channel, timer };
  }

  #turnAway(channel: SocketChannel): void {
    channel.close();
    if (!this.#turnedAway.again(performance.now())) return;
    this.#tell({ event: "refused", reason: "another one is connected: disconnect that first, or use another port" });
  }

  #notAccepted(reason: string): void {
    if (this.#unaccepted.again(performance.now())) this.#tell({ event: "refused", reason });
  }

  #dropCandidate(): void {
    this.#candidate?.timer[Symbol.dispose]();
    this.#candidate?.channel.close();
    this.#candidate = undefined;
  }

  /** Lets a front end in, late if it hurries in vain. */
  #admit(channel: SocketChannel): void {
    const hurries = performance.now() - this.#lastEnd_ms < hurry_ms;
    if (this.plan.mode === "client" || this.#failures < vainMax || !hurries) return this.#begin(channel);
    this.#session = newSession(undefined, channel);
    this.#pause = callAfter(pauseAfter(this.#failures - vainMax + 1), () => this.#begin(channel));
  }

  #begin(channel: SocketChannel): void {
    if (this.#frozen) channel.hold(true);
    this.#rings.begin();
    this.#offer = this.#currentOffer();
    this.#session = this.#newSession(channel, undefined, undefined);
    this.#waitReason = "";
    if (this.#vain.isNews(performance.now())) this.#tellConnected();
  }

  #newSession(channel: SocketChannel, begun: BackendOptions["begun"], carried: Carried | undefined): Session {
    const { port, pump } = this.#parts;
    const mtu = () => backend.state.mtu;
    const tell = (what: Occurrence) => this.#tell(what);
    const state: PortStateTransfer = new PortStateTransfer({ port, pump, mtu, tell, carried });
    const backend: Backend = new Backend({
      state,
      channel,
      begun,
      dataplane: port,
      offer: this.#offer,
      listener: {
        started: (features) => this.#started(features),
        stopped: () => this.#stopped(),
        postCopy: (phase) => this.#tell({ event: "post_copy", phase }),
        refused: (reason) => this.#tell({ event: "nack", reason }),
        closed: (reason) => this.#ended(reason),
      },
    });
    return newSession(backend, channel, state);
  }

  #tellConnected(): void {
    if (this.#session === undefined || this.#session.told) return;
    this.#session.told = true;
    this.#log.connected();
    const { attempts } = this.#log.life;
    this.#tell({ event: "connected", ...attempts > 0 ? { attempts } : {} });
  }

  #started(features: bigint): void {
    const session = this.#session!;
    session.started_ms = performance.now();
    session.everStarted = true;
    this.#failures = 0;
    this.#tellConnected();
    const ring = hasFeature(features, "RING_PACKED") ? "packed" : "split";
    this.#log.started(ring, featureNames(features));
    this.#tell({ event: "started", ring, features: featureNames(features) });
    // The others are about to start.
    this.#soon?.[Symbol.dispose]();
    this.#soon = callAfter(startedAll_ms, () => this.#tellRecovered());
  }

  #stopped(): void {
    this.#session!.started_ms = undefined;
    this.#log.stopped();
    this.#rings.rest();
    this.#tell({ event: "stopped" });
  }

  #ended(reason: string): void {
    const { everStarted, since_ms, state } = this.#session!;
    state?.[Symbol.dispose]();
    this.#log.disconnected(reason);
    const now_ms = performance.now();
    const inVain = !everStarted && now_ms - since_ms < shortSession_ms;
    if (!inVain) this.#tellConnected();
    this.#session = undefined;
    this.#lastEnd_ms = now_ms;
    this.#failures = inVain ? this.#failures + 1 : 0;
    if (!inVain || this.#vain.again(now_ms)) this.#tell({ event: "disconnected", reason });
    this.#next();
  }

  /** Lets the waiting newcomer in, or connects again. */
  #next(): void {
    if (this.#closed || this.#frozen) return;
    if (this.plan.mode === "client") {
      this.#pause = callAfter(pauseAfter(this.#failures), () => this.#connect());
    } else if (this.#candidate !== undefined) {
      const { channel, timer } = this.#candidate;
      timer[Symbol.dispose]();
      this.#candidate = undefined;
      this.#admit(channel);
    }
  }

  #connect(): void {
    if (this.#frozen) return;
    try {
      this.#admit(this.#parts.pump.connect(this.plan.socket));
    } catch (error) {
      if (!(error instanceof VringError)) throw error;
      this.#failures++;
      const { reason } = error;
      this.#log.failed(reason);
      if (reason !== this.#waitReason) this.#tell({ event: "waiting", socket: this.plan.socket, reason });
      this.#waitReason = reason;
      if (this.#closed) return;
      this.#pause = callAfter(pauseAfter(this.#failures), () => this.#connect());
    }
  }

  // Changing its process.

  freeze(): void {
    this.#frozen = true;
    this.#pause?.[Symbol.dispose]();
    const session = this.#session;
    for (const one of [this.#socket, this.#candidate?.channel, session?.channel]) one?.hold(true);
    // One that was to wait for its turn need not: it is told nothing yet.
    if (session !== undefined && session.backend === undefined) this.#begin(session.channel);
  }

  thaw(): void {
    this.#frozen = false;
    for (const one of [this.#socket, this.#candidate?.channel, this.#session?.channel]) one?.hold(false);
    if (this.#session === undefined) return this.#next();
    // What was done last in the other process may not have been told.
    for (const { index, running } of this.#session.backend?.state.vrings ?? []) {
      const call = running === undefined ? undefined : this.port.vringFd(index, "call");
      if (call !== undefined) signalEventfd(call);
    }
  }

  parcel(version: number): Parcel {
    const fds: NamedFd[] = [];
    const { state, port } = this.#parts;
    fds.push(["journal", port.stateFd()]);
    const listener = this.#socket?.socket();
    if (listener !== undefined) fds.push(["listener", listener.fd]);
    const file = listener && { device: hex(listener.file.device), inode: hex(listener.file.inode) };
    const session = this.#session === undefined ? null : this.#packSession(this.#session, fds, version);
    const life = this.#log.carried() as unknown as Json;
    return { state: { file: file ?? null, session, life, statePath: state?.path ?? null }, fds };
  }

  expel(reason: string): void {
    if (this.#session === undefined) return;
    // Closed for good, not only here.
    this.#session.channel.hold(false);
    this.#session.backend?.close();
    this.#session.channel.close();
    this.#ended(reason);
  }

  #packSession({ channel, backend, state }: Session, fds: NamedFd[], version: number): Json {
    const { port } = this.#parts;
    fds.push(["connection", channel.socket()]);
    if (backend!.requestSocket !== undefined) fds.push(["request", backend!.requestSocket]);
    const dataplane = packDataplane(port, backend!.state);
    fds.push(...dataplane.fds);
    return { backend: writeSession(backend!.state, version), log: dataplane.log, carried: state!.carried() };
  }

  #adoptSession(row: { readonly [name: string]: Json }, fds: ParcelFds): void {
    const { port, pump } = this.#parts;
    const state = readSession(row["backend"]!, this.#offer);
    unpackDataplane(port, state, row["log"]!, fds);
    this.#rings.begin();
    const fd = fds.get("connection");
    const channel = pump.adopt(fd.number);
    fd.take();
    channel.hold(true);
    const carried = row["carried"] as unknown as Carried;
    const session = this.#newSession(channel, { state, requestSocket: fds.look("request") }, carried);
    session.told = true;
    session.everStarted = isRunning(state);
    session.started_ms = session.everStarted ? session.since_ms : undefined;
    this.#session = session;
  }

  positions(): Positions {
    const { port } = this.#parts;
    const backend = this.#session?.backend;
    return backend === undefined ? { bases: [], announcements: [0, 0] } : positionsOf(port, backend.state);
  }

  begin(positions: Positions): void {
    const backend = this.#session?.backend;
    if (backend !== undefined) beginRings(this.#parts.port, backend.state, positions);
  }

  own(): void {
    this.#parts.state?.own();
    if (this.#session?.backend?.state.inflight !== undefined) this.port.ownInflight();
  }

  inherit(counters: Inheritance): void {
    this.#inherited = counters;
  }

  // Looking after it.

  tick(): void {
    const now_ms = performance.now();
    this.#vain.tick(now_ms);
    this.#turnedAway.tick(now_ms);
    this.#unaccepted.tick(now_ms);
    this.#socket?.tick();
    this.#tellUntold(now_ms);
    this.#tellRecovered();
    const session = this.#session;
    if (session?.backend === undefined) return;
    if (now_ms - session.since_ms >= shortSession_ms) {
      this.#failures = 0;
      this.#tellConnected();
    }
    if (session.started_ms === undefined) return;
    this.#rings.lookForBroken();
    this.#rings.lookForPrivateMemory(now_ms - session.started_ms);
  }

  lookForBroken(): void {
    if (this.#session?.started_ms !== undefined) this.#rings.lookForBroken();
  }

  sample(): PortSample {
    const { port, plan } = this.#parts;
    const { queuePairs } = this.#offer;
    // Without a front end no ring runs, and there may be very many of them.
    const rings = this.#session === undefined ? 0 : 2 * queuePairs;
    const states = Array.from({ length: rings }, (_, ring) => port.vringState(ring));
    const isUp = ({ started, enabled, broken }: VringState) => started && enabled && broken === undefined;
    const up = states.filter((state, ring) => ring % 2 === 0 && isUp(state) && isUp(states[ring + 1]!));
    return {
      port: plan.name,
      state: this.#stateOf(states),
      reason: this.#waitReason || this.#socket?.reason,
      queuePairsUp: up.length,
      queuePairs,
      counters: {
        toGuest: statsSum(port.stats("toGuest"), this.#inherited?.toGuest),
        fromGuest: statsSum(port.stats("fromGuest"), this.#inherited?.fromGuest),
      },
      life: this.#log.life,
    };
  }

  #packets(): PacketCounts {
    const { port } = this.#parts;
    return { toGuest: port.stats("toGuest").packets, fromGuest: port.stats("fromGuest").packets };
  }

  #stateOf(rings: readonly VringState[]): PortState {
    if (rings.some(({ broken }) => broken !== undefined)) return "broken";
    if (this.#session?.started_ms !== undefined) return "running";
    return this.#session === undefined ? "waiting" : "connected";
  }

  #tell(occurrence: Occurrence): void {
    if (occurrence.event === "recovered") this.#log.recovered(occurrence.returned);
    if (this.#budget.take(performance.now())) this.#parts.happened({ port: this.plan.name, ...occurrence });
    else this.#untold++;
  }

  #tellUntold(now_ms: number): void {
    if (this.#untold === 0 || !this.#budget.take(now_ms)) return;
    this.#parts.happened({ port: this.plan.name, event: "untold", count: this.#untold });
    this.#untold = 0;
  }

  #repeats(what: string): Repeats {
    return new Repeats((count, seconds) => this.#tell({ event: "repeated", what, count, seconds }));
  }
}

function newSession(backend: Backend | undefined, channel: SocketChannel, state?: PortStateTransfer): Session {
  const since_ms = performance.now();
  return { backend, channel, state, since_ms, told: false, started_ms: undefined, everStarted: false };
}

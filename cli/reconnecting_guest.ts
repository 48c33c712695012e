/**
 * A simulated guest with a front end that outlives its back end, as QEMU's does: guest, memory and rings stay, and
 * whoever comes next is told all of it again.
 *
 * @module
 */
import {
  type Channel,
  featureNames,
  featureSet,
  Frontend,
  Guest,
  HangupError,
  hasFeature,
  type PortMode,
  type Pump,
  VringError,
} from "../mod.ts";
import { CommandError } from "./error.ts";
import type { GuestShape } from "./guest_shape.ts";
import { pause } from "./pause.ts";

/** Nobody listens any more, or not yet. */
const notListening = [2, 111];
const retry_ms = 1;

/** A moment on a clock that all processes of this host have in common, in milliseconds. */
export function moment_ms(): number {
  return performance.timeOrigin + performance.now();
}

/** When it came back to a back end, as moments. */
export interface Return {
  readonly connected_ms: number;
  /** What QEMU asks at every connection was answered. */
  readonly agreed_ms: number;
  /** All rings run. */
  readonly started_ms: number;
  /** What had been received, and what each ring had carried, when its rings began to run. */
  readonly received: bigint;
  readonly carried: readonly bigint[];
}

/** What a guest is told by whoever looks after it. */
export interface ReconnectingListener {
  /** A connection is there. */
  connected(): void;
  /** Its back end is gone. Its rings do not run until this is over. */
  lost(): Promise<void>;
  /** Its rings receive; those that send begin when this is over. */
  receives(): Promise<void>;
}

/** Where a guest finds its back end: `mode` is the back end's. */
export interface Place {
  readonly socket: string;
  readonly mode: PortMode;
}

/** From `open` to `close`. */
export class ReconnectingGuest implements AsyncDisposable {
  readonly guest: Guest;
  readonly #pump: Pump;
  readonly #place: Place;
  readonly #features: bigint;
  readonly #listener: ReconnectingListener;
  readonly #closed = Promise.withResolvers<undefined>();
  readonly #stack = new DisposableStack();
  #closing = false;
  /** Where the back end connects: who came last, and nobody has spoken to; and somebody to be told of that. */
  #newcomer: Channel | undefined;
  #arrived = Promise.withResolvers<void>();
  #frontend: Frontend | undefined;
  /** Packed: what a back end that stopped a ring in order told last; where there was none, where a new ring begins. */
  #bases: number[];
  #return: Return | undefined;
  #loop: Promise<void> = Promise.resolve();

  private constructor(pump: Pump, guest: Guest, features: bigint, place: Place, listener: ReconnectingListener) {
    this.#pump = pump;
    this.guest = guest;
    this.#features = features;
    this.#place = place;
    this.#listener = listener;
    this.#bases = this.#ownBases();
  }

  /** Opens a guest, and lets it look for its back end from now on. The pump must run. */
  static open(pump: Pump, { features: names, gpa, ...rest }: GuestShape, place: Place, listener: ReconnectingListener) {
    const features = featureSet(names);
    const guest = Guest.open({ ...rest, features, gpa: BigInt(gpa) });
    const self = new ReconnectingGuest(pump, guest, features, place, listener);
    if (place.mode === "client") {
      self.#stack.use(pump.listen(place.socket, { accept: (channel) => self.#meet(channel) }));
    }
    self.#loop = self.#live();
    // Whoever waits for it hears of it by `failure`.
    self.#loop.catch(() => {});
    return self;
  }

  /** Rejects when a back end did what none may. Never resolves before it is closed. */
  get failure(): Promise<void> {
    return this.#loop;
  }

  /** Of the connection that it has; undefined until its rings run. */
  get returned(): Return | undefined {
    return this.#return;
  }

  /** What each of its rings has carried. */
  carried(): bigint[] {
    return this.#rings().map((index) => this.guest.vringStats(index).packets);
  }

  /** Its rings, for people: where the driver sees each, what was told to the back end, and what the device has. */
  describe(): string {
    return this.#rings().map((index) => {
      const { base } = this.guest.vring(index);
      const { outstanding, packets } = this.guest.vringStats(index);
      const carried = packets - (this.#return?.carried[index] ?? 0n);
      const [at, told] = [base, this.#bases[index]!].map((place) => `0x${place.toString(16)}`);
      return `ring ${index} at ${at}, told ${told}, carried ${carried}, out ${outstanding}`;
    }).join(", ");
  }

  /** Where its driver would have each ring begin. */
  #ownBases(): number[] {
    return this.#rings().map((index) => this.guest.vring(index).base);
  }

  #rings(): number[] {
    return Array.from({ length: 2 * this.guest.queuePairs }, (_, index) => index);
  }

  /** Makes its rings as new, while there is no back end. It must not run. */
  reset(): void {
    this.guest.reset();
    this.#bases = this.#ownBases();
  }

  /** Stops the device in order, and tells where each ring stands. */
  async stop(): Promise<number[]> {
    const frontend = this.#frontend;
    if (frontend === undefined) throw new CommandError("no back end is there");
    await frontend.request("SET_STATUS", 0n);
    const bases: number[] = [];
    for (const index of this.#rings()) bases.push(await frontend.stopVring(index));
    this.#bases = bases;
    return bases;
  }

  /** Starts a device that was stopped. */
  async resume(): Promise<void> {
    const frontend = this.#frontend;
    if (frontend === undefined) throw new CommandError("no back end is there");
    for (const index of this.#rings()) await this.#startRing(frontend, index);
    await frontend.driverOk();
  }

  async #live(): Promise<void> {
    for (;;) {
      const channel = await this.#channel();
      if (channel === undefined) return;
      using frontend = new Frontend(channel);
      this.#frontend = frontend;
      try {
        this.#return = await this.#attach(frontend);
        await Promise.race([frontend.hangup, this.#closed.promise]);
      } catch (reason) {
        if (!this.#closing && !(reason instanceof HangupError)) throw reason;
      }
      this.#frontend = undefined;
      this.#return = undefined;
      if (this.#closing) return;
      await this.#listener.lost();
    }
  }

  #meet(channel: Channel): void {
    // One that was there before has gone, or would not be followed by another.
    this.#newcomer?.close();
    this.#newcomer = channel;
    this.#arrived.resolve();
  }

  /** A connection to a back end, whoever makes it; undefined: it was closed. */
  async #channel(): Promise<Channel | undefined> {
    while (!this.#closing) {
      if (this.#place.mode === "client") {
        await Promise.race([this.#arrived.promise, this.#closed.promise]);
        this.#arrived = Promise.withResolvers();
        const channel = this.#newcomer;
        this.#newcomer = undefined;
        if (channel !== undefined) return channel;
      } else {
        try {
          return this.#pump.connect(this.#place.socket);
        } catch (reason) {
          if (!(reason instanceof VringError && notListening.includes(reason.errno))) throw reason;
        }
        await pause(retry_ms);
      }
    }
    return undefined;
  }

  async #attach(frontend: Frontend): Promise<Return> {
    const connected_ms = moment_ms();
    this.#listener.connected();
    await frontend.handshake();
    const missing = this.#features & ~frontend.features;
    if (missing !== 0n) throw new CommandError(`the back end does not offer ${featureNames(missing).join(", ")}`);
    // QEMU enables rings long before it starts them.
    for (const index of this.#rings()) await frontend.enableVring(index, true);
    await frontend.setFeatures(this.#features | frontend.features & featureSet(["PROTOCOL_FEATURES"]));
    const agreed_ms = moment_ms();
    await frontend.setMemory(this.guest.regions, this.guest.regions.map(() => this.guest.memoryFd));
    const [received, carried] = [this.guest.stats().received, this.carried()];
    const rings = this.#rings();
    for (const index of rings.filter((ring) => ring % 2 === 0)) await this.#startRing(frontend, index);
    await Promise.race([this.#listener.receives(), frontend.hangup.then(abandon)]);
    for (const index of rings.filter((ring) => ring % 2 === 1)) await this.#startRing(frontend, index);
    await frontend.driverOk();
    return { connected_ms, agreed_ms, started_ms: moment_ms(), received, carried };
  }

  /** As QEMU does: it reads a split ring's used index, and cannot know where a packed ring stands. */
  async #startRing(frontend: Frontend, index: number): Promise<void> {
    const vring = this.guest.vring(index);
    const base = hasFeature(this.#features, "RING_PACKED") ? this.#bases[index]! : vring.base;
    await frontend.startVring(index, { ...vring, base });
  }

  /** Ends both, guest and connection. The guest must not run in a crew any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true;
    this.#closed.resolve(undefined);
    this.#stack.dispose();
    this.#frontend?.close();
    await this.#loop.catch(() => {});
    this.#newcomer?.close();
    await this.guest.close();
  }
}

function abandon(reason: string): never {
  throw new HangupError(reason);
}

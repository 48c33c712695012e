/**
 * The place where hostile cases happen: one `serve` with a port for the hostile one, one for a friend that it can talk
 * to, and two whose honest traffic never stops. Each case runs between two looks at everything that it must not touch.
 *
 * @module
 */

import assert from "node:assert/strict";
import { isDeepStrictEqual } from "node:util";
import { Board, type TrafficJob } from "./hostile_board.ts";
import { equals } from "./hostile_bytes.ts";
import { type Arrival, base, commonFeatures, Guest, type GuestOptions } from "./hostile_guest.ts";
import { GuestMemory, makePart } from "./hostile_memory.ts";
import { patiently } from "./hostile_patience.ts";
import { Flipper } from "./hostile_flips.ts";
import { type Census, type Drops, HostileServe, type PortEvent } from "./hostile_serve.ts";
import { eventually } from "./real/process.ts";
import { featureSet } from "../vhost/spec.ts";

/** Everybody's address. */
export const macs = {
  first: 0x5254_0000_0001,
  second: 0x5254_0000_0002,
  friend: 0x5254_0000_0003,
  hostile: 0x5254_0000_0004,
} as const;

/**
 * Each case has the next of these ports. One port's peers can make so much be told at once, and then only so much a
 * second; and who comes back at once after a session that came to nothing is let in late, and without a word.
 */
const hostilePorts = Array.from({ length: 64 }, (_, i) => `hostile${i}`);

/** For peers that take their time, beside all cases. */
export const slowPorts: readonly string[] = Array.from({ length: 4 }, (_, i) => `slow${i}`);

/**
 * The hostile guest's memory: two regions side by side, of different files, then nothing, and far away a third one. All
 * rings and buffers of an honest guest lie in the first 384 KiB.
 */
export const regions = { first: base, second: base + 0x8_0000n, end: base + 0x10_0000n, far: 0x1_0000_0000n } as const;
export const farBytes = 0x1_0000;

/** An event and what its reason must be. */
export type Told = readonly [event: string, reason?: RegExp];

export const gone: Told = ["disconnected", /^peer closed the connection$/];

/** What a case may leave behind. */
export interface Outcome {
  /** Everything told of its port, but for its start and stop. */
  readonly told?: readonly Told[];
  /** So much is told of its port, or left untold, that nobody looks; it is not used again. */
  readonly noisy?: boolean;
  /** Packets dropped because of it, as `hostile to_guest bad_chain`, or those of `friend`. */
  readonly drops?: Drops;
  /** Any number of packets may be dropped at its port and at the friend's, and anywhere for lack of buffers. */
  readonly anyDrops?: boolean;
  /** Its rings may be broken any number of times, for such reasons. */
  readonly mayBreak?: RegExp;
}

/** What the hostile guest's memory is full of, so that bytes of 0 show. */
const untouched = 0xa5;
/** Told of every session whose rings ran. */
const ordinary = ["connected", "started", "stopped"];
const patience_ms = 20_000;
/** Counters that are not yet what they must be are read again so often. */
const triesMax = 10;

/** The thread of honest traffic. */
class Traffic {
  readonly board = new Board();
  readonly #worker = new Worker(new URL("hostile_traffic.ts", import.meta.url), { type: "module" });

  constructor(guests: readonly [GuestOptions, GuestOptions]) {
    const job: TrafficJob = { guests, memory: this.board.memory };
    this.#worker.postMessage(job);
  }

  /** Waits until so many more frames have arrived in both directions. */
  async flows(frames = 24): Promise<void> {
    const before = this.board.arrived;
    await eventually("honest traffic", patience_ms, () => {
      if (this.board.state === "failed") throw new Error(`honest traffic was disturbed: ${this.board.reason}`);
      return this.board.arrived.every((count, i) => count >= before[i]! + frames) || undefined;
    }, 1);
  }

  async stop(): Promise<void> {
    this.board.askToStop();
    await eventually("the end of honest traffic", patience_ms, () => this.board.state !== "running" || undefined, 1);
    this.#worker.terminate();
    assert.equal(this.board.state, "stopped", this.board.reason);
  }
}

export class World {
  readonly serve: HostileServe;
  readonly friend: Guest;
  /** For one hostile guest at a time. */
  readonly memory = new GuestMemory([
    makePart(regions.first, Number(regions.second - regions.first)),
    makePart(regions.second, Number(regions.end - regions.second)),
    makePart(regions.far, farBytes),
  ]);
  readonly flipper: Flipper;
  readonly #traffic: Traffic;
  /** Frames that arrived at the friend and were not looked at yet. */
  readonly #arrived: Arrival[] = [];
  /** The first is in use. */
  readonly #ports = [...hostilePorts];
  #drops: Drops = {};
  #census: Census;
  /** Ports that are not listened to. */
  readonly #quiet = [...slowPorts];
  /** Events before the case that runs. */
  #from = 0;

  private constructor(serve: HostileServe, friend: Guest, traffic: Traffic, flipper: Flipper) {
    this.serve = serve;
    this.friend = friend;
    this.#traffic = traffic;
    this.flipper = flipper;
    this.#census = serve.census();
  }

  /**
   * @param program The program under test.
   * @param statsPeriod_s How often it tells its counters: with so many ports they are 100 KB, and what nobody reads for
   * long is left out.
   */
  static async open(program: string, statsPeriod_s: number): Promise<World> {
    const serve = await HostileServe.start(program, statsPeriod_s, [
      ...["name=first", "name=second", "name=friend"],
      ...[...hostilePorts, ...slowPorts].map((port) => `name=${port},queues=2`),
    ]);
    const guest = (port: "first" | "second"): GuestOptions => ({
      path: serve.socket(port),
      mac: macs[port],
      format: port === "first" ? "split" : "packed",
      buffers: 200,
    });
    const traffic = new Traffic([guest("first"), guest("second")]);
    await traffic.flows();
    const friend = new Guest({
      path: serve.socket("friend"),
      mac: macs.friend,
      features: commonFeatures | featureSet(["GUEST_TSO6", "HOST_TSO6", "GUEST_UFO", "GUEST_ECN", "HOST_ECN"]),
      buffers: 200,
      bufferBytes: 4096,
    });
    friend.start();
    friend.offerBuffers();
    friend.send(friend.frame(macs.first));
    await serve.until(
      "that the friend started",
      () => serve.events.find(({ port, event }) => port === "friend" && event === "started"),
    );
    return new World(serve, friend, traffic, await Flipper.open());
  }

  /** Everything must still be as it was, and everything counted. */
  async close(): Promise<void> {
    try {
      assert.deepEqual(await this.serve.drops(), this.#drops, "every drop is accounted for");
      await this.#traffic.stop();
      this.flipper.close();
      this.friend[Symbol.dispose]();
      await this.serve.finish();
      assert.deepEqual(this.serve.strays, [], "every line is JSON");
    } finally {
      await this.serve[Symbol.asyncDispose]();
    }
  }

  /** The port that the case has. */
  get port(): string {
    return this.#ports[0]!;
  }

  get socket(): string {
    return this.serve.socket(this.port);
  }

  /** A guest for this case's port; not connected yet. */
  hostileGuest(options: Partial<GuestOptions> = {}): Guest {
    this.memory.clear(untouched);
    return new Guest({ path: this.socket, mac: macs.hostile, memory: this.memory, ...options });
  }

  /** Runs a case, and looks at what it left behind. */
  async run(act: () => void | Outcome | Promise<void | Outcome>): Promise<void> {
    this.#ports.push(this.#ports.shift()!);
    this.#from = this.serve.events.length;
    this.#arrived.splice(0);
    this.friend.arrivals();
    const outcome = await act() ?? {};
    const { port } = this;
    if (outcome.noisy === true) this.#ports[0] = this.#ports.pop()!;
    else await this.event("disconnected");
    await this.#traffic.flows();
    this.#checkCensus();
    this.#checkEvents(port, outcome);
    const late = [...this.#arrived.splice(0), ...this.friend.arrivals()];
    if (!outcome.anyDrops) assert.deepEqual(late, [], "frames that nobody expected at the friend");
    await this.#checkDrops(port, outcome);
  }

  /** What was told of this case's port. */
  get told(): PortEvent[] {
    return this.serve.events.slice(this.#from).filter((each) => each.port === this.port);
  }

  /** Waits for an event of this case; for as many of them. */
  event(event: string, count = 1): Promise<PortEvent> {
    return this.serve.until(
      `${count} ${event} of ${this.port}`,
      () => this.told.filter((each) => each.event === event)[count - 1],
    );
  }

  #checkEvents(port: string, { told = [gone], noisy = false, mayBreak }: Outcome): void {
    if (noisy) this.#quiet.push(port);
    const isOrdinary = ({ event, reason }: PortEvent) =>
      ordinary.includes(event) || event === "ring_broken" && mayBreak?.test(`${reason}`) === true;
    const found = this.serve.events.slice(this.#from).filter((each) =>
      !this.#quiet.includes(each.port) && !(each.port === port && isOrdinary(each))
    );
    const expected = noisy ? [] : told;
    const text = JSON.stringify(found);
    assert.deepEqual(found.map((each) => [each.port, each.event]), expected.map(([event]) => [port, event]), text);
    found.forEach(({ reason }, i) => {
      assert.match(`${reason}`, expected[i]![1] ?? /^undefined$/);
      assert.doesNotMatch(`${reason}`, /\n|internal error/, "one line for people");
    });
    assert.deepEqual(this.serve.strays.splice(0), [], "every line is JSON");
  }

  /** Waits in place until the program has so many descriptors and mappings of guests' files. */
  has({ fds, guestMaps }: Pick<Census, "fds" | "guestMaps">): void {
    let now: Census | undefined;
    try {
      patiently("descriptors and mappings", () => {
        now = this.serve.census();
        return now.fds === fds && now.guestMaps === guestMaps || undefined;
      }, 2000);
    } catch {
      assert.deepEqual({ fds: now?.fds, guestMaps: now?.guestMaps }, { fds, guestMaps }, "what serve has open");
    }
  }

  /** Whatever came with the session is gone with it. */
  #checkCensus(): void {
    this.has(this.#census);
    const { maps } = this.serve.census();
    // V8 takes and gives back memory of its own.
    assert.ok(maps < this.#census.maps + 200, `${maps} mappings in serve, which had ${this.#census.maps}`);
  }

  async #checkDrops(port: string, { drops, anyDrops = false }: Outcome): Promise<void> {
    if (drops === undefined && !anyDrops) return;
    const before = this.#drops;
    const expected: Record<string, number> = { ...before };
    for (const [name, count] of Object.entries(drops ?? {})) {
      const key = name.replace(/^hostile /, `${port} `);
      expected[key] = (expected[key] ?? 0) + count;
    }
    this.#drops = await this.serve.drops();
    if (anyDrops) {
      // What it sends to nobody known goes to everybody, as fast as it can.
      const free = new RegExp(`^(${port}|friend) | to_guest no_buffer$`);
      const others = (all: Drops) => Object.fromEntries(Object.entries(all).filter(([name]) => !free.test(name)));
      return assert.deepEqual(others(this.#drops), others(before), "packets dropped elsewhere");
    }
    for (let tries = 0; tries < triesMax && !isDeepStrictEqual(this.#drops, expected); tries++) {
      this.#drops = await this.serve.drops();
    }
    assert.deepEqual(this.#drops, expected, "packets dropped by port, direction and reason");
  }

  /** Waits in place for the next frame at the friend. */
  nextAtFriend(): Arrival {
    return patiently("a frame at the friend", () => {
      this.#arrived.push(...this.friend.arrivals());
      return this.#arrived.shift();
    });
  }

  /**
   * Whatever came to the friend before, a frame of this guest comes too. The guest's rings are new: nothing else is
   * under way, but the friend may have no buffer left from before.
   */
  reach(guest: Guest): void {
    this.friend.arrivals();
    const hello = guest.frame(macs.friend);
    guest.send(hello);
    while (!equals(this.nextAtFriend().frame, hello));
  }

  /** Lets this thread read what the program says: it is not kept for ever. */
  breathe(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, 0));
  }

  /** Both can talk to each other, and nothing else was under way. */
  greet(guest: Guest): void {
    const hello = guest.frame(macs.friend);
    guest.send(hello);
    assert.ok(equals(this.nextAtFriend().frame, hello), "what arrives at the friend is what was sent to it");
    const answer = this.friend.frame(guest.mac);
    this.friend.send(answer);
    const arrival = patiently("a frame from the friend", () => guest.arrivals()[0]);
    assert.ok(equals(arrival.frame, answer), "what arrives from the friend is what it sent");
  }
}

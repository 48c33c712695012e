/**
 * `vhostctl reconnect-host`, for this program's own use: two simulated guests that send to each other, with front ends
 * that come back to whichever back end is there. They live in a process of their own, so that nobody who is killed
 * takes them along. Its parent calls the methods of `ReconnectHost`.
 *
 * @module
 */
import { Command } from "@commander-js/extra-typings";
import { Guest, type GuestCrew, type GuestTraffic, type Pump } from "../mod.ts";
import { CommandError } from "./error.ts";
import { countersOf } from "./guest.ts";
import type { GuestCounters } from "./guest_process.ts";
import type { GuestShape } from "./guest_shape.ts";
import { answerCalls } from "./host_calls.ts";
import { pause } from "./pause.ts";
import { moment_ms, type Place, ReconnectingGuest, type Return } from "./reconnecting_guest.ts";
import type { GuestNumber } from "./self_reconnect_plan.ts";

/** How one guest came back, as moments. */
export interface Recovery extends Pick<Return, "connected_ms" | "agreed_ms" | "started_ms"> {
  /** The first frame arrived. */
  readonly traffic_ms: number;
}

/** What both guests have come to. */
export interface PairCounters {
  readonly guests: readonly GuestCounters[];
  /** Frames that their drivers had given to the device when they began anew, at most. */
  readonly abandoned: number;
}

/** A ring that stands elsewhere for its back end than for its driver, when nothing is under way. */
export interface Astray {
  readonly guest: number;
  readonly ring: number;
  readonly told: number;
  readonly base: number;
}

const patience_ms = 10_000;
const look_ms = 1;
/** Who looked so often and found nothing has nothing more to come. */
const emptyRounds = 3;

interface Pair {
  readonly guests: readonly ReconnectingGuest[];
  readonly shape: GuestShape;
  readonly traffics: readonly GuestTraffic[];
  /** They wait for each other before they send. */
  readonly together: boolean;
  readonly stack: AsyncDisposableStack;
}

/** Where one guest's front end is. */
interface Visit {
  /** The back end's number; undefined where there is none. */
  life: number | undefined;
  receives: boolean;
  open: PromiseWithResolvers<void>;
}

function away(): Visit {
  return { life: undefined, receives: false, open: Promise.withResolvers() };
}

/** Two guests at a time. */
export class ReconnectHost implements AsyncDisposable {
  readonly #pump: Pump;
  #pair: Pair | undefined;
  #visits: Visit[] = [];
  #crew: GuestCrew | undefined;
  #running = false;
  #sending = false;
  /** The back end that is there, or about to come. */
  #life = 0;
  #resets = new Set<number>();
  #abandoned = 0;
  #turn: Promise<void> = Promise.resolve();

  constructor(pump: Pump) {
    this.#pump = pump;
  }

  #here(): Pair {
    if (this.#pair === undefined) throw new CommandError("no guests are open");
    return this.#pair;
  }

  /** From now on whoever is connected to is this back end. */
  expect({ life }: { readonly life: number }): void {
    this.#life = life;
  }

  /** Opens both guests, which look for a back end from now on. */
  open({ shape, places, traffics, together }: {
    readonly shape: GuestShape;
    readonly places: readonly Place[];
    readonly traffics: readonly GuestTraffic[];
    readonly together: boolean;
  }): void {
    this.#visits = places.map(away);
    this.#abandoned = 0;
    const stack = new AsyncDisposableStack();
    const guests = places.map((place, number) =>
      stack.use(ReconnectingGuest.open(this.#pump, shape, place, {
        connected: () => void (this.#visits[number]!.life = this.#life),
        receives: () => this.#receives(number),
        lost: () => this.#lost(number),
      }))
    );
    this.#pair = { guests, shape, traffics, together, stack };
  }

  /** Waits until both guests' rings run at the back end. */
  async attached(): Promise<void> {
    await this.#until(() => this.#isThere(), () => "a guest's rings do not start");
  }

  #isThere(): boolean {
    return this.#here().guests.every(({ returned }, number) => {
      return returned !== undefined && this.#visits[number]!.life === this.#life;
    });
  }

  async #until(done: () => boolean, problem: () => string): Promise<void> {
    const deadline_ms = performance.now() + patience_ms;
    const failure = Promise.race(this.#here().guests.map((guest) => guest.failure));
    while (!done()) {
      if (performance.now() > deadline_ms) throw new CommandError(problem());
      await Promise.race([failure, pause(look_ms)]);
    }
  }

  /** Lets both guests run, and send. */
  run(): void {
    this.#sending = true;
    this.#go();
  }

  #go(): void {
    const { guests, traffics } = this.#here();
    // One that slept would not take back what it had sent.
    const rows = traffics.map((row): GuestTraffic => this.#sending ? row : { ...row, send: false, wait: "yield" });
    this.#running = true;
    if (rows[0]!.wait === "sleep") guests.forEach(({ guest }, number) => guest.start(rows[number]!));
    else this.#crew = Guest.startTogether(guests.map(({ guest }) => guest), rows);
  }

  async #rest(): Promise<void> {
    this.#running = false;
    const crew = this.#crew;
    this.#crew = undefined;
    await crew?.stop();
    for (const { guest } of this.#here().guests) await guest.stop();
  }

  async #receives(number: number): Promise<void> {
    if (!this.#here().together) return;
    const visit = this.#visits[number]!;
    visit.receives = true;
    if (this.#visits.every(({ receives, life }) => receives && life === visit.life)) {
      for (const { open } of this.#visits) open.resolve();
    }
    await visit.open.promise;
  }

  async #lost(number: number): Promise<void> {
    this.#visits[number] = away();
    if (!this.#resets.delete(number)) return;
    this.#turn = this.#turn.then(() => this.#reset(number));
    await this.#turn;
  }

  /** The driver begins anew. What it had sent and not taken back is its own loss; what had come it takes before. */
  async #reset(number: number): Promise<void> {
    const { guests, traffics } = this.#here();
    const { guest } = guests[number]!;
    if (traffics[0]!.wait !== "sleep") await this.#drained(guest);
    await this.#rest();
    this.#abandoned += countersOf(guest).in_flight;
    guests[number]!.reset();
    this.#go();
  }

  async #drained(guest: Guest): Promise<void> {
    let before = guest.stats();
    await this.#until(() => {
      const now = guest.stats();
      if (now.received !== before.received) before = now;
      return now.rounds >= before.rounds + BigInt(emptyRounds);
    }, () => "a guest does not come to rest");
  }

  /** Has drivers begin anew when their back end is gone the next time. */
  arm({ resets }: { readonly resets: readonly GuestNumber[] }): void {
    this.#resets = new Set(resets);
  }

  /** Stops the device of a guest in order, and starts it again where it was. */
  async halt({ guest: number, pause_ms }: { readonly guest: GuestNumber; readonly pause_ms: number }): Promise<void> {
    const guest = this.#here().guests[number]!;
    await guest.stop();
    await pause(pause_ms);
    await guest.resume();
  }

  /**
   * Waits until frames arrive at both guests again, and then, until every ring has carried as many as it has
   * descriptors: each of these has gone round.
   */
  async recovered(): Promise<Recovery[]> {
    const { guests, shape } = this.#here();
    await this.attached();
    const returns = guests.map(({ returned }) => returned!);
    const arrivals = await Promise.all(guests.map((guest, number) => this.#arrival(guest, number, returns[number]!)));
    for (const [number, guest] of guests.entries()) {
      const { carried } = returns[number]!;
      const behind = () => guest.carried().findIndex((count, ring) => count - carried[ring]! <= BigInt(shape.ringSize));
      const problem = () => {
        return `stuck: ring ${behind()} of guest ${number} carries no more: ${guest.describe()}`;
      };
      await this.#until(() => behind() === -1, problem);
    }
    return returns.map(({ connected_ms, agreed_ms, started_ms }, number) => {
      return { connected_ms, agreed_ms, started_ms, traffic_ms: arrivals[number]! };
    });
  }

  async #arrival({ guest }: ReconnectingGuest, number: number, { received }: Return): Promise<number> {
    await this.#until(() => guest.stats().received > received, () => {
      const rings = this.#here().guests.map((one) => one.describe()).join("; ");
      return `nothing arrives at guest ${number} any more: ${rings}`;
    });
    return moment_ms();
  }

  /** Lets both guests send no more, and waits for what is under way. Returns how many buffers never came back. */
  async settle(): Promise<number> {
    const { guests } = this.#here();
    this.#sending = false;
    await this.#rest();
    this.#go();
    const look = () => guests.map(({ guest }) => countersOf(guest));
    let before = look();
    const stuck = () => before.reduce((sum, { in_flight }) => sum + in_flight, 0);
    try {
      await this.#until(() => {
        const now = look();
        const busy = now.some(({ busy_rounds }, number) => busy_rounds !== before[number]!.busy_rounds);
        const empty = now.every(({ rounds }, number) => rounds >= before[number]!.rounds + emptyRounds);
        if (busy || now.some(({ in_flight }) => in_flight > 0)) before = now;
        return !busy && empty && stuck() === 0;
      }, () => "");
    } catch (reason) {
      if (!(reason instanceof CommandError) || stuck() === 0) throw reason;
    }
    return stuck();
  }

  counters(): PairCounters {
    return { guests: this.#here().guests.map(({ guest }) => countersOf(guest)), abandoned: this.#abandoned };
  }

  /** Stops both devices, which have nothing to do, and compares where back end and driver see each ring. */
  async leave(): Promise<Astray[]> {
    const found: Astray[] = [];
    for (const [guest, one] of this.#here().guests.entries()) {
      for (const [ring, told] of (await one.stop()).entries()) {
        const { base } = one.guest.vring(ring);
        if (told !== base) found.push({ guest, ring, told, base });
      }
    }
    return found;
  }

  /** Ends both guests. Nothing happens where there are none. */
  async close(): Promise<void> {
    if (this.#pair === undefined) return;
    this.#resets.clear();
    if (this.#running) await this.#rest();
    const { stack } = this.#pair;
    this.#pair = undefined;
    await stack[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** The command with its action. */
export function command() {
  return new Command("reconnect-host")
    .description("Simulated guests whose back end comes and goes, for the use of other commands.")
    .action(() => answerCalls((pump) => new ReconnectHost(pump)));
}

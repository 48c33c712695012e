/**
 * One port's timeline: takes what is told of it and how it looks, and finds the outages. Pure: no clock, no output.
 *
 * An outage begins when rings that ran cease to, because the front end or whoever serves the port has gone; it ends
 * when rings run again. Rings that a front end stops while it stays (a driver is unloaded, a guest migrates) are none.
 * What is told may have gaps: whoever serves the port may die, or tell by number; then looks fill in what they can.
 *
 * @module
 */
import type { PortEvent } from "../mod.ts";
import type { Moment } from "./outage_moment.ts";
import type { LookedLife, PortLook, Way } from "./port_look.ts";

/** One outage. */
export interface Outage {
  readonly began_ms: number;
  readonly reason: string;
  /** Until rings ran again; undefined while they do not. */
  readonly length_ms?: number;
  /** Until the first packet, of each way that had packets before. */
  readonly traffic_ms: Readonly<Partial<Record<Way, number>>>;
}

/** `lost`: ran, when whoever serves it was heard of last. */
export type Phase = "new" | "waiting" | "connected" | "stopped" | "running" | "lost";

/** As a port is looked at that is watched. */
type FullLook = PortLook & { readonly life: LookedLife };
type Start = NonNullable<LookedLife["started"]>;

const ways: readonly Way[] = ["to_guest", "from_guest"];
/** Packets are looked for so often after an outage, and no longer: a guest may have nothing to say. */
const traffic_ms = 10_000;
const lostReason = "whoever serves the port has gone";

const nothingSeen = { seen: -1, told: -2 };

/** Of one port. */
export class PortTimeline {
  readonly port: string;
  #phase: Phase = "new";
  #phase_ms = 0;
  readonly #outages: Outage[] = [];
  /** The one that lasts. */
  #outage: Outage | undefined;
  /** Since packets were seen once, that way is waited for after an outage. */
  readonly #had = new Set<Way>();
  /** Ways that are waited for since the last outage ended. */
  #awaited: readonly Way[] = [];
  #awaited_ms = 0;
  /** Of whoever serves it, by which two are told apart. */
  #opened_ms: number | undefined;
  /** How often rings had started there at the last look, and how often since, as far as was heard. */
  #starts = { looked: 0, heard: 0 };
  #unheard = 0;
  #recovered = 0;
  #recoveredHere = 0;
  /** Queue pairs: none was seen, nor told, since rings started. */
  #pairs = nothingSeen;
  /** The rings that ran last: their kind and features. */
  #rings: string | undefined;
  /** Why nobody is there, as it was told. */
  #failure: string | undefined;

  constructor(port: string) {
    this.port = port;
  }

  /** How it is, and since when it is known to be so. */
  get phase(): { readonly name: Phase; readonly since_ms: number } {
    return { name: this.#phase, since_ms: this.#phase_ms };
  }

  /** Those that ended, in order, and the one that lasts. */
  get outages(): readonly Outage[] {
    return this.#outage === undefined ? this.#outages : [...this.#outages, this.#outage];
  }

  /** Frames that a dead back end had in hand, and that were given back. */
  get recovered(): number {
    return this.#recovered;
  }

  /** How often rings started without that it was heard of: there may have been as many outages more. */
  get unheard(): number {
    return this.#unheard;
  }

  /** Whether a look soon would tell more. */
  get isCurious(): boolean {
    return this.#awaited.length > 0 || (this.#phase === "running" && this.#pairs.seen !== this.#pairs.told);
  }

  #enter(phase: Phase, time_ms: number): void {
    if (phase !== this.#phase) this.#phase_ms = time_ms;
    this.#phase = phase;
  }

  /** Takes in what was told. */
  happened(event: PortEvent, time_ms: number): Moment[] {
    switch (event.event) {
      case "started":
        return this.#start({ ...event, time_ms });
      case "stopped":
        return this.#stop(time_ms);
      case "disconnected":
        return this.#leave(time_ms, event.reason);
      case "recovered":
        this.#recoveredHere += event.returned;
        this.#recovered += event.returned;
        break;
      case "waiting":
        this.#failure = event.reason;
        break;
      case "connected":
        this.#enter("connected", time_ms);
        this.#failure = undefined;
    }
    return [{ ...event, time_ms }];
  }

  /** Whoever serves it has gone. Returns whether an outage begins, or goes on. */
  lost(time_ms: number): boolean {
    this.#awaited = [];
    this.#failure = undefined;
    if (this.#phase === "running") {
      this.#outage = { began_ms: time_ms, reason: lostReason, traffic_ms: {} };
      this.#enter("lost", time_ms);
    } else if (this.#phase !== "lost" && this.#phase !== "new") this.#enter("waiting", time_ms);
    return this.#outage !== undefined;
  }

  /** Takes in how it is now. */
  looked(look: FullLook): Moment[] {
    const { life } = look;
    const isFirst = this.#phase === "new";
    const moments = isFirst ? [this.#find(look)] : this.#fillIn(life);
    if (!isFirst && this.#opened_ms !== life.opened_ms) {
      this.#recoveredHere = 0;
      this.#starts = { looked: 0, heard: this.#starts.heard };
    }
    this.#opened_ms = life.opened_ms;
    if (!isFirst) moments.push(...this.#lookForUnheard(life));
    this.#starts = { looked: life.starts, heard: 0 };
    moments.push(...this.#lookForFailure(look));
    moments.push(...this.#lookForRecovered(life), ...this.#lookForTraffic(look), ...this.#lookAtQueues(look));
    return moments;
  }

  /** The first look. What was before is not ours to tell. */
  #find({ state, life }: FullLook): Moment {
    const { connected_ms, started, now_ms: time_ms, recovered, ended } = life;
    const atRest = ended?.reason === undefined && ended !== undefined ? "stopped" : "connected";
    this.#enter(started !== undefined ? "running" : connected_ms !== undefined ? atRest : "waiting", time_ms);
    this.#recoveredHere = recovered;
    this.#rings = started && ringsText(started);
    const rings = started === undefined ? {} : { ring: started.ring, features: started.features };
    return { time_ms, port: this.port, event: "found", state, ...rings };
  }

  /** What happened and was not told. */
  #fillIn(life: LookedLife): Moment[] {
    const { started, opened_ms } = life;
    const isSame = opened_ms === this.#opened_ms;
    if (this.#phase === "lost") return isSame ? this.#findAgain(life) : this.#succeed(life);
    const moments = this.#phase === "running" && !this.#ranOn(life) ? this.#end(life) : [];
    moments.push(...this.#arrive(life));
    if (this.#phase !== "running" && started !== undefined) moments.push(...this.#start(started));
    else if (life.connected_ms === undefined) this.#enter("waiting", life.now_ms);
    return moments;
  }

  /** Whether the rings that run are those that ran. */
  #ranOn({ started, starts }: LookedLife): boolean {
    return started !== undefined && (this.#starts.heard > 0 || this.#starts.looked === starts);
  }

  /** Whoever was lost is there again, and is the same. */
  #findAgain(life: LookedLife): Moment[] {
    this.#outage = undefined;
    this.#enter("running", life.now_ms);
    if (this.#ranOn(life)) return [{ time_ms: life.now_ms, port: this.port, event: "no_outage" }];
    const moments = this.#end(life);
    moments.push(...this.#arrive(life));
    if (life.started !== undefined) moments.push(...this.#start(life.started));
    return moments;
  }

  /** Somebody else serves the port now. */
  #succeed(life: LookedLife): Moment[] {
    const { started, starts, now_ms: time_ms } = life;
    // Rings that were handed over never stood still.
    if (started !== undefined && started.time_ms < this.#outage!.began_ms) {
      this.#outage = undefined;
      this.#starts = { looked: 0, heard: starts };
      this.#enter("running", time_ms);
      return [{ time_ms, port: this.port, event: "no_outage" }];
    }
    this.#enter("waiting", time_ms);
    return [...this.#arrive(life), ...started === undefined ? [] : this.#start(started)];
  }

  /** A front end came unheard. */
  #arrive({ connected_ms, attempts }: LookedLife): Moment[] {
    if (this.#phase !== "waiting" || connected_ms === undefined) return [];
    this.#enter("connected", connected_ms);
    const tried = attempts > 0 ? { attempts } : {};
    return [{ time_ms: connected_ms, port: this.port, event: "connected", ...tried }];
  }

  /** Rings ended unheard. */
  #end({ ended, now_ms }: LookedLife): Moment[] {
    const time_ms = ended?.time_ms ?? now_ms;
    return ended?.reason === undefined ? this.#stop(time_ms) : this.#leave(time_ms, ended.reason);
  }

  #start({ time_ms, ring, features }: Start): Moment[] {
    const { port } = this;
    this.#enter("running", time_ms);
    this.#starts = { ...this.#starts, heard: this.#starts.heard + 1 };
    this.#pairs = nothingSeen;
    const before = this.#rings;
    this.#rings = ringsText({ ring, features });
    const change = before === undefined ? {} : { as_before: before === this.#rings };
    const moments: Moment[] = [{ time_ms, port, event: "started", ring, features, ...change }];
    if (this.#outage === undefined) return moments;
    const { began_ms, reason } = this.#outage;
    const length_ms = Math.max(0, time_ms - began_ms);
    this.#outages.push({ ...this.#outage, length_ms });
    this.#outage = undefined;
    this.#awaited = ways.filter((way) => this.#had.has(way));
    this.#awaited_ms = time_ms;
    return [...moments, { time_ms, port, event: "outage", length_ms, reason }];
  }

  #stop(time_ms: number): Moment[] {
    this.#enter("stopped", time_ms);
    this.#awaited = [];
    return [{ time_ms, port: this.port, event: "stopped", outage: false }];
  }

  #leave(time_ms: number, reason: string): Moment[] {
    if (this.#phase === "running") this.#outage = { began_ms: time_ms, reason, traffic_ms: {} };
    this.#enter("waiting", time_ms);
    this.#awaited = [];
    return [{ time_ms, port: this.port, event: "disconnected", reason, outage: this.#outage !== undefined }];
  }

  /** Too many to be told each, or before anybody was there to hear. */
  #lookForUnheard({ starts, now_ms: time_ms }: LookedLife): Moment[] {
    const unheard = starts - this.#starts.looked - this.#starts.heard;
    if (unheard <= 0) return [];
    this.#unheard += unheard;
    return [{ time_ms, port: this.port, event: "unheard", starts: unheard }];
  }

  #lookForFailure({ socket = "", life: { failure, now_ms: time_ms } }: FullLook): Moment[] {
    if (failure === this.#failure) return [];
    this.#failure = failure;
    return failure === undefined ? [] : [{ time_ms, port: this.port, event: "waiting", socket, reason: failure }];
  }

  #lookForRecovered({ recovered, now_ms: time_ms }: LookedLife): Moment[] {
    const returned = recovered - this.#recoveredHere;
    if (returned <= 0) return [];
    this.#recoveredHere = recovered;
    this.#recovered += returned;
    return [{ time_ms, port: this.port, event: "recovered", returned }];
  }

  /** Counters stand still while no ring runs, so that what came since then came since the start. */
  #lookForTraffic(look: FullLook): Moment[] {
    const { ended, now_ms: time_ms } = look.life;
    const packets = (way: Way) => look[way].packets ?? 0;
    for (const way of ways) if (packets(way) > 0) this.#had.add(way);
    const back = this.#awaited.filter((way) => packets(way) > (ended?.packets[way] ?? 0));
    this.#awaited = time_ms > this.#awaited_ms + traffic_ms ? [] : this.#awaited.filter((way) => !back.includes(way));
    return back.map((way) => {
      const last = this.#outages.pop()!;
      const after_ms = Math.max(0, time_ms - last.began_ms);
      this.#outages.push({ ...last, traffic_ms: { ...last.traffic_ms, [way]: after_ms } });
      return { time_ms, port: this.port, event: "traffic", way, after_ms };
    });
  }

  /** Rings come up one after the other: told is what has stayed for two looks. */
  #lookAtQueues({ queue_pairs_up, queue_pairs, life }: FullLook): Moment[] {
    const { seen, told } = this.#pairs;
    const isTold = this.#phase !== "running" || queue_pairs_up === told || queue_pairs_up !== seen;
    this.#pairs = { seen: queue_pairs_up, told: isTold ? told : queue_pairs_up };
    if (isTold) return [];
    return [{ time_ms: life.now_ms, port: this.port, event: "queues", queue_pairs_up, queue_pairs }];
  }
}

function ringsText({ ring, features }: Pick<Start, "ring" | "features">): string {
  return `${ring} ${features.join(" ")}`;
}

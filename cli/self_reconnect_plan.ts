/**
 * What the self-test of `reconnect-watch` does in each round: chosen at random, the same for the same seed.
 *
 * @module
 */
import type { PortMode } from "../mod.ts";
import type { Ring } from "./bench_result.ts";
import { frameBytesMax, type GuestShape, longestFrame, ownFrameBytes, planShape } from "./guest_shape.ts";
import { Random } from "./random.ts";

/** Both guests are alike: 0 or 1. */
export type GuestNumber = 0 | 1;

/** A back end that is killed before it has come far: so long after it was started, or after it said it was ready. */
export interface EarlyKill {
  readonly since: "start" | "ready";
  readonly wait_ms: number;
}

export interface RoundPlan {
  /** How long packets pass before the kill. */
  readonly after_ms: number;
  /** Further kills, one after the other, of the back ends that come then. */
  readonly early: readonly EarlyKill[];
  /** Guests whose device is stopped and started in between, as by a halt. */
  readonly halts: readonly GuestNumber[];
  /** Guests whose driver begins anew while nobody is there, with its rings where they were. */
  readonly resets: readonly GuestNumber[];
}

/** Two guests from their start to their end: so many rounds in a row. */
export interface LifePlan {
  readonly shape: GuestShape;
  readonly size_bytes: number;
  readonly size_min_bytes: number | undefined;
  readonly gso_bytes: number | undefined;
  readonly check_every: number;
  /**
   * Frames that may be on their way to a guest, so that no back end has a reason to drop one: then both guests come
   * back before either sends. As fast as it goes, each as soon as it can, if undefined.
   */
  readonly window: number | undefined;
  readonly wait: "yield" | "sleep";
  readonly workers: number;
  /** Of the back end's port for each guest. */
  readonly modes: readonly [PortMode, PortMode];
  /** Whether the last back end is killed, too, after the guests have left. */
  readonly killedAtEnd: boolean;
  readonly rounds: readonly RoundPlan[];
}

const headerBytes = 12;
const gsoBytes = 1448;
const roundsMax = 8;
const cutFeatures = ["GUEST_CSUM", "GUEST_USO4", "GUEST_USO6"] as const;

function someGuests(random: Random, percent: number): GuestNumber[] {
  if (!random.chance(percent)) return [];
  return random.pick<GuestNumber[]>([[0], [1], [0, 1]]);
}

function planEarly(random: Random): EarlyKill {
  const since = random.pick<EarlyKill["since"]>(["start", "ready", "ready", "ready"]);
  return { since, wait_ms: since === "start" ? random.between(0, 200) : random.between(0, 30) };
}

function planRound(random: Random): RoundPlan {
  return {
    after_ms: random.between(0, 25),
    early: Array.from({ length: random.chance(20) ? random.between(1, 3) : 0 }, () => planEarly(random)),
    halts: someGuests(random, 20),
    resets: someGuests(random, 12),
  };
}

/** Half of what a queue's receive buffers hold: the rest is on its way back to the device. */
function windowOf({ features, ringSize, bufferBytes, receiveSegments, receiveIndirect }: GuestShape, size: number) {
  const buffers = receiveIndirect ? ringSize : Math.floor(ringSize / (1 + receiveSegments));
  const each = features.includes("MRG_RXBUF") ? Math.ceil((size + headerBytes) / bufferBytes) : 1;
  return Math.max(1, Math.floor(buffers / each / 2));
}

function planLife(random: Random, ring: Ring, rounds: number): LifePlan {
  const cut = random.chance(20);
  const planned = planShape(random, ring, cut);
  const features = cut ? [...new Set([...planned.features, ...cutFeatures])] : planned.features;
  const shape: GuestShape = { ...planned, features };
  const longest = Math.min(cut ? frameBytesMax : ownFrameBytes, longestFrame(shape));
  const size_bytes = cut ? longest : Math.min(random.pick([60, 300, ownFrameBytes]), longest);
  const inStep = random.chance(60);
  return {
    shape,
    size_bytes,
    size_min_bytes: random.chance(50) ? undefined : Math.min(size_bytes, cut ? gsoBytes + 100 : 60),
    gso_bytes: cut ? gsoBytes : undefined,
    check_every: random.pick([1, 64]),
    window: inStep ? windowOf(shape, size_bytes) : undefined,
    wait: inStep ? "yield" : random.pick<"yield" | "sleep">(["yield", "sleep"]),
    workers: random.pick([1, 2]),
    modes: [random.pick<PortMode>(["server", "client"]), random.pick<PortMode>(["server", "client"])],
    killedAtEnd: random.chance(50),
    rounds: Array.from({ length: rounds }, () => planRound(random)),
  };
}

/** Pairs of guests one after the other, whose rounds are so many in all. */
export function planLives(seed: number, ring: Ring, rounds: number): LifePlan[] {
  const random = new Random(ring === "packed" ? ~seed >>> 0 : seed);
  const lives: LifePlan[] = [];
  for (let left = rounds; left > 0;) {
    const count = Math.min(left, random.between(3, roundsMax));
    lives.push(planLife(random, ring, count));
    left -= count;
  }
  return lives;
}

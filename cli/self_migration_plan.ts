/**
 * What the self-test of `migrate` does in each round: chosen at random, the same for the same seed.
 *
 * @module
 */
import type { Ring } from "./bench_result.ts";
import { frameBytesMax, type GuestShape, longestFrame, ownFrameBytes, planShape } from "./guest_shape.ts";
import { Random } from "./random.ts";

/** How a round ends: the guest arrives, or stays where it is because somebody gave up, or its new host is gone. */
export type RoundEnd = "arrives" | "cancelled" | "killed";

/** Where a log lies in its file, and how much longer than it must be it is; bytes. */
export interface LogPlace {
  readonly offset: number;
  readonly spare: number;
}

export interface RoundPlan {
  readonly end: RoundEnd;
  readonly log: LogPlace;
  /** Looks at the log while the guest runs, and how long each waits. */
  readonly passes_ms: readonly number[];
  /** Befalls the migration before a pass: another log, or the device is stopped and started. */
  readonly incident:
    | { readonly what: "new log" | "restart"; readonly pass: number; readonly log: LogPlace }
    | undefined;
  /**
   * What is sent when the guest is halted: all goes on; nothing for a moment before, so that all its buffers are filled
   * behind its back; or nothing any more, so that its device falls asleep behind its back.
   */
  readonly sending: "goes on" | "pauses" | "ends";
  /** Frames that the guest puts in each ring just before it is halted. */
  readonly frames: number;
  /** Looks at the log while the guest is halted, and how long each waits; at one of them the late kick. */
  readonly halted_ms: readonly number[];
  readonly kick: number;
  /** How long the guest then runs where it is. */
  readonly after_ms: number;
}

/** A guest from its start to its end: so many rounds in a row. */
export interface LifePlan {
  readonly shape: GuestShape;
  /** What is sent to it. */
  readonly size_bytes: number;
  readonly size_min_bytes: number | undefined;
  readonly gso_bytes: number | undefined;
  /** Frames that it sends itself, a second, and how it waits. */
  readonly rate: number;
  readonly wait: "yield" | "sleep";
  readonly rounds: readonly RoundPlan[];
}

const gsoBytes = 1448;
const roundsMax = 6;

function logPlace(random: Random): LogPlace {
  return random.chance(60) ? { offset: 0, spare: 0 } : {
    offset: 8 * random.between(0, 1100),
    spare: 8 * random.between(0, 600),
  };
}

function pauses(random: Random, least: number, most: number): number[] {
  return Array.from({ length: random.between(least, most) }, () => random.between(0, 6));
}

function planRound(random: Random): RoundPlan {
  const fate = random.between(0, 99);
  const passes_ms = pauses(random, 1, 4);
  const halted_ms = pauses(random, 2, 4);
  const what = random.pick<"new log" | "restart">(["new log", "restart"]);
  return {
    end: fate < 3 ? "killed" : fate < 13 ? "cancelled" : "arrives",
    log: logPlace(random),
    passes_ms,
    incident: random.chance(40)
      ? { what, pass: random.pick([0, passes_ms.length - 1]), log: logPlace(random) }
      : undefined,
    sending: random.pick<RoundPlan["sending"]>(["goes on", "pauses", "ends"]),
    frames: random.between(0, 16),
    halted_ms,
    kick: random.between(0, halted_ms.length - 1),
    after_ms: random.between(0, 15),
  };
}

function planLife(random: Random, ring: Ring, rounds: number): LifePlan {
  const cut = random.chance(20);
  const shape = planShape(random, ring, cut);
  const plain = Math.min(random.pick([60, ownFrameBytes, frameBytesMax]), longestFrame(shape));
  return {
    shape,
    size_bytes: cut ? frameBytesMax : plain,
    size_min_bytes: cut || random.chance(50) ? undefined : 60,
    gso_bytes: cut ? gsoBytes : undefined,
    rate: random.pick([500, 5000, 50_000]),
    wait: random.pick<"yield" | "sleep">(["yield", "sleep"]),
    rounds: Array.from({ length: rounds }, () => planRound(random)),
  };
}

/** Guests one after the other, whose rounds are so many in all. */
export function planLives(seed: number, ring: Ring, rounds: number): LifePlan[] {
  const random = new Random(ring === "packed" ? ~seed >>> 0 : seed);
  const lives: LifePlan[] = [];
  for (let left = rounds; left > 0;) {
    const count = Math.min(left, random.between(2, roundsMax));
    lives.push(planLife(random, ring, count));
    left -= count;
  }
  return lives;
}

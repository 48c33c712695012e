/**
 * What the self-test of `migrate` does in each round: chosen at random, the same for the same seed.
 *
 * @module
 */
import type { FeatureName } from "../mod.ts";
import type { Ring } from "./bench_result.ts";
import type { GuestShape } from "./self_migration_host.ts";

/** Numbers that look random, by a seed (SplitMix32). */
export class Random {
  #state: number;

  /** @param seed 0 to 2^32 - 1. */
  constructor(seed: number) {
    this.#state = seed;
  }

  /** 0 to 2^32 - 1. */
  next(): number {
    this.#state = this.#state + 0x9e3779b9 >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ mixed >>> 16, 0x21f0aaad);
    mixed = Math.imul(mixed ^ mixed >>> 15, 0x735a2d97);
    return (mixed ^ mixed >>> 15) >>> 0;
  }

  /** From `least` to `most`, both included. */
  between(least: number, most: number): number {
    return least + this.next() % (most - least + 1);
  }

  pick<T>(items: readonly [T, ...T[]]): T {
    return items[this.next() % items.length]!;
  }

  /** True `percent` times of a hundred. */
  chance(percent: number): boolean {
    return this.next() % 100 < percent;
  }
}

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

/** Of every sender of the self-test. */
export const queuePairsMax = 2;
export const frameBytesMax = 9014;
const headerBytes = 12;
/** The longest frame of the guest's own. */
const ownFrameBytes = 1514;
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

function planFeatures(random: Random, ring: Ring, queuePairs: number, cut: boolean): FeatureName[] {
  const some: readonly (readonly [FeatureName, number])[] = [
    ["MRG_RXBUF", 65],
    ["EVENT_IDX", 60],
    ["INDIRECT_DESC", 50],
    ["IN_ORDER", 30],
    ["GUEST_CSUM", 30],
  ];
  return [
    "VERSION_1",
    ...ring === "packed" ? ["RING_PACKED" as const] : [],
    ...queuePairs > 1 ? ["MQ" as const] : [],
    ...cut ? ["CSUM", "HOST_USO"] as const : [],
    ...some.filter(([, percent]) => random.chance(percent)).map(([name]) => name),
  ];
}

const ringSizes: Record<Ring, readonly [number, ...number[]]> = {
  split: [64, 128, 256, 512, 1024],
  packed: [64, 100, 255, 256, 1000],
};

/** Rings and buffers. */
function planShape(random: Random, ring: Ring, cut: boolean): GuestShape {
  const queuePairs = random.pick([1, queuePairsMax]);
  const features = planFeatures(random, ring, queuePairs, cut);
  const indirect = features.includes("INDIRECT_DESC");
  const buffers = features.includes("MRG_RXBUF") ? [600, 1536, 2048, 4096] as const : [2048, 9216] as const;
  return {
    features,
    queuePairs,
    // Send buffers are large where frames are.
    ringSize: Math.min(random.pick(ringSizes[ring]), cut ? 256 : 1024),
    bufferBytes: random.pick<number>(buffers),
    frameBytesMax: cut ? frameBytesMax : ownFrameBytes,
    sendSegments: random.chance(40) ? random.between(1, 4) : 0,
    receiveSegments: random.chance(40) ? random.between(1, 4) : 0,
    sendIndirect: indirect && random.chance(50),
    receiveIndirect: indirect && random.chance(50),
    // Its log is as long as it must be, mostly empty, or goes beyond what 32 bits hold.
    gpa: random.pick([0, 0x4000_0000, 0x1_8000_0000]),
  };
}

/** What fits into a quarter of a guest's buffers together, or into one that takes no more. */
function longestFrame({ features, ringSize, bufferBytes, receiveSegments, receiveIndirect }: GuestShape): number {
  if (!features.includes("MRG_RXBUF")) return bufferBytes - headerBytes;
  const buffers = receiveIndirect ? ringSize : Math.floor(ringSize / (1 + receiveSegments));
  return Math.floor(buffers / 4) * bufferBytes - headerBytes;
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

/**
 * Simulated guests of every kind: which rings, buffers and features they have, by chance.
 *
 * @module
 */
import type { FeatureName, GuestOptions } from "../mod.ts";
import type { Ring } from "./bench_result.ts";
import type { Random } from "./random.ts";

/** A guest as it can be told to another process. */
export type GuestShape = Required<Omit<GuestOptions, "features" | "gpa">> & {
  readonly features: readonly FeatureName[];
  readonly gpa: number;
};

/** The most that is planned. */
export const queuePairsMax = 2;
/** The longest frame. */
export const frameBytesMax = 9014;
/** The longest frame that a guest sends which leaves nothing to be cut. */
export const ownFrameBytes = 1514;
const headerBytes = 12;

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

/** Rings and buffers; with `cut` it sends frames that others are to cut. */
export function planShape(random: Random, ring: Ring, cut: boolean): GuestShape {
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
export function longestFrame(
  { features, ringSize, bufferBytes, receiveSegments, receiveIndirect }: GuestShape,
): number {
  if (!features.includes("MRG_RXBUF")) return bufferBytes - headerBytes;
  const buffers = receiveIndirect ? ringSize : Math.floor(ringSize / (1 + receiveSegments));
  return Math.floor(buffers / 4) * bufferBytes - headerBytes;
}

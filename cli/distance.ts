/**
 * How far CPUs are apart, in words: rates of different distances say nothing together.
 *
 * @module
 */

/** A cache line's way between two CPUs: threads of one core lie below, other cores beyond. */
export const nearMax_ns = 90;
/** The CPUs were moved when their distance grows or shrinks by more than this. */
const distanceRatioMax = 1.5;

/** `same`: there is no way, or nobody could tell. */
export const distances = ["near", "far", "same"] as const;
export type Distance = (typeof distances)[number];

/** The word for a cache line's way. */
export function distanceOf(way_ns: number | undefined): Distance {
  if (way_ns === undefined) return "same";
  return way_ns < nearMax_ns ? "near" : "far";
}

/** What the word means. */
export const distanceTexts: Record<Distance, string> = {
  near: `CPUs near, a cache line in less than ${nearMax_ns} ns`,
  far: `CPUs far, a cache line in ${nearMax_ns} ns or more`,
  same: "CPUs of no known distance",
};

/** Whether the CPUs are as far apart as they were; where that is not known, they are taken to be. */
export function stayed(before_ns: number | undefined, after_ns: number | undefined): boolean {
  if (before_ns === undefined || after_ns === undefined) return true;
  return Math.max(before_ns, after_ns) <= distanceRatioMax * Math.min(before_ns, after_ns);
}

/**
 * What repeated measurements say together.
 *
 * @module
 */

/** The middle half of some measurements. */
export interface Spread {
  readonly median: number;
  /** Lower and upper quartile. */
  readonly low: number;
  readonly high: number;
  /** How many there were. */
  readonly count: number;
}

/** The value below which `share` (0 to 1) of the values lie, straight lines between neighbours. NaN of none. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((one, other) => one - other);
  const place = (sorted.length - 1) * share;
  const below = sorted[Math.floor(place)];
  const above = sorted[Math.ceil(place)];
  if (below === undefined || above === undefined) return NaN;
  return below + (above - below) * (place - Math.floor(place));
}

/** Median and quartiles; undefined of none. */
export function spread(values: readonly number[]): Spread | undefined {
  if (values.length === 0) return undefined;
  const [low, median, high] = [0.25, 0.5, 0.75].map((share) => quantile(values, share));
  return { median: median!, low: low!, high: high!, count: values.length };
}

/**
 * Many cases at a glance: a line for each kind of ring, a column for each size.
 *
 * @module
 */
import { ratioOf } from "./bench_ratio.ts";
import { type Case, type CaseResult, rowName, shareOfFloor } from "./bench_result.ts";
import { figure } from "./bench_text.ts";
import { distanceOf, distances, distanceTexts } from "./distance.ts";
import type { Column } from "./output.ts";

/** One figure of each case. */
export interface Matrix {
  readonly title: string;
  readonly columns: readonly Column[];
  readonly rows: readonly (readonly string[])[];
}

/** What stands in a cell that was not measured. */
const nothing = "-";

/** The sizes of these cases, smallest first. */
export function sizesOf(cases: readonly Case[]): number[] {
  return [...new Set(cases.map(({ size_bytes }) => size_bytes))].toSorted((one, other) => one - other);
}

function matrix(title: string, cases: readonly CaseResult[], text: (found: CaseResult) => string): Matrix {
  const sizes = sizesOf(cases);
  const rows = [...new Set(cases.map(rowName))].map((row) => [
    row,
    ...sizes.map((size) => {
      const found = cases.find((wanted) => wanted.size_bytes === size && rowName(wanted) === row);
      return found === undefined ? nothing : text(found);
    }),
  ]);
  const columns = sizes.map((size) => ({ title: `${size} B`, align: "right" as const }));
  return { title, columns: [{ title: "RING" }, ...columns], rows };
}

/** How we stand to the peer at each distance of the CPUs that there was. */
function ratios(cases: readonly CaseResult[]): Matrix[] {
  const pairs = cases.flatMap(({ peer }) => peer?.pairs ?? []);
  const there = distances.filter((word) => pairs.some((pair) => distanceOf(pair.core_distance_ns) === word));
  return there.map((word) =>
    matrix(`Ours to DPDK, median (pairs): ${distanceTexts[word]}`, cases, ({ peer }) => {
      const ratio = ratioOf(peer?.pairs.filter((pair) => distanceOf(pair.core_distance_ns) === word) ?? []);
      return ratio === undefined ? nothing : `${ratio.median.toFixed(2)} (${ratio.count})`;
    })
  );
}

/** None where a table alone is as clear: with one size, or one kind of ring. */
export function matrices(cases: readonly CaseResult[]): Matrix[] {
  if (sizesOf(cases).length < 2 || new Set(cases.map(rowName)).size < 2) return [];
  const own = cases.some(({ peer }) => peer !== undefined)
    ? ratios(cases)
    : [matrix("Mpps", cases, ({ mpps }) => figure(mpps))];
  if (cases.every((found) => shareOfFloor(found) === undefined)) return own;
  return [...own, matrix("Share of the floor", cases, (found) => shareOfFloor(found)?.toFixed(2) ?? nothing)];
}

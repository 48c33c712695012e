/**
 * The result of `bench starvation` as text.
 *
 * @module
 */
import { ringName } from "./bench_result.ts";
import { figure } from "./bench_text.ts";
import type { Column } from "./output.ts";
import type { StarvationCaseResult, StarvationResult } from "./starvation_result.ts";

interface Field extends Column {
  readonly text: (found: StarvationCaseResult) => string;
}

const fields: readonly Field[] = [
  { title: "SIZE", align: "right", text: ({ size_bytes }) => `${size_bytes}` },
  { title: "RING", text: ringName },
  { title: "OTHERS Mpps, ALL READ", align: "right", text: ({ reading_mpps }) => figure(reading_mpps) },
  { title: "ONE DOES NOT", align: "right", text: ({ stopped_mpps }) => figure(stopped_mpps) },
  {
    title: "RATIO (middle half)",
    align: "right",
    text: ({ ratio }) =>
      ratio === undefined ? "?" : `${ratio.median.toFixed(2)} (${ratio.low.toFixed(2)}-${ratio.high.toFixed(2)})`,
  },
  { title: "SENT TO IT Mpps", align: "right", text: ({ sent_to_stopped_mpps: sent }) => figure(sent) },
];

/** The columns of the table, and a row for each case. */
export function starvationTable(
  cases: readonly StarvationCaseResult[],
): { columns: readonly Column[]; rows: string[][] } {
  return { columns: fields, rows: cases.map((found) => fields.map(({ text }) => text(found))) };
}

/** The sentences below the table. */
export function starvationNotes({ cases, rate_pps, interrupted }: StarvationResult): string[] {
  const flows = cases[0]?.flows ?? 0;
  const pairs = cases.reduce((sum, found) => sum + (found.ratio?.count ?? 0), 0);
  const disturbed = cases.reduce((sum, found) => sum + found.pairs_disturbed, 0);
  const pace = rate_pps === undefined ? "as fast as they could" : `${rate_pps} packets a second each`;
  return [
    `${flows} guests sent to ${flows} others, ${pace}. RATIO is the median rate of the other ${flows - 1} while one ` +
    "receiver did not read to that while it did, over pairs of turns; without what it would have taken of the worker " +
    "and of the guests' CPU it may well be above 1.",
    `${pairs} pairs counted. In ${disturbed} somebody else had a CPU: these count only for want of others.`,
    ...interrupted ? ["Interrupted: the figures are of the time until then."] : [],
  ];
}

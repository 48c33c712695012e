/**
 * What the self-test of `reconnect-watch` found, as text.
 *
 * @module
 */
import { type Column, duration, quantity, table } from "./output.ts";
import type { Losses, OutageResult, RingResult } from "./self_reconnect_result.ts";

const columns: readonly Column[] = [
  { title: "RING" },
  ...["KILLS", "DELIVERED", "STUCK", "DUPLICATED", "CORRUPTED", "OUT OF ORDER", "LOST", "OUTAGE median", "worst"]
    .map((title): Column => ({ title, align: "right" })),
];

/** A row for each ring format. */
export function resultTable(results: readonly RingResult[]): string[] {
  return table(
    columns,
    results.map((result) => [
      result.ring,
      `${result.kills}`,
      quantity(result.received),
      `${result.stuck}`,
      `${result.duplicated}`,
      `${result.corrupted}`,
      `${result.reordered}`,
      quantity(result.in_step.lost + result.at_full_speed.lost),
      result.outage === null ? "" : duration(result.outage.median_ms),
      result.outage === null ? "" : duration(result.outage.worst_ms),
    ]),
  );
}

function dropText(dropped: Readonly<Record<string, number>>): string[] {
  return Object.entries(dropped).map(([reason, count]) => `${quantity(count)} ${reason.replaceAll("_", " ")}`);
}

/** Why packets were lost, as far as that is known. */
function lossText({ given_back, given_back_unseen_max, abandoned_max, dropped }: Losses): string {
  return [
    `${quantity(given_back)} given back`,
    ...given_back_unseen_max > 0 ? [`up to ${quantity(given_back_unseen_max)} given back unseen`] : [],
    ...abandoned_max > 0 ? [`up to ${quantity(abandoned_max)} in rings that a driver began anew`] : [],
    ...dropText(dropped),
  ].join(", ");
}

function outageText({ start_up_ms, handshake_ms, rings_ms, traffic_ms, ready_ms }: OutageResult): string {
  return `  outage, medians: ${duration(start_up_ms)} until a back end was there (${
    duration(ready_ms)
  } from its start ` +
    `until it said so), ${duration(handshake_ms)} handshake, ${duration(rings_ms)} memory and rings, ` +
    `${duration(traffic_ms)} until the first frame`;
}

/** What the table does not say, in a few lines for each ring format. */
export function resultNotes(results: readonly RingResult[]): string[] {
  return results.flatMap(({ ring, rounds, kills, pairs, resets, halts, in_step, at_full_speed, outage }) => [
    `${ring}: ${pairs} pairs of guests; ${kills - rounds} of the kills came before packets passed again; ` +
    `${resets} drivers began anew meanwhile, ${halts} devices were stopped and started before`,
    `  in step, ${in_step.rounds} rounds: ${quantity(in_step.lost)} lost, of ${lossText(in_step)}`,
    `  at full speed, ${at_full_speed.rounds} rounds: ${
      quantity(at_full_speed.lost)
    } lost; what back ends said before ` +
    `they were killed: ${lossText(at_full_speed)}`,
    ...outage === null ? [] : [outageText(outage)],
  ]);
}

/** The first fault of a ring format; empty without one. */
export function failureLines({ ring, failure }: RingResult): string[] {
  return failure === undefined ? [] : [`${ring}, round ${failure.round}: ${failure.reason}`];
}

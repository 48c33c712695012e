/**
 * What the self-test of `migrate` found, as text.
 *
 * @module
 */
import type { Ring } from "./bench_result.ts";
import type { Difference } from "./self_migration_host.ts";
import type { RingResult } from "./self_migration_result.ts";
import { type Column, duration, quantity, table } from "./output.ts";

const columns: readonly Column[] = [
  { title: "RING" },
  ...[
    "ROUNDS",
    "ARRIVED",
    "DELIVERED",
    "UNACCOUNTED",
    "DUPLICATED",
    "PAGES LOGGED",
    "COMPARED",
    "DIFFERENT",
    "LONGEST STOP",
  ]
    .map((title): Column => ({ title, align: "right" })),
];

/** A row for each ring format. */
export function resultTable(results: readonly RingResult[]): string[] {
  return table(
    columns,
    results.map((result) => [
      result.ring,
      `${result.rounds}`,
      `${result.ends.arrives}`,
      quantity(result.received),
      `${result.unaccounted}`,
      `${result.duplicated}`,
      quantity(result.pages_logged.pages),
      quantity(result.pages_compared),
      `${result.pages_different}`,
      duration(result.stop_max_ms),
    ]),
  );
}

function dropText(dropped: Readonly<Record<string, number>>): string {
  const parts = Object.entries(dropped).map(([reason, count]) => `${quantity(count)} ${reason.replaceAll("_", " ")}`);
  return parts.length === 0 ? "nothing" : parts.join(", ");
}

/** What the table does not say, in a few lines for each ring format. */
export function resultNotes(results: readonly RingResult[]): string[] {
  return results.flatMap(({ ring, guests, ends, sent, dropped, pages_logged: { pages, same } }) => [
    `${ring}: ${guests} guests; ${ends.cancelled} rounds cancelled, ${ends.killed} with the other host killed; ` +
    `${quantity(same)} of ${quantity(pages)} logged pages were the same already`,
    `  ${quantity(sent)} packets sent, dropped: ${dropText(dropped)}`,
  ]);
}

const areas: Record<Difference["area"], readonly [split: string, packed: string]> = {
  none: ["nothing that counts", "nothing that counts"],
  desc: ["descriptor table", "descriptor ring"],
  avail: ["available ring", "driver event area"],
  used: ["used ring", "used ring"],
  event: ["avail_event", "device event area"],
  table: ["indirect tables", "indirect tables"],
  buffer: ["buffer", "buffer"],
};

/** Where a page differs, and what lies there: `page 0x40003000: at 0x40003004: used ring of ring 0 (receives)`. */
export function differenceText(ring: Ring, { gpa, area, ring: index, buffer }: Difference): string {
  const hexadecimal = (address: number) => `0x${address.toString(16)}`;
  const what = areas[area][ring === "split" ? 0 : 1];
  const name = area === "buffer" ? `${what} ${buffer}` : what;
  const direction = index % 2 === 0 ? "receives" : "sends";
  return `page ${hexadecimal(gpa - gpa % 4096)}: from ${hexadecimal(gpa)} on: ${name} of ring ${index} (${direction})`;
}

/** Of the pages that differ so many are told: where one is forgotten, many are. */
const differencesMax = 8;

/** The first fault of a ring format; empty without one. */
export function failureLines({ ring, failure }: RingResult): string[] {
  if (failure === undefined) return [];
  const { round, reason, differences } = failure;
  return [
    `${ring}, round ${round}: ${reason}`,
    ...differences.slice(0, differencesMax).map((one) => `  ${differenceText(ring, one)}`),
    ...differences.length > differencesMax ? ["  and others"] : [],
  ];
}

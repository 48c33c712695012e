/**
 * The result of `bench costs` as text.
 *
 * @module
 */
import type { BackEndCosts, Cost, CostsResult } from "./costs_result.ts";
import type { Column } from "./output.ts";

interface Field extends Column {
  readonly text: (found: BackEndCosts) => string;
}

function costField(cost: Cost, title: string, digits: number): Field {
  return { title, align: "right", text: ({ costs }) => costs[cost].median.toFixed(digits) };
}

const standing: readonly Field[] = [
  { title: "BACK END", text: ({ name }) => name },
  costField("listening_ms", "LISTENS AFTER ms", 0),
  costField("idle_percent", "CPU % WITHOUT GUESTS", 1),
  costField("guests_percent", "WITH TWO", 1),
  costField("rss_mib", "RSS MiB", 0),
  costField("private_mib", "OF THAT PRIVATE", 0),
  costField("huge_mib", "HUGE PAGES", 0),
];

const killed: readonly Field[] = [
  { title: "KILLS", align: "right", text: ({ kills }) => `${kills}` },
  { title: "SURVIVED", align: "right", text: ({ survived }) => `${survived}` },
  {
    title: "OUTAGE ms (middle half)",
    align: "right",
    text: ({ outage_ms: outage }) => {
      if (outage === undefined) return "-";
      const [median, low, high] = [outage.median, outage.low, outage.high].map((value) => value.toFixed(0));
      return `${median} (${low}-${high})`;
    },
  },
];

/** The columns of the table, and a row for each back end. */
export function costsTable(backEnds: readonly BackEndCosts[]): { columns: readonly Column[]; rows: string[][] } {
  const fields = [...standing, ...backEnds.some(({ kills }) => kills > 0) ? killed : []];
  return { columns: fields, rows: backEnds.map((found) => fields.map(({ text }) => text(found))) };
}

/** The sentences below the table. */
export function costsNotes({ back_ends, ring, interrupted }: CostsResult): string[] {
  const rounds = back_ends.reduce((sum, found) => sum + found.rounds, 0);
  const disturbed = back_ends.reduce((sum, found) => sum + found.rounds_disturbed, 0);
  const kills = back_ends.some(({ kills }) => kills > 0);
  return [
    `Medians; ${rounds} starts counted. In ${disturbed} somebody else had its CPU: they count only where there are ` +
    "hardly any others. Memory is without guests: theirs, which is mapped, would come on top.",
    ...kills
      ? [
        `Killed while two guests with ${ring} rings exchanged packets, and started again at once: until both got ` +
        "some again. Who did not come back was not killed again in that round.",
      ]
      : [],
    ...interrupted ? ["Interrupted: the figures are of the rounds until then."] : [],
  ];
}

/**
 * Costs and starvation in a report: few figures, which a table tells best.
 *
 * @module
 */
import type { CostsResult } from "./costs_result.ts";
import { costsNotes, costsTable } from "./costs_text.ts";
import { machineText } from "./machine.ts";
import type { Column } from "./output.ts";
import { tableHtml } from "./report_table.ts";
import type { StarvationResult } from "./starvation_result.ts";
import { starvationNotes, starvationTable } from "./starvation_text.ts";
import { escapeHtml } from "./svg.ts";

interface Table {
  readonly columns: readonly Column[];
  readonly rows: readonly (readonly string[])[];
}

function section(
  { bench, machine }: CostsResult | StarvationResult,
  { columns, rows }: Table,
  notes: string[],
): string {
  return [
    `<section>\n<h2>${bench}</h2>\n<p class="about">${escapeHtml(machineText(machine))}</p>`,
    tableHtml(columns, rows),
    ...notes.map((note) => `<p>${escapeHtml(note)}</p>`),
    "</section>",
  ].join("\n");
}

/** What back ends cost. */
export function costsSection(result: CostsResult): string {
  return section(result, costsTable(result.back_ends), costsNotes(result));
}

/** What flows lose to one that does not read. */
export function starvationSection(result: StarvationResult): string {
  return section(result, starvationTable(result.cases), starvationNotes(result));
}

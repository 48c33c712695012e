/**
 * Costs in a report.
 *
 * @module
 */
import type { CostsResult } from "./costs_result.ts";
import { costsNotes, costsTable } from "./costs_text.ts";
import { machineText } from "./machine.ts";
import { tableHtml } from "./report_table.ts";
import { escapeHtml } from "./svg.ts";

/** One benchmark: few figures, which a table tells best. */
export function costsSection(result: CostsResult): string {
  const { columns, rows } = costsTable(result.back_ends);
  return [
    `<section>\n<h2>costs</h2>\n<p class="about">${escapeHtml(machineText(result.machine))}</p>`,
    tableHtml(columns, rows),
    ...costsNotes(result).map((note) => `<p>${escapeHtml(note)}</p>`),
    "</section>",
  ].join("\n");
}

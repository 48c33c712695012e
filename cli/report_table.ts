/**
 * Tables in a report.
 *
 * @module
 */
import type { Column } from "./output.ts";
import { escapeHtml } from "./svg.ts";

/** A table, which can be moved sideways where it is wider than the page. */
export function tableHtml(columns: readonly Column[], rows: readonly (readonly string[])[], caption?: string): string {
  const line = (cells: readonly string[], tag: "th" | "td") =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join("")}</tr>`;
  return [
    `<div class="wide"><table>${caption === undefined ? "" : `<caption>${escapeHtml(caption)}</caption>`}`,
    `<thead>${line(columns.map(({ title }) => title), "th")}</thead>\n<tbody>`,
    ...rows.map((row) => line(row, "td")),
    "</tbody>\n</table></div>",
  ].join("\n");
}

/**
 * Small drawings in HTML. None is wider than a phone shows in full size.
 *
 * @module
 */

/** In units that are pixels where there is room. */
export const drawingWidth = 420;

/** Text as it may stand between tags and in attributes. */
export function escapeHtml(text: string): string {
  const names: Record<string, string> = { "<": "&lt;", ">": "&gt;", "&": "&amp;", '"': "&quot;" };
  return text.replaceAll(/[<>&"]/g, (character) => names[character]!);
}

/** A text that begins at a place, at the middle of its line. */
export function drawnText(x: number, middle: number, text: string, anchor: "start" | "middle" | "end" = "start") {
  const at = `x="${x.toFixed(1)}" y="${middle}" text-anchor="${anchor}" dominant-baseline="central"`;
  return `<text ${at}>${escapeHtml(text)}</text>`;
}

/** A drawing of so many units in height; `about` is for those who cannot see it. */
export function drawing(height: number, about: string, parts: readonly string[]): string {
  const head = `<svg viewBox="0 0 ${drawingWidth} ${height}" role="img" aria-label="${escapeHtml(about)}">`;
  return [head, ...parts, "</svg>"].join("\n");
}

/**
 * Bars for a terminal.
 *
 * @module
 */

/** One bar: what it stands for, how long it is, and what is written behind it. */
export interface Bar {
  readonly label: string;
  readonly value: number;
  readonly text: string;
}

/** Where the terminal does not tell. */
const columnsDefault = 80;
const columnsMax = 120;

/** What standard output has room for. */
export function chartColumns(): number {
  try {
    return Math.min(Deno.consoleSize().columns, columnsMax);
  } catch {
    return columnsDefault;
  }
}

const eighths = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/** A bar of so many columns, to an eighth of a column; something, however small, is drawn for what is not zero. */
export function bar(columns: number): string {
  const steps = columns > 0 ? Math.max(1, Math.round(columns * 8)) : 0;
  return "█".repeat(Math.floor(steps / 8)) + eighths[steps % 8];
}

/**
 * Bars under each other on a common scale from 0, none longer than `columns` allows with its texts.
 * `paint` colours a bar by its number.
 */
export function chart(bars: readonly Bar[], columns: number, paint: (bar: string, index: number) => string): string[] {
  const width = (texts: readonly string[]) => Math.max(0, ...texts.map((text) => text.length));
  const labels = width(bars.map(({ label }) => label));
  const texts = width(bars.map(({ text }) => text));
  const room = Math.max(8, columns - labels - texts - 4);
  const longest = Math.max(...bars.map(({ value }) => value));
  return bars.map(({ label, value, text }, index) => {
    const drawn = longest > 0 ? bar(value / longest * room) : "";
    return `${label.padEnd(labels)}  ${paint(drawn, index)}  ${text}`;
  });
}

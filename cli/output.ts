/**
 * What commands print: units, tables, colour, JSON lines, and a frame at the bottom of a terminal that is drawn anew.
 *
 * Nothing here waits for the reader: a terminal that is held, or a pipe that nobody empties, must not hold up the
 * control plane. What cannot be delivered is dropped beyond a limit, and the gap is told.
 *
 * @module
 */

const prefixes = ["", "k", "M", "G", "T", "P"];

/** A count or rate in three to four digits: `0`, `0.5`, `950`, `1.23 M`, `14.9 M`. */
export function quantity(value: number): string {
  let rest = value;
  let step = 0;
  while (rest >= 999.5 && step + 1 < prefixes.length) {
    rest /= 1000;
    step++;
  }
  if (step === 0) return Number.isInteger(rest) || rest >= 100 ? rest.toFixed(0) : rest.toFixed(1);
  return `${rest.toPrecision(3)} ${prefixes[step]}`;
}

/** An amount of bytes: `0 B`, `1.23 MB`. */
export function byteQuantity(bytes: number): string {
  const text = quantity(bytes);
  return text.includes(" ") ? `${text}B` : `${text} B`;
}

/** A duration in the largest fitting unit: `850 ms`, `12.5 s`, `3 min 5 s`, `2 h 10 min`. */
export function duration(milliseconds: number): string {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const minutes = Math.round(seconds / 60);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** How a table's column is headed and aligned. */
export interface Column {
  readonly title: string;
  readonly align?: "left" | "right";
}

/** Lays out rows under their heads, two blanks apart. The last column, if left-aligned, is not padded. */
export function table(columns: readonly Column[], rows: readonly (readonly string[])[]): string[] {
  const texts = [columns.map((column) => column.title), ...rows];
  const widths = columns.map((_, index) => Math.max(...texts.map((row) => (row[index] ?? "").length)));
  return texts.map((row) =>
    columns.map((column, index) => {
      const text = row[index] ?? "";
      return column.align === "right" ? text.padStart(widths[index]!) : text.padEnd(widths[index]!);
    }).join("  ").trimEnd()
  );
}

/** Cuts a line to what a terminal has room for. */
export function fit(line: string, columns: number): string {
  return line.length <= columns ? line : `${line.slice(0, Math.max(0, columns - 1))}…`;
}

/** The terminal's; what most have at least, where there is none, or it does not know. */
export function terminalSize(): { rows: number; columns: number } {
  const usual = { rows: 24, columns: 80 };
  try {
    const { rows, columns } = Deno.consoleSize();
    return { rows: rows || usual.rows, columns: columns || usual.columns };
  } catch {
    return usual;
  }
}

export type Style = "bold" | "dim" | "red" | "green" | "yellow";

const codes: Record<Style, readonly [on: number, off: number]> = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
};

/** Where an `Output` writes to; `Deno.stdout` is one. */
export interface Sink {
  write(bytes: Uint8Array): Promise<number>;
  isTerminal(): boolean;
}

/** Beyond so many characters in waiting, lines are left out. */
const backlogMax = 1 << 20;
/** At the end, a reader gets so long to take what is left. */
const farewell_ms = 1000;

/** One stream of lines, with a frame below them where it is a terminal. */
export class Output {
  readonly #sink: Sink;
  /** Whether frames can be drawn. */
  readonly terminal: boolean;
  readonly #colour: boolean;
  readonly #broken = new AbortController();
  #waiting = "";
  #leftOut = 0;
  #writing: Promise<void> | undefined;
  /** As drawn last; empty when there is none. */
  #frame: readonly string[] = [];

  /** @param environment `NO_COLOR` (not empty) turns colours off, `TERM=dumb` frames as well. */
  constructor(sink: Sink, environment: { NO_COLOR?: string | undefined; TERM?: string | undefined }) {
    this.#sink = sink;
    this.terminal = sink.isTerminal() && environment.TERM !== "dumb";
    this.#colour = this.terminal && !environment.NO_COLOR;
  }

  /** Standard output, as the environment has it. */
  static standard(): Output {
    return new Output(Deno.stdout, { NO_COLOR: Deno.env.get("NO_COLOR"), TERM: Deno.env.get("TERM") });
  }

  /** Aborted when nobody reads any more. */
  get broken(): AbortSignal {
    return this.#broken.signal;
  }

  /** Resolves when all that was printed so far has been delivered. */
  get delivered(): Promise<void> {
    return this.#writing ?? Promise.resolve();
  }

  /** Colours a text where that is wanted. Measure widths before. */
  style(style: Style, text: string): string {
    const [on, off] = codes[style];
    return this.#colour ? `\x1b[${on}m${text}\x1b[${off}m` : text;
  }

  /** Prints lines above the frame. */
  line(...lines: readonly string[]): void {
    this.#print(lines, (count) => `(${count} lines left out: they were not read in time)`);
  }

  /** @param gapOf What is printed in the place of so many lines. */
  #print(lines: readonly string[], gapOf: (count: number) => string): void {
    if (this.#waiting.length > backlogMax) {
      this.#leftOut += lines.length;
      return;
    }
    const gap = this.#leftOut > 0 ? `${gapOf(this.#leftOut)}\n` : "";
    this.#leftOut = 0;
    const text = lines.map((line) => `${line}\n`).join("");
    this.#push(`${this.#eraseFrame()}${gap}${text}${this.#frame.map((line) => `${line}\n`).join("")}`);
  }

  /** Prints one object as one line. BigInts become numbers: no counter of ours comes near 2^53. */
  json(object: unknown): void {
    const line = JSON.stringify(object, (_, value) => typeof value === "bigint" ? Number(value) : value);
    this.#print([line], (count) => JSON.stringify({ event: "left_out", lines: count }));
  }

  /** Draws a frame below all lines in the place of the last one; skipped while the last is not even delivered. */
  frame(lines: readonly string[]): void {
    if (!this.terminal || this.#waiting !== "") return;
    const erased = this.#eraseFrame();
    this.#frame = lines;
    this.#push(`${erased}${lines.map((line) => `${line}\n`).join("")}`);
  }

  /** Waits, not for ever, until everything is delivered; a frame is taken away before. */
  async close(): Promise<void> {
    if (this.#frame.length > 0) {
      const erased = this.#eraseFrame();
      this.#frame = [];
      this.#push(erased);
    }
    let timer: ReturnType<typeof setTimeout> | undefined;
    const patience = new Promise<void>((resolve) => timer = setTimeout(resolve, farewell_ms));
    await Promise.race([this.#writing, patience]);
    clearTimeout(timer);
  }

  #eraseFrame(): string {
    return this.#frame.length === 0 ? "" : `\x1b[${this.#frame.length}A\x1b[J`;
  }

  #push(text: string): void {
    if (this.broken.aborted || text === "") return;
    this.#waiting += text;
    this.#writing ??= this.#drain();
  }

  /** Only with something in waiting: ends in the same turn in which it finds nothing more, so that no text is left. */
  async #drain(): Promise<void> {
    try {
      while (this.#waiting !== "") {
        let bytes = new TextEncoder().encode(this.#waiting);
        this.#waiting = "";
        while (bytes.length > 0) bytes = bytes.subarray(await this.#sink.write(bytes));
      }
    } catch {
      this.#waiting = "";
      this.#broken.abort();
    } finally {
      this.#writing = undefined;
    }
  }
}

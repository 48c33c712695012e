/** Units, tables, and an output that never waits for its reader. */

import { deepEqual, equal, ok } from "node:assert/strict";
import { duration, fit, Output, quantity, type Sink, table } from "../cli/output.ts";

/** A reader that keeps what it gets, and can be held up or go away. */
class Reader implements Sink {
  text = "";
  readonly #terminal: boolean;
  readonly #decoder = new TextDecoder();
  #gate: Promise<void> = Promise.resolve();
  gone = false;

  constructor(terminal: boolean) {
    this.#terminal = terminal;
  }

  isTerminal(): boolean {
    return this.#terminal;
  }

  /** Takes nothing until the returned function is called. */
  hold(): () => void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#gate = promise;
    return resolve;
  }

  /** Takes at most 1000 bytes at once, as a pipe may. */
  async write(bytes: Uint8Array): Promise<number> {
    await this.#gate;
    if (this.gone) throw new Deno.errors.BrokenPipe("nobody reads");
    const taken = bytes.subarray(0, 1000);
    this.text += this.#decoder.decode(taken, { stream: true });
    return taken.length;
  }
}

Deno.test("quantities have three to four digits", () => {
  const cases: [number, string][] = [
    [0, "0"],
    [0.5, "0.5"],
    [7, "7"],
    [999, "999"],
    [999.6, "1.00 k"],
    [1234567, "1.23 M"],
    [14_880_952, "14.9 M"],
    [999_499, "999 k"],
    [999_500, "1.00 M"],
    [2.5e18, "2.50e+3 P"],
  ];
  for (const [value, text] of cases) equal(quantity(value), text);
});

Deno.test("durations have one or two units", () => {
  const cases: [number, string][] = [
    [0, "0 ms"],
    [850, "850 ms"],
    [12_500, "12.5 s"],
    [185_000, "3 min 5 s"],
    [7_800_000, "2 h 10 min"],
    [3_599_900, "59 min 59 s"],
  ];
  for (const [value, text] of cases) equal(duration(value), text);
});

Deno.test("a table is as wide as its texts", () => {
  const lines = table([{ title: "NAME" }, { title: "N", align: "right" }, { title: "WHY" }], [
    ["a", "1", ""],
    ["longer", "1234", "because"],
  ]);
  deepEqual(lines, ["NAME       N  WHY", "a          1", "longer  1234  because"]);
  equal(fit("abcdef", 6), "abcdef");
  equal(fit("abcdef", 4), "abc…");
});

Deno.test("lines arrive whole and in order", async () => {
  const reader = new Reader(false);
  const output = new Output(reader, {});
  const expected = Array.from({ length: 500 }, (_, index) => `line ${index} ${"ü".repeat(index % 7)}`);
  for (const line of expected) output.line(line);
  output.json({ big: 2n ** 40n, text: "a" });
  await output.close();
  equal(reader.text, `${expected.join("\n")}\n{"big":1099511627776,"text":"a"}\n`);
});

Deno.test("a line that comes just as the last one is delivered is not left lying", async () => {
  for (let turns = 0; turns < 20; turns++) {
    const reader = new Reader(false);
    const output = new Output(reader, {});
    output.line("first");
    for (let turn = 0; turn < turns; turn++) await Promise.resolve();
    output.line("last");
    await output.close();
    equal(reader.text, "first\nlast\n", `after ${turns} turns`);
  }
});

Deno.test("frames and colours are for terminals", async () => {
  const cases: [terminal: boolean, environment: Record<string, string>, colour: boolean, frame: boolean][] = [
    [true, { TERM: "xterm" }, true, true],
    [true, { TERM: "xterm", NO_COLOR: "1" }, false, true],
    [true, { TERM: "xterm", NO_COLOR: "" }, true, true],
    [true, { TERM: "dumb" }, false, false],
    [false, { TERM: "xterm" }, false, false],
  ];
  for (const [terminal, environment, colour, frame] of cases) {
    const reader = new Reader(terminal);
    const output = new Output(reader, environment);
    output.frame(["one", "two"]);
    await output.close();
    equal(output.style("red", "x"), colour ? "\x1b[31mx\x1b[39m" : "x");
    equal(reader.text, frame ? "one\ntwo\n\x1b[2A\x1b[J" : "");
  }
});

Deno.test("a line goes above the frame", async () => {
  const reader = new Reader(true);
  const output = new Output(reader, { TERM: "xterm" });
  output.frame(["frame"]);
  output.line("line");
  await output.close();
  equal(reader.text, "frame\n\x1b[1A\x1b[Jline\nframe\n\x1b[1A\x1b[J");
});

Deno.test("a slow reader loses lines, and is told how many", async () => {
  const reader = new Reader(false);
  const release = reader.hold();
  const output = new Output(reader, {});
  const long = "x".repeat(1000);
  for (let index = 0; index < 3000; index++) output.line(long);
  release();
  await output.close();
  output.line("after");
  await output.close();
  const lines = reader.text.split("\n");
  const whole = lines.filter((line) => line === long).length;
  ok(whole >= 1000 && whole < 3000);
  deepEqual(lines.slice(-3), [`(${3000 - whole} lines left out: they were not read in time)`, "after", ""]);
});

Deno.test("a slow reader of objects is told of lines left out by an object", async () => {
  const reader = new Reader(false);
  const release = reader.hold();
  const output = new Output(reader, {});
  for (let index = 0; index < 3000; index++) output.json({ long: "x".repeat(1000) });
  release();
  await output.close();
  output.json({ event: "after" });
  await output.close();
  const objects = reader.text.trimEnd().split("\n").map((line) => JSON.parse(line));
  const whole = objects.filter(({ long }) => long !== undefined).length;
  deepEqual(objects.slice(whole), [{ event: "left_out", lines: 3000 - whole }, { event: "after" }]);
});

Deno.test("a reader that is gone, or never reads, does not hold up the end", async () => {
  const gone = new Reader(false);
  gone.gone = true;
  const output = new Output(gone, {});
  output.line("to nobody");
  await output.close();
  ok(output.broken.aborted);
  output.line("still to nobody");
  await output.close();

  const asleep = new Reader(false);
  const release = asleep.hold();
  const patient = new Output(asleep, {});
  patient.line("later");
  await patient.close();
  equal(asleep.text, "");
  release();
});

/**
 * Lines from a terminal, with editing, history and completion, or from a pipe.
 *
 * @module
 */
import type { Interface } from "node:readline";

const prompt = "pmd-forward> ";

/** What answers. */
export interface Answerer {
  /** Whether nothing more is to be asked. */
  readonly over: boolean;
  execute(line: string): readonly string[];
  complete(line: string): [string[], string];
}

/** Asks until the answerer has enough, the input ends, or Ctrl-C or Ctrl-D come. */
export class Prompt implements Disposable {
  readonly #lines: Interface;
  readonly #terminal: boolean;
  #over = false;
  /** Resolves when it is over; rejects with what the answerer threw. */
  readonly closed: Promise<void>;

  private constructor(
    lines: Interface,
    terminal: boolean,
    answerer: Answerer,
    print: (lines: readonly string[]) => Promise<void>,
  ) {
    this.#lines = lines;
    this.#terminal = terminal;
    this.closed = new Promise((resolve, reject) => {
      this.#lines.once("close", () => {
        this.#over = true;
        resolve();
      });
      this.#lines.on("line", (line) => {
        if (!answerer.over) this.#answer(answerer, print, line).catch(reject);
      });
    });
    this.#lines.on("SIGINT", () => this.#lines.close());
    this.show();
  }

  /** Begins to ask. */
  static async open(answerer: Answerer, print: (lines: readonly string[]) => Promise<void>): Promise<Prompt> {
    // They take their time to load, also for commands that never ask.
    const [{ createInterface }, { default: process }] = await Promise.all([
      import("node:readline"),
      import("node:process"),
    ]);
    const { stdin: input, stdout } = process;
    const terminal = input.isTTY && stdout.isTTY;
    const completer = (line: string) => answerer.complete(line);
    const lines = createInterface({ input, ...terminal && { output: stdout }, terminal, prompt, completer });
    return new Prompt(lines, terminal, answerer, print);
  }

  async #answer(answerer: Answerer, print: (lines: readonly string[]) => Promise<void>, line: string): Promise<void> {
    await print(answerer.execute(line));
    if (answerer.over) this.#lines.close();
    else this.show();
  }

  /** Draws the prompt, and what was typed so far, again: something was printed over it. */
  show(): void {
    if (this.#terminal && !this.#over) this.#lines.prompt(true);
  }

  [Symbol.dispose](): void {
    this.#lines.close();
  }
}

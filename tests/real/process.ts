// A child program whose output is watched: started, waited upon by pattern, written to, killed, never left behind.
// Knows nothing of what the program is.

const kept_characters_max = 4 << 20;

interface Waiter {
  check(): boolean;
  fail(reason: Error): void;
}

export class Program implements AsyncDisposable {
  readonly name: string;
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array>;
  readonly #waiters = new Set<Waiter>();
  readonly #finished: Promise<Deno.CommandStatus>;
  #text = "";
  #dropped = 0;
  #status: Deno.CommandStatus | undefined;

  constructor(command: string, args: readonly string[], options: { env?: Record<string, string> } = {}) {
    this.name = command.slice(command.lastIndexOf("/") + 1);
    this.#child = new Deno.Command(command, {
      args: [...args],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      ...options,
    }).spawn();
    this.#stdin = this.#child.stdin.getWriter();
    this.#finished = this.#watch();
  }

  get pid(): number {
    return this.#child.pid;
  }

  get running(): boolean {
    return this.#status === undefined;
  }

  /** Resolves once the program has ended and everything it printed has been read. */
  get finished(): Promise<Deno.CommandStatus> {
    return this.#finished;
  }

  /** How much has been printed so far; a place to give to `since` and `until`. */
  get position(): number {
    return this.#dropped + this.#text.length;
  }

  /** What was printed, stdout and whole lines of stderr as they came, from a place on. No line is in another. */
  since(position = 0): string {
    return this.#text.slice(Math.max(0, position - this.#dropped));
  }

  async write(text: string): Promise<void> {
    await this.#stdin.write(new TextEncoder().encode(text));
  }

  /** Waits until what was printed after `from` matches; fails with the tail of it when the program ends first. */
  until(pattern: RegExp, timeout_ms: number, from = 0): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      const settle = (act: () => void) => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
        act();
      };
      const waiter: Waiter = {
        check: () => {
          const match = pattern.exec(this.since(from));
          if (match) settle(() => resolve(match));
          return match !== null;
        },
        fail: (reason) => settle(() => reject(reason)),
      };
      const timer = setTimeout(
        () => waiter.fail(this.#failure(`printed nothing like ${pattern} within ${timeout_ms} ms`)),
        timeout_ms,
      );
      this.#waiters.add(waiter);
      if (!waiter.check() && !this.running) waiter.fail(this.#failure(`ended without printing ${pattern}`));
    });
  }

  /** Sends a signal; a program that has ended already is left in peace. */
  kill(signal: Deno.Signal = "SIGKILL"): void {
    if (this.running) {
      try {
        this.#child.kill(signal);
      } catch (reason) {
        if (!(reason instanceof TypeError || reason instanceof Deno.errors.NotFound)) throw reason;
      }
    }
  }

  /** Ends the program: politely first, by force after `grace_ms`. */
  async stop(signal: Deno.Signal = "SIGTERM", grace_ms = 10_000): Promise<Deno.CommandStatus> {
    this.kill(signal);
    const timer = setTimeout(() => this.kill("SIGKILL"), grace_ms);
    try {
      return await this.#finished;
    } finally {
      clearTimeout(timer);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop("SIGKILL");
  }

  async #watch(): Promise<Deno.CommandStatus> {
    await Promise.all([this.#readOutput(), this.#readErrors()]);
    const status = await this.#child.status;
    this.#status = status;
    await this.#stdin.close().catch(() => {});
    for (const waiter of [...this.#waiters]) waiter.fail(this.#failure(`ended with ${describe(status)}`));
    return status;
  }

  async #readOutput(): Promise<void> {
    for await (const text of decoded(this.#child.stdout)) this.#insert(this.#text.length, text);
  }

  /** They go in front of what stdout has begun, such as a prompt: that must be found in one piece. */
  async #readErrors(): Promise<void> {
    let rest = "";
    for await (const text of decoded(this.#child.stderr)) {
      rest += text;
      const end = rest.lastIndexOf("\n") + 1;
      if (end > 0) this.#insert(this.#text.lastIndexOf("\n") + 1, rest.slice(0, end));
      rest = rest.slice(end);
    }
    this.#insert(this.#text.length, rest);
  }

  #insert(at: number, text: string): void {
    this.#text = this.#text.slice(0, at) + text + this.#text.slice(at);
    if (this.#text.length > kept_characters_max) {
      const surplus = this.#text.length - kept_characters_max / 2;
      this.#text = this.#text.slice(surplus);
      this.#dropped += surplus;
    }
    for (const waiter of [...this.#waiters]) waiter.check();
  }

  #failure(what: string): Error {
    return new Error(`${this.name} ${what}; it last printed:\n${this.since().slice(-4000)}`);
  }
}

function decoded(stream: ReadableStream<Uint8Array>): ReadableStream<string> {
  return stream.pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>);
}

export function describe(status: Deno.CommandStatus): string {
  return status.signal ? `signal ${status.signal}` : `exit code ${status.code}`;
}

/** Asks again and again until the answer is not undefined; a real peer's progress has no event to wait for. */
export async function eventually<T>(
  what: string,
  timeout_ms: number,
  ask: () => Promise<T | undefined> | T | undefined,
  pause_ms = 100,
): Promise<T> {
  const deadline = Date.now() + timeout_ms;
  while (true) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (Date.now() > deadline) throw new Error(`waited ${timeout_ms} ms in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, pause_ms));
  }
}

/** Gives up on something that takes too long; what becomes of it then is not looked at. */
export async function within<T>(what: string, timeout_ms: number, result: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${timeout_ms} ms in vain: ${what}`)), timeout_ms);
  });
  try {
    return await Promise.race([result, late]);
  } finally {
    clearTimeout(timer);
  }
}

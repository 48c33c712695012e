/**
 * A child process that is spoken to in lines of JSON.
 *
 * @module
 */
import { CommandError, HostError } from "./error.ts";

/** What a child says in one line. */
export type Message = Readonly<Record<string, unknown>>;

interface Waiter {
  resolve(message: Message): void;
  reject(reason: CommandError): void;
  wants(message: Message): boolean;
}

/** A child gets so long to end by itself. */
const farewell_ms = 3000;
/** Lines of its stderr that are kept, for the message when it fails. */
const errorLinesMax = 8;

/** How this program starts itself again. */
export function ownProgram(): string {
  const program = Deno.env.get("VHOSTCTL_SELF");
  if (program !== undefined) return program;
  throw new HostError("cannot start a process of this program: VHOSTCTL_SELF is not set: start it by scripts/vhostctl");
}

/** Calls `take` with every line of a stream of bytes. */
export async function readLines(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  take: (line: string) => void,
): Promise<void> {
  let rest = "";
  for await (const part of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + part).split("\n");
    rest = lines.pop()!;
    lines.forEach(take);
  }
  if (rest !== "") take(rest);
}

function parse(line: string): Message | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? value as Message : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Starts at once, in a process group of its own: Ctrl-C in a terminal reaches us alone, and we end our children.
 * When it ends unasked, everybody who waits for it gets a `CommandError` with the last it said on stderr.
 */
export class JsonProcess implements AsyncDisposable {
  readonly name: string;
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #finished: Promise<void>;
  readonly #waiters = new Set<Waiter>();
  readonly #errors: string[] = [];
  #failure: CommandError | undefined;
  #turn: Promise<unknown> = Promise.resolve();

  /** @param name For messages. */
  constructor(name: string, program: string, args: readonly string[]) {
    this.name = name;
    this.#child = new Deno.Command(program, {
      args: [...args],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      detached: true,
    }).spawn();
    this.#stdin = this.#child.stdin.getWriter();
    this.#finished = this.#watch();
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** The next message that `wants` accepts, of those that come from now on. */
  next(wants: (message: Message) => boolean): Promise<Message> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const { promise, resolve, reject } = Promise.withResolvers<Message>();
    this.#waiters.add({ resolve, reject, wants });
    return promise;
  }

  /** Says one thing. That a child is gone is told by `next`, not here. */
  async send(message: Message): Promise<void> {
    await this.#stdin.write(new TextEncoder().encode(`${JSON.stringify(message)}\n`)).catch(() => {});
  }

  /** For children that answer each line with one: asks when those before were answered. `error` in it is thrown. */
  async ask(question: Message): Promise<Message> {
    const turn = this.#turn.then(async () => {
      const [answer] = await Promise.all([this.next(() => true), this.send(question)]);
      return answer;
    });
    this.#turn = turn.catch(() => {});
    const answer = await turn;
    if (answer["error"] !== undefined) throw new CommandError(`${this.name} failed: ${answer["error"]}`);
    return answer;
  }

  /** Sends a signal; a child that is gone is left in peace. */
  signal(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch (reason) {
      if (!(reason instanceof TypeError || reason instanceof Deno.errors.NotFound)) throw reason;
    }
  }

  /** Ends the child at once, as a crash would. */
  async kill(): Promise<void> {
    this.#failure ??= new CommandError(`${this.name} was killed`);
    this.signal("SIGKILL");
    await this.#stdin.abort().catch(() => {});
    await this.#finished;
  }

  /** Ends the child: politely first, by force when that takes too long. May be called again. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#failure ??= new CommandError(`${this.name} was stopped`);
    await this.#stdin.close().catch(() => {});
    this.signal("SIGCONT");
    this.signal("SIGTERM");
    const timer = setTimeout(() => this.signal("SIGKILL"), farewell_ms);
    await this.#finished;
    clearTimeout(timer);
  }

  async #watch(): Promise<void> {
    await Promise.all([
      readLines(this.#child.stdout, (line) => this.#heard(line)),
      readLines(this.#child.stderr, (line) => this.#complained(line)),
    ]);
    const { code, signal } = await this.#child.status;
    const why = this.#errors.join("\n  ") || "it did not say why";
    this.#failure ??= new CommandError(`${this.name} ended: ${signal ?? `exit code ${code}`}: ${why}`);
    for (const waiter of this.#waiters) waiter.reject(this.#failure);
    this.#waiters.clear();
  }

  #heard(line: string): void {
    const message = parse(line);
    if (message === undefined) return;
    for (const waiter of this.#waiters) {
      if (!waiter.wants(message)) continue;
      this.#waiters.delete(waiter);
      waiter.resolve(message);
    }
  }

  #complained(line: string): void {
    this.#errors.push(line);
    if (this.#errors.length > errorLinesMax) this.#errors.shift();
  }
}

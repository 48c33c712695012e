/**
 * The socket at which other programs ask a running `serve`: a line of JSON each way.
 *
 * A request is an object with a `command`, the answer `{"return": ..}` or `{"error": ".."}`. After `events` what
 * happens comes as well, each a line with an `event`. No client can hold up the switch: what one does not read is left
 * out beyond a limit, and one that asks faster than it reads, or without end, is not listened to meanwhile.
 *
 * @module
 */
import { CommandError } from "./error.ts";
import { linesOf, LineTooLong } from "./lines.ts";
import { Output } from "./output.ts";
import { pause } from "./pause.ts";
import { advice } from "./suggestion.ts";

/** What was asked, with its command. */
export type Request = Readonly<Record<string, unknown>>;

/** What a control socket is made of. */
export interface ControlParts {
  readonly path: string;
  /** Permissions of the socket. */
  readonly mode: number;
  /** Commands by name, and what each returns; a `CommandError` is its answer, too. */
  readonly commands: Readonly<Record<string, (request: Request) => unknown>>;
}

const clientsMax = 16;
const requestCharactersMax = 4096;
/** A client that asks without end gets no more than its share of this thread. */
const pauseAfterAnswer_ms = 10;
const pauseAfterFailure_ms = 200;

/** One program that asks. */
class Client {
  readonly #connection: Deno.Conn;
  readonly #output: Output;
  readonly #commands: ControlParts["commands"];
  #wantsEvents = false;

  constructor(connection: Deno.Conn, commands: ControlParts["commands"]) {
    this.#connection = connection;
    this.#output = new Output({ write: (bytes) => connection.write(bytes), isTerminal: () => false }, {});
    this.#commands = commands;
  }

  /** Answers until it goes. Never throws. */
  async serve(): Promise<void> {
    try {
      for await (const line of linesOf(this.#connection, requestCharactersMax)) {
        this.#output.json(this.#answer(line));
        await this.#output.delivered;
        await pause(pauseAfterAnswer_ms);
      }
    } catch (error) {
      if (error instanceof LineTooLong) {
        await this.refuse(`request too long: ${error.message}: send one command a line`);
      }
    } finally {
      this.close();
    }
  }

  /** Says why nothing more will be answered. */
  async refuse(error: string): Promise<void> {
    this.#output.json({ error });
    await this.#output.close();
  }

  tell(event: object): void {
    if (this.#wantsEvents) this.#output.json(event);
  }

  /** Delivers what is left, to one that reads, and ends. */
  async finish(): Promise<void> {
    await this.#output.close();
    this.close();
  }

  close(): void {
    try {
      this.#connection.close();
    } catch (reason) {
      if (!(reason instanceof Deno.errors.BadResource)) throw reason;
    }
  }

  #answer(line: string): object {
    const request = requestOf(line);
    const command = request?.["command"];
    if (request === undefined || typeof command !== "string") {
      return { error: 'not a request: send {"command":"ports"}' };
    }
    if (command === "events") {
      this.#wantsEvents = true;
      return { return: {} };
    }
    const names = [...Object.keys(this.#commands), "events"];
    if (!Object.hasOwn(this.#commands, command)) {
      return { error: `unknown command: ${command.slice(0, 40)}: ${advice(command.slice(0, 40), names)}` };
    }
    try {
      return { return: this.#commands[command]!(request) };
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      return { error: error.message };
    }
  }
}

/** Listens from `open` until it is disposed of. */
export class ControlServer implements AsyncDisposable {
  readonly #listener: Deno.UnixListener;
  readonly #parts: ControlParts;
  /** Each with the end of it. */
  readonly #clients = new Map<Client, Promise<void>>();
  readonly #accepting: Promise<void>;
  #closed = false;

  private constructor(listener: Deno.UnixListener, parts: ControlParts) {
    this.#listener = listener;
    this.#parts = parts;
    this.#accepting = this.#accept();
  }

  /** A socket that nobody listens on is replaced. Throws a `CommandError` where there can be none. */
  static async open(parts: ControlParts): Promise<ControlServer> {
    await makeWay(parts.path);
    try {
      return new ControlServer(listen(parts), parts);
    } catch (error) {
      throw new CommandError(`${whyNot(error)}: give another with --control, or --control none`);
    }
  }

  /** Tells those who want to know. */
  tell(event: object): void {
    for (const client of this.#clients.keys()) client.tell(event);
  }

  /** Listens no more: another process may. May be called again. */
  async release(): Promise<void> {
    if (!this.#closed) this.#listener.close();
    this.#closed = true;
    // Only with the end of the last `accept` is the socket removed, too.
    await this.#accepting;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
    const served = [...this.#clients.values()];
    await Promise.all([...this.#clients.keys()].map((client) => client.finish()));
    await Promise.all(served);
  }

  async #accept(): Promise<void> {
    while (!this.#closed) {
      try {
        const client = new Client(await this.#listener.accept(), this.#parts.commands);
        if (this.#clients.size < clientsMax) this.#clients.set(client, this.#serve(client));
        else void client.refuse(`too many clients: ${clientsMax}: end one of them`).then(() => client.close());
      } catch {
        // For want of file descriptors, say: it is tried again.
        if (!this.#closed) await pause(pauseAfterFailure_ms);
      }
    }
  }

  async #serve(client: Client): Promise<void> {
    await client.serve();
    this.#clients.delete(client);
  }
}

function requestOf(line: string): Request | undefined {
  try {
    const request: unknown = JSON.parse(line);
    return typeof request === "object" && request !== null ? request as Request : undefined;
  } catch {
    return undefined;
  }
}

/** With the mode from its first moment on. */
function listen({ path, mode }: ControlParts): Deno.UnixListener {
  const before = Deno.umask(0o777 & ~mode);
  try {
    return Deno.listen({ transport: "unix", path });
  } finally {
    Deno.umask(before);
  }
}

/** Removes a socket that nobody listens on. Throws a `CommandError` where somebody does, or it is something else. */
async function makeWay(path: string): Promise<void> {
  const found = await Deno.lstat(path).catch(() => undefined);
  if (found === undefined) return;
  const ways = "give another with --control, or --control none";
  if (!found.isSocket) throw new CommandError(`a file that is no socket is in the way: ${ways}`);
  try {
    (await Deno.connect({ transport: "unix", path })).close();
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) return await Deno.remove(path).catch(() => {});
    if (error instanceof Deno.errors.NotFound) return;
  }
  throw new CommandError(`another program listens there: ${ways}`);
}

function whyNot(error: unknown): string {
  if (error instanceof Deno.errors.PermissionDenied) return "permission denied";
  if (error instanceof Deno.errors.NotFound) return "the folder does not exist";
  if (error instanceof Deno.errors.AddrInUse) return "another program listens there";
  return error instanceof Error ? error.message : String(error);
}

// QEMU's control socket: one command at a time, and the events that follow it.

interface Message {
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
  readonly event?: string;
}

export class Qmp {
  readonly #connection: Deno.UnixConn;
  readonly #lines: ReadableStreamDefaultReader<string>;
  /** Those that have come since the last command was given. */
  #events: string[] = [];

  private constructor(connection: Deno.UnixConn) {
    this.#connection = connection;
    this.#lines = linesOf(connection).getReader();
  }

  static async open(path: string): Promise<Qmp> {
    const qmp = new Qmp(await Deno.connect({ transport: "unix", path }));
    await qmp.execute("qmp_capabilities");
    return qmp;
  }

  /** Runs a command, and returns what it answered; a refusal is an error. */
  async execute(command: string, values: Record<string, unknown> = {}): Promise<unknown> {
    const bytes = new TextEncoder().encode(JSON.stringify({ execute: command, arguments: values }));
    for (let sent = 0; sent < bytes.length;) sent += await this.#connection.write(bytes.subarray(sent));
    this.#events = [];
    while (true) {
      const message = await this.#next();
      if (message.error) throw new Error(`QMP command ${command}: ${message.error.desc}`);
      if (message.return !== undefined) return message.return;
    }
  }

  /** Waits until QEMU has told this event since the last command was given. */
  async until(event: string): Promise<void> {
    while (!this.#events.includes(event)) await this.#next();
  }

  /** Call once; QEMU may be gone already. */
  async close(): Promise<void> {
    await this.#lines.cancel().catch(() => {});
    try {
      this.#connection.close();
    } catch (reason) {
      if (!(reason instanceof Deno.errors.BadResource)) throw reason;
    }
  }

  async #next(): Promise<Message> {
    const { value, done } = await this.#lines.read();
    if (done) throw new Error("QEMU closed its control socket");
    const message = JSON.parse(value) as Message;
    if (message.event !== undefined) this.#events.push(message.event);
    return message;
  }
}

function linesOf(connection: Deno.UnixConn): ReadableStream<string> {
  let rest = "";
  return connection.readable
    .pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>)
    .pipeThrough(
      new TransformStream<string, string>({
        transform(text, controller) {
          const lines = (rest + text).split("\n");
          rest = lines.pop()!;
          for (const line of lines) controller.enqueue(line);
        },
      }),
    );
}

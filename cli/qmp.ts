/**
 * QEMU's machine protocol: commands, their answers, and what happens meanwhile.
 *
 * @module
 */
import { CommandError } from "./error.ts";
import { linesOf, sendLine } from "./lines.ts";
import { addressText, connect, NoConnection, type SocketAddress, whyUnreachable } from "./socket_address.ts";

/** Something that QEMU tells unasked, such as `STOP`, or `MIGRATION` with its `status`. */
export interface QmpEvent {
  readonly event: string;
  readonly data?: Readonly<Record<string, unknown>>;
  /** Of the host's clock. */
  readonly timestamp?: { readonly seconds: number; readonly microseconds: number };
}

interface QmpMessage extends Partial<QmpEvent> {
  readonly QMP?: unknown;
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
  readonly id?: unknown;
}

/** A command was refused; `reason` is QEMU's own. */
export class QmpRefusal extends CommandError {
  override name = "QmpRefusal";
  readonly reason: string;

  constructor(command: string, reason: string) {
    super(`QEMU refused ${command}: ${reason.replace(/\.$/, "")}`);
    this.reason = reason;
  }
}

/** QEMU has closed the connection, or is gone. */
export class QmpClosed extends CommandError {
  override name = "QmpClosed";
}

const greeting_ms = 4000;
/** QEMU answers nobody while its back end does not answer, and while it stops a big guest. */
const answer_ms = 60_000;
const lineCharactersMax = 16 << 20;

interface Waiting {
  readonly command: string;
  resolve(value: unknown): void;
  reject(reason: Error): void;
}

/** One connection to a QEMU. */
export class Qmp implements AsyncDisposable {
  readonly #connection: Deno.Conn;
  readonly #address: string;
  readonly #heard: (event: QmpEvent) => void;
  readonly #lines: AsyncGenerator<string>;
  readonly #waiting = new Map<number, Waiting>();
  /** Told since the last command was given, and who waits for the next. */
  #events: string[] = [];
  #eventWaiters: (() => void)[] = [];
  #reading: Promise<void> = Promise.resolve();
  #next = 0;
  #gone: Error | undefined;

  private constructor(connection: Deno.Conn, address: SocketAddress, heard: (event: QmpEvent) => void) {
    this.#connection = connection;
    this.#address = addressText(address);
    this.#heard = heard;
    this.#lines = linesOf(connection, lineCharactersMax);
  }

  /**
   * Connects, and makes QEMU take commands.
   *
   * @param heard Gets every event. Must not throw.
   */
  static async open(address: SocketAddress, heard: (event: QmpEvent) => void = () => {}): Promise<Qmp> {
    const connection = await connect(address).catch((error) => {
      throw unreachable(address, error);
    });
    const qmp = new Qmp(connection, address, heard);
    try {
      await qmp.#greet();
      qmp.#reading = qmp.#read();
      await qmp.execute("qmp_capabilities");
      return qmp;
    } catch (reason) {
      await qmp[Symbol.asyncDispose]();
      throw reason;
    }
  }

  /** Whether QEMU has gone, or was left. */
  get closed(): boolean {
    return this.#gone !== undefined;
  }

  /** Runs a command, and returns what it answered. Throws a `QmpRefusal`, `QmpClosed`, or another `CommandError`. */
  async execute(command: string, values: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    if (this.#gone !== undefined) throw this.#gone;
    const id = this.#next++;
    this.#events = [];
    const answered = new Promise<unknown>((resolve, reject) => this.#waiting.set(id, { command, resolve, reject }));
    const timer = setTimeout(() => this.#fail(id), answer_ms);
    try {
      // Where it cannot be sent, reading fails as well, and has the reason.
      sendLine(this.#connection, { execute: command, arguments: values, id }).catch(() => {});
      return await answered;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(id);
    }
  }

  /** Waits until QEMU has told this event since the last command was given. */
  async until(event: string): Promise<void> {
    while (!this.#events.includes(event)) {
      if (this.#gone !== undefined) throw this.#gone;
      await new Promise<void>((resolve) => this.#eventWaiters.push(resolve));
    }
  }

  /** May be called again. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#end(new QmpClosed(`QMP connection was closed: ${this.#address}`));
    await this.#reading;
  }

  #end(reason: Error): void {
    if (this.#gone !== undefined) return;
    this.#gone = reason;
    this.#connection.close();
    for (const { reject } of this.#waiting.values()) reject(reason);
    this.#wakeWaiters();
  }

  #wakeWaiters(): void {
    const waiters = this.#eventWaiters;
    this.#eventWaiters = [];
    for (const wake of waiters) wake();
  }

  #fail(id: number): void {
    const waiting = this.#waiting.get(id);
    const seconds = answer_ms / 1000;
    waiting?.reject(
      new CommandError(
        `QEMU does not answer: ${this.#address}: ${waiting.command} was sent ${seconds} s ago: ` +
          "see whether its vhost-user back end answers",
      ),
    );
  }

  async #greet(): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<undefined>((resolve) => timer = setTimeout(() => resolve(undefined), greeting_ms));
    const first = await Promise.race([this.#lines.next().catch(() => ({ done: true, value: "" })), late]);
    clearTimeout(timer);
    if (first === undefined) {
      throw new CommandError(
        `no greeting from QEMU: ${this.#address}: it serves one client at a time, and another is connected: ` +
          "end that one, or give QEMU a second -qmp",
      );
    }
    const line = first.value ?? "";
    if (first.done === true) throw new QmpClosed(`QEMU closed its QMP socket at once: ${this.#address}: try again`);
    if (parse(line)?.QMP === undefined) {
      const what = line.includes("monitor") ? "QEMU's monitor for people" : "something else";
      throw new CommandError(
        `no QMP socket: ${this.#address}: it is ${what}: give QEMU -qmp unix:PATH,server=on,wait=off`,
      );
    }
  }

  async #read(): Promise<void> {
    try {
      for await (const line of this.#lines) this.#take(parse(line) ?? {});
    } catch {
      // A reset is as good an end as any.
    }
    this.#end(
      new QmpClosed(`QEMU closed its QMP socket: ${this.#address}: see whether it still runs, and what it said`),
    );
  }

  #take(message: QmpMessage): void {
    if (message.event !== undefined) {
      this.#events.push(message.event);
      this.#wakeWaiters();
      return this.#heard(message as QmpEvent);
    }
    const waiting = this.#waiting.get(Number(message.id));
    if (message.error !== undefined) waiting?.reject(new QmpRefusal(waiting.command, message.error.desc));
    else waiting?.resolve(message.return);
  }
}

function parse(line: string): QmpMessage | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}

function unreachable(address: SocketAddress, error: unknown): CommandError {
  const advice = (): string => {
    if (error instanceof Deno.errors.PermissionDenied) return "run this as the user that QEMU runs as, or as root";
    if (error instanceof Deno.errors.WouldBlock) return "other clients wait there already: end them";
    if (error instanceof NoConnection) return "see whether the host and its firewall let this through";
    const option = address.transport === "unix" ? `unix:${address.path}` : `tcp:${addressText(address)}`;
    return `start QEMU with -qmp ${option},server=on,wait=off`;
  };
  return new CommandError(`cannot reach QEMU: ${addressText(address)}: ${whyUnreachable(error)}: ${advice()}`);
}

/**
 * Every control socket of the program, and whatever else it waits for, behind one waiting call.
 *
 * @module
 */

import { HangupReason, limits, PumpEventKind, Status, structs } from "./abi.gen.ts";
import { SocketChannel } from "./channel.ts";
import { ownFd } from "./fd.ts";
import { check, library, VringError } from "./library.ts";
import { emptyStruct, readStruct, type Struct, writeStruct } from "./struct.ts";

export interface PumpOptions {
  /**
   * How long a message may take from its first byte to its last, and ours may wait for the peer to read, before the
   * connection is ended.
   */
  stallLimitMs?: number;
}

/** What becomes of those who connect. */
export interface ListenOptions {
  /** Takes the new connection; nothing is read from it until `Channel.listen`. May not throw. */
  accept: (channel: SocketChannel) => void;
  /**
   * Somebody could not be accepted, for want of file descriptors or of room; it is tried again every second.
   *
   * @param reason For people, without a full stop. May not throw.
   */
  refused?: (reason: string) => void;
}

export interface SocketOptions extends ListenOptions {
  /** Permission bits of the socket's file, whatever the umask. By default 0600. */
  mode?: number;
}

/** Of a socket that listens at a path: the file there, so that no other is taken for it. */
export type SocketFile = Struct<"SocketFile">;

/** What listens, until it is disposed of. */
export interface SocketListener extends Disposable {
  /**
   * Lets nobody in, who wait in the kernel's queue, or goes on. What is held is left alone by its disposal, and so is
   * its file.
   */
  hold(held: boolean): void;
  /** While it is held: the socket, still the listener's, and its file. */
  socket(): { readonly fd: number; readonly file: SocketFile };
}

type Target =
  | { readonly kind: "listener"; readonly options: ListenOptions }
  | { readonly kind: "channel"; readonly channel: SocketChannel }
  | { readonly kind: "watch"; readonly callback: () => void };

const fields = structs.PumpEvent.fields;

const errno = { notPermitted: 1, absent: 2, denied: 13, notSocket: 88 } as const;

/**
 * Sockets and watched descriptors whose events `run` delivers, on the thread that opened the pump. Any number of them
 * costs one waiting call. Dispose of it to close them all.
 */
export class Pump implements AsyncDisposable {
  readonly #handle: number;
  readonly #stallLimitMs: number;
  readonly #targets = new Map<number, Target>();
  readonly #events = new Uint8Array(structs.PumpEvent.size * limits.pump_batch_max);
  #running: Promise<void> | undefined;
  /** Who waits for the events that were found already. */
  #settling: (() => void)[] = [];
  #closed: Promise<void> | undefined;
  #closing = false;

  private constructor(handle: number, stallLimitMs: number) {
    this.#handle = handle;
    this.#stallLimitMs = stallLimitMs;
  }

  static open({ stallLimitMs = 10_000 }: PumpOptions = {}): Pump {
    return new Pump(check("open pump", library().pump_open(stallLimitMs)), stallLimitMs);
  }

  /**
   * Listens at a path. A socket file that nobody listens behind is replaced. Dispose of the result to stop listening
   * and to remove the file; accepted channels stay.
   *
   * Throws `VringError`: status `busy` when another program listens there, else with the `errno`.
   */
  listen(path: string, options: SocketOptions): SocketListener {
    const bytes = pathBytes(`listen on ${path}`, path);
    const code = library().pump_listen(this.#live(), bytes, bytes.length, options.mode ?? 0o600);
    if (code < 0) throw new VringError(`listen on ${path}`, code, listenAdvice(code));
    return this.#listener(code, options);
  }

  /**
   * Takes over a socket that another process opened at a path, with the file that it had then, which goes with the
   * result. It is held.
   */
  adoptListenerAt(fd: number, path: string, file: SocketFile, options: ListenOptions): SocketListener {
    const operation = `take over ${path}`;
    const bytes = pathBytes(operation, path);
    const row = writeStruct("SocketFile", file);
    const code = library().pump_adopt_listener_at(this.#live(), fd, bytes, bytes.length, row);
    return this.#listener(check(operation, code), options);
  }

  /** Takes over a socket that listens, as one handed down by another program. Its file, if any, is left alone. */
  adoptListener(fd: number, options: ListenOptions): Disposable {
    const operation = `accept from file descriptor ${fd}`;
    return this.#add(check(operation, library().pump_adopt_listener(this.#live(), fd)), { kind: "listener", options });
  }

  /** Connects to a path. Throws `VringError` at once when nobody listens: `errno` 2 (no file) or 111 (refused). */
  connect(path: string): SocketChannel {
    const bytes = pathBytes(`connect to ${path}`, path);
    return this.#channel(check(`connect to ${path}`, library().pump_connect(this.#live(), bytes, bytes.length)));
  }

  /** Takes over a connected Unix stream socket. */
  adopt(fd: number): SocketChannel {
    return this.#channel(check(`use file descriptor ${fd} as connection`, library().pump_adopt(this.#live(), fd)));
  }

  /**
   * Calls back each time that a descriptor becomes readable anew. It is borrowed for this call, and never read: whoever
   * owns it drains it. Dispose of the result to stop.
   *
   * @param callback May not throw.
   */
  watch(fd: number, callback: () => void): Disposable {
    const token = check(`watch file descriptor ${fd}`, library().pump_watch(this.#live(), fd));
    return this.#add(token, { kind: "watch", callback });
  }

  /**
   * Delivers events until the pump is disposed of. Call it once; its call is what keeps the program alive. Rejects when
   * something that may not throw did.
   */
  run(): Promise<void> {
    this.#running ??= this.#loop();
    return this.#running;
  }

  /** Resolves when all that was found so far has been delivered; the pump runs. */
  settled(): Promise<void> {
    return new Promise((resolve) => {
      this.#settling.push(resolve);
      library().pump_wake(this.#live());
    });
  }

  /** Ends `run`, closes everything and removes the files of its listeners. Nothing is delivered any more. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#closing = true;
    this.#targets.clear();
    library().pump_wake(this.#handle);
    // Whoever called `run` hears of its failure.
    await this.#running?.catch(() => {});
    check("close pump", library().pump_close(this.#handle));
  }

  #live(): number {
    if (this.#closing) throw new TypeError("Cannot use pump: closed");
    return this.#handle;
  }

  #channel(token: number): SocketChannel {
    const channel = new SocketChannel(this.#handle, token, (closed) => this.#targets.delete(closed));
    this.#targets.set(token, { kind: "channel", channel });
    return channel;
  }

  #listener(token: number, options: ListenOptions): SocketListener {
    const { [Symbol.dispose]: dispose } = this.#add(token, { kind: "listener", options });
    return {
      [Symbol.dispose]: dispose,
      hold: (held) => void check("hold listener", library().pump_hold(this.#handle, token, held ? 1 : 0)),
      socket: () => {
        const row = emptyStruct("SocketFile");
        const fd = check("hand over listener", library().pump_socket(this.#handle, token, row));
        return { fd, file: readStruct("SocketFile", row) };
      },
    };
  }

  #add(token: number, target: Target): Disposable {
    this.#targets.set(token, target);
    return {
      [Symbol.dispose]: () => {
        if (this.#targets.delete(token)) library().pump_close_token(this.#handle, token);
      },
    };
  }

  async #loop(): Promise<void> {
    while (!this.#closing) {
      const code = await library().pump_wait(this.#handle, this.#events, limits.pump_batch_max, -1);
      this.#dispatchAll(check("wait for events", code));
      for (const settle of this.#settling.splice(0)) settle();
    }
  }

  /** A callback that throws does not keep the others from their events. */
  #dispatchAll(count: number): void {
    const errors: unknown[] = [];
    for (let i = 0; i < count; i++) {
      try {
        this.#dispatch(new EventRow(this.#events, i));
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }

  #dispatch(event: EventRow): void {
    // One that this side has closed since the event was found.
    const target = this.#targets.get(event.token);
    if (event.kind === PumpEventKind.accepted) return this.#accept(event, target);
    if (event.kind === PumpEventKind.message) return deliver(event, target);
    if (event.kind === PumpEventKind.hangup) {
      this.#targets.delete(event.token);
      if (target?.kind === "channel") target.channel.end(this.#hangupText(event.value));
    } else if (target?.kind === "watch") {
      target.callback();
    }
  }

  #accept(event: EventRow, target: Target | undefined): void {
    if (event.value < 0) {
      if (target?.kind === "listener") target.options.refused?.(new VringError("accept", event.value).reason);
    } else if (target?.kind === "listener") {
      target.options.accept(this.#channel(event.value));
    } else {
      library().pump_close_token(this.#handle, event.value);
    }
  }

  #hangupText(value: number): string {
    const seconds = this.#stallLimitMs / 1000;
    switch (value) {
      case HangupReason.closed:
        return "peer closed the connection";
      case HangupReason.bad_header:
        return `peer sent no message: wrong version bits, or a payload over ${limits.message_payload_max} bytes`;
      case HangupReason.cut_short:
        return "peer closed the connection in the middle of a message";
      case HangupReason.stalled:
        return `peer began a message and did not finish it within ${seconds} s`;
      case HangupReason.too_many_fds:
        return `peer sent more file descriptors than ${limits.message_fds_max}, ` +
          "or than this process may open (ulimit -n)";
      case HangupReason.unread:
        return "peer does not read what it is sent";
      default:
        return new VringError("talk to peer", value).message;
    }
  }
}

/** One row of what `pump_wait` fills. */
class EventRow {
  readonly #view: DataView;

  constructor(events: Uint8Array, index: number) {
    this.#view = new DataView(events.buffer, index * structs.PumpEvent.size, structs.PumpEvent.size);
  }

  get kind(): number {
    return this.#view.getUint32(fields.kind[1], true);
  }

  get token(): number {
    return this.#view.getUint32(fields.token[1], true);
  }

  get value(): number {
    return this.#view.getInt32(fields.value[1], true);
  }

  get request(): number {
    return this.#view.getUint32(fields.request[1], true);
  }

  get flags(): number {
    return this.#view.getUint32(fields.flags[1], true);
  }

  get fds(): number[] {
    const count = this.#view.getUint32(fields.fd_count[1], true);
    return Array.from({ length: count }, (_, i) => this.#view.getInt32(fields.fds[1] + 4 * i, true));
  }

  /** A copy: the row is filled again. */
  get payload(): Uint8Array {
    const bytes = this.#view.getUint32(fields.size_bytes[1], true);
    return new Uint8Array(this.#view.buffer, this.#view.byteOffset + fields.payload[1], bytes).slice();
  }
}

function deliver(event: EventRow, target: Target | undefined): void {
  const fds = event.fds.map(ownFd);
  if (target?.kind === "channel") {
    target.channel.deliver({ request: event.request, flags: event.flags, payload: event.payload, fds });
  } else {
    for (const fd of fds) fd[Symbol.dispose]();
  }
}

function pathBytes(operation: string, path: string): Uint8Array<ArrayBuffer> {
  const bytes = new TextEncoder().encode(path);
  const longest = limits.path_bytes_max;
  if (bytes.length > longest) {
    throw new RangeError(`Cannot ${operation}: a path of ${bytes.length} bytes: a socket's has ${longest} at most`);
  }
  if (bytes.length === 0 || bytes.includes(0)) {
    throw new RangeError(`Cannot ${operation}: not a path: give the name of a file`);
  }
  return bytes;
}

/** What to do about that which keeps people from listening. */
function listenAdvice(code: number): string | undefined {
  switch (code) {
    case Status.busy:
      return "another program listens there: stop it, or choose another path";
    case Status.limit_reached:
      return `${limits.pump_tokens_max} sockets are open already`;
    case -1000 - errno.notPermitted:
    case -1000 - errno.denied:
      return "permission denied: choose a path in a folder that you may write to";
    case -1000 - errno.absent:
      return "no such folder: create it, or choose another path";
    case -1000 - errno.notSocket:
      return "a file that is no socket is in the way: remove it, or choose another path";
    default:
      return undefined;
  }
}

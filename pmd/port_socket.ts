/**
 * The socket that a port listens on, and its file: without that nobody can come, however well we listen.
 *
 * @module
 */
import { VringError } from "../ffi/library.ts";
import type { Pump, SocketFile, SocketListener, SocketOptions } from "../ffi/pump.ts";
import type { Occurrence } from "./port_event.ts";

export interface PortSocketParts {
  readonly pump: Pump;
  readonly path: string;
  readonly options: SocketOptions;
  readonly tell: (occurrence: Occurrence) => void;
}

const unknown = "unknown";

/** Which file is there, if any; a program that may not look takes it for its own. */
function fileAt(path: string): string | undefined {
  try {
    const { dev, ino } = Deno.lstatSync(path);
    return `${dev}:${ino}`;
  } catch (error) {
    const isGone = error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory;
    return isGone ? undefined : unknown;
  }
}

/** Listens until it is disposed of; removes the file then, if it is still its own. */
export class PortSocket implements Disposable {
  readonly #parts: PortSocketParts;
  #listener: SocketListener;
  #file: string | undefined;
  /** Why nobody can come, as it was told. */
  #reason: string | undefined;

  private constructor(parts: PortSocketParts, listener: SocketListener) {
    this.#parts = parts;
    this.#listener = listener;
    this.#file = fileAt(parts.path);
  }

  /** Throws what `Pump.listen` throws. */
  static open(parts: PortSocketParts): PortSocket {
    return new PortSocket(parts, parts.pump.listen(parts.path, parts.options));
  }

  /** Takes over a socket that another process opened there, held, with the file that it had then. */
  static adopt(parts: PortSocketParts, fd: number, file: SocketFile): PortSocket {
    const { pump, path, options } = parts;
    return new PortSocket(parts, pump.adoptListenerAt(fd, path, file, options));
  }

  /** Held, it lets nobody in; who comes waits. */
  hold(held: boolean): void {
    this.#listener.hold(held);
  }

  /** For `adopt`; the descriptor is borrowed. */
  socket(): ReturnType<SocketListener["socket"]> {
    return this.#listener.socket();
  }

  /** Why nobody can come, if that is so. */
  get reason(): string | undefined {
    return this.#reason;
  }

  /** To be called every so often: listens anew where the file has gone, and leaves another program's alone. */
  tick(): void {
    const { pump, path, options, tell } = this.#parts;
    const file = fileAt(path);
    if (file !== this.#file && file !== unknown) {
      try {
        const listener = pump.listen(path, options);
        this.#listener[Symbol.dispose]();
        this.#listener = listener;
        this.#file = fileAt(path);
      } catch (error) {
        if (!(error instanceof VringError)) throw error;
        const { reason } = error;
        if (reason !== this.#reason) tell({ event: "unreachable", socket: path, reason });
        this.#reason = reason;
        return;
      }
      tell({ event: "listening", socket: path });
    } else if (this.#reason !== undefined) {
      // A folder that was moved away is back, with all that is in it.
      tell({ event: "listening", socket: path });
    }
    this.#reason = undefined;
  }

  [Symbol.dispose](): void {
    this.#listener[Symbol.dispose]();
  }
}

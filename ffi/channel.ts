/**
 * One vhost-user connection of a pump.
 *
 * @module
 */

import type { Channel, ChannelListener, RawMessage } from "../vhost/channel.ts";
import { limits } from "./abi.gen.ts";
import { check, library, VringError } from "./library.ts";
import { emptyStruct, readStruct } from "./struct.ts";

/** The library takes no pointer to nothing. */
const noFds = new Int32Array(1);
const noPayload = new Uint8Array(1);

/** Made by `Pump`, which feeds it. */
export class SocketChannel implements Channel {
  readonly #pump: number;
  readonly #token: number;
  readonly #forget: (token: number) => void;
  #listener: ChannelListener | undefined;
  /** Why it ended, until somebody has heard of it. */
  #untold: string | undefined;
  #open = true;

  /** @param forget Told when this end closes the channel. */
  constructor(pump: number, token: number, forget: (token: number) => void) {
    this.#pump = pump;
    this.#token = token;
    this.#forget = forget;
  }

  listen(listener: ChannelListener): void {
    if (this.#listener !== undefined) throw new TypeError("Cannot listen to channel: somebody does already");
    this.#listener = listener;
    this.resume();
    if (this.#untold !== undefined) queueMicrotask(() => this.#tell());
  }

  resume(): void {
    // A channel that has just ended is told of it later: nothing to do here.
    if (this.#open) library().pump_resume(this.#pump, this.#token);
  }

  send(request: number, flags: number, payload: Uint8Array, fds: readonly number[]): void {
    this.sendNow(request, flags, payload, fds);
  }

  /**
   * As `send`. Returns whether the kernel has taken all of it: then it reaches the peer whatever becomes of us, unless
   * the peer has ended the connection before.
   */
  sendNow(request: number, flags: number, payload: Uint8Array, fds: readonly number[]): boolean {
    if (!this.#open) return false;
    if (payload.length > limits.message_payload_max || fds.length > limits.message_fds_max) {
      throw new RangeError(`Cannot send request ${request}: ${payload.length} bytes and ${fds.length} fds: too many`);
    }
    const code = library().pump_send(
      this.#pump,
      this.#token,
      request,
      flags,
      payload.length > 0 ? bufferOf(payload) : noPayload,
      payload.length,
      fds.length > 0 ? Int32Array.from(fds) : noFds,
      fds.length,
    );
    if (code >= 0) return code === 0;
    const error = new VringError(`send request ${request}`, code);
    if (error.status !== "closed" && error.status !== "no_such_handle") throw error;
    return false;
  }

  /**
   * Leaves the connection alone, or looks after it again: while it is held nothing is read, and closing it leaves it
   * to whoever else has the socket. What was read before comes still: see `Pump.settled`.
   */
  hold(held: boolean): void {
    if (this.#open) check("hold connection", library().pump_hold(this.#pump, this.#token, held ? 1 : 0));
  }

  /** The socket, still the channel's, while it is held. Throws `busy` where a part of a message is on its way. */
  socket(): number {
    if (!this.#open) throw new TypeError("Cannot use channel: closed");
    return check("hand over connection", library().pump_socket(this.#pump, this.#token, emptyStruct("SocketFile")));
  }

  /** Ends it both ways. What the peer sent before still comes, and then the hang-up: nothing that it sends later. */
  shut(): void {
    if (this.#open) library().pump_shut(this.#pump, this.#token);
  }

  /** Whose process is at the other end. */
  peer(): { readonly pid: number; readonly uid: number } {
    if (!this.#open) throw new TypeError("Cannot use channel: closed");
    const row = emptyStruct("SocketPeer");
    check("ask who is connected", library().pump_peer(this.#pump, this.#token, row));
    return readStruct("SocketPeer", row);
  }

  close(): void {
    this.#untold = undefined;
    if (!this.#open) return;
    this.#open = false;
    this.#forget(this.#token);
    library().pump_close_token(this.#pump, this.#token);
  }

  /** For the pump: a message has come. */
  deliver(message: RawMessage): void {
    this.#listener?.message(message);
  }

  /** For the pump: the connection has ended, and its token means nothing any more. */
  end(reason: string): void {
    this.#open = false;
    this.#untold = reason;
    if (this.#listener !== undefined) this.#tell();
  }

  #tell(): void {
    const reason = this.#untold;
    this.#untold = undefined;
    if (reason !== undefined) this.#listener?.hangup(reason);
  }
}

/** The library reads from ordinary memory alone. */
function bufferOf(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return bytes.buffer instanceof ArrayBuffer ? bytes as Uint8Array<ArrayBuffer> : Uint8Array.from(bytes);
}

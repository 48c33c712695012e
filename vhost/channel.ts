/**
 * What a connection is to this folder: messages out, messages in, and an end.
 *
 * `ffi/pump.ts` implements it over a Unix socket, tests over two arrays.
 *
 * @module
 */
import type { Fd } from "./fd.ts";

/** A message as received: framed, its fds collected, nothing else checked. */
export interface RawMessage {
  readonly request: number;
  /** The whole word of the header, version bits included. */
  readonly flags: number;
  /** Without the header; for the receiver to keep. */
  readonly payload: Uint8Array;
  /** Owned by the message: the receiver disposes of each that nobody took. */
  readonly fds: readonly Fd[];
}

/** Who hears of what comes. Neither may throw. */
export interface ChannelListener {
  /** A whole message. The next one is delivered only after `Channel.resume`. */
  message(message: RawMessage): void;
  /**
   * The peer is gone, or what it sent cannot be a message. Told once, after every message that came before it, and
   * never after `Channel.close`. The channel is closed by then.
   *
   * @param reason For people, as in `front end closed the connection`; without a full stop.
   */
  hangup(reason: string): void;
}

/** One end of a vhost-user connection. All calls are for the thread that opened it, and return at once. */
export interface Channel {
  /** Begins delivery to `listener`; called once. What came before is not lost. */
  listen(listener: ChannelListener): void;
  /** Asks for the next message, after one was delivered. Messages are never delivered from within this call. */
  resume(): void;
  /**
   * Sends one message whole; what the socket does not take at once is kept. Borrows `fds` for the call. Never throws
   * because of the peer: that it is gone, or does not read, is told as a hang-up. After the end, does nothing.
   *
   * @param flags The whole word of the header, version bits included.
   */
  send(request: number, flags: number, payload: Uint8Array, fds: readonly number[]): void;
  /**
   * Ends the connection at once: what the socket has not taken is not sent, messages not delivered are dropped and
   * their fds closed. May be called again.
   */
  close(): void;
}

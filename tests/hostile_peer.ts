/**
 * A front end's end of a connection that sends any bytes, in any pieces, with any descriptors.
 *
 * @module
 */

import { type PayloadOf, type RequestName, requests, type Row } from "../vhost/request.ts";
import { u64 } from "../vhost/wire.ts";
import { joined } from "./hostile_bytes.ts";
import * as system from "./hostile_system.ts";

/** A message as it came. */
export interface Message {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array<ArrayBuffer>;
}

export interface SendOptions {
  /** The whole word; by default version 1 and nothing else. */
  readonly flags?: number;
  readonly fds?: readonly number[];
  /** What the header says of the payload's length. */
  readonly size?: number;
}

/** Flags of the header: of a request, of one that wants an answer, of an answer. */
export const messageFlags = { plain: 0x1, needReply: 0x9, answer: 0x5 } as const;

const headerBytes = 12;
const littleEndian = true;
/** Far longer than any honest answer takes, however busy the machine. */
const patience_ms = 20_000;

/** A message's bytes. */
export function laid(
  request: number,
  payload: Uint8Array = new Uint8Array(),
  { flags = messageFlags.plain, size = payload.length }: SendOptions = {},
): Uint8Array<ArrayBuffer> {
  const header = new DataView(new ArrayBuffer(headerBytes));
  [request, flags, size].forEach((field, i) => header.setUint32(4 * i, field, littleEndian));
  return joined(new Uint8Array(header.buffer), payload);
}

/** The back end ended the connection. */
export class Closed extends Error {
  override name = "Closed";
}

/** Calls wait in place: nothing else of this thread happens meanwhile. */
export class Peer implements Disposable {
  readonly socket: number;
  #received: Uint8Array<ArrayBuffer> = new Uint8Array();
  readonly #buffer = new Uint8Array(4096);
  #open = true;

  constructor(path: string) {
    this.socket = system.connect(path);
  }

  /** Sends all of it; descriptors go with the first byte. Throws `Closed` when nobody takes it. */
  sendBytes(bytes: Uint8Array<ArrayBuffer>, fds: readonly number[] = []): void {
    for (let done = 0; done < bytes.length;) {
      const sent = system.send(this.socket, bytes.subarray(done), done === 0 ? fds : []);
      done += sent;
      if (sent > 0) continue;
      const state = system.wait(this.socket, system.polled.writable, patience_ms);
      if (state !== system.polled.writable) throw new Closed("not sent: the connection was ended");
    }
  }

  send(request: number, payload?: Uint8Array, options: SendOptions = {}): void {
    this.sendBytes(laid(request, payload, options), options.fds);
  }

  /** The next message. Throws `Closed` at the end of the connection. */
  receive(timeout_ms = patience_ms): Message {
    while (true) {
      const message = this.#take();
      if (message !== undefined) return message;
      if (system.wait(this.socket, system.polled.readable, timeout_ms) === 0) {
        throw new Error(`no answer within ${timeout_ms} ms`);
      }
      const count = system.receive(this.socket, this.#buffer);
      if (count <= 0) throw new Closed("the connection was ended");
      this.#received = joined(this.#received, this.#buffer.subarray(0, count));
    }
  }

  #take(): Message | undefined {
    if (this.#received.length < headerBytes) return undefined;
    const view = new DataView(this.#received.buffer);
    const [request, flags, size] = [0, 4, 8].map((at) => view.getUint32(at, littleEndian)) as [number, number, number];
    const end = headerBytes + size;
    if (this.#received.length < end) return undefined;
    const payload = this.#received.slice(headerBytes, end);
    this.#received = this.#received.slice(end);
    return { request, flags, payload };
  }

  /** The answer to this request: the next message, which must be one. */
  answerTo(request: number): Uint8Array<ArrayBuffer> {
    const message = this.receive();
    if (message.request === request && message.flags === messageFlags.answer) return message.payload;
    throw new Error(`answered request ${request} by ${message.request} with flags 0x${message.flags.toString(16)}`);
  }

  /** Asks something that has an answer of its own. */
  query<N extends RequestName>(name: N, payload: PayloadOf<N>): Uint8Array<ArrayBuffer> {
    const row = requests[name] as Row<unknown, unknown>;
    this.send(row.number, row.payload.encode(payload));
    return this.answerTo(row.number);
  }

  number<N extends RequestName>(name: N, payload: PayloadOf<N>): bigint {
    return u64.decode(this.query(name, payload))!;
  }

  /** Sends a request that wants an ack, and returns the verdict: 0 is done. Needs REPLY_ACK. */
  verdict<N extends RequestName>(name: N, payload: PayloadOf<N>, fds: readonly number[] = []): bigint {
    const row = requests[name] as Row<unknown, unknown>;
    return this.rawVerdict(row.number, row.payload.encode(payload), fds);
  }

  /** The same for any bytes. */
  rawVerdict(request: number, payload: Uint8Array, fds: readonly number[] = []): bigint {
    this.send(request, payload, { flags: messageFlags.needReply, fds });
    return u64.decode(this.answerTo(request)) ?? -1n;
  }

  /** A request that must be done. Needs REPLY_ACK. */
  tell<N extends RequestName>(name: N, payload: PayloadOf<N>, fds: readonly number[] = []): void {
    const verdict = this.verdict(name, payload, fds);
    if (verdict !== 0n) throw new Error(`${name} was refused: ${verdict}`);
  }

  /** Waits until the back end ends the connection; messages before that are returned. */
  untilClosed(): Message[] {
    const messages: Message[] = [];
    try {
      while (true) messages.push(this.receive());
    } catch (error) {
      if (!(error instanceof Closed)) throw error;
    }
    return messages;
  }

  /** May be called again. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    system.close(this.socket);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

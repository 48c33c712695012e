/** Connections without a socket: one end played by the test, or both ends joined. */

import type { Channel, ChannelListener, RawMessage } from "../vhost/channel.ts";
import type { FakeFds } from "./fake_fds.ts";

export interface Sent {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly fds: readonly number[];
}

/** The test delivers messages, and reads what was sent. */
export class FakeChannel implements Channel {
  readonly sent: Sent[] = [];
  closed = false;
  #listener: ChannelListener | undefined;
  #ready = true;

  listen(listener: ChannelListener): void {
    this.#listener = listener;
  }

  resume(): void {
    if (this.closed || this.#ready) throw new TypeError("Cannot resume: closed, or not waiting");
    this.#ready = true;
  }

  send(request: number, flags: number, payload: Uint8Array, fds: readonly number[]): void {
    this.sent.push({ request, flags, payload: payload.slice(), fds: [...fds] });
  }

  close(): void {
    this.closed = true;
  }

  /** Synchronous; throws when the last message was not resumed from. */
  deliver(message: RawMessage): void {
    if (this.closed || !this.#ready) throw new TypeError("Cannot deliver: closed, or the last message is unfinished");
    this.#ready = false;
    this.#listener?.message(message);
  }

  hangUp(reason: string): void {
    this.#listener?.hangup(reason);
  }
}

/** Two ends that are joined; descriptors are duplicated on the way, as by the kernel. */
export function joinedChannels(fds: FakeFds): [Channel, Channel] {
  const left = new JoinedChannel(fds);
  const right = new JoinedChannel(fds);
  left.peer = right;
  right.peer = left;
  return [left, right];
}

class JoinedChannel implements Channel {
  peer: JoinedChannel | undefined;
  readonly #fds: FakeFds;
  readonly #inbox: RawMessage[] = [];
  #listener: ChannelListener | undefined;
  #ready = true;
  #open = true;
  #ended = false;

  constructor(fds: FakeFds) {
    this.#fds = fds;
  }

  listen(listener: ChannelListener): void {
    this.#listener = listener;
    queueMicrotask(() => this.#deliver());
  }

  resume(): void {
    this.#ready = true;
    queueMicrotask(() => this.#deliver());
  }

  send(request: number, flags: number, payload: Uint8Array, fds: readonly number[]): void {
    if (!this.#open || this.peer === undefined || !this.peer.#open) return;
    const copies = fds.map(() => this.#fds.open());
    this.peer.#inbox.push({ request, flags, payload: payload.slice(), fds: copies });
    queueMicrotask(() => this.peer!.#deliver());
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const { fds } of this.#inbox.splice(0)) fds.forEach((fd) => fd[Symbol.dispose]());
    if (this.peer !== undefined) this.peer.#ended = true;
    queueMicrotask(() => this.peer!.#deliver());
  }

  #deliver(): void {
    if (!this.#open || !this.#ready || this.#listener === undefined) return;
    const message = this.#inbox.shift();
    if (message !== undefined) {
      this.#ready = false;
      this.#listener.message(message);
    } else if (this.#ended) {
      this.#open = false;
      this.#listener.hangup("peer closed the connection");
    }
  }
}

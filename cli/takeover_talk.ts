/**
 * What two processes of `serve` say to each other when one takes over from the other: objects of JSON with descriptors,
 * over a socket of their own, in messages framed as those of vhost-user. What does not fit into one goes in pieces.
 *
 * They speak in turn. NEW is who takes over, OLD who serves:
 *
 *     OLD  hello      version, process, ports
 *     NEW  give       macs, or a port by name; at the first of these OLD stops to listen to front ends
 *     OLD  macs, port what was asked for, with descriptors
 *     NEW  ready      everything is mapped and adopted
 *     OLD  positions  its rings are at rest, and stand there
 *     NEW  commit     from now on the rings are NEW's
 *     OLD  counters   it has left; its control socket is free
 *
 * Until the commit either may say `refusal`, or go: then OLD serves on. The commit is one message, and it decides
 * alone: NEW touches no ring before the kernel has it, and OLD goes on only after it has shut the connection and read
 * it to its end without finding one.
 *
 * @module
 */
import type { Fd, Json, SocketChannel } from "../mod.ts";
import { CommandError } from "./error.ts";

/**
 * Raised when an older process would misunderstand; each reads all versions before its own, and OLD speaks what NEW
 * asked for. From 2 on AF_XDP and memory that front ends keep go over.
 */
export const takeoverVersion = 2;

const kinds = ["hello", "give", "macs", "port", "ready", "positions", "commit", "counters", "refusal", "more"] as const;

/** What can be said. */
export type Kind = typeof kinds[number];

/** What was said. */
export interface Said {
  readonly kind: Kind;
  readonly body: Json;
  /** The listener's: to be taken, or closed. */
  readonly fds: readonly Fd[];
}

/** Of vhost-user's header: its version, and a bit that means nothing there: pieces follow. */
const flagVersion = 1;
const flagMore = 0x100;
const pieceBytes = 1024;
const pieceFds = 8;
/** The listener asks for more after so many: what was sent and not read is bounded. */
const piecesInRow = 16;
const textBytesMax = 64 << 20;
const fdsMax = 8192;

type Pieces = { readonly text: Uint8Array[]; readonly fds: Fd[]; bytes: number; count: number };

/** One end of it. */
export class Talk implements Disposable {
  readonly #channel: SocketChannel;
  readonly #heard: Said[] = [];
  #pieces: Pieces = { text: [], fds: [], bytes: 0, count: 0 };
  #gone = false;
  /** What comes is left in the socket until somebody listens, so that it wakes nobody. */
  #paused = false;
  #wake: (() => void) | undefined;

  constructor(channel: SocketChannel) {
    this.#channel = channel;
    channel.listen({
      message: ({ request, flags, payload, fds }) => {
        const more = (flags & flagMore) !== 0;
        this.#take(request, more, payload, fds);
        if (more) channel.resume();
        else this.#paused = true;
      },
      hangup: () => this.#end(),
    });
  }

  get pid(): number {
    return this.#channel.peer().pid;
  }

  /** Whoever else has the descriptors, they stay the caller's. Throws a `CommandError` where nobody listens. */
  async send(kind: Kind, body: Json, fds: readonly number[] = []): Promise<void> {
    const text = new TextEncoder().encode(JSON.stringify(body));
    const count = Math.max(1, Math.ceil(text.length / pieceBytes), Math.ceil(fds.length / pieceFds));
    for (let piece = 0; piece < count; piece++) {
      const more = piece + 1 < count;
      this.#channel.send(
        kinds.indexOf(kind) + 1,
        flagVersion | (more ? flagMore : 0),
        text.subarray(piece * pieceBytes, (piece + 1) * pieceBytes),
        fds.slice(piece * pieceFds, (piece + 1) * pieceFds),
      );
      if (more && (piece + 1) % piecesInRow === 0) await this.expect("more", morePatience_ms);
    }
  }

  /** Whether the other one hears of it whatever becomes of us now. */
  commit(): boolean {
    return this.#channel.sendNow(kinds.indexOf("commit") + 1, flagVersion, new TextEncoder().encode("{}"), []);
  }

  /** What is said next; `late` where nothing was said so long, `gone` where nothing will be any more. */
  async next(patience_ms: number): Promise<Said | "late" | "gone"> {
    if (this.#heard.length === 0 && !this.#gone) {
      if (this.#paused) this.#channel.resume();
      this.#paused = false;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const timer = patience_ms === Infinity ? undefined : setTimeout(resolve, patience_ms);
      await promise;
      clearTimeout(timer);
      this.#wake = undefined;
    }
    return this.#heard.shift() ?? (this.#gone ? "gone" : "late");
  }

  /** What is said next, if it is one of these kinds. Throws a `CommandError` with the reason otherwise. */
  async expect(kind: Kind | readonly Kind[], patience_ms: number): Promise<Said> {
    const said = await this.next(patience_ms);
    if (said === "late") throw new CommandError(`the other process said nothing for ${patience_ms / 1000} s`);
    if (said === "gone") throw new CommandError("the other process has ended");
    if ([kind].flat().includes(said.kind)) return said;
    for (const fd of said.fds) fd[Symbol.dispose]();
    throw new CommandError(
      said.kind === "refusal" ? reasonOf(said.body) : `the other process said ${said.kind} instead`,
    );
  }

  /** Nothing more reaches the other one, nor us, but what it has said before. */
  shut(): void {
    this.#channel.shut();
  }

  [Symbol.dispose](): void {
    this.#channel.close();
    for (const { fds } of this.#heard.splice(0)) for (const fd of fds) fd[Symbol.dispose]();
    this.#drop();
    this.#end();
  }

  #take(request: number, more: boolean, payload: Uint8Array, fds: readonly Fd[]): void {
    const pieces = this.#pieces;
    pieces.text.push(payload);
    pieces.fds.push(...fds);
    pieces.bytes += payload.length;
    pieces.count++;
    const kind = kinds[request - 1];
    if (kind === undefined || pieces.bytes > textBytesMax || pieces.fds.length > fdsMax) return this.#break();
    if (!more) return this.#whole(kind);
    if (pieces.count % piecesInRow === 0) void this.send("more", null);
  }

  #whole(kind: Kind): void {
    const { text, fds, bytes } = this.#pieces;
    const whole = new Uint8Array(bytes);
    text.reduce((at, piece) => (whole.set(piece, at), at + piece.length), 0);
    try {
      this.#heard.push({ kind, body: JSON.parse(new TextDecoder().decode(whole)), fds });
    } catch {
      return this.#break();
    }
    this.#pieces = { text: [], fds: [], bytes: 0, count: 0 };
    this.#wake?.();
  }

  /** Whoever is at the other end, it is no `serve`. */
  #break(): void {
    this.#drop();
    this.#channel.close();
    this.#end();
  }

  #drop(): void {
    for (const fd of this.#pieces.fds.splice(0)) fd[Symbol.dispose]();
  }

  #end(): void {
    this.#gone = true;
    this.#wake?.();
  }
}

const morePatience_ms = 5000;

function reasonOf(body: Json): string {
  const reason = typeof body === "object" && body !== null && "reason" in body ? body["reason"] : undefined;
  return typeof reason === "string" ? reason : "it gave no reason";
}

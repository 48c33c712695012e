/**
 * The server of an ivshmem-doorbell device (QEMU docs/specs/ivshmem-spec, "Interrupts"): gives one QEMU the memory that
 * BAR 2 shows, and eventfds that the doorbell register signals.
 *
 * @module
 */
import type { SocketChannel } from "../ffi/channel.ts";
import { sendBytes } from "../ffi/fd.ts";
import { VringError } from "../ffi/library.ts";
import type { Pump, SocketListener } from "../ffi/pump.ts";

const protocolVersion = 0n;
/** Of the one who connects; it is told of no other client. */
const ownId = 0n;
const memory = -1n;
/** A peer's number has 16 bits in the doorbell register. */
const peerMax = 0xffff;

/** Who hears what becomes of it. May not throw. */
export interface IvshmemListener {
  /** Somebody is there; it waits, if there is no memory. */
  connected(): void;
  /** It has the memory mapped: `peer` names the eventfds. */
  served(peer: number): void;
  gone(reason: string): void;
  /** Somebody was not let in. */
  refused(reason: string): void;
}

export interface IvshmemParts {
  readonly pump: Pump;
  readonly path: string;
  readonly mode: number;
  readonly listener: IvshmemListener;
  /** The memory's file, borrowed; undefined: there is none yet. */
  readonly memory: () => number | undefined;
  /** The vectors' eventfds, borrowed, in order. */
  readonly vectors: () => readonly number[];
}

/** Serves one client at a time, until it is disposed of. */
export class IvshmemServer implements Disposable {
  readonly #parts: IvshmemParts;
  readonly #socket: SocketListener;
  #client: SocketChannel | undefined;
  #served = false;
  /** The last one told of; QEMU 7.2 to 11 forget the vectors' room of one that went: none comes again. */
  #peer = 0;

  /** Throws what `Pump.listen` throws. */
  constructor(parts: IvshmemParts) {
    this.#parts = parts;
    const { pump, path, mode, listener } = parts;
    this.#socket = pump.listen(path, {
      mode,
      accept: (channel) => this.#accept(channel),
      refused: (reason) => listener.refused(reason),
    });
  }

  /** Whether a client has the memory mapped. */
  get isServed(): boolean {
    return this.#served;
  }

  /** To be called when there is memory: a client waits for it, which can start no sooner. */
  serve(): void {
    const client = this.#client;
    const file = this.#parts.memory();
    if (client === undefined || this.#served || file === undefined) return;
    this.#talk(() => {
      this.#send(protocolVersion);
      this.#send(ownId);
      this.#send(memory, file);
      this.#served = true;
      this.#introduce();
    });
    if (this.#served) this.#parts.listener.served(this.#peer);
  }

  /**
   * To be called when the eventfds are others: from now on they belong to another peer, and the one of before still
   * rings the old ones, until `forget`. Returns its number; undefined where no client is served.
   */
  renew(): number | undefined {
    if (!this.#served) return undefined;
    this.#talk(() => this.#introduce());
    return this.#served ? this.#peer : undefined;
  }

  /** Nobody rings that peer any more. */
  forget(peer: number): void {
    if (this.#served) this.#talk(() => this.#send(BigInt(peer)));
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
    this.#client?.close();
    this.#client = undefined;
    this.#served = false;
  }

  #accept(channel: SocketChannel): void {
    const { listener } = this.#parts;
    if (this.#client !== undefined) {
      channel.close();
      return listener.refused("another one is connected: a link has two ends");
    }
    this.#client = channel;
    channel.listen({
      message: () => this.#end("it sent a message, and none is expected"),
      hangup: (reason) => this.#end(reason),
    });
    listener.connected();
    this.serve();
  }

  #introduce(): void {
    if (this.#peer === peerMax) throw new Error("the eventfds changed 65535 times: plug the device in anew");
    this.#peer++;
    for (const vector of this.#parts.vectors()) this.#send(BigInt(this.#peer), vector);
  }

  /** A client that does not read has ended. */
  #talk(speak: () => void): void {
    try {
      this.#client!.hold(true);
      speak();
      this.#client!.hold(false);
    } catch (error) {
      this.#end(error instanceof VringError ? `it does not read: ${error.reason}` : (error as Error).message);
    }
  }

  #send(number: bigint, fd?: number): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigInt64(0, number, true);
    sendBytes(this.#client!.socket(), bytes, fd);
  }

  #end(reason: string): void {
    if (this.#client === undefined) return;
    this.#client.hold(false);
    this.#client.close();
    this.#client = undefined;
    this.#served = false;
    this.#peer = 0;
    this.#parts.listener.gone(reason);
  }
}

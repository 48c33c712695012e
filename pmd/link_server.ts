/**
 * A link of two VMs by ivshmem: towards the second one a vhost-user back end, towards the first one the server of its
 * ivshmem-doorbell device, and the page by which the first one is told of the second one's rings.
 *
 * @module
 */
import { identifyFile } from "../ffi/fd.ts";
import { Link } from "../ffi/link.ts";
import type { Port } from "../ffi/port.ts";
import type { Pump, SocketListener } from "../ffi/pump.ts";
import type { SocketChannel } from "../ffi/channel.ts";
import { Backend } from "../vhost/backend.ts";
import type { Offer } from "../vhost/offer.ts";
import { featureNames, hasFeature } from "../vhost/spec.ts";
import { IvshmemServer } from "./ivshmem_server.ts";
import { LinkDataplane } from "./link_dataplane.ts";
import type { LinkEvent } from "./link_event.ts";
import { callAfter } from "./shared_timer.ts";

/** A driver gives its eventfds one by one: so long after the first of them the others are there. */
const vectorsRest_ms = 10;
/** How often the first VM is looked at: for a while after something it is to follow, and else. */
const lookSoon_ms = 20;
const soon_ms = 2000;
const look_ms = 500;

export interface LinkServerParts {
  readonly pump: Pump;
  /** Of an engine without workers. */
  readonly port: Port;
  /** By `linkWithheld`. */
  readonly offer: Offer;
  /** Where the second VM's front end connects. */
  readonly socket: string;
  /** Where the first VM's ivshmem-doorbell connects. */
  readonly pci: string;
  /** The page's file. */
  readonly page: string;
  readonly socketMode: number;
  readonly happened: (event: LinkEvent) => void;
}

/** Serves from `open` until it is disposed of, before its pump and its engine. */
export class LinkServer implements Disposable {
  readonly #parts: LinkServerParts;
  readonly #link: Link;
  readonly #dataplane: LinkDataplane;
  readonly #ivshmem: IvshmemServer;
  readonly #socket: SocketListener;
  #backend: Backend | undefined;
  #renewal: Disposable | undefined;
  #look: Disposable | undefined;
  /** A peer that the first VM may still ring, until it goes by what tells of the next one. */
  #outgoing: number | undefined;
  #outdated = false;
  #soonUntil_ms = 0;

  /** Throws what `Link.create` and `Pump.listen` throw. */
  constructor(parts: LinkServerParts) {
    this.#parts = parts;
    using stack = new DisposableStack();
    this.#link = stack.use(Link.create(parts.page, parts.socketMode));
    this.#dataplane = stack.use(
      new LinkDataplane({
        link: this.#link,
        port: parts.port,
        queuePairs: parts.offer.queuePairs,
        memoryChanged: () => this.#memoryChanged(),
        vectorsChanged: () => this.#renewLater(),
        linked: (linked) => this.#tellLinked(linked),
      }),
    );
    this.#ivshmem = stack.use(
      new IvshmemServer({
        pump: parts.pump,
        path: parts.pci,
        mode: parts.socketMode,
        memory: () => this.#dataplane.memoryFd,
        vectors: () => this.#dataplane.vectors,
        listener: {
          connected: () => this.#firstCame(),
          served: (peer) => this.#firstServed(peer),
          gone: (reason) => this.#firstGone(reason),
          refused: (reason) => this.#tell({ event: "refused", vm: "first", reason }),
        },
      }),
    );
    this.#socket = parts.pump.listen(parts.socket, {
      mode: parts.socketMode,
      accept: (channel) => this.#accept(channel),
      refused: (reason) => this.#tell({ event: "refused", vm: "second", reason }),
    });
    stack.move();
  }

  /** Turns both out, and stops listening. May be called again. */
  [Symbol.dispose](): void {
    this.#renewal?.[Symbol.dispose]();
    this.#look?.[Symbol.dispose]();
    this.#socket[Symbol.dispose]();
    this.#backend?.close();
    this.#backend = undefined;
    this.#ivshmem[Symbol.dispose]();
    this.#dataplane[Symbol.dispose]();
    this.#link[Symbol.dispose]();
  }

  // The second VM.

  #accept(channel: SocketChannel): void {
    if (this.#backend !== undefined) {
      channel.close();
      return this.#tell({ event: "refused", vm: "second", reason: "another one is connected: a link has two ends" });
    }
    this.#tell({ event: "connected" });
    this.#backend = new Backend({
      channel,
      dataplane: this.#dataplane,
      offer: this.#parts.offer,
      listener: {
        started: (features) => this.#started(features),
        stopped: () => this.#tell({ event: "stopped" }),
        refused: (reason) => this.#tell({ event: "nack", reason }),
        closed: (reason) => {
          this.#backend = undefined;
          this.#tell({ event: "disconnected", reason });
        },
      },
    });
  }

  #started(features: bigint): void {
    const ring = hasFeature(features, "RING_PACKED") ? "packed" : "split";
    this.#tell({ event: "started", ring, features: featureNames(features) });
    this.#lookSoon();
  }

  #memoryChanged(): void {
    this.#ivshmem.serve();
    const outdated = this.#dataplane.isForeign;
    if (outdated && !this.#outdated) this.#tell({ event: "first_outdated" });
    this.#outdated = outdated;
  }

  // The first VM.

  #firstCame(): void {
    if (this.#dataplane.memoryFd === undefined) this.#tell({ event: "first_waits" });
  }

  #firstServed(peer: number): void {
    this.#outdated = false;
    this.#outgoing = undefined;
    this.#dataplane.reach(peer);
    this.#tell({ event: "first_attached", memory_bytes: Number(identifyFile(this.#dataplane.memoryFd!).size) });
    this.#lookSoon();
  }

  #firstGone(reason: string): void {
    this.#outdated = false;
    this.#outgoing = undefined;
    this.#dataplane.reach(undefined);
    this.#tell({ event: "first_gone", reason });
    this.#dataplane.look();
  }

  #renewLater(): void {
    this.#renewal?.[Symbol.dispose]();
    this.#renewal = callAfter(vectorsRest_ms, () => this.#renew());
  }

  #renew(): void {
    const before = this.#dataplane.table.peer;
    const peer = this.#ivshmem.renew();
    if (peer === undefined) return;
    if (this.#outgoing !== undefined) this.#ivshmem.forget(this.#outgoing);
    this.#outgoing = before;
    this.#dataplane.ringAs(peer);
    this.#lookSoon();
  }

  #lookSoon(): void {
    this.#soonUntil_ms = performance.now() + soon_ms;
    this.#lookAfter(lookSoon_ms);
  }

  #lookAfter(milliseconds: number): void {
    this.#look?.[Symbol.dispose]();
    this.#look = callAfter(milliseconds, () => this.#lookAt());
  }

  #lookAt(): void {
    this.#dataplane.look();
    const followed = this.#dataplane.isFollowed;
    if (followed && this.#outgoing !== undefined) {
      this.#ivshmem.forget(this.#outgoing);
      this.#outgoing = undefined;
      // What was rung between the two went to eventfds that nobody waits for any more.
      this.#dataplane.callAll();
    }
    const isSoon = !followed && performance.now() < this.#soonUntil_ms;
    this.#lookAfter(isSoon ? lookSoon_ms : look_ms);
  }

  #tellLinked(linked: boolean): void {
    this.#tell(linked ? { event: "linked", vrings: this.#dataplane.vringsInUse } : { event: "unlinked" });
  }

  #tell(event: LinkEvent): void {
    this.#parts.happened(event);
  }
}

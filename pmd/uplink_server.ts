/**
 * A port that leads to an interface of the host's, and attaches again when that was deleted.
 *
 * @module
 */
import { VringError } from "../ffi/library.ts";
import type { Port } from "../ffi/port.ts";
import { Uplink, uplinkFdNames, type UplinkOptions } from "../ffi/uplink.ts";
import { type FeatureName, hasFeature } from "../vhost/spec.ts";
import { bits, hex, type Json, number, rowOf } from "../vhost/session_snapshot.ts";
import type { Inheritance, MovingPort, Parcel, ParcelFds, Positions } from "./parcel.ts";
import type { Occurrence } from "./port_event.ts";
import type { PortPlan, UplinkPlan } from "./port_plan.ts";
import { type PortSample, statsSum } from "./port_sample.ts";
import type { PortServerParts, PortService } from "./port_server.ts";

/** Of an uplink's state, since version 1. */
const stateKeys = ["index", "mtu_before", "header_bytes", "created", "tap_header_bytes", "raised"] as const;
type StateNumbers = Record<typeof stateKeys[number], number>;

/** What such a port works with. */
export interface UplinkServerParts extends PortServerParts {
  readonly plan: PortPlan & { readonly uplink: UplinkPlan };
}

/** Looks after a port from `open` until it is disposed of, before its engine. */
export class UplinkServer implements PortService, MovingPort {
  readonly #parts: UplinkServerParts;
  #uplink: Uplink | undefined;
  /** Another process has it as well. */
  #frozen = false;
  #inherited: Inheritance | undefined;

  private constructor(parts: UplinkServerParts) {
    this.#parts = parts;
  }

  /** Throws `UplinkError` when the interface cannot be opened. */
  static open(parts: UplinkServerParts): UplinkServer {
    const server = new UplinkServer(parts);
    server.#attach();
    return server;
  }

  /** Goes on, frozen, with what another process had. Throws with the reason why it cannot. */
  static adopt(parts: UplinkServerParts, state: Json, fds: ParcelFds): UplinkServer {
    const server = new UplinkServer(parts);
    server.#frozen = true;
    const row = rowOf(state, "port");
    if (row["uplink"] !== null) server.#adoptUplink(rowOf(row["uplink"], "uplink"), fds);
    return server;
  }

  get moving(): MovingPort {
    return this;
  }

  get port(): Port {
    return this.#parts.port;
  }

  get plan(): PortPlan {
    return this.#parts.plan;
  }

  /** Leaves the interface. May be called again. */
  [Symbol.dispose](): void {
    if (this.#uplink !== undefined && this.port.isOpen) this.port.reset();
    this.#uplink?.[Symbol.dispose]();
    this.#uplink = undefined;
  }

  /** Attaches again to an interface that was deleted, once it is there again or can be made. */
  tick(): void {
    if (this.#frozen) return;
    if (this.#uplink !== undefined) return this.#uplink.gone ? this.#detach() : undefined;
    try {
      this.#attach();
    } catch (error) {
      if (!(error instanceof VringError)) throw error;
    }
  }

  lookForBroken(): void {
    if (this.#frozen) return;
    const rings = Array.from({ length: 2 * (this.#uplink?.queuePairs ?? 0) }, (_, ring) => ring);
    if (rings.some((ring) => this.port.vringState(ring).broken !== undefined)) this.#detach();
  }

  #detach(): void {
    this[Symbol.dispose]();
    this.#tell({ event: "detached", interface: this.#parts.plan.uplink.interface });
  }

  sample(): PortSample {
    const { queuePairs } = this.plan.offer;
    return {
      port: this.plan.name,
      state: this.#uplink === undefined ? "waiting" : "running",
      queuePairsUp: this.#uplink === undefined ? 0 : queuePairs,
      queuePairs,
      counters: {
        toGuest: statsSum(this.port.stats("toGuest"), this.#inherited?.toGuest),
        fromGuest: statsSum(this.port.stats("fromGuest"), this.#inherited?.fromGuest),
      },
    };
  }

  // Changing its process.

  freeze(): void {
    this.#frozen = true;
    this.#uplink?.share(true);
  }

  thaw(): void {
    this.#frozen = false;
    this.#uplink?.share(false);
  }

  parcel(version: number): Parcel {
    const uplink = this.#uplink;
    if (uplink === undefined) return { state: { uplink: null }, fds: [] };
    const { mtu, created, up } = uplink;
    const { kind } = this.#parts.plan.uplink;
    if (kind === "xdp" && version < 2) {
      throw new Error("it takes a newer program to go on with AF_XDP: use packet:IF, or restart");
    }
    const { features, ...rest } = uplink.state;
    const { fds } = uplink;
    return {
      state: { uplink: { mtu, created, up, state: { ...rest, features: hex(features) }, queues: uplink.queuePairs } },
      fds: uplinkFdNames(kind, uplink.queuePairs).map((name, number) => [name, fds[number]!]),
    };
  }

  /** Whatever `begin` looked at changes only once the engine goes on. */
  own(): void {}

  /** There is no front end. */
  expel(): void {}

  positions(): Positions {
    const pairs = Array.from({ length: this.#uplink?.queuePairs ?? 0 }, (_, pair) => pair);
    return { bases: pairs.map((pair) => this.port.vringState(2 * pair + 1).base), announcements: [0, 0] };
  }

  #adoptUplink(row: { readonly [name: string]: Json }, fds: ParcelFds): void {
    const state = rowOf(row["state"], "state of the uplink");
    const known = Object.fromEntries(stateKeys.map((key) => [key, number(state, key)])) as StateNumbers;
    // Version 1 knows no pieces.
    const in_pieces = state["in_pieces"] === undefined ? 0 : number(state, "in_pieces");
    const queuePairs = number(row, "queues");
    if (queuePairs > this.plan.offer.queuePairs) {
      throw new Error(`${queuePairs} queue pairs are in use, and ${this.plan.offer.queuePairs} are planned`);
    }
    const taken = uplinkFdNames(this.#parts.plan.uplink.kind, queuePairs).map((name) => fds.get(name));
    const found = { mtu: number(row, "mtu"), created: row["created"] === true, up: row["up"] === true };
    this.#uplink = Uplink.adopt(
      { ...this.#options(), queuePairs },
      found,
      { ...known, in_pieces, features: bits(state, "features") },
      taken.map((fd) => fd.number),
    );
    for (const fd of taken) fd.take();
  }

  begin({ bases }: Positions): void {
    const uplink = this.#uplink;
    if (uplink === undefined) return;
    for (let pair = 0; pair < uplink.queuePairs; pair++) uplink.beginAt(pair, bases[pair] ?? 0);
    this.port.attach(uplink);
    this.port.setMtu(uplink.mtu);
  }

  inherit(counters: Inheritance): void {
    this.#inherited = counters;
  }

  #options(): UplinkOptions {
    const { plan: { uplink: { kind, interface: name, mtu, gro, copy }, offer } } = this.#parts;
    const takes = (feature: FeatureName) => hasFeature(offer.features, feature);
    return {
      kind,
      name,
      queuePairs: offer.queuePairs,
      mtu,
      gro: gro ?? takes("GUEST_TSO4"),
      offloads: takes("GUEST_CSUM"),
      copy,
    };
  }

  #attach(): void {
    const { port } = this.#parts;
    const options = this.#options();
    const uplink = Uplink.open(options);
    try {
      port.attach(uplink);
    } catch (error) {
      uplink[Symbol.dispose]();
      throw error;
    }
    port.setMtu(uplink.mtu);
    this.#uplink = uplink;
    const { created, mtu, up } = uplink;
    this.#tell({ event: "attached", interface: options.name, created, mtu, up });
  }

  #tell(occurrence: Occurrence): void {
    this.#parts.happened({ port: this.plan.name, ...occurrence });
  }
}

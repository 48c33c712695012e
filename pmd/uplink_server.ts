/**
 * A port that leads to an interface of the host's, and attaches again when that was deleted.
 *
 * @module
 */
import { VringError } from "../ffi/library.ts";
import type { Port } from "../ffi/port.ts";
import { Uplink } from "../ffi/uplink.ts";
import { type FeatureName, hasFeature } from "../vhost/spec.ts";
import type { Occurrence } from "./port_event.ts";
import type { PortPlan, UplinkPlan } from "./port_plan.ts";
import type { PortSample } from "./port_sample.ts";
import type { PortServerParts, PortService } from "./port_server.ts";

/** What such a port works with. */
export interface UplinkServerParts extends PortServerParts {
  readonly plan: PortPlan & { readonly uplink: UplinkPlan };
}

/** Looks after a port from `open` until it is disposed of, before its engine. */
export class UplinkServer implements PortService {
  readonly #parts: UplinkServerParts;
  #uplink: Uplink | undefined;

  private constructor(parts: UplinkServerParts) {
    this.#parts = parts;
  }

  /** Throws `UplinkError` when the interface cannot be opened. */
  static open(parts: UplinkServerParts): UplinkServer {
    const server = new UplinkServer(parts);
    server.#attach();
    return server;
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
    if (this.#uplink !== undefined) return this.#uplink.gone ? this.#detach() : undefined;
    try {
      this.#attach();
    } catch (error) {
      if (!(error instanceof VringError)) throw error;
    }
  }

  lookForBroken(): void {
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
      counters: { toGuest: this.port.stats("toGuest"), fromGuest: this.port.stats("fromGuest") },
    };
  }

  #attach(): void {
    const { port, plan: { uplink: { kind, interface: name, mtu, gro, copy }, offer } } = this.#parts;
    const takes = (feature: FeatureName) => hasFeature(offer.features, feature);
    const uplink = Uplink.open({
      kind,
      name,
      queuePairs: offer.queuePairs,
      mtu,
      gro: gro ?? takes("GUEST_TSO4"),
      offloads: takes("GUEST_CSUM"),
      copy,
    });
    try {
      port.attach(uplink);
    } catch (error) {
      uplink[Symbol.dispose]();
      throw error;
    }
    port.setMtu(uplink.mtu);
    this.#uplink = uplink;
    const { created, up } = uplink;
    this.#tell({ event: "attached", interface: name, created, mtu: uplink.mtu, up });
  }

  #tell(occurrence: Occurrence): void {
    this.#parts.happened({ port: this.plan.name, ...occurrence });
  }
}

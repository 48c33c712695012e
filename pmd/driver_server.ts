/**
 * A port that faces a back end, as DPDK's virtio-user does: connects or listens, sets up rings, and starts again when
 * the back end has gone.
 *
 * @module
 */
import { frameBytesMax, Guest } from "../ffi/guest.ts";
import { VringError } from "../ffi/library.ts";
import type { Port } from "../ffi/port.ts";
import type { Channel } from "../vhost/channel.ts";
import { Frontend } from "../vhost/frontend.ts";
import type { Offer } from "../vhost/offer.ts";
import { type FeatureName, featureNames, featureSet, hasFeature } from "../vhost/spec.ts";
import type { Occurrence } from "./port_event.ts";
import type { DriverPlan, PortPlan } from "./port_plan.ts";
import type { PortSample } from "./port_sample.ts";
import { PortSocket } from "./port_socket.ts";
import { pauseAfter, type PortServerParts, type PortService } from "./port_server.ts";
import { RingWatch } from "./ring_watch.ts";
import { callAfter } from "./shared_timer.ts";

/** Of a buffer for large packets, where several cannot be merged, header included (virtio 5.1.6.3.1). */
const largeBufferBytes = 65_562;

const always: readonly FeatureName[] = ["VERSION_1", "PROTOCOL_FEATURES", "EVENT_IDX", "CSUM", "GUEST_CSUM"];
const segmented: readonly FeatureName[] = ["HOST_TSO4", "HOST_TSO6", "HOST_ECN", "HOST_UFO", "HOST_USO"];
/** Large packets need buffers that can be merged, or are large. */
const large: readonly FeatureName[] = [
  "GUEST_TSO4",
  "GUEST_TSO6",
  "GUEST_ECN",
  "GUEST_UFO",
  "GUEST_USO4",
  "GUEST_USO6",
];

/** What is taken of what is on offer. */
function chooseFeatures(offered: bigint, plan: DriverPlan, { features, queuePairs }: Offer): bigint {
  const needed = featureSet([...plan.packed ? ["RING_PACKED"] as const : [], ...queuePairs > 1 ? ["MQ"] as const : []]);
  const missing = featureNames(needed & ~offered);
  if (missing.length > 0) throw new Error(`the back end does not offer ${missing.join(", ")}`);
  const wanted = [
    ...always,
    ...segmented,
    ...plan.mergeable ? ["MRG_RXBUF"] as const : [],
    ...plan.mergeable || plan.bufferBytes >= largeBufferBytes ? large : [],
    ...plan.inOrder ? ["IN_ORDER"] as const : [],
  ];
  return needed | offered & features & featureSet(wanted);
}

/** What such a port works with. */
export interface DriverServerParts extends PortServerParts {
  readonly plan: PortPlan & { readonly driver: DriverPlan };
}

/** Looks after a port from `open` until it is disposed of, before its pump and its engine. */
export class DriverServer implements PortService {
  readonly #parts: DriverServerParts;
  readonly #rings: RingWatch;
  #socket: PortSocket | undefined;
  #frontend: Frontend | undefined;
  #guest: Guest | undefined;
  #running = false;
  #pause: Disposable | undefined;
  #failures = 0;
  #waitReason = "";
  #closed = false;
  /** Its rings lie in memory of this process. */
  readonly moving = undefined;

  private constructor(parts: DriverServerParts) {
    this.#parts = parts;
    this.#rings = new RingWatch(parts.port, parts.plan.offer.queuePairs, (found) => this.#tell(found));
  }

  /** Listens, or begins to connect. Throws what `Pump.listen` throws. */
  static open(parts: DriverServerParts): DriverServer {
    const server = new DriverServer(parts);
    if (parts.plan.mode === "client") {
      // What it tells, nobody hears before the server is there.
      server.#pause = callAfter(0, () => server.#connect());
    } else {
      const { pump, socketMode, plan } = parts;
      const options = {
        mode: socketMode,
        accept: (channel: Channel) => server.#accept(channel),
        refused: (reason: string) => server.#tell({ event: "refused", reason }),
      };
      server.#socket = PortSocket.open({ pump, path: plan.socket, options, tell: (what) => server.#tell(what) });
    }
    return server;
  }

  get port(): Port {
    return this.#parts.port;
  }

  get plan(): PortPlan {
    return this.#parts.plan;
  }

  /** Leaves the back end, and stops listening. May be called again. */
  [Symbol.dispose](): void {
    this.#closed = true;
    this.#pause?.[Symbol.dispose]();
    this.#socket?.[Symbol.dispose]();
    this.#frontend?.close();
    this.#leave();
  }

  tick(): void {
    this.#socket?.tick();
  }

  lookForBroken(): void {
    if (this.#running) this.#rings.lookForBroken();
  }

  sample(): PortSample {
    const { queuePairs } = this.plan.offer;
    const numbers = Array.from({ length: this.#running ? queuePairs : 0 }, (_, queue) => queue);
    const up = numbers.filter((queue) => this.port.isUp(2 * queue) && this.port.isUp(2 * queue + 1)).length;
    const running = up === queuePairs ? "running" : "broken";
    return {
      port: this.plan.name,
      state: this.#running ? running : this.#frontend === undefined ? "waiting" : "connected",
      reason: this.#waitReason || this.#socket?.reason,
      queuePairsUp: up,
      queuePairs,
      counters: { toGuest: this.port.stats("toGuest"), fromGuest: this.port.stats("fromGuest") },
    };
  }

  #connect(): void {
    if (this.#closed) return;
    try {
      this.#accept(this.#parts.pump.connect(this.plan.socket));
    } catch (error) {
      if (!(error instanceof VringError)) throw error;
      const { reason } = error;
      if (reason !== this.#waitReason) this.#tell({ event: "waiting", socket: this.plan.socket, reason });
      this.#waitReason = reason;
      this.#connectLater();
    }
  }

  #connectLater(): void {
    if (this.#closed || this.plan.mode === "server") return;
    this.#pause = callAfter(pauseAfter(this.#failures++), () => this.#connect());
  }

  #accept(channel: Channel): void {
    if (this.#frontend !== undefined) return channel.close();
    this.#waitReason = "";
    const frontend = this.#frontend = new Frontend(channel);
    void this.#session(frontend);
  }

  async #session(frontend: Frontend): Promise<void> {
    let reason: string;
    try {
      await this.#introduce(frontend);
      this.#failures = 0;
      reason = await frontend.hangup;
    } catch (error) {
      reason = (error as Error).message;
    }
    if (this.#closed) return;
    frontend.close();
    this.#frontend = undefined;
    this.#leave();
    this.#tell({ event: "disconnected", reason });
    this.#connectLater();
  }

  /** Sets up what DPDK's virtio-user sets up, in its order. */
  async #introduce(frontend: Frontend): Promise<void> {
    const { port, plan: { driver, offer } } = this.#parts;
    const { queuePairs } = offer;
    await frontend.handshake();
    this.#tell({ event: "connected" });
    if (frontend.queuePairs < queuePairs) {
      throw new Error(`the back end has ${frontend.queuePairs} queue pairs, not ${queuePairs}: give queues= fewer`);
    }
    const features = chooseFeatures(frontend.features, driver, offer);
    await frontend.setFeatures(features);
    if (this.#closed) return;
    const guest = this.#guest = Guest.open({
      features,
      queuePairs,
      ringSize: driver.queueSize,
      bufferBytes: driver.bufferBytes,
      // Whatever may come from another port is sent in one piece.
      frameBytesMax,
    });
    port.drive(guest);
    await frontend.setMemory(guest.regions, [guest.memoryFd]);
    const rings = Array.from({ length: 2 * queuePairs }, (_, index) => index);
    for (const index of rings) await frontend.startVring(index, guest.vring(index));
    // Without protocol features rings are enabled from the start (vhost-user, Ring states).
    if (hasFeature(features, "PROTOCOL_FEATURES")) {
      for (const index of rings) await frontend.enableVring(index, true);
    }
    await frontend.driverOk();
    for (const index of rings) if (index % 2 === 0) port.enableVring(index, true);
    this.#running = true;
    this.#rings.begin();
    const ring = hasFeature(features, "RING_PACKED") ? "packed" : "split";
    this.#tell({ event: "started", ring, features: featureNames(features) });
  }

  #leave(): void {
    const guest = this.#guest;
    this.#running = false;
    this.#guest = undefined;
    if (guest === undefined) return;
    this.port.reset();
    void guest.close();
  }

  #tell(occurrence: Occurrence): void {
    this.#parts.happened({ port: this.plan.name, peer: "back end", ...occurrence });
  }
}

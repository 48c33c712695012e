/**
 * A port whose guest is another VM: its memory is BAR 2 of a PCI device of this one, and a link page tells of its
 * rings.
 *
 * @module
 */
import { Link, linkBytes } from "../ffi/link.ts";
import { VringError } from "../ffi/library.ts";
import type { Port } from "../ffi/port.ts";
import type { Fd } from "../vhost/fd.ts";
import { inUse, isBase, type LinkTable, type LinkVring, runs } from "../vhost/link_table.ts";
import { featureNames, hasFeature } from "../vhost/spec.ts";
import { barBytes, barOffset, findIvshmem, openBar } from "./pci_device.ts";
import type { Occurrence } from "./port_event.ts";
import type { PciPlan, PortPlan } from "./port_plan.ts";
import type { PortSample } from "./port_sample.ts";
import type { PortServerParts, PortService } from "./port_server.ts";
import { RingWatch } from "./ring_watch.ts";

/** How often the page is looked at: so long, and a little, the other VM waits when it takes a ring away. */
const look_ms = 5;
const bars = { registers: 0, memory: 2 } as const;
/** Of a split ring's used area: where the index is (virtio 2.7.8). */
const usedIndexOffset = 2n;

/** What such a port works with. */
export interface VhostPciServerParts extends PortServerParts {
  readonly plan: PortPlan & { readonly pci: PciPlan };
}

/** Why there is no such port; the message says what to do. */
export class PciError extends Error {
  override name = "PciError";
}

/** Looks after a port from `open` until it is disposed of, before its engine. */
export class VhostPciServer implements PortService {
  readonly #parts: VhostPciServerParts;
  readonly #link: Link;
  readonly #registers: Fd;
  readonly #memory: Fd;
  readonly #registersOffset: number;
  readonly #rings: RingWatch;
  readonly #timer: ReturnType<typeof setInterval>;
  /** What is gone by; without rings at first. */
  #table: LinkTable = { features: 0n, peer: 0, mtu: undefined, regions: [], vrings: [] };
  #generation = -1;
  /** By ring: which start of it runs here; 0: none. */
  #starts: number[] = [];
  #closed = false;
  /** Its rings are the other VM's, and who works on them does not change. */
  readonly moving = undefined;

  private constructor(parts: VhostPciServerParts, stack: DisposableStack) {
    const { plan: { pci: { device, link } } } = parts;
    this.#parts = parts;
    this.#registers = stack.use(open(device, bars.registers));
    this.#memory = stack.use(open(device, bars.memory));
    this.#registersOffset = barOffset(device, bars.registers);
    this.#link = stack.use(link === undefined ? findLink(device) : attach(link));
    this.#rings = new RingWatch(parts.port, parts.plan.offer.queuePairs, (found) => this.#tell(found));
    this.#timer = setInterval(() => this.#follow(), look_ms);
  }

  /** Throws `PciError` where there are no such devices. */
  static open(parts: VhostPciServerParts): VhostPciServer {
    using stack = new DisposableStack();
    const server = new VhostPciServer(parts, stack);
    stack.move();
    return server;
  }

  get port(): Port {
    return this.#parts.port;
  }

  get plan(): PortPlan {
    return this.#parts.plan;
  }

  /** Leaves the other VM's rings, and says so. May be called again. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#timer);
    if (this.port.isOpen) {
      this.#starts.forEach((start, index) => start !== 0 && this.#stop(index));
      this.port.reset();
    }
    this.#link.acknowledge(undefined);
    this.#link[Symbol.dispose]();
    this.#memory[Symbol.dispose]();
    this.#registers[Symbol.dispose]();
  }

  tick(): void {
    this.lookForBroken();
  }

  lookForBroken(): void {
    if (this.#isRunning) this.#rings.lookForBroken();
  }

  sample(): PortSample {
    const { queuePairs } = this.plan.offer;
    const pairs = Array.from({ length: this.#isRunning ? queuePairs : 0 }, (_, pair) => pair);
    const up = pairs.filter((pair) => this.port.isUp(2 * pair) && this.port.isUp(2 * pair + 1)).length;
    const isBroken = this.#starts.some((start, index) => start !== 0 && this.port.vringState(index).broken);
    return {
      port: this.plan.name,
      state: isBroken ? "broken" : this.#isRunning ? "running" : "waiting",
      queuePairsUp: up,
      queuePairs,
      counters: { toGuest: this.port.stats("toGuest"), fromGuest: this.port.stats("fromGuest") },
    };
  }

  get #isRunning(): boolean {
    return this.#starts.some((start) => start !== 0);
  }

  /** Goes by what the page says, if that is something else than before. */
  #follow(): void {
    this.#link.beat();
    if (this.#link.generation === this.#generation) return;
    const found = this.#link.read();
    if (found === undefined) return;
    const ran = this.#isRunning;
    this.#adopt(found.table);
    this.#generation = found.generation;
    this.#link.acknowledge(found.generation);
    this.#tellChange(ran);
  }

  #adopt(next: LinkTable): void {
    const { port } = this.#parts;
    // Before memory goes, or is another's.
    this.#starts.forEach((start, index) => {
      if (start !== 0 && next.vrings[index]?.start !== start) this.#stop(index);
    });
    const before = this.#table;
    this.#table = next;
    this.#attempt("memory", () => this.#map(before, next));
    if (next.peer !== before.peer) {
      const doorbell = { fd: this.#registers, offset: this.#registersOffset, peer: next.peer };
      port.setDoorbell(next.peer === 0 ? undefined : doorbell);
    }
    if (next.mtu !== before.mtu) port.setMtu(next.mtu);
    const rings = 2 * this.plan.offer.queuePairs;
    next.vrings.slice(0, rings).forEach((vring, index) => {
      if (vring.start !== (this.#starts[index] ?? 0)) this.#attempt(`ring ${index}`, () => this.#start(index, vring));
      if (this.#starts[index]) port.enableVring(index, vring.enabled);
    });
    if (runs(next)) this.#rings.begin();
  }

  /** Without regions all stays mapped: nobody looks at it. */
  #map({ regions: before }: LinkTable, { regions }: LinkTable): void {
    if (regions.length === 0 || JSON.stringify(regions, text) === JSON.stringify(before, text)) return;
    const rows = regions.map(({ gpa, size, offset }) => ({ gpa, size, mmapOffset: offset, userAddress: gpa }));
    this.port.setMemory(rows, regions.map(() => this.#memory));
  }

  #start(index: number, vring: LinkVring): void {
    const { features } = this.#table;
    const { size, desc, avail, used, start } = vring;
    const base = this.#baseOf(index, vring, features);
    this.#link.setStand(index, { start, base: inUse });
    try {
      this.port.startVring(index, { features, size, base, desc, avail, used, flags: 0, log: 0n });
    } catch (error) {
      this.#link.setStand(index, { start, base });
      throw error;
    }
    this.#starts[index] = start;
  }

  /**
   * Where a ring goes on. A split ring's own index says so, also where somebody here died over it; a packed ring's
   * place is known only where it was left in order, or nobody has worked on it yet.
   */
  #baseOf(index: number, { start, size, base, used }: LinkVring, features: bigint): number {
    if (!hasFeature(features, "RING_PACKED")) {
      const [low, high] = this.port.read(used + usedIndexOffset, 2);
      return low! | high! << 8;
    }
    const stand = this.#link.standOf(index);
    if (stand.start !== start) return base;
    if (isBase(features, size, stand.base) && stand.base !== inUse) return stand.base;
    throw new Error("somebody died over it, and where it stands nobody knows: start the other VM's driver again");
  }

  #stop(index: number): void {
    const base = this.port.stopVring(index);
    this.#link.setStand(index, { start: this.#starts[index]!, base });
    this.#starts[index] = 0;
  }

  /** What the other VM says may be wrong: then that ring rests, and the rest goes on. */
  #attempt(what: string, act: () => void): void {
    try {
      act();
    } catch (error) {
      this.#tell({ event: "nack", reason: `${what} of the other VM refused: ${(error as Error).message}` });
    }
  }

  #tellChange(ran: boolean): void {
    const { features } = this.#table;
    if (this.#isRunning === ran) return;
    if (ran) {
      this.#rings.rest();
      return this.#tell({ event: "unlinked" });
    }
    const ring = hasFeature(features, "RING_PACKED") ? "packed" : "split";
    this.#tell({ event: "linked", ring, features: featureNames(features) });
  }

  #tell(occurrence: Occurrence): void {
    this.#parts.happened({ port: this.plan.name, ...occurrence });
  }
}

/** For comparison. */
function text(_: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}

function open(device: string, bar: number): Fd {
  try {
    return openBar(device, bar);
  } catch (error) {
    if (!(error instanceof VringError)) throw error;
    const found = findIvshmem();
    const advice = found.length === 0 ? "there are no ivshmem devices" : `ivshmem devices are ${found.join(", ")}`;
    throw new PciError(`cannot open BAR ${bar} of PCI device: ${device}: ${error.reason}: ${advice}`);
  }
}

function attach(device: string): Link {
  const file = open(device, bars.memory);
  try {
    return Link.attach(file);
  } catch (error) {
    if (!(error instanceof VringError)) throw error;
    throw new PciError(`no link page in BAR 2 of PCI device: ${device}: ${error.reason}: give another link=`);
  }
}

/** The one device that shows a link page. */
function findLink(device: string): Link {
  const found: Link[] = [];
  const pages = findIvshmem().filter((other) => other !== device && barBytes(other, bars.memory) === linkBytes);
  for (const other of pages) {
    try {
      found.push(attach(other));
    } catch (error) {
      if (!(error instanceof PciError)) throw error;
    }
  }
  const [link] = found;
  if (link !== undefined && found.length === 1) return link;
  for (const one of found) one[Symbol.dispose]();
  throw new PciError(
    found.length === 0
      ? "no PCI device shows a link page: give this VM the ivshmem-plain device that vhostctl vhost-pci names"
      : `several PCI devices show link pages: ${pages.join(", ")}: say which by link=`,
  );
}

/**
 * The data plane of a guest whose rings another guest works on: what the front end says goes to the link page, and no
 * packet passes here.
 *
 * @module
 */
import { identifyFile, openEventfd, openMemoryFile, signalEventfd } from "../ffi/fd.ts";
import type { Link } from "../ffi/link.ts";
import type { Port } from "../ffi/port.ts";
import type { Dataplane, Region, VringConfig, VringFd } from "../vhost/dataplane.ts";
import { RefusedError } from "../vhost/error.ts";
import type { Fd } from "../vhost/fd.ts";
import {
  emptyLink,
  type FileIdentity,
  inUse,
  isBase,
  isSameFile,
  type LinkTable,
  type LinkVring,
  memoryFile,
  runs,
  withEnabled,
  withoutRings,
  withStarted,
  withStopped,
} from "../vhost/link_table.ts";
import { hasFeature } from "../vhost/spec.ts";

/** The second VM waits so long, with all that it does, until the first one has let go of what is taken away. */
export const letGo_ms = 1000;

/** One of whom nothing was seen for so long is not there: it was killed, or its VM does not run. */
const silence_ms = 2000;

/** Of a split ring's used area: where the index is (virtio 2.7.8). */
const usedIndexOffset = 2n;

export interface LinkDataplaneParts {
  readonly link: Link;
  /** Of an engine without workers: it has the second VM's memory mapped, and no ring of it runs there. */
  readonly port: Port;
  readonly queuePairs: number;
  /** The memory's file is there, or is another one. May not throw. */
  readonly memoryChanged: () => void;
  /** The first VM is to ring other eventfds. May not throw. */
  readonly vectorsChanged: () => void;
  /** The first VM goes by what is told, or does not any more. May not throw. */
  readonly linked: (linked: boolean) => void;
}

/** A region, and the file that it is of. */
interface MemoryPart {
  readonly region: Region;
  readonly file: FileIdentity;
}

/** Closes nothing but what it was given of the front end; link and port are the caller's. */
export class LinkDataplane implements Dataplane, Disposable {
  readonly #parts: LinkDataplaneParts;
  #table: LinkTable;
  /** By region, in the table's order. */
  #files: readonly MemoryPart[] = [];
  readonly #calls = new Map<number, Fd>();
  /** Rung where there is no call fd. */
  readonly #nobody = openEventfd();
  /** What the first VM has in BAR 2. */
  #mapped: FileIdentity | undefined;
  #generation: number;
  #published_ms = 0;
  #beats: number;
  #beat_ms = -Infinity;
  #starts = 0;
  #linked = false;

  constructor(parts: LinkDataplaneParts) {
    this.#parts = parts;
    this.#table = emptyLink(parts.queuePairs);
    this.#generation = parts.link.publish(this.#table);
    this.#beats = parts.link.beats;
    // No start of a ring may be taken for one that the process before us told of.
    this.#starts = this.#generation * 1024 % 0x4000_0000;
  }

  /** What the first VM is told, if it can reach it. */
  get table(): LinkTable {
    return this.#table;
  }

  /** The file of the second VM's memory, still ours; undefined where there is none yet. */
  get memoryFd(): number | undefined {
    const [first] = this.#files;
    return first && this.#parts.port.regionFd(first.region);
  }

  /** What a vector for each ring rings, in order; borrowed. */
  get vectors(): readonly number[] {
    return this.#table.vrings.map((_, index) => (this.#calls.get(index) ?? this.#nobody).number);
  }

  /** Whether the first VM has other memory in BAR 2 than the second one has by now. */
  get isForeign(): boolean {
    const [first] = this.#files;
    return this.#mapped !== undefined && first !== undefined && !isSameFile(this.#mapped, first.file);
  }

  /** The first VM has this memory mapped, and rings `peer`; undefined: it has gone. */
  reach(peer: number | undefined): void {
    this.#mapped = peer === undefined ? undefined : this.#files[0]?.file;
    this.ringAs(peer ?? 0);
  }

  /** The first VM is to ring as `peer` from now on. What it rang meanwhile may have gone to nobody. */
  ringAs(peer: number): void {
    this.#tell({ ...this.#table, peer });
  }

  /** Calls every driver: a call too many does no harm. */
  callAll(): void {
    for (const call of this.#calls.values()) signalEventfd(call.number);
  }

  /** Whether the first VM goes by all that was told. */
  get isFollowed(): boolean {
    return this.#mapped !== undefined && this.#isThere() && this.#parts.link.isAcknowledged(this.#generation);
  }

  /** So many rings the first VM works on, as it says. */
  get vringsInUse(): number {
    return this.#table.vrings.filter(({ start }, index) => {
      const stand = this.#parts.link.standOf(index);
      return start !== 0 && stand.start === start && stand.base === inUse;
    }).length;
  }

  /** Whether something in the first VM still looks at the page. */
  #isThere(): boolean {
    const { beats } = this.#parts.link;
    const now_ms = performance.now();
    if (beats !== this.#beats) this.#beat_ms = now_ms;
    this.#beats = beats;
    return now_ms - this.#beat_ms < silence_ms;
  }

  /** To be called a few times a second. */
  look(): void {
    if (this.isFollowed) return this.#setLinked(!this.isForeign);
    const isLate = performance.now() - this.#published_ms > letGo_ms;
    if (this.#mapped === undefined || !this.#isThere() || isLate) this.#setLinked(false);
  }

  /** May be called again. */
  [Symbol.dispose](): void {
    for (const call of this.#calls.values()) call[Symbol.dispose]();
    this.#calls.clear();
    this.#nobody[Symbol.dispose]();
  }

  // What the front end asks for.

  setMtu(mtu: number | undefined): void {
    this.#tell({ ...this.#table, mtu });
  }

  setMemory(regions: readonly Region[], fds: readonly Fd[]): void {
    const files = regions.map((region, index) => ({ region, file: identifyFile(fds[index]!.number) }));
    this.#checkFiles(files);
    this.#parts.port.setMemory(regions, fds);
    this.#adopt(files);
  }

  addRegion(region: Region, fd: Fd): void {
    const files = [...this.#files, { region, file: identifyFile(fd.number) }];
    this.#checkFiles(files);
    this.#parts.port.addRegion(region, fd);
    this.#adopt(files);
  }

  removeRegion(region: Region): void {
    const files = this.#files.filter((one) => one.region.gpa !== region.gpa);
    this.#adopt(files);
    this.#parts.port.removeRegion(region);
  }

  startVring(index: number, config: VringConfig): void {
    this.#starts++;
    this.#tell(withStarted(this.#table, index, config, this.#starts));
  }

  stopVring(index: number): number {
    const vring = this.#table.vrings[index]!;
    const { features } = this.#table;
    this.#letGo(withStopped(this.#table, index));
    return this.#baseOf(index, vring, features);
  }

  enableVring(index: number, enabled: boolean): void {
    if (this.#table.vrings[index]!.enabled !== enabled) this.#tell(withEnabled(this.#table, index, enabled));
  }

  /** Kicks go nowhere yet: the first VM polls. */
  setVringFd(index: number, kind: VringFd, fd: Fd | undefined): void {
    if (kind !== "call") return;
    this.#calls.get(index)?.[Symbol.dispose]();
    this.#calls.delete(index);
    if (fd !== undefined) this.#calls.set(index, fd.move());
    this.#parts.vectorsChanged();
  }

  reset(): void {
    const { peer } = this.#table;
    this.#letGo({ ...emptyLink(this.#parts.queuePairs), peer });
    this.#files = [];
    for (const call of this.#calls.values()) call[Symbol.dispose]();
    this.#calls.clear();
    this.#parts.port.reset();
  }

  // What a link is never asked for, by its offer.

  makeInflight(size: bigint): Fd {
    return openMemoryFile(size);
  }

  setInflight(): void {
    throw new RefusedError("what is in the first VM's hands cannot be noted");
  }

  setLog(): void {
    throw new RefusedError("what the first VM writes cannot be logged: a VM that is linked cannot migrate");
  }

  setLogFd(): void {
    this.setLog();
  }

  logVring(): void {
    this.setLog();
  }

  announce(): void {}

  advisePostCopy(): number {
    throw new RefusedError("pages cannot be fetched for the first VM");
  }

  listenPostCopy(): void {
    this.advisePostCopy();
  }

  endPostCopy(): void {}

  regionAddress(region: Region): bigint {
    return this.#parts.port.regionAddress(region);
  }

  // Within.

  #checkFiles(files: readonly MemoryPart[]): void {
    const file = memoryFile(files.map((one) => one.file));
    const before = this.#files[0]?.file;
    if (!runs(this.#table) || file === undefined || isSameFile(file, before)) return;
    throw new RefusedError("guest memory changes its file while rings run: ivshmem maps it once");
  }

  #adopt(files: readonly MemoryPart[]): void {
    const before = this.#files[0]?.file;
    this.#files = files;
    const regions = files.map(({ region: { gpa, size, mmapOffset } }) => ({ gpa, size, offset: mmapOffset }));
    const next = { ...this.#table, regions };
    if (runs(this.#table)) this.#letGo(next);
    else this.#tell(next);
    if (!isSameFile(before, files[0]?.file)) this.#parts.memoryChanged();
  }

  #tell(next: LinkTable): void {
    this.#table = next;
    const reachable = this.#mapped !== undefined && !this.isForeign;
    this.#generation = this.#parts.link.publish(reachable ? next : withoutRings(next));
    this.#published_ms = performance.now();
  }

  /** Tells what is taken away, and waits until the first VM has let go of it; not where it does not follow anyhow. */
  #letGo(next: LinkTable): void {
    const before = this.#table;
    const isLinked = this.#isThere() && (this.#linked || this.isFollowed);
    this.#tell(next);
    if (!isLinked) return this.#setLinked(false);
    if (!runs(before) || this.#parts.link.isAcknowledged(this.#generation, letGo_ms)) return;
    this.#setLinked(false);
  }

  #setLinked(linked: boolean): void {
    if (linked === this.#linked) return;
    this.#linked = linked;
    this.#parts.linked(linked);
  }

  /**
   * Where a ring stands that has stopped: as the first VM says, if it left it. Else a split ring's own index tells how
   * far buffers were given back; of a packed ring nothing but its beginning is known.
   */
  #baseOf(index: number, { start, size, base, used }: LinkVring, features: bigint): number {
    const stand = this.#parts.link.standOf(index);
    const isLeft = stand.start === start && stand.base !== inUse;
    if (isLeft && isBase(features, size, stand.base)) return stand.base;
    if (hasFeature(features, "RING_PACKED")) return base;
    const [low, high] = this.#parts.port.read(used + usedIndexOffset, 2);
    return low! | high! << 8;
  }
}

/** What a link's port never offers: what could not be kept. */
export const linkWithheld: readonly string[] = ["LOG_ALL", "LOG_SHMFD", "INFLIGHT_SHMFD", "RARP", "GUEST_ANNOUNCE"];

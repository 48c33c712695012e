/** A data plane that carries nothing out: it records what it is asked for, and notes every call that is not legal. */

import type { Dataplane, Region, VringConfig, VringFd } from "../vhost/dataplane.ts";
import type { Fd } from "../vhost/fd.ts";
import type { FakeFds } from "./fake_fds.ts";

const ringPacked = 1n << 34n;
const logAll = 1n << 26n;

/** Where the guest's address 0 would be mapped. */
export const mappedAt = 0x7a00_0000_0000n;

export class Recorder implements Dataplane {
  /** One line for each call, as in `start 0` or `call 1 signalled`. */
  readonly calls: string[] = [];
  /** What was not legal; empty when all is well. */
  readonly violations: string[] = [];
  readonly running = new Map<number, VringConfig>();
  readonly enabled = new Set<number>();
  regions: readonly Region[] = [];
  mtu: number | undefined;
  resetCount = 0;
  /** Asked before each call but `reset`; what it throws, the call throws. */
  beforeCall: (call: string) => void = () => {};
  /** How far a ring gets from start to stop. */
  advance = 0;
  readonly #eventfds = new Map<string, number>();
  #userfault: number | undefined;
  readonly #fds: FakeFds;

  constructor(fds: FakeFds) {
    this.#fds = fds;
  }

  /** Eventfds and userfaultfd that it owns. */
  get fdCount(): number {
    return this.#eventfds.size + (this.#userfault === undefined ? 0 : 1);
  }

  /** The calls since the last time. */
  takeCalls(): string[] {
    return this.calls.splice(0);
  }

  setMtu(mtu: number | undefined): void {
    this.#record(`mtu ${mtu}`);
    this.mtu = mtu;
  }

  setMemory(regions: readonly Region[], fds: readonly Fd[]): void {
    this.#record(`memory ${regions.length}`);
    this.#check(fds.length === regions.length && fds.every((fd) => this.#fds.live.has(fd.number)), "fds of a table");
    regions.forEach((one, i) => this.#checkRegion(one, regions.slice(0, i)));
    this.#adopt([...regions]);
  }

  addRegion(region: Region, fd: Fd): void {
    this.#record(`add ${region.gpa.toString(16)}`);
    this.#check(this.#fds.live.has(fd.number), "fd of a region");
    this.#checkRegion(region, this.regions);
    this.#adopt([...this.regions, region]);
  }

  removeRegion(region: Region): void {
    this.#record(`remove ${region.gpa.toString(16)}`);
    const rest = this.regions.filter((one) => one.gpa !== region.gpa || one.size !== region.size);
    this.#check(rest.length === this.regions.length - 1, "removal of a region that is there");
    this.#adopt(rest);
  }

  #checkRegion(one: Region, others: readonly Region[]): void {
    this.#check(one.size > 0n && one.gpa + one.size < 1n << 64n, "region within 64 bits");
    const apart = others.every((other) => one.gpa + one.size <= other.gpa || other.gpa + other.size <= one.gpa);
    this.#check(apart, "regions apart from each other");
  }

  #adopt(regions: readonly Region[]): void {
    this.regions = regions;
    for (const [index, config] of this.running) this.#checkPlaces(index, config);
  }

  startVring(index: number, config: VringConfig): void {
    this.#record(`start ${index}`);
    this.#check(!this.running.has(index), `start of stopped ring ${index}`);
    this.#checkPlaces(index, config);
    const { size, base } = config;
    const packed = (config.features & ringPacked) !== 0n;
    this.#check(size > 0 && size <= 32768 && (packed || (size & (size - 1)) === 0), `size ${size}`);
    const suits = packed ? (base & 0x7fff) < size && (base >>> 16 & 0x7fff) < size : base <= 0xffff;
    this.#check(suits, `base ${base} of ${size}`);
    this.running.set(index, config);
  }

  #checkPlaces(index: number, { features, size, desc, avail, used }: VringConfig): void {
    const packed = (features & ringPacked) !== 0n;
    const areas: [bigint, number, number][] = [
      [desc, 16 * size, 16],
      [avail, packed ? 4 : 6 + 2 * size, packed ? 4 : 2],
      [used, packed ? 4 : 6 + 8 * size, 4],
    ];
    for (const [gpa, bytes, align] of areas) {
      this.#check(gpa % BigInt(align) === 0n, `alignment of ring ${index}`);
      const inside = this.regions.some((one) => gpa >= one.gpa && gpa + BigInt(bytes) <= one.gpa + one.size);
      this.#check(inside, `ring ${index} within memory`);
    }
  }

  stopVring(index: number): number {
    this.#record(`stop ${index}`);
    const config = this.running.get(index);
    this.#check(config !== undefined, `stop of running ring ${index}`);
    this.running.delete(index);
    if (config === undefined) return 0;
    if ((config.features & ringPacked) === 0n) return (config.base + this.advance) & 0xffff;
    const place = (config.base & 0x7fff) + this.advance % config.size;
    const over = place >= config.size;
    const word = (over ? place - config.size : place) | ((config.base & 0x8000) ^ (over ? 0x8000 : 0));
    return (word | word << 16) >>> 0;
  }

  setLog(fd: Fd, size: bigint, offset: bigint): void {
    this.#record(`log ${size}@${offset}`);
    this.#check(this.#fds.live.has(fd.number) && size > 0n, "fd of a log");
  }

  setLogFd(fd: Fd): void {
    this.#record("log fd");
    const before = this.#eventfds.get("log");
    if (before !== undefined) this.#fds.close(before);
    this.#eventfds.set("log", fd.take());
  }

  logVring(index: number, config: VringConfig): void {
    const all = (config.features & logAll) !== 0n;
    this.#record(`log ${index} ${all ? "all" : "none"} ${config.flags} ${config.log.toString(16)}`);
    const before = this.running.get(index);
    const same = before !== undefined &&
      (["size", "base", "desc", "avail", "used"] as const).every((name) => before[name] === config[name]) &&
      ((before.features ^ config.features) & ~logAll) === 0n;
    this.#check(same, `log of running ring ${index}`);
    this.running.set(index, config);
  }

  makeInflight(size: bigint): Fd {
    this.#check(size > 0n && size < 1n << 31n, `inflight memory of ${size} bytes`);
    return this.#fds.open();
  }

  setInflight(fd: Fd, size: bigint, offset: bigint, queues: number, queueSize: number): void {
    this.#record(`inflight ${size}@${offset} ${queues}x${queueSize}`);
    this.#check(this.#fds.live.has(fd.number) && size > 0n, "fd of inflight memory");
    this.#check(this.running.size === 0, "inflight memory before rings");
  }

  announce(mac: bigint): void {
    this.#record(`announce ${mac.toString(16)}`);
    this.#check(mac < 1n << 48n, "MAC address");
  }

  enableVring(index: number, enabled: boolean): void {
    this.#record(`${enabled ? "enable" : "disable"} ${index}`);
    if (enabled) this.enabled.add(index);
    else this.enabled.delete(index);
  }

  setVringFd(index: number, kind: VringFd, fd: Fd | undefined): void {
    this.#record(`${kind} ${index}${fd === undefined ? " none" : ""}`);
    const key = `${kind} ${index}`;
    const before = this.#eventfds.get(key);
    if (before !== undefined) this.#fds.close(before);
    this.#eventfds.delete(key);
    if (fd === undefined) return;
    this.#eventfds.set(key, fd.take());
    // As the contract of a real one says: what was signalled before went to nobody.
    if (kind === "call" && this.running.has(index)) this.calls.push(`call ${index} signalled`);
  }

  advisePostCopy(): number {
    this.#record("advise");
    this.#userfault = this.#replaceUserfault(this.#fds.open().take());
    return this.#userfault;
  }

  #replaceUserfault<F extends number | undefined>(fd: F): F {
    if (this.#userfault !== undefined) this.#fds.close(this.#userfault);
    return fd;
  }

  listenPostCopy(): void {
    this.#record("listen");
    this.#check(this.#userfault !== undefined, "post-copy without userfaultfd");
    this.#check(this.regions.length === 0, "post-copy after memory");
  }

  endPostCopy(): void {
    this.#record("end");
    this.#userfault = this.#replaceUserfault(undefined);
  }

  regionAddress(region: Region): bigint {
    this.#check(this.regions.some((one) => one.gpa === region.gpa && one.size === region.size), "region is there");
    return region.gpa + mappedAt;
  }

  reset(): void {
    this.#userfault = this.#replaceUserfault(undefined);
    this.calls.push("reset");
    this.resetCount++;
    this.mtu = undefined;
    this.running.clear();
    this.enabled.clear();
    this.regions = [];
    for (const number of this.#eventfds.values()) this.#fds.close(number);
    this.#eventfds.clear();
  }

  #record(call: string): void {
    this.beforeCall(call);
    this.calls.push(call);
  }

  #check(fine: boolean, what: string): void {
    if (!fine) this.violations.push(`not legal: ${what}, at ${this.calls.at(-1)}`);
  }
}

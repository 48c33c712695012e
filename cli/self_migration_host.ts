/**
 * `vhostctl migration-host`, for this program's own use: a host with a simulated guest that comes and goes, in a
 * process of its own. It does what QEMU does: attaches the guest to a back end, and migrates it to another such one.
 *
 * Its parent calls the methods of `MigrationHost`.
 *
 * @module
 */
import { Command } from "@commander-js/extra-typings";
import {
  type Channel,
  type Fd,
  featureNames,
  featureSet,
  Frontend,
  Guest,
  type GuestDifference,
  type GuestTraffic,
  GuestTransfer,
  hasFeature,
  openMemoryFile,
  type Pump,
} from "../mod.ts";
import { CommandError } from "./error.ts";
import { countersOf } from "./guest.ts";
import { connect } from "./guest_attach.ts";
import { logBytes, setLogging } from "./guest_log.ts";
import type { GuestCounters } from "./guest_process.ts";
import type { GuestShape } from "./guest_shape.ts";
import { answerCalls } from "./host_calls.ts";

/** Pages that went over because they were logged. */
export interface Logged {
  readonly pages: number;
  /** Of these: they were the same before, so that they were marked in vain. */
  readonly same: number;
  /** Marks that stand for no memory of the guest's. */
  readonly outside: number;
}

/** How the memory of both guests compares. */
export interface Comparison {
  readonly pages: number;
  readonly different: number;
  /** Of these the first few. */
  readonly differences: readonly Difference[];
}

/** Addresses as numbers: they are far below 2^53. */
export type Difference = Omit<GuestDifference, "gpa"> & { readonly gpa: number };

const pageBytes = 4096n;
/** The one message between two hosts: here is my guest's memory. */
const memoryMessage = { request: 1, flags: 1 } as const;
const patience_ms = 5000;
const nothing: Logged = { pages: 0, same: 0, outside: 0 };
const nobody = "no guest is open";

/** A guest and its connection, from `open` to `close`. */
interface Opened {
  readonly guest: Guest;
  readonly frontend: Frontend;
  readonly features: bigint;
  /** What goes with it. */
  readonly stack: DisposableStack;
}

/** A migration under way, at its source. */
interface Outgoing {
  readonly transfer: GuestTransfer;
  log: Fd | undefined;
  logged: Logged;
}

/** One guest at a time. */
export class MigrationHost implements AsyncDisposable {
  readonly #pump: Pump;
  #opened: Opened | undefined;
  #outgoing: Outgoing | undefined;

  constructor(pump: Pump) {
    this.#pump = pump;
  }

  #here(): Opened {
    if (this.#opened === undefined) throw new CommandError(nobody);
    return this.#opened;
  }

  #leaving(): Outgoing {
    if (this.#outgoing === undefined) throw new CommandError("no migration is under way");
    return this.#outgoing;
  }

  /** Opens a guest and connects it, as far as a front end does before the guest's driver, or its state, comes. */
  async open({ socket, shape }: { readonly socket: string; readonly shape: GuestShape }): Promise<void> {
    const { features: names, gpa, ...rest } = shape;
    using stack = new DisposableStack();
    const frontend = stack.use(new Frontend(await connect(this.#pump, socket)));
    await frontend.handshake();
    const wanted = featureSet(names);
    const missing = wanted & ~frontend.features;
    if (missing !== 0n) throw new CommandError(`the back end does not offer ${featureNames(missing).join(", ")}`);
    const guest = Guest.open({ ...rest, features: wanted, gpa: BigInt(gpa) });
    const features = wanted | frontend.features & featureSet(["PROTOCOL_FEATURES"]);
    this.#opened = { guest, frontend, features, stack: stack.move() };
  }

  /** Starts its rings: where the guest would have them begin, or where another back end left off. */
  async attach({ bases }: { readonly bases?: readonly number[] | undefined }): Promise<void> {
    const { guest, frontend, features } = this.#here();
    await frontend.setFeatures(features);
    await frontend.setMemory(guest.regions, guest.regions.map(() => guest.memoryFd));
    await this.#startRings(bases);
    await frontend.driverOk();
  }

  async #startRings(bases: readonly number[] | undefined, flags = 0): Promise<void> {
    const { guest, frontend, features } = this.#here();
    const rings = this.#rings();
    for (const index of rings) {
      const vring = guest.vring(index);
      await frontend.startVring(index, { ...vring, base: bases?.[index] ?? vring.base, flags });
    }
    // Without protocol features rings are enabled from the start (vhost-user, Ring states).
    if (!hasFeature(features, "PROTOCOL_FEATURES")) return;
    for (const index of rings) await frontend.enableVring(index, true);
  }

  #rings(): number[] {
    return Array.from({ length: 2 * this.#here().guest.queuePairs }, (_, index) => index);
  }

  /** Lets the guest run. */
  run(traffic: GuestTraffic): void {
    this.#here().guest.start(traffic);
  }

  /** Lets the guest stand still, and go on where it was. */
  async rest(): Promise<void> {
    await this.#here().guest.stop();
  }

  counters(): GuestCounters {
    return countersOf(this.#here().guest);
  }

  /** Kicks all rings. */
  kick(): void {
    this.#here().guest.kick();
  }

  /** Gives the memory of its guest to whoever connects to a socket: this is where one is to arrive. */
  expect({ path }: { readonly path: string }): void {
    const { guest, stack } = this.#here();
    const accept = (channel: Channel) => {
      stack.defer(() => channel.close());
      channel.listen({ message: () => {}, hangup: () => {} });
      channel.send(memoryMessage.request, memoryMessage.flags, new Uint8Array(), [guest.memoryFd]);
    };
    stack.use(this.#pump.listen(path, { accept }));
  }

  /** Begins to migrate to where a guest is expected. */
  async migrate({ path }: { readonly path: string }): Promise<void> {
    const { guest } = this.#here();
    const { promise, resolve, reject } = Promise.withResolvers<Fd>();
    const channel = this.#pump.connect(path);
    const timer = setTimeout(() => reject(new CommandError(`no guest memory came: ${path}`)), patience_ms);
    channel.listen({
      message: ({ fds: [fd] }) => fd === undefined ? reject(new CommandError("a message without memory")) : resolve(fd),
      hangup: (reason) => reject(new CommandError(`the other host is gone: ${reason}`)),
    });
    try {
      using memory = await promise;
      this.#outgoing = { transfer: new GuestTransfer(guest, memory.number), log: undefined, logged: nothing };
    } finally {
      clearTimeout(timer);
      channel.close();
    }
  }

  /**
   * Gives the back end a dirty log: the first, by which logging begins, or one in the place of that before, which is
   * read for the last time. QEMU's order. The log lies `offset` bytes into its file, and is `spare` bytes longer than
   * it must be.
   */
  async log({ offset, spare }: { readonly offset: number; readonly spare: number }): Promise<void> {
    const { guest, frontend, features } = this.#here();
    const begins = this.#leaving().log === undefined;
    await this.#giveLog(offset, spare);
    if (begins) await setLogging(frontend, guest, features, true);
  }

  async #giveLog(offset: number, spare: number): Promise<void> {
    const { guest, frontend } = this.#here();
    const outgoing = this.#leaving();
    const size = logBytes(guest) + BigInt(spare);
    using fd = openMemoryFile(BigInt(offset) + size);
    await frontend.request("SET_LOG_BASE", { size, offset: BigInt(offset) }, [fd.number]);
    if (outgoing.log !== undefined) this.copy({ pages: "logged" });
    outgoing.transfer.setLog(fd.number, BigInt(offset), size);
    outgoing.log?.[Symbol.dispose]();
    outgoing.log = fd.move();
  }

  /** Copies pages to the other host: all, or those of the log. */
  copy({ pages }: { readonly pages: "all" | "logged" }): void {
    const outgoing = this.#leaving();
    const found = outgoing.transfer.copy(pages);
    if (pages === "all") return;
    const { pages: count, same, outside } = outgoing.logged;
    outgoing.logged = {
      pages: count + Number(found.pages),
      same: same + Number(found.same),
      outside: outside + Number(found.outside),
    };
  }

  /** What went over since the migration began because it was logged. */
  logged(): Logged {
    return this.#leaving().logged;
  }

  /**
   * Stops the device and starts it again where it was, logging all along: the log of before is read when the rings have
   * stopped, and never again; the new one comes when they run.
   */
  async restart({ offset, spare }: { readonly offset: number; readonly spare: number }): Promise<void> {
    const outgoing = this.#leaving();
    const { guest, frontend, features } = this.#here();
    const bases = await this.stopRings();
    this.copy({ pages: "logged" });
    outgoing.log?.[Symbol.dispose]();
    outgoing.log = undefined;
    await frontend.setFeatures(features | featureSet(["LOG_ALL"]));
    await this.#startRings(bases, 1);
    guest.kick();
    await frontend.driverOk();
    await this.#giveLog(offset, spare);
  }

  /** Gives up a migration: the guest goes on here. */
  async cancel(): Promise<void> {
    const { guest, frontend, features } = this.#here();
    await setLogging(frontend, guest, features, false);
    this.#forget();
  }

  /**
   * Halts the guest, with up to so many more frames in each ring that nobody was told of, and copies what its driver
   * may have written: from now on pages are copied for no other reason than that they are in the log.
   */
  async pause({ frames }: { readonly frames: number }): Promise<void> {
    const { guest } = this.#here();
    await guest.stop();
    guest.offer(frames);
    this.#leaving().transfer.copy("own");
  }

  /** Stops the device; the base of each ring is where another is to begin. */
  async stopRings(): Promise<number[]> {
    const { frontend } = this.#here();
    if (hasFeature(this.#here().features, "PROTOCOL_FEATURES")) await frontend.request("SET_STATUS", 0n);
    const bases: number[] = [];
    for (const index of this.#rings()) bases.push(await frontend.stopVring(index));
    return bases;
  }

  compare(): Comparison {
    const { count, differences } = this.#leaving().transfer.compare();
    const bytes = this.#here().guest.regions.reduce((sum, { size }) => sum + size, 0n);
    return {
      pages: Number(bytes / pageBytes),
      different: count,
      differences: differences.map((one) => ({ ...one, gpa: Number(one.gpa) })),
    };
  }

  /** All that the guest knows beside its memory. */
  save(): { readonly state: string } {
    return { state: this.#here().guest.save().toBase64() };
  }

  load({ state }: { readonly state: string }): void {
    this.#here().guest.load(Uint8Array.fromBase64(state));
  }

  #forget(): void {
    const outgoing = this.#outgoing;
    this.#outgoing = undefined;
    outgoing?.log?.[Symbol.dispose]();
    outgoing?.transfer[Symbol.dispose]();
  }

  /** Ends the guest, as a QEMU that quits. Nothing happens where there is none. */
  async close(): Promise<void> {
    this.#forget();
    const opened = this.#opened;
    this.#opened = undefined;
    opened?.stack.dispose();
    await opened?.guest.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** The command with its action. */
export function command() {
  return new Command("migration-host")
    .description("A host of simulated guests that migrate, for the use of other commands.")
    .action(() => answerCalls((pump) => new MigrationHost(pump)));
}

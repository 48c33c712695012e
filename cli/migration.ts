/**
 * One migration of a guest, from QEMU to QEMU, and what became of it.
 *
 * @module
 */
import { CommandError } from "./error.ts";
import { type PortTally, SidePorts, tallySince } from "./migration_ports.ts";
import { Convergence, type MigrateInfo, type Progress, progressOf, type Stall } from "./migration_progress.ts";
import { type Drops, type MigrationResult, type SideState, sourceText } from "./migration_outcome.ts";
import { ChangedSetting, type MigrationSetting } from "./migration_setting.ts";
import { pause } from "./pause.ts";
import { Qmp, QmpClosed, type QmpEvent, QmpRefusal } from "./qmp.ts";
import type { SocketAddress } from "./socket_address.ts";

/** What is to be done. */
export interface MigrationPlan {
  readonly from: SocketAddress;
  /** QEMU's URI of the destination. */
  readonly to: string;
  readonly toQmp?: SocketAddress | undefined;
  readonly setting: MigrationSetting;
  /** Whether to switch to post-copy where it does not converge. */
  readonly postcopy: boolean;
  readonly cancelAfter_s?: number | undefined;
  /** Control sockets of the `serve` processes, if not beside the ports. */
  readonly control?: string | undefined;
  readonly toControl?: string | undefined;
}

/** Who hears how it goes. */
export interface MigrationListener {
  progress(progress: Progress): void;
  stalled(stall: Stall, switchesToPostcopy: boolean): void;
  note(text: string): void;
}

interface Counts {
  readonly source: PortTally;
  readonly destination: PortTally;
}

interface RunState {
  readonly status: string;
  readonly running: boolean;
}

const period_ms = 500;
const cancel_ms = 30_000;
/** A destination has the guest's state already, and only has to begin. */
const destinationStart_ms = 10_000;
/** A destination that was left ends by itself, where it does. */
const destinationEnd_ms = 2000;
const sourceResume_ms = 5000;
/** QEMU has guests announce themselves for about so long. */
const announcement_ms = 1000;
const announcement_max_ms = 5000;
const running = ["setup", "active", "device", "pre-switchover", "cancelling", "wait-unplug", "postcopy-active"];

/** From open connections to the result. */
export class Migration implements AsyncDisposable {
  readonly #plan: MigrationPlan;
  readonly #listener: MigrationListener;
  readonly #source: Qmp;
  readonly #destination: Qmp | undefined;
  readonly #ports: Readonly<Record<keyof Counts, SidePorts>>;
  readonly #happenings: Happenings;
  readonly #convergence = new Convergence();
  #counts: Counts = { source: {}, destination: {} };
  /** As it was counted when the guest stood still. */
  #gap: Counts | undefined;
  #begun_ms = 0;
  /** When ports were last asked. */
  #taken_ms = -Infinity;
  #cancelled_ms: number | undefined;
  #inPostcopy = false;
  #wasRunning = true;

  private constructor(
    plan: MigrationPlan,
    listener: MigrationListener,
    sides: { readonly source: Qmp; readonly destination: Qmp | undefined; readonly happenings: Happenings },
    ports: Readonly<Record<keyof Counts, SidePorts>>,
  ) {
    this.#plan = plan;
    this.#listener = listener;
    this.#source = sides.source;
    this.#destination = sides.destination;
    this.#happenings = sides.happenings;
    this.#ports = ports;
  }

  /** Connects to both sides; throws a `CommandError` where that fails. */
  static async open(plan: MigrationPlan, listener: MigrationListener): Promise<Migration> {
    await using stack = new AsyncDisposableStack();
    const happenings = new Happenings();
    const source = stack.use(await Qmp.open(plan.from, (event) => happenings.hear(event)));
    const destination = plan.toQmp === undefined ? undefined : stack.use(await Qmp.open(plan.toQmp));
    const ports = {
      source: await SidePorts.find(source, plan.control),
      destination: await SidePorts.find(destination, plan.toControl),
    };
    stack.move();
    return new Migration(plan, listener, { source, destination, happenings }, ports);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#source[Symbol.asyncDispose]();
    await this.#destination?.[Symbol.asyncDispose]();
  }

  /**
   * Migrates, until the guest is there, or here again. Throws a `CommandError` where nothing was begun.
   *
   * @param stop Cancels it.
   */
  async run(stop: AbortSignal): Promise<MigrationResult> {
    await this.#checkSource();
    await this.#checkDestination();
    const changed = await ChangedSetting.make(this.#source, this.#plan.setting);
    try {
      await this.#prepareDestination();
      this.#counts = await this.#count();
      await this.#begin(stop);
    } catch (reason) {
      await changed.restore().catch(() => {});
      throw reason;
    }
    const cancel = new AbortController();
    const { cancelAfter_s } = this.#plan;
    const timer = cancelAfter_s === undefined ? undefined : setTimeout(() => cancel.abort(), 1000 * cancelAfter_s);
    try {
      return await this.#finish(await this.#follow(AbortSignal.any([stop, cancel.signal])), changed);
    } finally {
      clearTimeout(timer);
    }
  }

  async #checkSource(): Promise<void> {
    const info = await this.#query();
    if (running.includes(info.status ?? "")) {
      throw new CommandError(
        `a migration is under way already: ${info.status}: wait for it, or cancel it: migrate_cancel`,
      );
    }
    const blocked = info["blocked-reasons"]?.[0];
    if (blocked !== undefined) throw new CommandError(`QEMU cannot migrate this guest: ${withoutStop(blocked)}`);
    const { status, running: isRunning } = await this.#runState(this.#source);
    this.#wasRunning = isRunning;
    if (status === "inmigrate") {
      throw new CommandError("no guest to migrate: the source waits for one itself: exchange --from and --to-qmp");
    }
    if (status === "postmigrate") {
      throw new CommandError("no guest to migrate: it has left this QEMU already: give --from where it is now");
    }
    const kvm = await this.#source.execute("query-kvm") as { enabled?: boolean };
    const { qemu } = await this.#source.execute("query-version") as { qemu: { major: number } };
    if (kvm.enabled === false && qemu.major < 10) {
      this.#listener.note(
        `QEMU ${qemu.major} emulates this guest without KVM, and may lose what it wrote meanwhile: ` +
          "do not trust such a migration with data",
      );
    }
  }

  async #checkDestination(): Promise<void> {
    if (this.#destination === undefined) return;
    const { status } = await this.#runState(this.#destination);
    if (status === "inmigrate") return;
    throw new CommandError(`destination does not wait for a guest: ${status}: start its QEMU with -incoming defer`);
  }

  /** Tells a destination that waits to be told (`-incoming defer`) where to listen. */
  async #prepareDestination(): Promise<void> {
    const destination = this.#destination;
    if (destination === undefined) return;
    const { capabilities } = this.#plan.setting;
    await ChangedSetting.make(destination, { capabilities, parameters: {} });
    const info = await destination.execute("query-migrate") as MigrateInfo;
    if (info["socket-address"] !== undefined || this.#plan.to.startsWith("exec:")) return;
    try {
      await destination.execute("migrate-incoming", { uri: this.#plan.to });
    } catch (error) {
      if (error instanceof QmpRefusal && /already been started|duplicate yank/.test(error.reason)) return;
      throw error;
    }
  }

  async #begin(stop: AbortSignal): Promise<void> {
    if (stop.aborted) throw new CommandError("interrupted before the migration began: the guest runs on the source");
    await this.#source.execute("migrate", { uri: this.#plan.to });
    this.#begun_ms = performance.now();
  }

  async #query(): Promise<MigrateInfo> {
    return await this.#source.execute("query-migrate") as MigrateInfo;
  }

  async #runState(qmp: Qmp): Promise<RunState> {
    return await qmp.execute("query-status") as RunState;
  }

  async #count(): Promise<Counts> {
    const [source, destination] = await Promise.all([this.#ports.source.count(), this.#ports.destination.count()]);
    return { source, destination };
  }

  /** Until it ends; returns what QEMU said last. */
  async #follow(stop: AbortSignal): Promise<MigrateInfo> {
    let info: MigrateInfo = {};
    try {
      while (true) {
        info = await this.#query();
        await this.#take(info);
        if (info.status === "completed") return await this.#completed(info);
        if (!running.includes(info.status ?? "")) return info;
        if (stop.aborted) await this.#cancel(info);
        if (this.#cancelled_ms !== undefined && performance.now() - this.#cancelled_ms > cancel_ms) return info;
        await this.#happenings.wait(period_ms, this.#cancelled_ms === undefined ? stop : undefined);
      }
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      // What nobody follows any more must not end when nobody expects it; but in post-copy the guest would be lost.
      if (!this.#inPostcopy) await this.#source.execute("migrate_cancel").catch(() => {});
      return { ...info, status: "failed", "error-desc": error.message };
    }
  }

  /** QEMU says that it is done before it has its sums. */
  async #completed(first: MigrateInfo): Promise<MigrateInfo> {
    let info = first;
    for (let tries = 0; tries < 10 && !info["total-time"]; tries++) {
      await pause(50);
      info = await this.#query();
    }
    return info;
  }

  async #take(info: MigrateInfo): Promise<void> {
    const before = this.#counts;
    const isDue = performance.now() - this.#taken_ms >= period_ms / 2;
    const isNewStop = () => this.#happenings.stopped && this.#gap === undefined;
    if (isDue || isNewStop()) this.#counts = await this.#count();
    if (isNewStop()) {
      // What has no port to go to on the source has none since the guest stopped, which was before this was heard of.
      const { drop_no_buffer } = this.#counts.source;
      const source = drop_no_buffer === undefined ? this.#counts.source : { ...before.source, drop_no_buffer };
      this.#gap = { ...this.#counts, source };
    }
    if (!running.includes(info.status ?? "")) return;
    const seconds = (performance.now() - this.#begun_ms) / 1000;
    const progress = progressOf(info, seconds, this.#counts.source.log_pages);
    // Passes may follow upon one another as fast as they like.
    if (isDue) {
      this.#taken_ms = performance.now();
      this.#listener.progress(progress);
    }
    const stall = this.#convergence.look(progress);
    if (stall === undefined || this.#inPostcopy) return;
    this.#listener.stalled(stall, this.#plan.postcopy);
    if (this.#plan.postcopy) await this.#startPostcopy();
  }

  async #startPostcopy(): Promise<void> {
    try {
      await this.#source.execute("migrate-start-postcopy");
      this.#inPostcopy = true;
    } catch (error) {
      if (!(error instanceof QmpRefusal)) throw error;
      this.#listener.note(`${error.message}: it goes on without post-copy`);
    }
  }

  async #cancel({ status }: MigrateInfo): Promise<void> {
    if (this.#cancelled_ms !== undefined) return;
    this.#cancelled_ms = performance.now();
    if (status === "postcopy-active" || status === "postcopy-paused") {
      this.#cancelled_ms = Infinity;
      return this.#listener.note(
        "not cancelled: post-copy has begun, and the guest runs on the destination: it goes on",
      );
    }
    await this.#source.execute("migrate_cancel");
  }

  async #finish(info: MigrateInfo, changed: ChangedSetting): Promise<MigrationResult> {
    const isDone = info.status === "completed";
    const destination = isDone ? await this.#arrived() : await this.#left();
    const end = await this.#count();
    const dropped = this.#gap === undefined || !isDone ? undefined : {
      source: dropsOf(tallySince(end.source, this.#gap.source)),
      destination: dropsOf(tallySince(end.destination, this.#gap.destination)),
    };
    const { log_pages, announcements } = isDone ? await this.#announced() : await this.#totals();
    const source = await this.#sourceState(isDone, destination);
    if (!isDone) await changed.restore().catch(() => {});
    const event = isDone ? "migrated" : info.status === "cancelled" ? "cancelled" : "failed";
    return {
      event,
      ...event === "failed" ? { reason: this.#reason(info) } : {},
      source,
      destination,
      total_ms: info["total-time"] ?? Math.round(performance.now() - this.#begun_ms),
      setup_ms: info["setup-time"] ?? null,
      downtime_ms: info.downtime ?? null,
      transferred_bytes: info.ram?.["transferred"] ?? null,
      passes: info.ram?.["dirty-sync-count"] ?? null,
      postcopy: this.#inPostcopy,
      logged_pages: log_pages ?? null,
      announcements: announcements ?? null,
      dropped: dropped ?? null,
      not_known: { source: this.#ports.source.absent, destination: this.#ports.destination.absent },
    };
  }

  /** The totals when the guest has had time to say where it is: one that is busy may take longer for it. */
  async #announced(): Promise<PortTally> {
    if (this.#ports.destination.absent !== undefined) return await this.#totals();
    const deadline = performance.now() + announcement_max_ms;
    for (;;) {
      await pause(announcement_ms);
      const totals = await this.#totals();
      if (totals.announcements !== 0 || performance.now() > deadline) return totals;
    }
  }

  /** Pages that the source marked, and announcements that came out of the destination. */
  async #totals(): Promise<PortTally> {
    const { source, destination } = await this.#count();
    const { log_pages } = source;
    const { announcements } = destination;
    return { ...log_pages === undefined ? {} : { log_pages }, ...announcements === undefined ? {} : { announcements } };
  }

  #reason(info: MigrateInfo): string {
    if (info["error-desc"] !== undefined) {
      const advice = this.#plan.postcopy ? ": post-copy takes vhostctl serve with postcopy=on at the destination" : "";
      return withoutStop(info["error-desc"]) + advice;
    }
    if (this.#cancelled_ms !== undefined) return `QEMU has not cancelled within ${cancel_ms / 1000} s: ${info.status}`;
    return `QEMU gives no reason: ${info.status}`;
  }

  /** Where the guest should run now. */
  async #arrived(): Promise<SideState> {
    if (this.#destination === undefined) return { status: "not known", text: "not asked: give --to-qmp" };
    try {
      const found = await this.#await(this.#destination, destinationStart_ms, ({ status }) => status !== "inmigrate");
      if (found.running) return { status: "running", text: "the guest runs there" };
      if (!this.#wasRunning) return { status: found.status, text: "the guest is there, paused as it was" };
      return {
        status: found.status,
        text: `the guest is there, and does not run: ${found.status}: say cont to its QEMU`,
      };
    } catch (error) {
      if (error instanceof QmpClosed) return { status: "gone", text: "its QEMU has ended" };
      if (error instanceof CommandError) return { status: "not known", text: error.message };
      throw error;
    }
  }

  /** Where the guest should have gone. */
  async #left(): Promise<SideState> {
    if (this.#destination === undefined) {
      return { status: "not known", text: "not asked: give --to-qmp; QEMU usually ends when its migration does" };
    }
    try {
      const waits = await this.#await(this.#destination, destinationEnd_ms, ({ status }) => status !== "inmigrate");
      if (waits.status === "inmigrate") return { status: "inmigrate", text: "its QEMU still waits for a guest" };
      return { status: waits.status, text: `its QEMU has a guest: ${waits.status}: see which of both is to go on` };
    } catch (error) {
      if (error instanceof QmpClosed) {
        return { status: "gone", text: "its QEMU has ended: start it anew for another try" };
      }
      if (error instanceof CommandError) return { status: "not known", text: error.message };
      throw error;
    }
  }

  async #sourceState(isDone: boolean, destination: SideState): Promise<SideState> {
    try {
      const settled = ({ status }: RunState) => isDone || !this.#wasRunning || status === "running";
      const { status } = await this.#await(this.#source, sourceResume_ms, settled);
      return { status, text: sourceText(status, destination.status) };
    } catch (error) {
      if (error instanceof QmpClosed) return { status: "gone", text: "its QEMU has ended" };
      if (error instanceof CommandError) return { status: "not known", text: error.message };
      throw error;
    }
  }

  /** Its state as soon as it is as wanted, or when the time is over. */
  async #await(qmp: Qmp, patience_ms: number, wanted: (state: RunState) => boolean): Promise<RunState> {
    const until_ms = performance.now() + patience_ms;
    while (true) {
      const state = await this.#runState(qmp);
      if (wanted(state) || performance.now() > until_ms) return state;
      await pause(50);
    }
  }
}

/** What the source's QEMU tells unasked: each wakes up the one who waits, or who is about to. */
class Happenings {
  #wake: () => void = () => {};
  #isNew = false;
  /** Whether the guest stood still since the beginning. */
  stopped = false;

  hear({ event }: QmpEvent): void {
    if (event === "STOP") this.stopped = true;
    if (event !== "STOP" && !event.startsWith("MIGRATION")) return;
    this.#isNew = true;
    this.#wake();
  }

  /** Until something happens, `stop` is aborted, or the time is over. */
  async wait(time_ms: number, stop: AbortSignal | undefined): Promise<void> {
    if (stop?.aborted || this.#isNew) time_ms = 0;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => this.#wake(), time_ms);
      this.#wake = () => {
        clearTimeout(timer);
        stop?.removeEventListener("abort", this.#wake);
        this.#wake = () => {};
        resolve();
      };
      stop?.addEventListener("abort", this.#wake);
    });
    this.#isNew = false;
  }
}

function dropsOf({ drop_link_down, drop_no_port, drop_no_buffer }: PortTally): Drops | null {
  if (drop_link_down === undefined) return null;
  return { link_down: drop_link_down, no_port: drop_no_port ?? 0, no_buffer: drop_no_buffer ?? 0 };
}

function withoutStop(text: string): string {
  return text.replace(/\.$/, "");
}

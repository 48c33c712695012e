/** Two simulated guests on a `serve` that changes its process, and every packet of theirs. */

import assert from "node:assert/strict";
import type { Ring } from "../cli/bench_result.ts";
import { askTakeover } from "../cli/control_client.ts";
import { attach, type AttachedGuest } from "../cli/guest_attach.ts";
import { Talk } from "../cli/takeover_talk.ts";
import { Guest, type GuestCrew, Pump, type SocketChannel } from "../mod.ts";
import { KeptInflight } from "./kept_inflight.ts";
import { eventually, within } from "./real/process.ts";
import { drops, type PortReport, Serve } from "./real/serve.ts";

/** Patience with whatever must come. */
export const end_ms = 20_000;
const macs = [0x0200_0000_000a, 0x0200_0000_000b] as const;
const frameBytes = 300;

export interface TakeoverOptions {
  readonly ring: Ring;
  readonly queues?: number;
  /** Both guests migrate. */
  readonly logs?: boolean;
  /** Their front ends keep memory of what is in flight. */
  readonly inflight?: boolean;
}

/** Two guests on a `serve` that changes its process, sending to each other as fast as they can. */
export class TakeoverPlace implements AsyncDisposable {
  readonly folder: string;
  readonly serveArguments: readonly string[];
  serve: Serve;
  readonly #pump: Pump;
  readonly #guests: readonly AttachedGuest[];
  readonly #queues: number;
  /** By guest, where their front ends keep some. */
  readonly kept: readonly KeptInflight[];
  readonly #hangups: string[] = [];
  #crew: GuestCrew | undefined;

  private constructor(
    folder: string,
    serve: Serve,
    args: string[],
    pump: Pump,
    guests: AttachedGuest[],
    queues: number,
    kept: KeptInflight[],
  ) {
    this.folder = folder;
    this.serve = serve;
    this.serveArguments = args;
    this.#pump = pump;
    this.#guests = guests;
    this.#queues = queues;
    this.kept = kept;
    for (const { frontend } of guests) void frontend.hangup.then((reason) => this.#hangups.push(reason));
  }

  static async start({ ring, queues = 1, logs, inflight }: TakeoverOptions): Promise<TakeoverPlace> {
    const folder = Deno.makeTempDirSync({ prefix: "vhostctl-takeover-" });
    const args = ["--dir", folder, "--queues", `${queues}`, "--workers", "1"];
    const serve = await Serve.start(...args);
    const pump = Pump.open();
    void pump.run();
    const guests = [];
    for (const port of [0, 1]) {
      const socket = `${folder}/port${port}.sock`;
      guests.push(await attach(pump, { socket, ring, queues, ringSize: 256, frameBytes, logs }));
    }
    const kept = [];
    if (inflight === true) { for (const guest of guests) kept.push(await KeptInflight.give(guest, ring, queues)); }
    return new TakeoverPlace(folder, serve, args, pump, guests, queues, kept);
  }

  load(): void {
    this.#crew = Guest.startTogether(this.#guests.map(({ guest }) => guest), this.#traffics(true));
  }

  #traffics(send: boolean) {
    return [0, 1].map((index) => ({
      sourceMac: macs[index]!,
      destinationMac: macs[1 - index]!,
      frameBytes,
      frameBytesMin: 60,
      checkEvery: 8,
      queues: this.#queues,
      flows: 4 * this.#queues,
      wait: "yield" as const,
      send,
    }));
  }

  /** Until so much more has come to each guest. */
  async traffic(frames = 5000n): Promise<void> {
    const before = this.#guests.map(({ guest }) => guest.stats().received);
    await eventually("traffic both ways", end_ms, () => {
      return this.#guests.every(({ guest }, index) => guest.stats().received > before[index]! + frames) || undefined;
    }, 5);
  }

  /** One process after the other. Returns how long no ring was served. */
  async takeOver(...more: string[]): Promise<number> {
    const old = this.serve;
    this.serve = await Serve.start(...this.serveArguments, ...more, "--takeover");
    const { code } = await within("the end of the process before", end_ms, old.program.finished);
    assert.equal(code, 0, old.program.since());
    assert.equal(old.records.at(-1)!.event, "handed_over");
    assert.deepEqual(this.#hangups, []);
    return (await this.serve.until("took_over"))["gap_ms"] as number;
  }

  /** Asks for a handover as a new process of this version does, and plays it. */
  async impersonate(act: (talk: Talk) => Promise<void>, version = 1): Promise<void> {
    const socket = `${this.folder}/fake.sock`;
    const { promise, resolve } = Promise.withResolvers<SocketChannel>();
    using _listener = this.#pump.listen(socket, { accept: resolve });
    const answer = await askTakeover(this.control, { socket, version });
    assert.equal((answer as { pid: number }).pid, this.serve.program.pid);
    using talk = new Talk(await within("its connection", end_ms, promise));
    await act(talk);
  }

  /** It serves on, and says why. */
  async servesOn(reason: RegExp, from: number): Promise<void> {
    const failure = await this.serve.until("handover_failed", {}, { from });
    assert.match(failure["reason"] as string, reason);
    assert.ok(this.serve.program.running);
    assert.deepEqual(this.#hangups, []);
    await this.traffic(1000n);
  }

  /** How many the process has that serves. */
  descriptors(): number {
    return [...Deno.readDirSync(`/proc/${this.serve.program.pid}/fd`)].length;
  }

  /** Clients of the control socket come and go. */
  async hasDescriptors(count: number): Promise<void> {
    await eventually(`${count} descriptors`, end_ms, () => this.descriptors() === count || undefined);
  }

  get control(): string {
    return `${this.folder}/control.sock`;
  }

  /** Stops the load, and holds every packet of each guest against what the ports counted. */
  async account(): Promise<PortReport[]> {
    await this.#crew?.stop();
    const crew = Guest.startTogether(this.#guests.map(({ guest }) => guest), this.#traffics(false));
    const busy = () => this.#guests.map(({ guest }) => guest.stats().received).join();
    let before = "";
    await eventually("rest", end_ms, () => {
      const now = busy();
      const same = now === before && this.#guests.every(({ guest }) => outstanding(guest) === 0);
      before = now;
      return same || undefined;
    }, 200);
    await crew.stop();
    const reports = [...(await this.serve.ports()).values()];
    const stats = this.#guests.map(({ guest }) => guest.stats());
    for (const index of [0, 1]) {
      const [sender, receiver] = [stats[index]!, stats[1 - index]!];
      const [from, to] = [reports[index]!, reports[1 - index]!];
      const kinds = [receiver.corrupted, receiver.duplicated, receiver.reordered, receiver.bad_header, receiver.broken];
      assert.deepEqual(kinds, [0n, 0n, 0n, 0n, 0n]);
      assert.equal(from.from_guest["packets"], Number(sender.sent + sender.announced), "all that was sent was taken");
      assert.equal(to.to_guest["packets"], Number(receiver.received), "all that was delivered has come");
      const dropped = Object.values(drops({ ...to, from_guest: {} })).reduce((sum, count) => sum + count, 0);
      assert.equal(Number(sender.sent + sender.announced), Number(receiver.received) + dropped, "every packet");
    }
    return reports;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#crew?.stop();
    for (const kept of this.kept) kept[Symbol.dispose]();
    for (const guest of this.#guests) await guest[Symbol.asyncDispose]();
    await this.#pump[Symbol.asyncDispose]();
    await this.serve[Symbol.asyncDispose]();
    await Deno.remove(this.folder, { recursive: true });
  }
}

function outstanding(guest: Guest): number {
  const queues = Array.from({ length: guest.queuePairs }, (_, queue) => queue);
  return queues.reduce((sum, queue) => sum + Number(guest.vringStats(2 * queue + 1).outstanding), 0);
}

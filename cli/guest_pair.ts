/**
 * Two simulated guests on the two ports of a forwarder: one sends, the other receives. Or one that does both.
 *
 * @module
 */
import type { Arrivals, Case } from "./bench_result.ts";
import { type GuestCounters, GuestProcess, type Traffic } from "./guest_process.ts";
import { pause } from "./pause.ts";

export interface PairOptions {
  /** The sender's, then the receiver's; one alone, if it sends to itself. */
  readonly sockets: readonly string[];
  readonly cpus: readonly number[];
  /** Both in one process and on one thread, on the sender's CPU. */
  readonly together: boolean;
  /** Without traffic: `yield` where the forwarder wants the same CPU. */
  readonly wait: "poll" | "yield";
  /** As if both migrated. */
  readonly logs?: boolean;
  /** Every so many packets one is checked byte by byte. */
  readonly checkEvery: number;
}

/** One guest among those of its process. */
interface Place {
  readonly process: GuestProcess;
  readonly guest: number;
}

/** Locally administered. */
const macs = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"] as const;
/** How often to ask whether packets are still on their way, and for how long before they are taken for lost. */
const look_ms = 10;
const patience_ms = 5000;
/** A receiver that looked so often and found nothing has nothing more to come. */
const emptyRounds = 3;

async function startGuests(wanted: Case, options: PairOptions): Promise<[sender: Place, receiver: Place]> {
  const { ring, variant, ring_size: ringSize, queues, size_bytes: frameBytes, offload } = wanted;
  const start = (...guests: readonly (0 | 1)[]) =>
    GuestProcess.start({
      ...{ ring, variant, ringSize, queues, frameBytes, offload, cpu: options.cpus[guests[0]!]!, wait: options.wait },
      logs: options.logs,
      sockets: guests.map((guest) => options.sockets[guest]!),
      macs: guests.map((guest) => macs[guest]!),
    });
  if (options.sockets.length === 1) {
    const place = { process: await start(0), guest: 0 };
    return [place, place];
  }
  if (options.together) {
    const process = await start(0, 1);
    return [{ process, guest: 0 }, { process, guest: 1 }];
  }
  const [sender, receiver] = await Promise.allSettled([start(0), start(1)]);
  if (sender.status === "fulfilled" && receiver.status === "fulfilled") {
    return [{ process: sender.value, guest: 0 }, { process: receiver.value, guest: 0 }];
  }
  for (const outcome of [sender, receiver]) {
    if (outcome.status === "fulfilled") await outcome.value[Symbol.asyncDispose]();
  }
  throw sender.status === "rejected" ? sender.reason : (receiver as PromiseRejectedResult).reason;
}

/** Until it is disposed of. */
export class GuestPair implements AsyncDisposable {
  readonly processes: readonly GuestProcess[];
  readonly #sender: Place;
  readonly #receiver: Place;
  /** The receiver's address. */
  readonly #to: string;
  readonly #traffic: Omit<Traffic, "to">;

  private constructor(sender: Place, receiver: Place, traffic: Omit<Traffic, "to">) {
    this.#traffic = traffic;
    this.processes = [...new Set([sender.process, receiver.process])];
    this.#to = sender === receiver ? macs[0] : macs[1];
    this.#sender = sender;
    this.#receiver = receiver;
  }

  /** Returns when the rings of both run, and each has announced itself to the switch. */
  static async start(wanted: Case, options: PairOptions): Promise<GuestPair> {
    const [sender, receiver] = await startGuests(wanted, options);
    const pair = new GuestPair(sender, receiver, {
      size_bytes: wanted.size_bytes,
      check_every: options.checkEvery,
      gso_bytes: wanted.offload?.gso_bytes,
    });
    try {
      await pair.listen();
    } catch (reason) {
      await pair[Symbol.asyncDispose]();
      throw reason;
    }
    return pair;
  }

  /** Lets both receive, and nobody send. */
  async listen(): Promise<void> {
    const [sender, receiver] = [this.#sender, this.#receiver];
    if (sender !== receiver) await receiver.process.listen(receiver.guest, { ...this.#traffic, to: macs[0] });
    await sender.process.listen(sender.guest, { ...this.#traffic, to: this.#to });
  }

  /** Lets the sender send as fast as it can. */
  async send(): Promise<void> {
    await this.#sender.process.start(this.#sender.guest, { ...this.#traffic, to: this.#to });
  }

  /** Stops the sender, and returns when what was on its way has arrived, or was dropped. */
  async stop(): Promise<void> {
    await this.#sender.process.stop(this.#sender.guest);
    const deadline = performance.now() + patience_ms;
    const wait = async (done: () => Promise<boolean>) => {
      while (!await done() && performance.now() < deadline) await pause(look_ms);
    };
    // The forwarder returns a buffer after it has delivered what was in it.
    await wait(async () => (await this.sent()).in_flight === 0);
    let before = await this.received();
    await wait(async () => {
      const now = await this.received();
      const found = now.busy_rounds !== before.busy_rounds;
      if (found) before = now;
      return !found && now.rounds >= before.rounds + emptyRounds;
    });
  }

  /** Lets both stand still; `listen` wakes them. */
  async rest(): Promise<void> {
    await Promise.all(this.processes.map((process) => process.rest()));
  }

  /** Of each guest. */
  async counters(): Promise<GuestCounters[]> {
    const guests = [...new Set([this.#sender, this.#receiver])];
    return await Promise.all(guests.map(({ process, guest }) => process.counters(guest)));
  }

  async sent(): Promise<GuestCounters> {
    return await this.#sender.process.counters(this.#sender.guest);
  }

  async received(): Promise<GuestCounters> {
    return await this.#receiver.process.counters(this.#receiver.guest);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.processes.map((process) => process[Symbol.asyncDispose]()));
  }
}

/** How packets arrived, of everything the receiver has counted. */
export function arrivals(counters: GuestCounters): Arrivals {
  const { received: packets, lost, duplicated, reordered, corrupted, checked } = counters;
  return { packets, lost, duplicated, reordered, corrupted, checked };
}

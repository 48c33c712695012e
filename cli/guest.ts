/**
 * `vhostctl guest`, for this program's own use: simulated guests as a process of their own.
 *
 * Takes a line of JSON at a time on stdin and answers each with one on stdout, in order:
 * `{"start":{"guest":0,"to":"52:54:00:00:00:02","size_bytes":64,"check_every":1024}}`, also `"send":false` to receive
 * alone, `"receive":false` not to, `"echo":true` to send back what comes, `"window":1` for so many on their way,
 * `"rate":1000` for so many a second, `"size_min_bytes":60` for frames of any size from there, `"gso_bytes":1448` for
 * frames that are to be cut;
 * `{"stop":{"guest":0}}`: it goes on receiving;
 * `{"stats":{"guest":0}}`; `{"latency":{"guest":0}}`: how many packets were how long on their way; `{"rest":true}`: all
 * stand still until the next start. A failure is answered by
 * `{"error":".."}`. Ends when stdin is closed, or when a back end is gone.
 *
 * @module
 */
import { Command, Option } from "@commander-js/extra-typings";
import { Guest, type GuestCrew, type GuestTraffic, Pump } from "../mod.ts";
import { takings, variants } from "./bench_result.ts";
import { attach, type AttachedGuest, type AttachOptions } from "./guest_attach.ts";
import type { GuestCounters } from "./guest_process.ts";
import { CommandError, UsageError } from "./error.ts";
import { readLines } from "./json_process.ts";
import { choice, wholeNumber } from "./option.ts";

function collect(text: string, before: readonly string[] | undefined): string[] {
  return [...before ?? [], text];
}

function guestCommand() {
  return new Command("guest")
    .description("Simulated guests, for the use of other commands.")
    .addOption(
      new Option("--socket <path>", "attach one guest; may be repeated").argParser(collect).makeOptionMandatory(),
    )
    .addOption(
      new Option("--mac <mac>", "of each guest, in the same order").argParser(collect).makeOptionMandatory(),
    )
    .addOption(new Option("--ring <layout>").default("split" as const).argParser(choice("--ring", ["split", "packed"])))
    .addOption(new Option("--variant <name>").argParser(choice("--variant", variants)))
    .addOption(new Option("--ring-size <n>").default(256).argParser(wholeNumber("--ring-size", 2, 32768)))
    .addOption(new Option("--queues <n>").default(1).argParser(wholeNumber("--queues", 1, 128)))
    .addOption(new Option("--frame-bytes <n>").default(1514).argParser(wholeNumber("--frame-bytes", 60, 65535)))
    .addOption(new Option("--cpu <n>", "where the guests' thread runs").argParser(wholeNumber("--cpu", 0, 4095)))
    .addOption(
      new Option("--offload <takes>", "send what is to be cut and finished by others, and take so much of that")
        .argParser(choice("--offload", takings)),
    )
    .option("--logs", "as if the guests migrated")
    .addOption(
      new Option("--wait <how>", "without traffic").default("yield" as const)
        .argParser(choice("--wait", ["poll", "yield"])),
    );
}

type Options = ReturnType<ReturnType<typeof guestCommand>["opts"]>;

/** A MAC address as a number, first byte first. */
export function macNumber(text: string): number {
  if (/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(text)) return parseInt(text.replaceAll(":", ""), 16);
  throw new UsageError(`cannot use MAC address: ${text}: give one such as 52:54:00:00:00:01`);
}

/** What `start` says of one guest. */
interface Start {
  readonly guest: number;
  readonly to: string;
  readonly size_bytes: number;
  readonly size_min_bytes?: number;
  readonly check_every: number;
  readonly gso_bytes?: number;
  readonly send?: boolean;
  readonly receive?: boolean;
  readonly echo?: boolean;
  readonly window?: number;
  readonly rate?: number;
}

/** Over the rings that send: 2i + 1. */
function inFlight(guest: Guest): number {
  const queues = Array.from({ length: guest.queuePairs }, (_, queue) => queue);
  return queues.reduce((sum, queue) => sum + Number(guest.vringStats(2 * queue + 1).outstanding), 0);
}

/** What a guest has counted, in the names of `GuestCounters`. */
export function countersOf(guest: Guest): GuestCounters {
  const stats = guest.stats();
  const received = stats.received - stats.announcements - stats.foreign;
  return {
    time_ns: Math.round(performance.now() * 1e6),
    sent: Number(stats.sent),
    received: Number(received),
    received_bytes: Number(stats.received_bytes),
    announced: Number(stats.announced),
    heard: Number(stats.announcements),
    foreign: Number(stats.foreign),
    lost: Number(stats.lost + stats.unseen),
    duplicated: Number(stats.duplicated),
    reordered: Number(stats.reordered),
    corrupted: Number(stats.corrupted + stats.bad_header),
    checked: Number(stats.received_checked),
    in_flight: inFlight(guest),
    rounds: Number(stats.rounds),
    busy_rounds: Number(stats.busy_rounds),
    broken: Number(stats.broken),
  };
}

/** The guests of this process. All run on one thread, or none. */
class Crew {
  readonly #guests: readonly Guest[];
  readonly #traffics: (GuestTraffic | undefined)[];
  readonly #place: Pick<GuestTraffic, "cpu" | "wait" | "queues">;
  readonly #macs: readonly number[];
  #running: GuestCrew | undefined;

  constructor(guests: readonly Guest[], { mac, cpu, wait, queues }: Options) {
    this.#guests = guests;
    this.#traffics = guests.map(() => undefined);
    this.#place = { cpu, wait, queues };
    this.#macs = mac.map(macNumber);
  }

  #guest(number: number): Guest {
    const guest = this.#guests[number];
    if (guest === undefined) throw new RangeError(`no such guest: ${number}`);
    return guest;
  }

  async start(start: Start): Promise<void> {
    const {
      guest,
      to,
      size_bytes,
      size_min_bytes,
      check_every,
      gso_bytes,
      echo = false,
      send = !echo,
      receive = true,
      window,
      rate,
    } = start;
    this.#guest(guest);
    this.#traffics[guest] = {
      ...this.#place,
      ...{ sourceMac: this.#macs[guest]!, destinationMac: macNumber(to), send, receive, echo, window, rate },
      ...{ frameBytes: size_bytes, frameBytesMin: size_min_bytes, checkEvery: check_every, gsoSize: gso_bytes },
    };
    await this.#restart();
  }

  async stop(guest: number): Promise<void> {
    this.#guest(guest);
    const traffic = this.#traffics[guest];
    if (traffic === undefined) return;
    this.#traffics[guest] = { ...traffic, send: false };
    await this.#restart();
  }

  /** Ends the thread; nothing is sent or received. */
  async rest(): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    await running?.stop();
  }

  counters(guest: number): GuestCounters {
    return countersOf(this.#guest(guest));
  }

  /** As `GuestStats.latency`. */
  latency(guest: number): number[] {
    return this.#guest(guest).stats().latency.map(Number);
  }

  async #restart(): Promise<void> {
    await this.rest();
    const active = this.#guests.flatMap((guest, number) => {
      const traffic = this.#traffics[number];
      return traffic === undefined ? [] : [{ guest, traffic }];
    });
    this.#running = Guest.startTogether(active.map(({ guest }) => guest), active.map(({ traffic }) => traffic));
  }
}

interface Question {
  readonly start?: Start;
  readonly stop?: { readonly guest: number };
  readonly stats?: { readonly guest: number };
  readonly latency?: { readonly guest: number };
  readonly rest?: boolean;
}

async function answer(crew: Crew, line: string): Promise<object> {
  try {
    const { start, stop, stats, latency, rest } = JSON.parse(line) as Question;
    if (start !== undefined) await crew.start(start);
    else if (stop !== undefined) await crew.stop(stop.guest);
    else if (stats !== undefined) return crew.counters(stats.guest);
    else if (latency !== undefined) return { latency: crew.latency(latency.guest) };
    else if (rest) await crew.rest();
    else throw new TypeError(`unknown question: ${line}`);
    return { ok: true };
  } catch (reason) {
    return { error: (reason as Error).message };
  }
}

async function converse(crew: Crew): Promise<void> {
  let last: Promise<void> = Promise.resolve();
  await readLines(Deno.stdin.readable, (line) => {
    last = last.then(async () => console.log(JSON.stringify(await answer(crew, line))));
  });
  await last;
}

async function run(options: Options): Promise<void> {
  const { socket, mac } = options;
  if (mac.length !== socket.length) {
    throw new UsageError(`${socket.length} --socket, ${mac.length} --mac: give as many`);
  }
  await using stack = new AsyncDisposableStack();
  const pump = stack.use(Pump.open());
  const running = pump.run();
  const attached: AttachedGuest[] = [];
  for (const path of socket) {
    const wanted: AttachOptions = { ...options, socket: path };
    attached.push(stack.use(await attach(pump, wanted)));
  }
  const crew = new Crew(attached.map(({ guest }) => guest), options);
  stack.defer(() => crew.rest());
  console.log(JSON.stringify({ ready: true }));
  const gone = Promise.race(attached.map(({ frontend }) => frontend.hangup));
  const reason = await Promise.race([converse(crew), gone, running]);
  if (reason !== undefined) throw new CommandError(`back end gone: ${reason}: see what it says`);
}

/** The command with its action. */
export function command() {
  return guestCommand().action((options) => run(options));
}

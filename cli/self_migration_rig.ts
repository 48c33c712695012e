/**
 * Two hosts for the self-test of `migrate`: at each a back end, and a process for the guest that comes and goes. A
 * third process sends to the guest from a port of each back end, and takes what it sends.
 *
 * @module
 */
import { join } from "node:path";
import type { GuestTraffic } from "../mod.ts";
import type { Ring } from "./bench_result.ts";
import { CommandError } from "./error.ts";
import { macNumber } from "./guest.ts";
import { type GuestCounters, GuestProcess, type Traffic } from "./guest_process.ts";
import { frameBytesMax, queuePairsMax } from "./guest_shape.ts";
import { pause } from "./pause.ts";
import { HostProcess } from "./host_process.ts";
import type { MigrationHost } from "./self_migration_host.ts";
import type { LifePlan } from "./self_migration_plan.ts";
import { dropsOf, type PortCounters, ServeProcess } from "./serve_process.ts";

/** Ports of each back end, in their order: where the guest goes, and where its sender is. */
const ports = { guest: 0, sender: 1 } as const;
/** Locally administered. */
const guestMac = "02:00:00:00:00:0a";
const senderMacs = ["02:00:00:00:00:0b", "02:00:00:00:00:0c"] as const;
const senderRingSize = 256;
const lookEvery_s = 0.1;
/** Two, so that both mark pages of one guest at once. */
const workers = 2;
const checkEvery = 64;
const settle_ms = 10;
/** Who looked so often and found nothing has nothing more to come. */
const emptyRounds = 3;
const patience_ms = 10_000;

/** Both hosts are alike: 0 or 1. */
export type Side = 0 | 1;

export function otherSide(side: Side): Side {
  return side === 0 ? 1 : 0;
}

/** Everything that was counted up to one moment. */
export interface Account {
  /** Of both senders together. */
  readonly senders: GuestCounters;
  /** Of both back ends. */
  readonly ports: readonly PortCounters[];
}

function startHost(): Promise<HostProcess<MigrationHost>> {
  return HostProcess.start("migration-host");
}

function sumOf(one: GuestCounters, other: GuestCounters): GuestCounters {
  const entries = Object.entries(one) as [keyof GuestCounters, number][];
  return Object.fromEntries(entries.map(([name, count]) => [name, count + other[name]])) as unknown as GuestCounters;
}

function guestTraffic(side: Side, { shape, gso_bytes, rate, wait }: LifePlan): GuestTraffic {
  return {
    sourceMac: macNumber(guestMac),
    destinationMac: macNumber(senderMacs[side]),
    ...{ frameBytes: shape.frameBytesMax, checkEvery, gsoSize: gso_bytes, rate, wait },
    ...{ queues: shape.queuePairs, flows: 2 * shape.queuePairs },
  };
}

function senderTraffic({ size_bytes, size_min_bytes, gso_bytes }: LifePlan): Traffic {
  return { to: guestMac, size_bytes, size_min_bytes, gso_bytes, check_every: checkEvery };
}

/** Until it is disposed of. */
export class MigrationRig implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly #directory: string;
  readonly #serves: readonly ServeProcess[];
  readonly #senders: GuestProcess;
  readonly #hosts: HostProcess<MigrationHost>[];
  #meetings = 0;

  private constructor(
    stack: AsyncDisposableStack,
    directory: string,
    serves: readonly ServeProcess[],
    senders: GuestProcess,
    hosts: HostProcess<MigrationHost>[],
  ) {
    this.#stack = stack;
    this.#directory = directory;
    this.#serves = serves;
    this.#senders = senders;
    this.#hosts = hosts;
  }

  static async open(ring: Ring): Promise<MigrationRig> {
    await using stack = new AsyncDisposableStack();
    const directory = await Deno.makeTempDir({ prefix: "vhostctl-migrate-" });
    stack.defer(() => Deno.remove(directory, { recursive: true }));
    const serves: ServeProcess[] = [];
    for (const name of ["a", "b"]) {
      const home = join(directory, name);
      await Deno.mkdir(home);
      const options = { directory: home, queues: queuePairsMax, workerCpus: workers, look_seconds: lookEvery_s };
      serves.push(stack.use(await ServeProcess.start(options)));
    }
    const senders = stack.use(
      await GuestProcess.start({
        sockets: serves.map(({ sockets }) => sockets[ports.sender]!),
        macs: senderMacs,
        ...{ ring, ringSize: senderRingSize, queues: queuePairsMax, frameBytes: frameBytesMax, wait: "yield" },
        // Of this only that it sends what is to be cut.
        offload: { gso_bytes: 0, receiver_takes: "nothing" },
      }),
    );
    const hosts: HostProcess<MigrationHost>[] = [];
    stack.defer(async () => {
      for (const host of hosts) await host[Symbol.asyncDispose]();
    });
    for (const _ of serves) hosts.push(await startHost());
    return new MigrationRig(stack.move(), directory, serves, senders, hosts);
  }

  host(side: Side): HostProcess<MigrationHost> {
    return this.#hosts[side]!;
  }

  /** Puts another in the place of a host that was killed. */
  async replaceHost(side: Side): Promise<void> {
    await this.#hosts[side]![Symbol.asyncDispose]();
    this.#hosts[side] = await startHost();
  }

  /** Where a guest attaches. */
  socket(side: Side): string {
    return this.#serves[side]!.sockets[ports.guest]!;
  }

  /** A path where two hosts can meet, another each time. */
  meeting(): string {
    this.#meetings += 1;
    return join(this.#directory, `memory${this.#meetings}.sock`);
  }

  /** Lets the guest of a side run. */
  async run(side: Side, life: LifePlan): Promise<void> {
    await this.host(side).call("run", guestTraffic(side, life));
  }

  /** Lets the guest of a side, which runs, send no more. It goes on receiving. */
  async calm(side: Side, life: LifePlan): Promise<void> {
    await this.host(side).call("rest");
    // One that slept would not take back what it had sent.
    await this.host(side).call("run", { ...guestTraffic(side, life), send: false, wait: "yield" });
  }

  /** Lets the sender of a side send as fast as it can. */
  async send(side: Side, life: LifePlan): Promise<void> {
    await this.#senders.start(side, senderTraffic(life));
  }

  /** Lets it send no more. It goes on receiving. */
  async hush(side: Side): Promise<void> {
    await this.#senders.stop(side);
  }

  /** Lets both senders receive, and send nothing. */
  async listen(life: LifePlan): Promise<void> {
    for (const side of [0, 1] as const) await this.#senders.listen(side, senderTraffic(life));
  }

  async #senderCounters(): Promise<GuestCounters> {
    return sumOf(await this.#senders.counters(0), await this.#senders.counters(1));
  }

  /**
   * Waits until what is on its way between the senders and the guest of a side, if there is one, has arrived, or was
   * dropped.
   */
  async settle(side: Side | undefined): Promise<void> {
    const deadline = performance.now() + patience_ms;
    const look = async () => [
      await this.#senders.counters(0),
      await this.#senders.counters(1),
      ...side === undefined ? [] : [await this.host(side).call("counters")],
    ];
    let before = await look();
    for (;;) {
      await pause(settle_ms);
      const now = await look();
      const waiting = now.reduce((sum, { in_flight }) => sum + in_flight, 0);
      if (waiting > 0 || now.some(({ busy_rounds }, index) => busy_rounds !== before[index]!.busy_rounds)) before = now;
      // On a busy machine somebody may not have looked for long.
      else if (now.every(({ rounds }, index) => rounds >= before[index]!.rounds + emptyRounds)) return;
      if (performance.now() > deadline) {
        throw new CommandError(
          `packets do not come to rest: ${waiting} are with a back end: see whether it is stopped`,
        );
      }
    }
  }

  /** What was counted so far. */
  async account(): Promise<Account> {
    const [senders, ...looks] = await Promise.all([
      this.#senderCounters(),
      ...this.#serves.map((serve) => serve.look()),
    ]);
    return { senders, ports: looks.flat() };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
  }
}

/** What the back ends did between two accounts, each way: packets that cutting added, and drops by reason. */
export function switched(before: Account, after: Account) {
  const rows = after.ports.map((port, index) => {
    const earlier = before.ports[index]!;
    const since = (direction: "to_guest" | "from_guest") => {
      const entries = Object.entries(port[direction]).map(([name, count]) => [
        name,
        count - (earlier[direction][name] ?? 0),
      ]);
      return Object.fromEntries(entries) as Record<string, number>;
    };
    return { place: index % 2, toGuest: since("to_guest"), fromGuest: since("from_guest") };
  });
  const way = (target: number) => {
    const arriving = rows.filter(({ place }) => place === target).map(({ toGuest }) => toGuest);
    const leaving = rows.filter(({ place }) => place !== target).map(({ fromGuest }) => fromGuest);
    return {
      drops: dropsOf([...arriving, ...leaving]),
      added: arriving.reduce((sum, counters) => sum + (counters["pieces"] ?? 0) - (counters["cut"] ?? 0), 0),
    };
  };
  const marks = rows.flatMap(({ toGuest, fromGuest }) => [toGuest["log_pages"], fromGuest["log_pages"]]);
  return {
    toGuest: way(ports.guest),
    fromGuest: way(ports.sender),
    marked: marks.some((count) => count === undefined)
      ? undefined
      : marks.reduce<number>((sum, count) => sum + (count ?? 0), 0),
  };
}

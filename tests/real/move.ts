// Two hosts, each with a `serve`, a guest that `vhostctl migrate` moves between them, and a neighbour on their network.

import assert from "node:assert/strict";
import { EthDev, Packets } from "../../mod.ts";
import { type GuestOptions, LinuxGuest } from "./guest.ts";
import { writeInitramfs } from "./initramfs.ts";
import { Folder } from "./linux_folder.ts";
import { NetworkNamespace } from "./namespace.ts";
import { describe, eventually, Program } from "./process.ts";
import { Serve, vhostctl } from "./serve.ts";

const guest_address = "10.0.0.1";
const neighbour_address = "10.0.0.254";
const traffic_timeout_ms = 20_000;
const migration_timeout_ms = 60_000;

/** What `vhostctl migrate --json` told, and how it ended. */
export interface Told {
  readonly code: number;
  /** The last line: what became of it. */
  readonly result: MoveResult;
  readonly errors: string;
}

export interface MoveResult {
  readonly event: string;
  readonly source: { readonly status: string };
  readonly destination: { readonly status: string };
  readonly total_ms: number;
  readonly downtime_ms: number;
  readonly passes: number;
  readonly postcopy: boolean;
  readonly logged_pages: number;
  readonly announcements: number;
  readonly dropped: Readonly<Record<"source" | "destination", Readonly<Record<string, number>>>>;
}

/** One that runs; `program` can be stopped as by Ctrl-C. */
export class Migrate {
  readonly program: Program;

  constructor(from: LinuxGuest, to: LinuxGuest, uri: string, options: readonly string[]) {
    const ends = ["--from", from.freeQmp, "--to", uri, "--to-qmp", to.freeQmp];
    this.program = new Program(vhostctl, ["migrate", ...ends, "--json", ...options]);
  }

  /** Waits until a second moment of it was told, so that memory is on its way. */
  async underWay(): Promise<void> {
    await this.program.until(/"event":"progress"[^]*"status":"active"/, migration_timeout_ms);
  }

  async finished(): Promise<Told> {
    const status = await this.program.finished;
    const text = this.program.since();
    const last = text.split("\n").findLast((line) => line.startsWith("{"));
    if (last === undefined) throw new Error(`migrate told nothing: ${describe(status)}: ${text}`);
    const errors = text.split("\n").filter((line) => line.startsWith("vhostctl")).join("\n");
    return { code: status.code, result: JSON.parse(last), errors };
  }
}

/** A host: a folder of sockets, a switch, and a tap that leads to the other host. */
class Host {
  readonly folder: string;
  serve: Serve;
  readonly #start: (...more: string[]) => Promise<Serve>;
  readonly #join: () => Promise<string>;

  private constructor(
    folder: string,
    serve: Serve,
    start: (...more: string[]) => Promise<Serve>,
    join: () => Promise<string>,
  ) {
    this.folder = folder;
    this.serve = serve;
    this.#start = start;
    this.#join = join;
  }

  static async start(network: NetworkNamespace, path: string, name: string, ports: readonly string[]): Promise<Host> {
    const folder = `${path}/${name}`;
    Deno.mkdirSync(folder);
    const run = (...more: string[]) => {
      const settings = ports.flatMap((port, number) => [
        ...["--port", `name=port${number},socket=${folder}/port${number}.sock${port}`],
      ]);
      return Serve.startBehind(network.prefix, "--dir", folder, ...settings, "--uplink", `tap:${name}`, ...more);
    };
    const join = () => network.run(`ip link set ${name} master br0 up`);
    const serve = await run();
    await join();
    return new Host(folder, serve, run, join);
  }

  /** SIGKILL, and then the same command line again. */
  async replaceServe(): Promise<void> {
    await this.serve.program.stop("SIGKILL");
    this.serve = await this.#start();
    await this.#join();
  }

  /** Another goes on in its place. */
  async takeOver(): Promise<void> {
    const old = this.serve;
    this.serve = await this.#start("--takeover");
    assert.equal((await old.program.finished).code, 0);
  }
}

/** A guest on one of two hosts, and a neighbour that talks to it. */
export class Move implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly #folder: Folder;
  readonly #options: Partial<GuestOptions>;
  readonly network: NetworkNamespace;
  readonly hosts: readonly [Host, Host];
  guest: LinuxGuest;
  /** The host's on which the guest is. */
  place: 0 | 1 = 0;
  #moves = 0;

  private constructor(
    stack: AsyncDisposableStack,
    { folder, options, network, hosts, guest }: {
      readonly folder: Folder;
      readonly options: Partial<GuestOptions>;
      readonly network: NetworkNamespace;
      readonly hosts: readonly [Host, Host];
      readonly guest: LinuxGuest;
    },
  ) {
    this.#stack = stack;
    this.#folder = folder;
    this.#options = options;
    this.network = network;
    this.hosts = hosts;
    this.guest = guest;
  }

  /**
   * The guest runs on the first host, and the neighbour reaches it.
   *
   * @param port More settings of the guest's ports.
   */
  static async start(options: Partial<GuestOptions> = {}, port = ""): Promise<Move> {
    await using stack = new AsyncDisposableStack();
    const folder = stack.use(new Folder());
    await writeInitramfs(folder.initramfs);
    const network = stack.use(await NetworkNamespace.make());
    await network.run(
      `ip link add br0 type bridge && ip addr add ${neighbour_address}/24 dev br0 && ip link set br0 up`,
    );
    const ports = [`,queues=${options.queues ?? 1}${options.listen ? ",mode=client" : ""}${port}`, ""];
    const left = await Host.start(network, folder.path, "left", ports);
    stack.defer(() => left.serve[Symbol.asyncDispose]());
    const right = await Host.start(network, folder.path, "right", ports);
    stack.defer(() => right.serve[Symbol.asyncDispose]());
    const place = { ...folder.guest(0, options), socket: `${left.folder}/port0.sock` };
    const guest = await LinuxGuest.boot(place);
    await guest.setAddress(`${guest_address}/24`);
    await guest.reach(neighbour_address, traffic_timeout_ms);
    const move = new Move(stack.move(), { folder, options, network, hosts: [left, right], guest });
    return move;
  }

  /** A QEMU on the other host that waits for the guest. */
  awaiting(): Promise<LinuxGuest> {
    const { folder } = this.hosts[1 - this.place]!;
    const options = { ...this.#folder.guest(0, this.#options), socket: `${folder}/port0.sock`, incoming: true };
    return LinuxGuest.boot(options);
  }

  migrate(to: LinuxGuest, ...options: string[]): Migrate {
    return new Migrate(this.guest, to, `unix:${this.#folder.path}/migration${this.#moves++}`, options);
  }

  /** Moves the guest to the other host, where it is alive. */
  there(...options: string[]): Promise<MoveResult> {
    return this.thereDuring(undefined, ...options);
  }

  /** The same; something is done once memory is on its way. */
  async thereDuring(act: (() => Promise<void>) | undefined, ...options: string[]): Promise<MoveResult> {
    const to = await this.awaiting();
    try {
      const migrate = this.migrate(to, ...options);
      if (act !== undefined) {
        await migrate.underWay();
        await act();
      }
      const { code, result, errors } = await migrate.finished();
      assert.equal(code, 0, errors);
      assert.deepEqual([result.event, result.destination.status], ["migrated", "running"]);
      await this.guest.close();
      this.guest = to;
      this.place = this.place === 0 ? 1 : 0;
      return result;
    } catch (reason) {
      await to.kill();
      throw reason;
    }
  }

  /** The guest takes commands and answers the neighbour. */
  async alive(): Promise<void> {
    assert.equal(await this.guest.run("echo alive"), "alive");
    await this.guest.reach(neighbour_address, traffic_timeout_ms);
    await this.network.run(`busybox ping -c 3 -W 2 -i 0.2 ${guest_address}`);
  }

  /** The neighbour pings until this is called again; then: how many, and how many were answered. */
  async ping(): Promise<() => Promise<{ sent: number; answered: number }>> {
    const [program, ...args] = [...this.network.prefix, "busybox", "ping", "-i", "0.02", guest_address];
    const ping = new Program(program!, args);
    await ping.until(/bytes from/, traffic_timeout_ms);
    return async () => {
      await ping.stop("SIGINT");
      const match = /(\d+) packets transmitted, (\d+) packets received/.exec(ping.since());
      if (!match) throw new Error(`ping has no figures: ${ping.since().slice(-500)}`);
      return { sent: Number(match[1]), answered: Number(match[2]) };
    };
  }

  /** The neighbour sends bytes that the guest sums up, until this is called again; then: whether the sums agree. */
  async stream(): Promise<() => Promise<{ bytes: number; same: boolean }>> {
    const { path } = this.#folder;
    await this.guest.run("rm -f /tmp/pipe /tmp/sum; mkfifo /tmp/pipe");
    await this.guest.run("(nc -l -p 5000 <>/tmp/pipe | sha256sum >/tmp/whole; mv /tmp/whole /tmp/sum) &");
    await this.guest.until("netstat -ltn | grep :5000");
    const once = `dd if=/dev/urandom bs=64K count=1 2>/dev/null`;
    const script =
      `while [ ! -e ${path}/stop ]; do ${once}; sleep 0.05; done | tee ${path}/sent | busybox nc ${guest_address} 5000`;
    const [program, ...args] = [...this.network.prefix, "sh", "-c", script];
    const sender = new Program(program!, args);
    await eventually("bytes are sent", traffic_timeout_ms, () => {
      return Deno.stat(`${path}/sent`).then(({ size }) => size > 0 || undefined, () => undefined);
    });
    return async () => {
      Deno.writeTextFileSync(`${path}/stop`, "");
      await this.guest.until("[ -e /tmp/sum ]", migration_timeout_ms);
      await sender.finished;
      const arrived = (await this.guest.run("cat /tmp/sum")).split(" ")[0];
      const sent = (await this.network.run(`sha256sum ${path}/sent`)).split(" ")[0];
      return { bytes: Deno.statSync(`${path}/sent`).size, same: arrived === sent };
    };
  }

  /** What comes out of the other host's second port while something is done. */
  async frames(act: () => Promise<void>): Promise<Uint8Array[]> {
    const { folder } = this.hosts[1 - this.place]!;
    const found: Uint8Array[] = [];
    const device = EthDev.create(`virtio_user0,path=${folder}/port1.sock`);
    device.configure();
    device.rxQueueSetup(0);
    device.txQueueSetup(0);
    device.start();
    let isOver = false;
    const read = async () => {
      const packets = new Packets({ capacity: 32 });
      while (!isOver) {
        await Promise.race([EthDev.rxReady(device), new Promise((resolve) => setTimeout(resolve, 50))]);
        const count = device.rxBurst(0, packets);
        for (let index = 0; index < count; index++) found.push(packets.data(index).slice());
      }
    };
    const reading = read();
    try {
      await act();
    } finally {
      isOver = true;
      await reading;
      await device.close();
    }
    return found;
  }

  /** Ends all; a QEMU or `serve` that died before is a failure. */
  async close(): Promise<void> {
    await this.guest.close();
    for (const { serve } of this.hosts) await serve.finish();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.guest.kill();
    await this.#stack[Symbol.asyncDispose]();
  }
}

/** For the log of the tests: figures are told, not judged. */
export function tell(what: string, result: MoveResult, ping: { sent: number; answered: number }): void {
  const drops = [result.dropped.source, result.dropped.destination].map((side) =>
    Object.values(side).reduce((sum, count) => sum + count, 0)
  );
  console.error(
    `${what}: ${result.total_ms} ms, downtime ${result.downtime_ms} ms, ${result.passes} passes, ` +
      `${result.logged_pages} pages logged, ${result.announcements} announcements, dropped ${drops.join(" + ")}, ` +
      `${ping.sent - ping.answered} of ${ping.sent} pings lost`,
  );
}

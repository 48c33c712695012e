// `serve` is killed again and again under Linux guests of stock QEMU, which listen, and starts again with the same
// command line: what the guests see of it is a short silence, and TCP not even that.

import assert from "node:assert/strict";
import { LinuxGuest } from "./guest.ts";
import { Heartbeat } from "./heartbeat.ts";
import { writeInitramfs } from "./initramfs.ts";
import { bootBoth, Folder } from "./linux_folder.ts";
import { realTest } from "./peers.ts";
import { rounds, somewhile, tellTimes } from "./rounds.ts";
import { Serve } from "./serve.ts";
import { TcpLoad } from "./tcp_load.ts";

const addresses = ["10.0.0.1", "10.0.0.2"] as const;
const ports = ["port0", "port1"] as const;
const traffic_timeout_ms = 20_000;
const longestPause_ms = 1000;

interface Shape {
  readonly packed?: boolean;
  readonly queues?: number;
  /** Whether another one stands by when it is killed. */
  readonly standby?: boolean;
  /** More properties of the guests' cards. */
  readonly device?: string;
}

/** From the kill until the rings run again, and as long as no ping was answered. */
interface Outage {
  readonly rings_ms: number;
  readonly silence_ms: number;
}

/** Two guests whose QEMU listens, and a `serve` that connects. */
class Switched implements AsyncDisposable {
  readonly #folder: Folder;
  readonly #arguments: readonly string[];
  readonly #standby: boolean;
  serve: Serve;
  readonly left: LinuxGuest;
  readonly right: LinuxGuest;

  private constructor(
    folder: Folder,
    serve_arguments: readonly string[],
    standby: boolean,
    serve: Serve,
    guests: readonly [LinuxGuest, LinuxGuest],
  ) {
    this.#folder = folder;
    this.#arguments = serve_arguments;
    this.#standby = standby;
    this.serve = serve;
    [this.left, this.right] = guests;
  }

  static async start({ packed = false, queues = 1, standby = false, device = "" }: Shape): Promise<Switched> {
    await using stack = new AsyncDisposableStack();
    const folder = stack.use(new Folder());
    await writeInitramfs(folder.initramfs);
    const serve_arguments = ports.flatMap((name, number) => [
      ...["--port", `name=${name},socket=${folder.socket(number)},mode=client,queues=${queues}`],
    ]);
    const serve = stack.use(await Serve.start(...serve_arguments));
    const options = { listen: true, packed, queues, cpus: queues, device };
    const guests = await bootBoth(folder.guest(0, options), folder.guest(1, options));
    for (const guest of guests) stack.use(guest);
    for (const [index, guest] of guests.entries()) await guest.setAddress(`${addresses[index]}/24`);
    await guests[0].reach(addresses[1], traffic_timeout_ms);
    stack.move();
    return new Switched(folder, serve_arguments, standby, serve, guests);
  }

  /** SIGKILL, and at once another one with the same command line. Returns how long it took until all rings ran. */
  async replaceServe(): Promise<number> {
    const spare = this.#standby ? await Serve.standBy(...this.#arguments) : undefined;
    const killed_ms = Date.now();
    await this.serve.program.stop("SIGKILL");
    this.serve = spare ?? await Serve.start(...this.#arguments);
    const started = await Promise.all(ports.map((port) => this.serve.until("started", { port })));
    return Math.max(...started.map((record) => Date.parse(record["time"] as string))) - killed_ms;
  }

  /** Ends all; QEMU or `serve` having died before is a failure. */
  async close(): Promise<void> {
    await this.left.close();
    await this.right.close();
    await this.serve.finish();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.left.kill(), this.right.kill(), this.serve[Symbol.asyncDispose]()]);
    this.#folder[Symbol.dispose]();
  }
}

async function survivesKills(shape: Shape): Promise<void> {
  await using both = await Switched.start(shape);
  const { left, right } = both;
  const load = await TcpLoad.start(left, right, addresses[1]);
  const heartbeat = await Heartbeat.start(left, addresses[1]);
  const outages: Outage[] = [];
  for (let round = 0; round < rounds; round++) {
    await somewhile(longestPause_ms);
    await heartbeat.longestGap_ms();
    await heartbeat.answered(2);
    const rings_ms = await both.replaceServe();
    await heartbeat.answered(10);
    outages.push({ rings_ms, silence_ms: await heartbeat.longestGap_ms() });
    await load.lives();
  }
  await load.iperfFlows();
  await heartbeat.stop();
  const { file_mib, iperf } = await load.finish();
  assert.equal(await left.ping(addresses[1], 5), 5);
  assert.equal(await right.ping(addresses[0], 5), 5);
  tellTimes("until the rings run again", outages.map(({ rings_ms }) => rings_ms));
  tellTimes("no ping was answered for", outages.map(({ silence_ms }) => silence_ms));
  console.error(`the file: ${file_mib} MiB, whole; iperf3: ${iperf}`);
  await both.close();
}

realTest("serve is killed under TCP again and again, split", ["linux"], () => survivesKills({}));
// A guest that loses its carrier forgets its neighbours, and asks for them once a second: that is most of the silence.
realTest("serve is killed under TCP again and again, split, no carrier to lose", ["linux"], () => {
  return survivesKills({ device: "status=off" });
});
realTest("serve is killed under TCP again and again, split, 4 queues", ["linux"], () => survivesKills({ queues: 4 }));
// QEMU does not know where a packed ring is: only the state file does.
realTest("serve is killed under TCP again and again, packed", ["linux"], () => survivesKills({ packed: true }));
realTest("serve is killed under TCP again and again, packed, another one stands by", ["linux"], () => {
  return survivesKills({ packed: true, standby: true });
});
realTest("serve is killed under TCP again and again, packed, 4 queues", ["linux"], () => {
  return survivesKills({ packed: true, queues: 4 });
});

// One `serve` lives, and the guest at one of its ports comes and goes: its QEMU is killed under traffic, it is reset,
// its card is pulled. Each time the port must be clean at once, and the next guest find it as the first one did.

import assert from "node:assert/strict";
import { type Footprint, footprint, footprintText, settles } from "./footprint.ts";
import { LinuxGuest } from "./guest.ts";
import { writeInitramfs } from "./initramfs.ts";
import { bootBoth, Folder } from "./linux_folder.ts";
import { realTest } from "./peers.ts";
import { rounds, somewhile, tellTimes } from "./rounds.ts";
import { Serve, type ServeRecord } from "./serve.ts";

const addresses = ["10.0.0.1", "10.0.0.2"] as const;
const port = "port1";
const traffic_timeout_ms = 20_000;
const longestLife_ms = 1000;
/** Of what goes on without a new process: QEMU is the same, and so is the connection. */
const few = Math.ceil(rounds / 3);

interface Shape {
  readonly packed?: boolean;
  readonly queues?: number;
}

/** A guest that stays, on the first port of a `serve`, and one that does not, on the second. */
class Coming implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly #folder: Folder;
  readonly #shape: Shape;
  readonly serve: Serve;
  readonly stays: LinuxGuest;
  comes: LinuxGuest;

  private constructor(
    stack: AsyncDisposableStack,
    { folder, shape, serve, guests: [stays, comes] }: {
      readonly folder: Folder;
      readonly shape: Shape;
      readonly serve: Serve;
      readonly guests: readonly [LinuxGuest, LinuxGuest];
    },
  ) {
    this.#stack = stack;
    this.#folder = folder;
    this.#shape = shape;
    this.serve = serve;
    this.stays = stays;
    this.comes = comes;
  }

  static async start(shape: Shape): Promise<Coming> {
    const { queues = 1 } = shape;
    await using stack = new AsyncDisposableStack();
    const folder = stack.use(new Folder());
    await writeInitramfs(folder.initramfs);
    const serve = stack.use(await Serve.start("--ports", "2", "--queues", `${queues}`, "--dir", folder.path));
    const guests = await bootBoth(folder.guest(0), folder.guest(1, { ...shape, cpus: queues }));
    stack.use(guests[0]);
    await guests[0].setAddress(`${addresses[0]}/24`);
    await guests[1].setAddress(`${addresses[1]}/24`);
    const coming = new Coming(stack.move(), { folder, shape, serve, guests });
    await coming.ping();
    return coming;
  }

  async ping(): Promise<void> {
    await this.comes.reach(addresses[0], traffic_timeout_ms);
    assert.equal(await this.comes.ping(addresses[0], 3), 3);
    assert.equal(await this.stays.ping(addresses[1], 3), 3);
  }

  /** Both ways, as fast as it goes, until the guest is no more. */
  async flood(): Promise<void> {
    await this.stays.run("killall -9 iperf3 2>/dev/null; iperf3 -s -D");
    await this.comes.run("killall -9 iperf3 2>/dev/null; iperf3 -s -D");
    await this.comes.run(`iperf3 -c ${addresses[0]} -t 0 >/dev/null 2>&1 &`);
    await this.stays.run(`iperf3 -c ${addresses[1]} -t 0 >/dev/null 2>&1 &`);
    await somewhile(longestLife_ms);
  }

  /** SIGKILL for its QEMU; returns when `serve` has said so. */
  async kill(): Promise<number> {
    const from = this.serve.now;
    const killed_ms = Date.now();
    await this.comes.kill();
    return time_ms(await this.serve.until("disconnected", { port }, { from })) - killed_ms;
  }

  /** A QEMU like the one before; returns when its rings were started, since then and since it had connected. */
  async boot(): Promise<{ readonly connected_ms: number; readonly started_ms: number }> {
    const from = this.serve.now;
    const begun_ms = Date.now();
    const { queues = 1 } = this.#shape;
    this.comes = await LinuxGuest.boot(this.#folder.guest(1, { ...this.#shape, cpus: queues }));
    const connected_ms = time_ms(await this.serve.until("connected", { port }, { from }));
    const started_ms = time_ms(await this.serve.until("started", { port }, { from }));
    await this.comes.setAddress(`${addresses[1]}/24`);
    return { connected_ms: connected_ms - begun_ms, started_ms: started_ms - begun_ms };
  }

  footprint(): Footprint {
    return footprint(this.serve.program.pid);
  }

  settles(before: Footprint): Promise<Footprint> {
    return settles(this.serve.program.pid, before);
  }

  /** Ends all; a QEMU or `serve` that died before is a failure. */
  async close(): Promise<void> {
    await this.comes.close();
    await this.stays.close();
    await this.serve.finish();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.comes.kill();
    await this.#stack[Symbol.asyncDispose]();
  }
}

function time_ms(record: ServeRecord): number {
  return Date.parse(record["time"] as string);
}

async function survivesQemu(shape: Shape): Promise<void> {
  await using coming = await Coming.start(shape);
  const whole = coming.footprint();
  const gone_ms: number[] = [];
  const connected_ms: number[] = [];
  const started_ms: number[] = [];
  let alone: Footprint | undefined;
  for (let round = 0; round < rounds; round++) {
    await coming.flood();
    gone_ms.push(await coming.kill());
    alone ??= coming.footprint();
    await coming.settles(alone);
    assert.equal(await coming.stays.ping(addresses[1], 2), 0);
    const times = await coming.boot();
    started_ms.push(times.started_ms);
    connected_ms.push(times.connected_ms);
    await coming.ping();
    await coming.settles(whole);
  }
  tellTimes("the port was clean after", gone_ms);
  tellTimes("another QEMU was connected after", connected_ms);
  tellTimes("its guest's rings ran after", started_ms);
  console.error(`serve before: ${footprintText(whole)}`);
  console.error(`serve after:  ${footprintText(coming.footprint())}`);
  await coming.close();
}

/** Through `act` the guest has its address again; the connection to the back end stays. */
async function again(coming: Coming, act: (guest: LinuxGuest) => Promise<void>): Promise<void> {
  const whole = coming.footprint();
  for (let round = 0; round < few; round++) {
    await coming.flood();
    const from = coming.serve.now;
    await act(coming.comes);
    await coming.serve.until("stopped", { port }, { from });
    await coming.serve.until("started", { port }, { from });
    await coming.comes.setAddress(`${addresses[1]}/24`);
    await coming.ping();
    await coming.settles(whole);
    assert.deepEqual(coming.serve.records.slice(from).filter(({ event }) => event === "disconnected"), []);
  }
}

async function survivesGuest(test: Deno.TestContext, shape: Shape): Promise<void> {
  await using coming = await Coming.start(shape);
  await test.step("reset", () => again(coming, (guest) => guest.reset()));
  await test.step("the card taken out, and another put in", async () => {
    await again(coming, async (guest) => {
      await guest.takeCardOut();
      await guest.putCardIn();
    });
  });
  await coming.close();
}

realTest("QEMU is killed under traffic again and again, split", ["linux"], () => survivesQemu({}));
realTest("QEMU is killed under traffic again and again, packed", ["linux"], () => survivesQemu({ packed: true }));
realTest("a guest is reset, and its card pulled, under traffic, split", ["linux"], (test) => survivesGuest(test, {}));
realTest("a guest is reset, and its card pulled, under traffic, packed", ["linux"], (test) => {
  return survivesGuest(test, { packed: true });
});

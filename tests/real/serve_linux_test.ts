// Linux guests under stock QEMU on ports of `vhostctl serve`: what their users do all day, and what befalls them.

import assert from "node:assert/strict";
import { type GuestOptions, LinuxGuest, qemuVersion } from "./guest.ts";
import { writeInitramfs } from "./initramfs.ts";
import { bootBoth, Folder } from "./linux_folder.ts";
import { qemu_command, realTest } from "./peers.ts";
import { Program } from "./process.ts";
import { Serve, vhostctl } from "./serve.ts";
import { copiesFile, measures, transfer_timeout_ms } from "./transfer.ts";

const queues = 4;
const file_mb = Number(Deno.env.get("VHOSTCTL_FILE_MB") ?? 100);
const plugged_mib = 128;
const traffic_timeout_ms = 20_000;

const addresses = ["10.0.0.1", "10.0.0.2"] as const;

/** Two guests on one `serve`, with an address each. */
class Pair implements AsyncDisposable {
  readonly folder: Folder;
  readonly options: Partial<GuestOptions>;
  readonly #arguments: readonly string[];
  serve: Serve;
  left: LinuxGuest;
  right: LinuxGuest;

  private constructor(
    folder: Folder,
    options: Partial<GuestOptions>,
    serve: Serve,
    guests: readonly [LinuxGuest, LinuxGuest],
    serve_arguments: readonly string[],
  ) {
    this.folder = folder;
    this.options = options;
    this.serve = serve;
    [this.left, this.right] = guests;
    this.#arguments = serve_arguments;
  }

  static async start(options: Partial<GuestOptions> = {}, right: Partial<GuestOptions> = options): Promise<Pair> {
    const folder = new Folder();
    const serve_arguments = ["--ports", "2", "--queues", `${options.queues ?? 1}`, "--dir", folder.path];
    let serve: Serve | undefined;
    try {
      await writeInitramfs(folder.initramfs);
      serve = await Serve.start(...serve_arguments);
      const guests = await bootBoth(folder.guest(0, options), folder.guest(1, right));
      for (const [index, guest] of guests.entries()) await guest.setAddress(`${addresses[index]}/24`);
      return new Pair(folder, options, serve, guests, serve_arguments);
    } catch (reason) {
      const told = serve?.program.since().slice(-3000);
      await serve?.[Symbol.asyncDispose]();
      folder[Symbol.dispose]();
      throw new Error(`two guests did not start; serve had printed:\n${told}`, { cause: reason });
    }
  }

  /** Kills QEMU of the right guest and boots another in its place. */
  async replaceRight(): Promise<void> {
    await this.right.kill();
    await this.serve.until("disconnected", { port: "port1" });
    assert.equal(await this.left.ping(addresses[1], 2), 0);
    this.right = await LinuxGuest.boot(this.folder.guest(1, this.options));
    await this.right.setAddress(`${addresses[1]}/24`);
  }

  /** Kills serve and starts it again with the same command line. */
  async replaceServe(): Promise<void> {
    await this.serve.program.stop("SIGKILL");
    this.serve = await Serve.start(...this.#arguments);
    for (const port of ["port0", "port1"]) await this.serve.until("started", { port });
  }

  /** Each guest pings the other, and everything is answered once the first packets have got through. */
  async bothPing(): Promise<void> {
    await this.left.reach(addresses[1], traffic_timeout_ms);
    assert.equal(await this.left.ping(addresses[1], 5), 5);
    assert.equal(await this.right.ping(addresses[0], 5), 5);
  }

  /** Ends all; QEMU or serve having died before is a failure. */
  async close(): Promise<void> {
    await this.left.close();
    await this.right.close();
    const ports = await this.serve.finish();
    assert.equal(ports.size, 2);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.left.kill(), this.right.kill(), this.serve[Symbol.asyncDispose]()]);
    this.folder[Symbol.dispose]();
  }
}

/** Steps of one test: those after a failure are not worth their time. */
type Step = (name: string, run: () => Promise<void>) => Promise<void>;

function steps(test: Deno.TestContext): Step {
  return async (name, run) => {
    if (!await test.step(name, run)) throw new Error(`step failed: ${name}`);
  };
}

/** Every queue of the sender sends and every one of the receiver receives, which takes many flows from every CPU. */
async function allQueuesCarry(sender: LinuxGuest, receiver: LinuxGuest, address: string): Promise<void> {
  const sent_before = await sender.queueUse("tx", queues);
  const received_before = await receiver.queueUse("rx", queues);
  await receiver.run("pidof iperf3 || iperf3 -s -D");
  const streams = `-u -P 32 -b 500K -l 500 -t 1`;
  for (let cpu = 0; cpu < queues; cpu++) await sender.run(`taskset -c ${cpu} ping -c 2 -i 0.1 ${address}`);
  await sender.run(`iperf3 -c ${address} ${streams}`, transfer_timeout_ms);
  const sent = await sender.queueUse("tx", queues);
  const received = await receiver.queueUse("rx", queues);
  for (let queue = 0; queue < queues; queue++) {
    assert(sent[queue]! > sent_before[queue]!, `queue ${queue} sent nothing: ${sent_before} then ${sent}`);
    assert(
      received[queue]! > received_before[queue]!,
      `queue ${queue} received nothing: ${received_before} then ${received}`,
    );
  }
}

/** `ethtool -L`: with one queue every flow gets through it, whichever its hash; with all of them each is used. */
async function changesQueues(pair: Pair): Promise<void> {
  const { left, right } = pair;
  for (const guest of [left, right]) await guest.run("ethtool -L eth0 combined 1");
  await pair.bothPing();
  await right.run("pidof iperf3 || iperf3 -s -D");
  await left.run(`iperf3 -c ${addresses[1]} -P 16 -n 64K`);
  for (const guest of [left, right]) await guest.run(`ethtool -L eth0 combined ${queues}`);
  await allQueuesCarry(left, right, addresses[1]);
  await allQueuesCarry(right, left, addresses[0]);
}

async function pauses(pair: Pair): Promise<void> {
  const { serve, right, left } = pair;
  const from = serve.now;
  await right.qmp("stop");
  await serve.until("stopped", { port: "port1" }, { from });
  assert.equal(await left.ping(addresses[1], 2), 0);
  await right.qmp("cont");
  await serve.until("started", { port: "port1" }, { from });
  await pair.bothPing();
}

async function rebinds(guest: LinuxGuest, address: string): Promise<void> {
  await guest.bindDriver(await guest.unbindDriver());
  await guest.setAddress(`${address}/24`);
}

async function reboots(pair: Pair): Promise<void> {
  await pair.right.reboot();
  await pair.right.setAddress(`${addresses[1]}/24`);
  await pair.bothPing();
}

async function lifeOfTwo(test: Deno.TestContext, options: Partial<GuestOptions>): Promise<void> {
  const step = steps(test);
  await using pair = await Pair.start({ queues, cpus: queues, ...options });
  const ring = options.packed ? "packed" : "split";
  await step("ping", async () => {
    for (const port of ["port0", "port1"]) {
      const { features } = await pair.serve.until("started", { port, ring });
      assert((features as string[]).includes("MQ"), `negotiated: ${features}`);
      assert.equal((features as string[]).includes("IN_ORDER"), options.in_order ?? false, `negotiated: ${features}`);
    }
    await pair.bothPing();
  });
  await step("ethtool -L, every queue carries packets", () => changesQueues(pair));
  await step("iperf3", () => measures(pair.left, pair.right, addresses[1]));
  await step(`a file of ${file_mb} MB`, () => copiesFile(pair.left, pair.right, addresses[1], file_mb));
  await step("QMP stop, cont", () => pauses(pair));
  await step("driver unbind, bind", async () => {
    await rebinds(pair.right, addresses[1]);
    await pair.bothPing();
  });
  await step("reboot", () => reboots(pair));
  await step("QEMU killed, and another in its place", async () => {
    await pair.replaceRight();
    await pair.bothPing();
  });
  await step("serve killed, and started again", async () => {
    await pair.replaceServe();
    // Nobody but the back end knows where a packed ring stood (it is not in guest memory): its driver starts anew.
    if (options.packed) {
      await rebinds(pair.left, addresses[0]);
      await rebinds(pair.right, addresses[1]);
    }
    await pair.bothPing();
  });
  await pair.close();
}

realTest("two Linux guests, 4 queues, split", ["linux"], (test) => lifeOfTwo(test, {}));
realTest("two Linux guests, 4 queues, packed", ["linux"], (test) => lifeOfTwo(test, { packed: true }));

// QEMU can offer IN_ORDER since 10.0; 7.2 has no such option.
if (await qemuVersion().catch(() => 0) >= 10) {
  for (const packed of [false, true]) {
    const name = `two Linux guests, 4 queues, ${packed ? "packed" : "split"}, in order`;
    realTest(name, ["linux"], (test) => lifeOfTwo(test, { packed, in_order: true }));
  }
}

realTest("a guest without mergeable buffers and a legacy one exchange a file both ways", ["linux"], async () => {
  const plain = "mrg_rxbuf=off,indirect_desc=off,event_idx=off";
  await using pair = await Pair.start({ device: plain }, { device: "disable-modern=on,disable-legacy=off" });
  await pair.bothPing();
  await copiesFile(pair.left, pair.right, addresses[1], file_mb / 10);
  await copiesFile(pair.right, pair.left, addresses[0], file_mb / 10);
  await pair.close();
});

/** Linux then takes the new memory first, for buffers at once, and for rings when the driver starts anew. */
async function plugsMemory({ left, right }: Pair): Promise<void> {
  const online = "echo online >/sys/devices/system/memory/auto_online_blocks";
  const total = "awk '/MemTotal/ { print $2 }' /proc/meminfo";
  await right.run(online);
  const before_kib = Number(await right.run(total));
  const memory = { "qom-type": "memory-backend-memfd", id: "more", size: plugged_mib << 20, share: true };
  await right.qmp("object-add", memory);
  await right.qmp("device_add", { driver: "pc-dimm", id: "dimm0", memdev: "more" });
  const enough_kib = before_kib + plugged_mib * 1000;
  await right.until(`[ $(${total}) -gt ${enough_kib} ]`);
  await copiesFile(left, right, addresses[1], file_mb / 10);
  await rebinds(right, addresses[1]);
  await copiesFile(right, left, addresses[0], file_mb / 10);
}

/** The connection to the back end stays; the new device's driver starts rings of its own. */
async function replacesDevice({ serve, right }: Pair): Promise<void> {
  const from = serve.now;
  await right.takeCardOut();
  await serve.until("stopped", { port: "port1" }, { from });
  await right.putCardIn();
  await serve.until("started", { port: "port1" }, { from });
  await right.setAddress(`${addresses[1]}/24`);
  assert.deepEqual(serve.records.slice(from).filter((record) => record.event === "disconnected"), []);
}

realTest("memory and a network card are plugged into a running guest", ["linux"], async (test) => {
  const step = steps(test);
  await using pair = await Pair.start();
  await step("memory", () => plugsMemory(pair));
  await step("the card taken out, and another put in", async () => {
    await replacesDevice(pair);
    await pair.bothPing();
  });
  await pair.close();
});

realTest("QEMU takes the arguments that serve prints, and connects", ["linux"], async () => {
  using folder = new Folder();
  await using serve = await Serve.start("--ports", "2", "--queues", `${queues}`, "--dir", folder.path);
  for (const port of ["port0", "port1"]) {
    const memory = (await serve.until("memory"))["qemu"] as string[];
    const network = (await serve.until("port", { port }))["qemu"] as string[];
    // The machine stands still: its processor is not ours to choose here.
    const machine = ["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-S"];
    await using qemu = new Program(qemu_command, [...machine, ...memory, ...network]);
    await serve.until("connected", { port });
    assert.equal(qemu.since(), "");
  }
});

realTest("a guest's QEMU listens and serve connects", ["linux"], async () => {
  using folder = new Folder();
  await writeInitramfs(folder.initramfs);
  const port = (number: number, mode: string) => `name=port${number},socket=${folder.socket(number)},mode=${mode}`;
  await using serve = await Serve.start("--port", port(0, "client"), "--port", port(1, "server"));
  const guests = await bootBoth(folder.guest(0, { listen: true }), folder.guest(1));
  await using left = guests[0];
  await using right = guests[1];
  await left.setAddress(`${addresses[0]}/24`);
  await right.setAddress(`${addresses[1]}/24`);
  await left.reach(addresses[1], traffic_timeout_ms);
  assert.equal(await left.ping(addresses[1], 5), 5);
  await left.close();
  await right.close();
  await serve.finish();
});

realTest("a guest whose memory is not shared: serve says so and how to share it", ["linux"], async () => {
  using folder = new Folder();
  await writeInitramfs(folder.initramfs);
  await using serve = new Program(vhostctl, ["serve", "--ports", "1", "--dir", folder.path]);
  await serve.until(/^ready$/m, 180_000);
  await using guest = await LinuxGuest.boot(folder.guest(0, { share: false }));
  await guest.setAddress(`${addresses[0]}/24`);
  await guest.ping(addresses[1], 3);
  // QEMU 7.2 hands over a file that the guest does not use; QEMU 11 hands over none.
  const reason = "(kicks came, and the ring stays zero|no guest memory was given).*not shared.*share=on";
  await serve.until(new RegExp(`^port0: .*${reason}$`, "m"), 30_000);
  await guest.close();
  assert.equal((await serve.stop("SIGTERM")).code, 0);
});

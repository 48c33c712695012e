// Two Linux guests under stock QEMU: one works on the network rings of the other through a PCI device, with vhostctl
// running inside it, and a tap there is its network. The host has no part in it.

import assert from "node:assert/strict";
import { resolve } from "node:path";
import { type GuestOptions, LinuxGuest } from "./guest.ts";
import { librariesOf, writeInitramfs } from "./initramfs.ts";
import { Folder } from "./linux_folder.ts";
import { realTest } from "./peers.ts";
import { type PortReport, Serve } from "./serve.ts";
import { copiesFile, segment_bytes } from "./transfer.ts";

/** As scripts/build makes it. */
const oneFile = resolve(import.meta.dirname!, "../../dist/vhostctl");
const addresses = ["10.0.0.1", "10.0.0.2"] as const;
const traffic_timeout_ms = 60_000;
const file_mb = Number(Deno.env.get("VHOSTCTL_FILE_MB") ?? 100) / 10;
/** Where QEMU puts the first two devices behind the network card of the test guests. */
const device = "0000:00:03.0";

/** The guest whose network it is, and the one that works on its rings. */
class Linked implements AsyncDisposable {
  readonly folder: Folder;
  readonly link: Serve;
  readonly #stack: AsyncDisposableStack;
  readonly #queues: number;
  first: LinuxGuest;
  second: LinuxGuest;

  private constructor(
    stack: AsyncDisposableStack,
    folder: Folder,
    link: Serve,
    queues: number,
    [first, second]: readonly [LinuxGuest, LinuxGuest],
  ) {
    this.#stack = stack;
    this.folder = folder;
    this.link = link;
    this.#queues = queues;
    this.first = first;
    this.second = second;
  }

  static async start({ packed = false, queues = 1 } = {}): Promise<Linked> {
    await using stack = new AsyncDisposableStack();
    const folder = stack.use(new Folder());
    await writeInitramfs(folder.initramfs);
    const pci = `${folder.path}/pci.sock`;
    const link = stack.use(
      await Serve.link("--port", `socket=${folder.socket(1)},queues=${queues}`, "--pci", pci),
    );
    const second = stack.use(await LinuxGuest.boot(folder.guest(1, { packed, queues, cpus: queues })));
    await second.setAddress(`${addresses[1]}/24`);
    const more = (await link.until("first"))["qemu"] as string[];
    const first = stack.use(await bootFirst(folder, more));
    await link.until("first_attached");
    return new Linked(stack.move(), folder, link, queues, [first, second]);
  }

  /** The first guest's QEMU starts first, and has to wait. */
  static async startFirst(folder: Folder, options: Partial<GuestOptions>): Promise<Linked> {
    await using stack = new AsyncDisposableStack();
    await writeInitramfs(folder.initramfs);
    const pci = `${folder.path}/pci.sock`;
    const link = stack.use(await Serve.link("--port", `socket=${folder.socket(1)}`, "--pci", pci));
    const booting = bootFirst(folder, (await link.until("first"))["qemu"] as string[]);
    stack.defer(async () => await (await booting.catch(() => undefined))?.kill());
    await link.until("first_waits");
    const second = stack.use(await LinuxGuest.boot(folder.guest(1, options)));
    await second.setAddress(`${addresses[1]}/24`);
    const first = stack.use(await booting);
    return new Linked(stack.move(), folder, link, 1, [first, second]);
  }

  /** Starts vhostctl in the first guest, with a tap, and waits until it has said something. */
  async forward(said = "linked"): Promise<void> {
    const port = `vhost_pci0,dev=${device},queues=${this.#queues}`;
    const tap = `net_tap0,iface=eth1,queues=${this.#queues}`;
    const command = `vhostctl pmd-forward --json --vdev ${port} --vdev ${tap}`;
    await this.first.run(`(exec ${command} >/tmp/log 2>&1 & echo $! >/tmp/pid)`);
    try {
      await this.first.until(`grep -q "${said}" /tmp/log`, traffic_timeout_ms);
    } catch (cause) {
      throw new Error(`no link in the guest: ${await this.first.run("cat /tmp/log; cat /proc/meminfo")}`, { cause });
    }
    await this.first.run(`ip addr add ${addresses[0]}/24 dev eth1 && ip link set eth1 up`);
  }

  /** Kills QEMU of the first guest and boots another in its place. */
  async replaceFirst(): Promise<void> {
    const from = this.link.now;
    await this.first.kill();
    await this.link.until("first_gone", {}, { from });
    this.first = this.#stack.use(await bootFirst(this.folder, await this.#more()));
    await this.forward();
  }

  /** Kills QEMU of the second guest and boots another in its place. */
  async replaceSecond(): Promise<void> {
    const from = this.link.now;
    await this.second.kill();
    await this.link.until("disconnected", {}, { from });
    this.second = this.#stack.use(await LinuxGuest.boot(this.second.options));
    await this.second.setAddress(`${addresses[1]}/24`);
  }

  /** Each guest pings the other. */
  async bothPing(): Promise<void> {
    await this.first.reach(addresses[1], traffic_timeout_ms);
    assert.equal(await this.first.ping(addresses[1], 5), 5);
    assert.equal(await this.second.ping(addresses[0], 5), 5);
  }

  async #more(): Promise<string[]> {
    return (await this.link.until("first"))["qemu"] as string[];
  }

  async close(): Promise<void> {
    await this.first.close();
    await this.second.close();
    assert.equal((await this.link.program.stop("SIGTERM")).code, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
  }
}

async function bootFirst(folder: Folder, more: readonly string[]): Promise<LinuxGuest> {
  const initramfs = `${folder.path}/first`;
  // The runtime inside the one file is the one that runs this.
  const libraries = await librariesOf(Deno.execPath());
  await writeInitramfs(initramfs, { programs: { vhostctl: { path: oneFile, libraries } }, modules: ["tun"] });
  const { socket: _, ...options } = folder.guest(0, { initramfs, memory_mib: 1024, more });
  return LinuxGuest.boot(options);
}

/** Seconds of CPU that a process of the host has used. */
async function cpuSeconds(pid: number): Promise<number> {
  const fields = (await Deno.readTextFile(`/proc/${pid}/stat`)).split(") ")[1]!.split(" ");
  const ticksPerSecond = 100;
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

/** As they are named. */
async function threads(pid: number): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of Deno.readDir(`/proc/${pid}/task`)) {
    names.push((await Deno.readTextFile(`/proc/${pid}/task/${name}/comm`)).trim());
  }
  return names.toSorted();
}

/** The host's process neither carries packets nor has somebody who could. */
async function measuresHost(pair: Linked): Promise<void> {
  const { pid } = pair.link.program;
  const names = await threads(pid);
  assert(!names.includes("vhost worker"), `threads: ${names}`);
  const before = await cpuSeconds(pid);
  const started = performance.now();
  await copiesFile(pair.second, pair.first, addresses[0], file_mb);
  await copiesFile(pair.first, pair.second, addresses[1], file_mb);
  const seconds = (performance.now() - started) / 1000;
  const used = await cpuSeconds(pid) - before;
  console.error(`host: ${used.toFixed(2)} s of CPU in ${seconds.toFixed(0)} s; threads: ${[...new Set(names)]}`);
}

/** A file in the second guest's memory, which is none of what it offers to the first one. */
async function pattern(guest: LinuxGuest): Promise<string> {
  return await guest.run(
    "[ -e /tmp/pattern ] || dd if=/dev/urandom of=/tmp/pattern bs=1M count=32 2>/dev/null; " +
      "sha256sum </tmp/pattern",
  );
}

async function rebinds(pair: Linked): Promise<void> {
  const from = pair.link.now;
  await pair.second.bindDriver(await pair.second.unbindDriver());
  await pair.link.until("stopped", {}, { from });
  await pair.second.setAddress(`${addresses[1]}/24`);
  await pair.bothPing();
}

/** What the program in the first guest has counted at its end: big segments passed in one piece, both ways. */
async function passedWhole(pair: Linked): Promise<void> {
  const line = await pair.first.run(`grep '"event":"summary"' /tmp/log`);
  const ports = (JSON.parse(line) as { ports: PortReport[] }).ports;
  const port = ports.find((one) => one.port === "vhost_pci0")!;
  for (const direction of ["to_guest", "from_guest"] as const) {
    const { packets, bytes } = port[direction];
    console.error(`${direction}: ${packets} packets of ${Math.round(bytes! / packets!)} bytes`);
    assert(bytes! / packets! > segment_bytes, `${direction}: ${bytes} bytes in ${packets} packets`);
  }
}

/** What works on the rings goes: the other guest goes on, and so does the next one in its place. */
async function ends(pair: Linked, signal: string, said = "linked"): Promise<void> {
  const from = pair.link.now;
  await pair.first.run(`kill -${signal} $(cat /tmp/pid)`);
  await pair.first.until("! kill -0 $(cat /tmp/pid)");
  if (signal === "TERM") await passedWhole(pair);
  await pair.second.run(`ping -c 3 -W 1 -i 0.2 ${addresses[0]} || true`);
  await pair.link.until("unlinked", {}, { from });
  await pair.forward(said);
  await pair.link.until("linked", {}, { from });
}

realTest("a guest works on another one's rings: ping, and a file each way", ["linux"], async (test) => {
  await using pair = await Linked.start();
  const before = await pattern(pair.second);
  await test.step("ping", async () => {
    await pair.forward();
    await pair.bothPing();
  });
  await test.step("a file each way, while the host does nothing", () => measuresHost(pair));
  await test.step("the second guest's driver unbound and bound", () => rebinds(pair));
  await test.step("the first guest's program stopped and started", async () => {
    await ends(pair, "TERM");
    await pair.bothPing();
  });
  await test.step("the first guest's program killed and started", async () => {
    await ends(pair, "KILL");
    await pair.bothPing();
  });
  await test.step("the second guest's other memory is as it was", async () => {
    assert.equal(await pattern(pair.second), before);
  });
  await test.step("the second guest rebooted", async () => {
    await pair.second.reboot();
    await pair.second.setAddress(`${addresses[1]}/24`);
    await pair.bothPing();
  });
  await test.step("the first guest killed, and another in its place", async () => {
    await pair.replaceFirst();
    await pair.bothPing();
  });
  await pair.close();
});

realTest("the same with packed rings and two queues", ["linux"], async (test) => {
  await using pair = await Linked.start({ packed: true, queues: 2 });
  await test.step("ping", async () => {
    await pair.forward();
    await pair.bothPing();
  });
  await test.step("a file each way", () => measuresHost(pair));
  await test.step("the second guest's driver unbound and bound", () => rebinds(pair));
  await test.step("the first guest's program stopped and started", async () => {
    await ends(pair, "TERM");
    await pair.bothPing();
  });
  await test.step("the first guest's program killed: packed rings rest until their driver starts again", async () => {
    await ends(pair, "KILL", "nobody knows");
    await rebinds(pair);
  });
  await test.step("QMP stop, cont", async () => {
    const from = pair.link.now;
    await pair.second.qmp("stop");
    await pair.link.until("stopped", {}, { from });
    await pair.second.qmp("cont");
    await pair.link.until("started", {}, { from });
    await pair.bothPing();
  });
  await pair.close();
});

realTest("what a link cannot follow is refused or said, and the guests live on", ["linux"], async (test) => {
  await using pair = await Linked.start();
  await pair.forward();
  await pair.bothPing();
  await test.step("a DIMM", async () => {
    const from = pair.link.now;
    const memory = { "qom-type": "memory-backend-memfd", id: "more", size: 128 << 20, share: true };
    await pair.second.qmp("object-add", memory);
    await pair.second.qmp("device_add", { driver: "pc-dimm", id: "dimm0", memdev: "more" });
    const { reason } = await pair.link.until("nack", {}, { from });
    assert.match(`${reason}`, /more than one file/);
    await pair.bothPing();
  });
  await test.step("migration", async () => {
    await assert.rejects(pair.second.qmp("migrate", { uri: "exec:cat >/dev/null" }), /Migration disabled/);
    await pair.bothPing();
  });
  await test.step("the second guest killed, and another in its place", async () => {
    const from = pair.link.now;
    await pair.replaceSecond();
    await pair.link.until("first_outdated", {}, { from });
    assert.equal(await pair.first.ping(addresses[1], 2), 0);
    await pair.replaceFirst();
    await pair.bothPing();
  });
  await pair.close();
});

realTest(
  "a link in whatever order its ends start, and one end that comes again with the same memory",
  ["linux"],
  async (
    test,
  ) => {
    await using stack = new AsyncDisposableStack();
    const folder = stack.use(new Folder());
    const memory_file = Deno.makeTempFileSync({ dir: "/dev/shm", prefix: "vhostctl-memory-" });
    stack.defer(() => Deno.removeSync(memory_file));
    await using pair = await Linked.startFirst(folder, { memory_file, memory_mib: 256 });
    await test.step("the first guest waits for the second one", async () => {
      await pair.forward();
      await pair.bothPing();
    });
    await test.step("the second guest killed, and another with the same memory", async () => {
      await pair.replaceSecond();
      await pair.bothPing();
    });
    assert.equal(pair.link.records.some(({ event }) => event === "first_outdated"), false);
    await pair.close();
  },
);

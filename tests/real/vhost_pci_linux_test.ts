// Two Linux guests under stock QEMU: one works on the network rings of the other through a PCI device, with vhostctl
// running inside it, and a tap there is its network. The host has no part in it.

import assert from "node:assert/strict";
import { resolve } from "node:path";
import { LinuxGuest } from "./guest.ts";
import { librariesOf, writeInitramfs } from "./initramfs.ts";
import { Folder } from "./linux_folder.ts";
import { realTest } from "./peers.ts";
import { Serve } from "./serve.ts";
import { copiesFile } from "./transfer.ts";

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

  /** Starts vhostctl in the first guest, with a tap. */
  async forward(): Promise<void> {
    const from = this.link.now;
    const port = `vhost_pci0,dev=${device},queues=${this.#queues}`;
    const tap = `net_tap0,iface=eth1,queues=${this.#queues}`;
    const command = `vhostctl pmd-forward --json --vdev ${port} --vdev ${tap}`;
    await this.first.run(`(exec ${command} >/tmp/log 2>&1 & echo $! >/tmp/pid)`);
    try {
      await this.first.until("grep -q linked /tmp/log", traffic_timeout_ms);
    } catch (cause) {
      throw new Error(`no link in the guest: ${await this.first.run("cat /tmp/log; cat /proc/meminfo")}`, { cause });
    }
    await this.link.until("linked", {}, { from });
    await this.first.run(`ip addr add ${addresses[0]}/24 dev eth1 && ip link set eth1 up`);
  }

  /** Each guest pings the other. */
  async bothPing(): Promise<void> {
    await this.first.reach(addresses[1], traffic_timeout_ms);
    assert.equal(await this.first.ping(addresses[1], 5), 5);
    assert.equal(await this.second.ping(addresses[0], 5), 5);
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

realTest("a guest works on another one's rings: ping, and a file each way", ["linux"], async (test) => {
  await using pair = await Linked.start();
  await test.step("ping", async () => {
    await pair.forward();
    await pair.bothPing();
  });
  await test.step("a file each way", async () => {
    await copiesFile(pair.first, pair.second, addresses[1], file_mb);
    await copiesFile(pair.second, pair.first, addresses[0], file_mb);
  });
  await pair.close();
});

// `vhostctl serve --takeover` under Linux guests of stock QEMU, which ping and copy files meanwhile, and migrate.

import assert from "node:assert/strict";
import { loadLibrary } from "../../ffi/library.ts";
import { type GuestOptions, LinuxGuest } from "./guest.ts";
import { writeInitramfs } from "./initramfs.ts";
import { bootBoth, Folder } from "./linux_folder.ts";
import { Move, tell } from "./move.ts";
import { realTest } from "./peers.ts";
import { Serve } from "./serve.ts";
import { copiesFile } from "./transfer.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const file_mb = Number(Deno.env.get("VHOSTCTL_FILE_MB") ?? 100);
const traffic_timeout_ms = 20_000;
const takeovers_min = 5;
const ping_count = 100;
const addresses = ["10.0.0.1", "10.0.0.2"] as const;
/** So slow that there is time for a takeover; the emulation of QEMU 7.2 loses more the longer it takes. */
const slow = ["--max-bandwidth", "25M"];

/** How often a guest saw its link come or go. */
async function carrierChanges(guest: LinuxGuest): Promise<number> {
  return Number(await guest.run("cat /sys/class/net/eth0/carrier_changes"));
}

/** A `serve` and those that come after it. */
class Line implements AsyncDisposable {
  readonly #arguments: readonly string[];
  serve: Serve;
  readonly gaps: number[] = [];

  private constructor(args: readonly string[], serve: Serve) {
    this.#arguments = args;
    this.serve = serve;
  }

  static async start(...args: string[]): Promise<Line> {
    return new Line(args, await Serve.start(...args));
  }

  async takeOver(): Promise<void> {
    const old = this.serve;
    this.serve = await Serve.start(...this.#arguments, "--takeover");
    assert.equal((await old.program.finished).code, 0);
    this.gaps.push((await this.serve.until("took_over"))["gap_ms"] as number);
    for (const serve of [old, this.serve]) {
      assert.deepEqual(serve.records.filter(({ event }) => event === "disconnected"), []);
    }
  }

  /** Takes over again and again until something is done. */
  async during(act: Promise<void>): Promise<void> {
    let done = false;
    const end = act.finally(() => done = true);
    // Where a takeover fails before, it is that which is told.
    end.catch(() => {});
    do await this.takeOver(); while (!done || this.gaps.length < takeovers_min);
    await end;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.serve[Symbol.asyncDispose]();
  }
}

async function passThrough(options: Partial<GuestOptions>): Promise<void> {
  using folder = new Folder();
  await writeInitramfs(folder.initramfs);
  await using line = await Line.start("--ports", "2", "--queues", `${options.queues ?? 1}`, "--dir", folder.path);
  const guests = await bootBoth(folder.guest(0, options), folder.guest(1, options));
  await using left = guests[0];
  await using right = guests[1];
  for (const [index, guest] of guests.entries()) await guest.setAddress(`${addresses[index]}/24`);
  await left.reach(addresses[1], traffic_timeout_ms);
  const before = [await carrierChanges(left), await carrierChanges(right)];
  await right.run(`(ping -i 0.1 -c ${ping_count} ${addresses[0]} >/tmp/ping; touch /tmp/pinged) >/dev/null 2>&1 &`);
  await line.during(copiesFile(left, right, addresses[1], file_mb));
  await line.during(right.until("[ -e /tmp/pinged ]"));
  const told = await right.run("grep transmitted /tmp/ping");
  console.error(
    `${line.gaps.length} takeovers, gaps ${line.gaps.map((gap) => gap.toFixed(1)).join(", ")} ms; ping: ${told}`,
  );
  assert.match(told, new RegExp(`^${ping_count} packets transmitted, ${ping_count} (packets )?received`));
  assert.deepEqual([await carrierChanges(left), await carrierChanges(right)], before);
  await left.close();
  await right.close();
  await line.serve.finish();
}

realTest("two split guests copy a file through takeovers", ["linux"], () => passThrough({}));
realTest("two packed guests with 4 queues copy a file through takeovers", ["linux"], () => {
  return passThrough({ packed: true, queues: 4, cpus: 2 });
});

realTest("a guest migrates while both hosts are taken over, taps and all", ["linux", "network"], async () => {
  await using move = await Move.start();
  const links = () => move.network.run("ip -o link | grep br0 | sed 's/^[0-9]*: //; s/ .*master.*state/ /'");
  const before = await links();
  for (const host of move.hosts) await host.takeOver();
  await move.alive();
  const endPing = await move.ping();
  const takeOverBoth = async () => void await Promise.all(move.hosts.map((host) => host.takeOver()));
  const result = await move.thereDuring(takeOverBoth, ...slow);
  assert.ok(result.logged_pages > 0, "serve logged nothing, although the guest received");
  await move.alive();
  tell("through a takeover of both hosts", result, await endPing());
  assert.equal(await links(), before);
  await move.close();
});

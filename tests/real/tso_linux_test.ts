// TSO between Linux guests under stock QEMU: whole where both have it, cut by us where the receiver has it not, and
// switched while all runs.

import assert from "node:assert/strict";
import { LinuxGuest } from "./guest.ts";
import { writeInitramfs } from "./initramfs.ts";
import { bootBoth, Folder } from "./linux_folder.ts";
import { realTest } from "./peers.ts";
import { Serve } from "./serve.ts";
import { around, copiesFile, meanBytes, receivedText, segment_bytes, transfer_timeout_ms } from "./transfer.ts";

const file_mb = Number(Deno.env.get("VHOSTCTL_FILE_MB") ?? 100);
/** Beside a file in memory. */
const memory_mib = 512;
const traffic_timeout_ms = 20_000;
const addresses = { IPv4: ["10.0.0.1", "10.0.0.2"], IPv6: ["fd00::1", "fd00::2"] } as const;
const withoutOffloads = "guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_csum=off";

interface PairOptions {
  readonly packed?: boolean;
  /** Of the right one's device. */
  readonly device?: string;
  /** Of its port. */
  readonly settings?: string;
}

/** Two guests on one `serve`, of which the right one has offloads or not. */
class Pair implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly serve: Serve;
  readonly guests: readonly [LinuxGuest, LinuxGuest];

  private constructor(stack: AsyncDisposableStack, serve: Serve, guests: readonly [LinuxGuest, LinuxGuest]) {
    this.#stack = stack;
    this.serve = serve;
    this.guests = guests;
  }

  static async start({ packed = false, device, settings = "" }: PairOptions = {}): Promise<Pair> {
    await using stack = new AsyncDisposableStack();
    const folder = stack.use(new Folder());
    await writeInitramfs(folder.initramfs);
    const port = (number: number, more = "") => `name=port${number},socket=${folder.socket(number)}${more}`;
    const serve = stack.use(await Serve.start("--port", port(0), "--port", port(1, settings)));
    const options = { packed, memory_mib: memory_mib + file_mb };
    const right = device === undefined ? options : { ...options, device };
    const guests = await bootBoth(folder.guest(0, options), folder.guest(1, right));
    for (const [index, guest] of guests.entries()) {
      stack.use(guest);
      await guest.setAddress(`${addresses.IPv4[index]}/24`);
      await guest.run(`ip addr add ${addresses.IPv6[index]}/64 dev eth0 && iperf3 -s -D`);
    }
    for (const family of ["IPv4", "IPv6"] as const) {
      await guests[0].until(`ping -c 1 -W 1 ${addresses[family][1]}`, traffic_timeout_ms);
    }
    return new Pair(stack.move(), serve, guests);
  }

  /** iperf3 from one guest to the other; the bytes of a mean packet that left and that arrived. */
  async measure(from: 0 | 1, family: "IPv4" | "IPv6", what: string): Promise<{ sent: number; received: number }> {
    const [sender, to] = [this.guests[from], from ^ 1];
    let sent = 0;
    const [before, after] = await around(this.serve, `port${to}`, async () => {
      const [first, last] = await around(this.serve, `port${from}`, async () => {
        const text = await sender.run(`iperf3 -c ${addresses[family][to]} -t 2`, transfer_timeout_ms);
        console.error(`${family}, ${from === 0 ? "to the right" : "to the left"}, ${what}: ${receivedText(text)}`);
      });
      sent = meanBytes("from_guest", first, last);
    });
    return { sent, received: meanBytes("to_guest", before, after) };
  }

  async close(): Promise<void> {
    for (const guest of this.guests) await guest.close();
    await this.serve.finish();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
  }
}

for (const packed of [false, true]) {
  const ring = packed ? "packed" : "split";
  realTest(`two Linux guests, ${ring}: big segments pass whole, IPv4 and IPv6, and TSO is switched meanwhile`, [
    "linux",
  ], async () => {
    await using pair = await Pair.start({ packed });
    for (const state of ["on", "off"]) {
      for (const from of [0, 1] as const) {
        await pair.guests[from].run(`ethtool -K eth0 tso ${state}`);
        for (const family of ["IPv4", "IPv6"] as const) {
          const { sent, received } = await pair.measure(from, family, `TSO ${state}`);
          const isRight = (bytes: number) => state === "on" ? bytes > 2 * segment_bytes : bytes <= segment_bytes;
          assert(isRight(sent) && isRight(received), `${sent} and ${received} bytes`);
        }
      }
    }
    await pair.guests[0].run("ethtool -K eth0 tso on");
    assert((await pair.measure(0, "IPv4", "TSO on again")).received > 2 * segment_bytes);
    await pair.close();
  });
}

realTest("a Linux guest with all offloads and one with none: segments are cut for it, and a file arrives as it was", [
  "linux",
], async () => {
  await using pair = await Pair.start({ device: withoutOffloads });
  for (const family of ["IPv4", "IPv6"] as const) {
    const { sent, received } = await pair.measure(0, family, "cut");
    assert(sent > 2 * segment_bytes && received <= segment_bytes, `${sent} and ${received} bytes`);
    assert((await pair.measure(1, family, "back")).received > 2 * segment_bytes);
  }
  const { cut, drop_bad_gso } = (await pair.serve.ports()).get("port1")!.to_guest;
  assert(cut! > 0 && drop_bad_gso === 0, `${cut} packets cut, ${drop_bad_gso} refused`);
  const [left, right] = pair.guests;
  await copiesFile(left, right, addresses.IPv4[1], file_mb);
  await copiesFile(right, left, addresses.IPv4[0], file_mb / 10);
  await pair.close();
});

realTest("a Linux guest that takes segments, and whose port does not: they are cut, their sums left to it", [
  "linux",
], async () => {
  await using pair = await Pair.start({ settings: ",guest-tso=off" });
  const { sent, received } = await pair.measure(0, "IPv4", "guest-tso=off");
  assert(sent > 2 * segment_bytes && received <= segment_bytes, `${sent} and ${received} bytes`);
  const { checksums } = (await pair.serve.ports()).get("port1")!.to_guest;
  assert.equal(checksums, 0);
  await pair.close();
});

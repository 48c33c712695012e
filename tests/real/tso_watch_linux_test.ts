// `vhostctl tso-test --socket A --socket B` with two Linux guests under stock QEMU: one leaves its segments and
// checksums to others, one finishes all by itself.

import assert from "node:assert/strict";
import { writeInitramfs } from "./initramfs.ts";
import { bootBoth, Folder } from "./linux_folder.ts";
import { realTest } from "./peers.ts";
import { Program } from "./process.ts";
import { vhostctl } from "./serve.ts";
import { receivedText, segment_bytes, transfer_timeout_ms } from "./transfer.ts";

const start_timeout_ms = 180_000;
const traffic_timeout_ms = 20_000;
const addresses = ["10.0.0.1", "10.0.0.2"] as const;
const byItself = "csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_csum=off";

interface Summary {
  readonly guests: readonly {
    readonly longest_bytes: number;
    readonly bytes: number;
    readonly gso_bytes: number;
    readonly gso_kinds: Readonly<Record<string, number>>;
    readonly checksums: Readonly<Record<"left" | "right" | "wrong" | "none", number>>;
  }[];
}

realTest(
  "tso-test watches two Linux guests: what is left to be cut, and checksums that are right",
  ["linux"],
  async () => {
    using folder = new Folder();
    await writeInitramfs(folder.initramfs);
    const sockets = [0, 1].flatMap((port) => ["--socket", folder.socket(port)]);
    await using program = new Program(vhostctl, ["tso-test", "--json", ...sockets]);
    await program.until(/"event":"ready"/, start_timeout_ms);
    const guests = await bootBoth(folder.guest(0), folder.guest(1, { device: byItself }));
    await using stack = new AsyncDisposableStack();
    for (const [index, guest] of guests.entries()) {
      stack.use(guest);
      await guest.setAddress(`${addresses[index]}/24`);
      await guest.run("iperf3 -s -D");
    }
    await guests[0].reach(addresses[1], traffic_timeout_ms);
    for (const [index, guest] of guests.entries()) {
      const text = await guest.run(`iperf3 -c ${addresses[index ^ 1]} -t 2`, transfer_timeout_ms);
      console.error(`${index === 0 ? "TSO" : "no offloads"}: ${receivedText(text)}`);
    }
    for (const guest of guests) await guest.close();
    const status = await program.stop("SIGINT");
    const text = program.since();
    assert.equal(status.code, 0, text);
    const line = text.split("\n").find((each) => each.includes('"event":"summary"'));
    const [offloading, finishing] = (JSON.parse(line!) as Summary).guests;
    console.error(line);
    assert(offloading!.longest_bytes > 10 * segment_bytes, `${offloading!.longest_bytes} bytes`);
    assert(offloading!.gso_bytes > 0.8 * offloading!.bytes && offloading!.gso_kinds["TSO4"]! > 0);
    assert(offloading!.checksums.left > 0 && offloading!.checksums.wrong === 0);
    assert.equal(finishing!.longest_bytes, segment_bytes);
    assert.equal(finishing!.gso_bytes, 0);
    assert(finishing!.checksums.right > 100 && finishing!.checksums.left === 0 && finishing!.checksums.wrong === 0);
  },
);

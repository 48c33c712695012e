/** `bench/forward.ts` as a program: its packets of our own are those of `pmd-forward`. */

import assert from "node:assert/strict";
import { benchmark, flow, ipv4, ours, udp } from "./forward_cases.ts";
import { Guest } from "./hostile_guest.ts";
import { patiently } from "./hostile_patience.ts";
import { describe, Program } from "./real/process.ts";

const program = new URL("../bench/forward.ts", import.meta.url).pathname;

/** A guest of one port that sent a frame, and got more than so many. */
async function withGuest(
  mode: string,
  format: "split" | "packed",
  least: number,
  act: (guest: Guest, got: Uint8Array<ArrayBuffer>[]) => unknown,
): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "vhostctl-forward-" });
  try {
    const socket = `${folder}/s0`;
    const args = ["run", "--allow-all", program, "--mode", mode, "--txpkts", "100", socket];
    await using forwarder = new Program(Deno.execPath(), args);
    await forwarder.until(/"event":"ready"/, 60_000);
    using guest = new Guest({ path: socket, mac: 0x5254_0000_0001, format });
    guest.start();
    guest.offerBuffers();
    guest.send(ipv4("11", udp));
    const got: Uint8Array<ArrayBuffer>[] = [];
    patiently(`${least} frames`, () => {
      got.push(...guest.arrivals().map(({ frame }) => frame));
      return got.length > least || undefined;
    });
    await act(guest, got);
    assert.equal(describe(await forwarder.stop("SIGTERM")), "exit code 0", forwarder.since());
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

for (const format of ["split", "packed"] as const) {
  Deno.test(`forward.ts, ${format}, txonly: all are alike, and what the guest sends stays with it`, async () => {
    await withGuest("txonly", format, 100, (guest, got) => {
      for (const frame of got) assert.deepEqual(frame, ours(0, 100, ...benchmark));
      assert.equal(guest.allSent, false);
    });
  });

  Deno.test(`forward.ts, ${format}, flowgen: no flow is left out, and what the guest sends is taken`, async () => {
    await withGuest("flowgen", format, 1100, (guest, got) => {
      got.forEach((frame, index) => assert.deepEqual(frame, ours(0, 100, ...flow(index))));
      patiently("the frame back", () => guest.allSent || undefined);
    });
  });
}

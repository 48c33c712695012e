/**
 * A thousand front ends die one after the other at a port of one `serve`, at any message or under traffic: the port is
 * clean each time, nothing is kept of any of them, and the guest beside them notices nothing but packets.
 */

import assert from "node:assert/strict";
import { attach, type AttachedGuest } from "../cli/guest_attach.ts";
import { loadLibrary } from "../ffi/library.ts";
import { Pump } from "../mod.ts";
import { DyingFrontEnd, type Shape } from "./dying_front_end.ts";
import { footprint, footprintText, settles } from "./real/footprint.ts";
import { Serve } from "./real/serve.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const deaths = Number(Deno.env.get("VHOSTCTL_DEATHS") ?? 250);
const macs = { stays: 0x52_54_00_00_00_01, dies: 0x52_54_00_00_00_02 } as const;
const warmUps = 20;
const rate = 20_000;
const longestLife_ms = 20;
/** The most that V8 may have come to hold meanwhile, of its own. */
const growth = { maps: 200, resident_mib: 64 } as const;

/** It sends to the other, and looks at each packet that it gets. */
function talk({ guest }: AttachedGuest, queues: number): void {
  guest.start({
    ...{ sourceMac: macs.stays, destinationMac: macs.dies, queues, rate, wait: "sleep" },
    checkEvery: 1,
  });
}

/** Whoever sends to the one that is gone reaches nobody: its address is forgotten, rather than known where it was. */
async function addressIsForgotten(serve: Serve): Promise<void> {
  const before = (await serve.ports()).get("port0")!.from_guest;
  const after = (await serve.ports()).get("port0")!.from_guest;
  const grown = (counter: string) => after[counter]! - before[counter]!;
  assert.equal(grown("drop_link_down"), 0);
  assert.ok(grown("drop_no_port") > 0, "nothing was sent meanwhile");
}

/** Half of them die under traffic, the others while they start. */
async function die(path: string, shape: Shape, count: number, then: () => Promise<unknown>): Promise<void> {
  const { queues } = shape;
  const addresses = { sourceMac: macs.dies, destinationMac: macs.stays } as const;
  for (let round = 0; round < count; round++) {
    const frontEnd = new DyingFrontEnd(path, shape);
    if (round % 2 === 0) await frontEnd.dieWhileItStarts();
    else await frontEnd.dieUnderTraffic({ ...addresses, queues, rate, checkEvery: 1, wait: "sleep" }, longestLife_ms);
    await then();
  }
}

async function survivesDeaths(shape: Shape): Promise<void> {
  const { packed, queues } = shape;
  await using stack = new AsyncDisposableStack();
  const folder = Deno.makeTempDirSync({ prefix: "vhostctl-dies-" });
  stack.defer(() => Deno.remove(folder, { recursive: true }));
  const serve = stack.use(await Serve.start("--ports", "2", "--queues", `${queues}`, "--dir", folder));
  const { pid } = serve.program;
  const pump = stack.use(Pump.open());
  void pump.run();
  const rings = { ring: packed ? "packed" : "split", ringSize: 256, queues, frameBytes: 1514 } as const;
  const stays = stack.use(await attach(pump, { ...rings, socket: `${folder}/port0.sock` }));
  talk(stays, queues);
  const dying = `${folder}/port1.sock`;
  const fresh = footprint(pid);
  // What is compiled late, and how much garbage there may be, is known after some.
  await die(dying, shape, warmUps, () => settles(pid, fresh));
  const before = footprint(pid);
  await die(dying, shape, deaths, () => settles(pid, before)).catch((reason) => {
    throw new Error(`serve told: ${serve.program.since().slice(-2000)}`, { cause: reason });
  });
  const after = await settles(pid, fresh);
  console.error(`serve before: ${footprintText(before)}`);
  console.error(`serve after:  ${footprintText(after)}`);
  for (const what of ["maps", "resident_mib"] as const) {
    assert.ok(after[what] - before[what] < growth[what], `${what} were ${before[what]} and are ${after[what]}`);
  }
  await addressIsForgotten(serve);
  const { received, corrupted, duplicated, foreign, bad_header, broken } = stays.guest.stats();
  assert.ok(received > 0n);
  assert.deepEqual([corrupted, duplicated, foreign, bad_header, broken], [0n, 0n, 0n, 0n, 0n]);
  await serve.finish();
}

for (const packed of [false, true]) {
  for (const queues of [1, 4]) {
    const name = `${packed ? "packed" : "split"}, ${queues} queue pairs`;
    Deno.test(`front ends die, ${name}: nothing is kept`, () => survivesDeaths({ packed, queues }));
  }
}

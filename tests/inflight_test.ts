/**
 * Simulated guests whose front end keeps what `serve` has in hand: it is killed in the middle of everything, and the
 * next one, which knows nothing else, goes on.
 */

import assert from "node:assert/strict";
import { Frontend, Guest, Pump } from "../mod.ts";
import { loadLibrary } from "../ffi/library.ts";
import { eventually } from "./real/process.ts";
import { Serve } from "./real/serve.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const version1 = 1n << 32n;
const mergeable = 1n << 15n;
const eventIndex = 1n << 29n;
const packed = 1n << 34n;
const protocolFeatures = 1n << 30n;

const macs = [0x52_54_00_00_00_01, 0x52_54_00_00_00_02] as const;
const ringSize = 256;
const kills = 6;
const patience_ms = 20_000;

type Kept = Awaited<ReturnType<Frontend["getInflight"]>>;

/** A guest that runs on, whatever becomes of its back end. */
class Tenant {
  readonly guest: Guest;
  readonly #features: bigint;
  readonly #bases: readonly number[];
  #frontend: Frontend | undefined;
  #kept: Kept | undefined;

  constructor(features: bigint) {
    this.#features = features;
    this.guest = Guest.open({ features, ringSize });
    this.#bases = [0, 1].map((ring) => this.guest.vring(ring).base);
  }

  /** Where rings begin the back end is told as if they were new. */
  async connect(pump: Pump, path: string): Promise<void> {
    const frontend = this.#frontend = new Frontend(pump.connect(path));
    await frontend.handshake();
    await frontend.setFeatures(this.#features | protocolFeatures);
    this.#kept ??= await frontend.getInflight(2, ringSize);
    await frontend.setInflight(this.#kept.inflight, this.#kept.fd.number);
    await frontend.setMemory(this.guest.regions, [this.guest.memoryFd]);
    for (const ring of [0, 1]) {
      await frontend.startVring(ring, { ...this.guest.vring(ring), base: this.#bases[ring]! });
      await frontend.enableVring(ring, true);
    }
  }

  disconnect(): void {
    this.#frontend?.close();
  }

  async close(): Promise<void> {
    this.disconnect();
    await this.guest.close();
    this.#kept?.fd[Symbol.dispose]();
  }
}

function serving(folder: string, ...more: string[]): Promise<Serve> {
  return Serve.start("--dir", folder, "--ports", "2", "--state-dir", "none", ...more);
}

/** So much more arrives on both sides. */
async function flows(tenants: readonly Tenant[]): Promise<void> {
  const before = tenants.map(({ guest }) => guest.stats().received_checked);
  await eventually(
    "frames on both sides",
    patience_ms,
    () => tenants.every(({ guest }, i) => guest.stats().received_checked > before[i]! + 2000n) || undefined,
  );
}

async function outlives(features: bigint, isTakenOver: boolean): Promise<void> {
  const folder = Deno.makeTempDirSync({ prefix: "vhostctl-inflight-" });
  const pump = Pump.open();
  const running = pump.run();
  const tenants = [new Tenant(features), new Tenant(features)];
  let serve = await serving(folder);
  try {
    const traffic = { frameBytesMin: 60, frameBytes: 1514, checkEvery: 1, wait: "yield" } as const;
    tenants.forEach(({ guest }, i) =>
      guest.start({ ...traffic, sourceMac: macs[i]!, destinationMac: macs[1 - i]!, rate: 100_000 })
    );
    for (let kill = 0; kill <= kills; kill++) {
      for (const [i, tenant] of tenants.entries()) await tenant.connect(pump, `${folder}/port${i}.sock`);
      await flows(tenants);
      if (isTakenOver) {
        const old = serve;
        serve = await serving(folder, "--takeover");
        assert.equal((await old.program.finished).code, 0, old.program.since());
        await flows(tenants);
      }
      if (kill === kills) break;
      await serve.program.stop("SIGKILL");
      for (const tenant of tenants) tenant.disconnect();
      serve = await serving(folder);
    }
    for (const { guest } of tenants) await guest.stop();
    for (const { guest } of tenants) {
      const { duplicated, reordered, corrupted, foreign, broken } = guest.stats();
      assert.deepEqual([duplicated, reordered, corrupted, foreign, broken], [0n, 0n, 0n, 0n, 0n]);
    }
    await serve.finish();
  } finally {
    for (const tenant of tenants) await tenant.close();
    await pump[Symbol.asyncDispose]();
    await running;
    await serve.program.stop("SIGKILL");
    await Deno.remove(folder, { recursive: true });
  }
}

const cases: readonly (readonly [name: string, features: bigint])[] = [
  ["split", version1],
  ["split, mergeable", version1 | mergeable | eventIndex],
  ["packed", version1 | packed],
  ["packed, mergeable", version1 | packed | mergeable | eventIndex],
];

for (const [name, features] of cases) {
  const title = `after kill -9 without a state file, ${name} rings go on: nothing comes twice, nothing is stuck`;
  Deno.test(title, () => outlives(features, false));
  Deno.test(`${title}, also after a takeover`, () => outlives(features, true));
}

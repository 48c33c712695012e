/** Memory that a front end keeps of what its back end has in hand, of one guest. */

import assert from "node:assert/strict";
import type { Ring } from "../cli/bench_result.ts";
import type { AttachedGuest } from "../cli/guest_attach.ts";
import type { Frontend } from "../mod.ts";

const ringSize = 256;
/** Bytes of a region's head and of its entries, and of what lies between two regions (vhost-user, Inflight). */
const layouts = { split: { head: 16, entry: 16 }, packed: { head: 32, entry: 32 } } as const;
const align = 64;

type Kept = Awaited<ReturnType<Frontend["getInflight"]>>;

/** What a region says of its ring. */
interface Region {
  readonly version: number;
  /** As the base of a ring that rests: where the next buffer is used. */
  readonly used: number;
  readonly held: number;
}

/** Kept for one guest with rings of 256. */
export class KeptInflight implements Disposable {
  readonly #attached: AttachedGuest;
  readonly #ring: Ring;
  readonly #queues: number;
  readonly #kept: Kept;

  private constructor(attached: AttachedGuest, ring: Ring, queues: number, kept: Kept) {
    this.#attached = attached;
    this.#ring = ring;
    this.#queues = queues;
    this.#kept = kept;
  }

  /** Gives it to the back end of a guest whose rings run, and does not send yet. */
  static async give(attached: AttachedGuest, ring: Ring, queues: number): Promise<KeptInflight> {
    const { frontend, guest } = attached;
    const rings = Array.from({ length: 2 * queues }, (_, index) => index);
    const bases = [];
    for (const index of rings) bases.push(await frontend.stopVring(index));
    const kept = await frontend.getInflight(rings.length, ringSize);
    await frontend.setInflight(kept.inflight, kept.fd.number);
    for (const index of rings) {
      await frontend.startVring(index, { ...guest.vring(index), base: bases[index]! });
      await frontend.enableVring(index, true);
    }
    return new KeptInflight(attached, ring, queues, kept);
  }

  /** Each region is that of its ring, in which nothing is in hand; at its stop the back end says so there, too. */
  async check(): Promise<void> {
    for (let index = 0; index < 2 * this.#queues; index++) {
      const before = this.#region(index);
      const base = await this.#attached.frontend.stopVring(index);
      // Of a packed ring both places are told, and wrap counters: nothing is in hand.
      if (this.#ring === "packed") assert.equal(base >>> 16, base & 0xffff);
      assert.deepEqual(before, { version: 1, used: base & 0xffff, held: 0 }, `ring ${index}`);
      assert.equal(this.#region(index).version, 0, `ring ${index} after its stop`);
    }
  }

  #region(index: number): Region {
    const { head, entry } = layouts[this.#ring];
    const bytes = new Uint8Array(head + ringSize * entry);
    using file = Deno.openSync(`/proc/self/fd/${this.#kept.fd.number}`);
    file.seekSync(index * Math.ceil(bytes.length / align) * align, Deno.SeekMode.Start);
    assert.equal(file.readSync(bytes), bytes.length);
    const view = new DataView(bytes.buffer);
    const held = Array.from({ length: ringSize }, (_, number) => bytes[head + number * entry]!);
    const used = this.#ring === "split" ? view.getUint16(14, true) : view.getUint16(16, true) | bytes[20]! << 15;
    return { version: view.getUint16(8, true), used, held: held.filter((mark) => mark !== 0).length };
  }

  [Symbol.dispose](): void {
    this.#kept.fd[Symbol.dispose]();
  }
}

/** A front end with memory and rings in which nothing ever happens, unless a test writes it there. */

import { Fd, Frontend, openEventfd, openMemoryFile, type Pump, signalEventfd } from "../mod.ts";

const memorySize = 1n << 20n;
/** The front end's own address of its memory: nobody looks there. */
const memoryAddress = 0x7f00_0000_0000n;
const ringSize = 256;
const ringBytes = 0x4000n;
const availOffset = 0x1000n;
const usedOffset = 0x2000n;

export class StillGuest implements Disposable {
  readonly frontend: Frontend;
  readonly #memory: Fd = openMemoryFile(memorySize);
  readonly #kicks = new Map<number, Fd>();

  private constructor(frontend: Frontend) {
    this.frontend = frontend;
  }

  /** Connects; nothing is sent yet. */
  static connect(pump: Pump, path: string): StillGuest {
    return new StillGuest(new Frontend(pump.connect(path)));
  }

  /** Starts and enables rings as QEMU does for its guest's driver, split without any extras. */
  async start(...rings: readonly number[]): Promise<void> {
    await this.frontend.handshake();
    await this.frontend.setFeatures(1n << 32n | 1n << 30n);
    const region = { gpa: 0n, size: memorySize, userAddress: memoryAddress, mmapOffset: 0n };
    await this.frontend.setMemory([region], [this.#memory.number]);
    await this.startRings(...rings);
  }

  async startRings(...rings: readonly number[]): Promise<void> {
    for (const ring of rings) {
      const desc = memoryAddress + ringBytes * BigInt(ring);
      const kick = openEventfd();
      this.#kicks.get(ring)?.[Symbol.dispose]();
      this.#kicks.set(ring, kick);
      await this.frontend.startVring(ring, {
        size: ringSize,
        base: 0,
        desc,
        avail: desc + availOffset,
        used: desc + usedOffset,
        kick: kick.number,
      });
      await this.frontend.enableVring(ring, true);
    }
  }

  kick(ring: number): void {
    signalEventfd(this.#kicks.get(ring)!.number);
  }

  /** Writes the driver's index of a ring's available buffers (virtio 2.7.6). */
  async offer(ring: number, index: number): Promise<void> {
    using file = await Deno.open(`/proc/self/fd/${this.#memory.number}`, { write: true });
    await file.seek(ringBytes * BigInt(ring) + availOffset + 2n, Deno.SeekMode.Start);
    await file.write(new Uint8Array(new Uint16Array([index]).buffer));
  }

  [Symbol.dispose](): void {
    this.frontend.close();
    this.#memory[Symbol.dispose]();
    for (const kick of this.#kicks.values()) kick[Symbol.dispose]();
  }
}

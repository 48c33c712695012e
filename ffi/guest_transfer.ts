/**
 * A simulated guest's memory on its way to a twin in another process, as a hypervisor copies it.
 *
 * @module
 */

import { GuestArea, GuestPages, structs } from "./abi.gen.ts";
import type { Guest } from "./guest.ts";
import { check, library } from "./library.ts";
import { emptyStruct, readStruct, type Struct } from "./struct.ts";

/** Pages that were copied, those among them that were the same before, and marks outside of the guest's memory. */
export type GuestCopy = Struct<"GuestCopy">;

/** A page that is not the same on both sides. */
export interface GuestDifference {
  /** Of the first byte that differs, guest-physical. */
  readonly gpa: bigint;
  /** What lies there; of a packed ring, `avail` is the driver's event, and `event` the device's. */
  readonly area: keyof typeof GuestArea;
  /** As numbered on the wire. */
  readonly ring: number;
  /** Of area `buffer`: its number. */
  readonly buffer: number;
}

/** Differences that one comparison tells of. */
const differencesMax = 64;
const areaNames = new Map(Object.entries(GuestArea).map(([name, number]) => [number as number, name]));

/** From a guest that stays open to the memory of another with the same options. For the thread that opened it. */
export class GuestTransfer implements Disposable {
  #handle: number;

  /**
   * @param memory A descriptor of the twin's memory, only borrowed.
   *
   * Throws `VringError` when that is of another size.
   */
  constructor(guest: Guest, memory: number) {
    this.#handle = check("map the other guest's memory", library().transfer_open(guest.handle, memory));
  }

  /** Reads this dirty log from now on, and no other. Offset and size, in bytes, are multiples of 8. */
  setLog(fd: number, offset: bigint, size: bigint): void {
    const [at, bytes] = [new BigUint64Array([offset]), new BigUint64Array([size])];
    check("map the dirty log", library().transfer_set_log(this.#handle, fd, at, bytes));
  }

  /** Copies all pages, those that the guest's driver writes itself, or those that the log has, which is then empty. */
  copy(pages: keyof typeof GuestPages): GuestCopy {
    const buffer = emptyStruct("GuestCopy");
    check("copy pages", library().transfer_copy(this.#handle, GuestPages[pages], buffer));
    return readStruct("GuestCopy", buffer);
  }

  /** Compares every page, while nobody writes. Tells of the first few that differ. */
  compare(): { readonly count: number; readonly differences: readonly GuestDifference[] } {
    const { size } = structs.GuestDifference;
    const buffer = new Uint8Array(size * differencesMax);
    const count = check("compare pages", library().transfer_compare(this.#handle, buffer, differencesMax));
    const differences = Array.from({ length: Math.min(count, differencesMax) }, (_, row) => {
      const { gpa, area, ring, buffer: number } = readStruct("GuestDifference", buffer, row * size);
      return { gpa, area: (areaNames.get(area) ?? "none") as keyof typeof GuestArea, ring, buffer: number };
    });
    return { count, differences };
  }

  /** Forgets the twin and the log. May be called again. */
  [Symbol.dispose](): void {
    if (this.#handle === 0) return;
    const handle = this.#handle;
    this.#handle = 0;
    check("unmap the other guest's memory", library().transfer_close(handle));
  }
}

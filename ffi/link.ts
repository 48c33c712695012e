/**
 * One end of a link page (`zig/link_page.zig`): the file, or the BAR, by which one guest is told of another.
 *
 * @module
 */

import type { Fd } from "../vhost/fd.ts";
import type { LinkStand, LinkTable } from "../vhost/link_table.ts";
import { limits, Status, structs } from "./abi.gen.ts";
import { check, library, VringError } from "./library.ts";
import { emptyStruct, readStruct, writeStruct, writeStructs } from "./struct.ts";

/** How long the page's file is, in bytes: what a BAR can show. */
export const linkBytes = limits.link_bytes_max;

/** A reader that goes by no generation says so by an odd number. */
const none = 1;

/** For one thread. Dispose of it to close it. */
export class Link implements Disposable {
  #handle: number;

  private constructor(handle: number) {
    this.#handle = handle;
  }

  /**
   * The writer's end, in the file at `path`, made with these permission bits where there is none. Throws `VringError`:
   * status `busy` where another process has it.
   */
  static create(path: string, mode: number): Link {
    const bytes = new TextEncoder().encode(path);
    const code = library().link_create(bytes, bytes.length, mode);
    if (code !== Status.busy) return new Link(check(`open link page ${path}`, code));
    throw new VringError(`open link page ${path}`, code, "another program has it: stop that, or choose another path");
  }

  /** The reader's end; takes over `file`. Throws `VringError`: status `invalid_argument` where it is no such page. */
  static attach(file: Fd): Link {
    const code = library().link_attach(file.take());
    if (code !== Status.invalid_argument) return new Link(check("read link page", code));
    throw new VringError("read link page", code, "there is none, or one of another version of vhostctl");
  }

  /** Tells the reader all of it. Returns the generation. */
  publish({ features, peer, mtu = 0, regions, vrings }: LinkTable): number {
    const counts = { region_count: regions.length, vring_count: vrings.length };
    const head = writeStruct("LinkHead", { features, generation: 0, peer, mtu, ...counts });
    const rows = regions.map(({ gpa, size, offset }) => ({ gpa, size_bytes: size, mmap_offset: offset }));
    // The library takes no pointer to nothing.
    const nothing = { gpa: 0n, size_bytes: 0n, mmap_offset: 0n };
    const rings = vrings.map(({ desc, avail, used, enabled, ...rest }) => ({
      ...rest,
      desc_gpa: desc,
      avail_gpa: avail,
      used_gpa: used,
      enabled: enabled ? 1 : 0,
    }));
    const code = library().link_publish(
      this.#live(),
      head,
      writeStructs("Region", [...rows, nothing]),
      writeStructs("LinkVring", rings),
    );
    return check("write link page", code);
  }

  /** The generation that `read` would bring; an odd number while it is being written. */
  get generation(): number {
    return check("read link page", library().link_generation(this.#live()));
  }

  /** What is there now; undefined while it is being written. Throws `VringError` where it cannot be. */
  read(): { readonly generation: number; readonly table: LinkTable } | undefined {
    const head = emptyStruct("LinkHead");
    const regions = new Uint8Array(structs.Region.size * limits.link_regions_max);
    const vrings = new Uint8Array(structs.LinkVring.size * limits.link_vrings_max);
    const code = library().link_read(this.#live(), head, regions, vrings);
    if (code < 0 && new VringError("", code).status === "busy") return undefined;
    check("read link page", code);
    const { generation, features, peer, mtu, region_count, vring_count } = readStruct("LinkHead", head);
    const table = {
      features,
      peer,
      mtu: mtu === 0 ? undefined : mtu,
      regions: Array.from({ length: region_count }, (_, index) => {
        const row = readStruct("Region", regions, index * structs.Region.size);
        return { gpa: row.gpa, size: row.size_bytes, offset: row.mmap_offset };
      }),
      vrings: Array.from({ length: vring_count }, (_, index) => {
        const row = readStruct("LinkVring", vrings, index * structs.LinkVring.size);
        const { desc_gpa: desc, avail_gpa: avail, used_gpa: used, size, base, start } = row;
        return { desc, avail, used, size, base, start, enabled: row.enabled !== 0 };
      }),
    };
    return { generation, table };
  }

  /** For the reader: it goes by this generation from now on; undefined: by none. */
  acknowledge(generation: number | undefined): void {
    check("write link page", library().link_acknowledge(this.#live(), generation ?? none));
  }

  /** For the reader, again and again: it is there. */
  beat(): void {
    check("write link page", library().link_beat(this.#live()));
  }

  /** Another number than a while ago: the reader is there. */
  get beats(): number {
    return check("read link page", library().link_beats(this.#live()));
  }

  /** Whether the reader goes by this generation. Waits for it so long at most, and with it the whole thread. */
  isAcknowledged(generation: number, patience_ms = 0): boolean {
    return check("read link page", library().link_await(this.#live(), generation, patience_ms)) === 1;
  }

  /** For the reader: where it leaves a ring, before it acknowledges. */
  setStand(vring: number, stand: LinkStand): void {
    check("write link page", library().link_set_stand(this.#live(), vring, writeStruct("LinkStand", stand)));
  }

  /** What a reader said of a ring last; it may be hostile. */
  standOf(vring: number): LinkStand {
    const row = emptyStruct("LinkStand");
    check("read link page", library().link_stand(this.#live(), vring, row));
    return readStruct("LinkStand", row);
  }

  /** May be called again. */
  [Symbol.dispose](): void {
    if (this.#handle === 0) return;
    library().link_close(this.#handle);
    this.#handle = 0;
  }

  #live(): number {
    if (this.#handle === 0) throw new TypeError("Cannot use link: closed");
    return this.#handle;
  }
}

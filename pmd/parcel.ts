/**
 * What a process needs to go on with a port of another: an object of JSON, and descriptors by name.
 *
 * @module
 */
import type { Fd } from "../vhost/fd.ts";
import type { Json } from "../vhost/session_snapshot.ts";

/** A port on its way. */
export interface Parcel {
  readonly state: Json;
  /** Borrowed: they stay whose they are. */
  readonly fds: readonly NamedFd[];
}

/** As in `["kick1", 17]`. */
export type NamedFd = readonly [name: string, fd: number];

/** Descriptors that came, until they are taken; disposal closes the others. */
export class ParcelFds implements Disposable {
  readonly #fds: Map<string, Fd>;

  constructor(names: readonly string[], fds: readonly Fd[]) {
    if (names.length !== fds.length) {
      for (const fd of fds) fd[Symbol.dispose]();
      throw new Error(`${fds.length} descriptors came where ${names.length} were announced`);
    }
    this.#fds = new Map(names.map((name, index) => [name, fds[index]!]));
  }

  /** Still the parcel's; undefined where none came. */
  look(name: string): Fd | undefined {
    return this.#fds.get(name);
  }

  /** Still the parcel's. Throws where none came. */
  get(name: string): Fd {
    const fd = this.#fds.get(name);
    if (fd === undefined) throw new Error(`no descriptor ${name} came`);
    return fd;
  }

  [Symbol.dispose](): void {
    for (const fd of this.#fds.values()) fd[Symbol.dispose]();
  }
}

/** Where a port's rings stand, when they are at rest. */
export interface Positions {
  /** By ring; null where it does not run. */
  readonly bases: readonly (number | null)[];
  /** How often the guest is to be announced still, and as whom: 48 bits. */
  readonly announcements: readonly [count: number, mac: number];
}

/** Counters of a port, by direction. */
export type Inheritance = Readonly<Record<"toGuest" | "fromGuest", Readonly<Record<string, bigint>>>>;

/**
 * A port that can change its process. Of the one that has it: `freeze`, and when all that was heard before has been
 * dealt with `parcel`; then the engine comes to rest for `positions`. Of the one that is to have it, with the engine at
 * rest, `begin`, and when it is its own `own`. Whoever has it in the end: `thaw`; for the other what it closes then
 * closes nothing but its own.
 */
export interface MovingPort {
  /** Nobody is listened to any more, and nobody let in. */
  freeze(): void;
  /**
   * For one who reads this version: from 2 on of AF_XDP, and of memory that a front end keeps for us. Throws with the
   * reason why it cannot go; `busy` where a message of its front end is on its way.
   */
  parcel(version: number): Parcel;
  /** Ends the session of a front end with which the port cannot go: it may connect again. */
  expel(reason: string): void;
  positions(): Positions;
  /** Starts the rings that ran. */
  begin(positions: Positions): void;
  /** From now on the other process touches nothing of it. The engine still rests. May not throw. */
  own(): void;
  /** Goes on. */
  thaw(): void;
  /** Adds what was counted before. */
  inherit(counters: Inheritance): void;
}

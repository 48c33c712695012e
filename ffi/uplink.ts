/**
 * Interfaces of the host's that ports lead to.
 *
 * @module
 */
import { UplinkKind, UplinkStep } from "./abi.gen.ts";
import { check, library, VringError } from "./library.ts";
import { emptyStruct, readStruct, type Struct, writeStruct } from "./struct.ts";
import { handoverAdvice, isLacking, uplinkAdvice, type UplinkStepName } from "./uplink_advice.ts";

/** How frames come from and go to the interface. */
export type UplinkKindName = keyof typeof UplinkKind;

export interface UplinkOptions {
  readonly kind: UplinkKindName;
  /** The interface: 1 to 15 bytes. */
  readonly name: string;
  /** Its queues that are used: 1 to 128, by default 1. */
  readonly queuePairs?: number | undefined;
  /** To be set, in bytes without the Ethernet header; as it is, if undefined. */
  readonly mtu?: number | undefined;
  /** Whether segments of a TCP stream are put together when they come: by default true. */
  readonly gro?: boolean | undefined;
  /** Of a tap: whether big packets and unfinished checksums may come from it: by default true. */
  readonly offloads?: boolean | undefined;
  /** Of XDP: whether the kernel copies frames, although the driver could do without. By default false. */
  readonly copy?: boolean | undefined;
}

/** What an interface was found to be. */
export interface UplinkFound {
  /** In bytes, without the Ethernet header. */
  readonly mtu: number;
  /** It was made by us. */
  readonly created: boolean;
  /** It is up. */
  readonly up: boolean;
}

/** What an open interface is beside its descriptors. */
export type UplinkState = Struct<"UplinkState">;

/** An interface that could not be opened. The message says what to do. */
export class UplinkError extends VringError {
  /** Whether the host lacks something: a driver, or a permission. */
  readonly lacking: boolean;

  constructor(operation: string, code: number, explanation: string | undefined, lacking: boolean) {
    super(operation, code, explanation);
    this.name = "UplinkError";
    this.lacking = lacking;
  }
}

/**
 * An open interface, for `Port.attach`; for the thread that opened it. Dispose of it when no port is attached any more:
 * what was made then goes, and what was there before is as it was.
 */
export class Uplink implements Disposable {
  #handle: number;
  readonly #kind: UplinkKindName;
  readonly name: string;
  readonly queuePairs: number;
  /** In bytes, without the Ethernet header. */
  readonly mtu: number;
  /** It was made by us. */
  readonly created: boolean;
  /** It is up; else somebody who may has to set it up. */
  readonly up: boolean;

  private constructor(handle: number, options: UplinkOptions, { mtu, created, up }: UplinkFound) {
    this.#handle = handle;
    this.#kind = options.kind;
    this.name = options.name;
    this.queuePairs = options.queuePairs ?? 1;
    this.mtu = mtu;
    this.created = created;
    this.up = up;
  }

  /** Opens it, makes it if it is not there, and sets it up. Throws `UplinkError`. */
  static open(options: UplinkOptions): Uplink {
    const { name } = options;
    const row = rowOf(options);
    const code = library().uplink_open(row);
    if (code >= 0) {
      const { mtu, created, up } = readStruct("Uplink", row);
      return new Uplink(code, options, { mtu, created: created !== 0, up: up !== 0 });
    }
    const { step: number } = readStruct("Uplink", row);
    const step = (Object.keys(UplinkStep) as UplinkStepName[]).find((word) => UplinkStep[word] === number)!;
    const reason = reasonOf(code);
    throw new UplinkError(`open interface ${name}`, code, uplinkAdvice(step, reason, options), isLacking(step, reason));
  }

  /**
   * Goes on with what another process opened, and takes the descriptors over, as in `fds`. It is shared. `found` is
   * what the other found.
   */
  static adopt(options: UplinkOptions, found: UplinkFound, state: UplinkState, fds: readonly number[]): Uplink {
    const row = rowOf(options);
    const code = library().uplink_adopt(row, writeStruct("UplinkState", state), Int32Array.from(fds));
    return new Uplink(check(`take over interface ${options.name}`, code), options, found);
  }

  /** What `adopt` needs beside the descriptors. Throws for AF_XDP before Linux 6.4. */
  get state(): UplinkState {
    const row = emptyStruct("UplinkState");
    const code = library().uplink_state(this.handle, row);
    if (code < 0) throw new VringError(`hand over interface ${this.name}`, code, handoverAdvice(reasonOf(code)));
    return readStruct("UplinkState", row);
  }

  /** The descriptors, still the uplink's, in the order of `uplinkFdNames`. */
  get fds(): number[] {
    return uplinkFdNames(this.#kind, this.queuePairs).map((name, number) => {
      return check(`hand over ${name} of ${this.name}`, library().uplink_fd(this.handle, number));
    });
  }

  /** Whether another process has it, too: then closing it leaves all as it is. */
  share(shared: boolean): void {
    check(`share interface ${this.name}`, library().uplink_share(this.handle, shared ? 1 : 0));
  }

  /** Where a queue pair goes on, of an interface that was taken over and is not attached yet. The other one rests. */
  beginAt(pair: number, position: number): void {
    check(`take over queue ${pair} of ${this.name}`, library().uplink_begin_at(this.handle, pair, position));
  }

  /** For `Port.attach`. */
  get handle(): number {
    if (this.#handle === 0) throw new TypeError(`Cannot use interface ${this.name}: closed`);
    return this.#handle;
  }

  /** Whether it was deleted meanwhile, and perhaps made anew. */
  get gone(): boolean {
    return check(`look for interface ${this.name}`, library().uplink_gone(this.handle)) === 1;
  }

  /** May be called again. */
  [Symbol.dispose](): void {
    if (this.#handle === 0) return;
    library().uplink_close(this.#handle);
    this.#handle = 0;
  }
}

/** Of a failed system call, else 0. */
function reasonOf(code: number): number {
  return code <= -1000 ? -1000 - code : 0;
}

/** What a process needs that is to go on with an interface, one name for each descriptor. */
export function uplinkFdNames(kind: UplinkKindName, queuePairs: number): string[] {
  const each = (what: string) => Array.from({ length: queuePairs }, (_, pair) => `${what}${pair}`);
  return kind === "xdp" ? [...each("queue"), ...each("memory"), "link", "map", "listener"] : each("queue");
}

function rowOf({ kind, name, queuePairs = 1, mtu = 0, gro = true, offloads = true, copy = false }: UplinkOptions) {
  const bytes = [...new TextEncoder().encode(name)];
  if (bytes.length > 15) {
    throw new UplinkError(`open interface ${name}`, -1, "its name has more than 15 bytes", false);
  }
  return writeStruct("Uplink", {
    kind: UplinkKind[kind],
    queue_pairs: queuePairs,
    name: [...bytes, ...Array(16 - bytes.length).fill(0)],
    mtu,
    step: UplinkStep.none,
    created: 0,
    up: 0,
    gro: gro ? 1 : 0,
    offloads: offloads ? 1 : 0,
    copy: copy ? 1 : 0,
  });
}

/**
 * The file that outlives us, of one port: what it offers, and where its rings are.
 *
 * A front end whose guest uses a feature refuses a back end that has lost it. So who comes after us offers what we did
 * as long as rings wait that we left, and what it likes once there are none.
 *
 * The head is two lines of text: the file's kind, version and checksum, and an object of JSON. A later version reads
 * what this one wrote.
 *
 * @module
 */
import type { Port } from "../ffi/port.ts";
import { checksumOf, openStateFile, stateHeadBytes } from "../ffi/state_file.ts";
import type { Fd } from "../vhost/fd.ts";
import { makeOffer, type Offer } from "../vhost/offer.ts";
import { limits } from "../vhost/spec.ts";

const kind = "vhostctl-state";
const version = 1;

/** What of an offer has to stay. */
type KeptOffer = Pick<Offer, "features" | "protocolFeatures" | "queuePairs">;

/** Where a file is, or would be, and what is wrong with it. */
export interface StateFailure {
  readonly path: string;
  readonly reason: string;
}

/** A port's state file, ours alone. Lost rings are told by the port, not by this. */
export class KeptState {
  readonly path: string;
  /** Until a port has it. */
  readonly #file: Fd | undefined;
  /** As written by whoever had the file last. */
  #kept: KeptOffer | undefined;
  /** What is to be written once the file is ours, while another process has it. */
  #waiting: Offer | undefined;
  #isOwned: boolean;
  /** Another one that was in its place, and where it is now. */
  readonly setAside: StateFailure | undefined;

  private constructor(path: string, file: Fd | undefined, kept: KeptOffer | undefined, setAside?: StateFailure) {
    this.path = path;
    this.#file = file;
    this.#isOwned = file !== undefined;
    this.#kept = kept;
    this.setAside = setAside;
  }

  /** Throws `VringError`: status `busy` where another process has it. */
  static open(path: string): KeptState {
    const file = openStateFile(path);
    try {
      const found = readHead(path);
      if (typeof found !== "string") return new KeptState(path, file, found);
      const aside = { path: `${path}.bad`, reason: found };
      Deno.renameSync(path, aside.path);
      file[Symbol.dispose]();
      return new KeptState(path, openStateFile(path), undefined, aside);
    } catch (error) {
      file[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * Of a port that comes from another process with its file open, in which nothing is written before `own`; undefined
   * where somebody removed that.
   */
  static adopt(path: string): KeptState | undefined {
    try {
      const found = readHead(path);
      return new KeptState(path, undefined, typeof found === "string" ? undefined : found);
    } catch {
      return undefined;
    }
  }

  /** The other process has it no more. */
  own(): void {
    this.#isOwned = true;
    if (this.#waiting !== undefined) this.#write(this.#waiting);
  }

  /** So many queue pairs a port needs for the rings that may have been left. */
  queuePairs(offer: Offer): number {
    return Math.max(offer.queuePairs, this.#kept?.queuePairs ?? 0);
  }

  /** Gives the file to a port, which keeps it open. No ring of it runs. */
  begin(port: Port): void {
    if (this.#file !== undefined) port.keepState(this.#file);
  }

  /** What to offer to the next front end: as before, while rings wait for it that were left. */
  offer(port: Port, wanted: Offer): Offer {
    const known = makeOffer({ postCopy: true, deviceState: true });
    const offer = this.#kept === undefined || !port.isLeft() ? wanted : {
      ...wanted,
      features: this.#kept.features & known.features,
      protocolFeatures: this.#kept.protocolFeatures & known.protocolFeatures,
      queuePairs: this.#kept.queuePairs,
    };
    if (this.#isOwned) this.#write(offer);
    else this.#waiting = offer;
    return offer;
  }

  #write(offer: Offer): void {
    if (this.#kept !== undefined && isSame(this.#kept, offer)) return;
    this.#kept = offer;
    const body = JSON.stringify({
      features: hex(offer.features),
      protocol_features: hex(offer.protocolFeatures),
      queue_pairs: offer.queuePairs,
    });
    const head = new Uint8Array(stateHeadBytes).fill(0x20);
    new TextEncoder().encodeInto(`${kind} ${version} ${checksum(body)}\n${body}\n`, head);
    try {
      using file = Deno.openSync(this.path, { write: true });
      file.writeSync(head);
    } catch {
      // Somebody removed it while we serve: nobody will read it.
    }
  }

  /** Removes the file, where nobody has to take anything up. */
  end(port: Port): void {
    if (port.isLeft()) return;
    try {
      Deno.removeSync(this.path);
    } catch {
      // Without its folder it is gone, too.
    }
  }
}

/** Whether two offers are the same to a front end that comes back. */
export function isSame(one: KeptOffer, other: KeptOffer): boolean {
  return one.features === other.features && one.protocolFeatures === other.protocolFeatures &&
    one.queuePairs === other.queuePairs;
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}

function checksum(body: string): string {
  return checksumOf(body).toString(16).padStart(8, "0");
}

/** The head of a file; undefined where it is new, and a reason where it cannot be used. */
function readHead(path: string): KeptOffer | string | undefined {
  const head = new Uint8Array(stateHeadBytes);
  using file = Deno.openSync(path, { read: true });
  const length = file.readSync(head);
  if (length === null) return undefined;
  if (length < stateHeadBytes) return length === 0 ? undefined : "it is cut short";
  // Whoever made it died before it came to this.
  if (head.every((byte) => byte === 0)) return undefined;
  const [first = "", body = ""] = new TextDecoder().decode(head).split("\n", 2);
  const [name, number, sum] = first.split(" ");
  if (name !== kind) return "it is not a state file";
  if (number !== String(version)) return `it is of version ${number}: this program knows version ${version}`;
  if (sum !== checksum(body)) return "its checksum is wrong";
  return readOffer(body) ?? "its offer makes no sense";
}

function readOffer(body: string): KeptOffer | undefined {
  try {
    const { features, protocol_features, queue_pairs: queuePairs } = JSON.parse(body);
    if (!Number.isInteger(queuePairs) || queuePairs < 1 || queuePairs > limits.queuePairs) return undefined;
    return { features: BigInt(features), protocolFeatures: BigInt(protocol_features), queuePairs };
  } catch {
    return undefined;
  }
}

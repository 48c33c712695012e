/**
 * What travels with a guest beside its memory and its rings (vhost-user, Migrating back-end state): what the switch
 * knows of its port. All of it are hints: a guest without them is whole.
 *
 * 24 bytes: "vhostctl", version, length of the text, its CRC-32, 0, each of 32 bits and little-endian; then the text,
 * JSON. It all fits into any pipe, so that neither side ever waits for the other.
 *
 * @module
 */
import type { Fd } from "./fd.ts";

/** The limit of a state, and what a single write to a pipe takes whole (pipe(7), PIPE_BUF). */
export const stateBytesMax = 4096;

/** Counted by name, as `VringStats` has them. */
export type StateCounters = Readonly<Record<string, number>>;

export interface DeviceState {
  /** Addresses that were learned, as in a frame: the first byte is the lowest. */
  readonly macs: readonly bigint[];
  /** What NET_SET_MTU said, in bytes. */
  readonly mtu: number | undefined;
  /** Since the guest is on any host of ours; those that are 0 may be left out. */
  readonly toGuest: StateCounters;
  readonly fromGuest: StateCounters;
}

/**
 * Moves a state through a pipe, for `Backend`; all rings are stopped. Each call throws when the front end has to know
 * that it failed.
 */
export interface StateTransfer {
  /** Writes at once; borrows the pipe. */
  save(pipe: Fd): void;
  /** Takes the pipe over, and reads what comes until `check`. */
  load(pipe: Fd): void;
  /** All has gone, or has come; takes it in. */
  check(): void;
}

const magic = "vhostctl";
const version = 1;
const headBytes = 24;
const littleEndian = true;

/** Leaves out as many addresses as do not fit. */
export function encodeState(state: DeviceState): Uint8Array<ArrayBuffer> {
  const { macs, mtu, toGuest, fromGuest } = state;
  const hex = macs.map((mac) => mac.toString(16).padStart(12, "0"));
  for (let count = hex.length;; count = Math.floor(count / 2)) {
    const text = JSON.stringify({ macs: hex.slice(0, count).join(""), mtu, toGuest, fromGuest });
    const body = new TextEncoder().encode(text);
    if (headBytes + body.length > stateBytesMax && count > 0) continue;
    const bytes = new Uint8Array(headBytes + body.length);
    bytes.set(new TextEncoder().encode(magic));
    const view = new DataView(bytes.buffer);
    [version, body.length, crc32(body)].forEach((word, i) => view.setUint32(8 + 4 * i, word, littleEndian));
    bytes.set(body, headBytes);
    return bytes;
  }
}

/** Throws `Error` with the reason why these bytes are no state of ours. */
export function decodeState(bytes: Uint8Array): DeviceState {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const body = bytes.subarray(headBytes);
  if (bytes.length < headBytes || new TextDecoder().decode(bytes.subarray(0, 8)) !== magic) {
    throw new Error(`${bytes.length} bytes of another back end`);
  }
  const [found, length, sum] = [8, 12, 16].map((at) => view.getUint32(at, littleEndian));
  if (found !== version) throw new Error(`version ${found}: this program reads ${version}`);
  if (bytes.length > stateBytesMax) throw new Error(`more than ${stateBytesMax} bytes`);
  if (length !== body.length) throw new Error(`${body.length} bytes where ${length} were announced`);
  if (sum !== crc32(body)) throw new Error("its checksum is wrong");
  return stateOf(JSON.parse(new TextDecoder().decode(body)));
}

/** Whoever wrote it may have been wrong, or lied. */
function stateOf(value: unknown): DeviceState {
  const { macs, mtu, toGuest, fromGuest } = value as Record<string, unknown>;
  const texts = typeof macs === "string" ? macs.match(/[0-9a-f]{12}/g) ?? [] : [];
  return {
    // A group address cannot be a source (IEEE 802.3, 3.2.3), and nobody has the address 0.
    macs: texts.map((text) => BigInt(`0x${text}`)).filter((mac) => mac !== 0n && (mac & 1n) === 0n),
    mtu: typeof mtu === "number" ? mtu : undefined,
    toGuest: countersOf(toGuest),
    fromGuest: countersOf(fromGuest),
  };
}

function countersOf(value: unknown): StateCounters {
  const entries = Object.entries(typeof value === "object" && value !== null ? value : {});
  return Object.fromEntries(entries.filter(([, count]) => Number.isSafeInteger(count) && count > 0));
}

/** IEEE 802.3, 3.2.9. */
function crc32(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc >>> 1 ^ (crc & 1 ? 0xedb8_8320 : 0);
  }
  return ~crc >>> 0;
}

/**
 * Files with what a port's rings would have to know to go on after this process died.
 *
 * The first `stateHeadBytes` of such a file belong to the caller. The rest is the library's, which writes it while
 * rings run (`zig/journal.zig`); zeros say nothing of any ring.
 *
 * @module
 */
import type { Fd } from "../vhost/fd.ts";
import { limits } from "./abi.gen.ts";
import { ownFd } from "./fd.ts";
import { library, VringError } from "./library.ts";

export const stateHeadBytes = limits.journal_head_bytes_max;

/**
 * Opens a file, made with mode 0600 where there is none, for `Port.keepState`. It is locked as long as the descriptor
 * is open: throws `VringError` with status `busy` where another process has it, else with the `errno`.
 */
export function openStateFile(path: string): Fd {
  const bytes = new TextEncoder().encode(path);
  const operation = `open state file ${path}`;
  if (bytes.length === 0 || bytes.includes(0)) throw new RangeError(`Cannot ${operation}: not a path`);
  const code = library().journal_open(bytes, bytes.length);
  if (code < 0) throw new VringError(operation, code);
  return ownFd(code);
}

/** The CRC-32 of ISO 3309, as zlib has it, of a text in UTF-8. */
export function checksumOf(text: string): number {
  const bytes = new TextEncoder().encode(text);
  return library().crc32(bytes, bytes.length);
}

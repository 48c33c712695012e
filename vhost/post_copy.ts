/**
 * Post-copy: the guest runs on its new host while some of its memory is still on the old one (vhost-user, Migration,
 * and VHOST_USER_POSTCOPY_ADVISE to VHOST_USER_POSTCOPY_END). The front end gets a userfaultfd of ours, and fetches
 * what we touch and do not have; for that it must know where each region is mapped here.
 *
 * @module
 */
import type { Region } from "./dataplane.ts";
import { RefusedError } from "./error.ts";

/** How far a session is. One whose guest is all here may be asked to end it again: QEMU asks for each queue pair. */
export type PostCopy = "none" | "advised" | "listening" | "over";

/** POSTCOPY_ADVISE: asked once for each queue pair, and the last one counts. Throws `RefusedError`. */
export function advised(before: PostCopy): PostCopy {
  if (before === "listening") throw new RefusedError("post-copy has begun already: end it first, by POSTCOPY_END");
  return "advised";
}

/** POSTCOPY_LISTEN. Throws `RefusedError`; memory of before could not be fetched, since nobody was told where it is. */
export function listening(before: PostCopy, regions: readonly Region[]): PostCopy {
  if (before !== "advised") throw new RefusedError("post-copy was not prepared: send POSTCOPY_ADVISE first");
  if (regions.length > 0) {
    throw new RefusedError(`memory came before it: ${regions.length} regions: send POSTCOPY_LISTEN first`);
  }
  return "listening";
}

/** POSTCOPY_END. Throws `RefusedError`. */
export function ended(before: PostCopy): PostCopy {
  if (before === "none") throw new RefusedError("post-copy has not begun: send POSTCOPY_ADVISE first");
  return "over";
}

/**
 * Memory may change while it is fetched only as long as no ring runs: a ring that touches a region before the front end
 * knows where it is would wait for ever. Throws `RefusedError`.
 */
export function checkStill(postCopy: PostCopy, running: boolean): void {
  if (postCopy !== "listening" || !running) return;
  throw new RefusedError("memory changes in post-copy while rings run: stop the rings first, by GET_VRING_BASE");
}

/**
 * Whether this host lets us serve guests in post-copy.
 *
 * @module
 */

import { library, VringError } from "./library.ts";

/** What to do about a refusal, by its errno; those of userfaultfd(2). */
const advice: Record<number, string> = {
  1: "a filter of system calls forbids userfaultfd: allow it, as in the seccomp profile of a container",
  22: "its userfaultfd does not know faults of user mode alone: use Linux 5.11 or newer",
  38: "it has no userfaultfd, or a filter of system calls hides it: allow it, as in the seccomp profile of a container",
};

/** Why not, and what to do; undefined where it can be done. */
export function postCopyObstacle(): string | undefined {
  const code = library().post_copy_probe();
  if (code >= 0) return undefined;
  const error = new VringError("prepare post-copy", code);
  return advice[error.errno] ?? error.message;
}

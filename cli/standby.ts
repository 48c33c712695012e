/**
 * A `serve` that waits, with everything loaded, until the one is gone that has its ports, however that ended.
 *
 * The kernel tells it: who serves has locked its ports' state files, and a lock goes with its process. In a takeover it
 * goes over with the file.
 *
 * @module
 */
import { CommandError, UsageError } from "./error.ts";
import { pause } from "./pause.ts";
import type { ServePlan } from "./serve_options.ts";

const fileMode = 0o600;
/** Who let go of a file may have its sockets for a moment; or another one that stood by was faster. */
const attemptsMax = 200;
const pause_ms = 5;

/** The file to wait for. Throws a `UsageError` where no port has one. */
export function watchedFile({ ports }: ServePlan): string {
  const path = ports.find(({ state }) => state !== undefined)?.state;
  if (path !== undefined) return path;
  throw new UsageError("--standby waits for the state file of a port, and none has one: leave --state-dir none out");
}

/**
 * Waits until nobody has `path`, and opens what takes its place, so often that it cannot be chance that it fails. Where
 * another one was faster it waits on. Throws a `CommandError` where it cannot wait, and what `open` throws.
 */
export async function standBy<T>(path: string, open: () => Promise<T>): Promise<T> {
  for (let attempts = 1;; attempts++) {
    if (await released(path)) attempts = 1;
    try {
      return await open();
    } catch (error) {
      const isFinal = !(error instanceof CommandError) || error.exitCode !== 1;
      if (isFinal || attempts === attemptsMax) throw error;
      await pause(pause_ms);
    }
  }
}

/** Returns when nobody has the file: whether somebody had it. */
async function released(path: string): Promise<boolean> {
  try {
    using file = await Deno.open(path, { read: true, write: true, create: true, mode: fileMode });
    if (await file.tryLock(true)) return false;
    await file.lock(true);
    return true;
  } catch (error) {
    throw new CommandError(`cannot stand by: ${error instanceof Error ? error.message : error}`);
  }
}

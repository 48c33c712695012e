/**
 * The folder for sockets: made for its owner alone where there is none.
 *
 * @module
 */
import { CommandError } from "./error.ts";

function why(error: unknown): string {
  if (error instanceof Deno.errors.PermissionDenied) return "permission denied";
  // Deno itself keeps /proc, /sys and the like.
  if (error instanceof Deno.errors.NotCapable) return "no folder for sockets can be there";
  if (error instanceof Deno.errors.NotFound) return "the folder above it does not exist";
  if (error instanceof Deno.errors.NotADirectory) return "the path leads through a file";
  return error instanceof Error ? error.message : String(error);
}

/** Makes the folder, not those above it, unless it is there already. Throws a `CommandError`. */
export function makeSocketDirectory(path: string): void {
  try {
    Deno.mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) {
      throw new CommandError(`cannot make folder: ${path}: ${why(error)}: give another with --dir`);
    }
    if (!Deno.statSync(path).isDirectory) {
      throw new CommandError(`cannot make folder: ${path}: a file is in the way: give another with --dir`);
    }
  }
}

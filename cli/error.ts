/**
 * What a command throws to end with a message and an exit code.
 *
 * A message reads *what failed: value: what to do*, without a full stop; `main.ts` prints it on stderr.
 *
 * @module
 */

/** The operation or the check failed: exit code 1. */
export class CommandError extends Error {
  override name = "CommandError";
  readonly exitCode: number = 1;
}

/** The command line cannot be meant so: exit code 2. */
export class UsageError extends CommandError {
  override name = "UsageError";
  override readonly exitCode = 2;
}

/** The host lacks something; the message names the command that provides it: exit code 3. */
export class HostError extends CommandError {
  override name = "HostError";
  override readonly exitCode = 3;
}

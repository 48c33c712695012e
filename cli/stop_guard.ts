/**
 * Sees to it that processes which were stopped do not outlive this one, however it ends: they cannot notice themselves.
 *
 * @module
 */

/** Waits for a line; when there is none, its parent is gone. */
const script = 'read -r line || { kill -CONT "$@"; kill -KILL "$@"; }';

/** A guard over these processes, until it is disposed of. */
export class StopGuard implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;

  constructor(pids: readonly number[]) {
    const args = ["-c", script, "guard", ...pids.map(String)];
    const quiet = { stdout: "null", stderr: "null" } as const;
    this.#child = new Deno.Command("sh", { args, stdin: "piped", detached: true, ...quiet }).spawn();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const writer = this.#child.stdin.getWriter();
    await writer.write(new TextEncoder().encode("\n")).catch(() => {});
    await writer.close().catch(() => {});
    await this.#child.status;
  }
}

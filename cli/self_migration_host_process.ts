/**
 * `vhostctl migration-host` as a child.
 *
 * @module
 */
import { JsonProcess, ownProgram } from "./json_process.ts";
import type { HostCall, MigrationHost } from "./self_migration_host.ts";

type Argument<N extends HostCall> = Parameters<MigrationHost[N]> extends [infer A] ? [A] : [];

/** A host with at most one guest, until it is disposed of. */
export class MigrationHostProcess implements AsyncDisposable {
  readonly #process: JsonProcess;

  private constructor(process: JsonProcess) {
    this.#process = process;
  }

  static async start(): Promise<MigrationHostProcess> {
    const process = new JsonProcess("vhostctl migration-host", ownProgram(), ["migration-host"]);
    try {
      await process.next((message) => message["ready"] === true);
    } catch (reason) {
      await process[Symbol.asyncDispose]();
      throw reason;
    }
    return new MigrationHostProcess(process);
  }

  /** Calls a method of the `MigrationHost` there. Rejects with a `CommandError` when it fails or the child is gone. */
  async call<N extends HostCall>(
    name: N,
    ...[argument]: Argument<N>
  ): Promise<Awaited<ReturnType<MigrationHost[N]>>> {
    const { result } = await this.#process.ask({ call: name, with: argument });
    return result as Awaited<ReturnType<MigrationHost[N]>>;
  }

  /** Ends it at once, with all that it has, as a host that crashes. */
  async kill(): Promise<void> {
    await this.#process.kill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process[Symbol.asyncDispose]();
  }
}

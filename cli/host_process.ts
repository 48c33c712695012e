/**
 * A host of simulated guests as a child, whose methods are called from here.
 *
 * @module
 */
import { JsonProcess, ownProgram } from "./json_process.ts";

type Method = (argument: never) => unknown;
/** Names of what can be called. */
type CallOf<H> = { [N in keyof H & string]: H[N] extends Method ? N : never }[keyof H & string];
type ArgumentOf<F> = F extends Method ? Parameters<F> extends [infer A] ? [A] : [] : never;
type ResultOf<F> = F extends Method ? Awaited<ReturnType<F>> : never;

/** A child that answers as `answerCalls` does, for an `H`, until it is disposed of. */
export class HostProcess<H> implements AsyncDisposable {
  readonly #process: JsonProcess;

  private constructor(process: JsonProcess) {
    this.#process = process;
  }

  /** Starts a command of this program. */
  static async start<H>(command: string): Promise<HostProcess<H>> {
    const process = new JsonProcess(`vhostctl ${command}`, ownProgram(), [command]);
    try {
      await process.next((message) => message["ready"] === true);
    } catch (reason) {
      await process[Symbol.asyncDispose]();
      throw reason;
    }
    return new HostProcess(process);
  }

  /** Calls a method of the `H` there. Rejects with a `CommandError` when it fails or the child is gone. */
  async call<N extends CallOf<H>>(name: N, ...[argument]: ArgumentOf<H[N]>): Promise<ResultOf<H[N]>> {
    const { result } = await this.#process.ask({ call: name, with: argument });
    return result as ResultOf<H[N]>;
  }

  /** Ends it at once, with all that it has, as a host that crashes. */
  async kill(): Promise<void> {
    await this.#process.kill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process[Symbol.asyncDispose]();
  }
}

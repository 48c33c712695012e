// A network of its own on this machine, in which interfaces can be made without anybody's notice.

import { Program } from "./process.ts";

const isRoot = Deno.uid() === 0;

export class NetworkNamespace implements AsyncDisposable {
  readonly #holder: Program;

  private constructor(holder: Program) {
    this.#holder = holder;
  }

  /** Without root it is one of a user namespace, in which we are root. IPv6 stays off until it is wanted. */
  static async make(): Promise<NetworkNamespace> {
    const quiet = "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6";
    const script = `ip link set lo up && ${quiet}; echo made; exec sleep 100000`;
    const flags = isRoot ? "-n" : "-rUn";
    const holder = new Program("unshare", [flags, "sh", "-c", script]);
    await holder.until(/^made$/m, 10_000);
    return new NetworkNamespace(holder);
  }

  /** A process that is there, for commands that name a network so. */
  get pid(): number {
    return this.#holder.pid;
  }

  /** What to put in front of a command that is to run there. */
  get prefix(): string[] {
    const pid = `${this.#holder.pid}`;
    return ["nsenter", "-t", pid, ...isRoot ? ["-n"] : ["-U", "--preserve-credentials", "-n"]];
  }

  /** Runs one line of shell there, and returns what it printed; one that fails is an error. */
  async run(line: string): Promise<string> {
    const [program, ...args] = [...this.prefix, "sh", "-c", line];
    const { code, stdout, stderr } = await new Deno.Command(program!, { args, stdin: "null" }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
    if (code !== 0) throw new Error(`${line}: exit code ${code}: ${text(stdout)}${text(stderr)}`);
    return text(stdout);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#holder.stop("SIGKILL");
  }
}

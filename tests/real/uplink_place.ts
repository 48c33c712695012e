// Where `vhostctl serve` is tried with uplinks.

import { NetworkNamespace } from "./namespace.ts";
import { Program } from "./process.ts";
import { Serve, vhostctl } from "./serve.ts";

const start_timeout_ms = 180_000;

/** A network and a folder for sockets, both of which vanish. */
export class UplinkPlace implements AsyncDisposable {
  readonly network: NetworkNamespace;
  readonly folder = Deno.makeTempDirSync({ prefix: "vhostctl-uplink-" });

  private constructor(network: NetworkNamespace) {
    this.network = network;
  }

  static async make(): Promise<UplinkPlace> {
    return new UplinkPlace(await NetworkNamespace.make());
  }

  serve(...uplinks: string[]): Promise<Serve> {
    return Serve.startBehind(this.network.prefix, ...this.#arguments("serve", uplinks));
  }

  /** In the place of the one that runs. */
  takeOver(...uplinks: string[]): Promise<Serve> {
    return Serve.startBehind(this.network.prefix, ...this.#arguments("serve", uplinks), "--takeover");
  }

  /** What it says where it cannot begin, and its exit code. */
  async refusal(uplink: string, prefix: readonly string[] = []): Promise<[number, string]> {
    const [command, ...words] = [
      ...this.network.prefix,
      ...prefix,
      vhostctl,
      "serve",
      ...this.#arguments("other", [uplink]),
    ];
    await using program = new Program(command!, words);
    await program.until(/\n/, start_timeout_ms);
    return [(await program.finished).code, program.since()];
  }

  #arguments(folder: string, uplinks: readonly string[]): string[] {
    return ["--ports", "1", "--dir", `${this.folder}/${folder}`, ...uplinks.flatMap((uplink) => ["--uplink", uplink])];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.network[Symbol.asyncDispose]();
    Deno.removeSync(this.folder, { recursive: true });
  }
}

// A guest under stock QEMU that is to migrate from one port of a `serve` to another, and one beside it that stays.

import { LinuxGuest } from "./guest.ts";
import { writeInitramfs } from "./initramfs.ts";
import { Folder } from "./linux_folder.ts";
import { eventually } from "./process.ts";
import { Serve } from "./serve.ts";

export const migration_timeout_ms = 120_000;
const traffic_timeout_ms = 20_000;
export const address = { peer: "10.0.0.1", mover: "10.0.0.2" } as const;

interface Progress {
  readonly status: string;
  readonly ram?: { readonly transferred: number };
}

export interface HopOptions {
  readonly queues?: number;
  /** More settings of the ports that it leaves, and arrives at. */
  readonly source?: string;
  readonly destination?: string;
  /** Events that the destination's QEMU is to tell of in its log. */
  readonly trace?: string;
}

/** Ports: 0 of the one that stays, 1 where the other is, and 2 where it goes. */
export class Hop implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly serve: Serve;
  readonly peer: LinuxGuest;
  readonly source: LinuxGuest;
  readonly destination: LinuxGuest;

  private constructor(
    stack: AsyncDisposableStack,
    serve: Serve,
    guests: Readonly<Record<"peer" | "source" | "destination", LinuxGuest>>,
  ) {
    this.#stack = stack;
    this.serve = serve;
    this.peer = guests.peer;
    this.source = guests.source;
    this.destination = guests.destination;
  }

  static async start(options: HopOptions = {}): Promise<Hop> {
    await using stack = new AsyncDisposableStack();
    const folder = stack.use(new Folder());
    await writeInitramfs(folder.initramfs);
    const { queues = 1 } = options;
    const port = (number: number, more = "") => [
      ...["--port", `socket=${folder.socket(number)},queues=${queues}${more && `,${more}`}`],
    ];
    const ports = [...port(0), ...port(1, options.source), ...port(2, options.destination)];
    const serve = stack.use(await Serve.start(...ports));
    const mover = { mac: "52:54:00:00:00:02", queues, cpus: queues };
    const peer = stack.use(await LinuxGuest.boot(folder.guest(0)));
    const source = stack.use(await LinuxGuest.boot(folder.guest(1, mover)));
    const trace = options.trace === undefined ? {} : { trace: options.trace };
    const destination = stack.use(await LinuxGuest.boot(folder.guest(2, { ...mover, ...trace, incoming: true })));
    await peer.setAddress(`${address.peer}/24`);
    await source.setAddress(`${address.mover}/24`);
    await peer.reach(address.mover, traffic_timeout_ms);
    return new Hop(stack.move(), serve, { peer, source, destination });
  }

  async begin(): Promise<void> {
    const uri = `unix:${this.source.options.folder}/migration`;
    await this.destination.qmp("migrate-incoming", { uri });
    await this.source.qmp("migrate", { uri });
  }

  /** How it ends: `completed` or `failed`. */
  async end(): Promise<string> {
    return (await this.until("migration ends", ({ status }) => status === "completed" || status === "failed")).status;
  }

  /** Waits until the source says so. */
  until(what: string, holds: (progress: Progress) => boolean): Promise<Progress> {
    return eventually(what, migration_timeout_ms, async () => {
      const progress = await this.source.qmp("query-migrate") as Progress;
      return holds(progress) ? progress : undefined;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
  }
}

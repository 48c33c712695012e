/** What an ivshmem-doorbell device is told, and clients that do not behave. */

import assert from "node:assert/strict";
import { openEventfd, openMemoryFile } from "../ffi/fd.ts";
import { loadLibrary } from "../ffi/library.ts";
import { Pump } from "../ffi/pump.ts";
import { IvshmemServer } from "../pmd/ivshmem_server.ts";
import { eventually } from "./real/process.ts";

// Opened once for all tests: it stays open.
loadLibrary();

const patience_ms = 10_000;

/** A server with two vectors, and what it told. */
class Rig implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  readonly path: string;
  readonly server: IvshmemServer;
  readonly told: string[] = [];
  memory: number | undefined;

  constructor() {
    const folder = Deno.makeTempDirSync();
    this.#stack.defer(() => Deno.removeSync(folder, { recursive: true }));
    this.path = `${folder}/pci.sock`;
    const pump = this.#stack.use(Pump.open());
    const running = pump.run();
    this.#stack.defer(async () => {
      await pump[Symbol.asyncDispose]();
      await running;
    });
    const vectors = [this.#stack.use(openEventfd()).number, this.#stack.use(openEventfd()).number];
    this.server = this.#stack.use(
      new IvshmemServer({
        pump,
        path: this.path,
        mode: 0o600,
        memory: () => this.memory,
        vectors: () => vectors,
        listener: {
          connected: () => this.told.push("connected"),
          served: (peer) => this.told.push(`served as ${peer}`),
          gone: (reason) => this.told.push(`gone: ${reason}`),
          refused: (reason) => this.told.push(`refused: ${reason}`),
        },
      }),
    );
  }

  openMemory(): void {
    this.memory = this.#stack.use(openMemoryFile(4096n)).number;
  }

  async connect(): Promise<Client> {
    return new Client(await Deno.connect({ transport: "unix", path: this.path }));
  }

  until(told: string): Promise<unknown> {
    return eventually(told, patience_ms, () => this.told.some((line) => line.startsWith(told)) || undefined, 5);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** Sees the numbers; descriptors that come with them the kernel closes. */
class Client implements Disposable {
  readonly connection: Deno.UnixConn;

  constructor(connection: Deno.UnixConn) {
    this.connection = connection;
  }

  async numbers(count: number): Promise<bigint[]> {
    const bytes = new Uint8Array(8 * count);
    // One at a time: a read ends where a descriptor was sent, and Deno takes a short one for all there is.
    for (let have = 0; have < bytes.length;) {
      const more = await this.connection.read(bytes.subarray(have, have + 8 - have % 8));
      if (more === null) throw new Error(`the server hung up after ${have} bytes`);
      have += more;
    }
    return [...new BigInt64Array(bytes.buffer)];
  }

  /** Null: the server has hung up. */
  end(): Promise<number | null> {
    return this.connection.read(new Uint8Array(1)).catch(() => null);
  }

  [Symbol.dispose](): void {
    this.connection.close();
  }
}

Deno.test("a client waits for memory, then hears of version, number, memory, and a peer's vectors", async () => {
  await using rig = new Rig();
  using client = await rig.connect();
  await rig.until("connected");
  rig.server.serve();
  assert.equal(rig.server.isServed, false);
  rig.openMemory();
  rig.server.serve();
  assert.deepEqual(await client.numbers(5), [0n, 0n, -1n, 1n, 1n]);
  assert.deepEqual(rig.told, ["connected", "served as 1"]);
  assert.equal(rig.server.renew(), 2);
  rig.server.forget(1);
  assert.deepEqual(await client.numbers(3), [2n, 2n, 1n]);
});

Deno.test("there is one client at a time, and the next one begins anew", async () => {
  await using rig = new Rig();
  rig.openMemory();
  const first = await rig.connect();
  await first.numbers(5);
  using second = await rig.connect();
  assert.equal(await second.end(), null);
  await rig.until("refused: another one is connected");
  first[Symbol.dispose]();
  await rig.until("gone: peer closed the connection");
  assert.equal(rig.server.renew(), undefined);
  using third = await rig.connect();
  assert.deepEqual(await third.numbers(5), [0n, 0n, -1n, 1n, 1n]);
});

Deno.test("a client that talks, or does not read, is hung up on", async () => {
  await using rig = new Rig();
  rig.openMemory();
  using talker = await rig.connect();
  await talker.numbers(5);
  await talker.connection.write(new Uint8Array(64));
  await rig.until("gone: ");
  assert.equal(await talker.end(), null);
  using sleeper = await rig.connect();
  await eventually("another is served", patience_ms, () => rig.server.isServed || undefined, 5);
  while (rig.server.renew() !== undefined);
  await rig.until("gone: it does not read");
  assert.equal(rig.server.isServed, false);
  assert.ok(sleeper);
});

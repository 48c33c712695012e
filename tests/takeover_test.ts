/** `vhostctl serve --takeover`: one process goes on with the ports of another, and guests under load do not notice. */

import assert from "node:assert/strict";
import { attach, type AttachedGuest } from "../cli/guest_attach.ts";
import type { Ring } from "../cli/bench_result.ts";
import { askTakeover } from "../cli/control_client.ts";
import { type Said, Talk } from "../cli/takeover_talk.ts";
import { Guest, type GuestCrew, Pump, type SocketChannel } from "../mod.ts";
import { library } from "../ffi/library.ts";
import { eventually, within } from "./real/process.ts";
import { drops, type PortReport, Serve } from "./real/serve.ts";

// It stays open for good: opened here, it belongs to no test.
library();

const end_ms = 20_000;
const macs = [0x0200_0000_000a, 0x0200_0000_000b] as const;
const frameBytes = 300;

interface PlaceOptions {
  readonly ring: Ring;
  readonly queues?: number;
  /** Both guests migrate. */
  readonly logs?: boolean;
}

/** Two guests on a `serve` that changes its process, sending to each other as fast as they can. */
class Place implements AsyncDisposable {
  readonly folder: string;
  readonly serveArguments: readonly string[];
  serve: Serve;
  readonly #pump: Pump;
  readonly #guests: readonly AttachedGuest[];
  readonly #queues: number;
  readonly #hangups: string[] = [];
  #crew: GuestCrew | undefined;

  private constructor(
    folder: string,
    serve: Serve,
    args: string[],
    pump: Pump,
    guests: AttachedGuest[],
    queues: number,
  ) {
    this.folder = folder;
    this.serve = serve;
    this.serveArguments = args;
    this.#pump = pump;
    this.#guests = guests;
    this.#queues = queues;
    for (const { frontend } of guests) void frontend.hangup.then((reason) => this.#hangups.push(reason));
  }

  static async start({ ring, queues = 1, logs }: PlaceOptions): Promise<Place> {
    const folder = Deno.makeTempDirSync({ prefix: "vhostctl-takeover-" });
    const args = ["--dir", folder, "--queues", `${queues}`, "--workers", "1"];
    const serve = await Serve.start(...args);
    const pump = Pump.open();
    void pump.run();
    const guests = [];
    for (const port of [0, 1]) {
      const socket = `${folder}/port${port}.sock`;
      guests.push(await attach(pump, { socket, ring, queues, ringSize: 256, frameBytes, logs }));
    }
    return new Place(folder, serve, args, pump, guests, queues);
  }

  load(): void {
    this.#crew = Guest.startTogether(this.#guests.map(({ guest }) => guest), this.#traffics(true));
  }

  #traffics(send: boolean) {
    return [0, 1].map((index) => ({
      sourceMac: macs[index]!,
      destinationMac: macs[1 - index]!,
      frameBytes,
      frameBytesMin: 60,
      checkEvery: 8,
      queues: this.#queues,
      flows: 4 * this.#queues,
      wait: "yield" as const,
      send,
    }));
  }

  /** Until so much more has come to each guest. */
  async traffic(frames = 5000n): Promise<void> {
    const before = this.#guests.map(({ guest }) => guest.stats().received);
    await eventually("traffic both ways", end_ms, () => {
      return this.#guests.every(({ guest }, index) => guest.stats().received > before[index]! + frames) || undefined;
    }, 5);
  }

  /** One process after the other. Returns how long no ring was served. */
  async takeOver(...more: string[]): Promise<number> {
    const old = this.serve;
    this.serve = await Serve.start(...this.serveArguments, ...more, "--takeover");
    const { code } = await within("the end of the process before", end_ms, old.program.finished);
    assert.equal(code, 0, old.program.since());
    assert.equal(old.records.at(-1)!.event, "handed_over");
    assert.deepEqual(this.#hangups, []);
    return (await this.serve.until("took_over"))["gap_ms"] as number;
  }

  /** Asks for a handover as a new process does, and plays it. */
  async impersonate(act: (talk: Talk) => Promise<void>): Promise<void> {
    const socket = `${this.folder}/fake.sock`;
    const { promise, resolve } = Promise.withResolvers<SocketChannel>();
    using _listener = this.#pump.listen(socket, { accept: resolve });
    const answer = await askTakeover(this.control, { socket, version: 1 });
    assert.equal((answer as { pid: number }).pid, this.serve.program.pid);
    using talk = new Talk(await within("its connection", end_ms, promise));
    await act(talk);
  }

  /** It serves on, and says why. */
  async servesOn(reason: RegExp, from: number): Promise<void> {
    const failure = await this.serve.until("handover_failed", {}, { from });
    assert.match(failure["reason"] as string, reason);
    assert.ok(this.serve.program.running);
    assert.deepEqual(this.#hangups, []);
    await this.traffic(1000n);
  }

  get control(): string {
    return `${this.folder}/control.sock`;
  }

  /** Stops the load, and holds every packet of each guest against what the ports counted. */
  async account(): Promise<PortReport[]> {
    await this.#crew?.stop();
    const crew = Guest.startTogether(this.#guests.map(({ guest }) => guest), this.#traffics(false));
    const busy = () => this.#guests.map(({ guest }) => guest.stats().received).join();
    let before = "";
    await eventually("rest", end_ms, () => {
      const now = busy();
      const same = now === before && this.#guests.every(({ guest }) => outstanding(guest) === 0);
      before = now;
      return same || undefined;
    }, 200);
    await crew.stop();
    const reports = [...(await this.serve.ports()).values()];
    const stats = this.#guests.map(({ guest }) => guest.stats());
    for (const index of [0, 1]) {
      const [sender, receiver] = [stats[index]!, stats[1 - index]!];
      const [from, to] = [reports[index]!, reports[1 - index]!];
      const kinds = [receiver.corrupted, receiver.duplicated, receiver.reordered, receiver.bad_header, receiver.broken];
      assert.deepEqual(kinds, [0n, 0n, 0n, 0n, 0n]);
      assert.equal(from.from_guest["packets"], Number(sender.sent + sender.announced), "all that was sent was taken");
      assert.equal(to.to_guest["packets"], Number(receiver.received), "all that was delivered has come");
      const dropped = Object.values(drops({ ...to, from_guest: {} })).reduce((sum, count) => sum + count, 0);
      assert.equal(Number(sender.sent + sender.announced), Number(receiver.received) + dropped, "every packet");
    }
    return reports;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#crew?.stop();
    for (const guest of this.#guests) await guest[Symbol.asyncDispose]();
    await this.#pump[Symbol.asyncDispose]();
    await this.serve[Symbol.asyncDispose]();
    await Deno.remove(this.folder, { recursive: true });
  }
}

function outstanding(guest: Guest): number {
  const queues = Array.from({ length: guest.queuePairs }, (_, queue) => queue);
  return queues.reduce((sum, queue) => sum + Number(guest.vringStats(2 * queue + 1).outstanding), 0);
}

for (const ring of ["split", "packed"] as const) {
  Deno.test(`guests with ${ring} rings under load pass through five processes, and no packet is lost`, async () => {
    await using place = await Place.start({ ring });
    place.load();
    await place.traffic();
    const gaps = [];
    for (let round = 0; round < 5; round++) {
      gaps.push(await place.takeOver());
      await place.traffic();
    }
    console.error(`${ring}: rings rested for ${gaps.map((gap) => gap.toFixed(1)).join(", ")} ms`);
    await place.account();
    for (const port of [0, 1]) assert.ok(Deno.lstatSync(`${place.folder}/port${port}.sock`).isSocket);
    await place.serve.finish();
    assert.deepEqual([...Deno.readDirSync(place.folder)], []);
  });
}

/** As far as a new process gets before it dies, and what the old one says of it. */
const steps: readonly (readonly [name: string, act: (talk: Talk) => Promise<void>, reason: RegExp])[] = [
  ["dies at once", () => Promise.resolve(), /ended/],
  ["dies after the greeting", async (talk) => void await hear(talk, "hello"), /ended/],
  ["dies after it asked for addresses", async (talk) => {
    await hear(talk, "hello");
    await talk.send("give", {});
  }, /ended/],
  ["dies after the addresses", async (talk) => {
    await hear(talk, "hello");
    await talk.send("give", {});
    await hear(talk, "macs");
  }, /ended/],
  ["dies with one port of two", async (talk) => {
    await hear(talk, "hello");
    await give(talk, "port0");
  }, /ended/],
  ["dies with all ports", allGiven, /ended/],
  ["dies when it is ready", async (talk) => {
    await allGiven(talk);
    await talk.send("ready", {});
  }, /in time/],
  ["dies with the positions", resting, /in time/],
  ["says nothing, and goes on too late", async (talk) => {
    await resting(talk);
    // The other one has shut the connection before it went on.
    assert.equal(await talk.next(end_ms), "gone");
    assert.equal(talk.commit(), false);
  }, /in time/],
  ["refuses at the greeting", async (talk) => {
    await hear(talk, "hello");
    await talk.send("refusal", { reason: "no such port here" });
    await talk.next(end_ms);
  }, /^no such port here$/],
  ["refuses the positions", async (talk) => {
    await resting(talk);
    await talk.send("refusal", { reason: "no" });
    await talk.next(end_ms);
  }, /in time/],
  ["asks for a port that there is not", async (talk) => {
    await hear(talk, "hello");
    await talk.send("give", { port: "port7" });
    await hear(talk, "refusal");
  }, /no port "port7"/],
  ["commits before it was its turn", async (talk) => {
    await hear(talk, "hello");
    talk.commit();
    await talk.next(end_ms);
  }, /said commit instead/],
];

async function hear(talk: Talk, kind: Said["kind"]): Promise<Said> {
  const said = await talk.expect(kind, end_ms);
  for (const fd of said.fds) fd[Symbol.dispose]();
  return said;
}

async function give(talk: Talk, port: string): Promise<void> {
  await talk.send("give", { port });
  assert.ok((await hear(talk, "port")).fds.length > 5);
}

async function allGiven(talk: Talk): Promise<void> {
  await hear(talk, "hello");
  for (const port of ["port0", "port1"]) await give(talk, port);
}

async function resting(talk: Talk): Promise<void> {
  await allGiven(talk);
  await talk.send("ready", {});
  await hear(talk, "positions");
}

for (const ring of ["split", "packed"] as const) {
  Deno.test(`a new process dies at any step: the old one serves on, with ${ring} rings`, async (test) => {
    await using place = await Place.start({ ring });
    place.load();
    await place.traffic();
    for (const [name, act, reason] of steps) {
      await test.step(`it ${name}`, async () => {
        const from = place.serve.now;
        await place.impersonate(act);
        await place.servesOn(reason, from);
      });
    }
    await place.takeOver();
    await place.traffic();
    await place.account();
  });
}

Deno.test("a new process that dies right behind its commit has the rings: the old one leaves", async () => {
  await using place = await Place.start({ ring: "split" });
  place.load();
  await place.traffic();
  await place.impersonate(async (talk) => {
    await resting(talk);
    assert.equal(talk.commit(), true);
  });
  const { code } = await within("its end", end_ms, place.serve.program.finished);
  assert.equal(code, 0);
  assert.equal(place.serve.records.at(-1)!.event, "handed_over");
});

Deno.test("who may not, or may not now, is told so at the control socket", async () => {
  await using place = await Place.start({ ring: "split" });
  const ask = async (socket: unknown, version: unknown = 1) => {
    return await askTakeover(place.control, { socket, version } as { socket: string; version: number });
  };
  assert.match(`${await ask("/tmp/elsewhere.sock")}`, /must lie beside/);
  assert.match(`${await ask(`${place.folder}/../elsewhere.sock`)}`, /must lie beside/);
  assert.match(`${await ask(`${place.folder}/absent.sock`)}`, /No such file/);
  Deno.writeTextFileSync(`${place.folder}/file`, "");
  assert.match(`${await ask(`${place.folder}/file`)}`, /no socket of this user's/);
  Deno.removeSync(`${place.folder}/file`);
  assert.match(`${await ask(7)}`, /socket/);
  assert.match(`${await ask(`${place.folder}/absent.sock`, 0)}`, /version/);
  assert.match(`${await ask(`${place.folder}/absent.sock`, "1")}`, /version/);
  // A port of its own, which then has its front end twice, is no process that takes over.
  const from = place.serve.now;
  await ask(`${place.folder}/port0.sock`);
  await place.serve.until("handover_failed", {}, { from });
  await place.impersonate(async (talk) => {
    await hear(talk, "hello");
    assert.match(`${await ask(`${place.folder}/fake.sock`)}`, /already/);
  });
  place.load();
  await place.traffic();
  await place.account();
});

Deno.test("a plan that lacks a port, or has it elsewhere, is refused, and more ports are opened", async () => {
  await using place = await Place.start({ ring: "packed" });
  place.load();
  await place.traffic();
  const [dir, folder, ...rest] = place.serveArguments;
  for (
    const [args, reason] of [
      [["--ports", "1"], /port port1 has no place here/],
      [
        ["--port", "name=port0,socket=/tmp/other.sock", "--port", "name=port1"],
        /port port0 has socket .* give the same/,
      ],
      [["--port", "name=port0", "--port", "name=port1,features=-RING_PACKED"], /features RING_PACKED were agreed/],
    ] as const
  ) {
    const from = place.serve.now;
    await assert.rejects(Serve.start(dir!, folder!, ...rest, ...args, "--takeover"), reason);
    await place.servesOn(reason, from);
  }
  await place.takeOver("--ports", "4");
  await place.traffic();
  assert.equal((await place.serve.ports()).size, 4);
  assert.ok(Deno.lstatSync(`${place.folder}/port3.sock`).isSocket);
});

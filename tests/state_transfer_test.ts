// What the switch knows of a port, through real pipes: nobody ever waits, whatever is at the other end.

import assert from "node:assert/strict";
import { Engine } from "../ffi/engine.ts";
import { openEventfd, ownFd, readPipe, writePipe } from "../ffi/fd.ts";
import type { Port } from "../ffi/port.ts";
import { Pump } from "../ffi/pump.ts";
import type { Occurrence } from "../pmd/port_event.ts";
import { PortStateTransfer } from "../pmd/state_transfer.ts";
import { loadLibrary } from "../ffi/library.ts";
import { encodeState } from "../vhost/device_state.ts";
import type { Fd } from "../vhost/fd.ts";
import { pipe } from "./hostile_system.ts";
import { eventually } from "./real/process.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const macs = [0x0200_5452n, 0x0400_5452n];
const counters = { packets: 12, bytes: 3456 };
const sample = encodeState({ macs, mtu: 1500, toGuest: counters, fromGuest: {} });

/** A port, and all that it tells. */
class Side implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly port: Port;
  readonly transfer: PortStateTransfer;
  readonly told: Occurrence[] = [];

  constructor() {
    const stack = this.#stack = new AsyncDisposableStack();
    const engine = Engine.open({ portsMax: 1 });
    stack.defer(() => engine.close());
    const pump = stack.use(Pump.open());
    const running = pump.run();
    stack.defer(async () => {
      await pump[Symbol.asyncDispose]();
      await running;
    });
    this.port = stack.use(engine.openPort({ queuePairs: 1 }));
    const tell = (what: Occurrence) => this.told.push(what);
    this.transfer = stack.use(new PortStateTransfer({ port: this.port, pump, mtu: () => 1500, tell }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
  }
}

function openPipe(): { reader: Fd; writer: Fd } {
  const [reader, writer] = pipe();
  return { reader: ownFd(reader), writer: ownFd(writer) };
}

/** Gives all of it to a side that loads, as far as the pipe takes it at once. */
function load(side: Side, ...pieces: readonly Uint8Array<ArrayBuffer>[]): Fd {
  const { reader, writer } = openPipe();
  using kept = reader;
  side.transfer.load(kept);
  for (const piece of pieces) writePipe(writer.number, piece);
  return writer;
}

Deno.test("what is known of a port is known of the next, and of the one after that", async () => {
  await using first = new Side();
  await using second = new Side();
  load(first, sample)[Symbol.dispose]();
  first.transfer.check();
  assert.deepEqual(first.port.macs().toSorted(), macs);
  assert.deepEqual(first.told, [
    { event: "state_loaded", macs: 2, mtu: 1500, to_guest: counters, from_guest: {} },
  ]);
  const { reader, writer } = openPipe();
  first.transfer.save(writer);
  first.transfer.check();
  writer[Symbol.dispose]();
  second.transfer.load(reader);
  reader[Symbol.dispose]();
  second.transfer.check();
  assert.deepEqual(second.told.at(-1), { ...first.told[0] });
  assert.deepEqual(second.port.macs().toSorted(), macs);
});

Deno.test("a state that is none is told and forgotten, and the front end is not refused", async () => {
  await using side = new Side();
  const cases: [RegExp, Uint8Array<ArrayBuffer>[]][] = [
    [/^0 bytes of another back end$/, []],
    [/^7 bytes of another back end$/, [new Uint8Array(7)]],
    [/^more than 4096 bytes$/, [sample, new Uint8Array(4000)]],
    [/were announced$/, [sample.slice(0, -1)]],
    [/^version 2: this program reads 1$/, [sample.map((byte, i) => i === 8 ? 2 : byte)]],
    [/^its checksum is wrong$/, [sample.map((byte, i) => i === 30 ? byte ^ 1 : byte)]],
  ];
  for (const [reason, pieces] of cases) {
    load(side, ...pieces)[Symbol.dispose]();
    side.transfer.check();
    const told = side.told.at(-1)!;
    assert.ok(told.event === "state_dropped");
    assert.match(told.reason, reason);
  }
  assert.deepEqual(side.port.macs(), []);
});

Deno.test("a state that is larger than any pipe is read to its end", async () => {
  await using side = new Side();
  const writer = load(side);
  const piece = new Uint8Array(4096).fill(1);
  for (let sent = 0; sent < 300; sent++) {
    await eventually("the pipe takes more", 10_000, () => {
      try {
        writePipe(writer.number, piece);
        return true;
      } catch {
        return undefined;
      }
    }, 1);
  }
  writer[Symbol.dispose]();
  await eventually("all was read", 10_000, () => {
    try {
      side.transfer.check();
      return true;
    } catch {
      return undefined;
    }
  }, 1);
  assert.deepEqual(side.told.map(({ event }) => event), ["state_dropped"]);
});

Deno.test("a state that has not come whole, and none at all, are refused", async () => {
  await using side = new Side();
  assert.throws(() => side.transfer.check(), /no state was transferred/);
  const writer = load(side, sample);
  assert.throws(() => side.transfer.check(), /has not come whole: close the pipe first/);
  writer[Symbol.dispose]();
  side.transfer.check();
  assert.throws(() => side.transfer.check(), /no state was transferred/);
});

Deno.test("a pipe that nobody reads, or that is none, is refused at once", async () => {
  await using side = new Side();
  const { reader, writer } = openPipe();
  using full = writer;
  assert.throws(() => {
    while (true) writePipe(full.number, new Uint8Array(4096));
  }, /resource temporarily unavailable/);
  assert.throws(() => side.transfer.save(full), /resource temporarily unavailable/);
  assert.throws(() => side.transfer.check(), /no state was transferred/);
  reader[Symbol.dispose]();
  assert.throws(() => side.transfer.save(full), /system error 32/);
  using eventfd = openEventfd();
  assert.throws(() => side.transfer.save(eventfd), /descriptor is a eventfd: give a pipe/);
  assert.throws(() => side.transfer.load(eventfd), /descriptor is a eventfd: give a pipe/);
  assert.equal(readPipe(openReader(), 1), undefined);
  assert.deepEqual(side.told, []);
});

function openReader(): number {
  return pipe()[0];
}

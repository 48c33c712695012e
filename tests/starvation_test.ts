/**
 * One of four receivers stops reading: no sender's descriptor is held for it, and nobody else's packet is lost.
 */

import assert from "node:assert/strict";
import type { Ring } from "../cli/bench_result.ts";
import { countersOf } from "../cli/guest.ts";
import { attach, type AttachedGuest } from "../cli/guest_attach.ts";
import { pause } from "../cli/pause.ts";
import { loadLibrary } from "../ffi/library.ts";
import { Pump } from "../mod.ts";
import { eventually } from "./real/process.ts";
import { drops, Serve } from "./real/serve.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const flows = 4;
/** With so many buffers a receiver may be kept from its CPU for half a second. */
const ringSize = 1024;
const rate = 2000;
const still_ms = 10_000;
const patience_ms = 20_000;

const senderMac = (flow: number) => 0x0200_0000_0010 + flow;
const receiverMac = (flow: number) => 0x0200_0000_0020 + flow;

/** The flows of four senders to four receivers. */
class Place implements AsyncDisposable {
  readonly serve: Serve;
  readonly senders: readonly AttachedGuest[];
  readonly receivers: readonly AttachedGuest[];
  readonly #folder: string;
  readonly #pump: Pump;

  private constructor(serve: Serve, guests: readonly AttachedGuest[], folder: string, pump: Pump) {
    this.serve = serve;
    this.senders = guests.slice(0, flows);
    this.receivers = guests.slice(flows);
    this.#folder = folder;
    this.#pump = pump;
  }

  static async start(ring: Ring): Promise<Place> {
    const folder = Deno.makeTempDirSync({ prefix: "vhostctl-starvation-" });
    const serve = await Serve.start("--dir", folder, "--ports", `${2 * flows}`, "--workers", "1");
    const pump = Pump.open();
    void pump.run();
    const guests = [];
    for (let port = 0; port < 2 * flows; port++) {
      const socket = `${folder}/port${port}.sock`;
      guests.push(await attach(pump, { socket, ring, queues: 1, ringSize, frameBytes: 1514 }));
    }
    return new Place(serve, guests, folder, pump);
  }

  receive(flow: number): void {
    const macs = { sourceMac: receiverMac(flow), destinationMac: senderMac(flow) };
    this.receivers[flow]!.guest.start({ ...macs, wait: "sleep", send: false });
  }

  /** With `send` false it takes back what it sent before, and sends no more. */
  send(flow: number, send: boolean): void {
    const macs = { sourceMac: senderMac(flow), destinationMac: receiverMac(flow) };
    const wait = send ? "sleep" : "yield";
    this.senders[flow]!.guest.start({ ...macs, frameBytes: 200, checkEvery: 1, rate, wait, send });
  }

  /** Of each port, by reason. */
  async drops(): Promise<Record<string, Record<string, number>>> {
    return Object.fromEntries([...await this.serve.ports()].map(([name, port]) => [name, drops(port)]));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const guest of [...this.senders, ...this.receivers]) await guest[Symbol.asyncDispose]();
    await this.#pump[Symbol.asyncDispose]();
    await this.serve[Symbol.asyncDispose]();
    await Deno.remove(this.#folder, { recursive: true });
  }
}

for (const ring of ["split", "packed"] as const) {
  Deno.test(`one of four receivers stops reading: the others and all senders do not notice, ${ring}`, async () => {
    await using place = await Place.start(ring);
    const each = Array.from({ length: flows }, (_, flow) => flow);
    for (const flow of each) place.receive(flow);
    // The switch knows where they are.
    await eventually("announcements", patience_ms, async () => {
      const ports = [...(await place.serve.ports()).values()].slice(flows);
      return ports.every(({ from_guest }) => from_guest["packets"]! > 0) || undefined;
    });
    for (const flow of each) place.send(flow, true);
    await eventually("traffic", patience_ms, () => {
      return place.receivers.every(({ guest }) => countersOf(guest).received > 100) || undefined;
    });

    // Announcements of the first found no buffers of those who had not begun.
    const before = await place.drops();
    await place.receivers[0]!.guest.stop();
    const dropped = async () => (await place.drops())[`port${flows}`]!["drop_no_buffer"];
    await eventually("a full ring", patience_ms, dropped);
    const sentBefore = place.senders.map(({ guest }) => countersOf(guest).sent);
    await pause(still_ms);
    for (const flow of each) {
      const sent = countersOf(place.senders[flow]!.guest).sent - sentBefore[flow]!;
      // Each buffer came back several times.
      assert.ok(sent > 4 * ringSize, `sender ${flow} sent ${sent}`);
    }
    for (const { guest } of place.senders) await guest.stop();
    for (const flow of each) place.send(flow, false);
    await eventually("every sender's buffers back", patience_ms, () => {
      return place.senders.every(({ guest }) => countersOf(guest).in_flight === 0) || undefined;
    });

    place.receive(0);
    const missing = (flow: number) => {
      const [sender, receiver] = [place.senders[flow]!, place.receivers[flow]!].map(({ guest }) => countersOf(guest));
      return sender!.sent - receiver!.received;
    };
    await eventually("every packet of the others", patience_ms, () => {
      return each.every((flow) => flow === 0 || missing(flow) === 0) || undefined;
    });
    await eventually("every packet received or counted", patience_ms, async () => {
      const count = (await dropped())!;
      // A sender that is started announces itself, which is for everybody.
      return missing(0) <= count && count <= missing(0) + flows || undefined;
    });
    const after = await place.drops();
    assert.deepEqual({ ...after, [`port${flows}`]: {} }, { ...before, [`port${flows}`]: {} });
    for (const { guest } of place.receivers) {
      const { duplicated, reordered, corrupted } = countersOf(guest);
      assert.deepEqual([duplicated, reordered, corrupted], [0, 0, 0]);
    }
    assert.ok(missing(0) > rate);
  });
}

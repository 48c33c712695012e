// Front ends of guests in post-copy that do not fetch, die, or cut the guest's file off, while a thread of ours sleeps
// on a page: it must go on, since other ports need it. The program is $VHOSTCTL, else the one of the source tree.

import assert from "node:assert/strict";
import { resolve } from "node:path";
import { requests } from "../vhost/request.ts";
import { hasProtocolFeature, protocolFeatureSet } from "../vhost/spec.ts";
import { u64 } from "../vhost/wire.ts";
import { Guest, ringNumbers } from "./hostile_guest.ts";
import { makePart, type Part, userAddress } from "./hostile_memory.ts";
import { HostileServe, type PortEvent } from "./hostile_serve.ts";
import * as system from "./hostile_system.ts";
import { patiently } from "./hostile_patience.ts";
import { macs } from "./hostile_world.ts";
import { eventually } from "./real/process.ts";

const program = Deno.env.get("VHOSTCTL") ?? resolve(import.meta.dirname!, "../scripts/vhostctl");
const missing = { gpa: 0x1_0000_0000n, bytes: 1 << 16 } as const;
const { receive, send } = ringNumbers;

/** Two honest guests, and one in post-copy, all on one worker. */
class Place implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly serve: HostileServe;
  readonly first: Guest;
  readonly second: Guest;

  private constructor(stack: AsyncDisposableStack, serve: HostileServe, first: Guest, second: Guest) {
    this.#stack = stack;
    this.serve = serve;
    this.first = first;
    this.second = second;
  }

  static async open(): Promise<Place> {
    await using stack = new AsyncDisposableStack();
    const ports = ["name=first", "name=second", "name=hostile,postcopy=on"];
    const serve = stack.use(await HostileServe.start(program, 0.5, ports));
    const guest = (port: "first" | "second") => {
      const one = stack.use(new Guest({ path: serve.socket(port), mac: macs[port] }));
      one.start();
      one.offerBuffers();
      return one;
    };
    const [first, second] = [guest("first"), guest("second")];
    return new Place(stack.move(), serve, first, second);
  }

  /** A frame gets from one honest guest to the other, as soon as the worker gets to it. */
  exchange(): void {
    this.first.send(this.first.frame(macs.second));
    patiently("a frame between honest guests", () => this.second.arrivals()[0]);
  }

  /** A guest in post-copy whose front end has thrown away what it could fetch with. */
  hostile(): { guest: Guest; hole: Part } {
    const guest = new Guest({ path: this.serve.socket("hostile"), mac: macs.hostile });
    const peer = guest.connect();
    const offered = peer.number("GET_PROTOCOL_FEATURES", null);
    assert.ok(hasProtocolFeature(offered, "PAGEFAULT"));
    const taken = protocolFeatureSet(["REPLY_ACK", "CONFIGURE_MEM_SLOTS", "PAGEFAULT"]);
    peer.send(requests.SET_PROTOCOL_FEATURES.number, u64.encode(taken));
    guest.setFeatures();
    assert.equal(peer.query("POSTCOPY_ADVISE", null).length, 0);
    peer.tell("POSTCOPY_LISTEN", null);
    // Nobody has ever touched it: it has no page.
    const hole = makePart(missing.gpa, missing.bytes);
    const { number, payload } = requests.ADD_MEM_REG;
    for (const part of [...guest.memory.parts, hole]) {
      peer.send(number, payload.encode(part), { fds: [part.fd] });
      assert.equal(peer.answerTo(number).length, 40);
    }
    peer.send(number, u64.encode(0n));
    return { guest, hole };
  }

  /** The worker then reads from what is not there. */
  touch(guest: Guest): void {
    guest.startRing(receive);
    guest.startRing(send);
    guest.sendRing.offer([{ at: missing.gpa, len: 100 }]);
    guest.kick(send);
  }

  /** Until a thread of the program sleeps on a page: proc(5), fdinfo of a userfaultfd. */
  async asleep(): Promise<void> {
    const folder = `/proc/${this.serve.program.pid}/fdinfo`;
    await eventually("a thread sleeps on a page", 10_000, () => {
      const texts = [...Deno.readDirSync(folder)].map(({ name }) => Deno.readTextFileSync(`${folder}/${name}`));
      return texts.some((text) => /^total:\t[1-9]/m.test(text)) || undefined;
    }, 1);
  }

  event(event: string, from: number): Promise<PortEvent> {
    return this.serve.until(event, () => {
      return this.serve.events.slice(from).find((one) => one.port === "hostile" && one.event === event);
    });
  }

  get now(): number {
    return this.serve.events.length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

Deno.test({ name: "post-copy that stalls", sanitizeOps: false }, async (test) => {
  await using place = await Place.open();
  place.exchange();
  await test.step("a page that nobody fetches: its rings are broken, and others go on", async () => {
    const from = place.now;
    const { guest } = place.hostile();
    place.touch(guest);
    const { reason } = await place.event("ring_broken", from);
    assert.equal(reason, "page_not_fetched");
    place.exchange();
    assert.equal(guest.peer.number("POSTCOPY_END", null), 0n);
    guest[Symbol.dispose]();
    await place.event("disconnected", from);
  });
  await test.step("a ring in a page that nobody fetches: control goes on", async () => {
    const from = place.now;
    const { guest } = place.hostile();
    const address = guest.addressOf(send);
    guest.peer.tell("SET_VRING_NUM", { index: send, num: 256 });
    guest.peer.tell("SET_VRING_BASE", { index: send, num: 0 });
    guest.peer.tell("SET_VRING_ADDR", { ...address, used: userAddress(missing.gpa) });
    guest.peer.tell("SET_VRING_KICK", BigInt(send), [guest.eventfds[send].kick]);
    await place.event("ring_broken", from);
    place.exchange();
    guest[Symbol.dispose]();
    await place.event("disconnected", from);
  });
  await test.step("a front end that dies meanwhile: others go on, and it may come back", async () => {
    const from = place.now;
    const { guest } = place.hostile();
    place.touch(guest);
    await place.asleep();
    guest.disconnect();
    await place.event("disconnected", from);
    place.exchange();
    guest.start();
    guest.offerBuffers();
    guest.send(guest.frame(macs.second));
    patiently("a frame of the guest", () => place.second.arrivals()[0]);
    guest[Symbol.dispose]();
    await place.event("disconnected", from + 1);
  });
  await test.step("a file that is cut off: its rings are broken at once", async () => {
    const from = place.now;
    const { guest, hole } = place.hostile();
    system.truncate(hole.fd, 0);
    place.touch(guest);
    assert.equal((await place.event("ring_broken", from)).reason, "memory_fault");
    place.exchange();
    guest[Symbol.dispose]();
    await place.event("disconnected", from);
  });
  await test.step("a program that ends meanwhile: it ends", async () => {
    const { guest } = place.hostile();
    place.touch(guest);
    await place.asleep();
    const status = await place.serve.program.stop("SIGTERM", 20_000);
    assert.equal(status.code, 0);
    guest[Symbol.dispose]();
  });
});

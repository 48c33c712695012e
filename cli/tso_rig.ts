/**
 * A switch with a worker of its own, and at its two ports guests whose rings this program drives: one sends what it is
 * told to, the other receives.
 *
 * @module
 */
import { EthDev, type EthOffload, type FeatureName, Packets, portDrops, type PortEvent } from "../mod.ts";
import type { Ring, Taking } from "./bench_result.ts";
import { CommandError } from "./error.ts";
import { planPorts } from "./port_option.ts";
import type { Arrival, NetHeader } from "./segment_model.ts";
import { SwitchServer } from "./switch_server.ts";
import type { Received } from "./tso_check.ts";
import type { Receiver } from "./tso_result.ts";

/** Locally administered. */
export const macs = { sender: 0x02_00_00_00_00_0a, receiver: 0x02_00_00_00_00_0b } as const;

const broadcast = 0xffff_ffff_ffff;
/** Local experiments (IEEE 802, 9.2.3): nobody else's. */
const markType = 0x88b5;
const markBytes = 60;
const patience_ms = 3000;
const queueSize = 256;
/** So many of a ring's buffers are filled at once: all of it always arrives. */
export const buffersMax = 192;
/** Of a receive buffer; the large one is what large packets need without merging (virtio 5.1.6.3.1). */
export const bufferBytes = { small: 2048, large: 65_562 } as const;
const headerBytes = 12;
const ethernetBytes = 14;
/** The most that a tap has. */
export const tapMtu = 65_521;

const offloadsOf: Record<Taking, readonly EthOffload[]> = {
  all: ["CKSUM", "TCP_TSO", "UDP_TSO"],
  checksums: ["CKSUM"],
  nothing: [],
};

/** What a receiver must have negotiated, and what not. */
const segmentFeatures: readonly FeatureName[] = [
  ...["GUEST_TSO4", "GUEST_TSO6", "GUEST_ECN", "GUEST_UFO", "GUEST_USO4", "GUEST_USO6"] as const,
];

/** Buffers of a guest's that a frame takes. */
export function buffersOf({ mergeable }: Receiver, { bytes }: Arrival): number {
  return mergeable ? Math.ceil((headerBytes + bytes.length) / bufferBytes.small) : 1;
}

/** The longest frame, but for one to be cut, that fits into the buffers of a guest. */
export function roomOf({ ring, mergeable, takes }: Receiver): { largeBytes: number; plainBytes: number } {
  const largeBytes = bufferBytes.large - headerBytes;
  if (ring === "tap") return { largeBytes, plainBytes: tapMtu + ethernetBytes };
  return { largeBytes, plainBytes: mergeable || takes === "all" ? largeBytes : bufferBytes.small - headerBytes };
}

function header(bytes: Uint8Array): NetHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const word = (at: number) => view.getUint16(at, true);
  const [flags, gsoType] = bytes as unknown as [number, number];
  const [headerBytes, gsoSize, checksumStart, checksumOffset] = [word(2), word(4), word(6), word(8)];
  return { flags, gsoType, headerBytes, gsoSize, checksumStart, checksumOffset };
}

function writeHeader(bytes: Uint8Array, { flags, gsoType, ...rest }: NetHeader): void {
  const words = [rest.headerBytes, rest.gsoSize, rest.checksumStart, rest.checksumOffset];
  bytes.set([flags, gsoType, ...words.flatMap((word) => [word & 0xff, word >> 8])]);
}

function writeMac(bytes: Uint8Array, at: number, mac: number): void {
  for (let index = 0; index < 6; index++) bytes[at + index] = Math.floor(mac / 2 ** (8 * (5 - index))) % 256;
}

function isMark(bytes: Uint8Array): boolean {
  return (bytes[12]! << 8 | bytes[13]!) === markType;
}

/** A frame that stands for itself. */
function appendMark(packets: Packets, destination: number, source: number): void {
  const bytes = packets.append(markBytes).fill(0);
  writeMac(bytes, 0, destination);
  writeMac(bytes, 6, source);
  bytes.set([markType >> 8, markType & 0xff], 12);
}

/** Waits for a promise, not for ever. */
async function within<T>(promise: Promise<T>, otherwise: () => T): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<T>((resolve) => timer = setTimeout(() => resolve(otherwise()), patience_ms));
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** What arrived; without the mark, there may be more to come. */
export interface Exchange {
  readonly received: readonly Received[];
  readonly marked: boolean;
}

/** A bridge sends frames of its own. */
function isOurs(bytes: Uint8Array): boolean {
  const source = bytes.subarray(6, 12).reduce((sum, byte) => sum * 256 + byte, 0);
  return source === macs.sender || source === macs.receiver;
}

/** A guest that this program is the driver of, or what is behind a tap. */
export class TestGuest implements AsyncDisposable {
  readonly device: EthDev;
  readonly packets = new Packets({ capacity: 64 });
  readonly features: readonly string[];

  private constructor(device: EthDev, features: readonly string[]) {
    this.device = device;
    this.features = features;
  }

  static async attach(socket: string, { ring, mergeable, takes }: Receiver & { ring: Ring }): Promise<TestGuest> {
    const { promise, resolve } = Promise.withResolvers<readonly string[] | string>();
    const happened = (event: PortEvent) => {
      if (event.event === "started") resolve(event.features);
      if (event.event === "waiting" || event.event === "disconnected") resolve(event.reason);
    };
    const keys = [`path=${socket}`, `packed_vq=${ring === "packed" ? 1 : 0}`, `mrg_rxbuf=${mergeable ? 1 : 0}`];
    const device = EthDev.create(["virtio_user0", ...keys, `queue_size=${queueSize}`].join(","), { happened });
    const large = !mergeable && takes === "all";
    device.configure({
      offloads: offloadsOf[takes],
      rxBufferBytes: large ? bufferBytes.large : bufferBytes.small,
    });
    device.rxQueueSetup(0);
    device.txQueueSetup(0);
    device.start();
    const found = await within(promise, () => "nothing happened");
    if (typeof found !== "string") return new TestGuest(device, found);
    await device.close();
    throw new CommandError(`cannot attach a guest: ${socket}: ${found}`);
  }

  /** A tap that is made, and takes nothing: its kernel cuts and finishes. */
  static behindTap(name: string): TestGuest {
    const device = EthDev.create(`net_tap0,iface=${name}`);
    device.configure({ offloads: [] });
    device.rxQueueSetup(0);
    device.txQueueSetup(0);
    device.start();
    return new TestGuest(device, []);
  }

  /** Gives away what is in `packets`; rings that are as empty as ours here take it at once. */
  async send(): Promise<void> {
    const deadline = performance.now() + patience_ms;
    while (this.device.txBurst(0, this.packets) >= 0 && this.packets.count > 0) {
      if (performance.now() > deadline) {
        throw new CommandError("the switch takes no packets: see whether it is stopped");
      }
      await new Promise((resolve) => setTimeout(resolve));
    }
  }

  /** All that arrives before the next mark. */
  async receive(): Promise<Exchange> {
    const received: Received[] = [];
    while (await within(EthDev.rxReady(this.device), () => false)) {
      this.device.rxBurst(0, this.packets);
      for (let index = 0; index < this.packets.count; index++) {
        const bytes = this.packets.data(index);
        if (!isOurs(bytes)) continue;
        if (isMark(bytes)) return { received, marked: true };
        received.push({ header: header(this.packets.header(index)), bytes: bytes.slice() });
      }
    }
    return { received, marked: false };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.device.close();
  }
}

/** Both learn where the other is: whatever is between them. */
export async function introduce(sender: TestGuest, receiver: TestGuest): Promise<void> {
  for (const [from, to, source] of [[receiver, sender, macs.receiver], [sender, receiver, macs.sender]] as const) {
    from.packets.free();
    appendMark(from.packets, broadcast, source);
    await from.send();
    const { marked } = await to.receive();
    if (!marked) throw new CommandError("no packets pass between the guests: see vhostctl bench vm2vm");
  }
}

/** Sends frames in one go, and returns all that arrives, in order, until the mark behind them came, or is lost. */
export async function exchange(
  sender: TestGuest,
  receiver: TestGuest,
  frames: readonly Arrival[],
): Promise<Exchange> {
  sender.packets.free();
  for (const [number, { header, bytes }] of frames.entries()) {
    sender.packets.append(bytes.length).set(bytes);
    writeHeader(sender.packets.header(number), header);
  }
  appendMark(sender.packets, macs.receiver, macs.sender);
  await sender.send();
  return await receiver.receive();
}

/** What a switch did not deliver since it was opened, by port and reason. */
export function dropsText(server: SwitchServer): string {
  const { ports } = server.snapshot();
  return ports.flatMap((port) => portDrops(port).map(([reason, count]) => `${count} ${reason.replaceAll("_", " ")}`))
    .join(", ");
}

/** A sender, a receiver, and what is tested between them. */
export interface TestRig extends AsyncDisposable {
  /** A receiver comes in the place of the one before, and a sender with rings like its own. */
  attach(receiver: Receiver): Promise<void>;
  /** See the function of this name. */
  exchange(frames: readonly Arrival[]): Promise<Exchange>;
  drops(): string;
}

/** From `open` until it is disposed of. */
export class TsoRig implements TestRig {
  readonly #stack: AsyncDisposableStack;
  readonly #server: SwitchServer;
  readonly #sockets: readonly string[];
  #sender: TestGuest | undefined;
  #receiver: TestGuest | undefined;
  #senderRing: Ring | undefined;

  private constructor(stack: AsyncDisposableStack, server: SwitchServer, sockets: readonly string[]) {
    this.#stack = stack;
    this.#server = server;
    this.#sockets = sockets;
  }

  static async open(): Promise<TsoRig> {
    await using stack = new AsyncDisposableStack();
    const directory = await Deno.makeTempDir({ prefix: "vhostctl-tso-" });
    stack.defer(() => Deno.remove(directory, { recursive: true }));
    const names = ["sender", "receiver"];
    const ports = planPorts(names.map((name) => ({ name })), {
      directory,
      queuePairs: 1,
      workingDirectory: "/",
      stateDirectory: "none",
    });
    const plan = { ports, directory, socketMode: 0o600, workers: [undefined], idle: "adaptive" } as const;
    const server = stack.use(await SwitchServer.open(plan, () => {}));
    void server.run();
    return new TsoRig(stack.move(), server, ports.map(({ socket }) => socket));
  }

  /** Attaches a receiver in the place of the one before, and a sender with rings like its own. */
  async attach(receiver: Receiver): Promise<void> {
    const { ring } = receiver;
    if (ring === "tap") throw new TypeError("a tap is in a rig of its own");
    await this.#detach(1, this.#receiver);
    if (this.#senderRing !== ring) {
      await this.#detach(0, this.#sender);
      this.#sender = await TestGuest.attach(this.#sockets[0]!, { ring, mergeable: true, takes: "all" });
      this.#senderRing = ring;
    }
    this.#receiver = await TestGuest.attach(this.#sockets[1]!, { ...receiver, ring });
    const { features } = this.#receiver;
    const wrong = segmentFeatures.find((name) => features.includes(name) !== (receiver.takes === "all")) ??
      (features.includes("GUEST_CSUM") === (receiver.takes === "nothing") ? "GUEST_CSUM" : undefined);
    if (wrong !== undefined) throw new CommandError(`a guest cannot choose its offloads: ${wrong}: please report it`);
    await introduce(this.#sender!, this.#receiver);
  }

  exchange(frames: readonly Arrival[]): Promise<Exchange> {
    return exchange(this.#sender!, this.#receiver!, frames);
  }

  drops(): string {
    return dropsText(this.#server);
  }

  /** Until the switch has noticed, it would turn the next one away. */
  async #detach(port: number, guest: TestGuest | undefined): Promise<void> {
    if (guest === undefined) return;
    await guest[Symbol.asyncDispose]();
    const deadline = performance.now() + patience_ms;
    while (this.#server.snapshot().ports[port]!.state !== "waiting" && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#receiver?.[Symbol.asyncDispose]();
    await this.#sender?.[Symbol.asyncDispose]();
    await this.#stack[Symbol.asyncDispose]();
  }
}

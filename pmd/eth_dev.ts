/**
 * A port as an Ethernet device, after DPDK's ethdev: what its vhost PMD makes of a vhost-user socket.
 *
 * @module
 */
import type { Port } from "../ffi/port.ts";
import type { Packets } from "../ffi/packets.ts";
import { driverNames, parseVdev, type Vdev } from "./devargs.ts";
import type { EthLink, EthStats, EthXstats, QueueState } from "./eth_info.ts";
import { PollEngine } from "./poll_engine.ts";
import type { PortEvent } from "./port_event.ts";
import { planVdev } from "./port_plan.ts";
import type { PortService } from "./port_server.ts";
import { openPortService } from "./port_service.ts";
import { QueueCounters } from "./queue_counters.ts";
import { RxWatch } from "./rx_watch.ts";

/** What a device can leave to whoever receives: checksums to be filled in, TCP and UDP to be cut into segments. */
export type EthOffload = "CKSUM" | "TCP_TSO" | "UDP_TSO";

/** For `configure`. */
export interface EthConfig {
  /** As many as the devargs' `queues=`, at most; by default one. */
  readonly rxQueues?: number;
  readonly txQueues?: number;
  /** By default all. What is not here is not offered to the guest, or taken of the back end, in either direction. */
  readonly offloads?: readonly EthOffload[];
  /**
   * Of the receive buffers of a device that is the driver, virtio-net header included: 128 to 65562, by default 2048.
   * From 65562 on, TCP and UDP that is to be cut comes whole also where buffers cannot be merged (virtio 5.1.6.3.1).
   */
  readonly rxBufferBytes?: number | undefined;
}

/** What happens to a device. None of these may throw. */
export interface EthListener {
  /** The guest's driver came or went (`RTE_ETH_EVENT_INTR_LSC`). */
  readonly link?: (link: EthLink) => void;
  /** A queue was switched on or off by the guest (`RTE_ETH_EVENT_QUEUE_STATE`). */
  readonly queue?: (state: QueueState) => void;
  /** All else that there is to tell. */
  readonly happened?: (event: PortEvent) => void;
}

export interface EthOptions extends EthListener {
  /** Permission bits of the socket; by default 0600. */
  readonly socketMode?: number;
}

type State = "created" | "configured" | "started" | "stopped" | "closed";

const withheldWithout: Record<EthOffload, readonly string[]> = {
  CKSUM: ["CSUM", "GUEST_CSUM"],
  TCP_TSO: ["HOST_TSO4", "HOST_TSO6", "HOST_ECN", "GUEST_TSO4", "GUEST_TSO6", "GUEST_ECN"],
  UDP_TSO: ["HOST_UFO", "HOST_USO", "GUEST_UFO", "GUEST_USO4", "GUEST_USO6"],
};

const mtuMin = 68;
const mtuMax = 65535;
const rxBufferBytesMin = 128;
const rxBufferBytesMax = 65_562;
/** As net_vhost reports, whatever the wire would be. */
const speed_Mbps = 10_000;

/**
 * A poll mode device. Its life is ethdev's: `create`, `configure`, `rxQueueSetup` and `txQueueSetup` for each queue,
 * `start`; then bursts, until `stop`; and from there `start` again, or `configure`, or `close`. What comes out of this
 * order throws `TypeError`, a queue that is not there `RangeError`.
 *
 * All of it is for one thread, and nothing happens but in its calls and between its turns: who polls without end must
 * `await` now and then, best `EthDev.rxReady`, or no guest can connect. While a device is open the program does not
 * end.
 */
export class EthDev implements AsyncDisposable {
  readonly #vdev: Vdev;
  readonly #options: EthOptions;
  readonly #shared: PollEngine;
  #state: State = "created";
  #rx: boolean[] = [];
  #tx: boolean[] = [];
  #withheld: readonly string[] = [];
  #bufferBytes: number | undefined;
  #mtu: number | undefined;
  #port: Port | undefined;
  #server: PortService | undefined;
  #watch: RxWatch | undefined;
  #counters: QueueCounters | undefined;
  #rings: boolean[] = [];
  readonly #resident = {
    tick: () => this.#server?.tick(),
    attend: () => {
      this.#server?.lookForBroken();
      this.#changed(undefined);
    },
  };
  #looks = false;
  #closed: Promise<void> | undefined;

  private constructor(vdev: Vdev, options: EthOptions) {
    this.#vdev = vdev;
    this.#options = options;
    this.#shared = PollEngine.acquire();
  }

  /**
   * A device from a vdev string, such as `eth_vhost0,iface=/tmp/sock0,queues=2`, which serves a guest, or
   * `virtio_user0,path=/tmp/sock0`, which is the driver of a back end. Its socket is there from the first `start` on.
   *
   * @throws DevargsError for a string that cannot be used
   */
  static create(devargs: string, options: EthOptions = {}): EthDev {
    return new EthDev(parseVdev(devargs), options);
  }

  /** Says how many queues are used, and which offloads. May be repeated while it is stopped; setups are then due. */
  configure(config: EthConfig = {}): void {
    const { rxQueues = 1, txQueues = 1, offloads = ["CKSUM", "TCP_TSO", "UDP_TSO"], rxBufferBytes } = config;
    this.#expect("configure", "created", "configured", "stopped");
    for (const [what, count] of [["rxQueues", rxQueues], ["txQueues", txQueues]] as const) {
      if (Number.isInteger(count) && count >= 1 && count <= this.#vdev.queues) continue;
      throw this.#outOfRange(`use ${what}=${count}`, `queues=${this.#vdev.queues} is what there is`);
    }
    const names = Object.keys(withheldWithout) as EthOffload[];
    const unknown = offloads.find((name) => !names.includes(name));
    if (unknown !== undefined) throw this.#outOfRange(`use offload ${unknown}`, `choose from ${names.join(", ")}`);
    if (rxBufferBytes !== undefined && !(rxBufferBytes >= rxBufferBytesMin && rxBufferBytes <= rxBufferBytesMax)) {
      throw this.#outOfRange(`use rxBufferBytes=${rxBufferBytes}`, `give ${rxBufferBytesMin} to ${rxBufferBytesMax}`);
    }
    this.#shut();
    // A listener that heard of it may have closed.
    this.#expect("configure", "created", "configured", "stopped");
    this.#rx = Array(rxQueues).fill(false);
    this.#tx = Array(txQueues).fill(false);
    this.#withheld = names.filter((name) => !offloads.includes(name)).flatMap((name) => withheldWithout[name]);
    this.#bufferBytes = rxBufferBytes;
    this.#state = "configured";
  }

  /** Makes a receive queue ready. How many descriptors it has, the guest says. */
  rxQueueSetup(queue: number): void {
    this.#setup(this.#rx, "rx", queue);
  }

  /** Makes a transmit queue ready. */
  txQueueSetup(queue: number): void {
    this.#setup(this.#tx, "tx", queue);
  }

  /**
   * Opens the socket, the first time, and lets bursts through.
   *
   * @throws VringError when it cannot listen at the socket
   */
  start(): void {
    this.#expect("start", "configured", "stopped");
    for (const [direction, queues] of [["rx", this.#rx], ["tx", this.#tx]] as const) {
      const queue = queues.indexOf(false);
      if (queue >= 0) throw this.#misuse("start", `${direction} queue ${queue} is not set up`);
    }
    if (this.#server === undefined) this.#open();
    this.#state = "started";
  }

  /** Lets no bursts through. The guest stays connected, and what it sends waits in its rings. */
  stop(): void {
    this.#expect("stop", "started");
    this.#state = "stopped";
    this.#watch?.wake();
  }

  /** Closes the socket, turns the guest out and takes the port away. May be called at any time, and again. */
  close(): Promise<void> {
    if (this.#closed !== undefined) return this.#closed;
    const { promise, resolve } = Promise.withResolvers<void>();
    // A listener that hears of the end may close, too.
    this.#closed = promise;
    resolve(this.#end());
    return promise;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // Bursts.

  /**
   * Fills `packets` with what the guest sent on a queue, as far as it has room; what it had before is gone. Returns how
   * many there are: 0 also while no guest is there.
   */
  rxBurst(queue: number, packets: Packets): number {
    this.#expectQueue("receive", this.#rx, queue);
    const count = this.#port!.receive(queue, packets);
    if (count > 0) this.#watch!.found = true;
    return count;
  }

  /**
   * Gives packets to the guest, from the first one on. Returns how many are done with: `packets` has the others still,
   * for which there was no buffer or is no guest. What this guest cannot take, or has too few buffers for, is done
   * with, too, and counted.
   */
  txBurst(queue: number, packets: Packets): number {
    this.#expectQueue("transmit", this.#tx, queue);
    return this.#port!.send(queue, packets);
  }

  /**
   * Resolves when a receive queue of one of these devices may have something: at once while there is traffic, else
   * after a guest's kick or a change of its queues. With false, when one of them is not started, or not any more.
   */
  static async rxReady(...devices: readonly EthDev[]): Promise<boolean> {
    const isStarted = (device: EthDev) => device.#state === "started";
    if (devices.length === 0 || !devices.every(isStarted)) return false;
    const wait = RxWatch.ready(devices[0]!.#shared, devices.map((device) => device.#watch!));
    if (wait !== undefined) await wait;
    return devices.every(isStarted);
  }

  // What it is, and how it does.

  /** The device's name and what it can do. */
  info() {
    const vdev = this.#vdev;
    const { name, queues } = vdev;
    return {
      name,
      driver: driverNames[vdev.driver],
      path: pathOf(vdev),
      maxRxQueues: queues,
      maxTxQueues: queues,
      rxQueues: this.#rx.length,
      txQueues: this.#tx.length,
      minMtu: mtuMin,
      maxMtu: mtuMax,
      mtu: this.#mtu,
      state: this.#state,
    } as const;
  }

  /** Up when a queue pair carries packets, or would, were the device started. */
  get link(): EthLink {
    return linkOf(this.#rings);
  }

  /**
   * The device's own address: that of the devargs, else, towards a guest, "VHOST" and a number; a guest has its own,
   * which no back end is told.
   */
  get macAddr(): string {
    this.#expect("name the address", "started", "stopped");
    return this.#server!.plan.mac;
  }

  /** Always true: whatever a guest sends is received. */
  get promiscuous(): boolean {
    return true;
  }

  /**
   * The longest packet to the guest, in bytes without its Ethernet header; longer ones that are not to be segmented are
   * dropped. No limit, if undefined.
   */
  setMtu(mtu: number | undefined): void {
    this.#expect("set MTU", "created", "configured", "started", "stopped");
    if (mtu !== undefined && !(Number.isInteger(mtu) && mtu >= mtuMin && mtu <= mtuMax)) {
      throw this.#outOfRange(`use MTU ${mtu}`, `give ${mtuMin} to ${mtuMax}`);
    }
    this.#mtu = mtu;
    this.#port?.setMtu(mtu);
  }

  /** Counters since the first start after `configure`, or since `resetStats`. */
  stats(): EthStats {
    return this.#counted("read counters").stats();
  }

  /** The same in detail: of all queues, then of each. */
  xstats(): EthXstats {
    return this.#counted("read counters").xstats();
  }

  /** Counts from zero on. */
  resetStats(): void {
    this.#counted("reset counters").reset();
  }

  // Within.

  #setup(queues: boolean[], direction: string, queue: number): void {
    this.#expect(`set up ${direction} queue ${queue}`, "configured");
    if (!(queue in queues)) throw this.#outOfRange(`set up ${direction} queue ${queue}`, `there are ${queues.length}`);
    queues[queue] = true;
  }

  #open(): void {
    const { engine, pump, residents } = this.#shared;
    const { queues } = this.#vdev;
    const port = engine.openPort({ queuePairs: queues, changed: (ring) => this.#changed(ring) });
    try {
      const plan = planVdev(this.#vdev, {
        number: port.number,
        queuePairs: queues,
        withheld: this.#withheld,
        bufferBytes: this.#bufferBytes,
        workingDirectory: Deno.cwd(),
      });
      this.#server = openPortService({
        plan,
        port,
        pump,
        socketMode: this.#options.socketMode ?? 0o600,
        happened: (event) => this.#options.happened?.(event),
      });
    } catch (error) {
      port[Symbol.dispose]();
      throw error;
    }
    residents.add(this.#resident);
    this.#port = port;
    if (this.#mtu !== undefined) port.setMtu(this.#mtu);
    this.#rings = Array(2 * queues).fill(false);
    this.#watch = new RxWatch(pump, port, this.#rx.length);
    this.#counters = new QueueCounters(port, queues);
  }

  #shut(): void {
    if (this.#server === undefined) return;
    this.#shared.residents.delete(this.#resident);
    this.#server[Symbol.dispose]();
    this.#watch![Symbol.dispose]();
    this.#port![Symbol.dispose]();
    this.#server = undefined;
    this.#port = undefined;
    this.#counters = undefined;
    this.#look([]);
  }

  async #end(): Promise<void> {
    this.#state = "closed";
    this.#shut();
    await this.#shared.release();
  }

  /** A guest switches many queues at a time: one look afterwards is enough. */
  #changed(ring: number | undefined): void {
    this.#watch?.changed(ring);
    if (this.#looks) return;
    this.#looks = true;
    queueMicrotask(() => {
      this.#looks = false;
      const port = this.#port;
      if (port === undefined) return;
      // A front end that goes takes the port's MTU with it.
      if (this.#mtu !== undefined) port.setMtu(this.#mtu);
      this.#look(this.#rings.map((_, index) => port.isUp(index)));
    });
  }

  #look(now: readonly boolean[]): void {
    const before = this.#rings;
    this.#rings = [...now];
    before.forEach((was, ring) => {
      const enabled = now[ring] ?? false;
      if (was === enabled) return;
      this.#options.queue?.({ direction: ring % 2 === 1 ? "rx" : "tx", queue: Math.floor(ring / 2), enabled });
    });
    if (linkOf(before).up !== linkOf(now).up) this.#options.link?.(linkOf(now));
  }

  #counted(what: string): QueueCounters {
    this.#expect(what, "configured", "started", "stopped");
    if (this.#counters === undefined) throw this.#misuse(what, "it was not started since it was configured");
    return this.#counters;
  }

  #expectQueue(what: string, queues: readonly boolean[], queue: number): void {
    if (this.#state !== "started") throw this.#misuse(what, `it is ${this.#state}`);
    if (!(queue in queues)) throw this.#outOfRange(`${what} on queue ${queue}`, `there are ${queues.length}`);
  }

  #expect(what: string, ...states: readonly State[]): void {
    if (!states.includes(this.#state)) throw this.#misuse(what, `it is ${this.#state}`);
  }

  #misuse(what: string, why: string): TypeError {
    return new TypeError(`Cannot ${what}: ${this.#vdev.name}: ${why}`);
  }

  #outOfRange(what: string, why: string): RangeError {
    return new RangeError(`Cannot ${what}: ${this.#vdev.name}: ${why}`);
  }
}

/** Where it leads, as given. */
function pathOf(vdev: Vdev): string {
  if (vdev.driver === "virtio-user") return vdev.path;
  return vdev.driver === "vhost-pci" ? vdev.device : vdev.iface;
}

/** Rings are numbered as on the wire. */
function linkOf(rings: readonly boolean[]): EthLink {
  return { up: rings.some((isUp, ring) => ring % 2 === 0 && isUp && rings[ring + 1]), speed_Mbps, duplex: "full" };
}

/** Ethernet devices: their life, and frames of simulated guests through them, over real sockets in one process. */

import assert from "node:assert/strict";
import { attach, type AttachedGuest } from "../cli/guest_attach.ts";
import { loadLibrary } from "../ffi/library.ts";
import { DevargsError, EthDev, type EthOptions, Packets, Pump, type QueueState } from "../mod.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const macs = [0x52_54_00_00_00_01, 0x52_54_00_00_00_02] as const;

/** A folder for sockets, and a pump for the guests' ends of them. */
class Bench implements AsyncDisposable {
  readonly directory = Deno.makeTempDirSync();
  readonly #pump = Pump.open();
  readonly #running = this.#pump.run();
  readonly #stack = new AsyncDisposableStack();

  device(name: string, queues = 1, options: EthOptions = {}): EthDev {
    const device = EthDev.create(`eth_vhost_${name},iface=${this.directory}/${name},queues=${queues}`, options);
    return this.#stack.use(device);
  }

  async guest(name: string, ring: "split" | "packed", queues = 1): Promise<AttachedGuest> {
    const socket = `${this.directory}/${name}`;
    return this.#stack.use(await attach(this.#pump, { socket, ring, ringSize: 256, queues, frameBytes: 1514 }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
    await this.#pump[Symbol.asyncDispose]();
    await this.#running;
    Deno.removeSync(this.directory, { recursive: true });
  }
}

function start(device: EthDev, queues = 1): EthDev {
  device.configure({ rxQueues: queues, txQueues: queues });
  for (let queue = 0; queue < queues; queue++) {
    device.rxQueueSetup(queue);
    device.txQueueSetup(queue);
  }
  device.start();
  return device;
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!condition() && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.ok(condition(), "did not come about within 10 s");
}

/** Everything that comes to one device goes out of the other, until it is stopped. */
async function forward(from: EthDev, to: EthDev, queues: number): Promise<void> {
  const packets = new Packets({ capacity: 32, checked: true });
  while (await EthDev.rxReady(from, to)) {
    for (let queue = 0; queue < queues; queue++) {
      from.rxBurst(queue, packets);
      const deadline = performance.now() + 1000;
      while (packets.count > 0 && performance.now() < deadline) to.txBurst(queue, packets);
    }
  }
}

for (const ring of ["split", "packed"] as const) {
  for (const queues of [1, 2]) {
    Deno.test(`frames go through TypeScript whole and in order: ${ring}, ${queues} queues`, async () => {
      await using bench = new Bench();
      const devices = [start(bench.device("a", queues), queues), start(bench.device("b", queues), queues)] as const;
      const guests = [await bench.guest("a", ring, queues), await bench.guest("b", ring, queues)] as const;
      await until(() => devices.every((device) => device.link.up));
      const forwarders = [
        forward(devices[0], devices[1], queues),
        forward(devices[1], devices[0], queues),
      ];
      const traffic = {
        frameBytes: 1514,
        frameBytesMin: 60,
        checkEvery: 1,
        queues,
        wait: "sleep",
        count: 4000,
      } as const;
      guests[1].guest.start({ ...traffic, sourceMac: macs[1], destinationMac: macs[0], send: false });
      guests[0].guest.start({ ...traffic, sourceMac: macs[0], destinationMac: macs[1] });
      // What is received includes an announcement.
      await until(() => guests[1].guest.stats().received_checked >= 4000n);
      for (const device of devices) device.stop();
      await Promise.all(forwarders);
      for (const { guest } of guests) await guest.stop();
      const { received_checked, lost, duplicated, reordered, corrupted, bad_header } = guests[1].guest.stats();
      assert.deepEqual({ received_checked, lost, duplicated, reordered, corrupted, bad_header }, {
        received_checked: 4000n,
        lost: 0n,
        duplicated: 0n,
        reordered: 0n,
        corrupted: 0n,
        bad_header: 0n,
      });
      const [first, second] = devices.map((device) => device.stats());
      assert.equal(first!.ipackets, second!.opackets);
      assert.equal(first!.ibytes, second!.obytes);
      const xstats = devices[0].xstats();
      assert.equal(xstats["rx_good_packets"], first!.ipackets);
      const each = Array.from({ length: queues }, (_, queue) => xstats[`rx_q${queue}_good_packets`]!);
      assert.equal(each.reduce((sum, count) => sum + count), first!.ipackets);
      assert.ok(each.every((count) => count > 0n), `${each}`);
      devices[0].resetStats();
      assert.equal(devices[0].stats().ipackets, 0n);
    });
  }
}

Deno.test("what is used out of its order says so", async () => {
  await using bench = new Bench();
  const device = bench.device("a", 2);
  const packets = new Packets();
  const misuse = (what: RegExp, use: () => unknown) => assert.throws(use, { name: "TypeError", message: what });
  const outside = (what: RegExp, use: () => unknown) => assert.throws(use, { name: "RangeError", message: what });
  misuse(/Cannot start: eth_vhost_a: it is created/, () => device.start());
  misuse(/Cannot set up rx queue 0: eth_vhost_a: it is created/, () => device.rxQueueSetup(0));
  outside(/rxQueues=3: eth_vhost_a: queues=2/, () => device.configure({ rxQueues: 3 }));
  outside(/txQueues=0/, () => device.configure({ txQueues: 0 }));
  outside(/rxBufferBytes=64: eth_vhost_a: give 128 to 65562/, () => device.configure({ rxBufferBytes: 64 }));
  outside(/offload LRO.*choose from CKSUM, TCP_TSO, UDP_TSO/, () => device.configure({ offloads: ["LRO" as "CKSUM"] }));
  device.configure({ rxQueues: 2 });
  outside(/set up rx queue 2: eth_vhost_a: there are 2/, () => device.rxQueueSetup(2));
  outside(/set up tx queue 1: eth_vhost_a: there are 1/, () => device.txQueueSetup(1));
  device.rxQueueSetup(0);
  device.txQueueSetup(0);
  misuse(/rx queue 1 is not set up/, () => device.start());
  misuse(/Cannot receive: eth_vhost_a: it is configured/, () => device.rxBurst(0, packets));
  misuse(/it was not started since/, () => device.stats());
  device.rxQueueSetup(1);
  device.start();
  misuse(/Cannot set up rx queue 0: eth_vhost_a: it is started/, () => device.rxQueueSetup(0));
  misuse(/Cannot configure: eth_vhost_a: it is started/, () => device.configure());
  outside(/receive on queue 2: eth_vhost_a: there are 2/, () => device.rxBurst(2, packets));
  outside(/transmit on queue 1: eth_vhost_a: there are 1/, () => device.txBurst(1, packets));
  outside(/receive on queue -1/, () => device.rxBurst(-1, packets));
  outside(/receive on queue 0.5/, () => device.rxBurst(0.5, packets));
  outside(/MTU 67: eth_vhost_a: give 68 to 65535/, () => device.setMtu(67));
  assert.equal(device.rxBurst(1, packets), 0);
  assert.equal(device.txBurst(0, packets), 0);
  assert.match(device.macAddr, /^56:48:4f:53:54:/);
  assert.deepEqual(device.link, { up: false, speed_Mbps: 10_000, duplex: "full" });
  device.stop();
  misuse(/Cannot transmit: eth_vhost_a: it is stopped/, () => device.txBurst(0, packets));
  assert.equal(await EthDev.rxReady(device), false);
  device.start();
  await device.close();
  await device.close();
  misuse(/Cannot receive: eth_vhost_a: it is closed/, () => device.rxBurst(0, packets));
  misuse(/Cannot start: eth_vhost_a: it is closed/, () => device.start());
  assert.throws(() => EthDev.create("eth_vhost0"), DevargsError);
  assert.throws(() => EthDev.create("vhost_pci0,dev=05"), DevargsError);
});

Deno.test("a device whose socket cannot be says why, and can be tried again", async () => {
  await using bench = new Bench();
  await Deno.writeTextFile(`${bench.directory}/a`, "not a socket");
  const device = bench.device("a");
  assert.throws(() => start(device), { name: "VringError", message: /a file that is no socket is in the way/ });
  await Deno.remove(`${bench.directory}/a`);
  device.start();
  assert.ok(Deno.statSync(`${bench.directory}/a`).isSocket);
});

Deno.test("the link and the queues are told when the guest comes and goes", async () => {
  await using bench = new Bench();
  const links: boolean[] = [];
  const queues: QueueState[] = [];
  const device = bench.device("a", 1, { link: ({ up }) => links.push(up), queue: (state) => queues.push(state) });
  start(device);
  const first = await bench.guest("a", "split");
  await until(() => device.link.up);
  await first[Symbol.asyncDispose]();
  await until(() => !device.link.up);
  const second = await bench.guest("a", "packed");
  await until(() => device.link.up);
  await second[Symbol.asyncDispose]();
  await until(() => !device.link.up);
  assert.deepEqual(links, [true, false, true, false]);
  const told = (enabled: boolean) =>
    queues.filter((state) => state.enabled === enabled).map((state) => state.direction);
  assert.deepEqual(told(true).toSorted(), ["rx", "rx", "tx", "tx"]);
  assert.deepEqual(told(false).toSorted(), ["rx", "rx", "tx", "tx"]);
});

Deno.test("a listener may close its device, whatever it hears of", async () => {
  await using bench = new Bench();
  const other = start(bench.device("other"));
  let closing: Promise<void> | undefined;
  const device = bench.device("a", 1, { link: ({ up }) => up || (closing = device.close()) });
  start(device);
  await bench.guest("a", "split");
  await until(() => device.link.up);
  await device.close();
  await closing;
  const again = bench.device("b", 1, { link: ({ up }) => up || void again.close() });
  start(again);
  await bench.guest("b", "split");
  await until(() => again.link.up);
  again.stop();
  assert.throws(() => again.configure(), { message: /it is closed/ });
  const waiting = EthDev.create(`eth_vhost_c,iface=${bench.directory}/nobody,client=1`, {
    happened: ({ event }) => event === "waiting" && void waiting.close(),
  });
  start(waiting);
  await until(() => waiting.info().state === "closed");
  await bench.guest("other", "packed");
  await until(() => other.link.up);
});

Deno.test("an MTU holds for every guest, and can be lifted", async () => {
  await using bench = new Bench();
  const device = bench.device("a");
  device.setMtu(100);
  start(device);
  const packets = new Packets();
  for (const mtu of [100, 100, undefined]) {
    device.setMtu(mtu);
    await using attached = await bench.guest("a", "split");
    await until(() => device.link.up);
    attached.guest.start({ sourceMac: macs[0], destinationMac: macs[1], send: false, frameBytes: 1000, wait: "sleep" });
    await until(() => attached.guest.vringStats(0).outstanding > 0n);
    const before = device.stats().opackets;
    packets.append(1000).fill(1);
    assert.equal(device.txBurst(0, packets), 1);
    assert.equal(device.stats().opackets - before, mtu === undefined ? 1n : 0n);
    await attached[Symbol.asyncDispose]();
    await until(() => !device.link.up);
  }
});

Deno.test("packets whose memory was taken away are refused, and those that are kept keep their bytes", async () => {
  await using bench = new Bench();
  const device = start(bench.device("a"));
  await bench.guest("a", "split");
  await until(() => device.link.up);
  for (const part of ["data", "header"] as const) {
    const packets = new Packets({ capacity: 1 });
    packets.append(60);
    structuredClone(0, { transfer: [packets[part](0).buffer] });
    const message = "Cannot use packets: their memory was transferred";
    assert.throws(() => device.txBurst(0, packets), { name: "TypeError", message });
    assert.throws(() => device.rxBurst(0, packets), { name: "TypeError", message });
  }
  const packets = new Packets({ capacity: 3 });
  for (const filling of [1, 2, 3]) packets.append(60).fill(filling);
  packets.keep((index) => index !== 1);
  assert.deepEqual([packets.count, packets.data(0)[0], packets.data(1)[59]], [2, 1, 3]);
  packets.append(65_000).fill(4);
  assert.throws(() => packets.append(60), RangeError);
  assert.throws(() => packets.data(0.5), RangeError);
  assert.equal(packets.data(1)[0], 3);
});

Deno.test("packets that went cannot be touched in a checked burst; those that stayed are the first now", async () => {
  await using bench = new Bench();
  const device = start(bench.device("a"));
  const { guest } = await bench.guest("a", "split");
  await until(() => device.link.up);
  guest.start({ sourceMac: macs[0], destinationMac: macs[1], send: false, frameBytes: 200, wait: "sleep" });
  const packets = new Packets({ capacity: 64, checked: true });
  const views: Uint8Array[] = [];
  await until(() => device.stats().opackets === 0n && guest.vringStats(0).outstanding > 0n);
  for (let number = 0; number < 64; number++) {
    const bytes = packets.append(100);
    bytes.fill(0xff, 0, 6);
    bytes.fill(number, 6);
    views.push(bytes);
  }
  assert.throws(() => packets.append(100), { name: "RangeError", message: /there are 64 already/ });
  packets.trim(63, 60);
  await guest.stop();
  // Its buffers are used up by and by, since nobody puts new ones there.
  let sent = 0;
  while (packets.count > 0) {
    const count = device.txBurst(0, packets);
    sent += count;
    if (count === 0) break;
    if (packets.count === 0) { for (let i = 0; i < 64; i++) packets.append(60).fill(0xff); }
  }
  assert.equal(device.stats().opackets, BigInt(sent));
  assert.ok(sent >= 64 && packets.count > 0, `${sent} sent, ${packets.count} left`);
  assert.equal(views[0]!.length, 0);
  assert.throws(() => packets.data(packets.count), RangeError);
  const left = packets.data(0);
  assert.equal(left.length, 60);
  packets.free();
  assert.equal(left.length, 0);
  assert.throws(() => packets.data(0), { message: "Cannot use packet 0: there are 0" });
});

for (const choice of ["packed_vq=0", "packed_vq=1,queue_size=100", "mrg_rxbuf=0,in_order=0"]) {
  Deno.test(`a device that serves and one that drives face each other, whoever comes and goes: ${choice}`, async () => {
    await using bench = new Bench();
    const here = start(bench.device("a"));
    await using there = start(EthDev.create(`virtio_user0,path=${bench.directory}/a,${choice},mac=52:54:00:00:00:09`));
    assert.equal(there.macAddr, "52:54:00:00:00:09");
    assert.equal(there.info().driver, "net_virtio_user");
    const packets = new Packets({ capacity: 64, checked: true });
    for (let round = 0; round < 3; round++) {
      await until(() => here.link.up && there.link.up);
      for (const [from, to] of [[here, there], [there, here]] as const) {
        for (let number = 0; number < 10; number++) packets.append(60 + 100 * number).fill(number);
        assert.equal(from.txBurst(0, packets), 10);
        assert.equal(to.rxBurst(0, packets), 10);
        for (let number = 0; number < 10; number++) {
          assert.deepEqual(packets.data(number), new Uint8Array(60 + 100 * number).fill(number));
        }
        packets.free();
      }
      const one = round === 0 ? there : here;
      one.stop();
      one.configure();
      assert.equal(one.link.up, false);
      await until(() => !here.link.up && !there.link.up);
      start(one);
    }
  });
}

/** A large packet, or one whose checksum is to be finished, to everybody. */
function appendOffloaded(packets: Packets, offload: "CKSUM" | "TCP_TSO" | "UDP_TSO"): void {
  const isTcp = offload !== "UDP_TSO";
  const bytes = packets.append(offload === "CKSUM" ? 1054 : 4054);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  bytes.set([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0, 0x45]);
  view.setUint16(16, bytes.length - 14);
  view.setUint8(23, isTcp ? 6 : 17);
  if (isTcp) view.setUint8(46, 0x50);
  else view.setUint16(38, bytes.length - 34);
  const type = { CKSUM: 0, TCP_TSO: 1, UDP_TSO: 5 }[offload];
  packets.header(0).set([1, type, 0, 0, ...type === 0 ? [0, 0] : [0xe8, 3], 34, 0, isTcp ? 16 : 6, 0]);
}

Deno.test("a device that drives takes the offloads it was configured with, into large buffers or many", async () => {
  await using bench = new Bench();
  const here = start(bench.device("a"));
  const packets = new Packets({ capacity: 16 });
  for (const mergeable of [0, 1]) {
    for (const offloads of [[], ["CKSUM"], ["CKSUM", "TCP_TSO"], ["CKSUM", "TCP_TSO", "UDP_TSO"]] as const) {
      await using there = EthDev.create(`virtio_user0,path=${bench.directory}/a,mrg_rxbuf=${mergeable}`);
      there.configure({ offloads, ...mergeable === 0 ? { rxBufferBytes: 65_562 } : {} });
      there.rxQueueSetup(0);
      there.txQueueSetup(0);
      there.start();
      await until(() => here.link.up && there.link.up);
      for (const offload of ["CKSUM", "TCP_TSO", "UDP_TSO"] as const) {
        appendOffloaded(packets, offload);
        assert.equal(here.txBurst(0, packets), 1);
        const count = there.rxBurst(0, packets);
        const taken = offload === "CKSUM" || offloads.some((one) => one === offload);
        assert.equal(count, taken ? 1 : offload === "UDP_TSO" ? 5 : 4, `${offload} with ${offloads}`);
        const partial = offloads.some((one) => one === "CKSUM");
        for (let index = 0; index < count; index++) assert.equal(packets.header(index)[0], partial ? 1 : 0);
        packets.free();
      }
      await there.close();
      await until(() => !here.link.up);
    }
  }
});

Deno.test("a burst that cannot be is refused", () => {
  for (const capacity of [0, 65, 1.5]) assert.throws(() => new Packets({ capacity }), RangeError);
  const packets = new Packets({ capacity: 2 });
  for (const bytes of [13, 70_000, 20.5]) assert.throws(() => packets.append(bytes), RangeError);
  packets.append(60).fill(1);
  assert.deepEqual(packets.header(0), new Uint8Array(12));
  for (const bytes of [13, 61, NaN]) assert.throws(() => packets.trim(0, bytes), RangeError);
  assert.throws(() => packets.data(-1), RangeError);
  packets.append(65_500).fill(2);
  assert.equal(packets.length(1), 65_500);
  assert.equal(packets.data(0)[59], 1);
});

/** Numbers of this process that must not grow. */
function footprint(): { fds: number; maps: number; resident_kib: number } {
  const status = Deno.readTextFileSync("/proc/self/status");
  return {
    fds: [...Deno.readDirSync("/proc/self/fd")].length,
    maps: Deno.readTextFileSync("/proc/self/maps").split("\n").length,
    resident_kib: Number(/^VmRSS:\s*(\d+)/m.exec(status)![1]),
  };
}

async function openAndClose(count: number): Promise<void> {
  const directory = Deno.makeTempDirSync();
  const devices = Array.from(
    { length: count },
    (_, number) => EthDev.create(`eth_vhost${number},iface=${directory}/${number}`),
  );
  for (const device of devices) start(device);
  assert.equal([...Deno.readDirSync(directory)].length, count);
  assert.ok(new Set(devices.map((device) => device.macAddr)).size === count);
  for (const device of devices) await device.close();
  assert.equal([...Deno.readDirSync(directory)].length, 0);
  await Deno.remove(directory);
}

Deno.test("1,024 devices open and close in one process, and nothing is left of them", async () => {
  await openAndClose(1024);
  const before = footprint();
  for (let round = 0; round < 3; round++) await openAndClose(1024);
  const after = footprint();
  assert.equal(after.fds, before.fds);
  // The runtime's own come and go, but not one for each of 3,072.
  assert.ok(after.maps < before.maps + 1024, `${before.maps} maps, then ${after.maps}`);
  assert.ok(
    after.resident_kib < before.resident_kib + 32 * 1024,
    `${before.resident_kib} KiB, then ${after.resident_kib}`,
  );
});

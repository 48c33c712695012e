/**
 * `vhostctl pmd-forward` in TypeScript: what the API costs, and how it is used.
 *
 *   ./scripts/deno run --allow-all bench/forward.ts [--mode io] [--burst 32] [--queues 1] [--txpkts 64] [--verbose]
 *     SOCKET...
 *
 * Forwards between two sockets, or from one to itself, until SIGINT or SIGTERM; then it prints each port's counters.
 * In the modes txonly and flowgen packets of ours, of `--txpkts` bytes, go to each guest.
 * With `--verbose` it also tells of queues that a guest switches.
 */

import { parseArgs } from "node:util";
import { EthDev, Packets, type QueueState } from "../mod.ts";
import { forwardModes, type Mode } from "./forward_modes.ts";
import { forwardSources, type Source } from "./forward_sources.ts";

const { values, positionals } = parseArgs({
  args: Deno.args,
  options: {
    mode: { type: "string", default: "io" },
    burst: { type: "string", default: "32" },
    queues: { type: "string", default: "1" },
    txpkts: { type: "string", default: "64" },
    verbose: { type: "boolean", default: false },
  },
  allowPositionals: true,
});

const queues = Number(values.queues);
const capacity = Number(values.burst);

function open(socket: string, number: number): EthDev {
  const tell = (state: QueueState) => {
    if (values.verbose) console.log(JSON.stringify({ event: "queue", port: device.info().name, ...state }));
  };
  const device = EthDev.create(`eth_vhost${number},iface=${socket},queues=${queues}`, { queue: tell });
  device.configure({ rxQueues: queues, txQueues: queues });
  for (let queue = 0; queue < queues; queue++) {
    device.rxQueueSetup(queue);
    device.txQueueSetup(queue);
  }
  device.start();
  return device;
}

function bytesOf(macAddr: string): Uint8Array {
  return Uint8Array.from(macAddr.split(":"), (byte) => parseInt(byte, 16));
}

/** What is done to packets for a port, or to make some. Neither for `io`, which looks at no packet. */
function waysOf(to: EthDev, number: number): { mode: Mode | undefined; source: Source | undefined } {
  const [own, peer] = [bytesOf(to.macAddr), Uint8Array.of(2, 0, 0, 0, 0, number)];
  const modes = forwardModes(own, peer);
  const sources = forwardSources(own, peer, Number(values.txpkts));
  const names = ["io", ...Object.keys(modes), ...Object.keys(sources)];
  if (!names.includes(values.mode)) throw new Error(`unknown mode: ${values.mode}: choose from ${names.join(", ")}`);
  return { mode: modes[values.mode], source: sources[values.mode] };
}

/** Moves one burst. What the mode stops, and what finds no buffer, is dropped. */
function move(from: EthDev, to: EthDev, queue: number, packets: Packets, mode: Mode | undefined): void {
  const count = from.rxBurst(queue, packets);
  if (mode === undefined) {
    if (count > 0) to.txBurst(queue, packets);
    return;
  }
  const goesOn = Array.from({ length: count }, (_, i) => mode({ data: packets.data(i), header: packets.header(i) }));
  packets.keep((index) => goesOn[index]!);
  to.txBurst(queue, packets);
}

/** Gives a guest a burst of ours, and returns how many it had buffers for; the others go with the next one. */
function send(device: EthDev, queue: number, source: Source, ours: Packets): number {
  source(ours);
  if (values.mode === "flowgen") device.rxBurst(queue, packets);
  return device.txBurst(queue, ours);
}

if (positionals.length === 0) throw new Error("no port: name a socket, or several");
const devices = positionals.map(open);
const routes = devices.map((from, number) => {
  const isOwn = ["icmpecho", "txonly", "flowgen"].includes(values.mode);
  const target = isOwn ? number : Math.min(number ^ 1, devices.length - 1);
  return { from, to: devices[target]!, ours: new Packets({ capacity }), ...waysOf(devices[target]!, target) };
});
const signals = ["SIGINT", "SIGTERM"] as const;
/** Who asks a second time is not kept waiting. */
function stop(): void {
  for (const signal of signals) Deno.removeSignalListener(signal, stop);
  devices.forEach((device) => device.stop());
}
for (const signal of signals) Deno.addSignalListener(signal, stop);
console.log(JSON.stringify({ event: "ready" }));

/** Of our own packets, in the last round. */
let sentLast = 0;

/** A guest does not tell of new buffers while there are some: without any, we look again every millisecond. */
async function buffersReady(): Promise<boolean> {
  await new Promise<void>((resolve) => sentLast > 0 ? setImmediate(resolve) : setTimeout(resolve, 1));
  sentLast = 0;
  return devices.every((device) => device.info().state === "started");
}

const packets = new Packets({ capacity });
const sends = routes.some(({ source }) => source !== undefined);
while (sends ? await buffersReady() : await EthDev.rxReady(...devices)) {
  for (const { from, to, ours, mode, source } of routes) {
    for (let queue = 0; queue < queues; queue++) {
      if (source === undefined) move(from, to, queue, packets, mode);
      else sentLast += send(to, queue, source, ours);
    }
  }
}
for (const device of devices) {
  const counters = Object.entries(device.stats()).map(([name, value]) => [name, Number(value)]);
  console.log(JSON.stringify({ event: "stats", port: device.info().name, ...Object.fromEntries(counters) }));
  await device.close();
}

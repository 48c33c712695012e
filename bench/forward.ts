/**
 * `vhostctl pmd-forward` in TypeScript: what the API costs, and how it is used.
 *
 *   ./scripts/deno run --allow-all bench/forward.ts [--mode io] [--burst 32] [--queues 1] [--verbose] SOCKET...
 *
 * Forwards between two sockets, or from one to itself, until SIGINT or SIGTERM; then it prints each port's counters.
 * With `--verbose` it also tells of queues that a guest switches.
 */

import { parseArgs } from "node:util";
import { EthDev, Packets, type QueueState } from "../mod.ts";
import { forwardModes, type Mode } from "./forward_modes.ts";

const { values, positionals } = parseArgs({
  args: Deno.args,
  options: {
    mode: { type: "string", default: "io" },
    burst: { type: "string", default: "32" },
    queues: { type: "string", default: "1" },
    verbose: { type: "boolean", default: false },
  },
  allowPositionals: true,
});

const queues = Number(values.queues);

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

/** Undefined for `io`, which looks at no packet. */
function modeOf(to: EthDev, number: number): Mode | undefined {
  const modes = forwardModes(bytesOf(to.macAddr), Uint8Array.of(2, 0, 0, 0, 0, number));
  if (values.mode !== "io" && !Object.hasOwn(modes, values.mode)) {
    throw new Error(`unknown mode: ${values.mode}: choose from io, ${Object.keys(modes).join(", ")}`);
  }
  return modes[values.mode];
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

if (positionals.length === 0) throw new Error("no port: name a socket, or several");
const devices = positionals.map(open);
const routes = devices.map((from, number) => {
  const target = values.mode === "icmpecho" ? number : Math.min(number ^ 1, devices.length - 1);
  return { from, to: devices[target]!, mode: modeOf(devices[target]!, target) };
});
const signals = ["SIGINT", "SIGTERM"] as const;
/** Who asks a second time is not kept waiting. */
function stop(): void {
  for (const signal of signals) Deno.removeSignalListener(signal, stop);
  devices.forEach((device) => device.stop());
}
for (const signal of signals) Deno.addSignalListener(signal, stop);
console.log(JSON.stringify({ event: "ready" }));

const packets = new Packets({ capacity: Number(values.burst) });
while (await EthDev.rxReady(...devices)) {
  for (const { from, to, mode } of routes) {
    for (let queue = 0; queue < queues; queue++) move(from, to, queue, packets, mode);
  }
}
for (const device of devices) {
  const counters = Object.entries(device.stats()).map(([name, value]) => [name, Number(value)]);
  console.log(JSON.stringify({ event: "stats", port: device.info().name, ...Object.fromEntries(counters) }));
  await device.close();
}

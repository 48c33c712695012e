/**
 * `tso-test --socket A --socket B`: two guests are joined, and what they send is watched.
 *
 * Every frame passes through this program's own hands, so a busy guest is slower here than at `serve`.
 *
 * @module
 */
import { setImmediate } from "node:timers";
import { DevargsError, EthDev, Packets, type PortEvent } from "../mod.ts";
import { CommandError, UsageError } from "./error.ts";
import { type ChecksumFinding, checksumFinding } from "./frame_look.ts";
import { type Column, Output, quantity, table } from "./output.ts";
import { planPorts } from "./port_option.ts";
import { findQemu } from "./qemu_arguments.ts";
import { announce } from "./serve.ts";
import { ServeReport } from "./serve_report.ts";
import { stoppable } from "./stoppable.ts";
import { commandError, openingError } from "./switch_server.ts";

/** What one guest sent. */
export interface Watched {
  readonly guest: string;
  packets: number;
  bytes: number;
  longest_bytes: number;
  /** Left to be cut by whoever is behind: packets, bytes, and packets of each kind. */
  gso_packets: number;
  gso_bytes: number;
  readonly gso_kinds: Record<string, number>;
  /** Left to be finished, in packets that are to be cut or not; else as they were found. */
  readonly checksums: Record<"left" | ChecksumFinding, number>;
  /** Found no buffer at the other guest, or no guest. */
  lost: number;
}

/** A guest that takes nothing holds its peer up for so long, and then loses packets. */
const patience_ms = 20;
const look_ms = 1000;
const needsChecksum = 1;
const ecnBit = 0x80;
const gsoKinds: Record<number, string> = { 1: "TSO4", 3: "UFO", 4: "TSO6", 5: "USO" };

const columns: readonly Column[] = [
  { title: "GUEST" },
  ...["PACKETS", "BYTES", "LONGEST", "TO BE CUT"].map((title): Column => ({ title, align: "right" })),
  { title: "KINDS" },
  ...["SUMS LEFT", "RIGHT", "WRONG", "NONE"].map((title): Column => ({ title, align: "right" })),
];

export function watched(guest: string): Watched {
  const checksums = { left: 0, right: 0, wrong: 0, none: 0 };
  return {
    guest,
    packets: 0,
    bytes: 0,
    longest_bytes: 0,
    gso_packets: 0,
    gso_bytes: 0,
    gso_kinds: {},
    checksums,
    lost: 0,
  };
}

/** Counts one frame by its virtio-net header and its bytes. */
export function look(watch: Watched, header: Uint8Array, frame: Uint8Array): void {
  const [flags = 0, type = 0] = header;
  watch.packets++;
  watch.bytes += frame.length;
  watch.longest_bytes = Math.max(watch.longest_bytes, frame.length);
  if (type !== 0) {
    const kind = gsoKinds[type & ~ecnBit] ?? "other";
    watch.gso_packets++;
    watch.gso_bytes += frame.length;
    watch.gso_kinds[kind] = (watch.gso_kinds[kind] ?? 0) + 1;
  }
  watch.checksums[(flags & needsChecksum) !== 0 ? "left" : checksumFinding(frame)]++;
}

function watchTable(watches: readonly Watched[]): string[] {
  return table(
    columns,
    watches.map(({ guest, packets, bytes, longest_bytes, gso_bytes, gso_kinds, checksums }) => [
      ...[guest, quantity(packets), quantity(bytes), `${longest_bytes}`],
      bytes > 0 ? `${(100 * gso_bytes / bytes).toFixed(1)} % of bytes` : "",
      Object.entries(gso_kinds).map(([kind, count]) => `${quantity(count)} ${kind}`).join(", "),
      ...[checksums.left, checksums.right, checksums.wrong, checksums.none].map(quantity),
    ]),
  );
}

function createGuest(name: string, socket: string, happened: (event: PortEvent) => void): EthDev {
  try {
    return EthDev.create(`${name},iface=${socket}`, { happened });
  } catch (error) {
    throw error instanceof DevargsError ? new UsageError(error.message) : openingError(error);
  }
}

function startGuest(device: EthDev): void {
  device.configure();
  device.rxQueueSetup(0);
  device.txQueueSetup(0);
  try {
    device.start();
  } catch (error) {
    throw commandError(error);
  }
}

/** Gives away all that is in `packets`. */
async function give(packets: Packets, to: EthDev, watch: Watched, stop: AbortSignal): Promise<void> {
  const deadline = performance.now() + patience_ms;
  while (packets.count > 0 && !stop.aborted) {
    if (to.link.up && to.txBurst(0, packets) > 0) continue;
    if (!to.link.up || performance.now() > deadline) {
      watch.lost += packets.count;
      packets.free();
    } else {
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
  }
}

/** What comes from one guest goes to the other, until that is stopped. */
async function join(from: EthDev, to: EthDev, watch: Watched, stop: AbortSignal): Promise<void> {
  const packets = new Packets({ capacity: 32 });
  while (await EthDev.rxReady(from) && !stop.aborted) {
    from.rxBurst(0, packets);
    for (let index = 0; index < packets.count; index++) look(watch, packets.header(index), packets.data(index));
    await give(packets, to, watch, stop);
  }
}

/** Serves both until a signal comes, or nobody reads what is told; returns what they sent. */
async function watchBoth(sockets: readonly string[], output: Output, report: ServeReport, stop: AbortSignal) {
  const options = sockets.map((socket, number) => ({ name: `eth_vhost${number}`, socket }));
  const ports = planPorts(options, { directory: "/", queuePairs: 1, workingDirectory: Deno.cwd() });
  await using stack = new AsyncDisposableStack();
  const devices = ports.map(({ name, socket }) =>
    stack.use(createGuest(name, socket, (event) => report.happened(event)))
  );
  devices.forEach(startGuest);
  announce(report, ports, await findQemu(), false);
  const watches = ports.map(({ name }) => watched(name));
  const timer = setInterval(() => report.live && output.frame(["", ...watchTable(watches)]), look_ms);
  const end = () => devices.forEach((device) => device.stop());
  stop.addEventListener("abort", end);
  if (stop.aborted) end();
  const [first, second] = devices as [EthDev, EthDev];
  await Promise.all([
    join(first, second, watches[0]!, stop),
    join(second, first, watches[1]!, stop),
  ]);
  clearInterval(timer);
  return watches;
}

/** Watches two guests, and says what they sent. Throws a `CommandError` where a checksum was wrong. */
export async function watchGuests(sockets: readonly string[], json: boolean): Promise<void> {
  const output = Output.standard();
  const report = new ServeReport(output, json);
  try {
    const watches = await stoppable((stop) =>
      watchBoth(sockets, output, report, AbortSignal.any([stop, output.broken]))
    );
    output.frame([]);
    report.note({ event: "summary", guests: watches }, ...watchTable(watches));
    const wrong = watches.find(({ checksums }) => checksums.wrong > 0);
    if (wrong === undefined) return;
    throw new CommandError(`wrong checksums from ${wrong.guest}: ${wrong.checksums.wrong}: see what its driver says`);
  } finally {
    await output.close();
  }
}

/**
 * What `serve` prints: events as they come, rates every so often, and totals at the end.
 *
 * @module
 */
import {
  describeEvent,
  type Direction,
  portDrops,
  type PortEvent,
  portRate,
  type PortSample,
  type PortState,
  type Rate,
  type WorkerStats,
} from "../mod.ts";
import { type Column, fit, type Output, quantity, table, terminalSize } from "./output.ts";

/** Everything that is counted, at one moment. */
export interface Snapshot {
  /** Milliseconds of a steady clock. */
  readonly time_ms: number;
  readonly ports: readonly PortSample[];
  readonly workers: readonly WorkerStats[];
}

const rateColumns: Column[] = [
  { title: "PORT" },
  { title: "STATE" },
  { title: "QUEUES", align: "right" },
  { title: "TO GUEST pkt/s", align: "right" },
  { title: "bit/s", align: "right" },
  { title: "FROM GUEST pkt/s", align: "right" },
  { title: "bit/s", align: "right" },
  { title: "DROPS/s" },
];

const totalColumns: Column[] = [
  { title: "PORT" },
  { title: "TO GUEST packets", align: "right" },
  { title: "bytes", align: "right" },
  { title: "FROM GUEST packets", align: "right" },
  { title: "bytes", align: "right" },
  { title: "DROPS" },
];

const stateStyles = { waiting: "dim", connected: "yellow", running: "green", broken: "red" } as const satisfies Record<
  PortState,
  string
>;

function dropText(list: readonly [string, number][], seconds: number): string {
  return list.map(([reason, packets]) => `${quantity(packets / seconds)} ${reason.replaceAll("_", " ")}`).join(", ");
}

/** The share of a worker's time that went into bursts with packets. A sleeping worker does not count its cycles. */
function busy(now: WorkerStats, before: WorkerStats): number {
  const cycles = Number(now.busy_cycles - before.busy_cycles);
  const all = Math.max(Number(now.cycles - before.cycles), cycles);
  return all === 0 ? 0 : cycles / all;
}

/** A snapshot's rates against one before, as objects and as lines. */
function rates(now: Snapshot, before: Snapshot) {
  const seconds = (now.time_ms - before.time_ms) / 1000;
  const ports = now.ports.map((port, index) => {
    const earlier = before.ports[index]!;
    const of = (direction: Direction): Rate => portRate(port, earlier, direction, seconds);
    return { port, toGuest: of("toGuest"), fromGuest: of("fromGuest"), drops: portDrops(port, earlier) };
  });
  return { seconds, ports, workers: now.workers.map((worker, index) => busy(worker, before.workers[index]!)) };
}

type Rates = ReturnType<typeof rates>;

function rateRow({ port, toGuest, fromGuest, drops }: Rates["ports"][number], seconds: number): string[] {
  return [
    port.port,
    port.reason === undefined ? port.state : `${port.state}: ${port.reason}`,
    `${port.queuePairsUp}/${port.queuePairs}`,
    quantity(toGuest.packetsPerSecond),
    quantity(toGuest.bitsPerSecond),
    quantity(fromGuest.packetsPerSecond),
    quantity(fromGuest.bitsPerSecond),
    dropText(drops, seconds),
  ];
}

function jsonRate({ packetsPerSecond, bitsPerSecond }: Rate) {
  return { packets_per_second: Math.round(packetsPerSecond), gbps: Number((bitsPerSecond / 1e9).toFixed(6)) };
}

/** A port and its counters, as `--json` has them. */
export function jsonPort({ port, state, reason, queuePairsUp, queuePairs, counters }: PortSample) {
  const queues = { queue_pairs_up: queuePairsUp, queue_pairs: queuePairs };
  return { port, state, reason, ...queues, to_guest: counters.toGuest, from_guest: counters.fromGuest };
}

/** Prints for one run of `serve`. */
export class ServeReport {
  readonly #output: Output;
  readonly #json: boolean;
  readonly #live: boolean;
  /** Hears every object, whatever is printed. */
  readonly #heard: (object: object) => void;
  #before: Snapshot | undefined;

  /** @param json One object a line instead of text and table. */
  constructor(output: Output, json: boolean, heard: (object: object) => void = () => {}) {
    this.#output = output;
    this.#json = json;
    this.#heard = heard;
    this.#live = output.terminal && !json;
  }

  /** Whether rates are drawn in place, so that they may come unasked. */
  get live(): boolean {
    return this.#live;
  }

  /** Resolves when all that was told so far has been delivered. */
  get delivered(): Promise<void> {
    return this.#output.delivered;
  }

  /** Lines for people, `object` for programs. */
  note(object: { readonly event: string; readonly [key: string]: unknown }, ...lines: readonly string[]): void {
    const timed = { time: new Date().toISOString(), ...object };
    this.#heard(timed);
    if (this.#json) this.#output.json(timed);
    else if (lines.length > 0) this.#output.line(...lines);
  }

  happened(event: PortEvent): void {
    this.note(event, describeEvent(event));
  }

  /** Takes in a snapshot; prints the rates since the one before, if there is one. */
  rates(now: Snapshot): void {
    const before = this.#before;
    this.#before = now;
    if (before === undefined) return;
    const current = rates(now, before);
    if (this.#json) this.#jsonRates(current);
    else if (this.#live) this.#output.frame(this.#frame(current));
    else this.#output.line(...this.#rateLines(current));
  }

  #jsonRates({ seconds, ports, workers }: Rates): void {
    this.note({
      event: "stats",
      ...{ seconds: Number(seconds.toFixed(3)) },
      ...{
        ports: ports.map(({ port, toGuest, fromGuest }) => ({
          ...jsonPort(port),
          rates: { to_guest: jsonRate(toGuest), from_guest: jsonRate(fromGuest) },
        })),
        workers: workers.map((share) => ({ busy: Number(share.toFixed(4)) })),
      },
    });
  }

  #rateLines({ seconds, ports, workers }: Rates): string[] {
    const shares = workers.map((share) => `${Math.round(100 * share)} %`).join(" ");
    return [...table(rateColumns, ports.map((port) => rateRow(port, seconds))), `workers busy: ${shares}`];
  }

  /** As many ports as the terminal has room for: those with traffic first, else in their order. */
  #frame({ seconds, ports, workers }: Rates): string[] {
    const { rows, columns } = terminalSize();
    const room = Math.max(1, rows - 5);
    const traffic = ({ toGuest, fromGuest }: Rates["ports"][number]) =>
      toGuest.packetsPerSecond + fromGuest.packetsPerSecond;
    const shown = ports.length <= room ? ports : ports.toSorted((one, other) => traffic(other) - traffic(one));
    const visible = shown.slice(0, room);
    const [head, ...lines] = this.#rateLines({ seconds, ports: visible, workers }).map((line) => fit(line, columns));
    const styled = lines.map((line, index) => {
      const state = visible[index]?.port.state;
      return state === undefined ? this.#output.style("dim", line) : this.#paint(line, state);
    });
    const rest = ports.length - visible.length;
    const more = rest > 0 ? [this.#output.style("dim", `and ${rest} ports with less traffic`)] : [];
    return ["", this.#output.style("bold", head ?? ""), ...styled, ...more];
  }

  /** Colours the word of the state, after widths were measured. */
  #paint(line: string, state: PortState): string {
    return line.replace(
      /^(\S+\s+)([^\s:]+)/,
      (_, name: string, word: string) => name + this.#output.style(stateStyles[state], word),
    );
  }

  /** Totals since the start, as a table for people, if that is wanted. */
  summary(now: Snapshot, started_ms: number, { asTable = true } = {}): void {
    const seconds = (now.time_ms - started_ms) / 1000;
    const rows = now.ports.map((port) => {
      const { toGuest, fromGuest } = port.counters;
      const numbers = [toGuest.packets, toGuest.bytes, fromGuest.packets, fromGuest.bytes].map(String);
      return [
        port.port,
        ...numbers,
        portDrops(port).map(([reason, packets]) => `${packets} ${reason.replaceAll("_", " ")}`).join(", "),
      ];
    });
    const counters = { ports: now.ports.map(jsonPort), workers: now.workers };
    const object = { event: "summary", seconds: Number(seconds.toFixed(3)), ...counters };
    this.note(object, ...asTable ? [`stopped after ${seconds.toFixed(1)} s`, ...table(totalColumns, rows)] : []);
  }
}

/**
 * The outages of each port together, and whether one was too long.
 *
 * @module
 */
import type { Outage, Phase, PortTimeline } from "./outage_timeline.ts";
import { type Column, duration, table } from "./output.ts";
import type { Way } from "./port_look.ts";
import { quantile } from "./statistics.ts";

/** Of one port; null where there was no outage. */
export interface PortOutages {
  readonly port: string;
  readonly outages: number;
  readonly median_ms: number | null;
  readonly worst_ms: number | null;
  readonly total_ms: number;
  /** How long the last one has lasted, which is counted above; null: it is over. */
  readonly lasting_ms: number | null;
  /** The longest time from an outage's beginning to the first packet. */
  readonly traffic_worst_ms: Readonly<Record<Way, number | null>>;
  /** Starts of rings that were not heard of: there may have been as many outages more. */
  readonly unheard_starts: number;
  /** Frames that were given back when rings started. */
  readonly recovered: number;
}

const columns: readonly Column[] = [
  { title: "PORT" },
  ...["OUTAGES", "MEDIAN", "WORST", "TOTAL", "FIRST PACKET to guest", "from guest", "RECOVERED"].map(
    (title): Column => ({ title, align: "right" }),
  ),
  { title: "" },
];

function worst(values: readonly number[]): number | null {
  return values.length === 0 ? null : Math.max(...values);
}

/** Up to now. */
export function portOutages({ port, outages, unheard, recovered }: PortTimeline, now_ms: number): PortOutages {
  const lengthOf = ({ length_ms, began_ms }: Outage) => length_ms ?? Math.max(0, now_ms - began_ms);
  const lengths = outages.map(lengthOf);
  const last = outages.at(-1);
  const traffic = (way: Way) => worst(outages.flatMap(({ traffic_ms }) => traffic_ms[way] ?? []));
  return {
    port,
    outages: outages.length,
    median_ms: lengths.length === 0 ? null : quantile(lengths, 0.5),
    worst_ms: worst(lengths),
    total_ms: lengths.reduce((sum, length) => sum + length, 0),
    lasting_ms: last === undefined || last.length_ms !== undefined ? null : lengthOf(last),
    traffic_worst_ms: { to_guest: traffic("to_guest"), from_guest: traffic("from_guest") },
    unheard_starts: unheard,
    recovered,
  };
}

const stateColumns: readonly Column[] = [
  { title: "PORT" },
  { title: "STATE" },
  ...["FOR", "OUTAGES", "WORST"].map((title): Column => ({ title, align: "right" })),
];

const stateNames: Readonly<Record<Phase, string>> = {
  new: "",
  waiting: "waiting",
  connected: "connected",
  stopped: "stopped",
  running: "running",
  lost: "serve gone",
};

/** A row for each port as it is now. */
export function stateTable(timelines: readonly PortTimeline[], now_ms: number): string[] {
  const row = (timeline: PortTimeline) => {
    const { name, since_ms } = timeline.phase;
    const { outages, worst_ms, lasting_ms } = portOutages(timeline, now_ms);
    const state = `${stateNames[name]}${lasting_ms === null ? "" : ", out"}`;
    return [
      timeline.port,
      state,
      duration(lasting_ms ?? Math.max(0, now_ms - since_ms)),
      `${outages}`,
      length(worst_ms),
    ];
  };
  return table(stateColumns, timelines.map(row));
}

function length(value_ms: number | null): string {
  return value_ms === null ? "-" : duration(value_ms);
}

/** A row for each port. */
export function outageTable(ports: readonly PortOutages[]): string[] {
  const row = (port: PortOutages) => [
    ...[port.port, String(port.outages), length(port.median_ms), length(port.worst_ms), duration(port.total_ms)],
    ...[length(port.traffic_worst_ms.to_guest), length(port.traffic_worst_ms.from_guest), String(port.recovered)],
    [
      ...port.lasting_ms === null ? [] : [`still out, for ${duration(port.lasting_ms)}`],
      ...port.unheard_starts === 0 ? [] : [`${port.unheard_starts} starts more, too fast to be told`],
    ].join("; "),
  ];
  return table(columns, ports.map(row));
}

/** Which port had an outage that is longer than allowed; undefined: none. */
export function tooLong(ports: readonly PortOutages[], most_ms: number): string | undefined {
  const [port] = ports.filter(({ worst_ms }) => worst_ms !== null && worst_ms > most_ms)
    .toSorted((one, other) => other.worst_ms! - one.worst_ms!);
  if (port === undefined) return undefined;
  const lasts = port.lasting_ms === port.worst_ms ? ", and it lasts" : "";
  return `outage of ${port.port} too long: ${port.worst_ms} ms${lasts}: --max-outage allows ${most_ms} ms`;
}

/**
 * The timelines of all ports that `reconnect-watch` sees, and what it prints of them.
 *
 * @module
 */
import type { PortEvent } from "../mod.ts";
import type { Moment } from "./outage_moment.ts";
import { outageTable, type PortOutages, portOutages, stateTable, tooLong } from "./outage_summary.ts";
import { momentStyle, momentText } from "./outage_text.ts";
import { PortTimeline } from "./outage_timeline.ts";
import { fit, type Output, terminalSize } from "./output.ts";
import type { LookedLife, PortLook } from "./port_look.ts";

/** Room for names in front of a line. */
const nameWidth = 6;

/** Lines of a terminal that are not for ports. */
const frameRows = 5;

/** From the first moment to the summary. Times are the host's, in milliseconds since 1970. */
export class OutageReport {
  readonly #output: Output;
  readonly #json: boolean;
  readonly #begun_ms = Date.now();
  readonly #timelines = new Map<string, PortTimeline>();
  /** Told as missing, and not there since. */
  readonly #missing = new Set<string>();
  #nameWidth = nameWidth;

  /** @param json One object a line instead of text. */
  constructor(output: Output, json: boolean) {
    this.#output = output;
    this.#json = json;
  }

  /** Whether a look soon would tell more. */
  get isCurious(): boolean {
    return [...this.#timelines.values()].some((timeline) => timeline.isCurious);
  }

  /** For people alone: prints lines as they are. */
  hint(...lines: readonly string[]): void {
    if (!this.#json && lines.length > 0) this.#output.line(...lines);
  }

  /** Prints one moment. */
  tell(moment: Moment): void {
    const { time_ms, ...rest } = moment;
    const seconds = Math.max(0, time_ms - this.#begun_ms) / 1000;
    if (this.#json) return this.#output.json({ time: new Date(time_ms).toISOString(), seconds, ...rest });
    const [who, text] = momentText(moment);
    const style = momentStyle(moment);
    const head = this.#output.style("dim", `${seconds.toFixed(3).padStart(9)} s`);
    this.#output.line(
      `${head}  ${who.padEnd(this.#nameWidth)}  ${style === undefined ? text : this.#output.style(style, text)}`,
    );
  }

  /** Something was told of a port. */
  happened(event: PortEvent, time_ms: number): void {
    const timeline = this.#timelines.get(event.port);
    if (timeline === undefined) this.tell({ ...event, time_ms });
    else this.#tellAll(timeline.happened(event, time_ms));
  }

  /** All ports were looked at. Those without a front end that comes and goes are left out. */
  looked(looks: readonly PortLook[]): void {
    const watched = looks.filter((look): look is PortLook & { life: LookedLife } => look.life !== undefined);
    this.#nameWidth = Math.max(this.#nameWidth, ...watched.map(({ port }) => port.length));
    const moments = watched.flatMap((look) => this.#timelineOf(look.port).looked(look));
    this.#tellAll(moments.toSorted((one, other) => one.time_ms - other.time_ms));
    this.#lookForMissing(new Set(watched.map(({ port }) => port)));
  }

  /** Whoever serves the ports has gone. Returns those that are out. */
  lost(time_ms: number): string[] {
    return [...this.#timelines.values()].filter((timeline) => timeline.lost(time_ms)).map(({ port }) => port);
  }

  /** On a terminal, shows how the ports are, below the lines. Those that are out come first. */
  draw(): void {
    if (!this.#output.terminal || this.#json || this.#timelines.size === 0) return;
    const { rows, columns } = terminalSize();
    const isOut = ({ outages }: PortTimeline) => outages.at(-1)?.length_ms === undefined && outages.length > 0;
    const timelines = [...this.#timelines.values()].toSorted((one, other) => Number(isOut(other)) - Number(isOut(one)));
    const shown = timelines.slice(0, Math.max(1, rows - frameRows));
    const [head = "", ...lines] = stateTable(shown, Date.now()).map((line) => fit(line, columns));
    const styled = lines.map((line, index) => isOut(shown[index]!) ? this.#output.style("red", line) : line);
    const rest = timelines.length - shown.length;
    const more = rest > 0 ? [this.#output.style("dim", `and ${rest} more`)] : [];
    this.#output.frame(["", this.#output.style("bold", head), ...styled, ...more]);
  }

  /** Prints the sums, and returns what is wrong with them, if `most_ms` is given. */
  summary(most_ms: number | undefined): string | undefined {
    this.#output.frame([]);
    const now_ms = Date.now();
    const ports = [...this.#timelines.values()].map((timeline) => portOutages(timeline, now_ms));
    const wrong = most_ms === undefined ? undefined : tooLong(ports, most_ms);
    if (this.#json) this.#jsonSummary(now_ms, ports, wrong);
    else if (ports.length > 0) this.#output.line("", ...outageTable(ports));
    return wrong;
  }

  #jsonSummary(now_ms: number, ports: readonly PortOutages[], wrong: string | undefined): void {
    const seconds = (now_ms - this.#begun_ms) / 1000;
    const verdict = { ok: wrong === undefined, ...wrong === undefined ? {} : { reason: wrong } };
    this.#output.json({ time: new Date(now_ms).toISOString(), seconds, event: "summary", ports, ...verdict });
  }

  #timelineOf(port: string): PortTimeline {
    const known = this.#timelines.get(port);
    if (known !== undefined) return known;
    const timeline = new PortTimeline(port);
    this.#timelines.set(port, timeline);
    return timeline;
  }

  #lookForMissing(present: ReadonlySet<string>): void {
    for (const port of this.#timelines.keys()) {
      if (present.has(port)) this.#missing.delete(port);
      else if (!this.#missing.has(port)) {
        this.#missing.add(port);
        this.tell({ time_ms: Date.now(), event: "missing", port });
      }
    }
  }

  #tellAll(moments: readonly Moment[]): void {
    for (const moment of moments) this.tell(moment);
  }
}

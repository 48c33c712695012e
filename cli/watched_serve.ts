/**
 * The ports of a running `serve`, through its control socket: what is watched with `reconnect-watch --attach`.
 *
 * @module
 */
import { pauseAfter, type PortEvent } from "../mod.ts";
import { answerCharactersMax } from "./control_client.ts";
import { linesOf, sendLine } from "./lines.ts";
import { LookTimer } from "./look_timer.ts";
import type { OutageReport } from "./outage_report.ts";
import { pauseUnless } from "./pause.ts";
import type { PortLook } from "./port_look.ts";
import { connect, whyUnreachable } from "./socket_address.ts";

/** One that takes longer to answer is told of. */
const silence_ms = 2000;
/** What a look shows, too: told before the first look, it would count twice. */
const seenInLooks: readonly string[] = ["waiting", "connected", "started", "stopped", "disconnected", "recovered"];

type Answer =
  & { readonly return?: unknown; readonly error?: string }
  & { readonly event?: string; readonly time?: string; readonly port?: string };

/** One connection to its control socket. */
class Conversation {
  readonly #connection: Deno.Conn;
  readonly #report: OutageReport;
  readonly #timer: LookTimer;
  /** Ports were looked at. */
  #attached = false;
  #asked_ms = 0;
  #silence: ReturnType<typeof setTimeout> | undefined;
  #silent = false;
  /** It has gone, or was left. */
  #gone = false;

  constructor(connection: Deno.Conn, report: OutageReport) {
    this.#connection = connection;
    this.#report = report;
    this.#timer = new LookTimer(() => this.#ask(), () => report.isCurious);
  }

  get attached(): boolean {
    return this.#attached;
  }

  /** Listens until it ends, by itself or by `leave`; returns why. Never throws. */
  async follow(): Promise<string> {
    let reason = "it closed the connection";
    try {
      await sendLine(this.#connection, { command: "events" });
      this.#ask();
      for await (const line of linesOf(this.#connection, answerCharactersMax)) {
        const answer = parse(line);
        const refusal = answer === undefined ? "it does not answer as vhostctl serve does" : this.#take(answer);
        if (refusal === undefined) continue;
        reason = refusal;
        break;
      }
    } catch {
      // A reset is as good an end as any.
    }
    clearTimeout(this.#silence);
    this.#timer[Symbol.dispose]();
    this.#close();
    if (this.#attached) this.#lose(Date.now(), reason);
    return reason;
  }

  /** Nothing more is told. */
  leave(): void {
    this.#gone = true;
    this.#close();
  }

  #close(): void {
    try {
      this.#connection.close();
    } catch (reason) {
      if (!(reason instanceof Deno.errors.BadResource)) throw reason;
    }
  }

  #ask(): void {
    this.#asked_ms = performance.now();
    this.#silence = setTimeout(() => {
      this.#silent = true;
      this.#report.tell({ time_ms: Date.now(), event: "serve_silent", seconds: silence_ms / 1000 });
    }, silence_ms);
    // Where it cannot be sent, reading fails as well.
    sendLine(this.#connection, { command: "ports" }).catch(() => {});
  }

  /** Returns why there is no sense in going on, if there is none. */
  #take(answer: Answer): string | undefined {
    if (answer.error !== undefined) return answer.error;
    if (Array.isArray(answer.return)) return this.#look(answer.return);
    if (answer.event === "summary") this.#lose(timeOf(answer), "it was stopped");
    else if (answer.port !== undefined && answer.event !== "port") this.#hear(answer);
    return undefined;
  }

  #hear(answer: Answer): void {
    if (!this.#attached && seenInLooks.includes(answer.event ?? "")) return;
    const { time: _, ...event } = answer;
    this.#report.happened(event as PortEvent, timeOf(answer));
    this.#timer.hurry();
  }

  #look(looks: readonly PortLook[]): string | undefined {
    clearTimeout(this.#silence);
    const time_ms = Date.now();
    if (looks.some(({ socket, life }) => socket !== undefined && life === undefined)) {
      return "it is an older vhostctl, which does not tell when things happened: restart it";
    }
    if (!this.#attached) this.#report.tell({ time_ms, event: "serve_attached", ports: looks.length });
    this.#attached = true;
    if (this.#silent) {
      const seconds = Math.round((performance.now() - this.#asked_ms) / 100) / 10;
      this.#report.tell({ time_ms, event: "serve_answers", seconds });
    }
    this.#silent = false;
    if (!this.#gone) this.#report.looked(looks);
    this.#timer.again();
    return undefined;
  }

  /** It says so itself when it is stopped, before it turns anybody out; one that is killed does not. */
  #lose(time_ms: number, reason: string): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#report.tell({ time_ms, event: "serve_gone", reason, outages: this.#report.lost(time_ms) });
  }
}

function parse(line: string): Answer | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}

function timeOf({ time }: Answer): number {
  return Date.parse(time ?? "") || Date.now();
}

/** Tells of all ports, and comes back when `serve` does, until that is stopped. */
export async function watchServe(control: string, report: OutageReport, stop: AbortSignal): Promise<void> {
  let failures = 0;
  let told: string | undefined;
  while (!stop.aborted) {
    const { attached, reason } = await converse(control, report, stop);
    if (stop.aborted) return;
    failures = attached ? 0 : failures + 1;
    if (!attached && reason !== told) report.tell({ time_ms: Date.now(), event: "serve_waiting", control, reason });
    told = attached ? undefined : reason;
    await pauseUnless(stop, pauseAfter(failures));
  }
}

async function converse(control: string, report: OutageReport, stop: AbortSignal) {
  let connection: Deno.Conn;
  try {
    connection = await connect({ transport: "unix", path: control });
  } catch (error) {
    return { attached: false, reason: whyUnreachable(error) };
  }
  const conversation = new Conversation(connection, report);
  const leave = () => conversation.leave();
  stop.addEventListener("abort", leave);
  if (stop.aborted) leave();
  const reason = await conversation.follow();
  stop.removeEventListener("abort", leave);
  return { attached: conversation.attached, reason };
}

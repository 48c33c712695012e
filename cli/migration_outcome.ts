/**
 * What became of a migration, as an object and as lines.
 *
 * @module
 */
import { byteQuantity, duration, type Output, quantity, type Style } from "./output.ts";

/** One side when all is over. */
export interface SideState {
  /** QEMU's run state, `gone`, or `not known`. */
  readonly status: string;
  readonly text: string;
}

/** Packets that were not delivered, by reason. */
export interface Drops {
  /** To a port whose guest is not there, and to nobody, from all ports of that `serve`. */
  readonly link_down: number;
  readonly no_port: number;
  /** To the guest's ports. */
  readonly no_buffer: number;
}

/** Told once, at the end. null: not known, and `not_known` says why. */
export interface MigrationResult {
  readonly event: "migrated" | "failed" | "cancelled";
  readonly reason?: string;
  readonly source: SideState;
  readonly destination: SideState;
  readonly total_ms: number;
  readonly setup_ms: number | null;
  /** As QEMU says it. */
  readonly downtime_ms: number | null;
  readonly transferred_bytes: number | null;
  readonly passes: number | null;
  readonly postcopy: boolean;
  /** Pages that the source's `serve` marked in the dirty log. */
  readonly logged_pages: number | null;
  /** RARP and gratuitous ARP that the destination's `serve` has seen or sent. */
  readonly announcements: number | null;
  /** While the guest stood still. */
  readonly dropped: Readonly<Record<"source" | "destination", Drops | null>> | null;
  readonly not_known: Readonly<Record<"source" | "destination", string | undefined>>;
}

/** What a source's state means for its user. */
export function sourceText(status: string, destination: string): string {
  if (status === "running") return "the guest runs on the source";
  if (status !== "postmigrate") return `the guest is on the source, and does not run: ${status}`;
  if (destination !== "gone") return "its QEMU keeps a stopped copy: quit it";
  return "its QEMU keeps a stopped copy, and the destination is gone: say cont to it, and the guest runs on here";
}

function dropsText(drops: Drops | null | undefined): string[] {
  if (drops === null || drops === undefined) return [];
  const { link_down, no_port, no_buffer } = drops;
  return [`dropped while it stood still: ${link_down} link down, ${no_port} no port, ${no_buffer} no buffer`];
}

/** What `serve` counted on one side, below what that side says itself. */
function countedLines(what: string, count: number | null, drops: string[], absent: string | undefined): string[] {
  if (absent !== undefined) return [`  counters not known: ${absent}`];
  const text = count === null
    ? `${what} not known: its vhostctl serve does not count them`
    : `${quantity(count)} ${what}`;
  return [`  ${[text, ...drops].join("; ")}`];
}

const heads = {
  migrated: ["green", "migrated"],
  failed: ["red", "FAILED"],
  cancelled: ["yellow", "cancelled"],
} as const;

/** The first line, and what was sent. */
function headLines(result: MigrationResult, output: Output): string[] {
  const [style, word]: readonly [Style, string] = heads[result.event];
  const { setup_ms, downtime_ms, transferred_bytes, passes, postcopy } = result;
  const time = [
    `${result.event === "migrated" ? "in" : "after"} ${duration(result.total_ms)}`,
    ...setup_ms === null ? [] : [`setup ${duration(setup_ms)}`],
    ...downtime_ms === null ? [] : [`downtime ${duration(downtime_ms)}`],
  ];
  const sent = transferred_bytes === null ? [] : [
    `RAM: ${byteQuantity(transferred_bytes)} sent in ${passes === 1 ? "1 pass" : `${passes} passes`}` +
    (postcopy ? ", the rest by post-copy" : ""),
  ];
  const reason = result.reason === undefined ? "" : `: ${result.reason}`;
  return [`${output.style(style, word)} ${time.join(", ")}${reason}`, ...sent];
}

/** For people. */
export function resultLines(result: MigrationResult, output: Output): string[] {
  const { source, destination, logged_pages, announcements, dropped, not_known } = result;
  const isDone = result.event === "migrated";
  const announced = "RARP and gratuitous ARP";
  return [
    ...headLines(result, output),
    `source: ${source.text}`,
    ...countedLines("pages logged by us", logged_pages, dropsText(dropped?.source), not_known.source),
    `destination: ${destination.text}`,
    ...isDone ? countedLines(announced, announcements, dropsText(dropped?.destination), not_known.destination) : [],
  ];
}

/**
 * What happens to ports while they are served, as objects for `--json` and as lines for people.
 *
 * @module
 */

import type { RingFinding } from "./ring_watch.ts";

/** One occurrence at the port of that name. `peer` is whom it faces, if not a front end. */
export type PortEvent = { readonly port: string; readonly peer?: "back end" } & Occurrence;

/** What can happen. */
export type Occurrence =
  /** We are to connect, and nobody is there; told when the reason changes. */
  | { readonly event: "waiting"; readonly socket: string; readonly reason: string }
  /** Our socket's file was removed or replaced, and cannot be made again; told when the reason changes. */
  | { readonly event: "unreachable"; readonly socket: string; readonly reason: string }
  /** It is there again. */
  | { readonly event: "listening"; readonly socket: string }
  /** Where we connect, with the number of attempts before that found nobody, if there were some. */
  | { readonly event: "connected"; readonly attempts?: number }
  /** The first ring of a connection runs. */
  | { readonly event: "started"; readonly ring: "split" | "packed"; readonly features: readonly string[] }
  /** So many heads that a back end which died had in hand were given back when a ring started. */
  | { readonly event: "recovered"; readonly returned: number }
  /** The file of those who served this port before us cannot be used, and is kept elsewhere. */
  | { readonly event: "state_set_aside"; readonly path: string; readonly reason: string }
  /** There can be no such file. */
  | { readonly event: "no_state"; readonly path: string; readonly reason: string }
  /** Rings wait that were left: so it offers what their guest had, not what is asked for now. */
  | { readonly event: "offer_kept"; readonly queue_pairs: number; readonly features: readonly string[] }
  /** No ring runs any more, and the front end is still there. */
  | { readonly event: "stopped" }
  /** A guest runs here whose memory is still on its way, or has all come. */
  | { readonly event: "post_copy"; readonly phase: "listening" | "over" }
  /** What the switch knows of a guest has gone to its next host, or come from the one before. */
  | ({ readonly event: "state_saved" | "state_loaded" } & StateSummary)
  /** It has come, and cannot be read: the guest is whole without. */
  | { readonly event: "state_dropped"; readonly reason: string }
  /** A request got a nack; the session goes on. */
  | { readonly event: "nack"; readonly reason: string }
  | { readonly event: "disconnected"; readonly reason: string }
  /** Somebody was not let in. */
  | { readonly event: "refused"; readonly reason: string }
  /** To an interface of the host's. */
  | {
    readonly event: "attached";
    readonly interface: string;
    readonly created: boolean;
    readonly mtu: number;
    readonly up: boolean;
  }
  /** The rings of another VM are in our hands, or none of them is any more. */
  | { readonly event: "linked"; readonly ring: "split" | "packed"; readonly features: readonly string[] }
  | { readonly event: "unlinked" }
  /** It was deleted. */
  | { readonly event: "detached"; readonly interface: string }
  /** The same again and again, told once for many. */
  | { readonly event: "repeated"; readonly what: string; readonly count: number; readonly seconds: number }
  /** More happened than there is sense in telling. */
  | { readonly event: "untold"; readonly count: number }
  | RingFinding;

/** So many addresses, and the counters that are not 0. */
export type StateSummary = {
  readonly macs: number;
  readonly mtu: number | undefined;
  readonly to_guest: Readonly<Record<string, number>>;
  readonly from_guest: Readonly<Record<string, number>>;
};

function stateText({ macs, to_guest, from_guest }: StateSummary): string {
  const packets = (counters: StateSummary["to_guest"]) => counters["packets"] ?? 0;
  return `${macs} ${macs === 1 ? "address" : "addresses"}, ` +
    `${packets(to_guest)} packets to the guest and ${packets(from_guest)} from it`;
}

function ringName(ring: number): string {
  return `ring ${ring} (queue ${Math.floor(ring / 2)}, ${ring % 2 === 0 ? "to" : "from"} the guest)`;
}

/** One line, without a full stop. */
export function describeEvent(happened: PortEvent): string {
  return `${happened.port}: ${text(happened)}`;
}

function text(happened: PortEvent): string {
  const { peer = "front end" } = happened;
  switch (happened.event) {
    case "waiting":
      return `waiting for a ${peer} at ${happened.socket}: ${happened.reason}`;
    case "unreachable":
      return `no ${peer} can come any more: ${happened.socket} was removed or replaced: ${happened.reason}`;
    case "listening":
      return `listens again: ${happened.socket} had been removed`;
    case "connected":
      if (happened.attempts === undefined) return `${peer} connected`;
      return `${peer} connected, after ${happened.attempts} ${
        happened.attempts === 1 ? "attempt" : "attempts"
      } in vain`;
    case "started":
      return `started: ${happened.ring} rings: ${happened.features.join(" ")}`;
    case "linked":
      return `linked: ${happened.ring} rings of the other VM: ${happened.features.join(" ")}`;
    case "unlinked":
      return "not linked: the other VM has taken its rings back, or is gone";
    case "recovered":
      return `recovered: ${happened.returned} frames that a dead back end had in hand were given back`;
    case "state_set_aside":
      return `what was known of its rings cannot be used: ${happened.reason}: it was renamed to ${happened.path}`;
    case "no_state":
      return `no state file: ${happened.path}: ${happened.reason}: give a folder for it with --state-dir, ` +
        "or guests with packed rings lose their network when this program is killed";
    case "offer_kept": {
      const queues = happened.queue_pairs === 1 ? "1 queue pair" : `${happened.queue_pairs} queue pairs`;
      return "offers what its guest had before, until the guest's driver starts again: " +
        `${queues}: ${happened.features.join(" ")}`;
    }
    case "stopped":
      return `stopped: the ${peer} is still connected`;
    case "state_saved":
      return `what is known of the guest goes with it: ${stateText(happened)}`;
    case "state_loaded":
      return `what was known of the guest came with it: ${stateText(happened)}`;
    case "state_dropped":
      return `what was known of the guest cannot be used: ${happened.reason}: it begins anew`;
    case "post_copy":
      return happened.phase === "listening"
        ? "post-copy: the guest's memory is fetched as it is needed"
        : "post-copy is over: all of the guest's memory is here";
    case "nack":
      return happened.reason;
    case "disconnected":
      return `${peer} gone: ${happened.reason}`;
    case "refused":
      return `${peer} not let in: ${happened.reason}`;
    case "repeated":
      return `${happened.count} times more in ${happened.seconds} s: ${happened.what}`;
    case "attached": {
      const how = happened.created ? "made" : "found";
      const down = happened.up ? "" : `, and is down: ip link set ${happened.interface} up`;
      return `attached to ${happened.interface}, which was ${how}: MTU ${happened.mtu}${down}`;
    }
    case "detached":
      return `${happened.interface} was deleted: it will be attached to again`;
    case "untold":
      return `${happened.count} occurrences more: too many to tell each`;
    case "ring_broken":
      return brokenText(happened);
    case "not_shared":
      return `${ringName(happened.ring)}: ${happened.kicks} kicks came, and the ring stays zero in our mapping: ` +
        "guest RAM is not shared: give QEMU -object memory-backend-memfd,share=on";
  }
}

function brokenText(happened: PortEvent & { readonly event: "ring_broken" }): string {
  if (happened.reason === "page_not_fetched") {
    return `${ringName(happened.ring)} is broken: its guest is in post-copy, and the front end fetched no page ` +
      "for 5 s: it rests until the front end connects again";
  }
  if (happened.reason === "no_log") {
    return `${ringName(happened.ring)} rests: its guest migrates, and there is no log to note in what is written ` +
      "to it: it goes on when the front end gives one, or the migration is over";
  }
  return `${ringName(happened.ring)} is broken: ${happened.reason.replaceAll("_", " ")}: ` +
    (happened.peer ? "it rests until another one connects" : "it rests until the guest's driver starts it again");
}

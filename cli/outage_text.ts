/**
 * Moments of a timeline as lines for people.
 *
 * @module
 */
import { describeEvent, type PortEvent } from "../mod.ts";
import type { Moment, PortMoment, QemuMoment, ServeMoment } from "./outage_moment.ts";
import { duration, type Style } from "./output.ts";

const styles: Readonly<Record<string, Style>> = {
  disconnected: "yellow",
  stopped: "yellow",
  waiting: "dim",
  started: "green",
  outage: "green",
  traffic: "green",
  ring_broken: "red",
  not_shared: "red",
  serve_gone: "red",
  serve_silent: "red",
  serve_attached: "green",
  serve_answers: "green",
  missing: "red",
};

const wayNames = { to_guest: "to the guest", from_guest: "from the guest" } as const;

/** How a moment is to be coloured; undefined: not at all. */
export function momentStyle(moment: Moment): Style | undefined {
  if (moment.event === "disconnected" && moment.outage === true) return "red";
  if (moment.event.startsWith("qemu_")) return "dim";
  return styles[moment.event];
}

/** Whose line it is, and what stands in it. */
export function momentText(moment: Moment): readonly [who: string, text: string] {
  if (isOfQemu(moment)) return ["QEMU", qemuText(moment)];
  if (isOfServe(moment)) return ["serve", serveText(moment)];
  return [moment.port, portText(moment)];
}

function isOfQemu(moment: Moment): moment is Moment & QemuMoment {
  return moment.event.startsWith("qemu_");
}

function isOfServe(moment: Moment): moment is Moment & ServeMoment {
  return moment.event.startsWith("serve_");
}

function portText(moment: PortMoment): string {
  switch (moment.event) {
    case "found":
      return foundText(moment.state, moment.ring, moment.features);
    case "queues": {
      const { queue_pairs_up: up, queue_pairs: all } = moment;
      return `${up} of ${all} queue ${all === 1 ? "pair carries" : "pairs carry"} packets`;
    }
    case "outage":
      return `outage of ${duration(moment.length_ms)} is over: rings run again`;
    case "no_outage":
      return "no outage: its rings ran on";
    case "traffic":
      return `first packet ${wayNames[moment.way]}, within ${duration(moment.after_ms)} of the outage's beginning`;
    case "started":
      if (moment.as_before === true) return `started: ${moment.ring} rings, with the same features as before`;
      return `${eventText(moment)}${moment.as_before === false ? ": other ones than before" : ""}`;
    case "unheard":
      return `started ${moment.starts} ${moment.starts === 1 ? "time" : "times"} more, too fast to be told`;
    case "missing":
      return "not a port of this serve: start serve with the same ports as before";
    case "stopped":
      return `${eventText(moment)}: the guest's own doing, no outage`;
    case "disconnected":
      return `${eventText(moment)}${moment.outage === true ? ": outage" : ": no ring ran, no outage"}`;
    default:
      return eventText(moment);
  }
}

function foundText(state: string, ring: string | undefined, features: readonly string[] | undefined): string {
  if (ring !== undefined) return `${state}: ${ring} rings: ${features?.join(" ")}`;
  return state === "connected" ? "connected: no ring runs" : `${state}: no front end is there`;
}

/** A newer `serve` may tell what this version has no words for. */
function eventText(event: PortEvent): string {
  const text = describeEvent(event).slice(`${event.port}: `.length);
  return text === "undefined" ? event.event.replaceAll("_", " ") : text;
}

function serveText(moment: ServeMoment): string {
  switch (moment.event) {
    case "serve_attached":
      return `attached: ${moment.ports} ${moment.ports === 1 ? "port" : "ports"}`;
    case "serve_waiting":
      return `cannot be reached at ${moment.control}: ${moment.reason}: it is tried again`;
    case "serve_gone":
      return `gone: ${moment.reason}${moment.outages.length > 0 ? `: outage of ${moment.outages.join(", ")}` : ""}`;
    case "serve_silent":
      return `has not answered for ${moment.seconds} s: see whether it is stopped, or the machine overloaded`;
    case "serve_answers":
      return `answers again, after ${moment.seconds} s`;
  }
}

function qemuText(moment: QemuMoment): string {
  switch (moment.event) {
    case "qemu_attached":
      return "attached to its QMP socket";
    case "qemu_waiting":
      return `${moment.reason}: it is tried again`;
    case "qemu_refused":
      return `does not tell of its back ends: ${moment.reason}`;
    case "qemu_gone":
      return moment.reason;
    case "qemu_back_end":
      return `${moment.netdev}: back end ${moment.connected ? "connected" : "gone"} (chardev ${moment.chardev})`;
    case "qemu_event": {
      const data = Object.entries(moment.data).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
      return [moment.name, ...data].join(" ");
    }
  }
}

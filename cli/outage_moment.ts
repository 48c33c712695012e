/**
 * What the timeline of `reconnect-watch` is made of.
 *
 * @module
 */
import type { PortEvent } from "../mod.ts";
import type { Way } from "./port_look.ts";

/** Times are the host's, in milliseconds since 1970. */
export type Moment = { readonly time_ms: number } & (PortMoment | ServeMoment | QemuMoment);

/** At one port. */
export type PortMoment =
  /**
   * Something that its server told, and whether an outage begins with it, or goes on; of rings that started: whether
   * they are of the same kind as before, with the same features.
   */
  | (PortEvent & { readonly outage?: boolean; readonly as_before?: boolean })
  /** As it was when it was looked at first. */
  | {
    readonly event: "found";
    readonly port: string;
    readonly state: string;
    readonly ring?: "split" | "packed" | undefined;
    readonly features?: readonly string[] | undefined;
  }
  /** So many queue pairs carry packets now. */
  | { readonly event: "queues"; readonly port: string; readonly queue_pairs_up: number; readonly queue_pairs: number }
  /** An outage is over: rings run again. */
  | { readonly event: "outage"; readonly port: string; readonly length_ms: number; readonly reason: string }
  /** Something was taken for an outage that was none: the rings ran on. */
  | { readonly event: "no_outage"; readonly port: string }
  /** The first packet that way after an outage was seen, so long after its beginning; it may have come earlier. */
  | { readonly event: "traffic"; readonly port: string; readonly way: Way; readonly after_ms: number }
  /** Its rings started so many times more than was told. */
  | { readonly event: "unheard"; readonly port: string; readonly starts: number }
  /** It is no port of the `serve` that is there now. */
  | { readonly event: "missing"; readonly port: string };

/** At the `serve` that is watched. */
export type ServeMoment =
  | { readonly event: "serve_attached"; readonly ports: number }
  /** It cannot be reached; told when the reason changes. */
  | { readonly event: "serve_waiting"; readonly control: string; readonly reason: string }
  /** It has gone; these ports are out from now on. */
  | { readonly event: "serve_gone"; readonly reason: string; readonly outages: readonly string[] }
  /** It has not answered for some time, or does so again. */
  | { readonly event: "serve_silent"; readonly seconds: number }
  | { readonly event: "serve_answers"; readonly seconds: number };

/** As QEMU sees it. */
export type QemuMoment =
  | { readonly event: "qemu_attached" }
  | { readonly event: "qemu_waiting"; readonly reason: string }
  | { readonly event: "qemu_gone"; readonly reason: string }
  /** It does not say which of its back ends are connected. */
  | { readonly event: "qemu_refused"; readonly reason: string }
  /** Its network device has lost or got its back end. */
  | { readonly event: "qemu_back_end"; readonly connected: boolean; readonly netdev: string; readonly chardev: string }
  /** One of its own events, such as STOP. */
  | { readonly event: "qemu_event"; readonly name: string; readonly data: Readonly<Record<string, unknown>> };

/**
 * What happens to a link of two VMs, as objects for `--json` and as lines for people.
 *
 * @module
 */

/** What can happen. The first VM works on the rings of the second one. */
export type LinkEvent =
  /** The second VM's front end came, its driver runs, stops, or it has gone. */
  | { readonly event: "connected" | "stopped" }
  | { readonly event: "started"; readonly ring: "split" | "packed"; readonly features: readonly string[] }
  | { readonly event: "disconnected"; readonly reason: string }
  /** A request of it got a nack; the session goes on. */
  | { readonly event: "nack"; readonly reason: string }
  /** The first VM's QEMU came, and waits for memory to show, or shows it, or has gone. */
  | { readonly event: "first_waits" }
  | { readonly event: "first_attached"; readonly memory_bytes: number }
  | { readonly event: "first_gone"; readonly reason: string }
  /** It shows memory that is not the second VM's any more. */
  | { readonly event: "first_outdated" }
  /** What runs in the first VM goes by what it is told, or does not any more. */
  | { readonly event: "linked"; readonly vrings: number }
  | { readonly event: "unlinked" }
  /** Somebody was not let in. */
  | { readonly event: "refused"; readonly vm: "first" | "second"; readonly reason: string };

/** One line, without a full stop. */
export function describeLinkEvent(happened: LinkEvent): string {
  switch (happened.event) {
    case "connected":
      return "second VM: connected";
    case "started":
      return `second VM: started: ${happened.ring} rings: ${happened.features.join(" ")}`;
    case "stopped":
      return "second VM: stopped: it is still connected";
    case "disconnected":
      return `second VM: gone: ${happened.reason}`;
    case "nack":
      return `second VM: ${happened.reason}`;
    case "first_waits":
      return "first VM: waits, and QEMU with it, until the second VM's driver has started and there is memory to show";
    case "first_attached":
      return `first VM: has the second VM's memory in BAR 2: ${happened.memory_bytes} bytes`;
    case "first_gone":
      return `first VM: gone: ${happened.reason}`;
    case "first_outdated":
      return "first VM: what it has in BAR 2 is not the second VM's memory any more, and ivshmem maps it once: " +
        "unplug its ivshmem-doorbell device and plug it in again, or restart it";
    case "linked":
      return `linked: ${happened.vrings} rings of the second VM are in the first one's hands`;
    case "unlinked":
      return "not linked: nobody in the first VM goes by what it is told";
    case "refused":
      return `${happened.vm} VM not let in: ${happened.reason}`;
  }
}

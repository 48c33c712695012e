/**
 * What the `serve` processes on both sides of a migration count for the guest's ports.
 *
 * @module
 */
import { dirname, isAbsolute, join } from "node:path";
import { askPorts, type ControlPort } from "./control_client.ts";
import { vhostUserNetdevs } from "./qemu_netdev.ts";
import { type Qmp, QmpRefusal } from "./qmp.ts";
import { controlName } from "./serve_options.ts";

/** What was counted since a moment. Missing: that `serve` does not count it. */
export interface PortTally {
  /** Pages that were marked in the dirty log. */
  readonly log_pages?: number;
  /** RARP and gratuitous ARP that came from the guest, or were sent for it. */
  readonly announcements?: number;
  /** To the guest's ports. */
  readonly drop_no_buffer?: number;
  /** From all ports, also to others that are down: these are counted where a packet came from. */
  readonly drop_link_down?: number;
  readonly drop_no_port?: number;
}

const counters = ["log_pages", "announcements", "drop_no_buffer", "drop_link_down", "drop_no_port"] as const;
type CounterName = typeof counters[number];
const ofAllPorts: readonly CounterName[] = ["drop_link_down", "drop_no_port"];

/** Of one port, both directions; the guest's own, or another one. */
function countersOf({ to_guest, from_guest }: ControlPort, isOurs: boolean): PortTally {
  const names = isOurs ? counters : ofAllPorts;
  const entries = names.flatMap((name) => {
    const values = [to_guest[name], from_guest[name]].filter((value) => value !== undefined);
    return values.length === 0 ? [] : [[name, values.reduce((sum, value) => sum + value, 0)] as const];
  });
  return Object.fromEntries(entries);
}

/** Counter by counter, what `change` makes of both. */
function combine(one: PortTally, other: PortTally, change: (one: number, other: number) => number): PortTally {
  const names = counters.filter((name) => one[name] !== undefined || other[name] !== undefined);
  return Object.fromEntries(names.map((name) => [name, change(one[name] ?? 0, other[name] ?? 0)]));
}

/** What was counted between two moments. */
export function tallySince(now: PortTally, before: PortTally): PortTally {
  return combine(now, before, (one, other) => one - other);
}

/** The paths of the vhost-user sockets of a guest; a text says why they are not known. */
async function guestSockets(qmp: Qmp): Promise<readonly string[] | string> {
  try {
    const paths = (await vhostUserNetdevs(qmp)).flatMap(({ path }) => path ?? []);
    return paths.length > 0 ? [...new Set(paths)] : "the guest has no vhost-user port";
  } catch (error) {
    if (error instanceof QmpRefusal) return `QEMU does not tell the guest's sockets: ${error.reason}`;
    throw error;
  }
}

function realPath(path: string): string {
  try {
    return Deno.realPathSync(path);
  } catch {
    return path;
  }
}

/** The `serve` processes of one side; each time it is asked anew, so that one may end and come back. */
export class SidePorts {
  /** By control socket; of one that was named without its guest being known, all ports that were not busy before. */
  readonly #controls: ReadonlyMap<string, ReadonlySet<string> | "new">;
  /** Ports that were busy before, of those of which it is not known whose they are. */
  readonly #others = new Set<string>();
  readonly #last = new Map<string, PortTally>();
  #tally: PortTally = {};
  #absent: string | undefined;

  private constructor(controls: ReadonlyMap<string, ReadonlySet<string> | "new">, absent: string | undefined) {
    this.#controls = controls;
    this.#absent = absent;
  }

  /**
   * Finds them beside the guest's sockets.
   *
   * @param qmp Of the guest's QEMU, if there is a connection.
   * @param control A path that the user named.
   */
  static async find(qmp: Qmp | undefined, control: string | undefined): Promise<SidePorts> {
    const sockets = qmp === undefined ? "its QMP socket was not given" : await guestSockets(qmp);
    if (typeof sockets === "string") {
      if (control !== undefined) return new SidePorts(new Map([[control, "new"]]), undefined);
      return new SidePorts(new Map(), sockets);
    }
    const controls = new Map<string, Set<string>>();
    for (const socket of sockets) {
      if (control === undefined && !isAbsolute(socket)) return new SidePorts(new Map(), `relative path: ${socket}`);
      const path = control ?? join(dirname(socket), controlName);
      controls.set(path, (controls.get(path) ?? new Set()).add(realPath(socket)));
    }
    return new SidePorts(controls, undefined);
  }

  /** Why nothing is known; undefined when something is. */
  get absent(): string | undefined {
    return this.#absent;
  }

  /** What was counted since the first call. A `serve` that came back counts from its start. */
  async count(): Promise<PortTally> {
    for (const [control, sockets] of this.#controls) {
      const ports = await askPorts(control);
      if (typeof ports === "string") this.#absent ??= this.#last.size > 0 ? undefined : notThere(control, ports);
      else this.#take(control, ports, sockets);
    }
    return this.#tally;
  }

  #take(control: string, ports: readonly ControlPort[], sockets: ReadonlySet<string> | "new"): void {
    this.#absent = undefined;
    for (const port of ports) {
      const key = `${control}\n${port.port}`;
      const last = this.#last.get(key);
      if (sockets === "new" && last === undefined && port.state === "running") this.#others.add(key);
      const isOurs = sockets === "new" ? !this.#others.has(key) : this.#has(sockets, port);
      const now = countersOf(port, isOurs);
      this.#last.set(key, now);
      this.#tally = combine(this.#tally, grown(now, last), (one, other) => one + other);
    }
  }

  #has(sockets: ReadonlySet<string>, { socket }: ControlPort): boolean {
    return socket !== undefined && sockets.has(realPath(socket));
  }
}

function notThere(control: string, why: string): string {
  return `no control socket at ${control}: ${why}`;
}

/** The first time nothing has grown; after a restart everything has. */
function grown(now: PortTally, last: PortTally | undefined): PortTally {
  if (last === undefined) return combine(now, now, () => 0);
  const restarted = counters.some((name) => (now[name] ?? 0) < (last[name] ?? 0));
  return restarted ? now : tallySince(now, last);
}

/**
 * The side of a takeover that begins, and goes on with what another process served.
 *
 * @module
 */
import {
  type Engine,
  type Inheritance,
  type Json,
  listOf,
  number,
  ParcelFds,
  type PortPlan,
  type PortService,
  type Positions,
  type Pump,
  rowOf,
  type SocketChannel,
  steadyClock,
} from "../mod.ts";
import { dirname, join } from "node:path";
import { askTakeover } from "./control_client.ts";
import { CommandError } from "./error.ts";
import { type Said, takeoverVersion, Talk } from "./takeover_talk.ts";
import { whither } from "./whither.ts";

const patience_ms = 5000;

/** A port's state, and its descriptors, that its adopter takes. */
export interface Given {
  readonly state: Json;
  readonly fds: ParcelFds;
}

/** What came of it. */
export interface Takeover {
  /** Whose rings they were. */
  readonly pid: number;
  readonly ports: number;
  /** So long no ring was served, at most: until this thread had its processor again. */
  readonly gap_ms: number;
}

/** Another process, from when it answers until it has left. */
export class Predecessor implements Disposable {
  readonly #talk: Talk;
  readonly pid: number;
  /** By name. */
  readonly #ports: ReadonlyMap<string, { readonly [key: string]: Json }>;

  private constructor(talk: Talk, pid: number, ports: ReadonlyMap<string, { readonly [key: string]: Json }>) {
    this.#talk = talk;
    this.pid = pid;
    this.#ports = ports;
  }

  /**
   * Asks who serves at a control socket to hand over, by a socket beside that. Throws a `CommandError`.
   *
   * @param pump Runs.
   */
  static async meet(control: string, pump: Pump): Promise<Predecessor> {
    const path = join(dirname(control), `takeover-${Deno.pid}.sock`);
    const { promise, resolve } = Promise.withResolvers<SocketChannel | undefined>();
    using _listener = pump.listen(path, { mode: 0o600, accept: resolve });
    const answer = await askTakeover(control, { socket: path, version: takeoverVersion });
    if (typeof answer === "string") throw new CommandError(`no takeover from ${control}: ${answer}`);
    const timer = setTimeout(() => resolve(undefined), patience_ms);
    const channel = await promise;
    clearTimeout(timer);
    if (channel === undefined) throw new CommandError(`no takeover from ${control}: it does not connect`);
    const { pid, uid } = channel.peer();
    if (uid !== Deno.uid()) {
      channel.close();
      throw new CommandError(`no takeover from process ${pid}: it is of user ${uid}`);
    }
    return await Predecessor.#hello(new Talk(channel), pid);
  }

  static async #hello(talk: Talk, pid: number): Promise<Predecessor> {
    try {
      const { body } = await talk.expect("hello", patience_ms);
      const row = rowOf(body, "hello");
      const version = number(row, "version");
      if (version > takeoverVersion) {
        throw new CommandError(
          `process ${pid} hands over in version ${version}, and this program knows those up to ${takeoverVersion}: ` +
            "take a newer one",
        );
      }
      const ports = listOf(row, "ports").map((port) => rowOf(port, "port"));
      return new Predecessor(talk, pid, new Map(ports.map((port) => [`${port["name"]}`, port])));
    } catch (error) {
      talk[Symbol.dispose]();
      throw error;
    }
  }

  /** Whether it has a port of this name. */
  has(name: string): boolean {
    return this.#ports.has(name);
  }

  /** Throws a `CommandError` where a port has no place in a plan. */
  check(plans: readonly PortPlan[]): void {
    for (const [name, port] of this.#ports) {
      const plan = plans.find((one) => one.name === name);
      if (plan === undefined) throw new CommandError(`port ${name} has no place here: give all that are served`);
      for (const [key, value] of Object.entries(whither(plan))) {
        if (port[key] === value) continue;
        throw new CommandError(`port ${name} has ${key} ${port[key]}, and here ${value}: give the same`);
      }
    }
  }

  /** A port, with its front end, which is not listened to any more; `expel` is why that cannot go on here. */
  async port(name: string, expel?: string): Promise<Given> {
    await this.#talk.send("give", { port: name, ...expel === undefined ? {} : { expel } });
    const { body, fds } = await this.#talk.expect("port", patience_ms);
    const row = rowOf(body, `port ${name}`);
    return { state: row["state"] ?? null, fds: new ParcelFds(listOf(row, "fds").map(String), fds) };
  }

  /** Takes in where it has learned guests to be. */
  async learn(services: ReadonlyMap<string, PortService>): Promise<void> {
    await this.#talk.send("give", {});
    learn((await this.#talk.expect("macs", patience_ms)).body, services);
  }

  /** The moment: what was adopted begins where it stands, and is ours. Throws a `CommandError`, and it is not. */
  async goOn(engine: Engine, services: ReadonlyMap<string, PortService>): Promise<Takeover> {
    await this.#talk.send("ready", {});
    const said = await this.#talk.expect("positions", patience_ms);
    const since = begin(said, services);
    if (!this.#talk.commit()) throw new CommandError("the other process has ended, or goes on itself");
    for (const service of services.values()) service.moving!.own();
    engine.proceed();
    const gap_ms = Number(steadyClock() - since) / 1e6;
    for (const service of services.values()) service.moving!.thaw();
    return { pid: this.pid, ports: services.size, gap_ms: Number(gap_ms.toFixed(3)) };
  }

  /** Waits until it has left, and takes in what it counted. */
  async left(services: ReadonlyMap<string, PortService>): Promise<void> {
    const said = await this.#talk.next(patience_ms);
    if (typeof said === "string" || said.kind !== "counters") return;
    const rows = rowOf(said.body, "counters");
    for (const [name, service] of services) {
      if (rows[name] !== undefined) service.moving!.inherit(inheritanceOf(rowOf(rows[name], name)));
    }
  }

  /** Tells it why it has to serve on. */
  async refuse(reason: string): Promise<void> {
    await this.#talk.send("refusal", { reason }).catch(() => {});
  }

  [Symbol.dispose](): void {
    this.#talk[Symbol.dispose]();
  }
}

/** Starts all rings, which wait for their engine. Returns since when they rest. */
function begin({ body }: Said, services: ReadonlyMap<string, PortService>): bigint {
  const row = rowOf(body, "positions");
  const ports = rowOf(row["ports"], "positions");
  for (const [name, { moving }] of services) {
    const positions = rowOf(ports[name], `positions of port ${name}`);
    moving!.begin(positions as unknown as Positions);
  }
  learn(row["macs"] ?? {}, services);
  return BigInt(`${row["since"]}`);
}

function learn(body: Json, services: ReadonlyMap<string, PortService>): void {
  for (const [name, macs] of Object.entries(rowOf(body, "addresses"))) {
    if (Array.isArray(macs)) services.get(name)?.port.learn(macs.map((mac) => BigInt(Number(mac))));
  }
}

function inheritanceOf(row: { readonly [key: string]: Json }): Inheritance {
  const counters = (key: string) => {
    const entries = Object.entries(rowOf(row[key], key)).map(([name, value]) => [name, BigInt(`${value}`)]);
    return Object.fromEntries(entries) as Record<string, bigint>;
  };
  return { toGuest: counters("toGuest"), fromGuest: counters("fromGuest") };
}

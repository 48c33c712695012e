/**
 * The side of a takeover that serves, and hands over to another process.
 *
 * @module
 */
import {
  type Engine,
  type Json,
  type LearnedMac,
  loadLibrary,
  type MovingPort,
  type Parcel,
  type PortService,
  type Pump,
  rowOf,
  steadyClock,
  VringError,
} from "../mod.ts";
import { dirname } from "node:path";
import { CommandError } from "./error.ts";
import { pause } from "./pause.ts";
import type { Snapshot } from "./serve_report.ts";
import { takeoverVersion, Talk } from "./takeover_talk.ts";
import { whither } from "./whither.ts";

/** What is handed over. */
export interface Fabric {
  readonly engine: Engine;
  readonly pump: Pump;
  readonly services: readonly PortService[];
}

/** How often it is looked whether a message that has begun has come whole. */
const messageAttempts = 25;
const messagePause_ms = 20;
/** While it says nothing for so long, front ends are not listened to. */
const patience_ms = 5000;
/** Rings are at rest for so long at most. */
const commitPatience_ms = 2000;
/** Before that it is not even listened to. */
const quiet_ms = 8;

/** Hands over once somebody asks for it at the control socket. */
export class Successor {
  readonly #fabric: Fabric;
  readonly #control: string;
  readonly #failed: (reason: string, pid: number | undefined) => void;
  readonly #committed = Promise.withResolvers<void>();
  #talk: Talk | undefined;
  #attempt: Promise<void> = Promise.resolve();
  #isCommitted = false;

  /** @param control Where this process is asked. @param failed Told when it serves on. May not throw. */
  constructor(fabric: Fabric, control: string, failed: (reason: string, pid: number | undefined) => void) {
    this.#fabric = fabric;
    this.#control = control;
    this.#failed = failed;
  }

  /** Resolves when the rings are another process's: this one is to leave everything as it is, and to end. */
  get committed(): Promise<void> {
    return this.#committed.promise;
  }

  /** The process whose the rings are now; undefined as long as they are ours. */
  get pid(): number | undefined {
    return this.#isCommitted ? this.#talk?.pid : undefined;
  }

  /** Answers the command. Throws a `CommandError` where it cannot be. */
  ask(request: { readonly [key: string]: unknown }): object {
    const { socket, version } = request;
    if (this.#talk !== undefined) throw new CommandError("another process takes over already");
    if (typeof version !== "number" || version < 1) throw new CommandError('no takeover: send {"version":1} with it');
    if (typeof socket !== "string") throw new CommandError('no takeover: send {"socket":PATH} with it');
    const talk = this.#connect(socket);
    const spoken = Math.min(version, takeoverVersion);
    this.#talk = talk;
    this.#attempt = this.#handOver(talk, spoken);
    return { pid: Deno.pid, version: spoken };
  }

  /** A client may make us connect to nothing but a process of our own user, beside our own socket. */
  #connect(path: string): Talk {
    if (dirname(path) !== dirname(this.#control)) {
      throw new CommandError(`no takeover at ${path}: its socket must lie beside ${this.#control}`);
    }
    try {
      const { isSocket, uid } = Deno.lstatSync(path);
      if (!isSocket || uid !== Deno.uid()) throw new CommandError("it is no socket of this user's");
      const channel = this.#fabric.pump.connect(path);
      const peer = channel.peer();
      if (peer.uid === Deno.uid()) return new Talk(channel);
      channel.close();
      throw new CommandError(`process ${peer.pid} is of user ${peer.uid}, and this one of user ${Deno.uid()}`);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new CommandError(`no takeover at ${path}: ${reason}`);
    }
  }

  async #handOver(talk: Talk, version: number): Promise<void> {
    const { pid } = talk;
    try {
      this.#isCommitted = await handOver(talk, this.#fabric, version);
      if (this.#isCommitted) return this.#committed.resolve();
      throw new CommandError("it did not go on in time");
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      await talk.send("refusal", { reason }).catch(() => {});
      talk[Symbol.dispose]();
      this.#talk = undefined;
      this.#failed(reason, pid);
    }
  }

  /** Gives up what has begun, if that is still possible: what comes next is the end of this process. */
  async stop(): Promise<void> {
    if (!this.#isCommitted) this.#talk?.shut();
    await this.#attempt;
  }

  /** Tells the other one that we have left, and what was counted until then. */
  async farewell({ ports }: Snapshot): Promise<void> {
    const text = (counters: object) =>
      Object.fromEntries(Object.entries(counters).map(([name, value]) => [name, `${value}`]));
    const entries = ports.map(({ port, counters: { toGuest, fromGuest } }): [string, Json] => {
      return [port, { toGuest: text(toGuest), fromGuest: text(fromGuest) }];
    });
    await this.#talk?.send("counters", Object.fromEntries(entries)).catch(() => {});
  }
}

interface Mover {
  readonly service: PortService;
  readonly moving: MovingPort;
}

/**
 * Returns whether the rings are the other one's now; else all is as it was. Throws a `CommandError`, or why a port
 * cannot go; then, too, all is as it was.
 */
async function handOver(talk: Talk, fabric: Fabric, version: number): Promise<boolean> {
  const movers = fabric.services.map((service): Mover => {
    if (service.moving === undefined) throw new CommandError(`${service.plan.name} cannot change its process`);
    return { service, moving: service.moving };
  });
  // While rings rest nothing is to be waited for.
  loadLibrary();
  await talk.send("hello", {
    version,
    pid: Deno.pid,
    ports: movers.map(({ service: { plan } }) => {
      return { name: plan.name, queuePairs: plan.offer.queuePairs, ...whither(plan) };
    }),
  });
  let said = await talk.expect("give", patience_ms);
  let committed = false;
  try {
    for (const { moving } of movers) moving.freeze();
    await fabric.pump.settled();
    const macs = fabric.engine.macs();
    while (said.kind === "give") {
      await give(talk, said.body, { fabric, movers, macs, version });
      said = await talk.expect(["give", "ready"], patience_ms);
    }
    committed = await decide(talk, fabric, movers, macs);
  } finally {
    if (!committed) {
      fabric.engine.proceed();
      for (const { moving } of movers) moving.thaw();
    }
  }
  return committed;
}

interface Gifts {
  readonly fabric: Fabric;
  readonly movers: readonly Mover[];
  readonly macs: readonly LearnedMac[];
  readonly version: number;
}

/** Whatever it is asked for: addresses, or a port, without its front end if the other one cannot have that. */
async function give(talk: Talk, body: Json, { fabric: { pump }, movers, macs, version }: Gifts): Promise<void> {
  const { port: name, expel } = rowOf(body, "what to give");
  if (name === undefined) return await talk.send("macs", macRows(macs, movers));
  const mover = movers.find(({ service }) => service.plan.name === name);
  if (mover === undefined) throw new CommandError(`there is no port ${JSON.stringify(name)}`);
  if (typeof expel === "string") mover.moving.expel(expel);
  const { state, fds } = await parcelOf(mover, pump, version);
  await talk.send("port", { state, fds: fds.map(([what]) => what) }, fds.map(([, fd]) => fd));
}

/** Waits for a message that has begun. A front end that does not finish it cannot keep others from an upgrade. */
async function parcelOf({ service, moving }: Mover, pump: Pump, version: number): Promise<Parcel> {
  for (let attempt = 0;; attempt++) {
    try {
      return moving.parcel(version);
    } catch (error) {
      const isBusy = error instanceof VringError && error.status === "busy";
      if (!isBusy || attempt > messageAttempts) {
        throw new CommandError(`${service.plan.name} cannot go now: ${error instanceof Error ? error.message : error}`);
      }
      if (attempt === messageAttempts) {
        moving.expel(
          "it began a message and did not finish it, nor read ours, when its port was to change the process",
        );
        continue;
      }
    }
    moving.thaw();
    await pause(messagePause_ms);
    moving.freeze();
    await pump.settled();
  }
}

/** By name of the port: addresses, 48 bits each. */
function macRows(macs: readonly LearnedMac[], movers: readonly Mover[]): Json {
  const names = new Map(movers.map(({ service }) => [service.port.number, service.plan.name]));
  const rows: Record<string, number[]> = {};
  for (const { mac, port } of macs) {
    const name = names.get(port);
    if (name !== undefined) (rows[name] ??= []).push(Number(mac));
  }
  return rows;
}

/** Lets the rings rest, and leaves them to the other one if it goes on. */
async function decide(talk: Talk, fabric: Fabric, movers: readonly Mover[], macs: readonly LearnedMac[]) {
  const { engine } = fabric;
  const known = new Map(macs.map(({ mac, port }) => [mac, port]));
  const since = steadyClock();
  engine.pause();
  const ports = movers.map(({ service, moving }): [string, Json] => [service.plan.name, { ...moving.positions() }]);
  const news = engine.macs().filter(({ mac, port }) => known.get(mac) !== port);
  const body = { since: `${since}`, ports: Object.fromEntries(ports), macs: macRows(news, movers) };
  const sent = talk.send("positions", body).catch(() => {});
  // The other one needs a processor now, and where there are few of them an answer that wakes us would take it away.
  await pause(quiet_ms);
  let answer = await talk.next(commitPatience_ms);
  await sent;
  if (isCommit(answer)) return true;
  talk.shut();
  while (answer !== "gone") {
    answer = await talk.next(Infinity);
    if (isCommit(answer)) return true;
  }
  return false;
}

function isCommit(said: Awaited<ReturnType<Talk["next"]>>): boolean {
  return typeof said === "object" && said.kind === "commit";
}

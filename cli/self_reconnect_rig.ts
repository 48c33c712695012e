/**
 * What the self-test of `reconnect-watch` is played on: a back end that is killed and started again, and both guests in
 * another process.
 *
 * @module
 */
import { join } from "node:path";
import type { GuestTraffic } from "../mod.ts";
import { askPorts, type ControlPort } from "./control_client.ts";
import { CommandError } from "./error.ts";
import { macNumber } from "./guest.ts";
import { queuePairsMax } from "./guest_shape.ts";
import { HostProcess } from "./host_process.ts";
import { JsonProcess, ownProgram } from "./json_process.ts";
import { moment_ms, type Place } from "./reconnecting_guest.ts";
import type { ReconnectHost } from "./self_reconnect_host.ts";
import type { LifePlan } from "./self_reconnect_plan.ts";
import { controlName } from "./serve_options.ts";

/** Locally administered. */
const macs = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"] as const;
const names = ["a", "b"] as const;
const flowsPerQueue = 2;

/** What each guest sends to the other. */
function trafficsOf({ shape, size_bytes, size_min_bytes, gso_bytes, check_every, window, wait }: LifePlan) {
  return macs.map((mac, number): GuestTraffic => ({
    ...{ sourceMac: macNumber(mac), destinationMac: macNumber(macs[1 - number]!), window, wait },
    ...{ frameBytes: size_bytes, frameBytesMin: size_min_bytes, gsoSize: gso_bytes, checkEvery: check_every },
    ...{ queues: shape.queuePairs, flows: flowsPerQueue * shape.queuePairs },
  }));
}

/** A back end from its start to its end. */
interface Serve {
  readonly process: JsonProcess;
  readonly started_ms: number;
  /** Resolves with the moment when it said so; rejects when it ends before. */
  readonly ready: Promise<number>;
}

/** Until it is disposed of. */
export class ReconnectRig implements AsyncDisposable {
  readonly host: HostProcess<ReconnectHost>;
  readonly #stack: AsyncDisposableStack;
  readonly #directory: string;
  readonly #standby: boolean;
  #serve: Serve | undefined;
  /** Stands by, and will be the next one. */
  #spare: Serve | undefined;
  /** Back ends so far. */
  #serves = 0;

  private constructor(
    stack: AsyncDisposableStack,
    directory: string,
    host: HostProcess<ReconnectHost>,
    standby: boolean,
  ) {
    this.#stack = stack;
    this.#directory = directory;
    this.host = host;
    this.#standby = standby;
  }

  /** @param standby Whether a back end that is killed has another one beside it, which stands by. */
  static async open(standby: boolean): Promise<ReconnectRig> {
    await using stack = new AsyncDisposableStack();
    const directory = await Deno.makeTempDir({ prefix: "vhostctl-reconnect-" });
    stack.defer(() => Deno.remove(directory, { recursive: true }));
    const host = stack.use(await HostProcess.start<ReconnectHost>("reconnect-host"));
    return new ReconnectRig(stack.move(), directory, host, standby);
  }

  #places({ modes }: LifePlan): Place[] {
    return modes.map((mode, number) => ({ mode, socket: join(this.#directory, `${names[number]}-${mode}.sock`) }));
  }

  /** Lets both guests of a life look for a back end. */
  async open(life: LifePlan): Promise<void> {
    const together = life.window !== undefined;
    const traffics = trafficsOf(life);
    await this.host.call("open", { shape: life.shape, places: this.#places(life), traffics, together });
  }

  /** Starts a back end, where there is none, or knows the one that takes its place. */
  async start(life: LifePlan): Promise<void> {
    const spare = this.#spare;
    this.#spare = undefined;
    if (spare === undefined) await this.#expect();
    // For one that stood by, its start is when its turn has come.
    this.#serve = spare === undefined ? this.#spawn(life) : { ...spare, started_ms: moment_ms() };
  }

  /** Whoever is connected to from now on is the next one. */
  async #expect(): Promise<void> {
    this.#serves += 1;
    await this.host.call("expect", { life: this.#serves });
  }

  #spawn(life: LifePlan, ...words: readonly string[]): Serve {
    const started_ms = moment_ms();
    const process = new JsonProcess("vhostctl serve", ownProgram(), [
      ...["serve", "--json", "--stats", "0", "--dir", this.#directory, ...words],
      // As many for every life: a back end never has fewer than the one before.
      ...["--queues", `${queuePairsMax}`, "--workers", `${life.workers}`],
      ...this.#places(life).flatMap(({ mode, socket }, number) => {
        return ["--port", `name=${names[number]},socket=${socket},mode=${mode}`];
      }),
    ]);
    const ready = process.next((message) => message["event"] === "ready").then(moment_ms);
    // It may be killed before, which is nobody's fault.
    ready.catch(() => {});
    return { process, started_ms, ready };
  }

  /** With standby, has another back end wait beside the one that is about to be killed. */
  async prepare(life: LifePlan): Promise<void> {
    if (!this.#standby) return;
    this.#spare = this.#spawn(life, "--standby");
    await this.#spare.process.next((message) => message["event"] === "standby");
    await this.#expect();
  }

  #there(): Serve {
    if (this.#serve === undefined) throw new CommandError("no back end is there");
    return this.#serve;
  }

  /** Waits until the back end is ready, and returns how long that took from its start. */
  async ready(): Promise<number> {
    const { ready, started_ms } = this.#there();
    return await ready - started_ms;
  }

  /** Kills the back end, and returns when. */
  async kill(): Promise<number> {
    const { process } = this.#there();
    this.#serve = undefined;
    const killed_ms = moment_ms();
    await process.kill();
    return killed_ms;
  }

  /** Ends the back end as Ctrl-C does, or by force. */
  async end({ killedAtEnd }: LifePlan): Promise<void> {
    if (killedAtEnd) await this.kill();
    else await this.#stop();
  }

  async #stop(): Promise<void> {
    const serves = [this.#serve, this.#spare];
    this.#serve = undefined;
    this.#spare = undefined;
    for (const serve of serves) await serve?.process[Symbol.asyncDispose]();
  }

  /** What the back end has counted. */
  async look(): Promise<readonly ControlPort[]> {
    const ports = await askPorts(join(this.#directory, controlName));
    if (typeof ports === "string") throw new CommandError(`cannot ask vhostctl serve: ${ports}`);
    return ports;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stop();
    await this.#stack[Symbol.asyncDispose]();
  }
}

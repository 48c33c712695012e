/**
 * All ports of one `serve`: an engine that switches between them, and a pump for their sockets.
 *
 * @module
 */
import {
  adoptKeptState,
  adoptPortService,
  drainEventfd,
  Engine,
  featureSet,
  hasProtocolFeature,
  KeptState,
  loadLibrary,
  openPortService,
  PciError,
  type PortEvent,
  type PortPlan,
  type PortServerParts,
  type PortService,
  postCopyObstacle,
  Pump,
  type StateFailure,
  UplinkError,
  VringError,
  type VringStats,
} from "../mod.ts";
import { CommandError, HostError, UsageError } from "./error.ts";
import { type Given, Predecessor, type Takeover } from "./predecessor.ts";
import type { LanePlan, ServePlan } from "./serve_options.ts";
import type { Snapshot } from "./serve_report.ts";
import { makeSocketDirectory } from "./socket_directory.ts";
import type { Fabric } from "./successor.ts";

const tick_ms = 1000;

/** Segments that a guest takes uncut. */
const guestSegmentation = featureSet([
  ...["GUEST_TSO4", "GUEST_TSO6", "GUEST_ECN", "GUEST_UFO", "GUEST_USO4", "GUEST_USO6"] as const,
]);

/** A reason of the library's, as commands say it. */
export function commandError(error: unknown): unknown {
  if (error instanceof PciError) return new HostError(error.message);
  if (!(error instanceof VringError)) return error;
  if (error instanceof UplinkError && error.lacking) return new HostError(error.message.replace(/^C/, "c"));
  return new CommandError(error.message.replace(/^C/, "c"));
}

/** Why there is no engine: without a library, or with a wrong one, nothing can be done. */
export function openingError(error: unknown): unknown {
  if (error instanceof VringError || !(error instanceof Error)) return commandError(error);
  return new HostError(error.message.replace(/^C/, "c"), { cause: error });
}

function openEngine(portsMax: number): Engine {
  try {
    return Engine.open({ portsMax });
  } catch (error) {
    throw openingError(error);
  }
}

function addWorker(engine: Engine, cpu: number | undefined, idle: ServePlan["idle"]): number {
  try {
    return engine.addWorker({ cpu, idle });
  } catch (error) {
    if (cpu === undefined || !(error instanceof VringError && error.status === "invalid_argument")) throw error;
    throw new UsageError(`cannot run on CPU: ${cpu}: give some of those that taskset -p $$ shows`);
  }
}

/** Said now: in the middle of a migration it would be too late. */
function checkPostCopy(ports: ServePlan["ports"]): void {
  const port = ports.find(({ offer }) => hasProtocolFeature(offer.protocolFeatures, "PAGEFAULT"));
  const obstacle = port === undefined ? undefined : postCopyObstacle();
  if (obstacle === undefined) return;
  throw new HostError(`this host does not allow post-copy: ${obstacle}, or leave postcopy=on of ${port!.name} out`);
}

/** What is kept of a port, or why there is none. */
interface Opened {
  readonly state?: KeptState;
  readonly failure?: StateFailure & { readonly busy: boolean };
}

/** Without a state file, the port is served all the same. */
function openState({ state: path, driver, uplink, pci }: PortPlan): Opened {
  // Only who serves a guest has rings that wait.
  if (path === undefined || driver !== undefined || uplink !== undefined || pci !== undefined) return {};
  try {
    return { state: KeptState.open(path) };
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const busy = error instanceof VringError && error.status === "busy";
    return { failure: { path, reason: error.message.replace(/^.*: /, ""), busy } };
  }
}

/** With the parts for its kept state. Throws a `CommandError` with the reason why it cannot go on here. */
async function adopt(
  predecessor: Predecessor,
  plan: PortPlan,
  partsFor: (state: KeptState | undefined) => PortServerParts,
): Promise<PortService> {
  const { name } = plan;
  const given = await predecessor.port(name);
  const parts = partsFor(adoptKeptState(plan, given.state));
  try {
    return adoptGiven(parts, given);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    if (!isForeign(error)) throw new CommandError(`${name} cannot go on here: ${reason}`);
    return adoptGiven(parts, await predecessor.port(name, reason));
  }
}

function adoptGiven(parts: PortServerParts, { state, fds }: Given): PortService {
  using _rest = fds;
  return adoptPortService(parts, state, fds);
}

/** Memory that its front end has truncated, say: it alone has to begin anew. */
function isForeign(error: unknown): boolean {
  const statuses = ["invalid_argument", "file_too_short", "wrong_fd", "unmapped", "misaligned"];
  return error instanceof VringError && statuses.includes(error.status);
}

/** Serves from `open` until it is disposed of. */
export class SwitchServer implements AsyncDisposable {
  readonly #engine: Engine;
  readonly #pump: Pump;
  readonly #workers: number[];
  readonly #servers: PortService[] = [];
  readonly #timer: ReturnType<typeof setInterval>;
  /** How it came to what another process served. */
  takeover: Takeover | undefined;

  private constructor(engine: Engine, pump: Pump, workers: number[]) {
    this.#engine = engine;
    this.#pump = pump;
    this.#workers = workers;
    this.#timer = setInterval(() => this.#servers.forEach((server) => server.tick()), tick_ms);
    pump.watch(engine.attentionFd, () => {
      drainEventfd(engine.attentionFd);
      this.#servers.forEach((server) => server.lookForBroken());
    });
  }

  /** Opens everything, or nothing: throws a `CommandError`. */
  static async open(plan: ServePlan, happened: (event: PortEvent) => void): Promise<SwitchServer> {
    if (plan.directory !== undefined) makeSocketDirectory(plan.directory);
    await using stack = new AsyncDisposableStack();
    const engine = stack.use(openEngine(plan.ports.length));
    checkPostCopy(plan.ports);
    try {
      const workers = plan.workers.map((cpu) => addWorker(engine, cpu, plan.idle));
      const server = new SwitchServer(engine, stack.use(Pump.open()), workers);
      stack.defer(() => server.#closePorts());
      if (plan.takeover === true) await server.#takeOver(plan, happened);
      else for (const port of plan.ports) server.#openPort(port, plan, happened);
      if (plan.lanes !== undefined) server.setLanes(plan.lanes);
      stack.move();
      return server;
    } catch (error) {
      throw commandError(error);
    }
  }

  /** Carries messages until this is disposed of; rejects where our own code failed. */
  run(): Promise<void> {
    return this.#pump.run();
  }

  /** What another process would take over. */
  get fabric(): Fabric {
    return { engine: this.#engine, pump: this.#pump, services: this.#servers };
  }

  /** Everything that is counted. */
  snapshot(): Snapshot {
    return {
      time_ms: performance.now(),
      ports: this.#servers.map((server) => server.sample()),
      workers: this.#workers.map((worker) => this.#engine.workerStats(worker)),
    };
  }

  /** What each ring of a port counted, as numbered on the wire. */
  ringStats(number: number): VringStats[] {
    const { port, plan } = this.#servers[number]!;
    return Array.from({ length: 2 * plan.offer.queuePairs }, (_, ring) => port.vringStats(ring));
  }

  /** Changes where each port's frames go. */
  setLanes(lanes: readonly LanePlan[]): void {
    lanes.forEach((lane, index) => {
      this.#servers[index]!.port.setLane({ ...lane, target: this.#servers[lane.target]!.port });
    });
  }

  /** Turns front ends out, removes the sockets, and ends the workers. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closePorts();
    await this.#pump[Symbol.asyncDispose]();
    await this.#engine.close();
  }

  #openPort(plan: PortPlan, { socketMode, standby }: ServePlan, happened: (event: PortEvent) => void): void {
    const { state, failure } = openState(plan);
    const busy = failure?.busy !== true ? undefined : new CommandError(
      `another program serves ${plan.name}: it has ${failure.path}: stop it, or give another folder with --state-dir`,
    );
    // Who was faster is not to find our socket in its place.
    if (busy !== undefined && standby === true) throw busy;
    this.#servers.push(openPortService(this.#portParts({ plan, socketMode, state, stateFailure: failure, happened })));
    // Where another program listens, that was said.
    if (busy !== undefined) throw busy;
  }

  #portParts(parts: Omit<PortServerParts, "port" | "pump">): PortServerParts {
    const { plan: { offer, guestTso }, state } = parts;
    const queuePairs = state?.queuePairs(offer) ?? offer.queuePairs;
    const ignored = guestTso === false ? guestSegmentation : undefined;
    const port = this.#engine.openPort({ queuePairs, mtu: offer.mtu, ignored });
    state?.begin(port);
    return { ...parts, port, pump: this.#pump };
  }

  /** What another process serves is adopted, and what it has not is opened. */
  async #takeOver(plan: ServePlan, happened: (event: PortEvent) => void): Promise<void> {
    loadLibrary();
    // Whoever runs the server hears of its failure.
    this.#pump.run().catch(() => {});
    using predecessor = await Predecessor.meet(plan.control!, this.#pump);
    try {
      predecessor.check(plan.ports);
      const adopted = new Map<string, PortService>();
      const [old, fresh] = [true, false].map((had) => plan.ports.filter(({ name }) => predecessor.has(name) === had));
      for (const port of fresh!) this.#openPort(port, plan, happened);
      this.#engine.pause();
      for (const port of old!) {
        const parts = { plan: port, socketMode: plan.socketMode, happened };
        const service = await adopt(predecessor, port, (state) => this.#portParts({ ...parts, state }));
        this.#servers.push(service);
        adopted.set(port.name, service);
      }
      const places = new Map(plan.ports.map(({ name }, place) => [name, place]));
      this.#servers.sort((one, other) => places.get(one.plan.name)! - places.get(other.plan.name)!);
      await predecessor.learn(adopted);
      this.takeover = await predecessor.goOn(this.#engine, adopted);
      await predecessor.left(adopted);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      if (this.takeover === undefined) await predecessor.refuse(reason);
      throw error;
    }
  }

  #closePorts(): void {
    clearInterval(this.#timer);
    for (const server of this.#servers) server[Symbol.dispose]();
  }
}

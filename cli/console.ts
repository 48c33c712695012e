/**
 * testpmd's verbs for `pmd-forward`: a line in, the lines of the answer out.
 *
 * @module
 */
import { macText, type PortPlan, type PortSample, statsSince, type VringStats } from "../mod.ts";
import { forwardStatistics, type ForwardTotals, forwardTotals, totalsSince } from "./forward_statistics.ts";
import { absentModes, absentVerb } from "./absent.ts";
import { burstMax, type ForwardConfig, forwardModes, frameBytesMax, frameBytesMin, planLanes } from "./forward_mode.ts";
import { portInfo, portStats, portSummary, portXstats } from "./nic_text.ts";
import type { LanePlan } from "./serve_options.ts";
import type { Snapshot } from "./serve_report.ts";

const tx_first_max = 1_000_000;

/** What the console drives. */
export interface Forwarder {
  readonly ports: readonly PortPlan[];
  readonly cores: number;
  snapshot(): Snapshot;
  /** Of a port, as numbered on the wire. */
  ringStats(port: number): readonly VringStats[];
  /** By port. */
  setLanes(lanes: readonly LanePlan[]): void;
}

interface Verb {
  /** `<port>` stands for `all` or a number, `<mode>` for a mode, `<n>` for a number. */
  readonly words: readonly string[];
  readonly about: string;
  /** Gets the last word. */
  readonly run: (word: string) => readonly string[];
}

/** One session. Forwarding does not run until `start`. */
export class Console {
  readonly #forwarder: Forwarder;
  #config: ForwardConfig;
  #running = false;
  /** Numbers of ports that were stopped. */
  readonly #stopped = new Set<number>();
  /** Counters at the last start, and at the last clearing of each port. */
  #started: readonly ForwardTotals[];
  readonly #cleared: (PortSample | undefined)[] = [];
  readonly #clearedRings: (readonly VringStats[])[] = [];
  /** For the rates since the last look. */
  readonly #shown: { readonly time_ms: number; readonly sample: PortSample }[] = [];
  #over = false;

  constructor(forwarder: Forwarder, config: ForwardConfig) {
    this.#forwarder = forwarder;
    this.#config = config;
    this.#started = this.#totals();
  }

  /** Whether `quit` was said. */
  get over(): boolean {
    return this.#over;
  }

  readonly #verbs: readonly Verb[] = [
    { words: ["start"], about: "begin to forward", run: () => this.#start(0) },
    { words: ["start", "tx_first"], about: "the same, with a burst of ours at first", run: () => this.#start(1) },
    { words: ["start", "tx_first", "<n>"], about: "with so many bursts", run: (n) => this.#startFirst(n) },
    { words: ["stop"], about: "stop forwarding, and print what passed since the start", run: () => this.#stop() },
    { words: ["set", "fwd", "<mode>"], about: "what the next start does", run: (mode) => this.#setMode(mode) },
    { words: ["set", "burst", "<n>"], about: "packets that are moved together", run: (n) => this.#setBurst(n) },
    { words: ["set", "txpkts", "<n>"], about: "bytes of a packet of ours", run: (n) => this.#setLength(n) },
    { words: ["show", "port", "info", "<port>"], about: "what a port is", run: (port) => this.#info(port) },
    { words: ["show", "port", "stats", "<port>"], about: "its counters", run: (port) => this.#stats(port) },
    { words: ["show", "port", "xstats", "<port>"], about: "all its counters", run: (port) => this.#xstats(port) },
    { words: ["show", "port", "summary", "all"], about: "a line for each port", run: () => this.#summary() },
    { words: ["show", "config", "fwd"], about: "where packets go", run: () => this.#streams() },
    { words: ["show", "config", "txpkts"], about: "bytes of a packet of ours", run: () => this.#length() },
    { words: ["show", "fwd", "stats", "all"], about: "what stop would print", run: () => this.#forwarded() },
    { words: ["clear", "port", "stats", "<port>"], about: "count from 0 again", run: (port) => this.#clear(port) },
    { words: ["clear", "fwd", "stats", "all"], about: "the same for stop", run: () => this.#clearForwarded() },
    { words: ["port", "stop", "<port>"], about: "start is refused then", run: (port) => this.#stopPort(port) },
    { words: ["port", "start", "<port>"], about: "and allowed again", run: (port) => this.#startPort(port) },
    { words: ["help"], about: "these lines", run: () => this.#help() },
    { words: ["quit"], about: "stop, and end", run: () => this.#quit() },
  ];

  /** An empty line is nothing. Throws what the forwarder throws. */
  execute(line: string): readonly string[] {
    const words = line.trim().split(/\s+/).filter((word) => word !== "");
    if (words.length === 0 || words[0]!.startsWith("#")) return [];
    const verb = this.#verbs.find((candidate) => fits(candidate.words, words));
    if (verb !== undefined) return verb.run(words.at(-1)!);
    const reason = absentVerb(words);
    if (reason !== undefined) return [`Not here: ${words.join(" ")}: ${reason}: see help`];
    const known = this.#verbs.some((candidate) => candidate.words[0] === words[0]);
    return [known ? "Bad arguments: see help" : `Command not found: ${words[0]}: see help`];
  }

  /** The words that can come next, for `node:readline`. */
  complete(line: string): [string[], string] {
    const words = line.trimStart().split(/\s+/);
    const begun = words.pop()!;
    const next = this.#verbs.filter(({ words: wanted }) => fits(wanted.slice(0, words.length), words))
      .flatMap(({ words: wanted }) => this.#choices(wanted[words.length]));
    return [[...new Set(next)].filter((word) => word.startsWith(begun)).map((word) => `${word} `), begun];
  }

  #choices(word: string | undefined): string[] {
    if (word === "<port>") return ["all", ...this.#forwarder.ports.map((_, number) => String(number))];
    if (word === "<mode>") return [...forwardModes];
    return word === undefined || word === "<n>" ? [] : [word];
  }

  #start(firstBursts: number): readonly string[] {
    if (this.#running) return ["Packet forwarding already started"];
    if (this.#stopped.size > 0) return ["Not all ports were started"];
    this.#started = this.#totals();
    this.#forwarder.setLanes(planLanes(this.#config, this.#forwarder.ports, { firstBursts }));
    this.#running = true;
    return this.#streams();
  }

  #startFirst(word: string): readonly string[] {
    const bursts = numberOf(word, 1, tx_first_max);
    return bursts === undefined ? [`Bad arguments: ${word}: give 1 to ${tx_first_max} bursts`] : this.#start(bursts);
  }

  #stop(): readonly string[] {
    if (!this.#running) return ["Packet forwarding not started"];
    this.#forwarder.setLanes(planLanes(this.#config, this.#forwarder.ports, "stopped"));
    this.#running = false;
    return ["Telling cores to stop...", "Waiting for lcores to finish...", ...this.#forwarded(), "Done."];
  }

  #setMode(word: string): readonly string[] {
    const mode = forwardModes.find((candidate) => candidate === word);
    if (mode === undefined) {
      const reason = Object.hasOwn(absentModes, word) ? `${absentModes[word]}, ` : "";
      return [`Bad arguments: ${word}: ${reason}choose from ${forwardModes.join(", ")}`];
    }
    this.#config = { ...this.#config, mode };
    return [`Set ${mode} packet forwarding mode`];
  }

  #setBurst(word: string): readonly string[] {
    const burst = numberOf(word, 1, burstMax);
    if (burst === undefined) return [`Bad arguments: ${word}: give 1 to ${burstMax} packets`];
    this.#config = { ...this.#config, burst };
    return [`Number of packets per burst set to ${burst}`];
  }

  #setLength(word: string): readonly string[] {
    if (word.includes(",")) return [`Bad arguments: ${word}: give one length, a packet is one segment here`];
    const frameBytes = numberOf(word, frameBytesMin, frameBytesMax);
    if (frameBytes === undefined) return [`Bad arguments: ${word}: give ${frameBytesMin} to ${frameBytesMax} bytes`];
    this.#config = { ...this.#config, frameBytes };
    return [];
  }

  #length(): readonly string[] {
    return ["Number of segments: 1", `Segment sizes: ${this.#config.frameBytes}`, "Split packet: off"];
  }

  #stopPort(port: string): readonly string[] {
    if (this.#running) return ["Please remove port from forwarding configuration: say stop first"];
    return this.#each(port, (number) => {
      this.#stopped.add(number);
      return [`Stopping port ${number}...`, "Done"];
    });
  }

  #startPort(port: string): readonly string[] {
    return this.#each(port, (number) => {
      this.#stopped.delete(number);
      return [`Port ${number}: ${this.#forwarder.ports[number]!.mac.toUpperCase()}`];
    });
  }

  #quit(): readonly string[] {
    this.#over = true;
    return [...this.#running ? this.#stop() : [], "Bye..."];
  }

  #help(): readonly string[] {
    const lines = this.#verbs.map(({ words, about }) => `  ${words.join(" ").padEnd(28)}${about}`);
    return [...lines, `  <port>: all, or a number; <n>: a number; <mode>: ${forwardModes.join(", ")}`];
  }

  #totals(): ForwardTotals[] {
    return this.#forwarder.snapshot().ports.map(forwardTotals);
  }

  #forwarded(): readonly string[] {
    return forwardStatistics(this.#totals().map((now, number) => totalsSince(now, this.#started[number]!)));
  }

  #clearForwarded(): readonly string[] {
    this.#started = this.#totals();
    return [];
  }

  #streams(): readonly string[] {
    const { ports, cores } = this.#forwarder;
    const streams = planLanes(this.#config, ports, "stopped").flatMap(({ target, peerMac }, port) => {
      const queues = ports[target]!.offer.queuePairs;
      const peer = macText(peerMac);
      return Array.from(
        { length: ports[port]!.offer.queuePairs },
        (_, queue) => `  RX P=${port}/Q=${queue} -> TX P=${target}/Q=${queue % queues} peer=${peer}`,
      );
    });
    const what = `ports=${ports.length} - cores=${cores} - streams=${streams.length}`;
    return [`${this.#config.mode} packet forwarding - ${what}`, ...streams];
  }

  /** Answers for one port or for all of them, or says that there is none such. */
  #each(port: string, answer: (number: number) => readonly string[]): readonly string[] {
    const numbers = this.#forwarder.ports.map((_, number) => number);
    if (port === "all") return numbers.flatMap(answer);
    if (numbers.includes(Number(port))) return answer(Number(port));
    return [`Invalid port ${port}`, `The valid ports array is [ ${numbers.join(" ")} ]`];
  }

  #info(port: string): readonly string[] {
    const { ports } = this.#forwarder.snapshot();
    return this.#each(port, (number) => portInfo(number, this.#forwarder.ports[number]!, ports[number]!));
  }

  #summary(): readonly string[] {
    const { ports } = this.#forwarder.snapshot();
    return portSummary(this.#forwarder.ports, ports);
  }

  #stats(port: string): readonly string[] {
    const { ports, time_ms } = this.#forwarder.snapshot();
    return this.#each(port, (number) => {
      const sample = ports[number]!;
      const before = this.#shown[number];
      this.#shown[number] = { time_ms, sample };
      const seconds = before === undefined ? 0 : (time_ms - before.time_ms) / 1000;
      return portStats(number, { now: sample, since: this.#cleared[number] }, before?.sample, seconds);
    });
  }

  #xstats(port: string): readonly string[] {
    const { ports } = this.#forwarder.snapshot();
    return this.#each(port, (number) => {
      const before = this.#clearedRings[number];
      const rings = this.#forwarder.ringStats(number).map((stats, ring) => statsSince(stats, before?.[ring]));
      return portXstats(number, { now: ports[number]!, since: this.#cleared[number] }, rings);
    });
  }

  #clear(port: string): readonly string[] {
    const { ports } = this.#forwarder.snapshot();
    return this.#each(port, (number) => {
      this.#cleared[number] = ports[number]!;
      this.#clearedRings[number] = this.#forwarder.ringStats(number);
      return [`NIC statistics for port ${number} cleared`];
    });
  }
}

function fits(wanted: readonly string[], words: readonly string[]): boolean {
  return wanted.length === words.length &&
    wanted.every((word, index) => word.startsWith("<") || word === words[index]);
}

function numberOf(word: string, least: number, most: number): number | undefined {
  const number = /^\d{1,9}$/.test(word) ? Number(word) : NaN;
  return number >= least && number <= most ? number : undefined;
}

/**
 * One case of `bench --peer`: the switch and testpmd by turns, with the same guests on the same CPUs.
 *
 * Where a host puts the CPUs of a virtual machine changes every rate by more than any code, and it does so all the
 * time. So both forwarders live at once and take short turns, A B, B A; the one that waits is stopped, and its guests
 * rest. Only the ratio of two turns that follow each other counts, and of all such pairs the median.
 *
 * @module
 */
import { type Case, type CaseResult, type PeerResult, type Speed, speed } from "./bench_result.ts";
import {
  account,
  type Measurement,
  pairOptions,
  sleep,
  socketFolder,
  speedBetween,
  warmUp_ms,
} from "./bench_measure.ts";
import { waitedForCpu_ns } from "./contention.ts";
import { arrivals, GuestPair } from "./guest_pair.ts";
import type { JsonProcess } from "./json_process.ts";
import { ServeProcess } from "./serve_process.ts";
import { spread } from "./statistics.ts";
import { Testpmd, type TestpmdProgram } from "./testpmd.ts";

const turn_ms = 250;
/** Whoever waited for a CPU for more of its turn than this was disturbed. */
const waitShareMax = 0.05;
/** With fewer undisturbed pairs than these, all pairs count. */
const undisturbedMin = 3;

/** A forwarder with its guests. */
interface Contender {
  readonly forwarder: JsonProcess;
  readonly pair: GuestPair;
}

/** What one turn brought. */
interface Turn {
  readonly packets: number;
  readonly seconds: number;
  readonly disturbed: boolean;
}

function waited_ns({ forwarder, pair }: Contender): number {
  const pids = [forwarder.pid, ...pair.processes.map(({ process }) => process.pid)];
  return pids.reduce((sum, pid) => sum + waitedForCpu_ns(pid), 0);
}

/** Wakes a forwarder, measures, and puts it to sleep again. */
async function takeTurn(contender: Contender, { size_bytes }: Case, measurement: Measurement): Promise<Turn> {
  const { forwarder, pair } = contender;
  const { stop } = measurement;
  forwarder.signal("SIGCONT");
  await pair.listen();
  await pair.send();
  await sleep(warmUp_ms, stop);
  const waitedBefore = waited_ns(contender);
  const first = await pair.received();
  await sleep(turn_ms, stop);
  const last = await pair.received();
  const waited = waited_ns(contender) - waitedBefore;
  await pair.stop();
  await pair.rest();
  forwarder.signal("SIGSTOP");
  const { seconds } = speedBetween(first, last, size_bytes);
  const packets = last.received - first.received;
  return { packets, seconds, disturbed: waited / 1e9 > waitShareMax * seconds };
}

/** Speed over several turns. */
function speedOf(turns: readonly Turn[], size_bytes: number): Speed {
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  return speed(sum(turns.map(({ packets }) => packets)), size_bytes, sum(turns.map(({ seconds }) => seconds)));
}

type Pairing = readonly [ours: Turn, peers: Turn];

function rateRatio([ours, peers]: Pairing): number {
  return (ours.packets / ours.seconds) / (peers.packets / peers.seconds);
}

/** Takes turns until each has had its seconds. */
async function duel(ours: Contender, peers: Contender, wanted: Case, measurement: Measurement): Promise<Pairing[]> {
  const pairings: Pairing[] = [];
  const count = Math.max(1, Math.ceil(measurement.seconds * 1000 / turn_ms));
  while (pairings.length < count && !measurement.stop.aborted) {
    const order = pairings.length % 2 === 0 ? [ours, peers] as const : [peers, ours] as const;
    const first = await takeTurn(order[0], wanted, measurement);
    const second = await takeTurn(order[1], wanted, measurement);
    // A turn that was cut short is no half of a pair.
    if (measurement.stop.aborted) break;
    pairings.push(order[0] === ours ? [first, second] : [second, first]);
    measurement.progress(speedOf(pairings.map(([own]) => own), wanted.size_bytes), pairings.length / count);
  }
  return pairings;
}

async function peerResult(
  peers: Contender,
  testpmd: Testpmd,
  pairings: readonly Pairing[],
  size_bytes: number,
): Promise<PeerResult> {
  const undisturbed = pairings.filter(([ours, theirs]) => !ours.disturbed && !theirs.disturbed);
  const counted = undisturbed.length >= undisturbedMin ? undisturbed : pairings;
  return {
    name: "testpmd",
    version: testpmd.program.version,
    memory: testpmd.memory,
    ...speedOf(pairings.map(([, theirs]) => theirs), size_bytes),
    ...arrivals(await peers.pair.received()),
    ratio: spread(counted.map(rateRatio)),
    pairs_disturbed: pairings.length - counted.length,
  };
}

/** Measures one case against testpmd; undefined when it was stopped before one pair of turns was over. */
export async function compare(
  wanted: Case,
  program: TestpmdProgram,
  measurement: Measurement,
): Promise<CaseResult | undefined> {
  const { placement, stop } = measurement;
  const { queues, size_bytes } = wanted;
  const workerCpus = placement.worker_cpus;
  await using stack = new AsyncDisposableStack();
  const directory = await socketFolder(stack);
  const serve = stack.use(await ServeProcess.start({ directory, queues, workerCpus }));
  const sockets = ["a", "b"].map((name) => `${directory}/testpmd-${name}.sock`);
  const testpmd = stack.use(await Testpmd.start({ program, sockets, queues, cpu: workerCpus[0]! }));
  // One thread drives both guests, so that what a guest costs is the same, and little, for both forwarders.
  const attach = async (forwarder: JsonProcess, places: readonly string[]): Promise<Contender> => {
    const options = { ...pairOptions(places, measurement), together: true };
    const pair = stack.use(await GuestPair.start(wanted, options));
    await pair.rest();
    return { forwarder, pair };
  };
  const peers = await attach(testpmd.process, sockets);
  testpmd.process.signal("SIGSTOP");
  const ours = await attach(serve.process, serve.sockets);
  const pairings = stop.aborted ? [] : await duel(ours, peers, wanted, measurement);
  if (pairings.length === 0) return undefined;
  serve.process.signal("SIGCONT");
  return {
    ...wanted,
    ...speedOf(pairings.map(([own]) => own), size_bytes),
    ...await account(ours.pair, serve),
    peer: await peerResult(peers, testpmd, pairings, size_bytes),
  };
}

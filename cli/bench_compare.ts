/**
 * One case of `bench --peer`: the switch and testpmd by turns, with the same guests on the same CPUs.
 *
 * Where a host puts the CPUs of a virtual machine changes every rate by more than any code, and it does so all the
 * time. So both forwarders live at once and take short turns, A B, B A; the one that waits is stopped, and its guests
 * rest. Only the ratio of two turns that follow each other counts, and of all such pairs the median.
 *
 * @module
 */
import { floor_gbps } from "./bench_floor.ts";
import { type Case, type CaseResult, type PairResult, type PeerResult, type Speed, speed } from "./bench_result.ts";
import { account, distance_ns, type Measurement, pairOptions, socketFolder } from "./bench_measure.ts";
import { ratioOf } from "./bench_ratio.ts";
import { type Contender, takeTurn, type Turn, turn_ms } from "./bench_turn.ts";
import { stayed } from "./distance.ts";
import { arrivals, GuestPair } from "./guest_pair.ts";
import type { JsonProcess } from "./json_process.ts";
import { peerSockets, ServeProcess } from "./serve_process.ts";
import { spread } from "./statistics.ts";
import { StopGuard } from "./stop_guard.ts";
import { Testpmd, type TestpmdProgram } from "./testpmd.ts";

/** Speed over several turns. */
function speedOf(turns: readonly Turn[], size_bytes: number): Speed {
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  return speed(sum(turns.map(({ packets }) => packets)), size_bytes, sum(turns.map(({ seconds }) => seconds)));
}

/** Two turns that follow each other. */
interface Pairing {
  readonly ours: Turn;
  readonly peers: Turn;
  readonly disturbed: boolean;
  readonly distance_ns: number | undefined;
}

/** Both take a turn, and the distance of the CPUs is taken before and after. */
async function takePair(
  [first, second]: readonly [Contender, Contender],
  measurement: Measurement,
): Promise<[first: Turn, second: Turn, Pick<Pairing, "disturbed" | "distance_ns">]> {
  const before_ns = await distance_ns(measurement.placement);
  const turns = [await takeTurn(first, measurement), await takeTurn(second, measurement)] as const;
  const moved = !stayed(before_ns, await distance_ns(measurement.placement));
  return [...turns, { disturbed: moved || turns.some(({ disturbed }) => disturbed), distance_ns: before_ns }];
}

/** Takes turns until each has had its seconds. */
async function duel(ours: Contender, peers: Contender, wanted: Case, measurement: Measurement): Promise<Pairing[]> {
  const pairings: Pairing[] = [];
  const count = Math.max(1, Math.ceil(measurement.seconds * 1000 / turn_ms));
  while (pairings.length < count && !measurement.stop.aborted) {
    const oursFirst = pairings.length % 2 === 0;
    const order = oursFirst ? [ours, peers] as const : [peers, ours] as const;
    const [first, second, rest] = await takePair(order, measurement);
    // A turn that was cut short is no half of a pair.
    if (measurement.stop.aborted) break;
    pairings.push(oursFirst ? { ours: first, peers: second, ...rest } : { ours: second, peers: first, ...rest });
    measurement.progress(oursOf(pairings, wanted), pairings.length / count);
  }
  return pairings;
}

function oursOf(pairings: readonly Pairing[], { size_bytes }: Case): Speed {
  return speedOf(pairings.map(({ ours }) => ours), size_bytes);
}

function pairResult({ ours, peers, disturbed, distance_ns }: Pairing): PairResult {
  const [mpps, peer_mpps] = [ours, peers].map(({ packets, seconds }) => packets / seconds / 1e6);
  return { mpps: mpps!, peer_mpps: peer_mpps!, core_distance_ns: distance_ns, disturbed };
}

async function peerResult(
  peers: Contender,
  testpmd: Testpmd,
  pairings: readonly Pairing[],
  size_bytes: number,
): Promise<PeerResult> {
  const pairs = pairings.map(pairResult);
  return {
    name: "testpmd",
    version: testpmd.program.version,
    memory: testpmd.memory,
    ...speedOf(pairings.map((pairing) => pairing.peers), size_bytes),
    ...arrivals(await peers.pair.received()),
    ratio: ratioOf(pairs),
    pairs,
    pairs_disturbed: pairs.filter(({ disturbed }) => disturbed).length,
  };
}

/** Measures one case against testpmd; undefined when it was stopped before one pair of turns was over. */
export async function compare(
  wanted: Case,
  program: TestpmdProgram,
  measurement: Measurement,
): Promise<CaseResult | undefined> {
  const { way, placement, stop } = measurement;
  const { queues, size_bytes } = wanted;
  const workerCpus = placement.worker_cpus;
  await using stack = new AsyncDisposableStack();
  const directory = await socketFolder(stack);
  const serve = stack.use(await ServeProcess.start({ directory, queues, way, workerCpus }));
  const sockets = peerSockets(directory, way);
  const testpmd = stack.use(await Testpmd.start({ program, sockets, queues, cpu: workerCpus[0]! }));
  stack.use(new StopGuard([serve.process.pid, testpmd.process.pid]));
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
  const floor = await floor_gbps(wanted, measurement);
  const pairings = stop.aborted ? [] : await duel(ours, peers, wanted, measurement);
  if (pairings.length === 0) return undefined;
  serve.process.signal("SIGCONT");
  return {
    ...wanted,
    ...oursOf(pairings, wanted),
    ...await account(ours.pair, serve),
    starts: 1,
    core_distance_ns: spread(pairings.flatMap((pairing) => pairing.distance_ns ?? []))?.median,
    floor_gbps: floor,
    peer: await peerResult(peers, testpmd, pairings, size_bytes),
  };
}

/**
 * How many instructions a forwarder needs for a packet, counted one by one, while its rings are full.
 *
 * Unlike rates and cycles this does not depend on what else the machine does. What a burst costs is shared by its
 * packets; and bursts are whole here, as guests are so much quicker than a forwarder that is led by the hand.
 *
 * @module
 */
import { Tracer, VringError } from "../mod.ts";
import { type Measurement, pairOptions, sleep, socketFolder, warmUp_ms } from "./bench_measure.ts";
import type { Case, CaseResult } from "./bench_result.ts";
import { packetThreads } from "./contention.ts";
import { CommandError, HostError } from "./error.ts";
import { GuestPair } from "./guest_pair.ts";
import type { JsonProcess } from "./json_process.ts";
import { pause } from "./pause.ts";
import { peerSockets, ServeProcess } from "./serve_process.ts";
import { Testpmd, type TestpmdProgram } from "./testpmd.ts";

/** The guests meanwhile find what is there. */
const settle_ms = 30;
/** So that a burst more or less makes little difference. */
const steps = 600_000;
/** Between two looks whether the user wants no more. */
const stepsAtOnce = 20_000;

/** A case with the instructions of both forwarders; without, where the user wants no more. */
export async function withInstructions(
  found: CaseResult,
  program: TestpmdProgram | undefined,
  measurement: Measurement,
): Promise<CaseResult> {
  const instructions_per_packet = await countOurs(found, measurement);
  if (program === undefined || found.peer === undefined) return { ...found, instructions_per_packet };
  const peer = { ...found.peer, instructions_per_packet: await countPeers(found, program, measurement) };
  return { ...found, instructions_per_packet, peer };
}

async function countOurs(wanted: Case, measurement: Measurement): Promise<number | undefined> {
  const { way, placement } = measurement;
  await using stack = new AsyncDisposableStack();
  const directory = await socketFolder(stack);
  const options = { directory, queues: wanted.queues, way, workerCpus: placement.worker_cpus };
  const { process, sockets } = stack.use(await ServeProcess.start(options));
  return await countUnderTraffic(process, sockets, wanted, measurement);
}

async function countPeers(
  wanted: Case,
  program: TestpmdProgram,
  measurement: Measurement,
): Promise<number | undefined> {
  const { way, placement } = measurement;
  await using stack = new AsyncDisposableStack();
  const sockets = peerSockets(await socketFolder(stack), way);
  const options = { program, sockets, queues: wanted.queues, cpu: placement.worker_cpus[0]! };
  const { process } = stack.use(await Testpmd.start(options));
  return await countUnderTraffic(process, sockets, wanted, measurement);
}

async function countUnderTraffic(
  forwarder: JsonProcess,
  sockets: readonly string[],
  wanted: Case,
  measurement: Measurement,
): Promise<number | undefined> {
  const { stop } = measurement;
  await using pair = await GuestPair.start(wanted, { ...pairOptions(sockets, measurement), together: true });
  await pair.send();
  await sleep(warmUp_ms, stop);
  const [thread, ...others] = packetThreads(forwarder.pid);
  if (thread === undefined || others.length > 0) {
    const count = thread === undefined ? "no thread" : `${others.length + 1} threads`;
    throw new CommandError(`cannot count instructions: ${forwarder.name} has ${count} for packets: give it one`);
  }
  return await countThread(thread, pair, stop);
}

function hold(thread: number): Tracer {
  try {
    return Tracer.hold(thread);
  } catch (reason) {
    if (!(reason instanceof VringError)) throw reason;
    throw new HostError(
      `cannot count instructions: ${reason.reason}: it takes ptrace of our own children: in a container ` +
        "--cap-add SYS_PTRACE, or leave out --instructions",
    );
  }
}

async function countThread(thread: number, pair: GuestPair, stop: AbortSignal): Promise<number | undefined> {
  let instructions = 0;
  using tracer = hold(thread);
  await pause(settle_ms);
  const before = await pair.received();
  for (let done = 0; done < steps && !stop.aborted; done += stepsAtOnce) {
    instructions += tracer.step(stepsAtOnce);
    // Ctrl-C is heard.
    await pause(0);
  }
  await pause(settle_ms);
  const packets = (await pair.received()).received - before.received;
  return stop.aborted || packets === 0 ? undefined : instructions / packets;
}

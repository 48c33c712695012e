/**
 * Every pairing of a kind of packet with a receiver, one after the other.
 *
 * @module
 */
import { takings } from "./bench_result.ts";
import { type Arrival, arrivalsOf, type OffloadedPacket, sentOf, type Taken } from "./segment_model.ts";
import { checkAll, type Expectation } from "./tso_check.ts";
import { packetsOf } from "./tso_packets.ts";
import { type Failure, offloads, type Pairing, type Receiver } from "./tso_result.ts";
import { buffersMax, buffersOf, macs, roomOf, type TestRig, TsoRig } from "./tso_rig.ts";

/** Packets that are sent before the first of them is looked at. */
const burstMax = 16;

/** All receivers, in the order in which they are attached. */
export const receivers: readonly Receiver[] = (["split", "packed"] as const).flatMap((ring) =>
  [true, false].flatMap((mergeable) => takings.map((takes) => ({ ring, mergeable, takes })))
);

/** Of each receiver: every kind of packet with and without a tag. */
export const pairingsEach = 2 * offloads.length;

/** What to test, and what to expect. */
export interface PairingPlan {
  readonly receivers: readonly Receiver[];
  /** Aborted when the user wants no more. */
  readonly stop: AbortSignal;
  /** Called after each pairing with all there are so far. */
  progress(pairings: readonly Pairing[]): void;
  /** What must arrive. */
  readonly model?: (packet: OffloadedPacket, taken: Taken) => Arrival[];
  /** Where it is tested; by default between guests. */
  readonly open?: () => Promise<TestRig>;
}

function takenBy({ takes }: Receiver): Taken {
  return { checksums: takes !== "nothing", segments: takes === "all" };
}

/** Parts that fit into the rings at once. */
function* burstsOf(expectations: readonly Expectation[], receiver: Receiver): Generator<Expectation[]> {
  let burst: Expectation[] = [];
  let buffers = 0;
  for (const expectation of expectations) {
    const more = expectation.arrivals.reduce((sum, arrival) => sum + buffersOf(receiver, arrival), 0);
    if (burst.length === burstMax || burst.length > 0 && buffers + more > buffersMax) {
      yield burst;
      burst = [];
      buffers = 0;
    }
    burst.push(expectation);
    buffers += more;
  }
  if (burst.length > 0) yield burst;
}

const lateFailure: Failure = { packet: "a small one behind the others", reason: "did not arrive", lines: [] };

/** Fragments that Linux makes wrong, as of 6.18: at odd places, and behind extension headers. */
function isUnusual({ packet, segmentation, size }: OffloadedPacket): boolean {
  return segmentation === "fragments" && (size % 8 !== 0 || packet.hopByHop.length > 0);
}

async function failureOf(
  rig: TestRig,
  receiver: Receiver,
  expectations: readonly Expectation[],
): Promise<Failure | undefined> {
  const before = rig.drops();
  for (const burst of burstsOf(expectations, receiver)) {
    const { received, marked } = await rig.exchange(burst.map(({ packet }) => sentOf(packet)));
    const failure = checkAll(burst, received);
    // What is late must not be taken for the next packets.
    if (!marked) await rig.attach(receiver);
    if (failure === undefined && marked) continue;
    const { packet, reason, lines } = failure ?? lateFailure;
    const drops = rig.drops();
    return { packet, reason: drops === before ? reason : `${reason} (dropped by the switch: ${drops})`, lines };
  }
  return undefined;
}

/** Runs all pairings of these receivers; what was finished when the user wanted no more is what there is. */
export async function runPairings(plan: PairingPlan): Promise<Pairing[]> {
  const { stop, progress, model = arrivalsOf, open = () => TsoRig.open() } = plan;
  const pairings: Pairing[] = [];
  await using rig = await open();
  for (const receiver of plan.receivers) {
    if (stop.aborted) break;
    await rig.attach(receiver);
    for (const offload of offloads) {
      for (const vlan of [false, true]) {
        if (stop.aborted) break;
        const route = { destination: macs.receiver, source: macs.sender };
        const packets = packetsOf(offload, vlan, roomOf(receiver), route)
          .filter((packet) => receiver.ring !== "tap" || !isUnusual(packet));
        const expectations = packets.map((packet) => ({ packet, arrivals: model(packet, takenBy(receiver)) }));
        const failure = await failureOf(rig, receiver, expectations);
        const frames = expectations.reduce((sum, { arrivals }) => sum + arrivals.length, 0);
        const result = failure === undefined ? "pass" : "fail";
        pairings.push({
          ...{ ...receiver, offload, vlan, result, packets: packets.length, frames },
          ...failure === undefined ? {} : { failure },
        });
        progress(pairings);
      }
    }
  }
  return pairings;
}

/**
 * How fast payload goes from guest to guest, by who makes segments of it.
 *
 * @module
 */
import { measure } from "./bench_measure.ts";
import { place } from "./bench_common_options.ts";
import { frameHeaderBytes } from "./bench_options.ts";
import { type Case, faultless, type Ring, type Speed } from "./bench_result.ts";
import { CommandError } from "./error.ts";
import { allowedCpus } from "./machine.ts";
import { type Cutter, cutters, type Throughput } from "./tso_result.ts";

/** Payload of a segment, and the longest frame. */
const segmentBytes = 1448;
const frameBytes = 65_535;
const ringSize = 256;
const checkEvery = 1024;

/** What to measure, and how long each. */
export interface ThroughputPlan {
  readonly seconds: number;
  /** Aborted when the user wants no more. */
  readonly stop: AbortSignal;
  /** Called now and then with what there is so far, the last of it still under way. */
  progress(throughput: readonly Throughput[]): void;
}

function caseOf(ring: Ring, cutter: Cutter): Case {
  const common = { ring, queues: 1, ring_size: ringSize };
  if (cutter === "sender") return { ...common, size_bytes: frameHeaderBytes + segmentBytes };
  const receiver_takes = cutter === "nobody" ? "all" : "nothing";
  return { ...common, size_bytes: frameBytes, offload: { gso_bytes: segmentBytes, receiver_takes } };
}

/** Headers are no payload: where nobody cuts there are hardly any. */
function throughputOf(ring: Ring, cut_by: Cutter, { mpps, gbps }: Speed): Throughput {
  return { ring, cut_by, gbps: gbps - mpps * frameHeaderBytes * 8 / 1000 };
}

/** Each cutter on each ring; what was finished when the user wanted no more is what there is. */
export async function measureThroughput({ seconds, stop, progress }: ThroughputPlan): Promise<Throughput[]> {
  const placement = place(allowedCpus());
  const found: Throughput[] = [];
  for (const ring of ["split", "packed"] as const) {
    for (const cutter of cutters) {
      if (stop.aborted) return found;
      const result = await measure(caseOf(ring, cutter), {
        ...{ way: "vm2vm" as const, seconds, placement, stop, check_every: checkEvery },
        progress: (now) => progress([...found, throughputOf(ring, cutter, now)]),
      });
      if (result === undefined) return found;
      if (!faultless(result)) {
        const { duplicated, reordered, corrupted } = result;
        const counts = `${duplicated} duplicated, ${reordered} reordered, ${corrupted} corrupted`;
        throw new CommandError(`packets arrived wrong at full speed: ${counts}: please report it`);
      }
      found.push(throughputOf(ring, cutter, result));
    }
  }
  return found;
}

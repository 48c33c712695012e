/**
 * What no forwarder can be quicker than: one thread that copies the same buffers in the same order, which another CPU
 * has written before.
 *
 * @module
 */
import { copyFloor, VringError } from "../mod.ts";
import type { Measurement } from "./bench_measure.ts";
import type { Case } from "./bench_result.ts";
import { bufferBytes } from "./guest_attach.ts";

/** Headers and sequence number, which simulated guests write into every frame. */
const stampBytes = 50;

/** What is copied there, in Gbit/s; undefined where there is but one CPU, or one was not to be had. */
export async function floor_gbps(
  { size_bytes, ring_size: ringSize, variant }: Case,
  { placement, check_every }: Pick<Measurement, "placement" | "check_every">,
): Promise<number | undefined> {
  const [worker, sender] = [placement.worker_cpus[0]!, placement.guest_cpus[0]!];
  if (worker === sender) return undefined;
  try {
    const taken_ns = await copyFloor(worker, sender, {
      frameBytes: size_bytes,
      // Every byte, where every byte is checked.
      writtenBytes: check_every === 1 ? size_bytes : Math.min(size_bytes, stampBytes),
      bufferBytes: bufferBytes({ frameBytes: size_bytes, ringSize, variant }),
      ringSize,
    });
    return taken_ns > 0 ? size_bytes * 8 / taken_ns : undefined;
  } catch (reason) {
    if (reason instanceof VringError && reason.status === "busy") return undefined;
    throw reason;
  }
}

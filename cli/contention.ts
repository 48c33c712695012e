/**
 * How long a process waited for a CPU that somebody else had.
 *
 * @module
 */
import { listSystemDirectory, readSystemFile } from "../mod.ts";

/** Threads that carry packets: libvring's `vhost worker` and `guests`, testpmd's `rte-worker-1`. Not those of V8. */
const packetThread = /worker|guest/;

/** The threads of a process which carry packets. */
export function packetThreads(pid: number): number[] {
  const folder = `/proc/${pid}/task`;
  return listSystemDirectory(folder).map(Number)
    .filter((thread) => packetThread.test(readSystemFile(`${folder}/${thread}/comm`) ?? ""));
}

/**
 * Nanoseconds that the threads of a process which carry packets have been ready to run and did not, since they began.
 * 0 where the kernel does not count.
 */
export function waitedForCpu_ns(pid: number): number {
  return packetThreads(pid).reduce((sum, thread) => {
    // Time on the CPU, time waiting for one, time slices (Linux, Documentation/scheduler/sched-stats.rst).
    const text = readSystemFile(`/proc/${pid}/task/${thread}/schedstat`);
    return sum + Number(text?.split(" ")[1] ?? 0);
  }, 0);
}

/**
 * How long a process waited for a CPU that somebody else had.
 *
 * @module
 */
import { listSystemDirectory, readSystemFile } from "../mod.ts";

/**
 * Nanoseconds that the threads of a process have been ready to run and did not, since they began. 0 where the kernel
 * does not count.
 */
export function waitedForCpu_ns(pid: number): number {
  const folder = `/proc/${pid}/task`;
  return listSystemDirectory(folder).reduce((sum, thread) => {
    // Time on the CPU, time waiting for one, time slices (Linux, Documentation/scheduler/sched-stats.rst).
    const text = readSystemFile(`${folder}/${thread}/schedstat`);
    return sum + Number(text?.split(" ")[1] ?? 0);
  }, 0);
}

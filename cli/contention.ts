/**
 * How long a process waited for a CPU that somebody else had.
 *
 * @module
 */

/**
 * Nanoseconds that the threads of a process have been ready to run and did not, since they began. 0 where the kernel
 * does not count.
 */
export async function waitedForCpu_ns(pid: number): Promise<number> {
  const folder = `/proc/${pid}/task`;
  let sum = 0;
  try {
    for await (const thread of Deno.readDir(folder)) {
      // Time on the CPU, time waiting for one, time slices (Linux, Documentation/scheduler/sched-stats.rst).
      const text = await Deno.readTextFile(`${folder}/${thread.name}/schedstat`).catch(() => "");
      sum += Number(text.split(" ")[1] ?? 0);
    }
  } catch (reason) {
    if (!(reason instanceof Deno.errors.NotFound)) throw reason;
  }
  return sum;
}

// What a process holds, as the kernel counts it.

import { eventually } from "./process.ts";

export interface Footprint {
  readonly fds: number;
  /** What its epoll sets watch: sockets, and rings' kicks. */
  readonly watched: number;
  /** Mappings of the memory of guests. */
  readonly guest_maps: number;
  readonly maps: number;
  readonly resident_mib: number;
}

const settle_timeout_ms = 10_000;
/** Files of QEMU's, and of simulated guests. */
const guestFile = /\/memfd:(memory-backend-memfd|guest) /;

/** What an epoll set watches; of any other file, nothing. A descriptor may go while it is looked at. */
function watchedBy(fdinfo: string): number {
  try {
    return Deno.readTextFileSync(fdinfo).match(/^tfd:/gm)?.length ?? 0;
  } catch {
    return 0;
  }
}

export function footprint(pid: number): Footprint {
  const maps = Deno.readTextFileSync(`/proc/${pid}/maps`).trimEnd().split("\n");
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  const fds = [...Deno.readDirSync(`/proc/${pid}/fd`)];
  return {
    fds: fds.length,
    watched: fds.reduce((sum, { name }) => sum + watchedBy(`/proc/${pid}/fdinfo/${name}`), 0),
    guest_maps: maps.filter((line) => guestFile.test(line)).length,
    maps: maps.length,
    resident_mib: Number(/VmRSS:\s*(\d+)/.exec(status)?.[1]) / 1024,
  };
}

/** Waits until it holds what it held before, of what comes with a front end and must go with it. */
export async function settles(pid: number, before: Footprint): Promise<Footprint> {
  let now = footprint(pid);
  return await eventually("it holds what it held before", settle_timeout_ms, () => {
    now = footprint(pid);
    const same = (["fds", "watched", "guest_maps"] as const).every((what) => now[what] === before[what]);
    return same ? now : undefined;
  }, 2).catch(() => {
    throw new Error(`it holds ${footprintText(now)}: before, ${footprintText(before)}`);
  });
}

export function footprintText({ fds, watched, guest_maps, maps, resident_mib }: Footprint): string {
  return `${fds} fds, ${watched} watched, ${guest_maps} mappings of guests of ${maps}, ` +
    `${resident_mib.toFixed(0)} MiB resident`;
}

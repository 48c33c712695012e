// What a process holds, as the kernel counts it.

import { eventually } from "./process.ts";

export interface Footprint {
  readonly fds: number;
  /** Mappings of the memory of guests. */
  readonly guest_maps: number;
  readonly maps: number;
  readonly resident_mib: number;
}

const settle_timeout_ms = 10_000;

export function footprint(pid: number): Footprint {
  const maps = Deno.readTextFileSync(`/proc/${pid}/maps`).trimEnd().split("\n");
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return {
    fds: [...Deno.readDirSync(`/proc/${pid}/fd`)].length,
    guest_maps: maps.filter((line) => line.includes("/memfd:memory-backend-memfd")).length,
    maps: maps.length,
    resident_mib: Number(/VmRSS:\s*(\d+)/.exec(status)?.[1]) / 1024,
  };
}

/** Waits until it holds what it held before, of what comes with a front end and must go with it. */
export async function settles(pid: number, { fds, guest_maps }: Footprint): Promise<Footprint> {
  let now = footprint(pid);
  return await eventually("it holds what it held before", settle_timeout_ms, () => {
    now = footprint(pid);
    return now.fds === fds && now.guest_maps === guest_maps ? now : undefined;
  }, 10).catch(() => {
    throw new Error(`it holds ${JSON.stringify(now)}: before, ${fds} fds and ${guest_maps} mappings of guests`);
  });
}

export function footprintText({ fds, guest_maps, maps, resident_mib }: Footprint): string {
  return `${fds} fds, ${guest_maps} mappings of guests of ${maps}, ${resident_mib.toFixed(0)} MiB resident`;
}

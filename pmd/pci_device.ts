/**
 * PCI devices of this machine, as the kernel shows them below /sys.
 *
 * @module
 */
import { listSystemDirectory, openSystemFile, readSystemFile } from "../ffi/machine.ts";
import type { Fd } from "../vhost/fd.ts";

const folder = "/sys/bus/pci/devices";
const pageBytes = 4096;

/** What ivshmem devices are (QEMU docs/specs/ivshmem-spec, "Device-specific registers"). */
const ivshmem = { vendor: "0x1af4", device: "0x1110" } as const;

/** The addresses, such as `0000:00:05.0`, of all ivshmem devices, in order. */
export function findIvshmem(): string[] {
  const named = (address: string, file: string) => readSystemFile(`${folder}/${address}/${file}`)?.trim();
  return listSystemDirectory(folder).toSorted().filter((address) =>
    named(address, "vendor") === ivshmem.vendor && named(address, "device") === ivshmem.device
  );
}

/** A BAR, to be mapped: as long as that is. Throws `VringError`: `errno` 2 where there is no such device or BAR. */
export function openBar(address: string, number: number): Fd {
  return openSystemFile(`${folder}/${address}/resource${number}`);
}

/** Where a BAR begins in its first page, in bytes: what is mapped begins with that page. */
export function barOffset(address: string, number: number): number {
  const line = readSystemFile(`${folder}/${address}/resource`)?.split("\n")[number] ?? "";
  const [start = "0"] = line.split(" ");
  return Number(BigInt(start) % BigInt(pageBytes));
}

/** How long a BAR is, in bytes; 0: there is none. */
export function barBytes(address: string, number: number): number {
  const line = readSystemFile(`${folder}/${address}/resource`)?.split("\n")[number] ?? "";
  const [start = "0", end = "0"] = line.split(" ");
  return end === "0" || BigInt(end) === 0n ? 0 : Number(BigInt(end) - BigInt(start)) + 1;
}

// Where Linux guests live: sockets and a file system.

import { type GuestOptions, LinuxGuest } from "./guest.ts";

/** A folder for sockets, with the guests' file system in it; it vanishes. */
export class Folder implements Disposable {
  readonly path = Deno.makeTempDirSync({ prefix: "vhostctl-linux-" });
  readonly initramfs = `${this.path}/initramfs`;

  socket(port: number): string {
    return `${this.path}/port${port}.sock`;
  }

  guest(port: number, options: Partial<GuestOptions> = {}): GuestOptions {
    const place = { folder: this.path, initramfs: this.initramfs, socket: this.socket(port) };
    return { ...place, mac: `52:54:00:00:00:0${port + 1}`, ...options };
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

/** Two guests at once: a machine under emulation takes its time. */
export async function bootBoth(left: GuestOptions, right: GuestOptions): Promise<[LinuxGuest, LinuxGuest]> {
  const results = await Promise.allSettled([LinuxGuest.boot(left), LinuxGuest.boot(right)]);
  const [first, second] = results;
  if (first.status === "fulfilled" && second.status === "fulfilled") return [first.value, second.value];
  for (const result of results) if (result.status === "fulfilled") await result.value.kill();
  throw results.find((result) => result.status === "rejected")!.reason;
}

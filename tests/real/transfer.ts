// Much from one guest to another, and how big the packets were.

import assert from "node:assert/strict";
import type { LinuxGuest } from "./guest.ts";
import type { PortReport, Serve } from "./serve.ts";

export const transfer_timeout_ms = 180_000;
/** A frame of a TCP segment is no longer, with an MTU of 1500. */
export const segment_bytes = 1514;

export type Direction = "from_guest" | "to_guest";

/** Bytes of a mean packet that came or went since. Acknowledgements, which are small, go the other way. */
export function meanBytes(direction: Direction, before: PortReport, after: PortReport): number {
  const grown = (counter: string) => after[direction][counter]! - before[direction][counter]!;
  return grown("bytes") / grown("packets");
}

/** A port's counters around something. */
export async function around(
  serve: Serve,
  port: string,
  act: () => Promise<void>,
): Promise<[before: PortReport, after: PortReport]> {
  const before = (await serve.ports()).get(port)!;
  await act();
  return [before, (await serve.ports()).get(port)!];
}

/** A file of random bytes from one guest to the other arrives as it was. */
export async function copiesFile(from: LinuxGuest, to: LinuxGuest, address: string, size_mb: number): Promise<void> {
  const sum = await from.run(
    `dd if=/dev/urandom of=/tmp/file bs=1M count=${size_mb} 2>/dev/null && sha256sum </tmp/file`,
    transfer_timeout_ms,
  );
  // A listener whose standard input ends would hang up at once, so it gets a pipe that never does.
  await to.run("rm -f /tmp/pipe /tmp/sum; mkfifo /tmp/pipe");
  await to.run("(nc -l -p 5000 <>/tmp/pipe >/tmp/file; sha256sum </tmp/file >/tmp/whole; mv /tmp/whole /tmp/sum) &");
  await to.until("netstat -ltn | grep :5000");
  const started = performance.now();
  await from.run(`nc ${address} 5000 </tmp/file`, transfer_timeout_ms);
  const seconds = (performance.now() - started) / 1000;
  await to.until("[ -e /tmp/sum ]", transfer_timeout_ms);
  const arrived = await to.run("cat /tmp/sum");
  assert.match(sum, /^[0-9a-f]{64}\b/);
  assert.equal(arrived, sum);
  await from.run("rm /tmp/file");
  await to.run("rm /tmp/file");
  console.error(`file: ${size_mb} MB in ${seconds.toFixed(1)} s, ${(8 * size_mb / seconds).toFixed(0)} Mbit/s`);
}

/** What iperf3 says that the receiver got; `options` are the client's. */
export function receivedText(text: string): string {
  const figure = /([\d.]+ [KMG]bits\/sec)\s+receiver/.exec(text);
  assert(figure, `iperf3 has no figure: ${text}`);
  return figure[1]!;
}

/** Recorded, not judged: it is the speed of QEMU's emulation. */
export async function measures(from: LinuxGuest, to: LinuxGuest, address: string, options = "-t 3"): Promise<void> {
  await to.run("pidof iperf3 || iperf3 -s -D");
  const text = await from.run(`iperf3 -c ${address} ${options}`, transfer_timeout_ms);
  console.error(`iperf3 ${options}: ${receivedText(text)}`);
}

// How long testpmd's ports receive nothing while their back end is away, as its counters tell that are asked all the
// time: to a few milliseconds.

import type { Testpmd } from "./dpdk.ts";
import { within } from "./process.ts";

/** Something new has come at so many looks: packets flow. */
const newsWanted = 20;
const patience_ms = 20_000;
/** The driver answers on the CPU on which it forwards. */
const look_ms = 2;

/** What one port has received, and when. */
class Arrivals {
  #packets = -1;
  #last_ms = NaN;
  longest_ms = 0;
  news = 0;

  look(packets: number, now_ms: number): void {
    if (packets === this.#packets) return;
    if (this.#packets >= 0) this.longest_ms = Math.max(this.longest_ms, now_ms - this.#last_ms);
    this.#packets = packets;
    this.#last_ms = now_ms;
    this.news++;
  }
}

/** Packets of its own, in 1024 flows, as fast as it can, out of each port. */
export async function generate(driver: Testpmd): Promise<void> {
  await driver.command("set fwd flowgen");
  await driver.command("start");
}

/**
 * Kills the back end, and has another started in its place: returns the longest time for which a port of the driver
 * received nothing, until all receive again.
 */
export async function silence_ms(driver: Testpmd, kill: () => Promise<unknown>, start: () => void): Promise<number> {
  const ports = driver.options.sockets.map(() => new Arrivals());
  const flows = async () => {
    for (const port of ports) port.news = 0;
    while (ports.some((port) => port.news < newsWanted)) {
      for (const [number, port] of ports.entries()) {
        port.look(await driver.received(number), performance.now());
      }
      await new Promise((resolve) => setTimeout(resolve, look_ms));
    }
  };
  await within("packets flow", patience_ms, flows());
  for (const port of ports) port.longest_ms = 0;
  await kill();
  start();
  await within("packets flow again", patience_ms, flows());
  return Math.max(...ports.map((port) => port.longest_ms));
}

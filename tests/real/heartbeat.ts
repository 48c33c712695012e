// Pings that a guest sends without end, with the guest's own time of each answer: the longest time without one is how
// long traffic stood still.

import type { LinuxGuest } from "./guest.ts";

const period_s = 0.02;
const patience_ms = 30_000;

export class Heartbeat {
  readonly #guest: LinuxGuest;

  private constructor(guest: LinuxGuest) {
    this.#guest = guest;
  }

  static async start(guest: LinuxGuest, address: string): Promise<Heartbeat> {
    const note = 'while read -r line; do read -r up rest </proc/uptime; echo "$up $line"; done';
    await guest.run(`(ping -i ${period_s} ${address} | ${note} >>/tmp/beat) 2>/dev/null &`);
    const heartbeat = new Heartbeat(guest);
    await heartbeat.answered(10);
    return heartbeat;
  }

  /** Waits for so many answers from now on. */
  async answered(count: number): Promise<void> {
    const answers = async () => Number(await this.#guest.run("grep -c seq= /tmp/beat || true"));
    const before = await answers();
    await this.#guest.until(`[ $(grep -c seq= /tmp/beat) -ge ${before + count} ]`, patience_ms);
  }

  /** The longest time between two answers since this was called before, to a hundredth of a second. */
  async longestGap_ms(): Promise<number> {
    const longest = "{ if (NR > 1 && $1 - last > most) most = $1 - last; last = $1 } END { print most * 1000 }";
    const gap_ms = Number(await this.#guest.run(`grep seq= /tmp/beat | awk '${longest}'`));
    await this.#guest.run(": >/tmp/beat");
    return gap_ms;
  }

  async stop(): Promise<void> {
    await this.#guest.run("killall ping");
  }
}

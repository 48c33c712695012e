// TCP between two guests that must outlive whatever happens to the switch between them: a file under way, without end,
// whose bytes are summed up on both sides, and iperf3 beside it.

import assert from "node:assert/strict";
import type { LinuxGuest } from "./guest.ts";
import { transfer_timeout_ms } from "./transfer.ts";

export class TcpLoad {
  readonly #from: LinuxGuest;
  readonly #to: LinuxGuest;

  private constructor(from: LinuxGuest, to: LinuxGuest) {
    this.#from = from;
    this.#to = to;
  }

  static async start(from: LinuxGuest, to: LinuxGuest, address: string): Promise<TcpLoad> {
    await to.run("mkfifo /tmp/open && iperf3 -s -D");
    // A listener whose standard input ends would hang up at once, so it gets a pipe that never does.
    const receive = "nc -l -p 5000 <>/tmp/open | sha256sum >/tmp/whole; mv /tmp/whole /tmp/sum";
    await to.run(`(${receive}) &`);
    await to.until("netstat -ltn | grep :5000");
    await from.run("mkfifo /tmp/copy && (sha256sum </tmp/copy >/tmp/sum) &");
    const piece = "dd if=/dev/urandom bs=64K count=16 2>/dev/null; echo >>/tmp/pieces";
    const produce = `while [ ! -e /tmp/stop ]; do ${piece}; done`;
    await from.run(`(${produce} | tee /tmp/copy | nc ${address} 5000; touch /tmp/ended) &`);
    await from.run(`(iperf3 -c ${address} -t 0 -i 1 --forceflush >/tmp/iperf 2>&1; touch /tmp/iperf_ended) &`);
    await from.until("grep -q sec /tmp/iperf");
    return new TcpLoad(from, to);
  }

  /** Neither connection has ended: TCP has lost, sent again, and lost nothing for good. */
  async lives(): Promise<void> {
    const ended = "ls /tmp/ended /tmp/iperf_ended 2>/dev/null || true";
    assert.equal(await this.#from.run(ended), "", "a TCP connection ended early");
  }

  /** iperf3's second has bytes again. */
  async iperfFlows(): Promise<void> {
    const moved = "tail -n 1 /tmp/iperf | grep -v ' 0.00 bits/sec' | grep -q bits/sec";
    await this.#from.until(moved, transfer_timeout_ms);
  }

  /** Ends both; what arrived must be what was sent. Returns how much that was. */
  async finish(): Promise<{ readonly file_mib: number; readonly iperf: string }> {
    await this.lives();
    await this.#from.run("touch /tmp/stop");
    await this.#to.until("[ -e /tmp/sum ]", transfer_timeout_ms);
    await this.#from.until("[ -e /tmp/ended ]", transfer_timeout_ms);
    const [sent, arrived] = [await this.#from.run("cat /tmp/sum"), await this.#to.run("cat /tmp/sum")];
    assert.match(sent, /^[0-9a-f]{64}\b/);
    assert.equal(arrived, sent);
    const file_mib = Number(await this.#from.run("wc -l </tmp/pieces"));
    await this.#from.run("killall -INT iperf3");
    await this.#from.until("[ -e /tmp/iperf_ended ]");
    const text = await this.#from.run("cat /tmp/iperf");
    const figures = /([\d.]+ \wBytes\s+[\d.]+ \wbits\/sec)\s+\d+\s+sender/.exec(text);
    assert(figures, `iperf3 has no figures: ${text.slice(-500)}`);
    return { file_mib, iperf: figures[1]! };
  }
}

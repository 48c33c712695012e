// `pmd-forward` is killed again and again under DPDK's virtio-user, which listens, and starts again with the same
// command line. How long that takes, and DPDK's own back end beside it: bench/outage.ts.

import assert from "node:assert/strict";
import { ring_paths, type RingPath, Testpmd } from "./dpdk.ts";
import { Ports } from "./exchange.ts";
import { realTest } from "./peers.ts";
import { rounds, somewhile, tellTimes } from "./rounds.ts";
import { generate, silence_ms } from "./rx_silence.ts";
import { Serve } from "./serve.ts";

const longestLife_ms = 300;

async function survivesKills(path: RingPath): Promise<void> {
  using ports = new Ports();
  const vdevs = ports.sockets.flatMap((socket, port) => ["--vdev", `eth_vhost${port},iface=${socket},client=1`]);
  let next = Serve.forward(...vdevs);
  await using _forward = { [Symbol.asyncDispose]: async () => await (await next)[Symbol.asyncDispose]() };
  await using driver = await Testpmd.start({ sockets: ports.sockets, path, server: true });
  await generate(driver);
  const silences_ms: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const { program } = await next;
    const start = () => next = Serve.forward(...vdevs);
    silences_ms.push(await silence_ms(driver, () => program.stop("SIGKILL"), start));
    await somewhile(longestLife_ms);
  }
  tellTimes("nothing was received for", silences_ms);
  assert.equal((await (await next).program.stop("SIGTERM")).code, 0);
}

// After a reconnect virtio-user has its split rings begin at 0, wherever they stood: they themselves know better.
// Packed ones it makes anew.
for (const packed of [true, false]) {
  const path = ring_paths.find((one) => one.packed === packed)!;
  realTest(`pmd-forward is killed again and again, testpmd listens, ${path.name}`, ["dpdk"], () => survivesKills(path));
}

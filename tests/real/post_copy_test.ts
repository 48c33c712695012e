// A guest under stock QEMU migrates by post-copy to another port of `serve`: it runs there while most of its memory is
// still with the first QEMU, and what we touch of it is fetched as it is needed.

import assert from "node:assert/strict";
import { address, Hop, migration_timeout_ms } from "./hop.ts";
import { realTest } from "./peers.ts";

const file_mb = 40;
/** Slow enough that traffic meets pages that are not there yet. */
const bytes_per_second = 20_000_000;
const post_copy_bytes_per_second = 10_000_000;
/** QEMU's word for it. */
const pageFetched = "vhost_user_postcopy_fault_handler_found";

/** Begins to migrate, and switches over long before all memory has gone. */
async function begin(hop: Hop): Promise<void> {
  const { serve, source, destination } = hop;
  for (const guest of [source, destination]) {
    const capabilities = [{ capability: "postcopy-ram", state: true }];
    await guest.qmp("migrate-set-capabilities", { capabilities });
  }
  const limits = { "max-bandwidth": bytes_per_second, "max-postcopy-bandwidth": post_copy_bytes_per_second };
  await source.qmp("migrate-set-parameters", limits);
  await hop.begin();
  await hop.until("the first of memory has gone", ({ ram }) => (ram?.transferred ?? 0) > 0);
  await source.qmp("migrate-start-postcopy");
  await serve.until("post_copy", { port: "port2", phase: "listening" });
  await serve.until("started", { port: "port2" });
}

realTest("a guest migrates by post-copy, and its connection goes on", ["linux"], async () => {
  await using hop = await Hop.start({ destination: "postcopy=on", trace: pageFetched });
  const { serve, peer, source, destination } = hop;
  const make = (name: string) => `dd if=/dev/urandom of=/tmp/${name} bs=1M count=${file_mb} 2>/dev/null`;
  const kept = await source.run(`${make("kept")} && sha256sum </tmp/kept`, migration_timeout_ms);
  const sent = await peer.run(`${make("sent")} && sha256sum </tmp/sent`, migration_timeout_ms);
  await source.run("httpd -h /tmp");
  await source.run("mkfifo /tmp/pipe");
  await source.run("(nc -l -p 5000 <>/tmp/pipe >/tmp/got; sha256sum </tmp/got >/tmp/whole; mv /tmp/whole /tmp/sum) &");
  await source.until("netstat -ltn | grep :5000");
  // Not all at once: it shall last until the guest runs elsewhere.
  const slowly = `i=0; while [ $i -lt ${file_mb} ]; do dd bs=1M count=1 skip=$i 2>/dev/null </tmp/sent; sleep 0.3; ` +
    "i=$((i+1)); done";
  await peer.run(`((${slowly}) | nc ${address.mover} 5000) &`);
  await peer.run(`(ping -i 0.2 -w 30 ${address.mover} >/tmp/ping) &`);
  await begin(hop);
  // By sendfile: the guest itself does not touch what it sends.
  await peer.reach(address.mover, migration_timeout_ms);
  const got = await peer.run(`wget -q -O - http://${address.mover}/kept | sha256sum`, migration_timeout_ms);
  assert.equal(got, kept);
  await serve.until("post_copy", { port: "port2", phase: "over" }, { timeout_ms: migration_timeout_ms });
  assert.equal(await hop.end(), "completed");
  await destination.until("[ -e /tmp/sum ]", migration_timeout_ms);
  assert.equal(await destination.run("cat /tmp/sum"), sent);
  assert.equal(await destination.run("sha256sum </tmp/kept"), kept);
  await peer.until("! pidof ping", migration_timeout_ms);
  const pings = await peer.run("grep received /tmp/ping");
  const fetched = destination.log.split(pageFetched).length - 1;
  console.error(`${pings}; ${fetched} pages were fetched because we touched them`);
  assert(fetched > 0, "QEMU was asked for no page");
  await destination.close();
  await serve.finish();
});

// `vhostctl reconnect-watch` beside Linux guests whose `serve` is killed: what it sees is what befell them.

import assert from "node:assert/strict";
import { writeInitramfs } from "./initramfs.ts";
import { bootBoth, Folder } from "./linux_folder.ts";
import { realTest } from "./peers.ts";
import { Serve } from "./serve.ts";
import { Watch } from "./watch.ts";

const queues = 2;
const traffic_timeout_ms = 20_000;
const addresses = ["10.0.0.1", "10.0.0.2"] as const;

realTest("serve is killed: the outage of each guest is seen, and what QEMU says of it", ["linux"], async () => {
  using folder = new Folder();
  await writeInitramfs(folder.initramfs);
  const control = `${folder.path}/control.sock`;
  const ports = ["left", "right"].flatMap((name, number) => [
    ...["--port", `name=${name},socket=${folder.socket(number)},mode=client,queues=${queues}`],
  ]);
  const words = ["--dir", folder.path, ...ports];
  await using before = await Serve.start(...words);
  const options = { listen: true, queues, cpus: queues };
  const [left, right] = await bootBoth(folder.guest(0, options), folder.guest(1, options));
  await using _left = left;
  await using _right = right;
  for (const [index, guest] of [left, right].entries()) await guest.setAddress(`${addresses[index]}/24`);
  await left.reach(addresses[1], traffic_timeout_ms);

  await using watch = await Watch.start("--attach", control, "--qmp", left.freeQmp, "--max-outage", "1");
  for (const port of ["left", "right"]) {
    const { features } = await watch.until("found", { port, state: "running", ring: "split" });
    assert.ok((features as string[]).includes("MRG_RXBUF"), `${features}`);
    await watch.until("queues", { port, queue_pairs_up: queues });
  }
  await watch.until("qemu_back_end", { netdev: "net0", connected: true });

  await left.run(`(ping -i 0.1 ${addresses[1]} >/dev/null 2>&1 &)`);
  const killed = watch.now;
  await before.program.stop("SIGKILL");
  await watch.until("serve_gone");
  await watch.until("qemu_back_end", { connected: false }, { from: killed });
  await using serve = await Serve.start(...words);
  const lengths = new Map<string, unknown>();
  for (const port of ["left", "right"]) {
    lengths.set(port, (await watch.until("outage", { port }))["length_ms"]);
    for (const way of ["to_guest", "from_guest"]) await watch.until("traffic", { port, way });
  }
  await watch.until("qemu_back_end", { connected: true }, { from: killed });
  assert.ok(await left.ping(addresses[1], 5) > 0, "the guest is alive, and gets no answers");

  const stopped = watch.now;
  await left.qmp("stop", {}, "STOP");
  await watch.until("qemu_event", { name: "STOP" }, { from: stopped });
  await watch.until("stopped", { port: "left", outage: false }, { from: stopped });
  await left.qmp("cont", {}, "RESUME");
  await watch.until("started", { port: "left" }, { from: stopped });
  await right.bindDriver(await right.unbindDriver());
  await watch.until("started", { port: "right" }, { from: stopped });

  const { code, errors, summary } = await watch.finish();
  console.error(summary.map(({ port, worst_ms }) => `${port}: ${worst_ms} ms`).join(", "));
  for (const { port, outages, worst_ms, lasting_ms } of summary) {
    assert.deepEqual([outages, worst_ms, lasting_ms], [1, lengths.get(port), null], port);
  }
  assert.equal(code, 1);
  assert.match(errors, /^vhostctl reconnect-watch: outage of (left|right) too long: \d+ ms: --max-outage allows 1 ms$/);
  await left.close();
  await right.close();
  await serve.finish();
});

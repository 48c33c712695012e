// Linux guests under stock QEMU, and beyond an uplink the host or guests of another `serve`: big segments both ways,
// with the guest's offloads on, off, and switched while all runs.

import assert from "node:assert/strict";
import { HostAndGuest } from "./host_and_guest.ts";
import { writeInitramfs } from "./initramfs.ts";
import { bootBoth, Folder } from "./linux_folder.ts";
import { NetworkNamespace } from "./namespace.ts";
import { realTest } from "./peers.ts";
import { Serve } from "./serve.ts";
import { around, copiesFile, meanBytes, segment_bytes } from "./transfer.ts";

const traffic_timeout_ms = 20_000;
const file_mb = 20;
const guest_addresses = ["10.0.0.1", "10.0.0.2"] as const;

realTest("host and guest through a tap: big segments both ways, switched off and on while all runs", [
  "linux",
  "network",
], async () => {
  await using pair = await HostAndGuest.start();
  const { guest, serve } = pair;
  assert(await pair.measure("from_guest", "TSO on") > 2 * segment_bytes);
  assert(await pair.measure("to_guest", "TSO on") > 2 * segment_bytes);
  await guest.run("ethtool -K eth0 tso off");
  assert(await pair.measure("from_guest", "TSO off") <= segment_bytes);
  await guest.run("ethtool -K eth0 tso on");
  assert(await pair.measure("from_guest", "TSO on again") > 2 * segment_bytes);
  assert.equal((await serve.ports()).get("port0")!.to_guest["cut"], 0);
  await pair.close();
});

realTest("host and a guest without offloads through a tap: what is big is cut for it, and sums are finished", [
  "linux",
  "network",
], async () => {
  const device = "guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_csum=off,csum=off";
  await using pair = await HostAndGuest.start({ guest: { device } });
  assert(await pair.measure("to_guest", "without offloads") <= segment_bytes);
  const { cut, pieces } = (await pair.serve.ports()).get("port0")!.to_guest;
  assert(cut! > 0 && pieces! > 2 * cut!, `${cut} packets cut into ${pieces}`);
  await pair.measure("from_guest", "without offloads");
  await pair.close();
});

for (const gro of ["on", "off"]) {
  const what = gro === "on" ? "are put together" : "stay apart";
  realTest(`small segments that come through an uplink with gro=${gro} ${what}`, ["linux", "network"], async () => {
    const veth = "ip link add va type veth peer name vb && ip link set va up && ip link set vb up";
    const setup = `${veth} && ethtool -K vb tso off gso off tx off`;
    await using pair = await HostAndGuest.start({ setup, uplink: `packet:va,gro=${gro}`, host: "vb" });
    const bytes = await pair.measure("to_guest", `gro=${gro}`);
    const { merged } = (await pair.serve.ports()).get("uplink0")!.from_guest;
    assert(gro === "on" ? bytes > 2 * segment_bytes : bytes <= segment_bytes, `${bytes} bytes`);
    assert.equal(merged! > 0, gro === "on", `${merged} merged`);
    await pair.measure("from_guest", `gro=${gro}`);
    await pair.close();
  });
}

realTest("two guests of two serves that veth joins: big segments pass both, a file arrives as it was", [
  "linux",
  "network",
], async () => {
  using folder = new Folder();
  await writeInitramfs(folder.initramfs);
  await using network = await NetworkNamespace.make();
  await network.run("ip link add va type veth peer name vb && ip link set va up && ip link set vb up");
  await using stack = new AsyncDisposableStack();
  const serves: Serve[] = [];
  for (const [index, name] of ["va", "vb"].entries()) {
    const port = `name=port${index},socket=${folder.socket(index)}`;
    const serve = await Serve.startBehind(network.prefix, "--port", port, "--uplink", `packet:${name}`);
    serves.push(stack.use(serve));
  }
  const [left, right] = await bootBoth(folder.guest(0), folder.guest(1));
  for (const [index, guest] of [left, right].entries()) {
    stack.use(guest);
    await guest.setAddress(`${guest_addresses[index]}/24`);
  }
  await left.reach(guest_addresses[1], traffic_timeout_ms);
  const [before, after] = await around(serves[1]!, "port1", () => copiesFile(left, right, guest_addresses[1], file_mb));
  assert(meanBytes("to_guest", before, after) > 2 * segment_bytes);
  await copiesFile(right, left, guest_addresses[0], file_mb);
  await left.close();
  await right.close();
  for (const serve of serves) await serve.finish();
});

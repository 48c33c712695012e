/** How guests are told to attach: QEMU arguments and libvirt XML for every kind of port and QEMU. */

import { deepEqual, equal, ok } from "node:assert/strict";
import { libvirtInterface } from "../cli/libvirt.ts";
import type { PortPlan } from "../mod.ts";
import { assumedQemu, findQemu, type Qemu, qemuArguments, shellLines } from "../cli/qemu_arguments.ts";
import { makeOffer } from "../mod.ts";

const port: PortPlan = {
  name: "port0",
  socket: "/run/vhostctl/port0.sock",
  mode: "server",
  mac: "52:54:00:00:00:01",
  offer: makeOffer(),
};

function qemu(major: number, minor: number, kvm = true): Qemu {
  return { version: [major, minor], kvm };
}

Deno.test("QEMU connects again by the option that its version knows", () => {
  const chardev = (found: Qemu) => qemuArguments(port, found)[0]![1].split(",").at(-1);
  equal(chardev(qemu(7, 2)), "reconnect=1");
  equal(chardev(qemu(9, 1)), "reconnect=1");
  equal(chardev(qemu(9, 2)), "reconnect-ms=1000");
  equal(chardev(qemu(11, 1)), "reconnect-ms=1000");
  equal(chardev(assumedQemu), "reconnect-ms=1000");
});

Deno.test("QEMU arguments follow the port", () => {
  deepEqual(qemuArguments(port, qemu(10, 0)), [
    ["-chardev", "socket,id=port0,path=/run/vhostctl/port0.sock,reconnect-ms=1000"],
    ["-netdev", "vhost-user,id=port0,chardev=port0"],
    ["-device", "virtio-net-pci,netdev=port0,mac=52:54:00:00:00:01"],
  ]);
  const large: PortPlan = {
    ...port,
    socket: "/tmp/a,b",
    mode: "client",
    offer: makeOffer({ queuePairs: 4, mtu: 9000 }),
  };
  deepEqual(qemuArguments(large, qemu(10, 0)), [
    ["-chardev", "socket,id=port0,path=/tmp/a,,b,server=on,wait=off"],
    ["-netdev", "vhost-user,id=port0,chardev=port0,queues=4"],
    ["-device", "virtio-net-pci,netdev=port0,mac=52:54:00:00:00:01,mq=on,vectors=10,host_mtu=9000"],
  ]);
});

Deno.test("QEMU 7 under TCG gets no MSI-X", () => {
  const device = (found: Qemu) => qemuArguments({ ...port, offer: makeOffer({ queuePairs: 2 }) }, found)[2]![1];
  ok(device(qemu(7, 2, false)).endsWith(",mq=on,vectors=0"));
  ok(device(qemu(7, 2, true)).endsWith(",mq=on,vectors=6"));
  ok(device(qemu(8, 0, false)).endsWith(",mq=on,vectors=6"));
});

Deno.test("lines can be pasted into a shell", async () => {
  const pairs = [["-a", "plain,path=/x:1"], ["-b", "it's a $(false) path"]];
  const lines = shellLines(pairs);
  const script = `printf '%s\\n' \\\n${lines.join("\n")}`;
  const { stdout } = await new Deno.Command("sh", { args: ["-c", script] }).output();
  deepEqual(new TextDecoder().decode(stdout).trimEnd().split("\n"), pairs.flat());
});

Deno.test("libvirt's side of the socket is the front end's", () => {
  deepEqual(libvirtInterface({ ...port, socket: "/tmp/<a'b>", offer: makeOffer({ queuePairs: 2, mtu: 1400 }) }), [
    "<interface type='vhostuser'>",
    "  <mac address='52:54:00:00:00:01'/>",
    "  <source type='unix' path='/tmp/&lt;a&apos;b&gt;' mode='client'>",
    "    <reconnect enabled='yes' timeout='1'/>",
    "  </source>",
    "  <model type='virtio'/>",
    "  <driver queues='2'/>",
    "  <mtu size='1400'/>",
    "</interface>",
  ]);
  const client = libvirtInterface({ ...port, mode: "client" });
  ok(client.includes("  <source type='unix' path='/run/vhostctl/port0.sock' mode='server'/>"));
});

Deno.test("the QEMU of this host is asked, and need not be there", async () => {
  const directory = await Deno.makeTempDir();
  const before = Deno.env.get("VHOSTCTL_QEMU");
  try {
    const program = `${directory}/qemu`;
    await Deno.writeTextFile(program, "#!/bin/sh\necho 'QEMU emulator version 9.1.3 (Debian 1:9.1.3)'\n", {
      mode: 0o755,
    });
    Deno.env.set("VHOSTCTL_QEMU", program);
    deepEqual((await findQemu()).version, [9, 1]);
    await Deno.writeTextFile(program, "#!/bin/sh\nexec sleep 60\n");
    deepEqual(await findQemu(), assumedQemu);
    Deno.env.set("VHOSTCTL_QEMU", `${directory}/none`);
    deepEqual(await findQemu(), assumedQemu);
  } finally {
    if (before === undefined) Deno.env.delete("VHOSTCTL_QEMU");
    else Deno.env.set("VHOSTCTL_QEMU", before);
    await Deno.remove(directory, { recursive: true });
  }
});

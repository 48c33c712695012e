/** DPDK's vdev strings: what every driver and key means here, and in which words the rest is refused. */

import { deepEqual, throws } from "node:assert/strict";
import { DevargsError, parseVdev, type VhostVdev, type VirtioUserVdev } from "../pmd/devargs.ts";
import { makeOffer } from "../vhost/offer.ts";
import { featureNames } from "../vhost/spec.ts";

const vhost: VhostVdev = {
  driver: "vhost",
  name: "eth_vhost0",
  iface: "/tmp/s",
  queues: 1,
  client: false,
  features: [],
};

const virtioUser: VirtioUserVdev = {
  driver: "virtio-user",
  name: "virtio_user0",
  path: "/tmp/s",
  queues: 1,
  queueSize: 256,
  mac: undefined,
  server: false,
  packed: false,
  mergeable: true,
  inOrder: true,
  speed: undefined,
};

/** Each string must be refused with exactly this line. */
async function refuses(t: Deno.TestContext, cases: readonly (readonly [text: string, line: string])[]) {
  for (const [text, line] of cases) {
    await t.step(text === "" ? "nothing" : text, () => {
      throws(() => parseVdev(text), (error) => {
        deepEqual(error instanceof DevargsError && error.message, line);
        return true;
      });
    });
  }
}

Deno.test("parseVdev() reads what testpmd users write", () => {
  deepEqual(parseVdev("eth_vhost0,iface=/tmp/sock0,queues=2"), { ...vhost, iface: "/tmp/sock0", queues: 2 });
  deepEqual(parseVdev("net_vhost1,iface=/tmp/s,queues=1"), { ...vhost, name: "net_vhost1" });
  deepEqual(
    parseVdev("net_virtio_user0,path=/tmp/s,queues=1,queue_size=1024,packed_vq=1,in_order=0,mrg_rxbuf=0,server=1"),
    {
      ...virtioUser,
      name: "net_virtio_user0",
      queueSize: 1024,
      packed: true,
      inOrder: false,
      mergeable: false,
      server: true,
    },
  );
});

Deno.test("parseVdev() knows a driver by how the name begins", () => {
  for (const name of ["eth_vhost0", "net_vhost0", "eth_vhost1023", "net_vhost", "net_vhost_a"]) {
    deepEqual(parseVdev(`${name},iface=/tmp/s`), { ...vhost, name });
  }
  for (const name of ["virtio_user0", "net_virtio_user0", "virtio_user1023", "virtio_user", "net_virtio_user_a"]) {
    deepEqual(parseVdev(`${name},path=/tmp/s`), { ...virtioUser, name });
  }
});

Deno.test("parseVdev() reads every key of a vhost port", async (t) => {
  const noTso = ["HOST_TSO4", "HOST_TSO6"] as const;
  const linear = [...noTso, "HOST_UFO", "HOST_USO"] as const;
  const cases: [devargs: string, expected: Partial<VhostVdev>][] = [
    ["", {}],
    ["queues=128", { queues: 128 }],
    ["queues=01", {}],
    ["client=0", {}],
    ["client=1", { client: true }],
    ["iommu-support=0", {}],
    ["postcopy-support=0", {}],
    ["tso=1", {}],
    ["tso=0", { features: noTso }],
    ["linear-buffer=0", {}],
    ["linear-buffer=1", { features: linear }],
    ["linear-buffer=1,tso=1", { features: linear }],
    ["linear-buffer=1,ext-buffer=0", { features: linear }],
    ["linear-buffer=1,ext-buffer=1", {}],
    ["tso=0,ext-buffer=1,linear-buffer=1", { features: noTso }],
    ["ext-buffer=0", {}],
    ["ext-buffer=1", {}],
    ["legacy-ol-flags=0", {}],
    ["legacy-ol-flags=1", {}],
  ];
  for (const [devargs, expected] of cases) {
    await t.step(devargs === "" ? "defaults" : devargs, () => {
      deepEqual(parseVdev(`eth_vhost0,iface=/tmp/s,${devargs}`), { ...vhost, ...expected });
    });
  }
});

Deno.test("parseVdev() reads every key of a virtio-user port", async (t) => {
  const cases: [devargs: string, expected: Partial<VirtioUserVdev>][] = [
    ["", {}],
    ["queues=128", { queues: 128 }],
    ["queue_size=1", { queueSize: 1 }],
    ["queue_size=32768", { queueSize: 32768 }],
    ["packed_vq=1,queue_size=300", { packed: true, queueSize: 300 }],
    ["queue_size=32767,packed_vq=1", { packed: true, queueSize: 32767 }],
    ["mac=00:11:22:33:44:55", { mac: "00:11:22:33:44:55" }],
    ["mac=52:54:00:AB:CD:EF", { mac: "52:54:00:ab:cd:ef" }],
    ["server=0", {}],
    ["server=1", { server: true }],
    ["mrg_rxbuf=0", { mergeable: false }],
    ["mrg_rxbuf=1", {}],
    ["in_order=0", { inOrder: false }],
    ["in_order=1", {}],
    ["packed_vq=0", {}],
    ["packed_vq=1", { packed: true }],
    ["speed=10000", { speed: 10000 }],
    ["speed=200000", { speed: 200000 }],
    ["vectorized=0", {}],
    ["vectorized=1", {}],
    ["cq=0", {}],
    ["cq=1", {}],
    ["cq=0,queues=2", { queues: 2 }],
  ];
  for (const [devargs, expected] of cases) {
    await t.step(devargs === "" ? "defaults" : devargs, () => {
      deepEqual(parseVdev(`virtio_user0,path=/tmp/s,${devargs}`), { ...virtioUser, ...expected });
    });
  }
});

Deno.test("parseVdev() takes paths as they are, and pairs in any order", () => {
  deepEqual(parseVdev("eth_vhost0,client=1,iface=a b=c:[0],queues=3"), {
    ...vhost,
    iface: "a b=c:[0]",
    queues: 3,
    client: true,
  });
  deepEqual(parseVdev("virtio_user0,,path=../dev/vhost-net,"), { ...virtioUser, path: "../dev/vhost-net" });
});

Deno.test("parseVdev() withholds what makeOffer() can withhold", () => {
  const withheldBy = (devargs: string) => {
    const vdev = parseVdev(`eth_vhost0,iface=/tmp/s,${devargs}`) as VhostVdev;
    return featureNames(makeOffer().features & ~makeOffer({ withheld: vdev.features }).features);
  };
  deepEqual(withheldBy("tso=1"), []);
  // HOST_ECN needs one of the others.
  deepEqual(withheldBy("tso=0"), ["HOST_TSO4", "HOST_TSO6", "HOST_ECN"]);
  deepEqual(withheldBy("linear-buffer=1"), ["HOST_TSO4", "HOST_TSO6", "HOST_ECN", "HOST_UFO", "HOST_USO"]);
});

Deno.test("parseVdev() reads where another VM's memory is", async (t) => {
  const vhostPci = { driver: "vhost-pci", name: "vhost_pci0", device: "0000:00:05.0", link: undefined, queues: 1 };
  deepEqual(parseVdev("vhost_pci0,dev=0000:00:05.0"), vhostPci);
  deepEqual(parseVdev("vhost_pci0,dev=00:05.0,link=0001:0A:1f.7,queues=2"), {
    ...vhostPci,
    link: "0001:0a:1f.7",
    queues: 2,
  });
  await refuses(t, [
    ["vhost_pci0", "missing in vhost_pci0: dev: add dev=0000:00:05.0"],
    [
      "vhost_pci0,dev=eth0",
      "cannot use dev= in vhost_pci0: eth0: give the address of a PCI device, such as 0000:00:05.0",
    ],
    [
      "vhost_pci0,dev=00:05.0,link=0000:00:05.0",
      "cannot use link= in vhost_pci0: 0000:00:05.0: the page is another device than the memory",
    ],
  ]);
});

Deno.test("parseVdev() refuses drivers", async (t) => {
  const choice = "choose from eth_vhost, net_vhost, virtio_user, net_virtio_user, net_tap, net_af_packet, " +
    "net_af_xdp, vhost_pci";
  await refuses(t, [
    ["net_null0", `unknown driver: net_null0: ${choice}`],
    ["iface=/tmp/s", `unknown driver: iface=/tmp/s: ${choice}`],
    [",iface=/tmp/s", `unknown driver: : ${choice}`],
    ["", `unknown driver: : ${choice}`],
    ["eth_vhots0,iface=/tmp/s", `unknown driver: eth_vhots0: ${choice}`],
    ["net_virtio-user12", `unknown driver: net_virtio-user12: ${choice}`],
    ["ETH_VHOST0", `unknown driver: ETH_VHOST0: ${choice}`],
  ]);
});

Deno.test("parseVdev() refuses what is missing, unknown, empty or given twice", async (t) => {
  const choice = "choose from iface, queues, client, dequeue-zero-copy, iommu-support, postcopy-support, tso, " +
    "linear-buffer, ext-buffer, legacy-ol-flags";
  await refuses(t, [
    ["eth_vhost0", "missing in eth_vhost0: iface: add iface=PATH"],
    ["eth_vhost0,queues=2", "missing in eth_vhost0: iface: add iface=PATH"],
    ["virtio_user0,server=1", "missing in virtio_user0: path: add path=PATH"],
    ["eth_vhost0,iface", "no value in eth_vhost0: iface: give iface=VALUE"],
    ["eth_vhost0,iface=", "no value in eth_vhost0: iface: give iface=VALUE"],
    ["eth_vhost0,iface=/tmp/s,client", "no value in eth_vhost0: client: give client=VALUE"],
    ["virtio_user0,path=/tmp/s,mac=", "no value in virtio_user0: mac: give mac=VALUE"],
    ["eth_vhost0,iface=/tmp/s,iface=/tmp/s", "twice in eth_vhost0: iface: give it once"],
    ["virtio_user0,path=/tmp/s,cq=0,server=0,cq=0", "twice in virtio_user0: cq: give it once"],
    ["eth_vhost0,iface=/tmp/s,queue=2", `unknown key in eth_vhost0: queue: ${choice}`],
    ["eth_vhost0,ifcae=/tmp/s", `unknown key in eth_vhost0: ifcae: ${choice}`],
    ["eth_vhost0,iommu_support=1", `unknown key in eth_vhost0: iommu_support: ${choice}`],
    ["eth_vhost0, iface=/tmp/s", `unknown key in eth_vhost0:  iface: ${choice}`],
    ["eth_vhost0,path=/tmp/s", `unknown key in eth_vhost0: path: ${choice}`],
    ["eth_vhost0,mtu=9000", `unknown key in eth_vhost0: mtu: ${choice}`],
    ["eth_vhost0,=1", `unknown key in eth_vhost0: : ${choice}`],
    ["eth_vhost0,constructor=1", `unknown key in eth_vhost0: constructor: ${choice}`],
    [
      "virtio_user0,nothing=1",
      "unknown key in virtio_user0: nothing: choose from path, mac, queues, queue_size, iface, server, mrg_rxbuf, " +
      "in_order, packed_vq, speed, vectorized, cq",
    ],
  ]);
});

Deno.test("parseVdev() refuses values of a vhost port", async (t) => {
  const cases: [pair: string, advice: string][] = [
    ["queues=0", "give a whole number from 1 to 128"],
    ["queues=129", "give a whole number from 1 to 128"],
    ["queues=-1", "give a whole number from 1 to 128"],
    ["queues=1.5", "give a whole number from 1 to 128"],
    ["queues=0x2", "give a whole number from 1 to 128"],
    ["queues=two", "give a whole number from 1 to 128"],
    ["queues=9999999999999999", "give a whole number from 1 to 128"],
    ["client=2", "give 0 or 1"],
    ["client=yes", "give 0 or 1"],
    ["client=00", "give 0 or 1"],
    ["tso=2", "give 0 or 1"],
    ["linear-buffer=2", "give 0 or 1"],
    ["ext-buffer=2", "give 0 or 1"],
    ["legacy-ol-flags=2", "give 0 or 1"],
    ["iommu-support=1", "give 0, an IOTLB is not supported"],
    ["iommu-support=on", "give 0, an IOTLB is not supported"],
    ["postcopy-support=1", "give 0, post-copy migration is not supported"],
    ...["0", "1"].map((value): [string, string] => [
      `dequeue-zero-copy=${value}`,
      "leave it out, DPDK removed it in 20.11, and from guest to guest there is one copy anyway",
    ]),
  ];
  await refuses(
    t,
    cases.map(([pair, advice]) => [
      `eth_vhost0,iface=/tmp/s,${pair}`,
      `cannot use ${pair.replace("=", "= in eth_vhost0: ")}: ${advice}`,
    ]),
  );
});

Deno.test("parseVdev() refuses values of a virtio-user port", async (t) => {
  const unicast = "give a unicast address such as 52:54:00:12:34:56";
  const speeds = "choose from 10000, 20000, 25000, 40000, 50000, 56000, 100000, 200000";
  const cases: [pair: string, advice: string][] = [
    ["path=/dev/vhost-net", "give a vhost-user socket, vhost-net and vDPA are not supported"],
    ["path=/dev/vhost-vdpa-0", "give a vhost-user socket, vhost-net and vDPA are not supported"],
    ["iface=tap0", "leave it out, it names the tap of a vhost-net back end: a socket is given by path="],
    ["queues=0", "give a whole number from 1 to 128"],
    ["queues=129", "give a whole number from 1 to 128"],
    ["queue_size=0", "give a whole number from 1 to 32768"],
    ["queue_size=32769", "give a whole number from 1 to 32768"],
    ["queue_size=65536", "give a whole number from 1 to 32768"],
    ["queue_size=300", "give a power of two, or packed_vq=1"],
    ["queue_size=32767", "give a power of two, or packed_vq=1"],
    ["mac=52:54:00:12:34", unicast],
    ["mac=52:54:00:12:34:56:78", unicast],
    ["mac=52:54:00:12:34:5g", unicast],
    ["mac=52-54-00-12-34-56", unicast],
    ["mac=53:54:00:12:34:56", unicast],
    ["mac=ff:ff:ff:ff:ff:ff", unicast],
    ["mac=00:00:00:00:00:00", unicast],
    ["server=2", "give 0 or 1"],
    ["mrg_rxbuf=2", "give 0 or 1"],
    ["in_order=2", "give 0 or 1"],
    ["packed_vq=2", "give 0 or 1"],
    ["vectorized=2", "give 0 or 1"],
    ["cq=2", "give 0 or 1"],
    ["speed=0", speeds],
    ["speed=1000", speeds],
    ["speed=010000", speeds],
  ];
  await refuses(
    t,
    cases.map(([pair, advice]) => [
      `virtio_user0,${pair}${pair.startsWith("path") ? "" : ",path=/tmp/s"}`,
      `cannot use ${pair.replace("=", "= in virtio_user0: ")}: ${advice}`,
    ]),
  );
});

Deno.test("an interface of the host's is read", () => {
  const parsed = parseVdev("net_tap3,mac=52-54-00-00-00-01".replaceAll("-", ":"));
  deepEqual(parsed, { driver: "tap", name: "net_tap3", iface: "dtap3", queues: 1, mac: "52:54:00:00:00:01" });
  deepEqual(parseVdev("net_tap0,iface=tap0,queues=2"), {
    driver: "tap",
    name: "net_tap0",
    iface: "tap0",
    queues: 2,
    mac: undefined,
  });
  deepEqual(parseVdev("net_af_packet0,iface=eth0,qpairs=4,qdisc_bypass=1,fanout_mode=hash"), {
    driver: "packet",
    name: "net_af_packet0",
    iface: "eth0",
    queues: 4,
  });
  const others = "start_queue=0,shared_umem=0,busy_budget=0,use_cni=0,use_pinned_map=0";
  for (const [more, copy] of [["", false], [`,${others},force_copy=1`, true]] as const) {
    const xdp = { driver: "xdp", name: "net_af_xdp0", iface: "eth0", queues: 2, copy } as const;
    deepEqual(parseVdev(`net_af_xdp0,iface=eth0,queue_count=2${more}`), xdp);
  }
});

Deno.test("an interface of the host's is refused", async (t) => {
  await refuses(t, [
    ["net_af_packet0", "missing in net_af_packet0: iface: add iface=INTERFACE"],
    ["net_tap0,iface=a/b", "cannot use iface= in net_tap0: a/b: give the name of an interface, 1 to 15 bytes"],
    [
      "net_tap0,remote=eth0",
      "cannot use remote= in net_tap0: eth0: leave it out, a bridge joins interfaces: ip link set IF master BRIDGE",
    ],
    [
      "net_af_packet0,iface=eth0,framesz=2048",
      "cannot use framesz= in net_af_packet0: 2048: leave it out, the ring has 255 places of 68 KiB, for packets " +
      "that are not cut",
    ],
    [
      "net_af_packet0,iface=eth0,qdisc_bypass=0",
      "cannot use qdisc_bypass= in net_af_packet0: 0: give 1: packets go past the queueing discipline",
    ],
    ["net_af_xdp0", "missing in net_af_xdp0: iface: add iface=INTERFACE"],
    [
      "net_af_xdp0,iface=eth0,start_queue=4",
      "cannot use start_queue= in net_af_xdp0: 4: give 0, one program leads the interface's queues from the first " +
      "on: queue_count= says how many",
    ],
    [
      "net_af_xdp0,iface=eth0,busy_budget=64",
      "cannot use busy_budget= in net_af_xdp0: 64: give 0, the rings are polled, and the kernel is not made to poll " +
      "for them",
    ],
    [
      "net_af_xdp0,iface=eth0,xdp_prog=/tmp/a.o",
      "cannot use xdp_prog= in net_af_xdp0: /tmp/a.o: leave it out, the program is our own: all that comes to the " +
      "queues is led to their sockets",
    ],
  ]);
});

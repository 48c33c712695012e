/**
 * What testpmd has and `pmd-forward` has not, and why: modes, options, commands.
 *
 * @module
 */

const noNic = "there is no NIC behind these ports";
const noMbufs = "packets are not in mbufs here";
const allPorts = "every port forwards: leave out the --vdev of the others";
const pinning = "give --nb-cores and --cpus when it begins";
const negotiated = "a guest has the offloads that it negotiated";
const oneSegment = "a packet of ours is one segment";
const noisy = "it imitates an application that uses memory: let a real one run beside";
const peers = "packets go to the addresses that help shows for mac";

export const absentModes: Readonly<Record<string, string>> = {
  noisy,
  shared_rxq: "vhost-user queues are each for themselves",
  ieee1588: "virtio-net has no time stamps",
};

/** Options of DPDK's EAL and of testpmd, as commander's flags. */
export const absentOptions: readonly (readonly [flags: readonly string[], reason: string])[] = [
  [["-a, --allow <device>", "-b, --block <device>", "--vfio-vf-token <uuid>", "--create-uio-dev"], noNic],
  [["-s <mask>", "-S <list>"], "there are no service cores"],
  [["-d <file>"], "there are no drivers to load"],
  [["--proc-type <type>", "--num-procs <n>", "--proc-id <id>"], "a process has its ports for itself"],
  [["--trace [name]", "--trace-dir <dir>", "--trace-bufsz <size>", "--trace-mode <mode>"], "give --stats-period"],
  [["--nb-ports <n>", "--portmask <mask>", "--portlist <list>"], allPorts],
  [["--coremask <mask>"], pinning],
  [["--port-topology <topology>"], "ports forward in pairs, and the last of an odd number to itself"],
  [["--eth-peer <port,mac>", "--eth-peers-configfile <file>"], peers],
  [["--enable-lro", "--enable-rx-cksum", "--tx-offloads <mask>", "--rx-offloads <mask>"], negotiated],
  [["--max-lro-pkt-size <bytes>", "--enable-rx-timestamp", "--eth-link-speed <n>"], noNic],
  [["--enable-hw-vlan", "--enable-hw-vlan-filter", "--enable-hw-vlan-strip"], noNic],
  [["--enable-hw-vlan-extend", "--enable-hw-qinq-strip", "--enable-drop-en", "--flow-isolate-all"], noNic],
  [["--rss-ip", "--rss-udp", "--rss-level-inner", "--rss-level-outer", "--disable-rss"], "queues keep to themselves"],
  [["--rxq-share <n>", "--hairpinq <n>", "--hairpin-mode <mask>", "--rx-mq-mode <mask>"], "queues keep to themselves"],
  [["--rxoffs <list>", "--rxpkts <list>", "--rxhdrs <list>", "--multi-rx-mempool"], noMbufs],
  [["--flowgen-clones <n>"], "flowgen makes each packet anew"],
  [["--flowgen-flows <n>"], "flowgen has 1024 flows"],
  [["--noisy-tx-sw-buffer-size <n>", "--noisy-tx-sw-buffer-flushtime <ms>", "--noisy-lkup-memory <MiB>"], noisy],
  [["--noisy-lkup-num-writes <n>", "--noisy-lkup-num-reads <n>", "--noisy-lkup-num-reads-writes <n>"], noisy],
  [["--display-xstats <list>", "--bitrate-stats <core>", "--latencystats <core>"], "say show port xstats all, with -i"],
  [["--record-core-cycles", "--record-burst-stats"], "say show port xstats all, with -i"],
  [["--print-event <event>", "--mask-event <event>"], "every event is told"],
  [["--hot-plug"], "guests come and go on ports that stay"],
  [["--vxlan-gpe-port <n>", "--geneve-parsed-port <n>"], "tunnels are not looked into"],
  [["--disable-device-start"], "say port stop all, with -i"],
  [["--cmdline-file-noecho <file>"], "give --cmdline-file"],
];

/** Commands, by their first words. */
const absentVerbs: readonly (readonly [begins: readonly string[], reason: string])[] = [
  [["set portlist", "set portmask", "set nbport"], allPorts],
  [["set corelist", "set coremask", "set nbcore", "set cpus"], pinning],
  [["set txsplit"], oneSegment],
  [["set txtimes", "set flow_ctrl", "set pfc_ctrl", "set link-up", "set link-down", "set fec_mode"], noNic],
  [["set promisc", "set allmulti"], "a port takes whatever its guest sends"],
  [["set eth-peer"], peers],
  [["set retry", "set burst tx"], "what finds no buffer is dropped and counted"],
  [["set verbose", "set record-core-cycles", "set record-burst-stats"], "say show port xstats all"],
  [["set stat_qmap", "set rxoffs", "set rxpkts", "set rxhdrs", "set bypass", "set bonding", "set vf"], noNic],
  [["set gro", "set gso", "gso", "tso", "tunnel_tso", "csum"], negotiated],
  [["port config mtu"], "an MTU is the guest's to set"],
  [["port config", "port reset", "port cleanup"], noNic],
  [["port attach", "port detach", "port close"], "a port's --vdev is given when it begins"],
  [["vlan", "rx_vlan", "tx_vlan", "mac_addr", "mcast_addr", "rx_vxlan_port", "E-tag", "ptype", "ddp"], noNic],
  [["flow", "flow_director_filter", "add", "del", "create", "remove", "read", "write", "mcast", "queue"], noNic],
  [["show rxq", "show txq", "show device", "show port cap", "show port rxq", "show port txq"], "say show port info"],
  [["show config rxtx", "show config cores"], "say show config fwd"],
  [["show vf", "show bonding", "show port module_eeprom", "show port rss-hash", "show port tm"], noNic],
  [["clear vf"], noNic],
  [["dump_physmem", "dump_memzone", "dump_socket_mem", "dump_struct_sizes", "dump_ring", "dump_mempool"], noMbufs],
  [["dump_devargs", "dump_lcores"], "say show config fwd"],
  [["load"], "give --cmdline-file when it begins"],
];

/** Why a command of testpmd's is not here; undefined: it is none of testpmd's. */
export function absentVerb(words: readonly string[]): string | undefined {
  const begins = (wanted: string) => wanted.split(" ").every((word, index) => words[index] === word);
  return absentVerbs.find(([beginnings]) => beginnings.some(begins))?.[1];
}

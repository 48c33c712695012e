/**
 * What to do about an interface that could not be opened, by step and reason.
 *
 * @module
 */
import type { UplinkStep } from "./abi.gen.ts";
import type { UplinkOptions } from "./uplink.ts";

/** What was being done. */
export type UplinkStepName = keyof typeof UplinkStep;

const errno = {
  perm: 1,
  nomem: 12,
  acces: 13,
  busy: 16,
  exist: 17,
  nodev: 19,
  inval: 22,
  msgsize: 90,
  opnotsupp: 95,
  afnosupport: 97,
  nobufs: 105,
} as const;

/** Behind "what failed: value: ". Undefined: the error says it all. */
export function uplinkAdvice(step: UplinkStepName, reason: number, options: UplinkOptions): string | undefined {
  if (step === "mtu") return adviseMtu(reason);
  switch (options.kind) {
    case "tap":
      return adviseTap(step, reason, options);
    case "packet":
      return advisePacket(step, reason);
    case "xdp":
      return adviseXdp(step, reason, options);
  }
}

/** Why it stays in its process. Undefined: the error says it all. */
export function handoverAdvice(reason: number): string | undefined {
  if (reason !== errno.opnotsupp) return undefined;
  return "before Linux 6.4 rings of AF_XDP stay in one process: use packet:IF, or restart";
}

/** Whether the host lacks something: a driver, memory, or a permission. */
export function isLacking(step: UplinkStepName, reason: number): boolean {
  return step === "device" || [errno.perm, errno.nomem, errno.nobufs].some((number) => number === reason);
}

function adviseMtu(reason: number): string {
  if (reason === errno.perm) return "it takes CAP_NET_ADMIN to set an MTU: leave mtu= out";
  if (reason === errno.msgsize) return "before Linux 6.6 AF_XDP takes no MTU above 3822: give mtu=, or use packet:IF";
  return "it does not take such an MTU: give mtu=68 to 65521";
}

function adviseTap(step: UplinkStepName, reason: number, { name, queuePairs = 1 }: UplinkOptions): string | undefined {
  const several = queuePairs > 1 ? " multi_queue" : "";
  if (step === "device" && reason === errno.acces) {
    return "no permission for /dev/net/tun: run as root, or chmod 0666 it";
  }
  if (step === "device") return "no /dev/net/tun: modprobe tun";
  if (step !== "attach") return undefined;
  switch (reason) {
    case errno.perm:
      return "it takes CAP_NET_ADMIN to make a tap, or to use somebody else's: run as root, or first, as root: " +
        `ip tuntap add ${name} mode tap user $USER${several} vnet_hdr && ip link set ${name} up`;
    case errno.busy:
      return "it is in use: end who uses it, or choose another name";
    case errno.inval:
      return queuePairs > 1
        ? "it is no tap, or one for a single queue: leave queues= out, or make it with multi_queue"
        : "it is no tap: choose another name";
    default:
      return undefined;
  }
}

const absent = "no such interface: choose one of ip link";

function advisePacket(step: UplinkStepName, reason: number): string | undefined {
  if (step === "device" && reason === errno.perm) return "it takes CAP_NET_RAW: run as root, or setcap cap_net_raw+ep";
  if (step === "attach" && reason === errno.nodev) return absent;
  if (step === "offload" && reason === errno.inval) return "this Linux has no virtio-net headers for it: use tap:IF";
  if (step === "offload" && reason === errno.nomem) return "no 17 MiB of memory for each queue: give fewer queues=";
  return undefined;
}

function adviseXdp(step: UplinkStepName, reason: number, { name, queuePairs = 1 }: UplinkOptions): string | undefined {
  switch (step) {
    case "device":
      if (reason === errno.afnosupport) return "this Linux has no AF_XDP: use packet:IF";
      return reason === errno.perm ? "it takes CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF: run as root" : undefined;
    case "attach":
      return reason === errno.nodev ? absent : undefined;
    case "program":
      if (reason !== errno.perm) return "this Linux has no such programs: use packet:IF";
      return "it takes CAP_BPF and CAP_NET_ADMIN, other than a user namespace's: run as root, or use packet:IF";
    case "link":
      return adviseLink(reason, name);
    case "memory":
      if (reason !== errno.nobufs && reason !== errno.nomem) return undefined;
      return "no 16 MiB of memory to pin for each queue: ulimit -l unlimited, or give fewer queues=";
    case "queue":
      if (reason === errno.busy) return "another AF_XDP socket has one of its queues: end who uses it";
      if (reason !== errno.inval || queuePairs === 1) return undefined;
      return `it has fewer queues: give fewer queues=, or make more by ethtool -L ${name}`;
    default:
      return undefined;
  }
}

function adviseLink(reason: number, name: string): string {
  switch (reason) {
    case errno.busy:
    case errno.exist:
      return `it has an XDP program: end who attached that, or ip link set ${name} xdp off`;
    case errno.perm:
      return "it takes CAP_NET_ADMIN: run as root, or use packet:IF";
    default:
      return "its driver takes no XDP program with this MTU, or Linux is older than 5.9: give mtu=, or use packet:IF";
  }
}

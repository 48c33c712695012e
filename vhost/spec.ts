/**
 * The numbers of the vhost-user specification (QEMU docs/interop/vhost-user.rst) and of those parts of the virtio
 * specification (1.3) that it passes on. What a message holds stands in `request.ts`, how rings look in `zig/spec.zig`.
 *
 * @module
 */

/** Bits of the header's flags (vhost-user, Header). */
export const headerFlags = {
  version: 0x1,
  versionMask: 0x3,
  reply: 0x4,
  needReply: 0x8,
  /** What may be set in a request. */
  requestMask: 0x3 | 0x8,
} as const;

/** Limits of messages and of what they name. */
export const limits = {
  /** SET_MEM_TABLE (vhost-user, Memory regions description). */
  tableRegions: 8,
  /** ADD_MEM_REG: ours; QEMU's own is 512, libvhost-user's this. */
  memorySlots: 509,
  /** What bits 0-7 of SET_VRING_KICK can name, in pairs. */
  queuePairs: 128,
  /** Virtio 2.7 and 2.8.10.1. */
  vringSize: 32768,
  /** VIRTIO_NET_F_MTU: 5.1.4.1. */
  mtuMin: 68,
  mtuMax: 65535,
  /** The device status is one byte: virtio 2.1. */
  status: 255,
  /** The index is all there is to a split ring's base: virtio 2.7.6. */
  splitBase: 0xffff,
  /** GET_CONFIG (QEMU: VHOST_USER_MAX_CONFIG_SIZE). */
  configBytes: 256,
} as const;

/** SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR: what the payload's bits mean. */
export const vringFdBits = { index: 0xffn, noFd: 0x100n } as const;

/** Flags of SET_VRING_ADDR. */
export const vringAddressFlags = { log: 1 } as const;

/**
 * Feature bits by name: virtio-net (virtio 5.1.3), reserved (virtio 6), and the two that vhost-user defines
 * (LOG_ALL and PROTOCOL_FEATURES).
 */
export const featureBits = {
  CSUM: 0,
  GUEST_CSUM: 1,
  CTRL_GUEST_OFFLOADS: 2,
  MTU: 3,
  MAC: 5,
  GUEST_TSO4: 7,
  GUEST_TSO6: 8,
  GUEST_ECN: 9,
  GUEST_UFO: 10,
  HOST_TSO4: 11,
  HOST_TSO6: 12,
  HOST_ECN: 13,
  HOST_UFO: 14,
  MRG_RXBUF: 15,
  STATUS: 16,
  CTRL_VQ: 17,
  CTRL_RX: 18,
  CTRL_VLAN: 19,
  CTRL_RX_EXTRA: 20,
  GUEST_ANNOUNCE: 21,
  MQ: 22,
  CTRL_MAC_ADDR: 23,
  NOTIFY_ON_EMPTY: 24,
  LOG_ALL: 26,
  ANY_LAYOUT: 27,
  INDIRECT_DESC: 28,
  EVENT_IDX: 29,
  PROTOCOL_FEATURES: 30,
  VERSION_1: 32,
  ACCESS_PLATFORM: 33,
  RING_PACKED: 34,
  IN_ORDER: 35,
  ORDER_PLATFORM: 36,
  SR_IOV: 37,
  NOTIFICATION_DATA: 38,
  NOTIF_CONFIG_DATA: 39,
  RING_RESET: 40,
  ADMIN_VQ: 41,
  DEVICE_STATS: 50,
  HASH_TUNNEL: 51,
  VQ_NOTF_COAL: 52,
  NOTF_COAL: 53,
  GUEST_USO4: 54,
  GUEST_USO6: 55,
  HOST_USO: 56,
  HASH_REPORT: 57,
  GUEST_HDRLEN: 59,
  RSS: 60,
  RSC_EXT: 61,
  STANDBY: 62,
  SPEED_DUPLEX: 63,
} as const;

/** Protocol feature bits by name, as in `VHOST_USER_PROTOCOL_F_*` (vhost-user, Protocol features). */
export const protocolFeatureBits = {
  MQ: 0,
  LOG_SHMFD: 1,
  RARP: 2,
  REPLY_ACK: 3,
  NET_MTU: 4,
  BACKEND_REQ: 5,
  CROSS_ENDIAN: 6,
  CRYPTO_SESSION: 7,
  PAGEFAULT: 8,
  CONFIG: 9,
  BACKEND_SEND_FD: 10,
  HOST_NOTIFIER: 11,
  INFLIGHT_SHMFD: 12,
  RESET_DEVICE: 13,
  INBAND_NOTIFICATIONS: 14,
  CONFIGURE_MEM_SLOTS: 15,
  STATUS: 16,
  XEN_MMAP: 17,
  SHARED_OBJECT: 18,
  DEVICE_STATE: 19,
  GET_VRING_BASE_INFLIGHT: 20,
  SHMEM: 21,
} as const;

export type FeatureName = keyof typeof featureBits;
export type ProtocolFeatureName = keyof typeof protocolFeatureBits;

/** Whether `set` has the feature of that name. */
export function hasFeature(set: bigint, name: FeatureName): boolean {
  return (set >> BigInt(featureBits[name]) & 1n) !== 0n;
}

/** Whether `set` has the protocol feature of that name. */
export function hasProtocolFeature(set: bigint, name: ProtocolFeatureName): boolean {
  return (set >> BigInt(protocolFeatureBits[name]) & 1n) !== 0n;
}

/** The set of these features. */
export function featureSet(names: Iterable<FeatureName>): bigint {
  return setOf(featureBits, names);
}

/** The set of these protocol features. */
export function protocolFeatureSet(names: Iterable<ProtocolFeatureName>): bigint {
  return setOf(protocolFeatureBits, names);
}

/** Names in the order of their bits; a bit without a name is told as `bit 45`. */
export function featureNames(set: bigint): string[] {
  return namesOf(featureBits, set);
}

/** Names in the order of their bits; a bit without a name is told as `bit 45`. */
export function protocolFeatureNames(set: bigint): string[] {
  return namesOf(protocolFeatureBits, set);
}

function setOf<N extends string>(bits: Readonly<Record<N, number>>, names: Iterable<N>): bigint {
  let set = 0n;
  for (const name of names) set |= 1n << BigInt(bits[name]);
  return set;
}

function namesOf(bits: Readonly<Record<string, number>>, set: bigint): string[] {
  const byBit = new Map(Object.entries(bits).map(([name, bit]) => [bit, name]));
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    if ((set >> BigInt(bit) & 1n) !== 0n) names.push(byBit.get(bit) ?? `bit ${bit}`);
  }
  return names;
}

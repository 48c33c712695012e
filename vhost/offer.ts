/**
 * What a port offers to its front end.
 *
 * Everything that works is offered, the same at every start: a front end whose guest has acknowledged a feature refuses
 * a back end that lost it (QEMU: "vhost lacks feature mask"), so the offer must not depend on passing circumstances.
 * That is why MTU and NET_MTU are there even when a port has no MTU: whether the guest sees one is for the front end
 * to say (QEMU's `host_mtu=`), and without a limit of ours any valid MTU suits us.
 *
 * @module
 */
import { type FeatureName, featureSet, limits, type ProtocolFeatureName, protocolFeatureSet } from "./spec.ts";

export interface Offer {
  readonly features: bigint;
  readonly protocolFeatures: bigint;
  /** The answer to GET_QUEUE_NUM; the session has twice as many rings. */
  readonly queuePairs: number;
  /** The longest that NET_SET_MTU may ask for, in bytes; any that is valid, if undefined. */
  readonly mtu: number | undefined;
}

export interface OfferOptions {
  /** 1 to 128. */
  readonly queuePairs?: number;
  readonly mtu?: number | undefined;
  /** Post-copy, PAGEFAULT; by default not, since guests of other ports wait when a page does not come. */
  readonly postCopy?: boolean | undefined;
  /** DEVICE_STATE; by default not, since QEMU then moves no guest to a back end without it. */
  readonly deviceState?: boolean | undefined;
  /** Names of features not to offer, of either kind; what depends on one goes with it. */
  readonly withheld?: readonly string[];
}

/**
 * What the data plane can do, and what each needs: one of every list (virtio 5.1.3.1; a device must not offer a feature
 * without those it requires, 2.2.1). Bits from 32 up are for VERSION_1 drivers only (6). What others need comes first.
 */
const features: Partial<Record<FeatureName, readonly (readonly FeatureName[])[]>> = {
  VERSION_1: [],
  RING_PACKED: [["VERSION_1"]],
  IN_ORDER: [["VERSION_1"]],
  INDIRECT_DESC: [],
  EVENT_IDX: [],
  PROTOCOL_FEATURES: [],
  LOG_ALL: [],
  MRG_RXBUF: [],
  MQ: [["PROTOCOL_FEATURES"]],
  MTU: [],
  GUEST_ANNOUNCE: [],
  CSUM: [],
  HOST_TSO4: [["CSUM"]],
  HOST_TSO6: [["CSUM"]],
  HOST_ECN: [["HOST_TSO4", "HOST_TSO6"]],
  HOST_UFO: [["CSUM"]],
  HOST_USO: [["CSUM"], ["VERSION_1"]],
  GUEST_CSUM: [],
  GUEST_TSO4: [["GUEST_CSUM"]],
  GUEST_TSO6: [["GUEST_CSUM"]],
  GUEST_ECN: [["GUEST_TSO4", "GUEST_TSO6"]],
  GUEST_UFO: [["GUEST_CSUM"]],
  GUEST_USO4: [["GUEST_CSUM"], ["VERSION_1"]],
  GUEST_USO6: [["GUEST_CSUM"], ["VERSION_1"]],
};

const protocolFeatures: readonly ProtocolFeatureName[] = [
  "MQ",
  "LOG_SHMFD",
  "RARP",
  "REPLY_ACK",
  "NET_MTU",
  "BACKEND_REQ",
  "INFLIGHT_SHMFD",
  "RESET_DEVICE",
  "CONFIGURE_MEM_SLOTS",
  "STATUS",
];

/** Everything that can be offered, and so withheld, by name. MQ names the feature and the protocol feature. */
export const offerNames: readonly string[] = [...new Set([...Object.keys(features), ...protocolFeatures])].toSorted();

/** Throws `RangeError` for a name that is none, and for impossible numbers. */
export function makeOffer(
  { queuePairs = 1, mtu, postCopy = false, deviceState = false, withheld = [] }: OfferOptions = {},
): Offer {
  const unknown = withheld.find((name) => !offerNames.includes(name));
  if (unknown !== undefined) {
    throw new RangeError(`Cannot withhold feature: ${unknown}: give some of ${offerNames.join(", ")}`);
  }
  checkNumbers(queuePairs, mtu);
  const kept = keptFeatures(withheld);
  const wanted = [
    ...protocolFeatures,
    ...postCopy ? ["PAGEFAULT" as const] : [],
    ...deviceState ? ["DEVICE_STATE" as const] : [],
  ];
  const protocol = kept.has("PROTOCOL_FEATURES") ? wanted.filter((name) => !withheld.includes(name)) : [];
  return {
    features: featureSet(kept),
    protocolFeatures: protocolFeatureSet(protocol),
    // Without MQ a front end has no way to learn of more (vhost-user, Multiple queue support).
    queuePairs: protocol.includes("MQ") ? queuePairs : 1,
    mtu,
  };
}

/** Leaves out what is withheld, and what by that has lost something that it needs. */
function keptFeatures(withheld: readonly string[]): ReadonlySet<FeatureName> {
  const kept = new Set<FeatureName>();
  for (const [name, needs] of Object.entries(features) as [FeatureName, readonly (readonly FeatureName[])[]][]) {
    const whole = needs.every((choice) => choice.some((one) => kept.has(one)));
    if (whole && !withheld.includes(name)) kept.add(name);
  }
  return kept;
}

function checkNumbers(queuePairs: number, mtu: number | undefined): void {
  if (!Number.isInteger(queuePairs) || queuePairs < 1 || queuePairs > limits.queuePairs) {
    throw new RangeError(`Cannot offer queue pairs: ${queuePairs}: give 1 to ${limits.queuePairs}`);
  }
  if (mtu === undefined) return;
  if (!Number.isInteger(mtu) || mtu < limits.mtuMin || mtu > limits.mtuMax) {
    throw new RangeError(`Cannot offer MTU: ${mtu}: give ${limits.mtuMin} to ${limits.mtuMax}`);
  }
}

/**
 * The table of requests: one row for each of the current specification (vhost-user, Front-end message types and
 * Back-end message types), with everything that can be said of a request without knowing the session.
 *
 * A request that a row lets through is well-formed and negotiated; what it means is for `session.ts`.
 *
 * @module
 */
import type { RawMessage } from "./channel.ts";
import { RefusedError } from "./error.ts";
import type { Fd } from "./fd.ts";
import type { Offer } from "./offer.ts";
import { type FeatureName, hasFeature, hasProtocolFeature, type ProtocolFeatureName, vringFdBits } from "./spec.ts";
import * as wire from "./wire.ts";
import type { Codec } from "./wire.ts";

/** How many descriptors come with a request. */
export type FdRule =
  | "none"
  | "one"
  | "one or none"
  /** One, unless bit 8 of the payload says that there is none. */
  | "one, or bit 8 set"
  | "one for each region"
  /** None; but one is accepted, and closed. */
  | "none, or one to be closed";

/** What must be there for a request to be legal. */
export interface Need {
  readonly feature?: FeatureName;
  readonly protocolFeature?: ProtocolFeatureName;
  /**
   * Some requests are legal as soon as we offer the feature: the specification says "present in", and QEMU sends
   * SET_VRING_ENABLE before it acknowledges PROTOCOL_FEATURES.
   */
  readonly when: "offered" | "negotiated";
}

/** The answer to a request: none of its own (an ack where one is asked for), always a verdict, or a payload. */
export type Reply<A> = "none" | "verdict" | Codec<A>;

/** One request. */
export interface Row<T, A> {
  readonly number: number;
  /** Who sends it. */
  readonly sender: "front end" | "back end";
  readonly payload: Codec<T>;
  readonly fds: FdRule;
  readonly need: Need | undefined;
  readonly reply: Reply<A>;
  /** What its own answer, a number, says of a refusal. */
  readonly refusal?: bigint;
  /** May change what workers see, so that they are held between two bursts for it. */
  readonly quiesces: boolean;
}

type Options = Partial<Pick<Row<unknown, unknown>, "fds" | "need" | "quiesces" | "refusal">>;

/** A request of the front end that takes no answer but an ack. */
function command<T>(number: number, payload: Codec<T>, options: Options = {}): Row<T, never> {
  return query(number, payload, "none", options);
}

/** A request of the front end that is answered. */
function query<T, A = never>(number: number, payload: Codec<T>, reply: Reply<A>, options: Options = {}): Row<T, A> {
  return { number, sender: "front end", payload, fds: "none", need: undefined, reply, quiesces: false, ...options };
}

/** A request of the back end. */
function notice<T>(number: number, payload: Codec<T>, options: Options = {}): Row<T, never> {
  return { ...command(number, payload, options), sender: "back end" };
}

function offered(protocolFeature: ProtocolFeatureName): Need {
  return { protocolFeature, when: "offered" };
}

function negotiated(protocolFeature: ProtocolFeatureName): Need {
  return { protocolFeature, when: "negotiated" };
}

const protocol: Need = { feature: "PROTOCOL_FEATURES", when: "offered" };
const iommu: Need = { feature: "ACCESS_PLATFORM", when: "negotiated" };
const logging: Need = { feature: "LOG_ALL", when: "offered" };
const quiesces = true;

/** Of SET_DEVICE_STATE_FD: bits 0 to 7 are 0 where it goes well; bit 8 says that no descriptor comes with it. */
export const transferAnswers = { done: 0x100n, refused: 0x101n } as const;

/** Rows by name, as in the specification without `VHOST_USER_`. */
export const requests = {
  GET_FEATURES: query(1, wire.empty, wire.u64),
  SET_FEATURES: command(2, wire.u64, { quiesces }),
  SET_OWNER: command(3, wire.empty),
  RESET_OWNER: command(4, wire.empty),
  SET_MEM_TABLE: command(5, wire.memoryRegions, { fds: "one for each region", quiesces }),
  SET_LOG_BASE: query(6, wire.log, "verdict", { fds: "one", need: negotiated("LOG_SHMFD"), quiesces }),
  SET_LOG_FD: command(7, wire.empty, { fds: "one", need: logging, quiesces }),
  SET_VRING_NUM: command(8, wire.vringState, { quiesces }),
  SET_VRING_ADDR: command(9, wire.vringAddress, { quiesces }),
  SET_VRING_BASE: command(10, wire.vringState, { quiesces }),
  GET_VRING_BASE: query(11, wire.vringState, wire.vringState, { quiesces }),
  SET_VRING_KICK: command(12, wire.u64, { fds: "one, or bit 8 set", quiesces }),
  SET_VRING_CALL: command(13, wire.u64, { fds: "one, or bit 8 set", quiesces }),
  SET_VRING_ERR: command(14, wire.u64, { fds: "one, or bit 8 set", quiesces }),
  GET_PROTOCOL_FEATURES: query(15, wire.empty, wire.u64, { need: protocol }),
  SET_PROTOCOL_FEATURES: command(16, wire.u64, { need: protocol }),
  GET_QUEUE_NUM: query(17, wire.empty, wire.u64, { need: offered("MQ") }),
  SET_VRING_ENABLE: command(18, wire.vringState, { need: protocol, quiesces }),
  SEND_RARP: command(19, wire.u64, { need: offered("RARP"), quiesces }),
  NET_SET_MTU: command(20, wire.u64, { need: offered("NET_MTU"), quiesces }),
  SET_BACKEND_REQ_FD: command(21, wire.empty, { fds: "one", need: offered("BACKEND_REQ") }),
  IOTLB_MSG: query(22, wire.iotlb, "verdict", { need: iommu, quiesces }),
  SET_VRING_ENDIAN: command(23, wire.vringState, { need: negotiated("CROSS_ENDIAN") }),
  GET_CONFIG: query(24, wire.config, wire.config, { need: negotiated("CONFIG") }),
  SET_CONFIG: command(25, wire.config, { need: negotiated("CONFIG") }),
  CREATE_CRYPTO_SESSION: query(26, wire.opaque, wire.opaque, { need: negotiated("CRYPTO_SESSION") }),
  CLOSE_CRYPTO_SESSION: command(27, wire.u64, { need: negotiated("CRYPTO_SESSION") }),
  POSTCOPY_ADVISE: query(28, wire.empty, wire.empty, { need: negotiated("PAGEFAULT"), quiesces }),
  POSTCOPY_LISTEN: command(29, wire.empty, { need: negotiated("PAGEFAULT"), quiesces }),
  POSTCOPY_END: query(30, wire.empty, "verdict", { need: negotiated("PAGEFAULT"), quiesces }),
  GET_INFLIGHT_FD: query(31, wire.inflight, wire.inflight, { need: negotiated("INFLIGHT_SHMFD") }),
  SET_INFLIGHT_FD: command(32, wire.inflight, { fds: "one", need: negotiated("INFLIGHT_SHMFD"), quiesces }),
  GPU_SET_SOCKET: command(33, wire.empty, { fds: "one" }),
  RESET_DEVICE: command(34, wire.empty, { need: offered("RESET_DEVICE"), quiesces }),
  VRING_KICK: command(35, wire.vringState, { need: negotiated("INBAND_NOTIFICATIONS"), quiesces }),
  GET_MAX_MEM_SLOTS: query(36, wire.empty, wire.u64, { need: negotiated("CONFIGURE_MEM_SLOTS") }),
  ADD_MEM_REG: command(37, wire.singleRegion, { fds: "one", need: negotiated("CONFIGURE_MEM_SLOTS"), quiesces }),
  REM_MEM_REG: command(38, wire.singleRegion, {
    fds: "none, or one to be closed",
    need: negotiated("CONFIGURE_MEM_SLOTS"),
    quiesces,
  }),
  SET_STATUS: command(39, wire.u64, { need: negotiated("STATUS") }),
  GET_STATUS: query(40, wire.empty, wire.u64, { need: negotiated("STATUS") }),
  GET_SHARED_OBJECT: query(41, wire.uuid, wire.uuid, { need: negotiated("SHARED_OBJECT") }),
  SET_DEVICE_STATE_FD: query(42, wire.transfer, wire.u64, {
    fds: "one",
    need: negotiated("DEVICE_STATE"),
    refusal: transferAnswers.refused,
  }),
  CHECK_DEVICE_STATE: query(43, wire.empty, "verdict", { need: negotiated("DEVICE_STATE") }),
  GET_SHMEM_CONFIG: query(44, wire.empty, wire.opaque, { need: negotiated("SHMEM") }),

  BACKEND_IOTLB_MSG: notice(1, wire.iotlb, { need: iommu }),
  BACKEND_CONFIG_CHANGE_MSG: notice(2, wire.empty, { need: negotiated("CONFIG") }),
  BACKEND_VRING_HOST_NOTIFIER_MSG: notice(3, wire.vringArea, {
    fds: "one or none",
    need: negotiated("HOST_NOTIFIER"),
  }),
  BACKEND_VRING_CALL: notice(4, wire.vringState, { need: negotiated("INBAND_NOTIFICATIONS") }),
  BACKEND_VRING_ERR: notice(5, wire.vringState, { need: negotiated("INBAND_NOTIFICATIONS") }),
  BACKEND_SHARED_OBJECT_ADD: notice(6, wire.uuid, { need: negotiated("SHARED_OBJECT") }),
  BACKEND_SHARED_OBJECT_REMOVE: notice(7, wire.uuid, { need: negotiated("SHARED_OBJECT") }),
  BACKEND_SHARED_OBJECT_LOOKUP: notice(8, wire.uuid, { need: negotiated("SHARED_OBJECT") }),
  BACKEND_SHMEM_MAP: notice(9, wire.sharedMapping, { fds: "one", need: negotiated("SHMEM") }),
  BACKEND_SHMEM_UNMAP: notice(10, wire.sharedMapping, { need: negotiated("SHMEM") }),
} as const;

export type RequestName = keyof typeof requests;
/** What a request carries. */
export type PayloadOf<N extends RequestName> = (typeof requests)[N] extends Row<infer T, infer _> ? T : never;
/** What its own answer carries; `never` for those without one. */
export type AnswerOf<N extends RequestName> = (typeof requests)[N] extends Row<infer _, infer A> ? A : never;

/** A request that its row let through. The fds are the raw message's, still owned by it. */
export type Request = {
  readonly [N in RequestName]: {
    readonly name: N;
    readonly payload: PayloadOf<N>;
    readonly fds: readonly Fd[];
  };
}[RequestName];

/** What was offered, and what of it was acknowledged. */
export interface Negotiation {
  readonly offer: Pick<Offer, "features" | "protocolFeatures">;
  /** Undefined before SET_FEATURES. */
  readonly features: bigint | undefined;
  readonly protocolFeatures: bigint;
}

const names = {
  "front end": namesBy("front end"),
  "back end": namesBy("back end"),
};

function namesBy(sender: Row<unknown, unknown>["sender"]): ReadonlyMap<number, RequestName> {
  const rows = Object.entries(requests) as [RequestName, Row<unknown, unknown>][];
  return new Map(rows.filter(([, row]) => row.sender === sender).map(([name, row]) => [row.number, name]));
}

/** The name of a request by its number; undefined for one that the specification does not have. */
export function requestName(number: number, sender: Row<unknown, unknown>["sender"]): RequestName | undefined {
  return names[sender].get(number);
}

/** Checks a message against its row: size, fds, feature. Throws `RefusedError`. */
export function readRequest(name: RequestName, raw: RawMessage, negotiation: Negotiation): Request {
  const row: Row<unknown, unknown> = requests[name];
  if (row.need !== undefined && !isMet(row.need, negotiation)) {
    const { feature, protocolFeature, when } = row.need;
    throw new RefusedError(`feature ${feature ?? protocolFeature} was not ${when}`);
  }
  const payload = row.payload.decode(raw.payload);
  if (payload === undefined) {
    throw new RefusedError(`payload of ${raw.payload.length} bytes: ${row.payload.length} belong here`);
  }
  if (!fdCountFits(row.fds, payload, raw.fds.length)) {
    throw new RefusedError(`${raw.fds.length} file descriptors: ${row.fds} belongs here`);
  }
  return { name, payload, fds: raw.fds } as Request;
}

/** Whether a request with that need is legal by now. */
export function isMet(need: Need | undefined, negotiation: Negotiation): boolean {
  if (need === undefined) return true;
  const { features = 0n, protocolFeatures } = need.when === "offered" ? negotiation.offer : negotiation;
  if (need.feature !== undefined && !hasFeature(features, need.feature)) return false;
  return need.protocolFeature === undefined || hasProtocolFeature(protocolFeatures, need.protocolFeature);
}

function fdCountFits(rule: FdRule, payload: unknown, count: number): boolean {
  switch (rule) {
    case "none":
      return count === 0;
    case "one":
      return count === 1;
    case "one or none":
    case "none, or one to be closed":
      return count <= 1;
    case "one, or bit 8 set":
      return count === (((payload as bigint) & vringFdBits.noFd) === 0n ? 1 : 0);
    case "one for each region":
      return count === (payload as readonly unknown[]).length;
  }
}

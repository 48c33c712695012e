/**
 * What requests mean: (state, request) -> next state, effects, answer. Pure: nothing is carried out here, and a request
 * that is refused leaves no trace. `backend.ts` carries the effects out.
 *
 * Front ends repeat themselves: QEMU opens one vhost device for each queue pair over one socket and sends most of the
 * set-up once for each, also while the rings of earlier pairs run. So every request may be repeated unchanged.
 *
 * @module
 */
import type { Region, VringConfig, VringFd } from "./dataplane.ts";
import { RefusedError } from "./error.ts";
import type { Fd } from "./fd.ts";
import { checkInflight, checkTracked, type Inflight, madeInflight } from "./inflight.ts";
import { MemoryTable } from "./memory_table.ts";
import type { Offer } from "./offer.ts";
import { advised, checkStill, ended, listening, type PostCopy } from "./post_copy.ts";
import {
  type AnswerOf,
  type Negotiation,
  type PayloadOf,
  type Request,
  type RequestName,
  transferAnswers,
} from "./request.ts";
import { featureNames, featureSet, hasFeature, limits, protocolFeatureNames, vringFdBits } from "./spec.ts";
import {
  checkPlace,
  configOf,
  initialVring,
  isReady,
  logOf,
  stoppedVring,
  type VringState,
  withAddress,
  withBase,
  withSize,
} from "./vring_state.ts";

/** Immutable. */
export interface SessionState extends Negotiation {
  readonly offer: Offer;
  /** Virtio's device status as last set; a note, nothing follows from it. */
  readonly status: number;
  /** What NET_SET_MTU said of the guest, in bytes. */
  readonly mtu: number | undefined;
  readonly memory: MemoryTable;
  readonly postCopy: PostCopy;
  /** What SET_INFLIGHT_FD said of the memory that the front end keeps. */
  readonly inflight: Inflight | undefined;
  readonly vrings: readonly VringState[];
}

/** What is to be done outside the session. Fds are still the request's. */
export type Effect =
  | { readonly kind: "setMtu"; readonly mtu: number | undefined }
  | { readonly kind: "setMemory"; readonly regions: readonly Region[]; readonly fds: readonly Fd[] }
  | { readonly kind: "addRegion"; readonly region: Region; readonly fd: Fd }
  | { readonly kind: "removeRegion"; readonly region: Region }
  | { readonly kind: "setLog"; readonly fd: Fd; readonly size: bigint; readonly offset: bigint }
  | { readonly kind: "setLogFd"; readonly fd: Fd }
  | { readonly kind: "logVring"; readonly index: number; readonly config: VringConfig }
  | { readonly kind: "announce"; readonly mac: bigint }
  /** The memory that it yields goes with the answer. */
  | { readonly kind: "makeInflight"; readonly size: bigint }
  | { readonly kind: "setInflight"; readonly fd: Fd; readonly inflight: Inflight }
  | { readonly kind: "startVring"; readonly index: number; readonly config: VringConfig }
  /** The base that it yields is for `afterStop`, if it is to be kept. */
  | { readonly kind: "stopVring"; readonly index: number; readonly keepBase: boolean }
  | { readonly kind: "enableVring"; readonly index: number; readonly enabled: boolean }
  | { readonly kind: "setVringFd"; readonly index: number; readonly which: VringFd; readonly fd: Fd | undefined }
  /** What the switch knows of the port, through a pipe. */
  | { readonly kind: "saveState"; readonly fd: Fd }
  | { readonly kind: "loadState"; readonly fd: Fd }
  | { readonly kind: "checkState" }
  /** The userfaultfd that it yields goes with the answer. */
  | { readonly kind: "advisePostCopy" }
  | { readonly kind: "listenPostCopy" }
  | { readonly kind: "endPostCopy" }
  /** The socket for requests of ours, to be kept as long as the session. */
  | { readonly kind: "keepRequestSocket"; readonly fd: Fd };

/** What follows from a request. */
export interface Step<A = unknown> {
  readonly state: SessionState;
  /** In order. */
  readonly effects: readonly Effect[];
  /** The payload of the answer, for requests that have one: from the state after the effects. */
  readonly answer?: (after: SessionState) => A;
  /** In post-copy: the answer is the same request, with where these regions, which are its payload, are mapped here. */
  readonly located?: readonly Region[];
}

type Handler<N extends RequestName> = (
  state: SessionState,
  payload: PayloadOf<N>,
  fds: readonly Fd[],
) => Step<AnswerOf<N>>;

/** A connection before its first message. */
export function initialSession(offer: Offer): SessionState {
  return {
    offer,
    features: undefined,
    protocolFeatures: 0n,
    status: 0,
    mtu: undefined,
    memory: MemoryTable.empty,
    postCopy: "none",
    inflight: undefined,
    vrings: Array.from({ length: 2 * offer.queuePairs }, (_, index) => initialVring(index)),
  };
}

/** Throws `RefusedError`. */
export function step(state: SessionState, { name, payload, fds }: Request): Step {
  const handler = handlers[name] as unknown as Handler<typeof name> | undefined;
  if (handler === undefined) throw new RefusedError("this back end cannot do it");
  return handler(state, payload as never, fds);
}

/** The state after a `stopVring` effect yielded the ring's base. */
export function afterStop(state: SessionState, index: number, base: number): SessionState {
  return withVring(state, { ...state.vrings[index]!, base });
}

/** Whether any ring runs. */
export function isRunning(state: SessionState): boolean {
  return state.vrings.some((vring) => vring.running !== undefined);
}

const handlers: { readonly [N in RequestName]?: Handler<N> } = {
  GET_FEATURES: (state) => answered(state, () => state.offer.features),
  SET_FEATURES: setFeatures,
  SET_OWNER: unchanged,
  // Deprecated; to ignore it is one of the two ways that the specification recommends.
  RESET_OWNER: unchanged,
  SET_MEM_TABLE: setMemoryTable,
  SET_LOG_BASE: setLog,
  SET_LOG_FD: (state, _payload, [fd]) => ({ state, effects: [{ kind: "setLogFd", fd: fd! }] }),
  SET_VRING_NUM: (state, { index, num }) => configured(state, withSize(vringOf(state, index), num)),
  SET_VRING_ADDR: (state, address) => configured(state, withAddress(vringOf(state, address.index), address)),
  SET_VRING_BASE: (state, { index, num }) => configured(state, withBase(vringOf(state, index), num)),
  GET_VRING_BASE: getVringBase,
  SET_VRING_KICK: setKick,
  SET_VRING_CALL: (state, payload, fds) => setEventfd(state, "call", payload, fds),
  SET_VRING_ERR: (state, payload, fds) => setEventfd(state, "err", payload, fds),
  GET_PROTOCOL_FEATURES: (state) => answered(state, () => state.offer.protocolFeatures),
  SET_PROTOCOL_FEATURES: setProtocolFeatures,
  GET_QUEUE_NUM: (state) => answered(state, () => BigInt(state.offer.queuePairs)),
  SET_VRING_ENABLE: enableVring,
  SEND_RARP: (state, payload) => ({ state, effects: [{ kind: "announce", mac: payload & macMask }] }),
  NET_SET_MTU: setMtu,
  SET_BACKEND_REQ_FD: (state, _payload, [fd]) => ({ state, effects: [{ kind: "keepRequestSocket", fd: fd! }] }),
  RESET_DEVICE: resetDevice,
  SET_DEVICE_STATE_FD: transferState,
  CHECK_DEVICE_STATE: (state) => ({ state, effects: [{ kind: "checkState" }] }),
  POSTCOPY_ADVISE: (state) => ({
    state: { ...state, postCopy: advised(state.postCopy) },
    effects: [{ kind: "advisePostCopy" }],
    answer: () => null,
  }),
  POSTCOPY_LISTEN: (state) => {
    if (state.postCopy === "listening") return unchanged(state);
    const postCopy = listening(state.postCopy, state.memory.regions);
    return { state: { ...state, postCopy }, effects: [{ kind: "listenPostCopy" }] };
  },
  POSTCOPY_END: (state) => ({
    state: { ...state, postCopy: ended(state.postCopy) },
    effects: [{ kind: "endPostCopy" }],
  }),
  GET_INFLIGHT_FD: (state, wanted) => {
    const inflight = madeInflight(wanted, state.vrings.length);
    return { state, effects: [{ kind: "makeInflight", size: inflight.mmapSize }], answer: () => inflight };
  },
  SET_INFLIGHT_FD: setInflight,
  GET_MAX_MEM_SLOTS: (state) => answered(state, () => BigInt(limits.memorySlots)),
  ADD_MEM_REG: addRegion,
  REM_MEM_REG: removeRegion,
  SET_STATUS: setStatus,
  GET_STATUS: (state) => answered(state, () => BigInt(state.status)),
};

function unchanged(state: SessionState): Step<never> {
  return { state, effects: [] };
}

function answered<A>(state: SessionState, answer: (after: SessionState) => A): Step<A> {
  return { state, effects: [], answer };
}

function vringOf(state: SessionState, index: number): VringState {
  const vring = state.vrings[index];
  if (vring !== undefined) return vring;
  throw new RefusedError(`ring ${index}: this port has rings 0 to ${state.vrings.length - 1}`);
}

function withVring(state: SessionState, vring: VringState): SessionState {
  return { ...state, vrings: state.vrings.with(vring.index, vring) };
}

/** The address is the payload's first six bytes (vhost-user, SEND_RARP). */
const macMask = 0xffff_ffff_ffffn;

/**
 * Takes a ring's new configuration over, and starts the ring if that was all it waited for. Of one that runs, what it
 * logs is all that may be new.
 */
function configured(before: SessionState, vring: VringState): Step<never> {
  if (vring.running !== undefined) return logged(before, vring, vring.running);
  const state = withVring(before, vring);
  if (state.features === undefined || !isReady(vring)) return { state, effects: [] };
  if (state.memory.regions.length === 0) {
    throw new RefusedError(
      `ring ${vring.index} has addresses, but no guest memory was given: ` +
        "guest RAM is not shared: use -object memory-backend-memfd,share=on",
    );
  }
  const config = configOf(vring, state.features, state.memory);
  checkTracked(state.inflight, vring.index, config.size, hasFeature(state.features, "RING_PACKED"));
  return {
    state: withVring(state, { ...vring, running: config }),
    effects: [{ kind: "startVring", index: vring.index, config }],
  };
}

function logged(before: SessionState, vring: VringState, running: VringConfig): Step<never> {
  const { features = 0n } = before;
  const config = { ...running, ...logOf(vring, running, features) };
  const state = withVring(before, { ...vring, running: config });
  const same = config.features === running.features && config.flags === running.flags && config.log === running.log;
  return { state, effects: same ? [] : [{ kind: "logVring", index: vring.index, config }] };
}

/** The log in force stays until another replaces it: QEMU tells of no end. */
function setLog(
  state: SessionState,
  { size, offset }: { size: bigint; offset: bigint },
  [fd]: readonly Fd[],
): Step<never> {
  if (size === 0n) throw new RefusedError("log of 0 bytes: give 8 for each 256 KiB of guest memory");
  return { state, effects: [{ kind: "setLog", fd: fd!, size, offset }] };
}

/** What a ring has in hand must be known where it starts. */
function setInflight(state: SessionState, inflight: Inflight, [fd]: readonly Fd[]): Step<never> {
  if (isRunning(state)) throw new RefusedError("rings run: stop them first, by GET_VRING_BASE");
  checkInflight(inflight, state.vrings.length, hasFeature(state.features ?? 0n, "RING_PACKED"));
  return { state: { ...state, inflight }, effects: [{ kind: "setInflight", fd: fd!, inflight }] };
}

/** Does one thing after the other. */
function chained(state: SessionState, steps: Iterable<(state: SessionState) => Step<never>>): Step<never> {
  const effects: Effect[] = [];
  for (const next of steps) {
    const done = next(state);
    state = done.state;
    effects.push(...done.effects);
  }
  return { state, effects };
}

/** Under running rings only LOG_ALL may change: at a migration's start and end. */
function setFeatures(before: SessionState, features: bigint): Step<never> {
  const extra = features & ~before.offer.features;
  if (extra !== 0n) throw new RefusedError(`features ${listed(featureNames(extra))} were not offered`);
  const changed = (features ^ (before.features ?? 0n)) & ~featureSet(["LOG_ALL"]);
  if (isRunning(before) && changed !== 0n) {
    throw new RefusedError(`features ${listed(featureNames(changed))} change while rings run: stop the rings first`);
  }
  const state = { ...before, features };
  return chained(state, [
    (now) => withMtu(before, now),
    ...state.vrings.map(({ index }) => (now: SessionState) => configured(now, now.vrings[index]!)),
    // Without PROTOCOL_FEATURES there is no SET_VRING_ENABLE (vhost-user, Ring states).
    ...hasFeature(features, "PROTOCOL_FEATURES")
      ? []
      : state.vrings.map(({ index }) => (now: SessionState) => enabled(now, index, true)),
  ]);
}

function setProtocolFeatures(state: SessionState, protocolFeatures: bigint): Step<never> {
  const extra = protocolFeatures & ~state.offer.protocolFeatures;
  if (extra !== 0n) {
    throw new RefusedError(`protocol features ${listed(protocolFeatureNames(extra))} were not offered`);
  }
  if (isRunning(state) && protocolFeatures !== state.protocolFeatures) {
    const changed = listed(protocolFeatureNames(protocolFeatures ^ state.protocolFeatures));
    throw new RefusedError(`protocol features ${changed} change while rings run: stop the rings first`);
  }
  return unchanged({ ...state, protocolFeatures });
}

/** For a line that somebody is to read. */
function listed(names: readonly string[]): string {
  const shown = names.slice(0, 4).join(", ");
  return names.length > 4 ? `${shown} and ${names.length - 4} more` : shown;
}

function withMemory(before: SessionState, memory: MemoryTable, effect: Effect): Step<never> {
  checkStill(before.postCopy, isRunning(before));
  for (const vring of before.vrings) checkPlace(vring, memory);
  return { state: { ...before, memory }, effects: [effect] };
}

function setMemoryTable(state: SessionState, regions: readonly Region[], fds: readonly Fd[]): Step<never> {
  const memory = MemoryTable.of(regions);
  const same = regions.length === state.memory.regions.length && regions.every((region) => state.memory.same(region));
  // What is there stays where it is, and is fetched already.
  if (same && state.postCopy === "listening") return located(unchanged(state), regions);
  return located(withMemory(state, memory, { kind: "setMemory", regions, fds }), regions);
}

/** QEMU adds the same region once for each queue pair, each time with an fd of its own for the same file. */
function addRegion(state: SessionState, region: Region, [fd]: readonly Fd[]): Step<never> {
  if (state.memory.same(region) !== undefined) return located(unchanged(state), [region]);
  return located(withMemory(state, state.memory.plus(region), { kind: "addRegion", region, fd: fd! }), [region]);
}

function located(step: Step<never>, regions: readonly Region[]): Step<never> {
  return step.state.postCopy === "listening" ? { ...step, located: regions } : step;
}

/** QEMU removes the same region once for each queue pair. */
function removeRegion(state: SessionState, named: Region): Step<never> {
  const region = state.memory.find(named);
  if (region === undefined) return unchanged(state);
  return withMemory(state, state.memory.minus(region), { kind: "removeRegion", region });
}

function vringFdOf(state: SessionState, which: VringFd, payload: bigint, [fd]: readonly Fd[]) {
  if ((payload & ~(vringFdBits.index | vringFdBits.noFd)) !== 0n) {
    throw new RefusedError(`ring and flag 0x${payload.toString(16)}: bits above 8 have no meaning`);
  }
  const vring = vringOf(state, Number(payload & vringFdBits.index));
  const effect: Effect = { kind: "setVringFd", index: vring.index, which, fd };
  return { vring, effect };
}

function setEventfd(state: SessionState, which: VringFd, payload: bigint, fds: readonly Fd[]): Step<never> {
  return { state, effects: [vringFdOf(state, which, payload, fds).effect] };
}

function setKick(state: SessionState, payload: bigint, fds: readonly Fd[]): Step<never> {
  const { vring, effect } = vringFdOf(state, "kick", payload, fds);
  const start = configured(state, { ...vring, kicked: true });
  return { state: start.state, effects: [effect, ...start.effects] };
}

/** Stops the ring if it runs. Its kick and call eventfds go: a restart brings others, as in every back end. */
function stopped(state: SessionState, index: number, keepBase: boolean): Step<never> {
  const vring = state.vrings[index]!;
  const effects: Effect[] = [];
  if (vring.running !== undefined) effects.push({ kind: "stopVring", index, keepBase });
  if (vring.kicked) {
    effects.push({ kind: "setVringFd", index, which: "kick", fd: undefined });
    effects.push({ kind: "setVringFd", index, which: "call", fd: undefined });
  }
  return { state: withVring(state, stoppedVring(vring)), effects };
}

function getVringBase(state: SessionState, { index }: { index: number }): Step<{ index: number; num: number }> {
  vringOf(state, index);
  return { ...stopped(state, index, true), answer: (after) => ({ index, num: after.vrings[index]!.base ?? 0 }) };
}

function enabled(state: SessionState, index: number, on: boolean): Step<never> {
  const vring = vringOf(state, index);
  if (vring.enabled === on) return unchanged(state);
  return {
    state: withVring(state, { ...vring, enabled: on }),
    effects: [{ kind: "enableVring", index, enabled: on }],
  };
}

function enableVring(state: SessionState, { index, num }: { index: number; num: number }): Step<never> {
  vringOf(state, index);
  if (num > 1) throw new RefusedError(`state of ring ${index}: ${num}: give 0 or 1`);
  return enabled(state, index, num === 1);
}

function setMtu(before: SessionState, payload: bigint): Step<never> {
  const max = before.offer.mtu ?? limits.mtuMax;
  if (payload < BigInt(limits.mtuMin) || payload > BigInt(max)) {
    throw new RefusedError(`MTU ${payload}: this port takes ${limits.mtuMin} to ${max}`);
  }
  return withMtu(before, { ...before, mtu: Number(payload) });
}

/** With the feature, no longer frame may go to the guest (virtio 5.1.4.1); without it, the guest was told of none. */
export function mtuOf({ features = 0n, mtu }: SessionState): number | undefined {
  return hasFeature(features, "MTU") ? mtu : undefined;
}

/** QEMU tells the MTU before it acknowledges the feature. */
function withMtu(before: SessionState, state: SessionState): Step<never> {
  const mtu = mtuOf(state);
  return { state, effects: mtu === mtuOf(before) ? [] : [{ kind: "setMtu", mtu }] };
}

/**
 * QEMU 7.2 sets status 0 before it asks for the rings' bases, others after; a session that forgot positions here would
 * answer that question wrongly.
 */
function setStatus(state: SessionState, status: bigint): Step<never> {
  if (status > BigInt(limits.status)) throw new RefusedError(`status 0x${status.toString(16)}: it is one byte`);
  return unchanged({ ...state, status: Number(status) });
}

/** Phase 0 is the only one there is: nothing moves meanwhile. */
function transferState(
  state: SessionState,
  { direction, phase }: { direction: number; phase: number },
  [fd]: readonly Fd[],
): Step<bigint> {
  if (phase !== 0) throw new RefusedError(`phase ${phase}: only 0, with the device stopped, has a meaning`);
  if (direction > 1) throw new RefusedError(`direction ${direction}: give 0 to save or 1 to load`);
  if (isRunning(state)) throw new RefusedError("rings run: stop them first, by GET_VRING_BASE");
  return {
    state,
    effects: [{ kind: direction === 0 ? "saveState" : "loadState", fd: fd! }],
    answer: () => transferAnswers.done,
  };
}

/** Memory, protocol features and the connection stay: QEMU, with slots, does not send the memory again. */
function resetDevice(before: SessionState): Step<never> {
  const { state, effects } = chained(
    before,
    before.vrings.flatMap(({ index }) => [
      (now: SessionState) => stopped(now, index, false),
      (now: SessionState) => enabled(now, index, false),
    ]),
  );
  const vrings = state.vrings.map(({ index }) => initialVring(index));
  const reset = withMtu(state, { ...state, features: undefined, status: 0, vrings });
  return { state: reset.state, effects: [...effects, ...reset.effects] };
}

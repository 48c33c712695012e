/**
 * A session as an object of JSON, for another process that is to go on with it: everything but descriptors, and where
 * rings stand by then. That process may be of another build, so the form has a version.
 *
 * @module
 */
import type { VringConfig } from "./dataplane.ts";
import type { Inflight } from "./inflight.ts";
import { MemoryTable } from "./memory_table.ts";
import type { Offer } from "./offer.ts";
import type { PostCopy } from "./post_copy.ts";
import { initialSession, type SessionState } from "./session.ts";
import { featureNames, protocolFeatureNames } from "./spec.ts";
import type { VringState } from "./vring_state.ts";

/**
 * Raised when an older reader would misunderstand; a reader knows all versions before its own. Version 2 has memory
 * that the front end keeps of what is in flight; what version 1 can say is written in that.
 */
export const snapshotVersion = 2;

/** What JSON has; numbers of 64 bits are text, in hexadecimal. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [name: string]: Json };

type Row = { readonly [name: string]: Json };

const ringKeys = ["desc", "avail", "used", "log"] as const;
const inflightKeys = ["mmapSize", "mmapOffset"] as const;
const regionKeys = ["gpa", "size", "userAddress", "mmapOffset"] as const;

/** For one who reads `version`. Throws where it cannot go on: while memory of the guest is elsewhere. */
export function writeSession(state: SessionState, version: number): Json {
  const { features, protocolFeatures, status, mtu, memory, postCopy, vrings, inflight } = state;
  if (postCopy === "advised" || postCopy === "listening") {
    throw new Error("its guest arrives by post-copy: wait until all of its memory is here");
  }
  if (inflight !== undefined && version < 2) {
    throw new Error(
      "its front end keeps memory of what is in flight, and it takes a newer program to go on with that: " +
        "take one, or have it connect without INFLIGHT_SHMFD",
    );
  }
  return {
    version: inflight === undefined ? 1 : 2,
    features: features === undefined ? null : hex(features),
    protocolFeatures: hex(protocolFeatures),
    status,
    mtu: mtu ?? null,
    postCopy,
    regions: memory.regions.map((region) => hexRow(region, regionKeys)),
    vrings: vrings.map(writeVring),
    ...inflight === undefined ? {} : { inflight: writeInflight(inflight) },
  };
}

function writeInflight({ mmapSize, mmapOffset, queueCount, queueSize }: Inflight): Row {
  return { ...hexRow({ mmapSize, mmapOffset }, inflightKeys), queueCount, queueSize };
}

function readInflight(row: Row): Inflight {
  return {
    ...bigRow(row, inflightKeys),
    queueCount: number(row, "queueCount"),
    queueSize: number(row, "queueSize"),
  };
}

function writeVring({ size, base, address, kicked, running, enabled }: VringState): Json {
  return {
    size: size ?? null,
    base: base ?? null,
    address: address === undefined ? null : { ...hexRow(address, ringKeys), flags: address.flags },
    kicked,
    enabled,
    running: running === undefined ? null : writeConfig(running),
  };
}

function writeConfig(config: VringConfig): Row {
  const { size, base, flags } = config;
  return { ...hexRow(config, [...ringKeys, "features"]), size, base, flags };
}

/**
 * The session that `writeSession` wrote, on an offer of ours. Throws with the reason why it cannot go on here: the form
 * is unknown, or the offer lacks what was agreed.
 */
export function readSession(value: Json, offer: Offer): SessionState {
  const row = rowOf(value, "session");
  const version = number(row, "version");
  if (version > snapshotVersion) {
    throw new Error(`a session of version ${version}: this program reads those up to ${snapshotVersion}`);
  }
  const features = row["features"] === null ? undefined : bits(row, "features");
  const protocolFeatures = bits(row, "protocolFeatures");
  lacksNothing("features", featureNames((features ?? 0n) & ~offer.features));
  lacksNothing("protocol features", protocolFeatureNames(protocolFeatures & ~offer.protocolFeatures));
  const initial = initialSession(offer);
  const vrings = listOf(row, "vrings").map(readVring);
  const inUse = vrings.findLastIndex((vring) => vring.size !== undefined) + 1;
  if (inUse > initial.vrings.length) {
    throw new Error(`${inUse / 2} queue pairs are in use, and ${offer.queuePairs} are planned: plan as many`);
  }
  return {
    ...initial,
    features,
    protocolFeatures,
    status: number(row, "status"),
    mtu: optional(row, "mtu"),
    memory: MemoryTable.of(listOf(row, "regions").map((region) => bigRow(rowOf(region, "region"), regionKeys))),
    postCopy: postCopyOf(row),
    inflight: version < 2 ? undefined : readInflight(rowOf(row["inflight"], "inflight memory")),
    vrings: initial.vrings.map((vring) => vrings[vring.index] ?? vring),
  };
}

function readVring(value: Json, index: number): VringState {
  const row = rowOf(value, `ring ${index}`);
  const address = row["address"] === null ? undefined : rowOf(row["address"], `addresses of ring ${index}`);
  const running = row["running"] === null ? undefined : rowOf(row["running"], `configuration of ring ${index}`);
  return {
    index,
    size: optional(row, "size"),
    base: optional(row, "base"),
    address: address && { index, flags: number(address, "flags"), ...bigRow(address, ringKeys) },
    kicked: row["kicked"] === true,
    enabled: row["enabled"] === true,
    running: running && {
      ...bigRow(running, [...ringKeys, "features"]),
      size: number(running, "size"),
      base: number(running, "base"),
      flags: number(running, "flags"),
    },
  };
}

function lacksNothing(what: string, names: readonly string[]): void {
  if (names.length > 0) throw new Error(`${what} ${names.join(" ")} were agreed, and are not on offer: offer them`);
}

function postCopyOf(row: Row): PostCopy {
  if (row["postCopy"] === "none" || row["postCopy"] === "over") return row["postCopy"];
  throw new Error(`post-copy ${JSON.stringify(row["postCopy"])}: none or over can go on`);
}

/** An object, or an `Error`. */
export function rowOf(value: Json | undefined, what: string): Row {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Row;
  throw new Error(`${what} is missing`);
}

/** A list, or an `Error`. */
export function listOf(row: Row, key: string): readonly Json[] {
  const value = row[key];
  if (Array.isArray(value)) return value;
  throw new Error(`${key} is missing`);
}

/** A whole number from 0 up, or an `Error`. */
export function number(row: Row, key: string): number {
  const value = row[key];
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
  throw new Error(`${key} is no number: ${JSON.stringify(value)}`);
}

function optional(row: Row, key: string): number | undefined {
  return row[key] === null ? undefined : number(row, key);
}

/** What `hex` wrote, or an `Error`. */
export function bits(row: Row, key: string): bigint {
  const value = row[key];
  if (typeof value === "string" && /^0x[0-9a-f]{1,16}$/.test(value)) return BigInt(value);
  throw new Error(`${key} is no number: ${JSON.stringify(value)}`);
}

/** A number of up to 64 bits as text. */
export function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}

function hexRow<K extends string>(values: { readonly [N in K]: bigint }, keys: readonly K[]): Row {
  return Object.fromEntries(keys.map((key) => [key, hex(values[key])]));
}

function bigRow<K extends string>(row: Row, keys: readonly K[]): { [N in K]: bigint } {
  return Object.fromEntries(keys.map((key) => [key, bits(row, key)])) as { [N in K]: bigint };
}

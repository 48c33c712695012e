/**
 * Payloads as bytes (vhost-user, Payload): how each is laid out, and nothing of what it means.
 *
 * Numbers are in the machine's byte order; every machine that we run on is little-endian. Structs are as C lays them
 * out on the front ends' side, padding at the end included.
 *
 * @module
 */
import { limits } from "./spec.ts";

/** How one kind of payload is read and written. Both directions are total. */
export interface Codec<T> {
  /** What lengths fit, for people. */
  readonly length: string;
  /** Undefined: the bytes are no such payload. */
  decode(bytes: Uint8Array): T | undefined;
  /** Numbers too big for their field are cut, as typed arrays cut them. */
  encode(value: T): Uint8Array<ArrayBuffer>;
}

type Scalar = "u8" | "u16" | "u32" | "u64";
/** In order; a number is so many bytes of padding. */
type Layout = Readonly<Record<string, Scalar | number>>;
/** 64-bit fields are bigint, others number; padding does not show. */
type Struct<L extends Layout> = {
  readonly [K in keyof L as L[K] extends number ? never : K]: L[K] extends "u64" ? bigint : number;
};

const scalarBytes = { u8: 1, u16: 2, u32: 4, u64: 8 } as const;
const littleEndian = true;

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function getScalar(view: DataView, type: Scalar, at: number): number | bigint {
  switch (type) {
    case "u8":
      return view.getUint8(at);
    case "u16":
      return view.getUint16(at, littleEndian);
    case "u32":
      return view.getUint32(at, littleEndian);
    case "u64":
      return view.getBigUint64(at, littleEndian);
  }
}

function setScalar(view: DataView, type: Scalar, at: number, value: number | bigint): void {
  switch (type) {
    case "u8":
      return view.setUint8(at, Number(value));
    case "u16":
      return view.setUint16(at, Number(value), littleEndian);
    case "u32":
      return view.setUint32(at, Number(value), littleEndian);
    case "u64":
      return view.setBigUint64(at, BigInt(value), littleEndian);
  }
}

function bytesOf(type: Scalar | number): number {
  return typeof type === "number" ? type : scalarBytes[type];
}

function struct<const L extends Layout>(layout: L): Codec<Struct<L>> & { readonly bytes: number } {
  const fields: { name: string; type: Scalar; at: number }[] = [];
  let bytes = 0;
  for (const [name, type] of Object.entries(layout)) {
    if (typeof type !== "number") fields.push({ name, type, at: bytes });
    bytes += bytesOf(type);
  }
  return {
    bytes,
    length: `${bytes} bytes`,
    decode(from) {
      if (from.length !== bytes) return undefined;
      const view = viewOf(from);
      return Object.fromEntries(fields.map(({ name, type, at }) => [name, getScalar(view, type, at)])) as Struct<L>;
    },
    encode(value) {
      const to = new Uint8Array(bytes);
      const view = viewOf(to);
      const values = value as Readonly<Record<string, number | bigint>>;
      for (const { name, type, at } of fields) setScalar(view, type, at, values[name] ?? 0);
      return to;
    },
  };
}

/** The value of a codec's payload. */
export type Value<C> = C extends Codec<infer T> ? T : never;

/** No payload at all. */
export const empty: Codec<null> = {
  length: "0 bytes",
  decode: (bytes) => bytes.length === 0 ? null : undefined,
  encode: () => new Uint8Array(0),
};

/** A single 64-bit integer. */
export const u64: Codec<bigint> = {
  length: "8 bytes",
  decode: (bytes) => bytes.length === 8 ? viewOf(bytes).getBigUint64(0, littleEndian) : undefined,
  encode(value) {
    const bytes = new Uint8Array(8);
    viewOf(bytes).setBigUint64(0, value, littleEndian);
    return bytes;
  },
};

/** A vring state description. */
export const vringState = struct({ index: "u32", num: "u32" });

/** A vring address description; ring addresses are the front end's own. */
export const vringAddress = struct({
  index: "u32",
  flags: "u32",
  desc: "u64",
  used: "u64",
  avail: "u64",
  log: "u64",
});

const region = struct({ gpa: "u64", size: "u64", userAddress: "u64", mmapOffset: "u64" });

/** Memory regions description: a count, and so many regions. */
export const memoryRegions: Codec<readonly Value<typeof region>[]> = {
  length: `8 bytes and ${region.bytes} for each of up to ${limits.tableRegions} regions`,
  decode(bytes) {
    if (bytes.length < 8) return undefined;
    const count = viewOf(bytes).getUint32(0, littleEndian);
    if (count > limits.tableRegions || bytes.length !== 8 + count * region.bytes) return undefined;
    return Array.from(
      { length: count },
      (_, i) => region.decode(bytes.subarray(8 + i * region.bytes).subarray(0, region.bytes))!,
    );
  },
  encode(regions) {
    const bytes = new Uint8Array(8 + regions.length * region.bytes);
    viewOf(bytes).setUint32(0, regions.length, littleEndian);
    regions.forEach((one, i) => bytes.set(region.encode(one), 8 + i * region.bytes));
    return bytes;
  },
};

/** Single memory region description. */
export const singleRegion = struct({ padding: 8, gpa: "u64", size: "u64", userAddress: "u64", mmapOffset: "u64" });

/** Log description. */
export const log = struct({ size: "u64", offset: "u64" });

/** An IOTLB message. */
export const iotlb = struct({
  iova: "u64",
  size: "u64",
  userAddress: "u64",
  permission: "u8",
  type: "u8",
  padding: 6,
});

/** Vring area description. */
export const vringArea = struct({ vring: "u64", size: "u64", offset: "u64" });

/** Inflight description. */
export const inflight = struct({ mmapSize: "u64", mmapOffset: "u64", queueCount: "u16", queueSize: "u16", padding: 4 });

/** Device state transfer parameters. */
export const transfer = struct({ direction: "u32", phase: "u32" });

/** VIRTIO shared memory mapping. */
export const sharedMapping = struct({
  region: "u8",
  padding: 7,
  fdOffset: "u64",
  regionOffset: "u64",
  size: "u64",
  flags: "u64",
});

const configHead = struct({ offset: "u32", size: "u32", flags: "u32" });

/** Virtio device config space: where, and so many bytes. */
export const config: Codec<Value<typeof configHead> & { readonly bytes: Uint8Array }> = {
  length: `${configHead.bytes} bytes and as many as it says, up to ${limits.configBytes}`,
  decode(from) {
    const head = configHead.decode(from.subarray(0, configHead.bytes));
    if (head === undefined || head.size > limits.configBytes) return undefined;
    if (from.length !== configHead.bytes + head.size) return undefined;
    return { ...head, bytes: from.slice(configHead.bytes) };
  },
  encode(value) {
    const to = new Uint8Array(configHead.bytes + value.bytes.length);
    to.set(configHead.encode(value));
    to.set(value.bytes, configHead.bytes);
    return to;
  },
};

/** An object shared by several devices, named by its UUID. */
export const uuid: Codec<Uint8Array> = {
  length: "16 bytes",
  decode: (bytes) => bytes.length === 16 ? bytes.slice() : undefined,
  encode: (value) => Uint8Array.from(value),
};

/** What a device of another kind than ours defines. */
export const opaque: Codec<Uint8Array> = {
  length: "any length",
  decode: (bytes) => bytes.slice(),
  encode: (value) => Uint8Array.from(value),
};

/**
 * Structs of the boundary as plain objects, read and written by the generated layouts.
 *
 * @module
 */

import { structs } from "./abi.gen.ts";

type Name = keyof typeof structs;
type Field = readonly [string, number, number];
type Scalar<F> = F extends readonly ["u64" | "i64", number, number] ? bigint : number;
type Value<F> = F extends readonly [string, number, 1] ? Scalar<F> : readonly Scalar<F>[];

/** A struct with 64-bit fields as bigint, others as number, arrays as arrays. */
export type Struct<N extends Name> = {
  [K in keyof typeof structs[N]["fields"]]: Value<typeof structs[N]["fields"][K]>;
};

/** A buffer that a struct fits into, for the library to fill. */
export function emptyStruct(name: Name): Uint8Array<ArrayBuffer> {
  return new Uint8Array(structs[name].size);
}

/** Lays out one struct, or several in a row. Numbers that do not fit their field are cut as typed arrays cut them. */
export function writeStructs<N extends Name>(name: N, values: readonly Struct<N>[]): Uint8Array<ArrayBuffer> {
  const { size, fields } = structs[name];
  const bytes = new Uint8Array(size * values.length);
  const view = new DataView(bytes.buffer);
  values.forEach((value, row) => {
    for (const [key, [type, offset]] of Object.entries(fields) as [keyof Struct<N>, Field][]) {
      const given = value[key] as bigint | number | readonly (bigint | number)[];
      const items = Array.isArray(given) ? given : [given];
      items.forEach((item, i) => write(view, type, row * size + offset + i * bytesOf(type), item));
    }
  });
  return bytes;
}

export function writeStruct<N extends Name>(name: N, value: Struct<N>): Uint8Array<ArrayBuffer> {
  return writeStructs(name, [value]);
}

/**
 * An object with a struct's fields. A copy of it is one of few allocations; one that gets its fields by name is a table
 * of its own to V8, several times as large.
 */
const templates = new Map<Name, Record<string, unknown>>();

function templateOf(name: Name): Record<string, unknown> {
  let template = templates.get(name);
  if (template === undefined) {
    const entries = Object.keys(structs[name].fields).map((field) => [field, 0]);
    template = JSON.parse(JSON.stringify(Object.fromEntries(entries))) as Record<string, unknown>;
    templates.set(name, template);
  }
  return template;
}

/** Reads a struct that begins at `at`. */
export function readStruct<N extends Name>(name: N, bytes: Uint8Array, at = 0): Struct<N> {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, structs[name].size);
  const result = { ...templateOf(name) };
  for (const [key, [type, offset, count]] of Object.entries(structs[name].fields) as [string, Field][]) {
    result[key] = count === 1
      ? read(view, type, offset)
      : Array.from({ length: count }, (_, i) => read(view, type, offset + i * bytesOf(type)));
  }
  return result as Struct<N>;
}

function bytesOf(type: string): number {
  return Number(type.slice(1)) / 8;
}

function read(view: DataView, type: string, offset: number): number | bigint {
  switch (type) {
    case "u8":
      return view.getUint8(offset);
    case "u16":
      return view.getUint16(offset, true);
    case "u32":
      return view.getUint32(offset, true);
    case "i32":
      return view.getInt32(offset, true);
    case "u64":
      return view.getBigUint64(offset, true);
    default:
      throw new TypeError(`Cannot read field: ${type} is no type of the boundary`);
  }
}

function write(view: DataView, type: string, offset: number, value: number | bigint): void {
  if (type === "u64") return view.setBigUint64(offset, BigInt(value), true);
  const plain = Number(value);
  if (type === "u8") view.setUint8(offset, plain);
  else if (type === "u16") view.setUint16(offset, plain, true);
  else if (type === "u32") view.setUint32(offset, plain, true);
  else if (type === "i32") view.setInt32(offset, plain, true);
  else throw new TypeError(`Cannot write field: ${type} is no type of the boundary`);
}

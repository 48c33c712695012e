/**
 * Bytes of frames and messages, and how to tell them apart.
 *
 * @module
 */

import { Buffer } from "node:buffer";

/** Whether two runs of bytes are the same. */
export function equals(one: Uint8Array, other: Uint8Array): boolean {
  const asBuffer = (bytes: Uint8Array) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return one.length === other.length && asBuffer(one).equals(asBuffer(other));
}

/** One after the other. */
export function joined(...pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** So many bytes that depend on `seed` and on where they stand. */
export function pattern(len: number, seed: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(len);
  for (let i = 0; i < len; i++) bytes[i] = (i * 31 + seed * 17 + (i >> 8)) & 0xff;
  return bytes;
}

/** A MAC address as bytes, from the number that it reads as. */
export function macBytes(mac: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length: 6 }, (_, i) => Math.floor(mac / 2 ** (40 - 8 * i)) & 0xff);
}

/** For local experiments: IEEE 802.3. */
const etherType = 0x88b5;
/** Addresses, type and sequence number. */
export const frameHeadBytes = 18;

export interface FrameOptions {
  readonly to: number;
  readonly from: number;
  readonly sequence: number;
  /** At least `frameHeadBytes`, unless it is to be cut. */
  readonly len: number;
}

/** An Ethernet frame that says who it is. */
export function frameOf({ to, from, sequence, len }: FrameOptions): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(Math.max(len, frameHeadBytes));
  bytes.set(macBytes(to));
  bytes.set(macBytes(from), 6);
  const view = new DataView(bytes.buffer);
  view.setUint16(12, etherType);
  view.setUint32(14, sequence);
  bytes.set(pattern(bytes.length - frameHeadBytes, sequence), frameHeadBytes);
  return bytes.subarray(0, len);
}

/** The sequence number of such a frame. */
export function sequenceOf(frame: Uint8Array): number {
  return new DataView(frame.buffer, frame.byteOffset, frame.byteLength).getUint32(14);
}

/** Fields of the virtio-net header (virtio 5.1.6); what is left out is 0. */
export interface NetHeader {
  readonly flags?: number;
  readonly gsoType?: number;
  readonly hdrLen?: number;
  readonly gsoSize?: number;
  readonly csumStart?: number;
  readonly csumOffset?: number;
  readonly buffers?: number;
}

/** Header bytes as on the ring: 12, or 10 where there is no place for the number of buffers. */
export function headerOf(fields: NetHeader = {}, len = 12): Uint8Array<ArrayBuffer> {
  const { flags = 0, gsoType = 0, hdrLen = 0, gsoSize = 0, csumStart = 0, csumOffset = 0, buffers = 0 } = fields;
  const view = new DataView(new ArrayBuffer(12));
  view.setUint8(0, flags);
  view.setUint8(1, gsoType);
  [hdrLen, gsoSize, csumStart, csumOffset, buffers].forEach((field, i) => view.setUint16(2 + 2 * i, field, true));
  return new Uint8Array(view.buffer, 0, len);
}

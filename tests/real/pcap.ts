// Files of packets as tcpdump writes them: pcap's classic format, little-endian.

const file_bytes = 24;
const record_bytes = 16;
const magic = 0xa1b2c3d4;
const ethernet = 1;

/** All of one moment. */
export function pcapOf(frames: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = frames.reduce((sum, frame) => sum + record_bytes + frame.length, file_bytes);
  const file = new Uint8Array(bytes);
  const view = new DataView(file.buffer);
  view.setUint32(0, magic, true);
  view.setUint16(4, 2, true);
  view.setUint16(6, 4, true);
  view.setUint32(16, 65535, true);
  view.setUint32(20, ethernet, true);
  let at = file_bytes;
  for (const frame of frames) {
    view.setUint32(at + 8, frame.length, true);
    view.setUint32(at + 12, frame.length, true);
    file.set(frame, at + record_bytes);
    at += record_bytes + frame.length;
  }
  return file;
}

/** Of a whole file; whatever its clock. */
export function framesOf(file: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>[] {
  const view = new DataView(file.buffer);
  const frames: Uint8Array<ArrayBuffer>[] = [];
  for (let at = file_bytes; at + record_bytes <= file.length;) {
    const length = view.getUint32(at + 8, true);
    frames.push(file.slice(at + record_bytes, at + record_bytes + length));
    at += record_bytes + length;
  }
  return frames;
}

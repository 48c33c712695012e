/**
 * Where the frames of AF_XDP sockets are, of a process that is at rest: seen from outside, in what it shares with the
 * kernel. Takes root.
 *
 * @module
 */

import assert from "node:assert/strict";

const libc = Deno.dlopen("libc.so.6", {
  syscall: { parameters: ["i64", "i64", "i64", "i64"], result: "i64" },
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  mmap: { parameters: ["usize", "usize", "i32", "i32", "i32", "i64"], result: "pointer" },
  munmap: { parameters: ["pointer", "usize"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
}).symbols;

const pidfdOpen = 434n;
const pidfdGetfd = 438n;
const solXdp = 283;
const mmapOffsets = 1;
const readShared = [1, 1] as const;

/** As in `zig/umem.zig`. */
const chunkBytes = 4096n;
const chunksEach = 2048;
const ringEntries = 4096;
const handsAt = 2 * chunksEach * Number(chunkBytes);

/** Of each ring: where in the socket it is mapped, and how many bytes an entry has. */
const rings = {
  receive: { at: 0n, bytes: 16 },
  send: { at: 0x8000_0000n, bytes: 16 },
  fill: { at: 0x1_0000_0000n, bytes: 8 },
  completion: { at: 0x1_8000_0000n, bytes: 8 },
} as const;
type RingName = keyof typeof rings;
/** As in struct xdp_mmap_offsets. */
const ringOrder: readonly RingName[] = ["receive", "send", "fill", "completion"];

/** How many sockets there are, and how many chunks of theirs can be found, each at one place only, by purpose. */
export interface XdpFrames {
  readonly sockets: number;
  readonly receive: number;
  readonly send: number;
}

/** Throws where a chunk is at two places. */
export function xdpFrames(pid: number): XdpFrames {
  const sockets = socketsOf(pid).map(chunksOf).filter((socket) => socket !== undefined);
  // None of the numbers in a socket's rings is in hand; a full hand belongs to one whose rings are empty.
  const hands = handsOf(pid).toSorted((one, other) => one.size - other.size);
  sockets.sort((one, other) => other.send.size - one.send.size);
  assert.equal(hands.length, sockets.length);
  sockets.forEach(({ send }, index) => assert.ok(send.isDisjointFrom(hands[index]!), "a chunk is at two places"));
  const sum = (sets: readonly Set<number>[]) => sets.reduce((total, { size }) => total + size, 0);
  return {
    sockets: sockets.length,
    receive: sum(sockets.map(({ receive }) => receive)),
    send: sum(sockets.map(({ send }) => send)) + sum(hands),
  };
}

/** Closes a socket. Undefined: it is none of AF_XDP. */
function chunksOf(fd: number): { receive: Set<number>; send: Set<number> } | undefined {
  const offsets = offsetsOf(fd);
  if (offsets === undefined) return void libc.close(fd);
  const chunks = (...names: RingName[]) => distinct(names.flatMap((name) => read(fd, name, offsets)));
  const found = { receive: chunks("fill", "receive"), send: chunks("send", "completion") };
  libc.close(fd);
  return found;
}

/** Duplicates of the sockets of a process, one each. */
function socketsOf(pid: number): number[] {
  const pidfd = Number(libc.syscall(pidfdOpen, BigInt(pid), 0n, 0n));
  assert.ok(pidfd >= 0, "no pidfd_open");
  const byTarget = new Map(filesOf(pid).filter(([target]) => target.startsWith("socket:")));
  const found = [...byTarget.values()].map((fd) => Number(libc.syscall(pidfdGetfd, BigInt(pidfd), BigInt(fd), 0n)));
  libc.close(pidfd);
  assert.ok(found.every((fd) => fd >= 0), "no pidfd_getfd");
  return found;
}

function filesOf(pid: number): [target: string, fd: number][] {
  return [...Deno.readDirSync(`/proc/${pid}/fd`)].map(({ name }) => {
    return [Deno.readLinkSync(`/proc/${pid}/fd/${name}`), Number(name)];
  });
}

/** Where in each ring things are. */
type Offsets = Record<RingName, readonly [producer: number, consumer: number, entries: number]>;

/** Of a socket that is one of AF_XDP. */
function offsetsOf(fd: number): Offsets | undefined {
  const words = new BigUint64Array(4 * ringOrder.length);
  const length = new Uint32Array([words.byteLength]);
  if (libc.getsockopt(fd, solXdp, mmapOffsets, words, length) !== 0) return undefined;
  const of = (place: number) => [0, 1, 2].map((word) => Number(words[4 * place + word]!)) as [number, number, number];
  return Object.fromEntries(ringOrder.map((name, place) => [name, of(place)])) as unknown as Offsets;
}

/** Chunks of the entries that nobody consumed. */
function read(fd: number, name: RingName, offsets: Offsets): number[] {
  const [producerAt, consumerAt, entriesAt] = offsets[name];
  const { at, bytes } = rings[name];
  const length = BigInt(entriesAt + ringEntries * bytes);
  const map = libc.mmap(0n, length, ...readShared, fd, at);
  assert.ok(map !== null && Deno.UnsafePointer.value(map) < 2n ** 63n, `no ring ${name}`);
  const view = new Deno.UnsafePointerView(map);
  const [producer, consumer] = [view.getUint32(producerAt), view.getUint32(consumerAt)];
  const count = (producer - consumer) >>> 0;
  const chunks = Array.from({ length: count }, (_, index) => {
    const place = ((consumer + index) >>> 0) % ringEntries;
    return Number(view.getBigUint64(entriesAt + place * bytes) / chunkBytes);
  });
  libc.munmap(map, length);
  return chunks;
}

/** Chunks to send from that the process has in hand, by memory. */
function handsOf(pid: number): Set<number>[] {
  const byTarget = filesOf(pid).filter(([target]) => target.startsWith("/memfd:umem "));
  return byTarget.map(([, fd]) => {
    using file = Deno.openSync(`/proc/${pid}/fd/${fd}`);
    file.seekSync(handsAt, Deno.SeekMode.Start);
    const words = new Uint32Array(2 + chunksEach);
    assert.equal(file.readSync(new Uint8Array(words.buffer)), words.byteLength);
    return distinct([...words.subarray(2, 2 + words[1]!)].map((number) => chunksEach + number));
  });
}

function distinct(chunks: readonly number[]): Set<number> {
  const set = new Set(chunks);
  assert.equal(set.size, chunks.length, "a chunk is at two places");
  return set;
}

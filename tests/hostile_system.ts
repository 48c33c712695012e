/**
 * The system calls of a hostile front end, straight from libc: what no honest program would do with sockets, memory
 * and descriptors cannot be had from the program's own library.
 *
 * @module
 */

const libc = Deno.dlopen("libc.so.6", {
  close: { parameters: ["i32"], result: "i32" },
  memfd_create: { parameters: ["buffer", "u32"], result: "i32" },
  ftruncate: { parameters: ["i32", "i64"], result: "i32" },
  fallocate: { parameters: ["i32", "i32", "i64", "i64"], result: "i32" },
  mmap: { parameters: ["usize", "usize", "i32", "i32", "i32", "i64"], result: "pointer" },
  munmap: { parameters: ["pointer", "usize"], result: "i32" },
  eventfd: { parameters: ["u32", "i32"], result: "i32" },
  read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  fcntl: { parameters: ["i32", "i32", "i64"], result: "i32" },
  open: { parameters: ["buffer", "i32", "i32"], result: "i32" },
  pipe2: { parameters: ["buffer", "i32"], result: "i32" },
  epoll_create1: { parameters: ["i32"], result: "i32" },
  timerfd_create: { parameters: ["i32", "i32"], result: "i32" },
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  socketpair: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  sendmsg: { parameters: ["i32", "buffer", "i32"], result: "isize" },
  recv: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
  poll: { parameters: ["buffer", "u64", "i32"], result: "i32" },
}).symbols;

const nonblocking = 0o4000;
const closeOnExec = 0o2000000;
const unixDomain = 1;
const streamSocket = 1;
const messageFlags = { dontWait: 0x40, noSignal: 0x4000 };

function checked(what: string, result: number | bigint): number {
  if (result < 0) throw new Error(`cannot ${what}: the system call failed`);
  return Number(result);
}

function terminated(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${text}\0`);
}

/** Closes a descriptor. */
export function close(fd: number): void {
  libc.close(fd);
}

// Files.

/** Seals of a memory file: what can no more be done to it. */
export const seals = { shrink: 2, write: 8 } as const;

/** A file without a name; with a seal only where one is given. */
export function memoryFile(bytes: number | bigint, seal = 0): number {
  const allowSealing = 3;
  const fd = checked("make memory file", libc.memfd_create(terminated("hostile"), allowSealing));
  truncate(fd, bytes);
  const addSeals = 1033;
  if (seal !== 0) checked("seal memory file", libc.fcntl(fd, addSeals, BigInt(seal)));
  return fd;
}

/** Makes a file shorter or longer. */
export function truncate(fd: number, bytes: number | bigint): void {
  checked("change length of file", libc.ftruncate(fd, BigInt(bytes)));
}

/** Takes pages out of the middle of a file. */
export function punchHole(fd: number, offset: number, bytes: number): void {
  const keepSizePunchHole = 3;
  checked("punch hole into file", libc.fallocate(fd, keepSizePunchHole, BigInt(offset), BigInt(bytes)));
}

/** How to open a file; `path` only names it. */
export const access = { read: 0, write: 1, both: 2, path: 0o10000000 } as const;

export function open(path: string, how: keyof typeof access): number {
  return checked(`open ${path}`, libc.open(terminated(path), access[how] | closeOnExec, 0));
}

/** The same file again, as seen by another descriptor. */
export function reopen(fd: number, how: keyof typeof access): number {
  return open(`/proc/self/fd/${fd}`, how);
}

/** The bytes of a file as it is mapped for everybody, from now until the process ends. */
export function mapShared(fd: number, bytes: number): Uint8Array<ArrayBuffer> {
  const readWrite = 3;
  const shared = 1;
  const pointer = libc.mmap(0n, BigInt(bytes), readWrite, shared, fd, 0n);
  if (pointer === null || Deno.UnsafePointer.value(pointer) === 0xffff_ffff_ffff_ffffn) {
    throw new Error(`cannot map ${bytes} bytes`);
  }
  return new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(pointer, bytes));
}

// Descriptors of other kinds.

/** Both ends of a pipe: to read, to write. */
export function pipe(): [number, number] {
  const ends = new Int32Array(2);
  checked("make pipe", libc.pipe2(new Uint8Array(ends.buffer), closeOnExec | nonblocking));
  return [ends[0]!, ends[1]!];
}

/** Both ends of a Unix socket of streams. */
export function socketPair(): [number, number] {
  const ends = new Int32Array(2);
  checked(
    "make sockets",
    libc.socketpair(unixDomain, streamSocket | closeOnExec, 0, new Uint8Array(ends.buffer)),
  );
  return [ends[0]!, ends[1]!];
}

export function epoll(): number {
  return checked("make epoll set", libc.epoll_create1(closeOnExec));
}

export function timer(): number {
  const monotonic = 1;
  return checked("make timer", libc.timerfd_create(monotonic, closeOnExec));
}

// Eventfds.

export function eventfd({ semaphore = false } = {}): number {
  return checked("make eventfd", libc.eventfd(0, nonblocking | closeOnExec | (semaphore ? 1 : 0)));
}

/** Adds to a counter; false when there is no room for so much. */
export function signal(fd: number, count = 1n): boolean {
  return libc.write(fd, new Uint8Array(BigUint64Array.of(count).buffer), 8n) === 8n;
}

/** Fills a counter up to its last value: whoever adds one more has to wait. */
export function fill(fd: number): void {
  drain(fd);
  if (!signal(fd, 0xffff_ffff_ffff_fffen)) throw new Error("cannot fill eventfd");
}

/** Empties a counter and returns what it was. */
export function drain(fd: number): bigint {
  const count = new BigUint64Array(1);
  return libc.read(fd, new Uint8Array(count.buffer), 8n) === 8n ? count[0]! : 0n;
}

/** Whoever has this file open, here or in another process, waits in its calls from now on. */
export function makeBlocking(fd: number): void {
  const [getFlags, setFlags] = [3, 4];
  const flags = checked("read flags", libc.fcntl(fd, getFlags, 0n));
  checked("change flags", libc.fcntl(fd, setFlags, BigInt(flags & ~nonblocking)));
}

// Sockets.

/** A connection to a Unix socket of streams. */
export function connect(path: string): number {
  const socket = checked("make socket", libc.socket(unixDomain, streamSocket | closeOnExec | nonblocking, 0));
  const address = new Uint8Array(110);
  address[0] = unixDomain;
  address.set(new TextEncoder().encode(path), 2);
  if (libc.connect(socket, address, address.length) === 0) return socket;
  close(socket);
  throw new Error(`cannot connect to ${path}`);
}

/** How a descriptor is now: what `wait` found. */
export const polled = { readable: 1, writable: 4, error: 8, hangup: 16, readHangup: 0x2000 } as const;

/** Waits until a descriptor is one of `wanted`, or the peer is gone; returns what it is, 0 when time is up. */
export function wait(fd: number, wanted: number, timeout_ms: number): number {
  const record = new Uint8Array(8);
  const view = new DataView(record.buffer);
  view.setInt32(0, fd, true);
  view.setInt16(4, wanted, true);
  libc.poll(record, 1n, timeout_ms);
  return view.getUint16(6, true);
}

function controlOf(fds: readonly number[]): Uint8Array<ArrayBuffer> {
  const headerBytes = 16;
  const [socketLevel, rights] = [1, 1];
  const control = new Uint8Array(headerBytes + 8 * Math.ceil(fds.length / 2));
  const view = new DataView(control.buffer);
  view.setBigUint64(0, BigInt(headerBytes + 4 * fds.length), true);
  view.setInt32(8, socketLevel, true);
  view.setInt32(12, rights, true);
  fds.forEach((fd, i) => view.setInt32(headerBytes + 4 * i, fd, true));
  return control;
}

function addressOf(buffer: BufferSource | undefined): bigint {
  return buffer === undefined ? 0n : Deno.UnsafePointer.value(Deno.UnsafePointer.of(buffer));
}

/** What the kernel reads by address, so that it is not collected meanwhile. */
const inFlight = new Set<unknown>();

/** Sends what there is room for, with descriptors along; returns how much, 0 when there is no room or no peer. */
export function send(socket: number, bytes: Uint8Array<ArrayBuffer>, fds: readonly number[] = []): number {
  const vector = BigUint64Array.of(addressOf(bytes), BigInt(bytes.length));
  const control = fds.length > 0 ? controlOf(fds) : undefined;
  for (const part of [bytes, vector, control]) inFlight.add(part);
  // struct msghdr: name, its length, vectors, their count, control, its length, flags.
  const header = BigUint64Array.of(0n, 0n, addressOf(vector), 1n, addressOf(control), BigInt(control?.length ?? 0), 0n);
  const sent = libc.sendmsg(socket, new Uint8Array(header.buffer), messageFlags.dontWait | messageFlags.noSignal);
  inFlight.clear();
  return sent < 0n ? 0 : Number(sent);
}

/** The bytes that are there, at most `bytes.length`; 0 at the end, -1 when there are none yet. */
export function receive(socket: number, bytes: Uint8Array<ArrayBuffer>): number {
  return Number(libc.recv(socket, bytes, BigInt(bytes.length), messageFlags.dontWait));
}

// Control sockets with real peers: other pumps, Deno's own Unix sockets, and Python's where fds are sent that no honest
// front end would send.

import assert from "node:assert/strict";
import { drainEventfd, fdKind, fdListens, openEventfd, openMemoryFile, ownFd, signalEventfd } from "../ffi/fd.ts";
import { loadLibrary, VringError } from "../ffi/library.ts";
import { Pump, type PumpOptions } from "../ffi/pump.ts";
import type { Channel, ChannelListener, RawMessage } from "../vhost/channel.ts";
import type { Fd } from "../vhost/fd.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const encoder = new TextEncoder();
const decoder = new TextDecoder();
/** The version bits of a request. */
const plain = 1;

/** A queue that is waited on. */
class Inbox<T> {
  readonly items: T[] = [];
  #waiting: ((item: T) => void)[] = [];

  put(item: T): void {
    const waiting = this.#waiting.shift();
    if (waiting) waiting(item);
    else this.items.push(item);
  }

  next(): Promise<T> {
    const item = this.items.shift();
    return item === undefined ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve(item);
  }
}

/** One end of a connection, recorded. Asks for the next message only when told to. */
class Recorder implements ChannelListener {
  readonly messages = new Inbox<RawMessage>();
  readonly hangups = new Inbox<string>();

  constructor(readonly channel: Channel) {
    channel.listen(this);
  }

  message(message: RawMessage): void {
    this.messages.put(message);
  }

  hangup(reason: string): void {
    this.hangups.put(reason);
  }
}

/** A pump that listens in a folder of its own and records who comes. */
class Server implements AsyncDisposable {
  readonly accepted = new Inbox<Recorder>();
  readonly path: string;
  readonly listener: Disposable;
  readonly #folder: string;
  readonly #running: Promise<void>;

  constructor(readonly pump: Pump) {
    this.#folder = Deno.makeTempDirSync({ prefix: "vhostctl-pump-" });
    this.path = `${this.#folder}/a.sock`;
    this.listener = pump.listen(this.path, { accept: (channel) => this.accepted.put(new Recorder(channel)) });
    this.#running = pump.run();
  }

  static open(options?: PumpOptions): Server {
    return new Server(Pump.open(options));
  }

  /** A byte stream to it, as seen from both ends. */
  async meet(): Promise<{ peer: Deno.UnixConn; recorder: Recorder }> {
    const peer = await Deno.connect({ transport: "unix", path: this.path });
    return { peer, recorder: await this.accepted.next() };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pump[Symbol.asyncDispose]();
    await this.#running;
    assert.deepEqual([...Deno.readDirSync(this.#folder)], [], "the socket's file is removed");
    Deno.removeSync(this.#folder);
  }
}

function laid(request: number, payload = "", flags = plain): Uint8Array<ArrayBuffer> {
  const body = encoder.encode(payload);
  const bytes = new Uint8Array(12 + body.length);
  const view = new DataView(bytes.buffer);
  [request, flags, body.length].forEach((word, i) => view.setUint32(4 * i, word, true));
  bytes.set(body, 12);
  return bytes;
}

function textOf(message: RawMessage): string {
  return decoder.decode(message.payload);
}

function openFds(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length;
}

function maps(): number {
  return Deno.readTextFileSync("/proc/self/maps").split("\n").length;
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Runs Python with the socket's path as first argument; what it prints comes back. */
async function python(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command("python3", { args: ["-c", program, ...args] }).output();
  assert.equal(code, 0, decoder.decode(stderr));
  return decoder.decode(stdout);
}

function failureOf(action: () => unknown): VringError {
  try {
    action();
  } catch (error) {
    assert.ok(error instanceof VringError, `a VringError, not: ${error}`);
    return error;
  }
  throw new assert.AssertionError({ message: "it must fail" });
}

Deno.test("200 connections through one pump, each with answers of its own", async () => {
  await using server = Server.open();
  await using client = Pump.open();
  const running = client.run();
  const count = 200;
  const ends: Recorder[] = [];
  for (let i = 0; i < count; i++) ends.push(new Recorder(client.connect(server.path)));
  const served: Recorder[] = [];
  for (let i = 0; i < count; i++) served.push(await server.accepted.next());
  for (const [i, end] of ends.entries()) end.channel.send(i, plain, encoder.encode(`number ${i}`), []);
  const seen = new Set<number>();
  for (const recorder of served) {
    const message = await recorder.messages.next();
    assert.equal(textOf(message), `number ${message.request}`);
    recorder.channel.send(message.request, 5, encoder.encode(`answer ${message.request}`), []);
    seen.add(message.request);
  }
  assert.equal(seen.size, count);
  for (const [i, end] of ends.entries()) {
    const answer = await end.messages.next();
    assert.deepEqual([answer.request, answer.flags, textOf(answer)], [i, 5, `answer ${i}`]);
  }
  await client[Symbol.asyncDispose]();
  await running;
  for (const recorder of served) {
    recorder.channel.resume();
    assert.equal(await recorder.hangups.next(), "peer closed the connection");
  }
});

Deno.test("a message in pieces comes whole, several at once come one by one as they are asked for", async () => {
  await using server = Server.open();
  const { peer, recorder } = await server.meet();
  using _peer = peer;
  for (const byte of laid(7, "abc", 0xfffffff9)) {
    assert.equal(recorder.messages.items.length, 0);
    await peer.write(Uint8Array.of(byte));
  }
  const whole = await recorder.messages.next();
  assert.deepEqual([whole.request, whole.flags, textOf(whole), whole.fds], [7, 0xfffffff9, "abc", []]);

  await peer.write(Uint8Array.from([...laid(1, "one"), ...laid(2, "two"), ...laid(3)]));
  await pause(30);
  assert.equal(recorder.messages.items.length, 0, "nothing comes before it is asked for");
  for (const [request, payload] of [[1, "one"], [2, "two"], [3, ""]]) {
    recorder.channel.resume();
    assert.equal(recorder.messages.items.length, 0, "nothing comes from within resume");
    const message = await recorder.messages.next();
    assert.deepEqual([message.request, textOf(message)], [request, payload]);
    await pause(5);
    assert.equal(recorder.messages.items.length, 0);
  }
});

Deno.test("what the peer said before it left is still told, and then the end, once", async () => {
  await using server = Server.open();
  const { peer, recorder } = await server.meet();
  await peer.write(laid(1, "last words"));
  peer.close();
  assert.equal(textOf(await recorder.messages.next()), "last words");
  await pause(10);
  assert.equal(recorder.hangups.items.length, 0);
  recorder.channel.resume();
  assert.equal(await recorder.hangups.next(), "peer closed the connection");
  recorder.channel.send(1, 5, new Uint8Array(), []);
  recorder.channel.resume();
  recorder.channel.close();
  await pause(10);
  assert.equal(recorder.hangups.items.length, 0);
});

Deno.test("fds pass both ways with what is behind them", async () => {
  const before = openFds();
  {
    await using server = Server.open();
    await using client = Pump.open();
    const running = client.run();
    const end = new Recorder(client.connect(server.path));
    const served = await server.accepted.next();

    using file = openMemoryFile(4096n);
    {
      using behind = Deno.openSync(`/proc/self/fd/${file.number}`, { write: true });
      behind.writeSync(encoder.encode("behind the file"));
    }
    using event = openEventfd();
    end.channel.send(5, plain, encoder.encode("two"), [file.number, event.number]);
    const message = await served.messages.next();
    const [first, second] = message.fds as [Fd, Fd];
    using theirFile = first, theirEvent = second;
    assert.deepEqual([message.fds.length, fdKind(theirFile.number), fdKind(theirEvent.number)], [2, "file", "eventfd"]);
    assert.notEqual(theirFile.number, file.number);
    assert.ok(Deno.readTextFileSync(`/proc/self/fd/${theirFile.number}`).startsWith("behind the file"));
    signalEventfd(theirEvent.number);
    signalEventfd(theirEvent.number);
    assert.deepEqual([drainEventfd(event.number), drainEventfd(event.number)], [2, 0]);

    served.channel.send(5, 5, new Uint8Array(), Array(8).fill(theirEvent.number));
    const answer = await end.messages.next();
    assert.equal(answer.fds.length, 8);
    for (const fd of answer.fds) {
      signalEventfd(fd.number);
      fd[Symbol.dispose]();
    }
    assert.equal(drainEventfd(event.number), 8);
    await client[Symbol.asyncDispose]();
    await running;
  }
  assert.equal(openFds(), before);
});

Deno.test("wrong sends are the caller's mistake and leave the connection as it was", async () => {
  await using server = Server.open();
  const { peer, recorder } = await server.meet();
  using _peer = peer;
  assert.throws(() => recorder.channel.send(1, 5, new Uint8Array(1025), []), RangeError);
  assert.throws(() => recorder.channel.send(1, 5, new Uint8Array(), Array(9).fill(0)), RangeError);
  assert.equal(failureOf(() => recorder.channel.send(1, 5, new Uint8Array(), [-1])).errno, 9);
  recorder.channel.send(2, 5, new Uint8Array(), []);
  const answer = new Uint8Array(12);
  assert.equal(await peer.read(answer), 12);
  assert.deepEqual(answer, laid(2, "", 5));
});

const sendFds = `
import array, os, socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
fds = array.array("i", [os.open("/dev/null", os.O_RDONLY)] * int(sys.argv[2]))
message = bytes.fromhex(sys.argv[3])
peer.sendmsg([message[:4]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else [])
late = array.array("i", [0] * int(sys.argv[4]))
peer.sendmsg([message[4:]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, late)] if late else [])
sys.exit(0 if peer.recv(1) == b"" else 1)
`;

Deno.test("more than 8 fds, as many as the kernel passes, end the connection, and none stays open", async (t) => {
  await using server = Server.open();
  const hex = [...laid(1, "abcd")].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  for (const count of [9, 61, 253]) {
    await t.step(`${count} fds`, async () => {
      const before = openFds();
      const ended = python(sendFds, server.path, String(count), hex, "0").catch((error) => error);
      const recorder = await server.accepted.next();
      const told = await recorder.hangups.next();
      assert.equal(told, "peer sent more file descriptors than 8, or than this process may open (ulimit -n)");
      assert.equal(recorder.messages.items.length, 0);
      await ended;
      assert.equal(openFds(), before);
    });
  }
  await t.step("fds that come late are dropped, the message counts", async () => {
    const before = openFds();
    const ended = python(sendFds, server.path, "8", hex, "3");
    const recorder = await server.accepted.next();
    const message = await recorder.messages.next();
    assert.deepEqual([message.fds.length, textOf(message)], [8, "abcd"]);
    for (const fd of message.fds) fd[Symbol.dispose]();
    recorder.channel.close();
    await ended;
    assert.equal(openFds(), before);
  });
});

Deno.test("what cannot be a message ends its connection, and no other", async (t) => {
  await using server = Server.open();
  const good = await server.meet();
  using _good = good.peer;
  const badHeader = "peer sent no message: wrong version bits, or a payload over 1024 bytes";
  const tooLong = laid(1);
  new DataView(tooLong.buffer).setUint32(8, 1025, true);
  const longest = laid(1);
  new DataView(longest.buffer).setUint32(8, 0xffffffff, true);
  const cases: [string, Uint8Array<ArrayBuffer>, string][] = [
    ["version 0", laid(1, "", 0), badHeader],
    ["version 2", laid(1, "", 2), badHeader],
    ["a payload too long", tooLong, badHeader],
    ["the longest payload of all", longest, badHeader],
    ["the end in a header", laid(1).subarray(0, 11), "peer closed the connection in the middle of a message"],
    ["the end in a payload", laid(1, "ab").subarray(0, 13), "peer closed the connection in the middle of a message"],
    [
      "the end before a payload",
      laid(1, "ab").subarray(0, 12),
      "peer closed the connection in the middle of a message",
    ],
    ["the end", new Uint8Array(), "peer closed the connection"],
  ];
  for (const [name, bytes, reason] of cases) {
    await t.step(name, async () => {
      const { peer, recorder } = await server.meet();
      if (bytes.length > 0) await peer.write(bytes);
      if (reason !== badHeader) peer.close();
      assert.equal(await recorder.hangups.next(), reason);
      if (reason === badHeader) peer.close();
      await good.peer.write(laid(9, name));
      assert.equal(textOf(await good.recorder.messages.next()), name);
      good.recorder.channel.resume();
    });
  }
});

Deno.test("a peer that stops in a message is ended after the limit, one that is silent is not", async () => {
  await using server = Server.open({ stallLimitMs: 100 });
  const silent = await server.meet();
  using _silent = silent.peer;
  for (const begun of [laid(1).subarray(0, 1), laid(1, "payload").subarray(0, 12)]) {
    const { peer, recorder } = await server.meet();
    using _peer = peer;
    await peer.write(begun);
    assert.equal(await recorder.hangups.next(), "peer began a message and did not finish it within 0.1 s");
    assert.equal(await peer.read(new Uint8Array(1)), null);
  }
  await pause(150);
  await silent.peer.write(laid(1, "here"));
  assert.equal(textOf(await silent.recorder.messages.next()), "here");
});

Deno.test("a peer that never reads is ended; sending to it never waits", async () => {
  await using server = Server.open();
  const { peer, recorder } = await server.meet();
  using _peer = peer;
  const payload = new Uint8Array(1024);
  let sent = 0;
  while (recorder.hangups.items.length === 0 && sent < 100_000) {
    recorder.channel.send(1, 5, payload, []);
    if (++sent % 100 === 0) await pause(0);
  }
  assert.equal(await recorder.hangups.next(), "peer does not read what it is sent");
  assert.ok(sent > 100);
});

Deno.test("what a slow peer reads late arrives whole and in order", async () => {
  await using server = Server.open();
  const { peer, recorder } = await server.meet();
  using _peer = peer;
  // More than a socket takes, less than is kept: some waits in the outbox.
  const count = 300;
  for (let i = 0; i < count; i++) recorder.channel.send(i, 5, encoder.encode("12345678"), []);
  await pause(10);
  const received = new Uint8Array(20 * count);
  for (let at = 0; at < received.length;) {
    const bytes = await peer.read(received.subarray(at));
    assert.notEqual(bytes, null);
    at += bytes ?? 0;
  }
  for (let i = 0; i < count; i++) assert.deepEqual(received.subarray(20 * i, 20 * i + 20), laid(i, "12345678", 5));
  await peer.write(laid(1));
  await recorder.messages.next();
});

Deno.test("a stale socket file is replaced, a live one refused, anything else left alone", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "vhostctl-pump-" });
  await using pump = Pump.open();
  const accept = () => {};
  const path = `${folder}/a.sock`;
  await python("import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])", path);
  assert.ok(Deno.lstatSync(path).isSocket);
  {
    using _listener = pump.listen(path, { accept, mode: 0o660 });
    assert.equal((Deno.lstatSync(path).mode ?? 0) & 0o777, 0o660);
    await using other = Pump.open();
    const refused = failureOf(() => other.listen(path, { accept }));
    assert.equal(refused.status, "busy");
    assert.equal(
      refused.message,
      `Cannot listen on ${path}: another program listens there: stop it, or choose another path`,
    );
    other.connect(path).close();
  }
  assert.throws(() => Deno.lstatSync(path), Deno.errors.NotFound);
  Deno.writeTextFileSync(path, "a file");
  assert.match(failureOf(() => pump.listen(path, { accept })).message, /: a file that is no socket is in the way: /);
  assert.equal(Deno.readTextFileSync(path), "a file");
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("paths that cannot be listened on or connected to are refused with a reason", async () => {
  await using pump = Pump.open();
  const accept = () => {};
  const absent = failureOf(() => pump.listen("/nowhere/at/all/a.sock", { accept }));
  assert.deepEqual([absent.errno, absent.status], [2, "system"]);
  assert.match(absent.message, /^Cannot listen on \/nowhere\/at\/all\/a.sock: no such folder: create it, /);
  // Not even root may make files there.
  assert.match(failureOf(() => pump.listen("/sys/a.sock", { accept })).message, /: permission denied: /);
  assert.throws(() => pump.listen(`/tmp/${"a".repeat(103)}`, { accept }), /a path of 108 bytes: a socket's has 107/);
  assert.throws(() => pump.listen("", { accept }), /not a path/);
  assert.throws(() => pump.listen("a\0b", { accept }), /not a path/);
  assert.equal(failureOf(() => pump.connect("/nowhere/at/all")).errno, 2);
  const path = Deno.makeTempFileSync({ prefix: "vhostctl-pump-" });
  Deno.removeSync(path);
  await python("import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])", path);
  assert.equal(failureOf(() => pump.connect(path)).errno, 111);
  Deno.removeSync(path);
});

const handOver = `
import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen()
ours, theirs = socket.socketpair()
socket.send_fds(peer, [bytes.fromhex("010000000100000000000000")], [listener.fileno(), theirs.fileno()])
theirs.close()
ours.sendall(bytes.fromhex("070000000100000000000000"))
sys.stdout.write(ours.recv(12).hex())
`;

Deno.test("sockets that another program opened are taken over", async () => {
  const before = openFds();
  const folder = Deno.makeTempDirSync({ prefix: "vhostctl-pump-" });
  const path = `${folder}/handed.sock`;
  {
    await using server = Server.open();
    const other = python(handOver, server.path, path);
    const message = await (await server.accepted.next()).messages.next();
    const [listening, connected] = message.fds as [Fd, Fd];
    assert.deepEqual([fdListens(listening.number), fdListens(connected.number)], [true, false]);
    assert.equal(failureOf(() => server.pump.adopt(listening.number)).status, "wrong_fd");
    using event = openEventfd();
    assert.equal(failureOf(() => server.pump.adopt(event.number)).errno, 88);

    const adopted = new Recorder(server.pump.adopt(connected.take()));
    assert.equal((await adopted.messages.next()).request, 7);
    adopted.channel.send(8, 5, new Uint8Array(), []);
    assert.equal(await other, [...laid(8, "", 5)].map((byte) => byte.toString(16).padStart(2, "0")).join(""));

    const accepted = new Inbox<Recorder>();
    using _listener = server.pump.adoptListener(listening.take(), {
      accept: (channel) => accepted.put(new Recorder(channel)),
    });
    const end = server.pump.connect(path);
    end.send(3, plain, new Uint8Array(), []);
    assert.equal((await (await accepted.next()).messages.next()).request, 3);
  }
  assert.ok(Deno.lstatSync(path).isSocket, "its file is not ours to remove");
  Deno.removeSync(folder, { recursive: true });
  assert.equal(openFds(), before);
});

Deno.test("a watched fd calls back at each change until it is no longer watched", async () => {
  await using pump = Pump.open();
  const running = pump.run();
  using event = openEventfd();
  const calls = new Inbox<number>();
  {
    using _watch = pump.watch(event.number, () => calls.put(drainEventfd(event.number)));
    for (let i = 0; i < 3; i++) {
      signalEventfd(event.number);
      assert.equal(await calls.next(), 1);
    }
  }
  signalEventfd(event.number);
  await pause(20);
  assert.equal(calls.items.length, 0);
  await pump[Symbol.asyncDispose]();
  await running;
});

Deno.test("a channel closed by this side tells nothing more, and fds still on their way are closed", async () => {
  const before = openFds();
  {
    await using server = Server.open();
    await using client = Pump.open();
    const running = client.run();
    const ends = Array.from({ length: 20 }, () => new Recorder(client.connect(server.path)));
    const served: Recorder[] = [];
    for (const _ of ends) served.push(await server.accepted.next());
    using event = openEventfd();
    for (const end of ends) end.channel.send(1, plain, new Uint8Array(), [event.number]);
    // Found by the next wait, or already in a batch that was not dispatched yet.
    for (const recorder of served) recorder.channel.close();
    await pause(30);
    for (const recorder of served) {
      assert.deepEqual([recorder.messages.items.length, recorder.hangups.items.length], [0, 0]);
    }
    for (const end of ends) assert.equal(await end.hangups.next(), "peer closed the connection");
    await client[Symbol.asyncDispose]();
    await running;
  }
  assert.equal(openFds(), before);
});

Deno.test("a listener that throws fails the run, after the others had their events", async () => {
  const pump = Pump.open();
  using bad = openEventfd();
  using good = openEventfd();
  let calls = 0;
  pump.watch(bad.number, () => {
    throw new Error("a mistake");
  });
  pump.watch(good.number, () => calls++);
  // Both before the first wait, which finds them together.
  signalEventfd(bad.number);
  signalEventfd(good.number);
  await assert.rejects(pump.run(), /a mistake/);
  await pump[Symbol.asyncDispose]();
  assert.throws(() => pump.connect("/tmp"), /Cannot use pump: closed/);
  assert.equal(calls, 1);
});

Deno.test("a pump closes while a wait is under way, at any moment, with all that it holds", async () => {
  const before = openFds();
  for (let round = 0; round < 20; round++) {
    await using server = Server.open();
    const end = new Recorder(server.pump.connect(server.path));
    end.channel.send(1, plain, new Uint8Array(), [0, 1, 2]);
    if (round % 3 > 0) await pause(round % 3);
    // The recorder's messages, if any came, hold fds that only it knows.
    for (const recorder of server.accepted.items) {
      for (const { fds } of recorder.messages.items) for (const fd of fds) fd[Symbol.dispose]();
    }
  }
  {
    await using _neverRun = Pump.open();
  }
  assert.equal(openFds(), before);
});

Deno.test("1,000 connects leave as many fds and mappings as before", async () => {
  await using server = Server.open();
  const visit = async (i: number) => {
    const { peer, recorder } = await server.meet();
    await peer.write(laid(i, "hello"));
    const message = await recorder.messages.next();
    recorder.channel.send(message.request, 5, message.payload, []);
    await peer.read(new Uint8Array(64));
    recorder.channel.resume();
    peer.close();
    await recorder.hangups.next();
  };
  for (let i = 0; i < 200; i++) await visit(i);
  const before = { fds: openFds(), maps: maps() };
  for (let i = 0; i < 1000; i++) await visit(i);
  assert.equal(openFds(), before.fds);
  // The JavaScript heap moves a little; a mapping kept for each visit would be seen.
  assert.ok(Math.abs(maps() - before.maps) < 50, `${before.maps} mappings became ${maps()}`);
});

Deno.test("fds are told apart", () => {
  const before = openFds();
  {
    using file = openMemoryFile(10n);
    using event = openEventfd();
    assert.deepEqual([fdKind(file.number), fdKind(event.number)], ["file", "eventfd"]);
    const number = ownFd(event.number).number;
    assert.equal(number, event.number);
    assert.throws(() => Deno.truncateSync(`/proc/self/fd/${file.number}`, 5));
  }
  assert.equal(fdKind(-1), "closed");
  assert.equal(fdKind(1 << 20), "closed");
  assert.throws(() => openMemoryFile(1n << 63n), /Cannot make memory file of 9223372036854775808 bytes/);
  assert.equal(openFds(), before);
});

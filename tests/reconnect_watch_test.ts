/** `vhostctl reconnect-watch` as a program: a port of its own, a `serve` that dies and comes back, a QEMU beside it. */

import assert from "node:assert/strict";
import { UsageError } from "../cli/error.ts";
import { linesOf, sendLine } from "../cli/lines.ts";
import { planReconnectWatch, reconnectWatchCommand } from "../cli/reconnect_watch_options.ts";
import { Pump } from "../mod.ts";
import { loadLibrary } from "../ffi/library.ts";
import { FakeQmp } from "./fake_qmp.ts";
import { eventually, Program } from "./real/process.ts";
import { Serve, vhostctl } from "./real/serve.ts";
import { Watch } from "./real/watch.ts";
import { StillGuest } from "./still_guest.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const end_ms = 30_000;

/** A folder for sockets, and a pump for the front ends that connect to them. */
class Bench implements AsyncDisposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "vhostctl-watch-" });
  readonly control = `${this.folder}/control.sock`;
  readonly pump = Pump.open();
  readonly #running = this.pump.run();

  socket(name: string): string {
    return `${this.folder}/${name}.sock`;
  }

  serve(...ports: readonly string[]): Promise<Serve> {
    const settings = ports.map((port) => `name=${port},socket=${this.socket(port)}`);
    return Serve.start("--dir", this.folder, ...settings.flatMap((port) => ["--port", port]));
  }

  async guest(name: string): Promise<StillGuest> {
    const guest = StillGuest.connect(this.pump, this.socket(name));
    await guest.start(0, 1);
    return guest;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pump[Symbol.asyncDispose]();
    await this.#running;
    await Deno.remove(this.folder, { recursive: true });
  }
}

function plan(...words: string[]) {
  const command = reconnectWatchCommand().exitOverride().configureOutput({ outputError: () => {} });
  command.parse(words, { from: "user" });
  return planReconnectWatch(command.opts(), "/run");
}

Deno.test("the command line says what is watched, and what cannot be meant is refused", () => {
  const attached = plan(
    "--attach",
    "control.sock",
    "--qmp",
    "h:1",
    "--max-outage",
    "500",
    "--seconds",
    "2.5",
    "--json",
  );
  assert.deepEqual(attached, {
    watched: "/run/control.sock",
    qmp: { transport: "tcp", hostname: "h", port: 1 },
    maxOutage_ms: 500,
    seconds: 2.5,
    json: true,
  });
  const { watched, seconds } = plan("--socket", "/tmp/a", "--client", "--queues", "4", "--seconds", "0");
  assert.ok(typeof watched !== "string");
  assert.deepEqual([watched.socket, watched.mode, watched.offer.queuePairs, seconds], [
    "/tmp/a",
    "client",
    4,
    undefined,
  ]);
  const wrong: [string[], RegExp][] = [
    [[], /nothing to watch: neither --attach nor --socket: give/],
    [["--client"], /nothing to watch/],
    [["--attach", `/${"x".repeat(200)}`], /socket path too long/],
    [["--attach", "/c", "--max-outage", "0"], /cannot use --max-outage: 0: give a whole number/],
    [["--attach", "/c", "--seconds", "soon"], /cannot use --seconds: soon/],
    [["--attach", "/c", "--qmp", ""], /cannot use --qmp/],
  ];
  for (const [words, message] of wrong) {
    assert.throws(() => plan(...words), (error) => error instanceof UsageError && message.test(error.message));
  }
  for (const words of [["--socket", "/s"], ["--client"], ["--queues", "2"]]) {
    assert.throws(() => plan("--attach", "/c", ...words), /cannot be used with/);
  }
});

Deno.test("a port of its own: a front end comes, stops, starts, goes and comes back", async () => {
  await using bench = new Bench();
  await using watch = await Watch.start("--socket", bench.socket("own"), "--max-outage", "1");
  await watch.until("found", { port: "port0", state: "waiting" });
  {
    using guest = StillGuest.connect(bench.pump, bench.socket("own"));
    await guest.start(0, 1);
    await watch.until("queues", { queue_pairs_up: 1, queue_pairs: 1 });
    for (const ring of [0, 1]) await guest.frontend.stopVring(ring);
    await watch.until("stopped", { outage: false });
    const from = watch.now;
    await guest.startRings(0, 1);
    await watch.until("started", {}, { from });
  }
  await watch.until("disconnected", { outage: true });
  using guest = StillGuest.connect(bench.pump, bench.socket("own"));
  await guest.start(0, 1);
  const outage = await watch.until("outage", { port: "port0" });
  const { code, errors, summary: [port] } = await watch.finish();
  assert.deepEqual([port!.outages, port!.worst_ms, port!.lasting_ms], [1, outage["length_ms"], null]);
  assert.equal(code, Number(outage["length_ms"]) > 1 ? 1 : 0, errors);
  assert.deepEqual(watch.records.map(({ event }) => event).filter((event) => event !== "queues"), [
    ...["found", "connected", "started", "stopped", "started", "disconnected"],
    ...["connected", "started", "outage", "summary"],
  ]);
});

Deno.test("a port of its own that connects tells why it cannot, and how often it tried", async () => {
  await using bench = new Bench();
  await using watch = await Watch.start("--socket", bench.socket("own"), "--client");
  const { reason } = await watch.until("waiting", { port: "port0" });
  assert.match(String(reason), /file_not_found|no such|not found|nobody/i);
  const { promise, resolve } = Promise.withResolvers<void>();
  const listener = bench.pump.listen(bench.socket("own"), { accept: () => resolve() });
  await promise;
  const { attempts } = await watch.until("connected");
  assert.ok(Number(attempts) >= 1);
  listener[Symbol.dispose]();
  assert.equal((await watch.finish()).code, 0);
});

Deno.test("serve is killed and comes back: each port that ran is out until it runs again", async () => {
  await using bench = new Bench();
  await using first = await bench.serve("a", "b");
  using before = await bench.guest("a");
  await using watch = await Watch.start("--attach", bench.control, "--max-outage", "1");
  await watch.until("found", { port: "a", state: "running" });
  await watch.until("found", { port: "b", state: "waiting" });
  await first.program.stop("SIGKILL");
  const gone = await watch.until("serve_gone");
  assert.deepEqual(gone["outages"], ["a"]);
  await watch.until("serve_waiting", { control: bench.control });
  await before.frontend.hangup;
  // A watcher that is slow does not stretch it.
  watch.program.kill("SIGSTOP");
  await using second = await bench.serve("a", "b");
  using _after = await bench.guest("a");
  const told = await second.until("started", { port: "a" });
  watch.program.kill("SIGCONT");
  const outage = await watch.until("outage", { port: "a" });
  const started = await watch.until("started", { port: "a" });
  assert.ok(Date.parse(String(started["time"])) <= Date.parse(String(told["time"])));
  const length_ms = Date.parse(String(started["time"])) - Date.parse(String(gone["time"]));
  assert.equal(outage["length_ms"], length_ms);
  const { code, errors, summary } = await watch.finish();
  assert.equal(code, 1);
  assert.match(
    errors,
    new RegExp(`^vhostctl reconnect-watch: outage of a too long: ${length_ms} ms: --max-outage allows`),
  );
  assert.deepEqual(summary.map(({ port, outages, total_ms }) => [port, outages, total_ms]), [
    ["a", 1, length_ms],
    ["b", 0, 0],
  ]);
  await second.finish();
});

Deno.test("serve ends for good: the outage lasts, and so it is told at the end", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("a");
  using _guest = await bench.guest("a");
  await using watch = await Watch.start("--attach", bench.control, "--max-outage", "1");
  await watch.until("found", { port: "a", state: "running" });
  await serve.finish();
  await watch.until("serve_gone", { reason: "it was stopped" });
  await watch.until("serve_waiting", { reason: "no such file" });
  const { code, errors, summary: [port] } = await watch.finish();
  assert.equal(code, 1);
  assert.match(errors, /outage of a too long: \d+ ms, and it lasts: /);
  assert.equal(port!.lasting_ms, port!.worst_ms);
});

Deno.test("a serve without a port that it had, and one that is no serve", async () => {
  await using bench = new Bench();
  await using both = await bench.serve("a", "b");
  await using watch = await Watch.start("--attach", bench.control);
  await watch.until("found", { port: "b" });
  await both.finish();
  await using one = await bench.serve("a");
  await watch.until("missing", { port: "b" });
  await one.finish();
  const from = watch.now;
  const listener = Deno.listen({ transport: "unix", path: bench.control });
  const answering = (async () => {
    for await (const connection of listener) {
      for await (const _ of linesOf(connection, 1000)) await sendLine(connection, "what?").catch(() => {});
      connection.close();
    }
  })();
  await watch.until("serve_waiting", { reason: "it does not answer as vhostctl serve does" }, { from });
  listener.close();
  await answering;
  assert.equal((await watch.finish()).code, 0);
});

Deno.test("a serve that stands still is told, and that it answers again", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("a");
  await using watch = await Watch.start("--attach", bench.control);
  await watch.until("found");
  serve.program.kill("SIGSTOP");
  await watch.until("serve_silent");
  serve.program.kill("SIGCONT");
  await watch.until("serve_answers");
  const { code, summary: [port] } = await watch.finish();
  assert.deepEqual([code, port!.outages], [0, 0]);
  await serve.finish();
});

Deno.test("QEMU's own view: its back end goes and comes, it stops and resumes, it goes and another comes", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("a");
  await using qemu = new FakeQmp();
  const chardev = { label: "c0", filename: `unix:${bench.socket("a")}` };
  qemu.answers["human-monitor-command"] = [0, 1].map((n) =>
    `nic0: index=${n},type=nic,model=virtio-net-pci\r\n \\ net0: index=${n},type=vhost-user,vhost-user${n} to c0\r\n`
  ).join("");
  qemu.answers["qom-get"] = { type: "unix", path: bench.socket("a") };
  qemu.answers["query-chardev"] = () => [{ label: "mon0", filename: "unix:/q" }, { ...chardev }];
  await using watch = await Watch.start("--attach", bench.control, "--qmp", qemu.path);
  await watch.until("qemu_attached");
  await watch.until("qemu_back_end", { netdev: "net0", chardev: "c0", connected: true });
  // As QEMU 7.2 has it.
  chardev.filename = `disconnected:unix:${bench.socket("a")}`;
  await watch.until("qemu_back_end", { connected: false });
  let from = watch.now;
  chardev.filename = `unix:${bench.socket("a")}`;
  await watch.until("qemu_back_end", { connected: true }, { from });
  // As QEMU 10 has it: told at once, and once.
  from = watch.now;
  chardev.filename = `disconnected:unix:${bench.socket("a")}`;
  await qemu.tell("NETDEV_VHOST_USER_DISCONNECTED", { "netdev-id": "net0" });
  await watch.until("qemu_back_end", { connected: false, netdev: "net0", chardev: "c0" }, { from });
  await qemu.tell("NIC_RX_FILTER_CHANGED", { path: "/machine" });
  await qemu.tell("STOP");
  await watch.until("qemu_event", { name: "STOP" });
  from = watch.now;
  qemu.die();
  await watch.until("qemu_gone", {}, { from });
  await watch.until("qemu_attached", {}, { from });
  assert.equal((await watch.finish()).code, 0);
  const told = watch.records.filter(({ event }) => event === "qemu_event").map(({ name }) => name);
  assert.deepEqual(told, ["STOP"]);
  await serve.finish();
});

Deno.test("a QEMU that is not there, refuses, or does not answer holds up nothing", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("a");
  await using watch = await Watch.start("--attach", bench.control, "--qmp", bench.socket("none"));
  const { reason } = await watch.until("qemu_waiting");
  assert.match(String(reason), /^cannot reach QEMU: \S+none\.sock: no such file: start QEMU with -qmp/);
  assert.equal((await watch.finish()).code, 0);

  await using qemu = new FakeQmp();
  await using beside = await Watch.start("--attach", bench.control, "--qmp", qemu.path);
  await beside.until("qemu_refused", {
    reason: "QEMU refused query-chardev: The command query-chardev has not been found",
  });
  const { promise: asked, resolve: ask } = Promise.withResolvers<void>();
  const { promise: answered, resolve: answer } = Promise.withResolvers<object>();
  qemu.answers["query-chardev"] = () => {
    ask();
    return answered;
  };
  await qemu.tell("RESUME");
  await beside.until("qemu_event", { name: "RESUME" });
  await asked;
  assert.equal((await beside.finish()).code, 0);
  answer([]);
  assert.equal(beside.records.filter(({ event }) => event === "qemu_refused").length, 1);
  await serve.finish();
});

Deno.test("for people: lines with the time in front, and a table; it ends by itself, and with its reader", async () => {
  await using bench = new Bench();
  await using serve = await bench.serve("a");
  using _guest = await bench.guest("a");
  const words = ["reconnect-watch", "--attach", bench.control];
  const program = new Program(vhostctl, [...words, "--seconds", "1"]);
  assert.equal((await program.finished).code, 0);
  const text = program.since();
  assert.match(text, /^ +\d+\.\d{3} s {2}serve {3}attached: 1 port$/m);
  assert.match(text, /^ +\d+\.\d{3} s {2}a {7}running: split rings: PROTOCOL_FEATURES VERSION_1$/m);
  assert.match(text, /\n\nPORT +OUTAGES +MEDIAN +WORST +TOTAL .*\na +0 +- +- +0 ms +- +- +0\n$/);
  // On a terminal of no size there is a table below the lines.
  const shown = new Program("script", ["-qec", `${[vhostctl, ...words].join(" ")} --seconds 2`, "/dev/null"], {
    env: { TERM: "xterm" },
  });
  assert.equal((await shown.finished).code, 0);
  assert.match(shown.since(), /^PORT +STATE +FOR +OUTAGES +WORST\r\na +running +\S+ \S+ +0 +-\r$/m);
  const piped = new Program("sh", ["-c", `"$0" "$@" | head -n 1`, vhostctl, ...words]);
  await piped.until(/attached/, end_ms);
  await serve.finish();
  await eventually("it ends with its reader", end_ms, () => piped.running ? undefined : true);
});

Deno.test("wrong usage ends with 2, a socket that cannot be with 1", async () => {
  await using bench = new Bench();
  const cases: [string[], number, RegExp][] = [
    [[], 2, /^vhostctl reconnect-watch: nothing to watch: /m],
    [["--attach", "/a", "--socket", "/b"], 2, /options exclude each other: --socket <path>, --attach <control>: see/],
    [["--socket", `${bench.folder}/none/a`], 1, /^vhostctl reconnect-watch: cannot listen/m],
  ];
  for (const [words, code, message] of cases) {
    const program = new Program(vhostctl, ["reconnect-watch", ...words]);
    assert.equal((await program.finished).code, code, program.since());
    assert.match(program.since(), message);
  }
});

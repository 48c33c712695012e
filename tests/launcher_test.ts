/** The one file as its user meets it: how it starts, from a cache, from memory, or not at all. */

import assert from "node:assert/strict";
import {
  assemble,
  fromMemory,
  isRoot,
  levels,
  libraryPath,
  mayRunApart,
  names,
  type Outcome,
  reportOf,
  root,
  run,
  runApart,
} from "./one_file.ts";

let base = "";
let file = "";
let made = 0;

Deno.test.beforeAll(async () => {
  base = await Deno.makeTempDir({ prefix: "vhostctl-launcher-" });
  // Users without rights start files from there, too.
  await Deno.chmod(base, 0o755);
  file = `${base}/vhostctl`;
  await assemble(file);
});

Deno.test.afterAll(async () => {
  await Deno.remove(base, { recursive: true });
});

/** The path of a directory that is not there yet. */
function fresh(): string {
  return `${base}/${++made}`;
}

function start(cache: string, ...args: string[]): Promise<Outcome> {
  return run(file, args, { environment: { VHOSTCTL_CACHE_DIR: cache } });
}

/** The one entry of a cache. */
async function entryOf(cache: string): Promise<string> {
  const found = await names(cache);
  assert.equal(found.length, 1, `entries: ${found}`);
  assert.match(found[0]!, /^[0-9a-f]{32}$/);
  return `${cache}/${found[0]}`;
}

/** The level of this CPU, as the scripts find it. */
async function levelName(): Promise<string> {
  const script = `source "$0/scripts/library.sh" && cpu_level`;
  const { stdout } = await run("bash", ["-c", script, root]);
  return stdout.trim();
}

/** Starts it and expects that the start came from memory, and that stderr says why the cache was not used. */
async function expectMemory(cache: string, reason: RegExp): Promise<void> {
  const outcome = await start(cache, "report");
  assert.ok(fromMemory(reportOf(outcome)), outcome.stdout);
  assert.match(outcome.stderr, reason);
  assert.equal(outcome.stderr.trim().split("\n").length, 1, outcome.stderr);
}

async function expectRefusal(path: string, cache: string, reason: RegExp): Promise<void> {
  const outcome = await run(path, ["report"], { environment: { VHOSTCTL_CACHE_DIR: cache } });
  assert.equal(outcome.code, 3, outcome.stderr);
  assert.equal(outcome.stdout, "");
  assert.match(outcome.stderr, reason);
  assert.equal(outcome.stderr.trim().split("\n").length, 1, outcome.stderr);
}

Deno.test("the first start fills the cache, the second uses it, and arguments arrive as they were given", async () => {
  const cache = fresh();
  const given = ["--help", "-x", "", "two words", "käse", "--", "'$HOME'", "\n"];
  const cold = await start(cache, "report", ...given);
  const warm = [];
  for (let round = 0; round < 5; round++) warm.push(await start(cache, "report", ...given));
  const entry = await entryOf(cache);
  for (const outcome of [cold, ...warm]) {
    const report = reportOf(outcome);
    assert.deepEqual(report.arguments, given);
    assert.equal(report.runtime, `${entry}/vhostctl`);
    assert.equal(report.module, `file://${entry}/vhostctl.js`);
    assert.equal(outcome.stderr, "");
  }
  const memory = await start("/dev/null", "report");
  assert.ok(fromMemory(reportOf(memory)));
  const quickest = Math.min(...warm.map(({ milliseconds }) => milliseconds));
  const { size } = await Deno.stat(file);
  console.log(
    `launcher: ${(size / 1e6).toFixed(1)} MB; start cold ${cold.milliseconds.toFixed(0)} ms, ` +
      `warm ${quickest.toFixed(0)} ms, from memory ${memory.milliseconds.toFixed(0)} ms`,
  );
});

Deno.test("the cache is its owner's alone, and holds what was packed", async () => {
  const cache = fresh();
  reportOf(await start(cache, "report"));
  const entry = await entryOf(cache);
  const level = await levelName();
  const mode = async (path: string) => ((await Deno.stat(path)).mode ?? 0) & 0o7777;
  assert.deepEqual(await names(entry), ["deno", `libvring-${level}.so`, "vhostctl", "vhostctl.js"]);
  assert.equal(await mode(cache), 0o700);
  assert.equal(await mode(entry), 0o700);
  assert.equal(await mode(`${entry}/vhostctl`), 0o500);
  assert.equal(await mode(`${entry}/vhostctl.js`), 0o400);
  assert.equal(await mode(`${entry}/libvring-${level}.so`), 0o400);
  const packed = {
    vhostctl: Deno.env.get("DENO") ?? Deno.execPath(),
    "vhostctl.js": `${import.meta.dirname}/one_file_program.ts`,
    [`libvring-${level}.so`]: libraryPath(level),
  };
  for (const [name, original] of Object.entries(packed)) {
    assert.deepEqual(await Deno.readFile(`${entry}/${name}`), await Deno.readFile(original), name);
  }
});

Deno.test("the program gets our variables, and none that would change how the runtime behaves", async () => {
  const cache = fresh();
  const outcome = await run(file, ["report"], {
    environment: {
      VHOSTCTL_CACHE_DIR: cache,
      KEPT: "as it was",
      DENO_V8_FLAGS: "--no-such-flag",
      DENO_DIR: "/nonexistent",
      NODE_OPTIONS: "--no-such-option",
      OTEL_DENO: "true",
      VHOSTCTL_LIB: "/nonexistent.so",
      VHOSTCTL_SELF: "/nonexistent",
    },
  });
  const { environment } = reportOf(outcome);
  assert.equal(outcome.stderr, "");
  const entry = await entryOf(cache);
  assert.deepEqual({ ...environment, PATH: "" }, {
    PATH: "",
    VHOSTCTL_CACHE_DIR: cache,
    KEPT: "as it was",
    DENO_DIR: `${entry}/deno`,
    DENO_NO_UPDATE_CHECK: "1",
    VHOSTCTL_LIB: `${entry}/libvring-${await levelName()}.so`,
    VHOSTCTL_SELF: file,
  });
});

Deno.test("stdin and exit codes pass through", async () => {
  const cache = fresh();
  const input = crypto.getRandomValues(new Uint8Array(60_000)).map((byte) => 32 + byte % 90);
  const echoed = await run(file, ["echo"], { environment: { VHOSTCTL_CACHE_DIR: cache }, input });
  assert.equal(echoed.stdout, new TextDecoder().decode(input));
  for (const code of [0, 1, 7, 255]) assert.equal((await start(cache, "exit", String(code))).code, code);
});

/** Starts it by a shell that sets up the streams as `streams` says; ready when it has reported. */
async function startToStay(cache: string, streams: string) {
  const child = new Deno.Command("sh", {
    args: ["-c", `exec "$0" stay ${streams}`, file],
    env: { VHOSTCTL_CACHE_DIR: cache },
    stdin: "null",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const reader = child.stdout.getReader();
  await reader.read();
  return {
    pid: child.pid,
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      assert.equal((await child.status).signal, "SIGTERM");
      await reader.cancel();
    },
  };
}

Deno.test("the process stays the one that was started, with its limits and files, and has a name", async () => {
  const cache = fresh();
  await using process = await startToStay(cache, "");
  const proc = `/proc/${process.pid}`;
  const targets = await Promise.all((await names(`${proc}/fd`)).map((fd) => Deno.readLink(`${proc}/fd/${fd}`)));
  const stack = async (of: string) => (await Deno.readTextFile(`${of}/limits`)).match(/^Max stack size.*/m)?.[0];
  assert.equal(await Deno.readTextFile(`${proc}/comm`), "vhostctl\n");
  assert.equal(await stack(proc), await stack("/proc/self"));
  // The entry, for its lock; and databases of Deno's own.
  const entry = await entryOf(cache);
  const open = targets.filter((target) => target.startsWith(base) && !target.startsWith(`${entry}/deno/`));
  assert.deepEqual(open, [entry]);
});

Deno.test("closed standard streams are not taken by files that the launcher opens", async () => {
  const cache = fresh();
  for (const streams of ["<&-", "2>&-", "<&- 2>&-"]) {
    await using process = await startToStay(cache, streams);
    for (const fd of [0, 2]) assert.equal(await Deno.readLink(`/proc/${process.pid}/fd/${fd}`), "/dev/null", streams);
  }
});

Deno.test("six cold starts at once all start, and leave one entry without leftovers", async () => {
  const cache = fresh();
  const outcomes = await Promise.all(Array.from({ length: 6 }, (_, index) => start(cache, "report", String(index))));
  const entry = await entryOf(cache);
  for (const [index, outcome] of outcomes.entries()) {
    const report = reportOf(outcome);
    assert.deepEqual(report.arguments, [String(index)]);
    assert.equal(report.runtime, `${entry}/vhostctl`);
    assert.equal(outcome.stderr, "");
  }
  assert.deepEqual((await names(entry)).filter((name) => name.startsWith(".")), []);
});

/** What may happen to a cached file between two starts. */
const mishaps: Record<string, (path: string) => Promise<void>> = {
  "overwritten at the same size": async (path) => {
    const { size, mode } = await Deno.stat(path);
    await Deno.chmod(path, 0o700);
    await Deno.writeFile(path, new Uint8Array(size));
    await Deno.chmod(path, mode! & 0o777);
  },
  "cut short": async (path) => {
    const { mode } = await Deno.stat(path);
    await Deno.chmod(path, 0o700);
    await Deno.truncate(path, 1000);
    await Deno.chmod(path, mode! & 0o777);
  },
  "removed": (path) => Deno.remove(path),
  "made writable": (path) => Deno.chmod(path, 0o777),
  "replaced by a symbolic link": async (path) => {
    await Deno.rename(path, `${path}.moved`);
    await Deno.symlink(`${path}.moved`, path);
  },
  "replaced by a pipe": async (path) => {
    await Deno.remove(path);
    assert.equal((await run("mkfifo", [path])).code, 0);
  },
};

Deno.test("whatever happens to a cached file, the next start repairs it", async () => {
  const cache = fresh();
  reportOf(await start(cache, "report"));
  const entry = await entryOf(cache);
  const originals = new Map<string, Uint8Array>();
  for (const name of (await names(entry)).filter((name) => name !== "deno")) {
    originals.set(name, await Deno.readFile(`${entry}/${name}`));
  }
  assert.equal(originals.size, 3);
  for (const [mishap, befall] of Object.entries(mishaps)) {
    for (const [name, original] of originals) {
      await befall(`${entry}/${name}`);
      const report = reportOf(await start(cache, "report"));
      assert.equal(report.runtime, `${entry}/vhostctl`, `${name} ${mishap}`);
      const { isFile } = await Deno.lstat(`${entry}/${name}`);
      assert.ok(isFile, `${name} ${mishap}`);
      assert.deepEqual(await Deno.readFile(`${entry}/${name}`), original, `${name} ${mishap}`);
    }
  }
});

Deno.test("a directory in the place of a cached file, which cannot be mended, is gone around", async () => {
  const cache = fresh();
  reportOf(await start(cache, "report"));
  const entry = await entryOf(cache);
  await Deno.remove(`${entry}/vhostctl.js`);
  await Deno.mkdir(`${entry}/vhostctl.js/inside`, { recursive: true });
  await expectMemory(cache, /the cache is not used/);
});

Deno.test("what a killed start left half unpacked is cleaned up by the next that unpacks", async () => {
  const cache = fresh();
  reportOf(await start(cache, "report"));
  const entry = await entryOf(cache);
  await Deno.writeFile(`${entry}/.new-0011223344556677`, new Uint8Array(10));
  await Deno.remove(`${entry}/vhostctl.js`);
  reportOf(await start(cache, "report"));
  assert.deepEqual((await names(entry)).filter((name) => name.startsWith(".")), []);
});

Deno.test("a cache that others could have written to is not used, nor written to", async () => {
  const real = fresh();
  await Deno.mkdir(real, { mode: 0o700 });
  const link = fresh();
  await Deno.symlink(real, link);
  await expectMemory(link, /not a directory \(a symbolic link is none\)/);
  for (const mode of [0o720, 0o702, 0o777]) {
    await Deno.chmod(real, mode);
    await expectMemory(real, /others may write to it/);
  }
  assert.deepEqual(await names(real), []);
});

Deno.test("an entry that others could have read or written to is not used", async () => {
  const cache = fresh();
  reportOf(await start(cache, "report"));
  await Deno.chmod(await entryOf(cache), 0o750);
  await expectMemory(cache, /others may write to it/);
});

Deno.test({
  name: "root has its cache in /var/cache (needs root, and mounts)",
  ignore: !mayRunApart,
  async fn() {
    const script = 'mount -t tmpfs none /var/cache; "$1" report; stat -c %a /var/cache/vhostctl >&2';
    const outcome = await runApart(script, [file], { HOME: "/nonexistent" });
    assert.match(reportOf(outcome).runtime, /^\/var\/cache\/vhostctl\/[0-9a-f]{32}\/vhostctl$/);
    assert.equal(outcome.stderr, "700\n");
  },
});

Deno.test({
  name: "a cache of another user is not used (needs root)",
  ignore: !isRoot,
  async fn() {
    const cache = fresh();
    await Deno.mkdir(cache, { mode: 0o700 });
    await Deno.chown(cache, 65534, 65534);
    await expectMemory(cache, /it belongs to another user/);
  },
});

Deno.test("places where no cache can be are gone around, and each is named", async () => {
  const plain = fresh();
  await Deno.writeTextFile(plain, "");
  for (const place of ["/proc/x", "/proc/x/y/z", "/dev/null", plain, `${plain}/below`, `/${"x".repeat(300)}`]) {
    const reason = `vhostctl: the cache is not used: ${place}: `;
    await expectMemory(place, new RegExp(`^${reason.replaceAll("/", "\\/")}`));
  }
});

Deno.test("paths with blanks and percent signs, relative ones and long ones can hold the cache", async () => {
  const directory = fresh();
  await Deno.mkdir(directory);
  const long = Array.from({ length: 12 }, () => "d".repeat(250)).join("/");
  for (const place of ["relative", "a b#c?d", "100%41", "x/y/z", `${directory}/absolute/`, long]) {
    const outcome = await run(file, ["report"], { environment: { VHOSTCTL_CACHE_DIR: place }, directory });
    const report = reportOf(outcome);
    assert.ok(!fromMemory(report), place);
    assert.equal(outcome.stderr, "");
    assert.ok(report.environment.VHOSTCTL_LIB?.startsWith("/"));
  }
  await expectMemory(`${directory}/a,b`, /there is a comma in its path/);
});

Deno.test({
  name: "a cache on a file system without execution is gone around (needs root, and mounts)",
  ignore: !mayRunApart,
  async fn() {
    const place = fresh();
    await Deno.mkdir(place);
    const script = 'mount -t tmpfs -o noexec,mode=700 none "$1"; "$2" report; test -z "$(ls -A "$1")"';
    const outcome = await runApart(script, [place, file], { VHOSTCTL_CACHE_DIR: place });
    assert.ok(fromMemory(reportOf(outcome)));
    assert.match(outcome.stderr, /programs in it may not be executed/);
  },
});

Deno.test({
  name: "a runtime that may not be executed although its file system says so is gone around (needs root, and mounts)",
  ignore: !mayRunApart,
  async fn() {
    const cache = fresh();
    reportOf(await start(cache, "report"));
    const runtime = `${await entryOf(cache)}/vhostctl`;
    const script = 'mount --bind "$1" "$1"; mount -o remount,bind,noexec "$1"; exec "$2" report';
    const outcome = await runApart(script, [runtime, file], { VHOSTCTL_CACHE_DIR: cache });
    assert.ok(fromMemory(reportOf(outcome)));
    assert.match(outcome.stderr, /programs in it may not be executed/);
  },
});

Deno.test({
  name:
    "where programs in memory are forbidden, the cache works, else one line says what to do (needs root, and mounts)",
  ignore: !mayRunApart || !await Deno.stat("/proc/sys/vm/memfd_noexec").then(() => true, () => false),
  async fn() {
    const script = 'echo 2 >/proc/sys/vm/memfd_noexec; exec "$1" report';
    const cache = fresh();
    const cached = await runApart(script, [file], { VHOSTCTL_CACHE_DIR: cache });
    assert.ok(!fromMemory(reportOf(cached)));
    const refused = await runApart(script, [file], { HOME: "relative", VHOSTCTL_CACHE_DIR: "/proc/x" });
    assert.equal(refused.code, 3);
    assert.match(refused.stderr, /memfd_noexec.*set VHOSTCTL_CACHE_DIR to a directory of yours/);
  },
});

Deno.test({
  name: "a cache without enough space is gone around, and emptied again (needs root, and mounts)",
  ignore: !mayRunApart,
  async fn() {
    const place = fresh();
    await Deno.mkdir(place);
    const script =
      'mount -t tmpfs -o size=20m,mode=700 none "$1"; "$2" report; test "$(du -sk "$1" | cut -f1)" -lt 1000';
    const outcome = await runApart(script, [place, file], { VHOSTCTL_CACHE_DIR: place });
    assert.ok(fromMemory(reportOf(outcome)));
    assert.match(outcome.stderr, /no space left/);
  },
});

Deno.test("a file that was cut short or added to says so in one line", async () => {
  const { size } = await Deno.stat(file);
  const cache = fresh();
  const other = fresh();
  await Deno.copyFile(file, other);
  await Deno.writeFile(other, new Uint8Array(1), { append: true });
  await expectRefusal(other, cache, /^vhostctl: its own file is not whole: .* \(\d+ bytes\): copy it again$/m);
  for (const bytes of [size - 1, size - 2000, Math.round(size / 2), 100_000]) {
    await Deno.truncate(other, bytes);
    await expectRefusal(other, cache, new RegExp(`its own file is not whole: ${other} \\(${bytes} bytes\\)`));
  }
  await Deno.remove(other);
});

/** Where the sections of a file begin. */
async function frames(path: string): Promise<number[]> {
  const bytes = await Deno.readFile(path);
  const header = [0x04, 0x22, 0x4d, 0x18, 0x68, 0x70];
  const found: number[] = [];
  for (let at = bytes.indexOf(header[0]!); at >= 0; at = bytes.indexOf(header[0]!, at + 1)) {
    if (header.every((byte, index) => bytes[at + index] === byte)) found.push(at);
  }
  return found;
}

async function flipBit(path: string, place: number): Promise<void> {
  using stream = await Deno.open(path, { read: true, write: true });
  const byte = new Uint8Array(1);
  await stream.seek(place, Deno.SeekMode.Start);
  await stream.read(byte);
  byte[0]! ^= 16;
  await stream.seek(place, Deno.SeekMode.Start);
  await stream.write(byte);
}

Deno.test("one changed bit anywhere is found, said in one line, and leaves nothing in the cache", async () => {
  const other = fresh();
  await Deno.copyFile(file, other);
  const { size } = await Deno.stat(file);
  const [runtime, application, ...libraries] = await frames(file);
  const library = libraries[levels.indexOf(await levelName())];
  const places = { runtime: runtime! + 100_000, late: Math.round(size / 2), application, library, footer: size - 100 };
  // Parts are unpacked in this order; none that is not right is left.
  const whole: Record<string, string[]> = {
    runtime: [],
    late: [],
    application: ["vhostctl"],
    library: ["vhostctl", "vhostctl.js"],
  };
  for (const [part, place] of Object.entries(places)) {
    const cache = fresh();
    await flipBit(other, place! + 20);
    await expectRefusal(other, cache, /^vhostctl: its own file is damaged: .*: copy it again$/m);
    if (part !== "footer") assert.deepEqual(await names(await entryOf(cache)), whole[part]);
    assert.equal((await run(other, ["report"], { environment: { VHOSTCTL_CACHE_DIR: "/dev/null" } })).code, 3);
    await flipBit(other, place! + 20);
  }
  reportOf(await run(other, ["report"], { environment: { VHOSTCTL_CACHE_DIR: fresh() } }));
  await Deno.remove(other);
});

Deno.test("someone who holds the lock of the cache and does nothing delays a first start by seconds", async () => {
  const cache = fresh();
  await Deno.mkdir(cache, { mode: 0o700 });
  const holder = new Deno.Command("flock", { args: ["-x", cache, "cat"], stdin: "piped", stdout: "null" }).spawn();
  while ((await run("flock", ["-n", cache, "true"])).code === 0) await new Promise((wake) => setTimeout(wake, 10));
  const report = reportOf(await start(cache, "report"));
  assert.ok(!fromMemory(report));
  await holder.stdin.close();
  await holder.status;
});

Deno.test("old entries go when a new one comes, but for the newest, and for those in use", async () => {
  const cache = fresh();
  const child = new Deno.Command(file, {
    args: ["wait"],
    env: { VHOSTCTL_CACHE_DIR: cache },
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.getReader();
  await reader.read();
  const used = await entryOf(cache);
  await Deno.utime(used, 1000, 1000);
  const old = (digit: string) => `${cache}/${digit.repeat(32)}`;
  for (const [index, digit] of ["a", "b", "c", "d"].entries()) {
    await Deno.mkdir(`${old(digit)}/deno/gen/deep`, { recursive: true, mode: 0o700 });
    await Deno.writeTextFile(`${old(digit)}/deno/gen/deep/file`, "");
    await Deno.utime(old(digit), 2000 + index, 2000 + index);
  }
  await Deno.mkdir(`${cache}/something else`);

  const newer = fresh();
  await assemble(newer, "1");
  const report = reportOf(await run(newer, ["report"], { environment: { VHOSTCTL_CACHE_DIR: cache } }));
  const own = report.runtime.slice(0, report.runtime.lastIndexOf("/"));
  const paths = async () => (await names(cache)).map((name) => `${cache}/${name}`).toSorted();
  assert.deepEqual(await paths(), [`${cache}/something else`, used, own, old("c"), old("d")].toSorted());

  await child.stdin.close();
  assert.equal((await child.status).code, 0);
  await reader.cancel();
  await Deno.remove(`${own}/vhostctl.js`);
  reportOf(await run(newer, ["report"], { environment: { VHOSTCTL_CACHE_DIR: cache } }));
  assert.deepEqual(await paths(), [`${cache}/something else`, own, old("c"), old("d")].toSorted());
  await Deno.remove(newer);
});

Deno.test("it starts itself again by its own path, from a cache as from memory", async () => {
  for (const cache of [fresh(), "/dev/null"]) {
    const report = reportOf(await start(cache, "respawn", "report", "again"));
    assert.deepEqual(report.arguments, ["again"]);
    assert.equal(report.environment.VHOSTCTL_SELF, file);
    assert.equal(fromMemory(report), cache === "/dev/null");
  }
});

/** Runs a program as a user without rights; where the tests have none themselves, as they are. */
function unprivileged(program: string, args: string[], environment: Record<string, string>, directory: string) {
  const user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];
  return isRoot
    ? run("setpriv", [...user, program, ...args], { environment, directory })
    : run(program, args, { environment, directory });
}

Deno.test("dist/vhostctl, copied alone to an empty directory, runs for a user without rights", async () => {
  const directory = fresh();
  await Deno.mkdir(directory, { mode: 0o755 });
  const copy = `${directory}/vhostctl`;
  await Deno.copyFile(Deno.env.get("VHOSTCTL") ?? `${root}/dist/vhostctl`, copy);
  await Deno.chmod(copy, 0o755);
  const home = fresh();
  await Deno.mkdir(home, { mode: 0o700 });
  if (isRoot) await Deno.chown(home, 65534, 65534);
  // Without a home there is no cache, and nothing to complain about.
  for (const environment of [{}, { HOME: "/proc/nonexistent" }, { HOME: home }, { HOME: home }]) {
    const outcome = await unprivileged(copy, ["--version"], environment as Record<string, string>, directory);
    assert.equal(outcome.code, 0, outcome.stderr);
    assert.match(outcome.stdout, /^vhostctl \d/);
    assert.equal(outcome.stderr, "");
  }
  assert.deepEqual(await names(directory), ["vhostctl"]);
  await entryOf(`${home}/.cache/vhostctl`);
});

/** The program's front door: help, version, and what is said of a command line that cannot be meant. */

import assert from "node:assert/strict";
import { resolve } from "node:path";

const sourceTree = resolve(import.meta.dirname!, "../scripts/vhostctl");
const vhostctl = Deno.env.get("VHOSTCTL") ?? sourceTree;

async function run(args: readonly string[], env: Record<string, string> = {}, program = vhostctl) {
  const { code, stdout, stderr } = await new Deno.Command(program, { args: [...args], env, stdin: "null" }).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

const folder = await Deno.makeTempDir({ prefix: "vhostctl-cli-" });
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
await Deno.writeTextFile(`${folder}/file`, "");

const long = `/tmp/${"a".repeat(110)}`;

/** Each must end with this code, one line on stderr that contains this text, and nothing on stdout. */
const refusals: [args: string, code: number, text: string][] = [
  ["serv", 2, "vhostctl: unknown command: serv: did you mean serve?"],
  ["help serv", 2, "vhostctl: unknown command: serv: did you mean serve?"],
  ["quux", 2, "vhostctl: unknown command: quux: choose from"],
  ["--quux", 2, "vhostctl: unknown option: --quux: see vhostctl --help"],
  ["serve --queus 4", 2, "vhostctl serve: unknown option: --queus: did you mean --queues?"],
  ["serve --queues", 2, "vhostctl serve: option needs a value: --queues <n>: see vhostctl serve --help"],
  ["serve --queues 0", 2, "cannot use --queues: 0: give a whole number from 1 to 128"],
  ["serve --queues four", 2, "cannot use --queues: four: give a whole number"],
  ["serve --queues 1.5", 2, "cannot use --queues: 1.5: give a whole number"],
  ["serve --ports 1025", 2, "cannot use --ports: 1025: give a whole number from 1 to 1024"],
  ["serve --idle lazy", 2, "cannot use --idle: lazy: choose from adaptive, busy, sleep"],
  ["serve --idle bussy", 2, "cannot use --idle: bussy: did you mean busy?"],
  ["serve --stats soon", 2, "cannot use --stats: soon: give seconds, 0.1 or more, or 0 for none"],
  ["serve --cpus 2-1", 2, "cannot use --cpus: 2-1: give a list such as 1,3 or 2-5"],
  ["serve --cpus 0,0", 2, "cannot use --cpus: 0,0: give CPU 0 once"],
  ["serve --cpus 0 --workers 2", 2, "--workers and --cpus differ: 2 workers, 1 CPUs: give one CPU for each"],
  [`serve --dir ${folder} --cpus 99999`, 2, "cannot run on CPU: 99999: give some of those that"],
  ["serve --workers 65", 2, "cannot use --workers: 65: give a whole number from 1 to 64"],
  ["serve --socket-mode rw", 2, "cannot use --socket-mode: rw: give octal mode bits"],
  ["serve here", 2, "vhostctl serve: too many arguments: here: see vhostctl serve --help"],
  ["serve --ports 2 --port name=a", 2, "options exclude each other: --ports <n>, --port <settings>"],
  ["serve --port socker=/tmp/a", 2, "unknown setting in --port: socker: did you mean socket?"],
  ["serve --port name=a --port name=a", 2, "two ports with the same name: a: give each its own"],
  ["serve --port socket=/tmp/a --port socket=/tmp/a", 2, "two ports with the same socket: /tmp/a: give each its own"],
  ["serve --port features=-EVENT_ID", 2, "cannot use features= in --port: EVENT_ID: did you mean EVENT_IDX?"],
  [`serve --port socket=${long}`, 2, `socket path too long: ${long}: it has 115 bytes, give one of 107 or fewer`],
  ["serve --uplink tap0", 2, "cannot use --uplink: tap0: choose from tap:IF, packet:IF, xdp:IF"],
  ["serve --uplink tap:", 2, "cannot use --uplink: : give the name of an interface, 1 to 15 bytes"],
  ["serve --uplink tap:up0,queues=0", 2, "cannot use queues= in --uplink: 0: give a whole number from 1 to 128"],
  ["serve --uplink tap:up0,gro=maybe", 2, "cannot use gro= in --uplink: maybe: give on or off"],
  ["serve --uplink tap:up0 --uplink packet:up0", 2, "two ports with the same interface: up0: give each its own"],
  ["serve --uplink tap:up0,name=port0", 2, "two ports with the same name: port0: give each its own"],
  [
    "serve --takeover --control none",
    2,
    "--takeover asks at a control socket, and there is none: give --control PATH",
  ],
  [
    "serve --dir /tmp/vhostctl-nowhere --takeover",
    1,
    "no takeover from /tmp/vhostctl-nowhere/control.sock: no such file",
  ],
  [`serve --dir ${folder}/none/at/all`, 1, "the folder above it does not exist: give another with --dir"],
  [`serve --dir ${folder}/file`, 1, `cannot make folder: ${folder}/file: a file is in the way`],
  [`serve --dir ${folder}/file/below`, 1, "the path leads through a file: give another with --dir"],
  [`serve --port socket=${folder}/none/a.sock`, 1, "none/a.sock: no such folder: create it, or choose another path"],
];

Deno.test("what cannot be meant, or done, is refused in one line", async (t) => {
  for (const [line, code, text] of refusals) {
    await t.step(line, async () => {
      const result = await run(line.split(" "));
      assert.equal(result.code, code, result.stderr);
      assert.equal(result.stdout, "");
      assert.match(result.stderr, /^vhostctl[^\n]*: [^\n]*[^.\n]\n$/);
      assert.ok(result.stderr.includes(text), result.stderr);
    });
  }
});

Deno.test("a folder that may not be written to is named", async () => {
  const locked = `${folder}/locked`;
  await Deno.mkdir(locked, { mode: 0o555 });
  const isRoot = Deno.uid() === 0;
  if (isRoot) await Deno.chown(locked, 65534, 65534);
  // Root without these capabilities is a user like others.
  const plain = isRoot ? ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] : [];
  for (const option of [`--dir ${locked}/new`, `--port socket=${locked}/a.sock`]) {
    const [program, ...args] = [...plain, vhostctl, "serve", ...option.split(" ")];
    const { code, stderr } = await new Deno.Command(program!, { args, stdin: "null" }).output();
    assert.equal(code, 1);
    assert.match(
      new TextDecoder().decode(stderr),
      /^vhostctl serve: cannot .*\/locked\/\S+: permission denied: [^\n]+\n$/,
    );
  }
});

// The one file has its library within, and takes no other.
Deno.test("a library of another build, or none, is the host's lack", async () => {
  const missing = await run(["serve", "--dir", folder], { VHOSTCTL_LIB: `${folder}/none.so` }, sourceTree);
  assert.equal(missing.code, 3);
  assert.match(missing.stderr, /^vhostctl serve: cannot open libvring: \S+none\.so: build it with/);
});

Deno.test("help says what there is, how to call it, and what the exit codes mean", async () => {
  const root = await run(["--help"]);
  assert.equal(root.code, 0);
  for (const part of ["serve ", "Examples:", "Exit codes: 0 done, 1", "-V, --version"]) {
    assert.ok(root.stdout.includes(part), part);
  }
  assert.deepEqual(await run(["help"]), root);
  const nothing = await run([]);
  assert.deepEqual(nothing, { code: 2, stdout: "", stderr: root.stdout });
  const serve = await run(["serve", "--help"]);
  assert.equal(serve.code, 0);
  const options = ["--queues", "--ports", "--port", "--dir", "--workers", "--cpus", "--idle", "--stats", "--json"];
  for (const option of [...options, "--takeover", "--state-dir", "--socket-mode", "--libvirt", "Examples:"]) {
    assert.ok(serve.stdout.includes(option), option);
  }
  assert.deepEqual(await run(["help", "serve"]), serve);
});

Deno.test("the version is told", async () => {
  const { code, stdout } = await run(["--version"]);
  assert.equal(code, 0);
  assert.match(stdout, /^vhostctl \d+\.\d+\.\d+\n$/);
});

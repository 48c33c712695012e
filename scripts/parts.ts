/** The parts of the whole test: each runs by itself and tells how many tests passed, failed and were left out. */

import { exists, root, run, tool } from "./process.ts";
import { denoTally, nothing, step, sum, type Tally, zigTally } from "./outcome.ts";
import { fuzz } from "./fuzz.ts";
import { kernelSegments } from "./kernel_segments.ts";

export interface Options {
  /** Only tests whose name contains this. */
  filter?: string;
  fuzz_seconds: number;
  fuzz_seed?: string;
}

export interface Part {
  name: string;
  about: string;
  /** Whether it may run beside others, leaves that to them, or has timing of its own and wants no company. */
  company: "beside others" | "any" | "alone";
  run(options: Options): Promise<Tally>;
}

/** Runs a script beside this one: it works, or counts as one failure. */
async function script(name: string, ...args: string[]): Promise<Tally> {
  const { code } = await run(`${root}/scripts/${name}`, args, { echo: true });
  return step(code === 0, `scripts/${name}`);
}

async function build(): Promise<Tally> {
  return await exists(`${root}/zig/lib.zig`) ? await script("build", "--library") : nothing;
}

async function zig(options: Options): Promise<Tally> {
  if (!await exists(`${root}/zig/lib.zig`)) return nothing;
  const filter = options.filter === undefined ? [] : ["--test-filter", options.filter];
  const tallies: Tally[] = [];
  for (const program of [["-lc", "zig/lib.zig"], ["zig/launcher.zig"]]) {
    const { code, text } = await run(tool("ZIG"), ["test", "-fllvm", ...program, ...filter], { echo: true });
    tallies.push(zigTally(code, text));
  }
  return sum(tallies);
}

/** The same unit tests as an aarch64 program; static, so that the emulator needs nothing of that machine. */
async function cross(options: Options): Promise<Tally> {
  if (!await exists(`${root}/zig/lib.zig`)) return nothing;
  const library = await script("build", "--library", "--cross");
  if (library.failed > 0) return library;
  const peers = await script("peers.sh");
  const emulator = "qemu-aarch64-static";
  if (!await exists(`/usr/bin/${emulator}`)) {
    const left_out = [`Zig unit tests on aarch64: no ${emulator}: apt-get install qemu-user-static`];
    return sum([peers, { ...nothing, left_out }]);
  }
  const filter = options.filter === undefined ? [] : ["--test-filter", options.filter];
  const target = ["-target", "aarch64-linux-musl", "-lc", "-static", "--test-cmd", emulator, "--test-cmd-bin"];
  const { code, text } = await run(tool("ZIG"), ["test", ...target, "zig/lib.zig", ...filter], { echo: true });
  return sum([peers, zigTally(code, text)]);
}

/** The test files right inside a folder, in the order of their names. */
async function testFiles(folder: string): Promise<string[]> {
  if (!await exists(`${root}/${folder}`)) return [];
  const names: string[] = [];
  for await (const entry of Deno.readDir(`${root}/${folder}`)) {
    if (entry.isFile && entry.name.endsWith("_test.ts")) names.push(`${folder}/${entry.name}`);
  }
  return names.toSorted();
}

export async function denoTests(files: string[], options: Options, env: Record<string, string> = {}): Promise<Tally> {
  if (files.length === 0) return nothing;
  const report = await Deno.makeTempFile({ prefix: "vhostctl-test-", suffix: ".xml" });
  try {
    const filter = options.filter === undefined ? [] : ["--filter", options.filter];
    const args = ["test", "--allow-all", `--junit-path=${report}`, ...filter, ...files];
    const { code, text } = await run(tool("DENO"), args, { echo: true, env });
    const tally = denoTally(code, text, await Deno.readTextFile(report));
    // The report says of tests with another name, too, that they were skipped.
    return { ...tally, left_out: tally.left_out.filter((name) => name.includes(options.filter ?? "")) };
  } finally {
    await Deno.remove(report);
  }
}

const launcherTest = "tests/launcher_test.ts";
/** Puts the one file into a guest. */
const vhostPciTest = "tests/real/vhost_pci_linux_test.ts";

/** What matters to a user of the one file: these start $VHOSTCTL, and are run with it instead of scripts/vhostctl. */
const wholeProgramTests = [
  launcherTest,
  "tests/cli_program_test.ts",
  "tests/pmd_forward_test.ts",
  "tests/serve_test.ts",
  "tests/bench_test.ts",
  "tests/tso_test_test.ts",
  "tests/migrate_self_test_test.ts",
  "tests/real/serve_linux_test.ts",
  vhostPciTest,
];

async function typescript(options: Options): Promise<Tally> {
  return await denoTests((await testFiles("tests")).filter((file) => file !== launcherTest), options);
}

async function real(options: Options): Promise<Tally> {
  const files = (await testFiles("tests/real")).filter((name) => name !== vhostPciTest);
  return sum([await script("peers.sh"), await denoTests(files, options)]);
}

/** The one file: how it starts, and then the whole-program tests again with it in the place of scripts/vhostctl. */
async function file(options: Options): Promise<Tally> {
  const built = await script("build");
  if (built.failed > 0) return built;
  const env = { VHOSTCTL: `${root}/dist/vhostctl` };
  return await denoTests(wholeProgramTests, options, env);
}

/** In the order in which they run: what fails fastest comes first. */
export const parts: Part[] = [
  { name: "build", about: "libvring for this CPU", company: "any", run: build },
  {
    name: "fuzz",
    about: "the seeded fuzzers",
    company: "beside others",
    run: (options) => fuzz(options.fuzz_seconds, options.fuzz_seed),
  },
  {
    name: "segments",
    about: "random packets cut by us and by this machine's Linux, byte by byte",
    company: "beside others",
    run: (options) => kernelSegments(Math.ceil(options.fuzz_seconds / 3), options.fuzz_seed),
  },
  {
    name: "check",
    about: "formats, lints, types, import directions, sizes, generated bindings",
    company: "any",
    run: () => script("check"),
  },
  { name: "zig", about: "unit tests of libvring and of the launcher", company: "any", run: zig },
  { name: "ts", about: "tests of the TypeScript side and of the whole program", company: "any", run: typescript },
  {
    name: "cross",
    about: "libvring for aarch64, its unit tests under qemu-aarch64-static",
    company: "any",
    run: cross,
  },
  { name: "real", about: "against DPDK, QEMU and a Linux guest", company: "alone", run: real },
  {
    name: "file",
    about: "dist/vhostctl: its launcher, and the whole-program tests against it",
    company: "alone",
    run: file,
  },
];

/**
 * Files as scripts/build makes dist/vhostctl, but with a program of the tests inside; and what it takes to start them
 * in an environment of known content.
 */

import assert from "node:assert/strict";
import { resolve } from "node:path";

export const root = resolve(import.meta.dirname!, "..");
export const isRoot = Deno.uid() === 0;

/** What the program inside says of itself. */
export interface Report {
  arguments: string[];
  environment: Record<string, string>;
  runtime: string;
  module: string;
}

export interface Outcome {
  code: number;
  signal: string | null;
  stdout: string;
  stderr: string;
  milliseconds: number;
}

/** The builds of libvring inside, in the order of their sections. */
export const levels = Deno.build.arch === "aarch64" ? ["aarch64"] : ["x86_64_v2", "x86_64_v3", "x86_64_v4"];

export function libraryPath(level: string): string {
  return `${root}/build/libvring-${level}.so`;
}

/** Makes a file at `path`. Another `variant` makes another build of it. */
export async function assemble(path: string, variant = "0"): Promise<void> {
  const build = `${root}/build`;
  const { code, stderr } = await new Deno.Command(`${build}/launcher_pack`, {
    args: [
      "assemble",
      path,
      `${build}/launcher`,
      `${build}/deno.lz4`,
      `${import.meta.dirname}/one_file_program.ts`,
      ...levels.map(libraryPath),
      ...["--", "run", "--quiet", "--cached-only", "--no-remote", "--no-config", "--no-lock", "--no-npm", "--ext=js"],
      ...["--no-prompt", "--allow-ffi={library}", "--allow-env", "--allow-sys", "--allow-run", `--seed=${variant}`],
      "{application}",
    ],
  }).output();
  assert.equal(code, 0, `cannot make the file: run ./scripts/build first: ${new TextDecoder().decode(stderr)}`);
  await Deno.chmod(path, 0o755);
}

/** Runs a program to its end, with nothing in its environment but `environment` and a PATH. */
export async function run(
  program: string,
  args: readonly string[],
  options: { environment?: Record<string, string>; input?: Uint8Array<ArrayBuffer>; directory?: string } = {},
): Promise<Outcome> {
  const started = performance.now();
  const child = new Deno.Command(program, {
    args: [...args],
    clearEnv: true,
    env: { PATH: Deno.env.get("PATH") ?? "/usr/bin:/bin:/usr/sbin:/sbin", ...options.environment },
    cwd: options.directory ?? "/",
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const feed = async () => {
    const writer = child.stdin.getWriter();
    if (options.input) await writer.write(options.input);
    await writer.close().catch(() => {});
  };
  const [status, stdout, stderr] = await Promise.all([child.status, child.stdout.text(), child.stderr.text(), feed()]);
  return {
    code: status.code,
    signal: status.signal,
    stdout,
    stderr,
    milliseconds: performance.now() - started,
  };
}

/** What a started program reported, after it ended well. */
export function reportOf(outcome: Outcome): Report {
  assert.equal(outcome.code, 0, outcome.stderr);
  return JSON.parse(outcome.stdout);
}

/** Whether a start came from memory rather than from a cache. */
export function fromMemory(report: Report): boolean {
  return report.runtime.startsWith("/memfd:") && report.module.startsWith("file:///proc/self/fd/") &&
    (report.environment.VHOSTCTL_LIB ?? "").startsWith("/proc/self/fd/");
}

/** A shell in mount and process namespaces of its own runs `script`, with the arguments as $1, $2 ... */
export function runApart(
  script: string,
  args: readonly string[],
  environment: Record<string, string>,
): Promise<Outcome> {
  const shell = ["--mount", "--pid", "--fork", "--mount-proc", "sh", "-euc", script, "sh", ...args];
  return run("unshare", shell, { environment });
}

/** Not everyone may, and in a container not even root. */
export const mayRunApart = isRoot && (await runApart("mount -t tmpfs none /mnt", [], {})).code === 0;

export async function names(directory: string): Promise<string[]> {
  const found: string[] = [];
  for await (const entry of Deno.readDir(directory)) found.push(entry.name);
  return found.toSorted();
}

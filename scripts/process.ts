/** Child processes of the scripts: started in the root of the tree, output kept, and copied to stderr if asked. */

import { resolve } from "node:path";

export const root = resolve(import.meta.dirname!, "..");

export interface Outcome {
  code: number;
  text: string;
  seconds: number;
}

/** The programs that scripts/env.sh provides. */
export function tool(name: "DENO" | "ZIG"): string {
  const path = Deno.env.get(name);
  if (path === undefined) throw new Error(`${name} is not set: start this by its script beside it`);
  return path;
}

/** Runs `program` to its end. `echo` copies what it writes to stderr as it comes. */
export async function run(
  program: string,
  args: string[],
  options: { echo?: boolean; env?: Record<string, string> } = {},
): Promise<Outcome> {
  const started = performance.now();
  const child = new Deno.Command(program, {
    args,
    cwd: root,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1", ...options.env },
  }).spawn();
  let text = "";
  const collect = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => {
    for await (const part of stream.pipeThrough(new TextDecoderStream())) {
      text += part;
      if (options.echo) await Deno.stderr.write(new TextEncoder().encode(part));
    }
  };
  const [status] = await Promise.all([child.status, collect(child.stdout), collect(child.stderr)]);
  return { code: status.code, text, seconds: (performance.now() - started) / 1000 };
}

export async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

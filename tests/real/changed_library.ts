/**
 * libvring with a fault in it, for tests that must find it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join, resolve } from "node:path";

const root = resolve(import.meta.dirname!, "../..");

export interface Change {
  /** In zig/. */
  readonly file: string;
  /** Stands there once, and is replaced. */
  readonly text: string;
  readonly by: string;
}

/** Builds a copy of libvring with one change, and returns its path. */
export async function buildChanged(folder: string, { file, text, by }: Change): Promise<string> {
  const source = join(folder, "zig");
  await Deno.mkdir(source);
  for await (const { name } of Deno.readDir(`${root}/zig`)) {
    await Deno.copyFile(`${root}/zig/${name}`, join(source, name));
  }
  const before = await Deno.readTextFile(join(source, file));
  assert.equal(before.split(text).length, 2, `${file} has not once: ${text}`);
  await Deno.writeTextFile(join(source, file), before.replace(text, () => by));
  const library = join(folder, "libvring.so");
  // Not as scripts/build does it: this way it takes seconds.
  const { code, stderr } = await new Deno.Command(`${root}/scripts/zig`, {
    args: [
      ...["build-lib", "-dynamic", "-O", "Debug", "-fllvm", "-lc", "-z", "nodelete", "--name", "vring"],
      ...[`-femit-bin=${library}`, join(source, "lib.zig")],
    ],
  }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  return library;
}

/** The example in the library's documentation is a program, and does what it says. */

import assert from "node:assert/strict";
import { resolve } from "node:path";

const root = resolve(import.meta.dirname!, "..");

Deno.test("the example of mod.ts runs", async () => {
  const text = await Deno.readTextFile(`${root}/mod.ts`);
  const lines = /```ts\n([^]*?) \* ```/.exec(text)?.[1]?.split("\n") ?? [];
  const program = lines.map((line) => line.replace(/^ \* ?/, "")).join("\n").replaceAll("./mod.ts", `${root}/mod.ts`);
  const directory = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${directory}/example.ts`, program);
    const args = ["run", "--quiet", "--check", "--allow-all", `--config=${root}/deno.json`, `${directory}/example.ts`];
    const { code, stderr } = await new Deno.Command(Deno.execPath(), { args, env: { TMPDIR: directory } }).output();
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    assert.deepEqual([...Deno.readDirSync(directory)].map(({ name }) => name), ["example.ts"]);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

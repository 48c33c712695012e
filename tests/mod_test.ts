/** The examples in the library's documentation are programs, and do what they say. */

import assert from "node:assert/strict";
import { resolve } from "node:path";

const root = resolve(import.meta.dirname!, "..");

/** Runs one as a file by itself. It leaves nothing in the folder for temporary files. */
async function run(program: string): Promise<void> {
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
}

Deno.test("the examples of mod.ts run", async (test) => {
  const text = await Deno.readTextFile(`${root}/mod.ts`);
  const examples = [...text.matchAll(/```ts\n([^]*?) \* ```/g)].map(([, lines]) =>
    lines!.replaceAll(/^ \* ?/gm, "").replaceAll("./mod.ts", `${root}/mod.ts`)
  );
  assert.equal(examples.length, 2);
  for (const [index, example] of examples.entries()) await test.step(`${index + 1}`, () => run(example));
});

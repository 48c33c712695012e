/**
 * The other end of a `HostProcess`: a host of simulated guests whose methods are called by its parent.
 *
 * @module
 */
import { Pump } from "../mod.ts";
import { readLines } from "./json_process.ts";

async function answer(host: object, line: string): Promise<unknown> {
  try {
    const { call, with: argument } = JSON.parse(line) as { call: string; with: unknown };
    const method = (host as Record<string, (argument: unknown) => unknown>)[call]!;
    return { result: await method.call(host, argument) };
  } catch (reason) {
    return { error: (reason as Error).message };
  }
}

/**
 * Takes a line of JSON at a time on stdin, `{"call":"pause","with":{"frames":8}}`, and answers each with one on stdout,
 * in order: `{"result":..}`, or where it fails `{"error":".."}`. Ends when stdin is closed.
 */
export async function answerCalls(open: (pump: Pump) => AsyncDisposable): Promise<void> {
  await using pump = Pump.open();
  const running = pump.run();
  await using host = open(pump);
  console.log(JSON.stringify({ ready: true }));
  let last: Promise<void> = Promise.resolve();
  const talk = readLines(Deno.stdin.readable, (line) => {
    last = last.then(async () => console.log(JSON.stringify(await answer(host, line))));
  }).then(() => last);
  await Promise.race([talk, running]);
}

/**
 * Hostile guests against the running program: $VHOSTCTL, else the one of the source tree. Each case has its verdict
 * (passes, dropped and counted by name, the ring broken by name), and is looked at from all sides: what comes back in
 * the ring, which bytes of the guest's memory changed, what is counted, and whether two honest guests beside it still
 * get every frame of each other's, before, during and after.
 */

import { resolve } from "node:path";
import { bufferCases } from "./hostile_buffer_cases.ts";
import type { Case } from "./hostile_case.ts";
import { chainCases } from "./hostile_chain_cases.ts";
import { headerCases } from "./hostile_header_cases.ts";
import { indexCases } from "./hostile_index_cases.ts";
import { overlapCases } from "./hostile_overlap_cases.ts";
import { racingCases } from "./hostile_race_cases.ts";
import { World } from "./hostile_world.ts";

let world: World | undefined;

Deno.test.beforeAll(async () => {
  const source = resolve(import.meta.dirname!, "../scripts/vhostctl");
  world = await World.open(Deno.env.get("VHOSTCTL") ?? source, 0.1);
});

Deno.test.afterAll(async () => {
  await world?.close();
});

const cases: readonly Case[] = [
  ...chainCases,
  ...headerCases,
  ...bufferCases,
  ...indexCases,
  ...overlapCases,
  ...racingCases,
];

for (const { name, run } of cases) {
  // What the program says is read all the time, by operations that no single case begins or ends.
  Deno.test({ name: `hostile guest: ${name}`, sanitizeOps: false, fn: () => world!.run(() => run(world!)) });
}

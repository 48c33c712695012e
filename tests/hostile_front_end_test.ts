/**
 * Hostile front ends against the running program: $VHOSTCTL, else the one of the source tree. Each case has its verdict
 * (refused by a nack, the session ended with one line, or passed), and two honest guests beside it whose traffic must
 * not lose, reorder or change a single frame, before, during and after.
 */

import { resolve } from "node:path";
import type { Case } from "./hostile_case.ts";
import { fdCases } from "./hostile_fd_cases.ts";
import { eventfdCases } from "./hostile_eventfd_cases.ts";
import { framingCases } from "./hostile_framing_cases.ts";
import { inflightCases } from "./hostile_inflight_cases.ts";
import { logCases } from "./hostile_log_cases.ts";
import { memoryCases } from "./hostile_memory_cases.ts";
import { requestCases } from "./hostile_request_cases.ts";
import { stormCases } from "./hostile_storm_cases.ts";
import { vringCases } from "./hostile_vring_cases.ts";
import { World } from "./hostile_world.ts";

let world: World | undefined;

Deno.test.beforeAll(async () => {
  const source = resolve(import.meta.dirname!, "../scripts/vhostctl");
  world = await World.open(Deno.env.get("VHOSTCTL") ?? source, 0.5);
});

Deno.test.afterAll(async () => {
  await world?.close();
});

const cases: readonly Case[] = [
  ...requestCases,
  ...fdCases,
  ...vringCases,
  ...memoryCases,
  ...logCases,
  ...inflightCases,
  ...framingCases,
  ...eventfdCases,
  ...stormCases,
];

for (const { name, run } of cases) {
  // What the program says is read all the time, by operations that no single case begins or ends.
  Deno.test({ name: `hostile front end: ${name}`, sanitizeOps: false, fn: () => world!.run(() => run(world!)) });
}

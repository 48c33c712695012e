/** `vhostctl serve --takeover` is killed at any moment: the old process serves on, and nothing is lost; or it ended. */

import assert from "node:assert/strict";
import type { Ring } from "../cli/bench_result.ts";
import { askTakeover } from "../cli/control_client.ts";
import { takeoverVersion } from "../cli/takeover_talk.ts";
import { loadLibrary } from "../ffi/library.ts";
import { eventually, Program, within } from "./real/process.ts";
import { vhostctl } from "./real/serve.ts";
import { end_ms, TakeoverPlace } from "./takeover_place.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

const rounds = 24;
/** Longer than it takes from when it asks until it has the rings, where this machine is not busy. */
const takeover_ms = 60;

/** Whose the rings are. */
type Owner = "old" | "new";

/** A new process begins, asks, and is killed so much later. */
async function killAfter(place: TakeoverPlace, delay_ms: number): Promise<Owner> {
  const asks = asked(place.folder);
  await using program = new Program(vhostctl, ["serve", "--json", ...place.serveArguments, "--takeover"]);
  await within("its question", end_ms, asks);
  await new Promise((resolve) => setTimeout(resolve, delay_ms));
  await program.stop("SIGKILL");
  return await eventually("an end of the takeover", end_ms, () => ownerOf(place), 10);
}

/** Undefined: that is still being decided. One who was killed very early is told nowhere. */
async function ownerOf({ serve, control }: TakeoverPlace): Promise<Owner | undefined> {
  if (!serve.program.running) return "new";
  const answer = await askTakeover(control, { socket: "/tmp/elsewhere.sock", version: takeoverVersion });
  return /must lie beside/.test(`${answer}`) ? "old" : undefined;
}

/** It listens beside the control socket, or did so: of what comes and goes at once not all is told. */
async function asked(folder: string): Promise<void> {
  using watcher = Deno.watchFs(folder);
  for await (const { paths } of watcher) {
    if (paths.some((path) => /takeover-\d+\.sock$/.test(path))) return;
  }
}

/** How many had no rings yet when they were killed, and how many of these had begun to take over. */
interface Tally {
  killed: number;
  begun: number;
}

/** Kills some, each at another moment, until one of them had the rings. */
async function killSome(ring: Ring, delays: number[], tally: Tally): Promise<void> {
  await using place = await TakeoverPlace.start({ ring, inflight: true });
  place.load();
  await place.traffic(1000n);
  const before = place.descriptors();
  const first = tally.killed;
  for (let delay_ms = delays.shift(); delay_ms !== undefined; delay_ms = delays.shift()) {
    const from = place.serve.now;
    if (await killAfter(place, delay_ms) === "new") {
      const { code } = await place.serve.program.finished;
      assert.equal(code, 0, place.serve.program.since());
      assert.equal(place.serve.records.at(-1)!.event, "handed_over");
      return;
    }
    tally.killed++;
    if (place.serve.records.slice(from).some(({ event }) => event === "handover_failed")) tally.begun++;
    await place.traffic(1000n);
    if ((tally.killed - first) % 4 > 0 && delays.length > 0) continue;
    await place.hasDescriptors(before);
    await place.account();
    place.load();
  }
  await place.takeOver();
  await place.traffic(1000n);
  await place.account();
  for (const kept of place.kept) await kept.check();
}

for (const ring of ["split", "packed"] as const) {
  Deno.test(`a new process is killed at any moment: the rings are one's, and nothing is lost, ${ring}`, async () => {
    const delays = Array.from({ length: rounds }, () => takeover_ms * Math.random());
    const tally = { killed: 0, begun: 0 };
    while (delays.length > 0) await killSome(ring, delays, tally);
    const { killed, begun } = tally;
    console.error(`${ring}: of ${rounds}, ${begun} were taking over, and ${rounds - killed} had the rings already`);
    assert.ok(begun > 0);
  });
}

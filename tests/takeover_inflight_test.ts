/** `vhostctl serve --takeover` where front ends keep memory of what is in flight: it goes over, and stays right. */

import assert from "node:assert/strict";
import { takeoverVersion } from "../cli/takeover_talk.ts";
import { loadLibrary } from "../ffi/library.ts";
import { end_ms, TakeoverPlace } from "./takeover_place.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

for (const ring of ["split", "packed"] as const) {
  Deno.test(`memory of what is in flight goes over with ${ring} rings, and no packet is lost`, async () => {
    await using place = await TakeoverPlace.start({ ring, queues: 2, inflight: true });
    place.load();
    await place.traffic();
    const before = place.descriptors();
    for (let round = 0; round < 5; round++) {
      await place.takeOver();
      await place.traffic();
    }
    await place.hasDescriptors(before);
    await place.account();
    for (const kept of place.kept) await kept.check();
  });

  Deno.test(`a new process that fails leaves memory of what is in flight as it is, of ${ring} rings`, async () => {
    await using place = await TakeoverPlace.start({ ring, inflight: true });
    place.load();
    await place.traffic();
    const from = place.serve.now;
    await place.impersonate(async (talk) => {
      await talk.expect("hello", end_ms);
      await talk.send("give", { port: "port0" });
      await talk.expect("refusal", end_ms);
    });
    await place.servesOn(/port0 cannot go now: .* it takes a newer program to go on with that/, from);
    const later = place.serve.now;
    await place.impersonate(async (talk) => {
      await talk.expect("hello", end_ms);
      await talk.send("give", { port: "port0" });
      const { body, fds } = await talk.expect("port", end_ms);
      assert.ok((body as { fds: string[] }).fds.includes("inflight"));
      for (const fd of fds) fd[Symbol.dispose]();
    }, takeoverVersion);
    await place.servesOn(/ended/, later);
    await place.takeOver();
    await place.traffic();
    await place.account();
    for (const kept of place.kept) await kept.check();
  });
}

/** The forwarding modes in TypeScript make of a frame what the native ones make of it. */

import assert from "node:assert/strict";
import { forwardModes } from "../bench/forward_modes.ts";
import { bytes, cases } from "./forward_cases.ts";

/** Of port 1, as a frame from port 0 finds them; and of port 0, whose frames icmpecho answers. */
const own = bytes("56 48 4f 53 54 01");
const peer = bytes("02 00 00 00 00 01");

for (const { mode, sent, arrives, returns } of cases) {
  if (mode === "io") continue;
  const what = arrives ? "goes on" : returns ? "is answered" : "goes nowhere";
  Deno.test(`TypeScript, ${mode}: a frame of protocol ${sent[23]} ${what}`, () => {
    const packet = { data: sent.slice(), header: new Uint8Array(12) };
    const goesOn = forwardModes(own, peer)[mode]!(packet);
    assert.equal(goesOn, arrives !== undefined || returns !== undefined);
    if (goesOn) assert.deepEqual(packet.data, arrives ?? returns);
  });

  Deno.test(`TypeScript, ${mode}: a frame of protocol ${sent[23]} that is cut off anywhere hurts nobody`, () => {
    for (let length = 14; length < sent.length; length++) {
      const data = sent.slice(0, length);
      forwardModes(own, peer)[mode]!({ data, header: new Uint8Array(12) });
      assert.equal(data.length, length);
    }
  });
}

Deno.test("TypeScript, csum: a checksum that was still to be put in is, and the header asks no more for it", () => {
  const { sent, arrives } = cases.find(({ mode }) => mode === "csum")!;
  const header = new Uint8Array(12);
  header[0] = 1;
  const packet = { data: sent.slice(), header };
  assert.equal(forwardModes(own, peer)["csum"]!(packet), true);
  assert.deepEqual(packet.data, arrives);
  assert.deepEqual(header, new Uint8Array(12));
});

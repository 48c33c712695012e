/**
 * `vhostctl reconnect-watch --self-test` finds a back end that cannot be killed at any instant: libvring is built
 * without one of the things that make it so, and the test must fail and say what came of it.
 */

import assert from "node:assert/strict";
import { resolve } from "node:path";
import type { SelfTestResult } from "../../cli/self_reconnect_result.ts";
import { buildChanged, type Change } from "./changed_library.ts";

const program = Deno.env.get("VHOSTCTL") ?? resolve(import.meta.dirname!, "../../scripts/vhostctl");
/** One instant in many is the wrong one. */
const rounds = 250;

interface Fault extends Change {
  readonly what: string;
  readonly ring: "split" | "packed";
  /** What a guest sees of it. */
  readonly seen: RegExp;
}

/** A ring that stands still, or at once comes apart. */
const gone = /stuck|nothing arrives|do not start|broken/;

const faults: readonly Fault[] = [
  {
    what: "does not note what it has in hand",
    file: "burst.zig",
    text: "        vring.noteTaken(burst.heads[0..burst.head_count]);\n",
    // What was in hand goes through again; or more than that is given back, and the ring stands elsewhere.
    ...{ by: "", ring: "packed", seen: /\d duplicated|stuck/ },
  },
  {
    what: "keeps for itself what a dead one had in hand",
    file: "recovery.zig",
    text: "        ring.complete(head.id, 0, 1);\n",
    ...{ by: "        _ = head;\n", ring: "split", seen: gone },
  },
  {
    what: "believes what a front end says of a packed ring",
    file: "vring.zig",
    text: "ring.start(ring.knownBase());",
    by: "ring.start(config.base);",
    ...{ ring: "packed", seen: gone },
  },
  {
    what: "takes the ring of a driver that has begun anew for what was left",
    file: "journal.zig",
    text: "        return event != 0 and (",
    ...{ by: "        return event == 0 or (", ring: "packed", seen: gone },
  },
];

for (const fault of faults) {
  Deno.test(`reconnect-watch --self-test with a back end that ${fault.what}`, async () => {
    const folder = await Deno.makeTempDir();
    try {
      const { code, stdout, stderr } = await new Deno.Command(program, {
        args: [
          "reconnect-watch",
          "--self-test",
          "--json",
          "--seed",
          "1",
          "--rounds",
          `${rounds}`,
          "--ring",
          fault.ring,
        ],
        env: { VHOSTCTL_LIB: await buildChanged(folder, fault) },
      }).output();
      const [said, told] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
      const { rings } = JSON.parse(said!) as SelfTestResult;
      for (const { ring, failure } of rings) assert.match(failure?.reason ?? `${ring}: nothing was found`, fault.seen);
      assert.equal(code, 1, told);
      assert.match(told!, /self-test failed: .*: repeat it with vhostctl reconnect-watch --self-test --seed 1 --ring/);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

/**
 * `vhostctl migrate --self-test` finds a back end that forgets to log: libvring is built without one of its marks, and
 * the test must fail and name what lies where nobody looked.
 */

import assert from "node:assert/strict";
import { resolve } from "node:path";
import type { Difference } from "../../cli/self_migration_host.ts";
import type { SelfTestResult } from "../../cli/self_migration_result.ts";
import { buildChanged, type Change } from "./changed_library.ts";

const root = resolve(import.meta.dirname!, "../..");
const program = Deno.env.get("VHOSTCTL") ?? `${root}/scripts/vhostctl`;
const rounds = 60;

interface Fault extends Change {
  readonly forgets: string;
  readonly ring: "split" | "packed" | "both";
  /** Where memory may differ then. */
  readonly areas: readonly Difference["area"][];
}

const faults: readonly Fault[] = [
  {
    forgets: "buffers in one piece",
    file: "targets.zig",
    text: "if (vring.buffer_log) |log| targets.mark(vring, log);",
    ...{ by: "_ = vring;", ring: "both", areas: ["buffer"] },
  },
  {
    forgets: "buffers in pieces, and frames over several",
    file: "burst.zig",
    text: "if (vring.buffer_log) |log| vring.markBuffers(log, burst.sink.items[0..burst.sink.used]);",
    ...{ by: "", ring: "both", areas: ["buffer"] },
  },
  {
    forgets: "used rings",
    file: "vring.zig",
    text: ".split => vring.ring.split.markUsed(&marking, vring.usedAddress(), used),",
    ...{ by: ".split => {},", ring: "split", areas: ["used"] },
  },
  {
    forgets: "packed descriptors",
    file: "vring.zig",
    text: ".packed_ring => vring.ring.packed_ring.markUsed(&marking, vring.usedAddress(), used),",
    ...{ by: ".packed_ring => {},", ring: "packed", areas: ["desc"] },
  },
  {
    forgets: "event areas of packed rings",
    file: "vring.zig",
    text: ".packed_ring => vring.ring.packed_ring.markEvent(&marking, vring.deviceAddress()),",
    ...{ by: ".packed_ring => {},", ring: "packed", areas: ["event"] },
  },
];

for (const fault of faults) {
  Deno.test(`migrate --self-test with a back end that forgets ${fault.forgets}`, async () => {
    const folder = await Deno.makeTempDir();
    try {
      const { code, stdout, stderr } = await new Deno.Command(program, {
        args: ["migrate", "--self-test", "--json", "--seed", "1", "--rounds", `${rounds}`, "--ring", fault.ring],
        env: { VHOSTCTL_LIB: await buildChanged(folder, fault) },
      }).output();
      const [said, told] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
      const { rings } = JSON.parse(said!) as SelfTestResult;
      for (const { ring, failure } of rings) {
        const found = failure?.differences.map(({ area }) => area) ?? [];
        assert(found.length > 0, `${ring}: ${failure?.reason}`);
        for (const area of found) assert(fault.areas.includes(area), `${ring}: ${area}`);
      }
      assert.equal(code, 1, told);
      assert.match(told!, /self-test failed: .* pages differ: they were written and not logged: repeat/);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

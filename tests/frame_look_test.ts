/** What is told of a frame by its bytes, and how what a guest sends is counted. */

import assert from "node:assert/strict";
import { checksumFinding } from "../cli/frame_look.ts";
import { bytesOf, frameOf, type NetPacket, type TcpHeader } from "../cli/net_packet.ts";
import { look, watched } from "../cli/tso_watch.ts";

const numbers = { sequence: 1, acknowledgement: 2, flags: 0x10, window: 3, urgent: 0 };
const tcp: TcpHeader = { protocol: "tcp", ...numbers, options: [1, 1, 1, 1] };
const udp = { protocol: "udp" } as const;

function packet(family: 4 | 6, transport: NetPacket["transport"], more: Partial<NetPacket> = {}): NetPacket {
  return {
    ...{ destination: 2, source: 4, tags: [], family, trafficClass: 0, identification: 7, dontFragment: true },
    ...{ options: [], hopByHop: [], transport, payload: Uint8Array.of(1, 2, 3, 4, 5) },
    ...more,
  };
}

Deno.test("a checksum is right, wrong or not there", () => {
  for (const family of [4, 6] as const) {
    for (const transport of [tcp, udp]) {
      const more = family === 4 ? { options: [1, 1, 1, 0] } : { hopByHop: [0, 1, 4, 0, 0, 0, 0] };
      for (const one of [packet(family, transport), packet(family, transport, { ...more, tags: [1, 100] })]) {
        const bytes = bytesOf(one, "whole");
        assert.equal(checksumFinding(bytes), "right");
        // Trailing bytes belong to Ethernet.
        assert.equal(checksumFinding(Uint8Array.of(...bytes, 9, 9, 9)), "right");
        assert.equal(checksumFinding(bytesOf(one, "partial")), "wrong");
        assert.equal(checksumFinding(bytes.with(bytes.length - 1, 6)), "wrong");
        assert.equal(checksumFinding(bytes.subarray(0, bytes.length - 1)), "none");
        assert.doesNotThrow(() => bytes.forEach((_, length) => checksumFinding(bytes.subarray(0, length))));
      }
    }
  }
  const four = bytesOf(packet(4, udp), "whole");
  assert.equal(checksumFinding(four.with(22, 65)), "wrong", "the header's own");
  assert.equal(checksumFinding(four.with(40, 0).with(41, 0)), "none", "UDP without one");
  assert.equal(checksumFinding(four.with(12, 9)), "none", "not IP");
  const fragment = frameOf(packet(4, udp), new Uint8Array(16), { offset: 8, more: false, identification: 0 });
  assert.equal(checksumFinding(fragment), "none");
});

Deno.test("frames are counted by their headers, and verified where they should be finished", () => {
  const watch = watched("a");
  const frame = bytesOf(packet(4, tcp), "whole");
  look(watch, new Uint8Array(12), frame);
  look(watch, new Uint8Array(12), bytesOf(packet(4, tcp), "partial"));
  look(watch, Uint8Array.of(1, 0), bytesOf(packet(4, tcp), "partial"));
  for (const type of [1, 0x81, 4, 5]) look(watch, Uint8Array.of(1, type), new Uint8Array(1000));
  assert.deepEqual(watch, {
    ...{ guest: "a", packets: 7, bytes: 3 * frame.length + 4000, longest_bytes: 1000, lost: 0 },
    ...{ gso_packets: 4, gso_bytes: 4000, gso_kinds: { TSO4: 2, TSO6: 1, USO: 1 } },
    checksums: { left: 5, right: 1, wrong: 1, none: 0 },
  });
});

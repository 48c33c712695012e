// Echo requests from a file, that DPDK's virtio-user driver sends to `vhostctl pmd-forward`: what is answered goes to
// a file again, byte by byte what it must be.

import assert from "node:assert/strict";
import { bytes, sumOf } from "../forward_cases.ts";
import { joined } from "../hostile_bytes.ts";
import { ring_paths, type RingPath, Testpmd } from "./dpdk.ts";
import { framesOf, pcapOf } from "./pcap.ts";
import { realTest } from "./peers.ts";
import { eventually } from "./process.ts";
import { drops, Serve } from "./serve.ts";

const requests = 20_000;
/** Every so many is a datagram instead, to which there is no answer. */
const stray_period = 16;
const patience_ms = 60_000;

const guest = bytes("52 54 00 00 00 01");
const other = bytes("52 54 00 00 00 02");

/** An echo request or its reply: ICMP's type 8 or 0, and addresses of where it comes from first. */
function echo(type: number, number: number, path: readonly [Uint8Array, Uint8Array], addresses: string) {
  const message = joined(bytes("00 00 00 00 12 34 00 00"), new Uint8Array(number % 1000).fill(number));
  const view = new DataView(message.buffer);
  message[0] = type;
  view.setUint16(6, number);
  view.setUint16(2, 0xffff - sumOf(message));
  const head = bytes(`45 00 00 00 00 00 40 00 40 01 00 00 ${addresses}`);
  new DataView(head.buffer).setUint16(2, head.length + message.length);
  new DataView(head.buffer).setUint16(10, 0xffff - sumOf(head));
  return joined(path[1], path[0], bytes("08 00"), head, message);
}

function datagram(): Uint8Array<ArrayBuffer> {
  const head = bytes("45 00 00 1c 00 00 40 00 40 11 26 cf 0a 00 00 01 0a 00 00 02");
  return joined(other, guest, bytes("08 00"), head, bytes("00 07 00 07 00 08 00 00"));
}

/** Without the checksum, of which both ways to write 0 are right: the answer's is made from the request's. */
function withoutSum(frame: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return joined(frame.subarray(0, 36), frame.subarray(38));
}

async function answers(path: RingPath): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "vhostctl-echo-" });
  try {
    const numbers = Array.from({ length: requests }, (_, number) => number);
    const frames = numbers.map((number) =>
      number % stray_period === 0 ? datagram() : echo(8, number, [guest, other], "0a 00 00 01 0a 00 00 02")
    );
    const capture = { read: `${folder}/requests.pcap`, write: `${folder}/replies.pcap` };
    await Deno.writeFile(capture.read, pcapOf(frames));
    const vdev = `eth_vhost0,iface=${folder}/s0`;
    await using forward = await Serve.forward("--forward-mode", "icmpecho", "--vdev", vdev);
    await using testpmd = await Testpmd.start({ sockets: [`${folder}/s0`], path, capture });
    await forward.up(1);
    await testpmd.command("set burst tx delay 10 retry 100000");
    await testpmd.command("set fwd io retry");
    await testpmd.command("start");
    const expected = numbers.filter((number) => number % stray_period !== 0);
    await eventually("every request has its reply", patience_ms, async () => {
      return (await testpmd.counters(1)).tx_packets >= expected.length || undefined;
    });
    await testpmd.stop();
    const replies = framesOf(await Deno.readFile(capture.write));
    assert.equal(replies.length, expected.length);
    replies.forEach((reply, index) => {
      const wanted = echo(0, expected[index]!, [other, guest], "0a 00 00 02 0a 00 00 01");
      assert.deepEqual(withoutSum(reply), withoutSum(wanted));
      assert.equal(sumOf(reply.subarray(34)), 0xffff);
    });
    const report = (await forward.ports()).get("eth_vhost0")!;
    assert.deepEqual(drops(report), {});
    assert.deepEqual([report.from_guest["packets"], report.to_guest["packets"]], [requests, expected.length]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

for (const packed of [false, true]) {
  const path = ring_paths.find((candidate) => candidate.packed === packed)!;
  realTest(`pmd-forward, icmpecho, testpmd, ${path.name}: every echo request of a file is answered`, ["dpdk"], () => {
    return answers(path);
  });
}

/** The forwarding modes in TypeScript make of a frame what the native ones make of it. */

import assert from "node:assert/strict";
import { forwardModes } from "../bench/forward_modes.ts";
import { bytes, cases } from "./forward_cases.ts";
import { joined } from "./hostile_bytes.ts";

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
  const header = bytes(partial);
  const packet = { data: sent.slice(), header };
  assert.equal(forwardModes(own, peer)["csum"]!(packet), true);
  assert.deepEqual(packet.data, arrives);
  assert.deepEqual(header, new Uint8Array(12));
});

// What the table of both has none of: tags, IPv6, fragments, packets that are not what they say, offloads, ARP.

interface Case {
  readonly mode: string;
  readonly what: string;
  /** Behind the MAC addresses, in hexadecimal. */
  readonly sent: string;
  /** Likewise; undefined: it goes nowhere. */
  readonly becomes?: string;
  /** The virtio-net header; by default all zero. */
  readonly header?: string;
  /** By default as it was. */
  readonly headerAfter?: string;
}

const sender = bytes("52 54 00 00 00 01");
const receiver = bytes("52 54 00 00 00 02");
/** Of what the modes make: destination, source. */
const addressed: Record<string, Uint8Array> = {
  "5tswap": joined(sender, receiver),
  csum: joined(peer, own),
  icmpecho: joined(sender, receiver),
};

const plain = "00 00 00 00 00 00 00 00 00 00 00 00";
const there = "0a 00 00 01 0a 00 00 02";
const back = "0a 00 00 02 0a 00 00 01";
const there6 = "20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 fe 80 00 00 00 00 00 00 00 00 00 00 00 00 00 02";
const back6 = "fe 80 00 00 00 00 00 00 00 00 00 00 00 00 00 02 20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01";
const udpThere = "00 01 00 02 00 08 ab cd";
const udpBack = "00 02 00 01 00 08 ab cd";
const behindPorts = "00 00 00 07 00 00 00 09 50 10 01 00 ab cd 00 00";

interface Head {
  readonly length?: string;
  readonly fragment?: string;
  readonly sum?: string;
  readonly addresses?: string;
}

function head4(
  protocol: string,
  { length = "00 1c", fragment = "00 00", sum = "12 34", addresses = there }: Head = {},
) {
  return `08 00 45 00 ${length} 00 01 ${fragment} 40 ${protocol} ${sum} ${addresses}`;
}

const head6 = (protocol: string, length: string, addresses = there6) =>
  `86 dd 60 00 00 00 ${length} ${protocol} 40 ${addresses}`;

const swaps: readonly Omit<Case, "mode">[] = [
  {
    what: "UDP",
    sent: `${head4("11")} ${udpThere}`,
    becomes: `${head4("11", { addresses: back })} ${udpBack}`,
  },
  {
    what: "TCP behind a tag, not to be fragmented",
    sent: `81 00 00 07 ${head4("06", { fragment: "40 00" })} 00 01 00 02 ${behindPorts}`,
    becomes: `81 00 00 07 ${head4("06", { fragment: "40 00", addresses: back })} 00 02 00 01 ${behindPorts}`,
  },
  {
    what: "UDP behind two tags",
    sent: `88 a8 00 07 81 00 00 08 ${head4("11")} ${udpThere}`,
    becomes: `88 a8 00 07 81 00 00 08 ${head4("11", { addresses: back })} ${udpBack}`,
  },
  {
    what: "three tags hide everything",
    sent: `81 00 00 07 81 00 00 08 81 00 00 09 ${head4("11")} ${udpThere}`,
    becomes: `81 00 00 07 81 00 00 08 81 00 00 09 ${head4("11")} ${udpThere}`,
  },
  {
    what: "UDP over IPv6",
    sent: `${head6("11", "00 08")} ${udpThere}`,
    becomes: `${head6("11", "00 08", back6)} ${udpBack}`,
  },
  {
    what: "a first fragment has ports",
    sent: `${head4("11", { fragment: "20 00" })} ${udpThere}`,
    becomes: `${head4("11", { fragment: "20 00", addresses: back })} ${udpBack}`,
  },
  {
    what: "a later fragment has none",
    sent: `${head4("11", { fragment: "20 03" })} ${udpThere}`,
    becomes: `${head4("11", { fragment: "20 03", addresses: back })} ${udpThere}`,
  },
  {
    what: "behind options ports are further back",
    sent: `08 00 46 00 00 20 00 01 00 00 40 11 12 34 ${there} 94 04 00 00 ${udpThere}`,
    becomes: `08 00 46 00 00 20 00 01 00 00 40 11 12 34 ${back} 94 04 00 00 ${udpBack}`,
  },
  {
    what: "whatever length the packet says it has",
    sent: `${head4("06", { length: "00 00" })} 00 01 00 02 ${behindPorts}`,
    becomes: `${head4("06", { length: "00 00", addresses: back })} 00 02 00 01 ${behindPorts}`,
  },
  {
    what: "ICMP has no ports",
    sent: `${head4("01")} ${udpThere}`,
    becomes: `${head4("01", { addresses: back })} ${udpThere}`,
  },
  {
    what: "a header that is longer than the frame is none",
    sent: `08 00 4f 00 00 1c 00 01 00 00 40 11 12 34 ${there} ${udpThere}`,
    becomes: `08 00 4f 00 00 1c 00 01 00 00 40 11 12 34 ${there} ${udpThere}`,
  },
  {
    what: "ports that are cut off stay",
    sent: `${head4("11")} 00 01 00`,
    becomes: `${head4("11", { addresses: back })} 00 01 00`,
  },
  {
    what: "addresses that are cut off stay",
    sent: head4("11").slice(0, -3),
    becomes: head4("11").slice(0, -3),
  },
  {
    what: "addresses of IPv6 that are cut off stay",
    sent: head6("11", "00 08").slice(0, -3),
    becomes: head6("11", "00 08").slice(0, -3),
  },
  {
    what: "what is not IP has no addresses",
    sent: `88 b5 45 00 ${there} ${udpThere}`,
    becomes: `88 b5 45 00 ${there} ${udpThere}`,
  },
];

const datagram = (sum: string) => `00 01 00 02 00 0c ${sum} de ad be ef`;
const segment = (sum: string) => `00 01 00 02 00 00 00 07 00 00 00 09 50 10 01 00 ${sum} 00 00 ca fe ba be`;
const udp4 = (sum: string) => head4("11", { length: "00 20", sum });
const tcp4 = (sum: string) => head4("06", { length: "00 2c", fragment: "40 00", sum });
/** To be put in at 34 + 6, as it is for UDP behind a plain IPv4 header. */
const partial = "01 00 00 00 00 00 22 00 06 00 00 00";
/** The same, of a packet that is within this one. */
const tunneled = "01 00 00 00 00 00 26 00 06 00 00 00";
const gso = "01 01 36 00 b4 05 22 00 10 00 00 00";

const sums: readonly Omit<Case, "mode">[] = [
  { what: "UDP", sent: `${udp4("12 34")} ${datagram("12 34")}`, becomes: `${udp4("66 ca")} ${datagram("4e 33")}` },
  { what: "TCP", sent: `${tcp4("12 34")} ${segment("12 34")}`, becomes: `${tcp4("26 c9")} ${segment("14 fe")}` },
  {
    what: "UDP of an odd length, and padding behind it that does not count",
    sent: `${head4("11", { length: "00 1f" })} 00 01 00 02 00 0b 12 34 de ad be ff ff`,
    becomes: `${head4("11", { length: "00 1f", sum: "66 cb" })} 00 01 00 02 00 0b 4f 24 de ad be ff ff`,
  },
  {
    what: "UDP over IPv6 behind a tag",
    sent: `81 00 00 07 ${head6("11", "00 0c")} ${datagram("12 34")}`,
    becomes: `81 00 00 07 ${head6("11", "00 0c")} ${datagram("35 f9")}`,
  },
  {
    what: "TCP over IPv6",
    sent: `${head6("06", "00 18")} ${segment("12 34")}`,
    becomes: `${head6("06", "00 18")} ${segment("fc c3")}`,
  },
  {
    what: "a sum of UDP that comes out as 0 is written as its other self: 0 stands for none",
    sent: `${head4("11", { length: "00 1e" })} 00 01 00 02 00 0a 12 34 eb d4`,
    becomes: `${head4("11", { length: "00 1e", sum: "66 cc" })} 00 01 00 02 00 0a ff ff eb d4`,
  },
  {
    what: "UDP behind options",
    sent: `08 00 46 00 00 24 00 01 00 00 40 11 12 34 ${there} 94 04 00 00 ${datagram("12 34")}`,
    becomes: `08 00 46 00 00 24 00 01 00 00 40 11 d1 c1 ${there} 94 04 00 00 ${datagram("4e 33")}`,
  },
  {
    what: "UDP without a checksum stays without",
    sent: `${udp4("12 34")} ${datagram("00 00")}`,
    becomes: `${udp4("66 ca")} ${datagram("00 00")}`,
  },
  {
    what: "unless its sender left it to others",
    sent: `${udp4("12 34")} ${datagram("00 00")}`,
    becomes: `${udp4("66 ca")} ${datagram("4e 33")}`,
    header: partial,
    headerAfter: plain,
  },
  {
    what: "what is left to others of a packet within this one, is left",
    sent: `${udp4("12 34")} ${datagram("12 34")}`,
    becomes: `${udp4("66 ca")} ${datagram("12 34")}`,
    header: tunneled,
  },
  {
    what: "segments get theirs when they are cut",
    sent: `${tcp4("12 34")} ${segment("12 34")}`,
    becomes: `${tcp4("26 c9")} ${segment("12 34")}`,
    header: gso,
  },
  {
    what: "a fragment has one of its IP header alone",
    sent: `${head4("11", { length: "00 20", fragment: "20 00" })} ${datagram("12 34")}`,
    becomes: `${head4("11", { length: "00 20", fragment: "20 00", sum: "46 ca" })} ${datagram("12 34")}`,
  },
  {
    what: "half a TCP header has none",
    sent: `${head4("06", { fragment: "40 00" })} 00 01 00 02 ${behindPorts}`,
    becomes: `${head4("06", { fragment: "40 00", sum: "26 d9" })} 00 01 00 02 ${behindPorts}`,
  },
  {
    what: "what is cut off cannot be summed up",
    sent: `${tcp4("12 34")} 00 01 00 02 ${behindPorts}`,
    becomes: `${tcp4("26 c9")} 00 01 00 02 ${behindPorts}`,
  },
  {
    what: "a header that is longer than the frame is none",
    sent: `08 00 4f 00 00 1c 00 01 00 00 40 11 12 34 ${there} ${udpThere}`,
    becomes: `08 00 4f 00 00 1c 00 01 00 00 40 11 12 34 ${there} ${udpThere}`,
  },
];

const asks = "52 54 00 00 00 01 0a 00 00 01 00 00 00 00 00 00 0a 00 00 09";
const told = "56 48 4f 53 54 01 0a 00 00 09 52 54 00 00 00 01 0a 00 00 01";

const answers: readonly Omit<Case, "mode">[] = [
  {
    what: "an echo request",
    sent: `${head4("01")} 08 00 f0 ff 00 01 06 ff`,
    becomes: `${head4("01", { addresses: back })} 00 00 f8 ff 00 01 06 ff`,
  },
  {
    what: "one whose sum carries",
    sent: `${head4("01")} 08 00 f7 fd 00 01 00 01`,
    becomes: `${head4("01", { addresses: back })} 00 00 ff fd 00 01 00 01`,
  },
  {
    what: "one of nothing but zeros, whose sum is not 0 but its other self",
    sent: `${head4("01")} 08 00 f7 ff 00 00 00 00`,
    becomes: `${head4("01", { addresses: back })} 00 00 ff ff 00 00 00 00`,
  },
  { what: "no echo reply", sent: `${head4("01")} 00 00 f8 ff 00 01 06 ff` },
  { what: "no other code", sent: `${head4("01")} 08 01 f0 fe 00 01 06 ff` },
  { what: "no fragment", sent: `${head4("01", { fragment: "20 00" })} 08 00 f0 ff 00 01 06 ff` },
  { what: "no half request", sent: `${head4("01")} 08 00 f0 ff` },
  { what: "nothing of IPv6 that has ICMP's number", sent: `${head6("01", "00 08")} 08 00 f0 ff 00 01 06 ff` },
  { what: "no UDP", sent: `${head4("11")} ${udpThere}` },
  { what: "nothing that is not IP", sent: `88 b5 45 00 ${there} ${udpThere}` },
  {
    what: "an ARP request, whoever's address it is for",
    sent: `08 06 00 01 08 00 06 04 00 01 ${asks}`,
    becomes: `08 06 00 01 08 00 06 04 00 02 ${told}`,
  },
  { what: "no ARP reply", sent: `08 06 00 01 08 00 06 04 00 02 ${asks}` },
  { what: "no ARP for other than Ethernet and IPv4", sent: `08 06 00 06 08 00 06 04 00 01 ${asks}` },
  { what: "no half ARP request", sent: `08 06 00 01 08 00 06 04 00 01 52 54 00 00 00 01` },
];

/** RFC 826: the reply goes out with the address that it tells of. */
function ethernetOf(mode: string, becomes: string): Uint8Array {
  return becomes.startsWith("08 06") ? joined(sender, own) : addressed[mode]!;
}

const byMode = { "5tswap": swaps, csum: sums, icmpecho: answers };
const others: readonly Case[] = Object.entries(byMode).flatMap(([mode, list]) => list.map((one) => ({ mode, ...one })));

for (const { mode, what, sent, becomes, header = plain, headerAfter = header } of others) {
  const frame = joined(receiver, sender, bytes(sent));
  Deno.test(`TypeScript, ${mode}: ${what}`, () => {
    const packet = { data: frame.slice(), header: bytes(header) };
    assert.equal(forwardModes(own, peer)[mode]!(packet), becomes !== undefined);
    const expected = becomes === undefined ? frame : joined(ethernetOf(mode, becomes), bytes(becomes));
    assert.deepEqual(packet.data, expected);
    assert.deepEqual(packet.header, bytes(headerAfter));
  });
}

Deno.test("TypeScript: no mode minds where a frame is cut off", () => {
  for (const mode of Object.values(forwardModes(own, peer))) {
    for (const { sent, header = plain } of others) {
      const whole = joined(receiver, sender, bytes(sent));
      for (let length = 14; length < whole.length; length++) {
        const data = whole.slice(0, length);
        mode({ data, header: bytes(header) });
        assert.equal(data.length, length);
      }
    }
  }
});

/** Whether words sum up to 0xffff, told in another way than RFC 1071's: 65535 divides the number that they are. */
function sumsUp(hex: string): boolean {
  const digits = hex.replaceAll(" ", "");
  return BigInt(`0x${digits}${digits.length % 4 === 0 ? "" : "00"}`) % 0xffffn === 0n;
}

Deno.test("TypeScript, csum and icmpecho: what these tests say is right sums up", () => {
  const typeBytes = "08 00 ".length;
  const { becomes: options } = sums.find(({ what }) => what.includes("options"))!;
  for (
    const words of [
      udp4("66 ca").slice(typeBytes),
      tcp4("26 c9").slice(typeBytes),
      head4("11", { length: "00 1f", sum: "66 cb" }).slice(typeBytes),
      head4("11", { length: "00 1e", sum: "66 cc" }).slice(typeBytes),
      head4("11", { length: "00 20", fragment: "20 00", sum: "46 ca" }).slice(typeBytes),
      head4("06", { fragment: "40 00", sum: "26 d9" }).slice(typeBytes),
      options!.slice(typeBytes, typeBytes + 3 * 24),
      `${there} 00 11 00 0c ${datagram("4e 33")}`,
      `${there} 00 06 00 18 ${segment("14 fe")}`,
      `${there} 00 11 00 0b 00 01 00 02 00 0b 4f 24 de ad be`,
      `${there} 00 11 00 0a 00 01 00 02 00 0a ff ff eb d4`,
      `${there6} 00 11 00 0c ${datagram("35 f9")}`,
      `${there6} 00 06 00 18 ${segment("fc c3")}`,
      "00 00 f8 ff 00 01 06 ff",
      "00 00 ff fd 00 01 00 01",
      "00 00 ff ff 00 00 00 00",
    ]
  ) assert(sumsUp(words), words);
});

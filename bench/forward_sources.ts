/**
 * Packets of our own in TypeScript, as testpmd's txonly and flowgen make them.
 *
 * @module
 */
import type { Packets } from "../mod.ts";
import { finish, sum } from "./forward_modes.ts";

const headersBytes = 42;
const flows = 1024;

/** Adds packets until there is room for none. */
export type Source = (packets: Packets) => void;

/** Ethernet, IPv4 and UDP without a checksum, in a packet of so many bytes. */
function headers(own: Uint8Array, peer: Uint8Array, bytes: number, ports: readonly [number, number]): Uint8Array {
  const header = new Uint8Array(headersBytes);
  header.set(peer, 0);
  header.set(own, 6);
  header.set([0x08, 0x00, 0x45], 12);
  header.set([64, 17], 22);
  const view = new DataView(header.buffer);
  view.setUint16(16, bytes - 14);
  ports.forEach((port, index) => view.setUint16(34 + 2 * index, port));
  view.setUint16(38, bytes - 34);
  return header;
}

/** The sources of a port with this address, which sends to that one; both as six bytes. */
export function forwardSources(own: Uint8Array, peer: Uint8Array, bytes: number): Record<string, Source> {
  const source = (ports: readonly [number, number], addresses: (flow: number) => readonly [number, number]): Source => {
    const header = headers(own, peer, bytes, ports);
    const view = new DataView(header.buffer);
    let flow = 0;
    return (packets) => {
      while (packets.count < packets.capacity) {
        addresses(flow).forEach((address, index) => view.setUint32(26 + 4 * index, address));
        view.setUint16(24, 0);
        view.setUint16(24, finish(sum(header, 14, 20)));
        const data = packets.append(bytes);
        data.set(header);
        data.fill(0, headersBytes);
        flow = (flow + 1) % flows;
      }
    };
  };
  return {
    txonly: source([9, 9], () => [0xc612_0001, 0xc612_0002]),
    flowgen: source([1000, 1001], (flow) => [0x0afe_0000, 0x0afd_0000 + flow]),
  };
}

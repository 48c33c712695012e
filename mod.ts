/**
 * vhostctl as a library: vhost-user ports, the switch between them, and the protocol on both of its sides.
 *
 * An `Engine` moves packets in native threads, a `Pump` moves messages, a `Backend` joins one connection of the pump to
 * one port of the engine. Two guests that connect to these sockets can talk to each other:
 *
 * ```ts
 * import { Backend, type Channel, Engine, makeOffer, Pump } from "./mod.ts";
 *
 * await using engine = Engine.open();
 * engine.addWorker();
 * await using pump = Pump.open();
 * const offer = makeOffer({ queuePairs: 2 });
 * const directory = await Deno.makeTempDir();
 *
 * for (const name of ["a", "b"]) {
 *   const port = engine.openPort({ queuePairs: offer.queuePairs });
 *   const listener = {
 *     started: () => console.log(`${name}: started`),
 *     stopped: () => console.log(`${name}: stopped`),
 *     refused: (reason: string) => console.log(`${name}: ${reason}`),
 *     closed: (reason: string) => console.log(`${name}: ${reason}`, port.stats("fromGuest").packets),
 *   };
 *   const accept = (channel: Channel) => void new Backend({ channel, dataplane: port, offer, listener });
 *   pump.listen(`${directory}/${name}.sock`, { accept });
 * }
 * setTimeout(() => pump[Symbol.asyncDispose](), 100);
 * await pump.run();
 * await Deno.remove(directory, { recursive: true });
 * ```
 *
 * A port serves one front end at a time: a `PortServer` turns a second one away, and connects again.
 *
 * For a program that moves the packets itself, `EthDev` is such a socket as an Ethernet device, after DPDK's ethdev.
 * What the guest behind either of these two sends goes to the other:
 *
 * ```ts
 * import { EthDev, Packets } from "./mod.ts";
 *
 * const directory = await Deno.makeTempDir();
 * const [a, b] = [EthDev.create(`eth_vhost0,iface=${directory}/a`), EthDev.create(`eth_vhost1,iface=${directory}/b`)];
 * for (const device of [a, b]) {
 *   device.configure();
 *   device.rxQueueSetup(0);
 *   device.txQueueSetup(0);
 *   device.start();
 * }
 * setTimeout(() => a.stop(), 100);
 * const packets = new Packets({ capacity: 32 });
 * while (await EthDev.rxReady(a, b)) {
 *   for (const [from, to] of [[a, b], [b, a]] as const) {
 *     if (from.rxBurst(0, packets) > 0) to.txBurst(0, packets);
 *   }
 * }
 * for (const device of [a, b]) await device.close();
 * await Deno.remove(directory, { recursive: true });
 * ```
 *
 * `Packets` has its memory from its first moment on. `rxBurst` copies frames out of the guest into it, where
 * `packets.data(i)` are their bytes, to be read and changed, and `txBurst` copies them into the other guest; the
 * buffers that a burst took are the guest's again when it returns. What `txBurst` leaves in `packets` found no buffer
 * or no guest, and the next `rxBurst` drops it. Whoever polls must await `rxReady` each time, because guests connect
 * and timers fire only then; without traffic it sleeps until a guest kicks.
 *
 * @module
 */
export type { SocketChannel } from "./ffi/channel.ts";
export * from "./ffi/engine.ts";
export * from "./ffi/fd.ts";
export * from "./ffi/guest.ts";
export * from "./ffi/guest_transfer.ts";
export { loadLibrary, VringError } from "./ffi/library.ts";
export { linkBytes } from "./ffi/link.ts";
export * from "./ffi/machine.ts";
export * from "./ffi/tracer.ts";
export { Packets, type PacketsOptions } from "./ffi/packets.ts";
export {
  type Addresses,
  benchmarkAddresses,
  type Direction,
  type Lane,
  type LaneMode,
  type LogPart,
  type Port,
  type VringState,
  type VringStats,
} from "./ffi/port.ts";
export * from "./ffi/post_copy.ts";
export * from "./ffi/pump.ts";
export * from "./ffi/uplink.ts";
export * from "./pmd/devargs.ts";
export * from "./pmd/driver_server.ts";
export * from "./pmd/eth_dev.ts";
export * from "./pmd/eth_info.ts";
export { linkWithheld } from "./pmd/link_dataplane.ts";
export * from "./pmd/link_event.ts";
export { LinkServer, type LinkServerParts } from "./pmd/link_server.ts";
export * from "./pmd/parcel.ts";
export * from "./pmd/port_event.ts";
export * from "./pmd/port_life.ts";
export { KeptState, type StateFailure } from "./pmd/kept_state.ts";
export * from "./pmd/port_plan.ts";
export * from "./pmd/port_sample.ts";
export { pauseAfter, PortServer, type PortServerParts, type PortService } from "./pmd/port_server.ts";
export * from "./pmd/port_service.ts";
export { PciError } from "./pmd/vhost_pci_server.ts";
export * from "./pmd/xstats.ts";
export * from "./vhost/backend.ts";
export * from "./vhost/channel.ts";
export type { Dataplane, Region, VringConfig, VringFd } from "./vhost/dataplane.ts";
export * from "./vhost/error.ts";
export { Fd } from "./vhost/fd.ts";
export * from "./vhost/frontend.ts";
export type { Inflight } from "./vhost/inflight.ts";
export * from "./vhost/offer.ts";
export { type Json, listOf, number, rowOf } from "./vhost/session_snapshot.ts";
export {
  type FeatureName,
  featureNames,
  featureSet,
  hasFeature,
  hasProtocolFeature,
  type ProtocolFeatureName,
} from "./vhost/spec.ts";

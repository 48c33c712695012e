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
 * @module
 */
export * from "./ffi/engine.ts";
export * from "./ffi/fd.ts";
export * from "./ffi/guest.ts";
export { VringError } from "./ffi/library.ts";
export * from "./ffi/machine.ts";
export * from "./ffi/packets.ts";
export { type Direction, type Lane, type LaneMode, type Port, type VringState, type VringStats } from "./ffi/port.ts";
export * from "./ffi/pump.ts";
export * from "./pmd/devargs.ts";
export * from "./pmd/eth_dev.ts";
export * from "./pmd/eth_info.ts";
export * from "./pmd/port_event.ts";
export * from "./pmd/port_plan.ts";
export * from "./pmd/port_sample.ts";
export * from "./pmd/port_server.ts";
export * from "./pmd/xstats.ts";
export * from "./vhost/backend.ts";
export * from "./vhost/channel.ts";
export type { Dataplane, Region, VringConfig, VringFd } from "./vhost/dataplane.ts";
export * from "./vhost/error.ts";
export { Fd } from "./vhost/fd.ts";
export * from "./vhost/frontend.ts";
export * from "./vhost/offer.ts";
export {
  type FeatureName,
  featureNames,
  featureSet,
  hasFeature,
  hasProtocolFeature,
  type ProtocolFeatureName,
} from "./vhost/spec.ts";

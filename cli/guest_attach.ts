/**
 * A simulated guest attached to a back end, as QEMU would attach it.
 *
 * @module
 */
import {
  type Channel,
  type FeatureName,
  featureNames,
  featureSet,
  Frontend,
  Guest,
  type GuestOptions,
  hasFeature,
  openMemoryFile,
  type Pump,
  VringError,
} from "../mod.ts";
import type { Ring, Taking, Variant } from "./bench_result.ts";
import { CommandError } from "./error.ts";
import { logBytes, setLogging } from "./guest_log.ts";
import { pause } from "./pause.ts";

export interface AttachOptions {
  readonly socket: string;
  readonly ring: Ring;
  readonly variant?: Variant | undefined;
  readonly ringSize: number;
  readonly queues: number;
  /** The longest frame, to be sent and to be received, in bytes. */
  readonly frameBytes: number;
  /** Leaves frames to be cut to others, and takes so much of that; neither, if undefined. */
  readonly offload?: Taking | undefined;
  /** As if it migrated: what is written to it is marked in a dirty log, which nobody reads. */
  readonly logs?: boolean | undefined;
}

/** A guest whose rings run, and its connection, which ends them. */
export interface AttachedGuest extends AsyncDisposable {
  readonly guest: Guest;
  readonly frontend: Frontend;
}

/** Nobody listens any more, or not yet: a back end that starts is waited for. */
const notListening = [2, 111];
const patience_ms = 5000;
const retry_ms = 20;

/** Frames lie in one buffer each up to this size, beyond in several of a page. */
const smallBuffer = 2048;
const pageBuffer = 4096;
/** virtio_net_hdr_v1 (virtio 5.1.6). */
const headerBytes = 12;
/** So many frames, at least, fit into the buffers of a ring. */
const framesMin = 4;

/** Receive buffers of a size with which frames of this size can be received, headers included. */
export function bufferBytes(
  { frameBytes, ringSize, variant }: Pick<AttachOptions, "frameBytes" | "ringSize" | "variant">,
): number {
  const whole = headerBytes + frameBytes;
  if (whole <= smallBuffer) return smallBuffer;
  if (variant === "no-mrg") return whole;
  const perFrame = Math.max(1, Math.floor(ringSize / framesMin));
  return Math.min(whole, Math.max(pageBuffer, Math.ceil(whole / perFrame)));
}

/** Connects to a back end; one that is about to start is waited for. */
export async function connect(pump: Pump, socket: string): Promise<Channel> {
  const deadline = Date.now() + patience_ms;
  for (;;) {
    try {
      return pump.connect(socket);
    } catch (reason) {
      const retry = reason instanceof VringError && notListening.includes(reason.errno) && Date.now() < deadline;
      if (!retry) throw reason;
    }
    await pause(retry_ms);
  }
}

const takenFeatures: Record<Taking, readonly FeatureName[]> = {
  all: ["GUEST_CSUM", "GUEST_USO4", "GUEST_USO6"],
  checksums: ["GUEST_CSUM"],
  nothing: [],
};

/** What this guest's driver takes of what is on offer: what Linux has, without interrupt coalescing. */
function chooseFeatures(offered: bigint, { ring, variant, queues, offload }: AttachOptions): bigint {
  const needed = featureSet([
    "VERSION_1",
    ...variant === "no-mrg" ? [] : ["MRG_RXBUF" as const],
    ...variant === "in-order" ? ["IN_ORDER" as const] : [],
    ...ring === "packed" ? ["RING_PACKED" as const] : [],
    ...queues > 1 ? ["MQ" as const] : [],
    ...offload === undefined ? [] : ["CSUM", "HOST_USO", ...takenFeatures[offload]] as const,
  ]);
  const missing = needed & ~offered;
  if (missing !== 0n) throw new CommandError(`it does not offer ${featureNames(missing).join(", ")}`);
  return needed | offered & featureSet(["EVENT_IDX", "INDIRECT_DESC", "PROTOCOL_FEATURES"]);
}

/** As at the start of a migration. */
async function log(frontend: Frontend, guest: Guest, features: bigint): Promise<void> {
  const size = logBytes(guest);
  using file = openMemoryFile(size);
  await frontend.request("SET_LOG_BASE", { size, offset: 0n }, [file.number]);
  await setLogging(frontend, guest, features, true);
}

/** Opens a guest for a back end and starts its rings. */
async function introduce(frontend: Frontend, options: AttachOptions): Promise<Guest> {
  await frontend.handshake();
  const { queues, ringSize, frameBytes } = options;
  const features = chooseFeatures(frontend.features, options);
  if (frontend.queuePairs < queues) throw new CommandError(`it has ${frontend.queuePairs} queue pairs, not ${queues}`);
  const shape: GuestOptions = { features, queuePairs: queues, ringSize, frameBytesMax: frameBytes };
  const guest = Guest.open({ ...shape, bufferBytes: bufferBytes(options) });
  try {
    const acknowledged = hasFeature(frontend.features, "PROTOCOL_FEATURES");
    await frontend.setFeatures(features);
    await frontend.setMemory(guest.regions, guest.regions.map(() => guest.memoryFd));
    const rings = Array.from({ length: 2 * queues }, (_, index) => index);
    for (const index of rings) await frontend.startVring(index, guest.vring(index));
    // Without protocol features rings are enabled from the start (vhost-user, Ring states).
    if (acknowledged) { for (const index of rings) await frontend.enableVring(index, true); }
    await frontend.driverOk();
    if (options.logs === true) await log(frontend, guest, features);
    return guest;
  } catch (reason) {
    await guest.close();
    throw reason;
  }
}

/** Attaches a guest. Throws a `CommandError` that names the socket. The pump must run. */
export async function attach(pump: Pump, options: AttachOptions): Promise<AttachedGuest> {
  let frontend: Frontend | undefined;
  try {
    frontend = new Frontend(await connect(pump, options.socket));
    const guest = await introduce(frontend, options);
    const connection = frontend;
    return {
      guest,
      frontend: connection,
      async [Symbol.asyncDispose]() {
        connection.close();
        await guest.close();
      },
    };
  } catch (reason) {
    frontend?.close();
    throw new CommandError(`cannot attach a guest: ${options.socket}: ${(reason as Error).message}`);
  }
}

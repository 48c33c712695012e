/**
 * A rehearsal of what `serve` does when a front end comes, so that it is quick when it matters: the runtime compiles a
 * function when it is first called, and that takes longer than to run it.
 *
 * @module
 */
import { Pump } from "../mod.ts";
import type { Ring } from "./bench_result.ts";
import { attach } from "./guest_attach.ts";
import { planPorts } from "./port_option.ts";
import type { ServePlan } from "./serve_options.ts";
import { SwitchServer } from "./switch_server.ts";

const rounds = 3;
const guest = { ringSize: 256, queues: 1, frameBytes: 1514 } as const;

/** Serves a guest of our own, in a folder of its own, which is gone afterwards. Throws what serving throws. */
export async function rehearse(): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "vhostctl-rehearsal-" });
  try {
    const plan = planOf(directory);
    for (let round = 0; round < rounds; round++) {
      for (const ring of ["split", "packed"] as const) await serveOnce(plan, ring);
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

function planOf(directory: string): ServePlan {
  const defaults = { directory, queuePairs: guest.queues, workingDirectory: directory, stateDirectory: undefined };
  const ports = planPorts([{}], defaults);
  return { ports, directory, socketMode: 0o600, workers: [undefined], idle: "sleep" };
}

async function serveOnce(plan: ServePlan, ring: Ring): Promise<void> {
  await using server = await SwitchServer.open(plan, () => {});
  const serving = server.run();
  await using pump = Pump.open();
  const running = pump.run();
  const { socket } = plan.ports[0]!;
  await using attaching = new AsyncDisposableStack();
  const attached = async () => void attaching.use(await attach(pump, { ...guest, socket, ring }));
  await Promise.race([attached(), serving, running]);
}

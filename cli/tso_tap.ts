/**
 * The same packets out of a tap and through a bridge of Linux's, in a network of their own: what must arrive at a
 * second tap, which takes nothing, is what Linux makes of them.
 *
 * @module
 */
import { makeOffer } from "../mod.ts";
import { ownProgram } from "./json_process.ts";
import { planPorts } from "./port_option.ts";
import type { Arrival } from "./segment_model.ts";
import { SwitchServer } from "./switch_server.ts";
import { runPairings } from "./tso_pairings.ts";
import type { Pairing, Receiver } from "./tso_result.ts";
import { dropsText, type Exchange, exchange, introduce, tapMtu, TestGuest, type TestRig } from "./tso_rig.ts";

/** What is behind the second tap. */
export const behindTap: Receiver = { ring: "tap", mergeable: true, takes: "nothing" };

const names = { uplink: "vhostctl0", receiver: "vhostctl1" } as const;
/** Nothing but our frames is to pass, and none of them past filters. */
const bridge = `
for name in ${names.uplink} ${names.receiver}; do ip link set $name mtu ${tapMtu} master vhostctl; done
for table in ip ip6 arp; do echo 0 >/proc/sys/net/bridge/bridge-nf-call-$table""tables; done 2>/dev/null || true
ip link set vhostctl up`;
const before = `
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add vhostctl type bridge mcast_snooping 0`;

async function shell(script: string): Promise<void> {
  const { code, stderr } = await new Deno.Command("sh", { args: ["-ec", script], stdin: "null" }).output();
  if (code !== 0) throw new Error(new TextDecoder().decode(stderr).trim().split("\n").at(-1));
}

/** A guest on a switch that leads to a tap, which is bridged to another. */
class TapRig implements TestRig {
  readonly #stack: AsyncDisposableStack;
  readonly #server: SwitchServer;
  readonly #sender: TestGuest;
  readonly #receiver: TestGuest;

  private constructor(stack: AsyncDisposableStack, server: SwitchServer, sender: TestGuest, receiver: TestGuest) {
    this.#stack = stack;
    this.#server = server;
    this.#sender = sender;
    this.#receiver = receiver;
  }

  static async open(): Promise<TapRig> {
    await using stack = new AsyncDisposableStack();
    const directory = await Deno.makeTempDir({ prefix: "vhostctl-tso-" });
    stack.defer(() => Deno.remove(directory, { recursive: true }));
    await shell(before);
    const [port] = planPorts([{ name: "sender" }], {
      directory,
      queuePairs: 1,
      workingDirectory: "/",
      stateDirectory: "none",
    });
    const uplink = { kind: "tap", interface: names.uplink, mtu: tapMtu } as const;
    const ports = [port!, { ...port!, name: "uplink", socket: "", offer: makeOffer(), uplink }];
    const plan = { ports, directory, socketMode: 0o600, workers: [undefined], idle: "adaptive" } as const;
    const server = stack.use(await SwitchServer.open(plan, () => {}));
    void server.run();
    const receiver = stack.use(TestGuest.behindTap(names.receiver));
    await shell(bridge);
    const sender = stack.use(
      await TestGuest.attach(port!.socket, { ring: "split", mergeable: true, takes: "all" }),
    );
    return new TapRig(stack.move(), server, sender, receiver);
  }

  attach(): Promise<void> {
    return introduce(this.#sender, this.#receiver);
  }

  exchange(frames: readonly Arrival[]): Promise<Exchange> {
    return exchange(this.#sender, this.#receiver, frames);
  }

  drops(): string {
    return dropsText(this.#server);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
  }
}

/** In a network of its own: prints the pairings, or why there are none. */
export async function testBehindTap(): Promise<void> {
  const stop = new AbortController().signal;
  let result: { pairings: readonly Pairing[]; reason?: string };
  try {
    const pairings = await runPairings({ receivers: [behindTap], stop, progress() {}, open: () => TapRig.open() });
    result = { pairings };
  } catch (error) {
    result = { pairings: [], reason: (error as Error).message };
  }
  console.log(JSON.stringify(result));
}

/** Makes that network, and tests in it. Never throws. */
export async function pairingsBehindTap(
  stop: AbortSignal,
): Promise<{ readonly pairings: readonly Pairing[]; readonly reason?: string }> {
  if (stop.aborted) return { pairings: [], reason: "interrupted" };
  const flags = Deno.uid() === 0 ? "-n" : "-rUn";
  try {
    const args = [flags, ownProgram(), "tso-test", "--behind-tap"];
    const command = new Deno.Command("unshare", { args, stdin: "null", signal: stop });
    const { code, stdout, stderr } = await command.output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
    if (code === 0) return JSON.parse(text(stdout));
    return { pairings: [], reason: text(stderr).split("\n").at(-1) ?? `exit code ${code}` };
  } catch (error) {
    return { pairings: [], reason: stop.aborted ? "interrupted" : (error as Error).message };
  }
}

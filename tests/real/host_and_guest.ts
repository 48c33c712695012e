// A Linux guest under stock QEMU on a port of `serve`, and the host beyond an uplink.

import { type GuestOptions, LinuxGuest } from "./guest.ts";
import { writeInitramfs } from "./initramfs.ts";
import { Folder } from "./linux_folder.ts";
import { NetworkNamespace } from "./namespace.ts";
import { Program } from "./process.ts";
import { Serve } from "./serve.ts";
import { around, type Direction, meanBytes, receivedText, transfer_timeout_ms } from "./transfer.ts";

const traffic_timeout_ms = 20_000;
const guest_address = "10.0.0.1";
export const host_address = "10.0.0.254";

interface HostOptions {
  readonly guest?: Partial<GuestOptions>;
  /** What is there before `serve`: a line of shell. */
  readonly setup?: string;
  readonly uplink?: string;
  /** The host's interface. */
  readonly host?: string;
}

/** One guest on a port of `serve`, and the host at the other end of an uplink, in a network of its own. */
export class HostAndGuest implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly network: NetworkNamespace;
  readonly serve: Serve;
  readonly guest: LinuxGuest;

  private constructor(stack: AsyncDisposableStack, network: NetworkNamespace, serve: Serve, guest: LinuxGuest) {
    this.#stack = stack;
    this.network = network;
    this.serve = serve;
    this.guest = guest;
  }

  static async start(options: HostOptions = {}): Promise<HostAndGuest> {
    const { guest: guestOptions, setup = "true", uplink = "tap:up0", host = "up0" } = options;
    await using stack = new AsyncDisposableStack();
    const folder = stack.use(new Folder());
    await writeInitramfs(folder.initramfs);
    const network = stack.use(await NetworkNamespace.make());
    await network.run(setup);
    const serve = stack.use(
      await Serve.startBehind(network.prefix, "--ports", "1", "--dir", folder.path, "--uplink", uplink),
    );
    await network.run(`ip addr add ${host_address}/24 dev ${host}`);
    const [program, ...args] = [...network.prefix, "iperf3", "-s", "--forceflush"];
    const iperf = stack.use(new Program(program!, args));
    await iperf.until(/Server listening/, traffic_timeout_ms);
    const guest = stack.use(await LinuxGuest.boot(folder.guest(0, guestOptions)));
    await guest.setAddress(`${guest_address}/24`);
    await guest.reach(host_address, traffic_timeout_ms);
    return new HostAndGuest(stack.move(), network, serve, guest);
  }

  /** What iperf3 has to say of one way, and the bytes of a mean packet of it. */
  async measure(direction: Direction, what: string): Promise<number> {
    const options = direction === "from_guest" ? "" : "-R";
    const [before, after] = await around(this.serve, "port0", async () => {
      const text = await this.guest.run(`iperf3 -c ${host_address} -t 2 ${options}`, transfer_timeout_ms);
      console.error(`${direction}, ${what}: ${receivedText(text)}`);
    });
    return meanBytes(direction, before, after);
  }

  async close(): Promise<void> {
    await this.guest.close();
    await this.serve.finish();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
  }
}

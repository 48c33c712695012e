// A virtual machine with a small Linux under stock QEMU, whose only network device is a vhost-user port of ours.
// Commands are run in it over a serial port of their own, so that the network may come and go.

import { Qmp } from "../../cli/qmp.ts";
import { kernelFile } from "./kernel.ts";
import { findProgram, qemu_command } from "./peers.ts";
import { eventually, Program, within } from "./process.ts";

export interface GuestOptions {
  /** The vhost-user socket. Without one the guest has QEMU's own user network. */
  readonly socket?: string;
  /** A chardev of QEMU's that listens (`server=on`) instead of connecting. */
  readonly listen?: boolean;
  readonly queues?: number;
  readonly packed?: boolean;
  readonly in_order?: boolean;
  readonly mac?: string;
  /** More properties of the device, as QEMU takes them. */
  readonly device?: string;
  readonly memory_mib?: number;
  readonly cpus?: number;
  /** false gives the guest memory that nobody else can see, which is what a forgotten share=on does. */
  readonly share?: boolean;
  /** Waits for a guest that comes by migration, where it is told to listen. */
  readonly incoming?: boolean;
  /** Where its memory lies, by the same name for the next guest, too; else in a file without one. */
  readonly memory_file?: string;
  /** More arguments of QEMU's. */
  readonly more?: readonly string[];
  /** Events that QEMU is to tell of in its log. */
  readonly trace?: string;
  /** Where to put QEMU's control sockets. */
  readonly folder: string;
  readonly initramfs: string;
}

export interface Answer {
  readonly status: number;
  readonly output: string;
}

// Linux 7.2 with four queues and a file of 100 MB in memory has not enough of 256.
const memory_mib_default = 512;
// TCG on a shared machine is slow, and a command may be a 100 MB transfer.
const boot_timeout_ms = 60_000;
const command_timeout_ms = 60_000;
const qmp_timeout_ms = 20_000;

export class LinuxGuest implements AsyncDisposable {
  readonly options: GuestOptions;
  readonly #program: Program;
  readonly #serial: SerialPort;
  readonly #qmp: Qmp;
  /** A QMP socket that nobody is connected to. */
  readonly freeQmp: string;
  #command = 0;
  #closed = false;

  private constructor(options: GuestOptions, control: string, program: Program, serial: SerialPort, qmp: Qmp) {
    this.options = options;
    this.freeQmp = `${control}/free`;
    this.#program = program;
    this.#serial = serial;
    this.#qmp = qmp;
  }

  /**
   * Starts QEMU and waits until the guest takes commands. Once in some hundred times one with several CPUs, emulated by
   * threads, stands still while it boots: then it is told, and tried once more.
   */
  static async boot(options: GuestOptions): Promise<LinuxGuest> {
    try {
      return await LinuxGuest.#boot(options);
    } catch (reason) {
      console.error(`${(reason as Error).message}, and is started again: ${(reason as Error).cause}`);
      return await LinuxGuest.#boot(options);
    }
  }

  static async #boot(options: GuestOptions): Promise<LinuxGuest> {
    const control = Deno.makeTempDirSync({ dir: options.folder, prefix: "guest-" });
    const program = new Program(qemu_command, await qemuArguments(options, control));
    try {
      const serial = await SerialPort.open(`${control}/serial`, program);
      // While QEMU waits for a back end it greets nobody.
      const qmp = await eventually("QEMU's QMP socket greets", boot_timeout_ms, () => {
        return Qmp.open({ transport: "unix", path: `${control}/qmp` }).catch(() => undefined);
      });
      const guest = new LinuxGuest(options, control, program, serial, qmp);
      if (!options.incoming) await guest.#serial.until(/@ready\n/, boot_timeout_ms);
      return guest;
    } catch (cause) {
      await program.stop("SIGKILL");
      throw new Error("guest did not boot", { cause });
    }
  }

  get pid(): number {
    return this.#program.pid;
  }

  /** What QEMU itself and the guest's kernel have printed. */
  get log(): string {
    return this.#program.since();
  }

  /** Runs one line of shell in the guest, and returns what it printed and its exit status. */
  async try(command: string, timeout_ms = command_timeout_ms): Promise<Answer> {
    if (command.includes("\n")) throw new Error(`command for the guest has more than one line: ${command}`);
    const id = ++this.#command;
    this.#serial.forget();
    await this.#serial.write(`${id} ${command}\n`);
    const match = await this.#serial.until(new RegExp(`^([^]*?)@done ${id} (\\d+)\n`), timeout_ms).catch((cause) => {
      throw new Error(`command for the guest failed: ${command}`, { cause });
    });
    return { status: Number(match[2]), output: match[1]!.trimEnd() };
  }

  /** As `try`, but a command that fails is an error. */
  async run(command: string, timeout_ms = command_timeout_ms): Promise<string> {
    const answer = await this.try(command, timeout_ms);
    if (answer.status === 0) return answer.output;
    throw new Error(`in the guest: ${command}: exit code ${answer.status}: ${answer.output}`);
  }

  /** Waits until a test in its shell holds. */
  async until(condition: string, timeout_ms = 20_000): Promise<void> {
    await eventually(`in the guest: ${condition}`, timeout_ms, async () => {
      return (await this.try(condition)).status === 0 || undefined;
    });
  }

  async setAddress(address: string): Promise<void> {
    await this.run(`ip addr add ${address} dev eth0 && ip link set eth0 up`);
  }

  /** Sends `count` pings, and returns how many were answered. */
  async ping(address: string, count = 3, options = ""): Promise<number> {
    const { output } = await this.try(`ping -c ${count} -W 2 -i 0.2 ${options} ${address}`);
    return Number(/(\d+) packets received/.exec(output)?.[1] ?? 0);
  }

  /** Waits until the address answers: a peer that was gone may be asked for again by ARP only after a while. */
  reach(address: string, timeout_ms: number): Promise<void> {
    return this.until(`ping -c 1 -W 1 ${address}`, timeout_ms);
  }

  /**
   * How much each queue has been used: packets where `ethtool -S` has them, as Linux 6.1 does; later ones tell packets
   * to netlink alone, and kicks (transmit) and interrupts (receive) show the same.
   */
  async queueUse(direction: "rx" | "tx", queues: number): Promise<number[]> {
    const text = await this.run("ethtool -S eth0; grep virtio /proc/interrupts || true");
    return Array.from({ length: queues }, (_, queue) => {
      const packets = new RegExp(`${direction}_queue_${queue}_packets: (\\d+)`).exec(text);
      if (packets) return Number(packets[1]);
      const kicks = new RegExp(`tx${queue}_kicks: (\\d+)`).exec(text);
      const interrupts = new RegExp(`^\\s*\\d+:([\\d\\s]+)\\S.*-input\\.${queue}$`, "m").exec(text);
      if (direction === "tx" && kicks) return Number(kicks[1]);
      if (direction === "rx" && interrupts) {
        return interrupts[1]!.trim().split(/\s+/).reduce((sum, n) => sum + Number(n), 0);
      }
      throw new Error(`the guest does not tell how much ${direction} queue ${queue} was used: ${text}`);
    });
  }

  /** Reboots from within, and waits until the guest takes commands again. */
  async reboot(): Promise<void> {
    this.#serial.forget();
    await this.#serial.write(`0 reboot -f\n`);
    await this.#serial.until(/@ready\n/, boot_timeout_ms);
  }

  /** As the reset button does, and waits until the guest takes commands again. */
  async reset(): Promise<void> {
    this.#serial.forget();
    await this.qmp("system_reset");
    await this.#serial.until(/@ready\n/, boot_timeout_ms);
  }

  async takeCardOut(): Promise<void> {
    await this.qmp("device_del", { id: "nic0" }, "DEVICE_DELETED");
  }

  /** Another one in the place of the first, with the same back end and address. */
  async putCardIn(): Promise<void> {
    const { mac, packed = false, queues = 1 } = this.options;
    const properties = { netdev: "net0", mac, packed, mq: queues > 1, vectors: 0 };
    await this.qmp("device_add", { driver: "virtio-net-pci", id: "nic0", ...properties });
    await this.until("[ -e /sys/class/net/eth0 ]");
  }

  /** Runs a command of QEMU's machine protocol, and waits for the event that it brings. */
  async qmp(command: string, values: Record<string, unknown> = {}, event?: string): Promise<unknown> {
    // A QEMU that waits for its back end answers nobody.
    const answer = await within(`QMP command ${command}`, qmp_timeout_ms, this.#qmp.execute(command, values));
    if (event) await within(`${event} after QMP command ${command}`, qmp_timeout_ms, this.#qmp.until(event));
    return answer;
  }

  async unbindDriver(): Promise<string> {
    const device = await this.run("basename $(readlink /sys/class/net/eth0/device)");
    await this.run(`echo ${device} > /sys/bus/virtio/drivers/virtio_net/unbind`);
    return device;
  }

  async bindDriver(device: string): Promise<void> {
    await this.run(`echo ${device} > /sys/bus/virtio/drivers/virtio_net/bind`);
  }

  /** SIGKILL for QEMU: the machine vanishes between two instructions. */
  async kill(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#program.stop("SIGKILL");
    this.#serial.close();
    await this.#qmp[Symbol.asyncDispose]();
  }

  /** Fails if QEMU died by itself, which tests should not overlook. */
  async close(): Promise<void> {
    const died = !this.#program.running;
    await this.kill();
    if (died) throw new Error(`QEMU died by itself: ${this.log.slice(-3000)}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

async function qemuArguments(options: GuestOptions, control: string): Promise<string[]> {
  const kernel = kernelFile();
  if (!kernel) throw new Error("no kernel for guests: see tests/real/peers.ts");
  const queues = options.queues ?? 1;
  const memory_mib = options.memory_mib ?? memory_mib_default;
  const version = await qemuVersion();
  const device = [
    "virtio-net-pci",
    "id=nic0",
    "netdev=net0",
    "disable-legacy=on",
    "romfile=",
    `vectors=${vectors(version, queues)}`,
  ];
  if (queues > 1) device.push("mq=on");
  if (options.packed) device.push("packed=on");
  if (options.in_order) device.push("in_order=on");
  if (options.mac) device.push(`mac=${options.mac}`);
  if (options.device) device.push(options.device);
  const mode = options.listen ? "server=on,wait=off" : version < 10 ? "reconnect=1" : "reconnect-ms=1000";
  const network = options.socket
    ? [
      ...["-chardev", `socket,id=port0,path=${options.socket},${mode}`],
      ...["-netdev", `vhost-user,id=net0,chardev=port0,queues=${queues}`],
    ]
    : ["-netdev", "user,id=net0"];
  return [
    ...["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"],
    ...[
      "-machine",
      "pc",
      "-accel",
      "tcg",
      "-cpu",
      "max",
      "-smp",
      `${options.cpus ?? 1}`,
      "-m",
      `${memory_mib}M,slots=2,maxmem=2G`,
    ],
    ...["-object", memoryBackend(options, memory_mib)],
    ...["-machine", "memory-backend=memory0"],
    ...["-chardev", `socket,id=serial,path=${control}/serial,server=on,wait=off`, "-serial", "chardev:serial"],
    ...["-qmp", `unix:${control}/qmp,server=on,wait=off`, "-qmp", `unix:${control}/free,server=on,wait=off`],
    ...options.incoming ? ["-incoming", "defer"] : [],
    ...options.trace === undefined ? [] : ["-trace", options.trace],
    ...["-kernel", kernel, "-initrd", options.initramfs],
    ...["-append", "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on no_timer_check"],
    ...network,
    ...["-device", device.join(",")],
    ...options.more ?? [],
  ];
}

function memoryBackend({ memory_file, share = true }: GuestOptions, size_mib: number): string {
  const backend = memory_file === undefined ? "memory-backend-memfd" : `memory-backend-file,mem-path=${memory_file}`;
  return `${backend},id=memory0,size=${size_mib}M,share=${share ? "on" : "off"}`;
}

/** QEMU 7.2 dies when a guest under TCG turns on MSI-X for a vhost-user device; with no vectors it uses INTx. */
function vectors(version: number, queues: number): number {
  return version < 8 ? 0 : 2 * queues + 2;
}

/** The major version of the QEMU under test. */
export async function qemuVersion(): Promise<number> {
  const command = findProgram(qemu_command) ?? qemu_command;
  const { stdout } = await new Deno.Command(command, { args: ["--version"] }).output();
  const match = /version (\d+)\./.exec(new TextDecoder().decode(stdout));
  if (!match) throw new Error(`ask QEMU for its version: ${command}`);
  return Number(match[1]);
}

/** The host's end of the guest's second serial port. */
class SerialPort {
  readonly #connection: Deno.UnixConn;
  readonly #program: Program;
  readonly #reading: Promise<void>;
  #text = "";

  private constructor(connection: Deno.UnixConn, program: Program) {
    this.#connection = connection;
    this.#program = program;
    this.#reading = this.#read();
  }

  static async open(path: string, program: Program): Promise<SerialPort> {
    const connection = await eventually(`QEMU listens on ${path}`, boot_timeout_ms, async () => {
      if (!program.running) throw new Error(`QEMU ended at once: ${program.since()}`);
      return await Deno.connect({ transport: "unix", path }).catch(() => undefined);
    });
    return new SerialPort(connection, program);
  }

  forget(): void {
    this.#text = "";
  }

  async write(text: string): Promise<void> {
    const bytes = new TextEncoder().encode(text);
    for (let sent = 0; sent < bytes.length;) sent += await this.#connection.write(bytes.subarray(sent));
  }

  async until(pattern: RegExp, timeout_ms: number): Promise<RegExpExecArray> {
    try {
      return await eventually(`${pattern} from the guest`, timeout_ms, () => {
        if (!this.#program.running) throw new Error("QEMU died");
        return pattern.exec(this.#text) ?? undefined;
      }, 10);
    } catch (cause) {
      const told = `it said: ${this.#text.slice(-500)}: its log ends: ${this.#program.since().slice(-3000)}`;
      throw new Error(`the guest does not answer: ${told}`, { cause });
    }
  }

  close(): void {
    this.#connection.close();
    this.#reading.catch(() => {});
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    const buffer = new Uint8Array(1 << 16);
    while (true) {
      const count = await this.#connection.read(buffer).catch(() => null);
      if (count === null) return;
      this.#text += decoder.decode(buffer.subarray(0, count), { stream: true });
    }
  }
}

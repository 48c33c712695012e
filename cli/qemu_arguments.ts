/**
 * The arguments with which QEMU attaches to a port, right for the QEMU that is installed.
 *
 * @module
 */
import type { PortPlan } from "../mod.ts";

/** What matters of the QEMU on this host. */
export interface Qemu {
  /** Major and minor, or undefined where none was found. */
  readonly version: readonly [major: number, minor: number] | undefined;
  /** Without /dev/kvm guests run under TCG. */
  readonly kvm: boolean;
}

/** What is assumed where no QEMU is installed: guests run elsewhere then, on something recent. */
export const assumedQemu: Qemu = { version: undefined, kvm: true };

/** QEMU is not waited for any longer than this: `ready` is worth more. */
const patience_ms = 150;

function versionOf(text: string): Qemu["version"] {
  const match = /version (\d+)\.(\d+)/.exec(text);
  return match ? [Number(match[1]), Number(match[2])] : undefined;
}

/** Whether this user may use KVM; asked by a program, as Deno opens devices only for those who may do anything. */
async function hasKvm(): Promise<boolean> {
  const command = new Deno.Command("test", { args: ["-w", "/dev/kvm"], stdin: "null" });
  return (await command.output()).success;
}

/** Asks the QEMU in the PATH, or the one named by $VHOSTCTL_QEMU, for its version. Never throws. */
export async function findQemu(): Promise<Qemu> {
  const program = Deno.env.get("VHOSTCTL_QEMU") ?? "qemu-system-x86_64";
  try {
    const signal = AbortSignal.timeout(patience_ms);
    const { stdout } = await new Deno.Command(program, { args: ["--version"], stdin: "null", signal }).output();
    const found = { version: versionOf(new TextDecoder().decode(stdout)), kvm: true };
    return isBefore(found, 8, 0) ? { ...found, kvm: await hasKvm() } : found;
  } catch {
    return assumedQemu;
  }
}

function isBefore(qemu: Qemu, major: number, minor: number): boolean {
  if (qemu.version === undefined) return false;
  return qemu.version[0] < major || (qemu.version[0] === major && qemu.version[1] < minor);
}

/** QEMU parts its settings with commas; one within a value is written twice. */
function escape(value: string): string {
  return value.replaceAll(",", ",,");
}

function chardev(port: PortPlan, qemu: Qemu): string {
  const start = `socket,id=${port.name},path=${escape(port.socket)}`;
  if (port.mode === "client") return `${start},server=on,wait=off`;
  // QEMU 9.2 brought reconnect-ms, 10.2 took reconnect away.
  return `${start},${isBefore(qemu, 9, 2) ? "reconnect=1" : "reconnect-ms=1000"}`;
}

function device(port: PortPlan, qemu: Qemu): string {
  const parts = ["virtio-net-pci", `netdev=${port.name}`, `mac=${port.mac}`];
  if (port.offer.queuePairs > 1) parts.push("mq=on");
  // One vector a ring, one for configuration changes, one for the control queue. QEMU 7 crashes under TCG when a
  // guest turns them on.
  if (isBefore(qemu, 8, 0) && !qemu.kvm) parts.push("vectors=0");
  else if (port.offer.queuePairs > 1) parts.push(`vectors=${2 * port.offer.queuePairs + 2}`);
  if (port.offer.mtu !== undefined) parts.push(`host_mtu=${port.offer.mtu}`);
  return parts.join(",");
}

/** For each guest once: memory that can be shared. Without it nothing works, and QEMU does not say so. */
export const qemuMemory: readonly (readonly string[])[] = [
  ["-m", "1G"],
  ["-object", "memory-backend-memfd,id=ram,size=1G,share=on"],
  ["-machine", "memory-backend=ram"],
];

/** For each port: option and value, pair by pair. */
export function qemuArguments(port: PortPlan, qemu: Qemu): [string, string][] {
  const queues = port.offer.queuePairs > 1 ? `,queues=${port.offer.queuePairs}` : "";
  return [
    ["-chardev", chardev(port, qemu)],
    ["-netdev", `vhost-user,id=${port.name},chardev=${port.name}${queues}`],
    ["-device", device(port, qemu)],
  ];
}

/** One word as a shell reads it back. */
function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** Options and values as lines to paste into a shell. */
export function shellLines(pairs: readonly (readonly string[])[]): string[] {
  return pairs.map((words, index) => `  ${words.map(quote).join(" ")}${index + 1 < pairs.length ? " \\" : ""}`);
}

/**
 * The machine that figures were measured on.
 *
 * @module
 */
import { readSystemFile } from "../mod.ts";
import { cpuList } from "./option.ts";

/** What figures depend on. */
export interface Machine {
  readonly cpu: string;
  /** CPUs that this process may run on. */
  readonly cpus: readonly number[];
  /** The instruction set level that libvring is taken for. */
  readonly level: string;
  readonly kernel: string;
  /** The figures of a virtual machine depend on where its host puts it. */
  readonly virtual: boolean;
}

/** What each x86-64 level adds (psABI), highest first. */
const levels: readonly (readonly [level: string, flags: readonly string[]])[] = [
  ["x86-64-v4", ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]],
  ["x86-64-v3", ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]],
];

/** The level of a CPU by its flags. */
export function levelOf(flags: ReadonlySet<string>): string {
  const has = (wanted: readonly string[]) => wanted.every((flag) => flags.has(flag));
  if (!has(levels[1]![1])) return "x86-64-v2";
  return has(levels[0]![1]) ? levels[0]![0] : levels[1]![0];
}

function field(text: string, name: string): string | undefined {
  return new RegExp(`^${name}\\s*:\\s*(.*)$`, "m").exec(text)?.[1];
}

/** CPUs that this process may run on, by its affinity. */
export function allowedCpus(): number[] {
  const list = field(readSystemFile("/proc/self/status") ?? "", "Cpus_allowed_list");
  return list === undefined ? [0] : cpuList(list);
}

/** Reads what Linux tells of this machine. */
export function describeMachine(): Machine {
  const text = readSystemFile("/proc/cpuinfo") ?? "";
  const flags = new Set(field(text, "flags")?.split(" "));
  return {
    cpu: field(text, "model name") ?? Deno.build.arch,
    cpus: allowedCpus(),
    level: Deno.build.arch === "x86_64" ? levelOf(flags) : Deno.build.arch,
    kernel: Deno.osRelease(),
    virtual: flags.has("hypervisor"),
  };
}

/** One line. */
export function machineText(machine: Machine): string {
  const count = machine.cpus.length === 1 ? "1 CPU" : `${machine.cpus.length} CPUs`;
  const kind = machine.virtual ? "virtual machine" : "bare metal";
  return `${machine.cpu} (${machine.level}), ${count}, ${kind}, Linux ${machine.kernel}`;
}

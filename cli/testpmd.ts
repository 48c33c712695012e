/**
 * DPDK's testpmd with vhost ports: the forwarder that ours is compared with.
 *
 * @module
 */
import { delimiter, join } from "node:path";
import { readSystemFile } from "../mod.ts";
import { HostError } from "./error.ts";
import { JsonProcess } from "./json_process.ts";
import { pause } from "./pause.ts";

/** testpmd as it is found on this host. */
export interface TestpmdProgram {
  readonly path: string;
  /** As it calls itself: `DPDK 22.11.11`. */
  readonly version: string;
}

/** What its memory is made of. */
export type TestpmdMemory = "huge pages" | "4 KiB pages";

export interface TestpmdOptions {
  readonly program: TestpmdProgram;
  /** In pairs, to be made unless it is to connect. Whatever arrives at one of a pair leaves by the other. */
  readonly sockets: readonly string[];
  readonly queues: number;
  /** Whether the sockets are there already, and it is to connect. */
  readonly client?: boolean;
  /** Where its threads run. */
  readonly cpu: number;
}

const command = "dpdk-testpmd";
const install = "apt-get install --no-install-recommends dpdk-dev librte-meta-net librte-meta-mempool";
/** Enough for its 16384 packet buffers of 2 KiB and what it needs beside. */
const memory_mib = 64;
const hugePage_mib = 2;

async function isFile(path: string): Promise<boolean> {
  return await Deno.stat(path).then((info) => info.isFile, () => false);
}

async function findInPath(name: string): Promise<string | undefined> {
  for (const folder of (Deno.env.get("PATH") ?? "").split(delimiter)) {
    if (folder !== "" && await isFile(join(folder, name))) return join(folder, name);
  }
  return undefined;
}

/** Finds testpmd in the PATH, or where `given` says, and asks for its version; throws a `HostError` without it. */
export async function findTestpmd(given: string | undefined): Promise<TestpmdProgram> {
  const name = given ?? command;
  const path = name.includes("/") ? name : await findInPath(name);
  if (path === undefined || !await isFile(path)) {
    throw new HostError(`cannot find testpmd: ${name}: install it (on Debian: ${install}) or name it with --testpmd`);
  }
  const args = ["--no-huge", "-m", "8", "--no-pci", "--no-telemetry", "--no-shconf", "-v", "--", "--help"];
  const asked = new Deno.Command(path, { args, stdin: "null", stdout: "piped", stderr: "piped" });
  const text = await asked.output().then(
    ({ stdout, stderr }) => [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("\n"),
    (reason: Error) => reason.message,
  );
  const version = /RTE Version: '([^']*)'/.exec(text)?.[1];
  if (version !== undefined) return { path, version };
  throw new HostError(
    `cannot run testpmd: ${path}: it does not tell its version: reinstall it (on Debian: ${install})`,
  );
}

/** Huge pages are used where some are free; none are reserved: that is for the host's owner to do. */
export function chooseMemory(): TestpmdMemory {
  const free = Number(readSystemFile("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages") ?? 0);
  return free >= memory_mib / hugePage_mib ? "huge pages" : "4 KiB pages";
}

function testpmdArguments({ sockets, queues, cpu, client }: TestpmdOptions, memory: TestpmdMemory): string[] {
  const settings = `queues=${queues},client=${client ? 1 : 0}`;
  const devices = sockets.flatMap((socket, port) => ["--vdev", `net_vhost${port},iface=${socket},${settings}`]);
  return [
    ...["--lcores", `0@${cpu},1@${cpu}`, "--no-pci", "--no-telemetry", `--file-prefix=vhostctl-${Deno.pid}`],
    ...memory === "huge pages"
      ? ["--in-memory", "-m", `${memory_mib}`]
      : ["--no-huge", "-m", `${2 * memory_mib}`, "--no-shconf"],
    ...devices,
    ...["--", "--nb-cores=1", "--total-num-mbufs=16384", `--rxq=${queues}`, `--txq=${queues}`, "--burst=32"],
    ...["--forward-mode=io", "--auto-start", "--disable-link-check", "--no-flush-rx"],
  ];
}

/** A testpmd that forwards between pairs of sockets until it is disposed of. */
export class Testpmd implements AsyncDisposable {
  readonly process: JsonProcess;
  readonly program: TestpmdProgram;
  readonly memory: TestpmdMemory;

  private constructor(process: JsonProcess, program: TestpmdProgram, memory: TestpmdMemory) {
    this.process = process;
    this.program = program;
    this.memory = memory;
  }

  /** Returns when its sockets are there. */
  static async start(options: TestpmdOptions): Promise<Testpmd> {
    const memory = chooseMemory();
    const process = new JsonProcess("dpdk-testpmd", options.program.path, testpmdArguments(options, memory));
    // It prints no message of ours: this only ever fails, when it ends.
    const ended = process.next(() => false);
    ended.catch(() => {});
    try {
      for (const socket of options.sockets) await Promise.race([ended, appears(socket)]);
    } catch (reason) {
      await process[Symbol.asyncDispose]();
      throw reason;
    }
    return new Testpmd(process, options.program, memory);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.process[Symbol.asyncDispose]();
  }
}

const appearance_ms = 20_000;

async function appears(path: string): Promise<void> {
  const deadline = Date.now() + appearance_ms;
  while (!await Deno.stat(path).then(() => true, () => false)) {
    if (Date.now() > deadline) throw new HostError(`dpdk-testpmd made no socket: ${path}: it seems to hang`);
    await pause(10);
  }
}

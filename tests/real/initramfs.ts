// The whole user space of a test guest in one archive: busybox, the virtio modules, iperf3 and ethtool with their
// libraries, and an init that obeys commands from the second serial port.

import { kernelFile, moduleFolder, moduleName, modulesOf, readModule } from "./kernel.ts";
import { findProgram } from "./peers.ts";

const directory_mode = 0o040755;
const program_mode = 0o100755;
const link_mode = 0o120777;

/** The "newc" format of cpio, which is what Linux unpacks at boot (Documentation/driver-api/early-userspace). */
class Archive {
  readonly #parts: Uint8Array[] = [];
  readonly #names = new Set<string>();
  #inode = 1;

  directory(path: string): void {
    const parent = path.slice(0, Math.max(0, path.lastIndexOf("/")));
    if (path === "" || this.#names.has(path)) return;
    this.directory(parent);
    this.#add(path, directory_mode, new Uint8Array());
  }

  file(path: string, content: Uint8Array | string): void {
    this.#entry(path, program_mode, content);
  }

  link(path: string, target: string): void {
    this.#entry(path, link_mode, target);
  }

  bytes(): Uint8Array {
    this.#add("TRAILER!!!", 0, new Uint8Array());
    const whole = new Uint8Array(this.#parts.reduce((sum, part) => sum + part.length, 0));
    let offset = 0;
    for (const part of this.#parts) {
      whole.set(part, offset);
      offset += part.length;
    }
    return whole;
  }

  #entry(path: string, mode: number, content: Uint8Array | string): void {
    this.directory(path.slice(0, Math.max(0, path.lastIndexOf("/"))));
    this.#add(path, mode, typeof content === "string" ? new TextEncoder().encode(content) : content);
  }

  #add(path: string, mode: number, content: Uint8Array): void {
    if (this.#names.has(path)) return;
    this.#names.add(path);
    // inode, mode, uid, gid, links, time, size, device major and minor, of the node itself, name length, checksum
    const fields = [this.#inode++, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, path.length + 1, 0];
    const header = "070701" + fields.map((field) => field.toString(16).padStart(8, "0")).join("") + path + "\0";
    this.#parts.push(padded(new TextEncoder().encode(header)), padded(content));
  }
}

function padded(bytes: Uint8Array): Uint8Array {
  if (bytes.length % 4 === 0) return bytes;
  const whole = new Uint8Array(bytes.length + 4 - bytes.length % 4);
  whole.set(bytes);
  return whole;
}

const init = (modules: readonly string[]) =>
  `#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp /run
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs -o size=75% none /tmp
${modules.map((file) => `insmod /modules/${file}`).join("\n")}
ip link set lo up
stty raw -echo -F /dev/ttyS1
cd /tmp
sh /commands </dev/ttyS1 >/dev/ttyS1 2>&1
`;

/**
 * What the host says on the second serial port is one command a line; the answer ends with "@done ID STATUS".
 *
 * It is not process 1 that reads them: that one inherits what commands left running, and busybox's `read` loses the
 * line that it has begun when a child ends.
 */
const commands = `echo "@ready"
while read -r id command; do
  sh -c "$command" </dev/null
  echo "@done $id $?"
done
`;

/** What a guest has beside the usual. */
export interface InitramfsOptions {
  /** Programs of the host, by their names in the guest's /bin, with the libraries of each. */
  readonly programs?: Readonly<Record<string, { readonly path: string; readonly libraries: readonly string[] }>>;
  /** Modules of the kernel. */
  readonly modules?: readonly string[];
}

/** The libraries that a program needs, by their paths. */
export async function librariesOf(program: string): Promise<string[]> {
  const result = await new Deno.Command("ldd", { args: [program] }).output();
  const text = new TextDecoder().decode(result.stdout);
  return [...text.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map((match) => match[1]!);
}

/** Builds the archive for $VHOSTCTL_KERNEL or Debian's kernel, and writes it to `path`. */
export async function writeInitramfs(path: string, options: InitramfsOptions = {}): Promise<void> {
  const kernel = kernelFile();
  if (!kernel) throw new Error("no kernel for guests in /boot: apt-get install linux-image-cloud-amd64");
  const archive = new Archive();
  archive.file("bin/busybox", await Deno.readFile(programPath("busybox")));
  for (const name of ["iperf3", "ethtool"]) {
    const program = programPath(name);
    archive.file(`bin/${name}`, await Deno.readFile(program));
    for (const library of await librariesOf(program)) archive.file(library.slice(1), await Deno.readFile(library));
  }
  for (const [name, { path: program, libraries }] of Object.entries(options.programs ?? {})) {
    archive.file(`bin/${name}`, await Deno.readFile(program));
    for (const library of libraries) archive.file(library.slice(1), await Deno.readFile(library));
  }
  const modules = modulesOf(moduleFolder(kernel), ["virtio_pci", "virtio_net", ...options.modules ?? []]);
  for (const module of modules) archive.file(`modules/${moduleName(module)}.ko`, await readModule(module));
  archive.file("init", init(modules.map((module) => `${moduleName(module)}.ko`)));
  archive.file("commands", commands);
  archive.link("usr", "/");
  await Deno.writeFile(path, archive.bytes());
}

function programPath(name: string): string {
  const path = findProgram(name);
  if (!path) throw new Error(`program for guests is missing: ${name}`);
  return path;
}

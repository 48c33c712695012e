// Finds the kernel that guests boot, and reads its modules.

/** The kernel for guests: $VHOSTCTL_KERNEL, else the newest in /boot, Debian's cloud flavour first. */
export function kernelFile(): string | undefined {
  const given = Deno.env.get("VHOSTCTL_KERNEL");
  if (given) return given;
  const names = [...entries("/boot")].filter((name) => name.startsWith("vmlinuz-"));
  const rank = (name: string) => (name.includes("cloud") ? 1 : 0);
  names.sort((a, b) => rank(a) - rank(b) || a.localeCompare(b, "en", { numeric: true }));
  const newest = names.at(-1);
  return newest && `/boot/${newest}`;
}

/** Where the modules of a kernel are: PREFIX/boot/vmlinuz-X has them in PREFIX/lib/modules/X. */
export function moduleFolder(kernel: string): string {
  const match = /^(.*)\/boot\/vmlinuz-([^/]+)$/.exec(kernel);
  if (!match) throw new Error(`kernel is not called .../boot/vmlinuz-RELEASE: ${kernel}`);
  const merged = `${match[1]}/usr/lib/modules/${match[2]}`;
  return exists(merged) ? merged : `${match[1]}/lib/modules/${match[2]}`;
}

/** Paths of these modules and all that they depend on, in loading order; built-in ones are left out. */
export function modulesOf(folder: string, names: readonly string[]): string[] {
  const files = new Map<string, string>();
  const depends = new Map<string, string[]>();
  for (const line of Deno.readTextFileSync(`${folder}/modules.dep`).split("\n")) {
    const [file, rest] = line.split(":");
    if (!file) continue;
    files.set(moduleName(file), file);
    depends.set(file, rest?.trim().split(" ").filter((path) => path !== "") ?? []);
  }
  const builtin = new Set(Deno.readTextFileSync(`${folder}/modules.builtin`).split("\n").map(moduleName));
  const ordered = new Set<string>();
  for (const name of names) {
    const file = files.get(name);
    if (file) {
      // modules.dep names the closure of each module, what is needed first standing last.
      for (const path of [...depends.get(file) ?? []].reverse()) ordered.add(path);
      ordered.add(file);
    } else if (!builtin.has(name)) {
      throw new Error(`kernel has no such module: ${name} in ${folder}`);
    }
  }
  return [...ordered].map((path) => `${folder}/${path}`);
}

/** The bytes of a module as insmod wants them. */
export async function readModule(path: string): Promise<Uint8Array> {
  if (!path.endsWith(".xz")) return await Deno.readFile(path);
  const result = await new Deno.Command("xz", { args: ["-dc", path] }).output();
  if (!result.success) throw new Error(`unpack module: ${path}: ${new TextDecoder().decode(result.stderr)}`);
  return result.stdout;
}

export function moduleName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1).replace(/\.ko(\.xz)?$/, "").replaceAll("-", "_");
}

function entries(folder: string): string[] {
  return exists(folder) ? [...Deno.readDirSync(folder)].map((entry) => entry.name) : [];
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

// Which real programs the tests in this folder meet, where they are, and which Debian package brings each.
// Run as a program it prints the packages that are missing, one a line, for scripts/test to install.

import { kernelFile, moduleFolder } from "./kernel.ts";

export interface Need {
  readonly what: string;
  readonly package: string;
  present(): boolean;
}

export const qemu_command = Deno.env.get("VHOSTCTL_QEMU") ?? "qemu-system-x86_64";
export const testpmd_command = Deno.env.get("VHOSTCTL_TESTPMD") ?? "dpdk-testpmd";

const dpdk: readonly Need[] = [
  program(testpmd_command, "dpdk-dev"),
  {
    what: "DPDK's virtio and vhost drivers",
    package: "librte-meta-net",
    present: () => dpdkDriver("librte_net_virtio.so"),
  },
  { what: "DPDK's ring mempool", package: "librte-meta-mempool", present: () => dpdkDriver("librte_mempool_ring.so") },
];

const linux: readonly Need[] = [
  program(qemu_command, "qemu-system-x86"),
  { what: "a kernel for guests in /boot", package: "linux-image-cloud-amd64", present: () => kernelPresent() },
  program("busybox", "busybox-static"),
  program("iperf3", "iperf3"),
  program("ethtool", "ethtool"),
  program("xz", "xz-utils"),
];

const network: readonly Need[] = [
  program("ip", "iproute2"),
  program("unshare", "util-linux"),
  program("busybox", "busybox-static"),
  program("iperf3", "iperf3"),
  program("ethtool", "ethtool"),
];

export const needs = { dpdk, linux, network } as const;

/** What the tests of these kinds need and this machine lacks. */
export function missing(kinds: readonly (keyof typeof needs)[] = ["dpdk", "linux", "network"]): Need[] {
  return kinds.flatMap((kind) => needs[kind]).filter((need) => !need.present());
}

/**
 * Declares a test that meets real peers. Where one is missing the test is left out with a name that says so;
 * with CI set it fails instead, because a peer that nobody met proves nothing.
 */
export function realTest(
  name: string,
  kinds: readonly (keyof typeof needs)[],
  run: (test: Deno.TestContext) => Promise<void>,
): void {
  const lacks = missing(kinds);
  if (lacks.length === 0) return Deno.test(name, run);
  const packages = [...new Set(lacks.map((need) => need.package))].join(" ");
  const reason = `${lacks.map((need) => need.what).join(", ")}: apt-get install ${packages}`;
  if (Deno.env.get("CI")) {
    return Deno.test(name, () => {
      throw new Error(`left out, which CI does not allow: this machine lacks ${reason}`);
    });
  }
  console.error(`LEFT OUT: ${name}: this machine lacks ${reason}`);
  Deno.test({ name: `${name} [LEFT OUT: lacks ${reason}]`, ignore: true, fn: run });
}

/** The same, where it takes the machine's capabilities. */
export function rootTest(...[name, kinds, run]: Parameters<typeof realTest>): void {
  if (Deno.uid() === 0) return realTest(name, kinds, run);
  Deno.test({ name: `${name} [LEFT OUT: takes root]`, ignore: true, fn: run });
}

/** Where a program is, as the shell would find it, with the folders that only root has on its PATH. */
export function findProgram(name: string): string | undefined {
  if (name.includes("/")) return isFile(name) ? name : undefined;
  const folders = [...(Deno.env.get("PATH") ?? "").split(":"), "/usr/sbin", "/sbin"];
  return folders.map((folder) => `${folder}/${name}`).find(isFile);
}

function program(name: string, from: string): Need {
  return { what: name, package: from, present: () => findProgram(name) !== undefined };
}

function dpdkDriver(file: string): boolean {
  if (testpmd_command.includes("/")) return true;
  const root = "/usr/lib/x86_64-linux-gnu/dpdk";
  try {
    return [...Deno.readDirSync(root)].some((folder) =>
      [...Deno.readDirSync(`${root}/${folder.name}`)].some((entry) => entry.name.startsWith(file))
    );
  } catch {
    return false;
  }
}

function kernelPresent(): boolean {
  const kernel = kernelFile();
  return kernel !== undefined && isFile(`${moduleFolder(kernel)}/modules.dep`);
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

if (import.meta.main) {
  const packages = new Set(missing().map((need) => need.package));
  if (packages.size > 0) console.log([...packages].join("\n"));
}

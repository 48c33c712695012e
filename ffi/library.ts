/**
 * Opens libvring: the only `Deno.dlopen`. Checks before any other call that library and bindings were built together.
 *
 * The library is `$VHOSTCTL_LIB`, else `libvring.so` beside this file. It is opened at first use and stays open.
 *
 * @module
 */

import { abiHash, Status, symbols } from "./abi.gen.ts";

export type Library = Deno.DynamicLibrary<typeof symbols>["symbols"];

/** Why a call into libvring failed. */
export type StatusName = keyof typeof Status | "system";

let opened: Library | undefined;

/** The functions of libvring. Throws when there is no library, or one of another build. */
export function library(): Library {
  opened ??= open();
  return opened;
}

/**
 * Opens every function, for whom later calls must not wait: each is otherwise opened when it is first called. Throws as
 * `library`.
 */
export function loadLibrary(): void {
  Object.values(library());
}

function open(): Library {
  const path = Deno.env.get("VHOSTCTL_LIB") ?? `${import.meta.dirname}/libvring.so`;
  const found = lookedUp(path);
  let hash: bigint;
  try {
    hash = found.abi_hash();
  } catch (reason) {
    throw new Error(
      `Cannot open libvring: ${path}: build it with ./scripts/build --library, and name it by VHOSTCTL_LIB`,
      { cause: reason },
    );
  }
  if (hash !== abiHash) {
    throw new Error(
      `Cannot use libvring: ${path} has interface ${hash.toString(16)}, this program ${abiHash.toString(16)}: ` +
        "rebuild both with ./scripts/build",
    );
  }
  return found;
}

/**
 * Each function is opened when it is first used: the runtime compiles a way to call it, which takes a quarter of a
 * millisecond, and no command calls all of them.
 */
function lookedUp(path: string): Library {
  const functions = {};
  for (const [name, signature] of Object.entries(symbols)) {
    Object.defineProperty(functions, name, {
      configurable: true,
      enumerable: true,
      get: () => {
        const { [name]: value } = Deno.dlopen(path, { [name]: signature }).symbols;
        Object.defineProperty(functions, name, { value, enumerable: true });
        return value;
      },
    });
  }
  return functions as Library;
}

/** A call into libvring that failed. */
export class VringError extends Error {
  readonly status: StatusName;
  /** Of a failed system call, else 0. */
  readonly errno: number;
  /** What the message says behind the operation. */
  readonly reason: string;

  /** @param explanation Why, and what to do; by default what the code says. */
  constructor(operation: string, code: number, explanation?: string) {
    const errno = code <= -1000 ? -1000 - code : 0;
    const status = statusName(code);
    const reason = explanation ?? (errno ? errnoText(errno) : status.replaceAll("_", " "));
    super(`Cannot ${operation}: ${reason}`);
    this.name = "VringError";
    this.status = status;
    this.errno = errno;
    this.reason = reason;
  }
}

/** Returns what a call returned, or throws `VringError` when that is a failure. */
export function check(operation: string, code: number): number {
  if (code < 0) throw new VringError(operation, code);
  return code;
}

const statusNames = new Map(Object.entries(Status).map(([name, value]) => [value as number, name as StatusName]));

function statusName(code: number): StatusName {
  return statusNames.get(code) ?? "system";
}

/** The errors that users meet; others are told by number. */
const errnoTexts: Record<number, string> = {
  1: "operation not permitted",
  2: "no such file or directory",
  11: "resource temporarily unavailable",
  12: "out of memory",
  13: "permission denied",
  17: "file exists",
  20: "not a directory",
  22: "invalid argument",
  23: "too many open files on this host: raise the limit: sysctl fs.file-max",
  24: "too many open files: raise the limit: ulimit -n, or LimitNOFILE= of a unit",
  28: "no space left on device",
  30: "read-only file system",
  40: "too many levels of symbolic links",
  88: "not a socket",
  98: "address in use",
  104: "connection reset by peer",
  111: "connection refused",
};

function errnoText(errno: number): string {
  return errnoTexts[errno] ?? `system error ${errno}`;
}

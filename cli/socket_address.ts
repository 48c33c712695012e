/**
 * Where a program listens: a unix socket, or a host and its port, as users and QEMU write them.
 *
 * @module
 */
import { UsageError } from "./error.ts";

/** What `Deno.connect` takes. */
export type SocketAddress =
  | { readonly transport: "unix"; readonly path: string }
  | { readonly transport: "tcp"; readonly hostname: string; readonly port: number };

/** It is not waited any longer for a connection. */
const patience_ms = 5000;

/** A host's name or address, in brackets or not, and a port behind it; undefined where it is none. */
function tcpAddress(text: string): SocketAddress | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:/[\]]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port < 1 || port > 65535) return undefined;
  return { transport: "tcp", hostname: match[1] ?? (match[2] || "localhost"), port };
}

/**
 * Parses a path, `HOST:PORT`, `unix:PATH` or `tcp:HOST:PORT`, also with `,server=on,wait=off` as for QEMU. `option`
 * is for the message of the `UsageError`.
 */
export function socketAddress(option: string): (text: string) => SocketAddress {
  return (text) => {
    const plain = text.replace(/,(server|wait|nowait)\b.*$/, "");
    const path = /^unix:(.+)$/.exec(plain)?.[1];
    const host = /^tcp:(.+)$/.exec(plain)?.[1];
    const address = path !== undefined ? { transport: "unix", path } as const : tcpAddress(host ?? plain) ??
      (host === undefined && plain !== "" ? { transport: "unix", path: plain } : undefined);
    if (address !== undefined && (address.transport === "tcp" || !/^(unix|tcp):/.test(address.path))) return address;
    throw new UsageError(`cannot use ${option}: ${text}: give the path of a unix socket, or HOST:PORT`);
  };
}

/** As `socketAddress` reads it. */
export function addressText(address: SocketAddress): string {
  if (address.transport === "unix") return address.path;
  const { hostname, port } = address;
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}

/** Thrown by `connect` where nobody answers in time. */
export class NoConnection extends Error {
  override name = "NoConnection";
}

/** Connects; throws what `Deno.connect` throws, and `NoConnection`. */
export async function connect(address: SocketAddress): Promise<Deno.Conn> {
  const connecting: Promise<Deno.Conn> = address.transport === "unix" ? Deno.connect(address) : Deno.connect(address);
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new NoConnection(`no connection within ${patience_ms / 1000} s`)), patience_ms);
  });
  try {
    return await Promise.race([connecting, late]);
  } catch (reason) {
    if (reason instanceof NoConnection) connecting.then((connection) => connection.close(), () => {});
    throw reason;
  } finally {
    clearTimeout(timer);
  }
}

/** In a few words, why `connect` threw. */
export function whyUnreachable(error: unknown): string {
  if (error instanceof Deno.errors.NotFound) return "no such file";
  if (error instanceof Deno.errors.ConnectionRefused) return "nobody listens there";
  if (error instanceof Deno.errors.PermissionDenied) return "permission denied";
  return error instanceof Error ? error.message : String(error);
}

/**
 * Asks a running `serve` at its control socket.
 *
 * @module
 */
import { linesOf, sendLine } from "./lines.ts";
import type { PortLook } from "./port_look.ts";
import { connect, whyUnreachable } from "./socket_address.ts";

/** A port of a `serve`, as its control socket tells it. Counters that an older one lacks are missing. */
export interface ControlPort extends PortLook {
  readonly to_guest: Readonly<Record<string, number>>;
  readonly from_guest: Readonly<Record<string, number>>;
}

const answer_ms = 2000;

/** The longest line that it may answer with. */
export const answerCharactersMax = 16 << 20;

/** Its ports; where nobody answers, why, in a few words. */
export async function askPorts(path: string): Promise<readonly ControlPort[] | string> {
  return await ask(path, { command: "ports" }) as readonly ControlPort[] | string;
}

/** Asks it to hand over to a process that listens at `socket`; where it does not, why, in a few words. */
export async function askTakeover(path: string, parts: { socket: string; version: number }): Promise<object | string> {
  return await ask(path, { command: "takeover", ...parts });
}

async function ask(path: string, request: object): Promise<object | string> {
  let connection: Deno.Conn;
  try {
    connection = await connect({ transport: "unix", path });
  } catch (error) {
    return whyUnreachable(error);
  }
  const timer = setTimeout(() => connection.close(), answer_ms);
  try {
    await sendLine(connection, request);
    const { value } = await linesOf(connection, answerCharactersMax).next();
    const answer = JSON.parse(value ?? "{}") as { return?: object; error?: string };
    return answer.return ?? answer.error ?? "it closed the connection";
  } catch {
    return "it does not answer as vhostctl serve does";
  } finally {
    clearTimeout(timer);
    close(connection);
  }
}

function close(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch (reason) {
    if (!(reason instanceof Deno.errors.BadResource)) throw reason;
  }
}

/**
 * Lines that come over a connection.
 *
 * @module
 */

/** A line, or what has come of it, is longer than it may be. */
export class LineTooLong extends Error {
  override name = "LineTooLong";
}

const chunkBytes = 1 << 16;

/**
 * Every line of a connection, without its end; ends with the connection. Throws `LineTooLong` beyond `charactersMax`,
 * and what reading throws.
 */
export async function* linesOf(connection: Deno.Conn, charactersMax: number): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  const chunk = new Uint8Array(chunkBytes);
  let rest = "";
  for (let count; (count = await connection.read(chunk)) !== null;) {
    const lines = (rest + decoder.decode(chunk.subarray(0, count), { stream: true })).split("\n");
    rest = lines.pop()!;
    if (rest.length > charactersMax) throw new LineTooLong(`${rest.length} characters, and no end of the line`);
    for (const line of lines) {
      if (line.length > charactersMax) throw new LineTooLong(`${line.length} characters`);
      yield line;
    }
  }
}

/** Sends one object as one line; rejects where the peer is gone. */
export async function sendLine(connection: Deno.Conn, object: unknown): Promise<void> {
  let bytes = new TextEncoder().encode(`${JSON.stringify(object)}\n`);
  while (bytes.length > 0) bytes = bytes.subarray(await connection.write(bytes));
}

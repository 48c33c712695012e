/**
 * The file that a report goes to.
 *
 * @module
 */
import { CommandError } from "./error.ts";

/** Opens it before anything is measured: better now than after. */
export async function openReport(path: string): Promise<Deno.FsFile> {
  return await Deno.open(path, { write: true, create: true }).catch((reason: Error) => {
    throw new CommandError(`cannot write the report: ${path}: ${reason.message}: choose another --report`);
  });
}

/** Writes it whole, in the place of what was there, and closes it. */
export async function writeReport(file: Deno.FsFile, html: string): Promise<void> {
  await file.truncate();
  const writer = file.writable.getWriter();
  await writer.write(new TextEncoder().encode(html));
  await writer.close();
}

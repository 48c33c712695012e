/**
 * What is under way, for those who wait: on stderr, so that results can go elsewhere, and gone when they come.
 *
 * @module
 */
import { Output } from "./output.ts";

/** A frame at the bottom of the terminal, where there is one. */
export function standardProgress(): Output {
  return new Output(Deno.stderr, { NO_COLOR: Deno.env.get("NO_COLOR"), TERM: Deno.env.get("TERM") });
}

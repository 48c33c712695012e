/**
 * `vhostctl tso-test`: whether big packets, and packets without checksum, arrive as each receiver takes them.
 *
 * @module
 */
import { Command } from "@commander-js/extra-typings";
import { CommandError } from "./error.ts";
import { describeMachine, machineText } from "./machine.ts";
import { Output } from "./output.ts";
import { stoppable } from "./stoppable.ts";
import { receivers, runPairings } from "./tso_pairings.ts";
import type { Pairing, TsoResult } from "./tso_result.ts";
import { coverageText, failureLines, pairingTable } from "./tso_text.ts";

const examples = `
A guest may leave the checksum of a packet, and its segmentation, to whoever is behind it (TSO, USO and UFO of virtio).
A receiver that negotiated the same gets such a packet as it is; for any other the switch finishes it. Here two
simulated guests exchange packets of every kind for every kind of receiver, over real sockets and rings, and what
arrives is compared, byte by byte, with what Linux would have made of them.

  TAKES all         what was left to do is left to the receiver
  TAKES checksums   the switch cuts, the receiver finishes checksums
  TAKES nothing     the switch cuts, and finishes checksums

Examples:
  vhostctl tso-test
  vhostctl tso-test --json | jq '.pairings[] | select(.result == "fail")'`;

function tsoCommand() {
  return new Command("tso-test")
    .description("Prove that big packets and unfinished checksums arrive as each receiver takes them.")
    .option("--json", "print one JSON object at the end")
    .addHelpText("after", examples);
}

type Options = ReturnType<ReturnType<typeof tsoCommand>["opts"]>;

function paint(output: Output, line: string): string {
  return line.replaceAll("PASS", output.style("green", "PASS")).replaceAll("FAIL", output.style("red", "FAIL"));
}

/** Tests, while a terminal shows how far that is. */
async function test(stop: AbortSignal): Promise<TsoResult> {
  const screen = new Output(Deno.stderr, { NO_COLOR: Deno.env.get("NO_COLOR"), TERM: Deno.env.get("TERM") });
  const progress = (found: readonly Pairing[]) => {
    screen.frame(pairingTable(receivers, found).map((line) => paint(screen, line)));
  };
  try {
    const pairings = await runPairings({ receivers, stop, progress });
    const ok = pairings.every(({ result }) => result === "pass");
    return { test: "tso", machine: describeMachine(), pairings, interrupted: stop.aborted, ok };
  } finally {
    await screen.close();
  }
}

function print(output: Output, { machine, pairings }: TsoResult): void {
  const [head, ...lines] = pairingTable(receivers, pairings);
  output.line(output.style("bold", `tso-test: ${machineText(machine)}`), "");
  output.line(output.style("bold", head ?? ""), ...lines.map((line) => paint(output, line)), "");
  const failure = failureLines(pairings);
  if (failure.length > 0) output.line(...failure, "");
  output.line(coverageText(pairings));
}

async function run(options: Options): Promise<void> {
  const output = Output.standard();
  const result = await stoppable(test);
  if (options.json) output.json(result);
  else print(output, result);
  await output.close();
  const failed = result.pairings.filter(({ result }) => result === "fail").length;
  if (failed > 0) throw new CommandError(`pairings failed: ${failed} of ${result.pairings.length}: please report it`);
  if (result.interrupted) {
    throw new CommandError(`interrupted: ${result.pairings.length} pairings passed: run it again`);
  }
}

/** The command with its action. */
export function command() {
  return tsoCommand().action((options) => run(options));
}

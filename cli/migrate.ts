/**
 * `vhostctl migrate`: migrates a guest, or tests whether guests can.
 *
 * @module
 */
import { Command } from "@commander-js/extra-typings";
import { selfTest } from "./migrate_self_test.ts";
import { addSelfTestOptions, planSelfTest, selfTestHelp } from "./migrate_self_test_options.ts";
import { UsageError } from "./error.ts";

function migrateCommand() {
  return addSelfTestOptions(new Command("migrate"))
    .description("Migrate a guest between two hosts.")
    .option("--json", "print one JSON object at the end")
    .addHelpText("after", selfTestHelp);
}

type Options = ReturnType<ReturnType<typeof migrateCommand>["opts"]>;

async function run(options: Options): Promise<void> {
  const plan = planSelfTest(options);
  if (plan === undefined) throw new UsageError("nothing to migrate: give --self-test: see vhostctl migrate --help");
  await selfTest(plan);
}

/** The command with its action. */
export function command() {
  return migrateCommand().action((options) => run(options));
}

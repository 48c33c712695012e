/**
 * `vhostctl migrate`: a guest goes from one QEMU to another, while this watches; or simulated ones do, as a test.
 *
 * @module
 */
import { CommandError } from "./error.ts";
import { selfTest } from "./migrate_self_test.ts";
import { planSelfTest } from "./migrate_self_test_options.ts";
import { migrateCommand, type MigrateOptions, planMigration } from "./migrate_options.ts";
import { Migration, type MigrationListener } from "./migration.ts";
import { resultLines } from "./migration_outcome.ts";
import { progressText, stallLines } from "./migration_text.ts";
import { fit, Output } from "./output.ts";
import { stoppable } from "./stoppable.ts";

/** Elsewhere than on a terminal a line comes so often. */
const linePeriod_s = 5;

/** The command, for `main.ts`. */
export function command() {
  return migrateCommand().action((options) => migrate(options));
}

/** Tells how it goes, as is wanted. */
function listenerFor(output: Output, json: boolean): MigrationListener {
  let last_s = -Infinity;
  return {
    progress: (progress) => {
      if (json) return output.json(progress);
      const text = progressText(progress);
      if (output.terminal) return output.frame([fit(text, Deno.consoleSize().columns)]);
      if (progress.seconds - last_s < linePeriod_s) return;
      last_s = progress.seconds;
      output.line(text);
    },
    stalled: (stall, toPostcopy) => {
      const lines = stallLines(stall, toPostcopy);
      if (json) output.json({ ...stall, advice: lines });
      else output.line(...lines);
    },
    note: (text) => json ? output.json({ event: "note", text }) : output.line(text),
  };
}

async function migrate(options: MigrateOptions): Promise<void> {
  const test = planSelfTest(options);
  if (test !== undefined) return await selfTest(test);
  const plan = planMigration(options);
  const json = options.json ?? false;
  const output = Output.standard();
  try {
    await using migration = await Migration.open(plan, listenerFor(output, json));
    const result = await stoppable((stop) => migration.run(stop));
    if (json) output.json(result);
    else {
      output.frame([]);
      output.line(...resultLines(result, output));
    }
    if (result.event === "migrated") return;
    const what = result.event === "cancelled" ? "migration was cancelled" : `migration failed: ${result.reason}`;
    throw new CommandError(`${what}: ${result.source.text}`);
  } finally {
    await output.close();
  }
}

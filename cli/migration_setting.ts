/**
 * Capabilities and parameters of QEMU's migration: set for one migration, and as before if nothing comes of it.
 *
 * @module
 */
import { CommandError } from "./error.ts";
import type { Qmp } from "./qmp.ts";

/** What is to be set. */
export interface MigrationSetting {
  /** On or off, by QEMU's names; off also where QEMU has no such capability. */
  readonly capabilities: Readonly<Record<string, boolean>>;
  readonly parameters: Readonly<Record<string, number>>;
}

interface Capability {
  readonly capability: string;
  readonly state: boolean;
}

/** What was changed, to be put back. */
export class ChangedSetting {
  readonly #qmp: Qmp;
  readonly #capabilities: readonly Capability[];
  readonly #parameters: Readonly<Record<string, unknown>>;

  private constructor(qmp: Qmp, capabilities: readonly Capability[], parameters: Readonly<Record<string, unknown>>) {
    this.#qmp = qmp;
    this.#capabilities = capabilities;
    this.#parameters = parameters;
  }

  /** Throws a `CommandError` where QEMU lacks what is to be on, or refuses; then nothing is changed. */
  static async make(qmp: Qmp, { capabilities, parameters }: MigrationSetting): Promise<ChangedSetting> {
    const offered = await qmp.execute("query-migrate-capabilities") as readonly Capability[];
    const names = offered.map(({ capability }) => capability);
    const lacking = Object.keys(capabilities).find((name) => capabilities[name] && !names.includes(name));
    if (lacking !== undefined) {
      throw new CommandError(`QEMU cannot: ${lacking}: use a newer QEMU, or leave the option out`);
    }
    const change = offered.filter(({ capability, state }) => (capabilities[capability] ?? state) !== state);
    const before = await qmp.execute("query-migrate-parameters") as Record<string, unknown>;
    const changed = new ChangedSetting(
      qmp,
      change,
      Object.fromEntries(Object.keys(parameters).map((name) => [name, before[name]])),
    );
    try {
      await setCapabilities(qmp, change.map(({ capability, state }) => ({ capability, state: !state })));
      await qmp.execute("migrate-set-parameters", parameters);
    } catch (reason) {
      await changed.restore().catch(() => {});
      throw reason;
    }
    return changed;
  }

  async restore(): Promise<void> {
    await setCapabilities(this.#qmp, this.#capabilities);
    await this.#qmp.execute("migrate-set-parameters", this.#parameters);
  }
}

async function setCapabilities(qmp: Qmp, capabilities: readonly Capability[]): Promise<void> {
  if (capabilities.length > 0) await qmp.execute("migrate-set-capabilities", { capabilities });
}

/** A QEMU as its QMP socket shows it: answers from a table, and events, whenever a test wants them. */

import { linesOf, sendLine } from "../cli/lines.ts";

type Answer = unknown | ((values: Record<string, unknown>) => unknown);

/** Thrown by an answer: QEMU refuses the command for this reason. */
export class Refused extends Error {}

const capabilityNames = [
  "events",
  "return-path",
  "auto-converge",
  "postcopy-ram",
  "multifd",
  "pause-before-switchover",
];

/** Answers that stay the same for most tests; a test puts its own over them. */
function defaults(state: { capabilities: Map<string, boolean>; parameters: Record<string, unknown> }) {
  return {
    "qmp_capabilities": {},
    "query-status": { status: "running", running: true },
    "query-kvm": { enabled: true, present: true },
    "query-version": { qemu: { major: 7, minor: 2, micro: 22 } },
    "human-monitor-command": "nic: index=0,type=nic\r\n \\ net0: index=0,type=user,net=10.0.2.0\r\n",
    "query-migrate": {},
    "query-migrate-capabilities": () => [...state.capabilities].map(([capability, on]) => ({ capability, state: on })),
    "query-migrate-parameters": () => ({ ...state.parameters }),
    "migrate-set-capabilities": (values: Record<string, unknown>) => {
      for (const { capability, state: on } of values["capabilities"] as { capability: string; state: boolean }[]) {
        state.capabilities.set(capability, on);
      }
      return {};
    },
    "migrate-set-parameters": (values: Record<string, unknown>) => {
      Object.assign(state.parameters, values);
      return {};
    },
    "migrate": {},
    "migrate_cancel": {},
  } satisfies Record<string, Answer>;
}

export class FakeQmp implements AsyncDisposable {
  readonly path: string;
  readonly capabilities = new Map(capabilityNames.map((name) => [name, false]));
  readonly parameters: Record<string, unknown> = { "max-bandwidth": 134217728, "downtime-limit": 300 };
  /** Every command that came, in order. */
  readonly commands: string[] = [];
  readonly answers: Record<string, Answer> = defaults(this);
  readonly #folder: string;
  readonly #listener: Deno.UnixListener;
  readonly #serving: Promise<void>;
  #connection: Deno.Conn | undefined;

  constructor(greeting = '{"QMP": {"version": {}, "capabilities": []}}') {
    this.#folder = Deno.makeTempDirSync({ prefix: "fake-qmp-" });
    this.path = `${this.#folder}/qmp`;
    this.#listener = Deno.listen({ transport: "unix", path: this.path });
    this.#serving = this.#serve(greeting);
  }

  async tell(event: string, data: Record<string, unknown> = {}): Promise<void> {
    await sendLine(this.#connection!, { event, data, timestamp: { seconds: 0, microseconds: 0 } });
  }

  /** As a QEMU does that is killed. */
  die(): void {
    this.#connection?.close();
    this.#connection = undefined;
  }

  /** One client at a time, as QEMU. */
  async #serve(greeting: string): Promise<void> {
    for await (const connection of this.#listener) {
      this.#connection = connection;
      try {
        if (greeting === "") await connection.read(new Uint8Array(1));
        await connection.write(new TextEncoder().encode(`${greeting}\n`));
        for await (const line of linesOf(connection, 1 << 16)) await this.#answer(connection, line);
      } catch {
        // Whoever hangs up is gone.
      }
      if (this.#connection === connection) this.die();
    }
  }

  async #answer(connection: Deno.Conn, line: string): Promise<void> {
    const { execute, arguments: values, id } = JSON.parse(line);
    this.commands.push(execute);
    try {
      const answer = this.answers[execute];
      if (answer === undefined) throw new Refused(`The command ${execute} has not been found`);
      await sendLine(connection, { return: typeof answer === "function" ? await answer(values) : answer, id });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      await sendLine(connection, { error: { class: "GenericError", desc: error.message }, id });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    this.die();
    await this.#serving;
    await Deno.remove(this.#folder, { recursive: true });
  }
}

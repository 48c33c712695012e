/**
 * vhostctl: argv to command to exit code.
 *
 * Commands are loaded when they are called, so that `--help` and a wrong word cost nothing. This file alone ends the
 * process, and alone turns errors into text.
 *
 * @module
 */
import { Command, CommanderError, type CommandUnknownOpts } from "@commander-js/extra-typings";
import { CommandError, UsageError } from "./error.ts";
import { advice } from "./suggestion.ts";

const version = "0.1.0";

interface CommandEntry {
  readonly name: string;
  readonly about: string;
  /** Left out of the help: for vhostctl's own use. */
  readonly hidden?: boolean;
  /** Loads the module; its `command` builds the command, whose action throws a `CommandError` or sets Deno.exitCode. */
  load(): Promise<{ command(): CommandUnknownOpts }>;
}

/** One line for each command. */
const commands: readonly CommandEntry[] = [
  { name: "serve", about: "serve virtio-net ports and switch between them", load: () => import("./serve.ts") },
  {
    name: "pmd-forward",
    about: "forward between virtio-net ports, as DPDK's testpmd does",
    load: () => import("./pmd_forward.ts"),
  },
  {
    name: "migrate",
    about: "migrate a guest from one QEMU to another, or prove that guests can",
    load: () => import("./migrate.ts"),
  },
  {
    name: "reconnect-watch",
    about: "watch who comes and goes at ports and how long nothing passed, or prove that guests live on",
    load: () => import("./reconnect_watch.ts"),
  },
  {
    name: "vhost-pci",
    about: "show one VM's memory to another as a PCI device, which works on its network rings",
    load: () => import("./vhost_pci.ts"),
  },
  { name: "bench", about: "measure the way from guest to guest, and check it", load: () => import("./bench.ts") },
  {
    name: "tso-test",
    about: "prove that big packets arrive as each receiver takes them",
    load: () => import("./tso_test.ts"),
  },
  { name: "guest", about: "simulated guests", hidden: true, load: () => import("./guest.ts") },
  {
    name: "migration-host",
    about: "a host of simulated guests that migrate",
    hidden: true,
    load: () => import("./self_migration_host.ts"),
  },
  {
    name: "reconnect-host",
    about: "simulated guests whose back end comes and goes",
    hidden: true,
    load: () => import("./self_reconnect_host.ts"),
  },
];

const examples = `
Examples:
  vhostctl serve --queues 4            two ports, four queue pairs each, a switch between them
  vhostctl bench vm2vm                 packets from guest to guest, as fast as they go
  vhostctl tso-test                    big packets to every kind of guest, byte by byte
  vhostctl migrate --from /run/a/qmp --to tcp:host2:4444    a guest to another host
  vhostctl reconnect-watch --attach /run/vhostctl/control.sock    how long ports are out
  vhostctl serve --help                what a command can do

Exit codes: 0 done, 1 the operation failed, 2 wrong usage, 3 the host lacks something.`;

/** Commander would print and exit by itself: here it throws, and says nothing of errors. */
function quieten(command: CommandUnknownOpts): void {
  command.exitOverride().configureOutput({ outputError: () => {} }).helpOption("-h, --help", "show this help");
  command.commands.forEach(quieten);
}

/** The program, with the command that `words` call loaded and the others only named. */
async function program(words: readonly string[]): Promise<CommandUnknownOpts> {
  const root = new Command("vhostctl");
  quieten(root);
  root.description("A vhost-user toolkit in one file: fast virtio-net ports for QEMU and other front ends.")
    .version(`vhostctl ${version}`, "-V, --version", "show the version").helpCommand(
      "help [command]",
      "show the help of a command",
    )
    .addHelpText("after", examples);
  const called = words[0] === "help" ? words[1] : words[0];
  if (words[0] === "help" && called !== undefined && !commands.some(({ name }) => name === called)) {
    throw new UsageError(unknownCommand(called));
  }
  for (const { name, about, hidden = false, load } of commands) {
    const command = name === called ? (await load()).command() : new Command(name).description(about);
    quieten(command);
    root.addCommand(command, { hidden });
  }
  return root;
}

/** How commander calls what went wrong, and how we do. */
const failures: Record<string, string> = {
  "commander.unknownOption": "unknown option",
  "commander.unknownCommand": "unknown command",
  "commander.optionMissingArgument": "option needs a value",
  "commander.missingArgument": "argument missing",
  "commander.excessArguments": "too many arguments",
  "commander.conflictingOption": "options exclude each other",
};

function unknownCommand(word: string): string {
  const words = commands.filter(({ hidden }) => !hidden).map(({ name }) => name);
  return `unknown command: ${word}: ${advice(word, words)}`;
}

/** The house's form of commander's message: *what failed: value: what to do*. */
function usage(error: CommanderError, words: readonly string[]): string {
  const what = failures[error.code];
  const text = error.message.replace(/^error: /, "");
  if (what === undefined) return text;
  const quoted = [...text.matchAll(/'([^']*)'/g)].map((match) => match[1] ?? "");
  if (error.code === "commander.unknownCommand") return unknownCommand(quoted[0] ?? "");
  const value = error.code === "commander.excessArguments"
    ? words.filter((word) => !word.startsWith("-")).slice(1).join(" ")
    : quoted.join(", ");
  const meant = /\(Did you mean (?:one of )?([^?]*)\?\)/.exec(text)?.[1];
  const help = `see vhostctl ${words[0] === undefined || words[0].startsWith("-") ? "" : `${words[0]} `}--help`;
  return `${what}: ${value}: ${meant === undefined ? help : `did you mean ${meant}?`}`;
}

/** Prints an error on stderr and says how the process is to end. */
function report(error: unknown, words: readonly string[]): number {
  const name = commands.some((entry) => entry.name === words[0]) ? `vhostctl ${words[0]}` : "vhostctl";
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    // Without a command the help was shown, on stderr.
    if (error.code !== "commander.help") console.error(`${name}: ${usage(error, words)}`);
    return 2;
  }
  if (error instanceof CommandError) {
    console.error(`${name}: ${error.message}`);
    return error.exitCode;
  }
  console.error(`${name}: internal error: ${error instanceof Error ? error.stack : error}: please report it`);
  return 1;
}

async function main(words: readonly string[]): Promise<number> {
  try {
    await (await program(words)).parseAsync(words, { from: "user" });
    return Deno.exitCode;
  } catch (error) {
    return report(error, words);
  }
}

// Behind the module's end: only what has one is kept compiled by the runtime for the next start.
setTimeout(async () => Deno.exit(await main(Deno.args)));

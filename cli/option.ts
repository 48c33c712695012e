/**
 * Values of options: text to number, list or choice, or a `UsageError` that says what would do.
 *
 * @module
 */
import { Option } from "@commander-js/extra-typings";
import { UsageError } from "./error.ts";
import { advice } from "./suggestion.ts";

/** Parses a whole number from `least` to `most`; `name` is the option's, for the message. */
export function wholeNumber(name: string, least: number, most: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
    if (value >= least && value <= most) return value;
    throw new UsageError(`cannot use ${name}: ${text}: give a whole number from ${least} to ${most}`);
  };
}

/** Parses a switch; `name` is for the message. */
export function onOff(name: string): (text: string) => boolean {
  return (text) => {
    if (text === "on" || text === "off") return text === "on";
    throw new UsageError(`cannot use ${name}: ${text}: give on or off`);
  };
}

/** Refuses options that a user may know from elsewhere; `message` gets the option's long name, or its letter. */
export function refuseOptions(
  command: { addOption(option: Option): unknown; on(event: string, listener: (value: unknown) => void): unknown },
  flags: readonly string[],
  message: (name: string, value: unknown) => string,
): void {
  for (const option of flags.map((each) => new Option(each).hideHelp())) {
    command.addOption(option);
    command.on(`option:${option.name()}`, (value) => {
      throw new UsageError(message(option.long ?? option.short ?? "", value));
    });
  }
}

/** Parses seconds, with decimals if need be; 0 is allowed. */
export function seconds(name: string, least: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,7}(\.\d{1,6})?$/.test(text) ? Number(text) : NaN;
    if (value === 0 || value >= least) return value;
    throw new UsageError(`cannot use ${name}: ${text}: give seconds, ${least} or more, or 0 for none`);
  };
}

/** Parses one of a few words. */
export function choice<const Words extends readonly string[]>(
  name: string,
  words: Words,
): (text: string) => Words[number] {
  return (text) => {
    const word = words.find((candidate) => candidate === text);
    if (word !== undefined) return word;
    throw new UsageError(`cannot use ${name}: ${text}: ${advice(text, words)}`);
  };
}

/** Parses the mode bits of a socket, in octal. */
export function socketMode(text: string): number {
  const value = /^0?[0-7]{3}$/.test(text) ? parseInt(text, 8) : NaN;
  if ((value & 0o600) === 0o600) return value;
  throw new UsageError(
    `cannot use --socket-mode: ${text}: give octal mode bits with 6 or 7 for the owner, such as 0660`,
  );
}

/** The sockets' permissions, for every command that makes some. */
export function socketModeOption() {
  return new Option("--socket-mode <mode>", "permissions of the sockets").default(0o600, "0600").argParser(socketMode);
}

/** What a worker does without traffic. */
export const idleModes = ["adaptive", "busy", "sleep"] as const;
export type IdleMode = (typeof idleModes)[number];

/** When workers rest, for every command that has some. */
export function idleOption() {
  return new Option("--idle <mode>", "without traffic: adaptive polls on for a moment, then sleeps; busy; sleep")
    .default("adaptive" as const, "adaptive").argParser(choice("--idle", idleModes));
}

/** Parses a list of CPUs as Linux writes it: `0,2-4`. The order is kept. */
export function cpuList(text: string): number[] {
  const cpus: number[] = [];
  for (const part of text.split(",")) {
    const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(part);
    const first = Number(match?.[1]);
    const last = Number(match?.[2] ?? match?.[1]);
    if (!match || last < first) throw new UsageError(`cannot use --cpus: ${text}: give a list such as 1,3 or 2-5`);
    for (let cpu = first; cpu <= last; cpu++) cpus.push(cpu);
  }
  const twice = cpus.find((cpu, index) => cpus.indexOf(cpu) !== index);
  if (twice !== undefined) throw new UsageError(`cannot use --cpus: ${text}: give CPU ${twice} once`);
  return cpus;
}

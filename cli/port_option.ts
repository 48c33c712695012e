/**
 * `--port name=..,socket=..`: what the user says of one port, and the ports that follow from a whole command line.
 *
 * @module
 */
import { isAbsolute, join, normalize, resolve } from "node:path";
import { makeOffer, offerNames, type PortMode, type PortPlan } from "../mod.ts";
import { UsageError } from "./error.ts";
import { onOff, wholeNumber } from "./option.ts";
import { advice } from "./suggestion.ts";

/** A port as far as `--port` says it. */
export interface PortOption {
  readonly name?: string;
  readonly socket?: string;
  readonly mode?: PortMode;
  readonly queues?: number;
  readonly mac?: string;
  readonly mtu?: number;
  readonly features?: readonly string[];
  readonly "guest-tso"?: boolean;
  readonly postcopy?: boolean;
  readonly "device-state"?: boolean;
}

/** What a socket's address has room for (unix(7)), without the zero at the end. */
const pathBytesMax = 107;
const keys = [
  "name",
  "socket",
  "mode",
  "queues",
  "mac",
  "mtu",
  "features",
  "guest-tso",
  "postcopy",
  "device-state",
] as const;
const modes: readonly PortMode[] = ["server", "client"];

/** QEMU takes a port's name as an id (its `id_wellformed`). `option` is for the message. */
export function portName(option: string): (text: string) => string {
  return (text) => {
    if (/^[A-Za-z][A-Za-z0-9._-]{0,31}$/.test(text)) return text;
    throw new UsageError(
      `cannot use name= in ${option}: ${text}: give a letter, then letters, digits, '.', '_' or '-', 32 at most`,
    );
  };
}

function mode(text: string): PortMode {
  const word = modes.find((candidate) => candidate === text);
  if (word !== undefined) return word;
  throw new UsageError(`cannot use mode= in --port: ${text}: ${advice(text, modes)}`);
}

function mac(text: string): string {
  const plain = text.toLowerCase().replaceAll("-", ":");
  const wellFormed = /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(plain) && plain !== "00:00:00:00:00:00";
  if (wellFormed && (parseInt(plain.slice(0, 2), 16) & 1) === 0) return plain;
  throw new UsageError(`cannot use mac= in --port: ${text}: give a unicast address such as 52:54:00:12:34:56`);
}

/** `-NAME`, or several in a row: `-MQ-EVENT_IDX`. */
function features(text: string): string[] {
  if (!/^(-[A-Za-z0-9_]+)+$/.test(text)) {
    throw new UsageError(
      `cannot use features= in --port: ${text}: give -NAME to withhold a feature, such as -EVENT_IDX`,
    );
  }
  const names = text.slice(1).toUpperCase().split("-");
  const unknown = names.find((word) => !offerNames.includes(word));
  if (unknown === undefined) return names;
  throw new UsageError(`cannot use features= in --port: ${unknown}: ${advice(unknown, offerNames)}`);
}

const parsers = {
  name: portName("--port"),
  socket: (text: string) => text,
  mode,
  queues: wholeNumber("queues= in --port", 1, 128),
  mac,
  mtu: wholeNumber("mtu= in --port", 68, 65535),
  features,
  "guest-tso": onOff("guest-tso= in --port"),
  postcopy: onOff("postcopy= in --port"),
  "device-state": onOff("device-state= in --port"),
} satisfies Record<(typeof keys)[number], (text: string) => unknown>;

/** Commas part the settings; one within a value is written twice, as QEMU has it. `option` is for the message. */
export function settings(text: string, option: string): [string, string][] {
  return text.replaceAll(",,", "\0").split(",").map((part) => {
    const [key, ...value] = part.replaceAll("\0", ",").split("=");
    if (key === undefined || value.length === 0 || value.join("=") === "") {
      throw new UsageError(`cannot read ${option}: ${text}: give KEY=VALUE, several parted by commas`);
    }
    return [key, value.join("=")];
  });
}

/** Parses one `--port`; throws a `UsageError` that names the setting. */
export function parsePort(text: string): PortOption {
  const found: Record<string, unknown> = {};
  for (const [word, value] of settings(text, "--port")) {
    const key = keys.find((candidate) => candidate === word);
    if (key === undefined) throw new UsageError(`unknown setting in --port: ${word}: ${advice(word, keys)}`);
    if (key === "features" && Array.isArray(found[key])) found[key] = [...found[key], ...features(value)];
    else if (key in found) throw new UsageError(`twice in one --port: ${key}: give it once`);
    else found[key] = parsers[key](value);
  }
  return found;
}

/** Collects repeated `--port` options. */
export function collectPort(text: string, before: readonly PortOption[] | undefined): PortOption[] {
  return [...(before ?? []), parsePort(text)];
}

/** A locally administered address that stays the same for a socket, so that a guest keeps its name for the NIC. */
function macOf(socket: string, taken: ReadonlySet<string>): string {
  // FNV-1a, 32 bits.
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(socket)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  for (;; hash = (hash + 1) >>> 0) {
    const tail = (hash & 0xffffff).toString(16).padStart(6, "0");
    const address = `52:54:00:${tail.slice(0, 2)}:${tail.slice(2, 4)}:${tail.slice(4)}`;
    if (!taken.has(address)) return address;
  }
}

/** Throws a `UsageError` where a path is too long for a socket. */
export function checkSocket(socket: string): void {
  const length = new TextEncoder().encode(socket).length;
  if (length <= pathBytesMax) return;
  throw new UsageError(`socket path too long: ${socket}: it has ${length} bytes, give one of ${pathBytesMax} or fewer`);
}

/** Throws a `UsageError` where two ports would share what each needs for itself. */
export function checkTwice(what: string, values: readonly string[]): void {
  const twice = values.find((value, index) => values.indexOf(value) !== index);
  if (twice !== undefined) throw new UsageError(`two ports with the same ${what}: ${twice}: give each its own`);
}

/** What else a port needs to know, with the defaults. */
export interface PortDefaults {
  readonly directory: string;
  readonly queuePairs: number;
  /** To resolve relative paths. */
  readonly workingDirectory: string;
  /** Where state files go: beside the sockets, if undefined; nowhere: "none". */
  readonly stateDirectory?: string | undefined;
}

function planSocket(option: PortOption, name: string, { directory, workingDirectory }: PortDefaults): string {
  const socket = option.socket ?? join(directory, `${name}.sock`);
  return isAbsolute(socket) ? normalize(socket) : join(workingDirectory, socket);
}

function planState(socket: string, name: string, { stateDirectory, workingDirectory }: PortDefaults) {
  if (stateDirectory === "none") return undefined;
  return stateDirectory === undefined ? `${socket}.state` : resolve(workingDirectory, stateDirectory, `${name}.state`);
}

/** QEMU 11.1 (not 7.2) then waits for the answer to a request that it did not send, and the guest is lost. */
function checkPostCopy({ postcopy = false, queues }: PortOption, name: string, { queuePairs }: PortDefaults): void {
  if (!postcopy || (queues ?? queuePairs) === 1) return;
  throw new UsageError(
    `cannot serve post-copy with several queue pairs: ${name}: QEMU waits for ever at the end: give queues=1`,
  );
}

/** Fills in names, sockets and MACs; throws a `UsageError` where two ports would clash. */
export function planPorts(options: readonly PortOption[], defaults: PortDefaults): PortPlan[] {
  const names = options.map((option, index) => option.name ?? `port${index}`);
  checkTwice("name", names);
  const sockets = options.map((option, index) => planSocket(option, names[index]!, defaults));
  checkTwice("socket", sockets);
  sockets.forEach(checkSocket);
  const given = options.flatMap((option) => option.mac ?? []);
  checkTwice("mac", given);
  const macs = new Set(given);
  return options.map((option, index) => {
    const socket = sockets[index]!;
    const address = option.mac ?? macOf(socket, macs);
    macs.add(address);
    checkPostCopy(option, names[index]!, defaults);
    return {
      name: names[index]!,
      socket,
      mode: option.mode ?? "server",
      mac: address,
      offer: makeOffer({
        queuePairs: option.queues ?? defaults.queuePairs,
        mtu: option.mtu,
        postCopy: option.postcopy,
        deviceState: option["device-state"],
        withheld: option.features ?? [],
      }),
      guestTso: option["guest-tso"],
      state: planState(socket, names[index]!, defaults),
    };
  });
}

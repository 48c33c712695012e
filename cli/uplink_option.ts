/**
 * `--uplink tap:IF,queues=2`: an interface of the host's, and the port that leads to it.
 *
 * @module
 */
import { macText, makeOffer, type PortPlan, type UplinkKindName, vhostMac } from "../mod.ts";
import { UsageError } from "./error.ts";
import { onOff, wholeNumber } from "./option.ts";
import { checkTwice, portName, settings } from "./port_option.ts";
import { advice } from "./suggestion.ts";

/** An uplink as `--uplink` says it. */
export interface UplinkOption {
  readonly kind: UplinkKindName;
  readonly interface: string;
  readonly name?: string;
  readonly queues?: number;
  readonly mtu?: number;
  readonly gro?: boolean;
}

const kinds: readonly UplinkKindName[] = ["tap", "packet", "xdp"];

const parsers = {
  name: portName("--uplink"),
  queues: wholeNumber("queues= in --uplink", 1, 128),
  mtu: wholeNumber("mtu= in --uplink", 68, 65521),
  gro: onOff("gro= in --uplink"),
} satisfies Record<string, (text: string) => unknown>;

/** Parses one `--uplink`; throws a `UsageError` that names the setting. */
export function parseUplink(text: string): UplinkOption {
  const match = /^([a-z]+):([^,]*)(?:,(.*))?$/.exec(text);
  const kind = kinds.find((word) => word === match?.[1]);
  if (match === null || kind === undefined) {
    throw new UsageError(`cannot use --uplink: ${text}: choose from ${kinds.map((word) => `${word}:IF`).join(", ")}`);
  }
  const [, , name = "", more] = match;
  if (!/^[^\s/]{1,15}$/.test(name) || name === "." || name === "..") {
    throw new UsageError(`cannot use --uplink: ${name}: give the name of an interface, 1 to 15 bytes`);
  }
  const found: Record<string, unknown> = { kind, interface: name };
  for (const [key, value] of more === undefined ? [] : settings(more, "--uplink")) {
    if (!Object.hasOwn(parsers, key)) {
      throw new UsageError(`unknown setting in --uplink: ${key}: ${advice(key, Object.keys(parsers))}`);
    }
    if (key in found) throw new UsageError(`twice in one --uplink: ${key}: give it once`);
    found[key] = parsers[key as keyof typeof parsers](value);
  }
  return found as unknown as UplinkOption;
}

/** Collects repeated `--uplink` options. */
export function collectUplink(text: string, before: readonly UplinkOption[] | undefined): UplinkOption[] {
  return [...(before ?? []), parseUplink(text)];
}

/** The ports; throws a `UsageError` where two would clash. */
export function planUplinks(options: readonly UplinkOption[]): PortPlan[] {
  checkTwice("interface", options.map((option) => option.interface));
  return options.map((option, index) => ({
    name: option.name ?? `uplink${index}`,
    socket: "",
    mode: "client",
    // Nobody sends from it.
    mac: macText(vhostMac(index)),
    offer: makeOffer({ queuePairs: option.queues ?? 1 }),
    uplink: { kind: option.kind, interface: option.interface, mtu: option.mtu, gro: option.gro },
  }));
}

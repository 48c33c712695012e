/** Options to plans, as pure functions: what is taken, what is refused, and in which words. */

import { deepEqual, equal, match, ok, throws } from "node:assert/strict";
import { UsageError } from "../cli/error.ts";
import { hasFeature } from "../mod.ts";
import { protocolFeatureNames } from "../vhost/spec.ts";
import { cpuList, seconds, socketMode, wholeNumber } from "../cli/option.ts";
import { parsePort, planPorts } from "../cli/port_option.ts";
import { planServe, serveCommand, type Surroundings } from "../cli/serve_options.ts";
import { nearest } from "../cli/suggestion.ts";

const surroundings: Surroundings = {
  runtimeDirectory: "/run/user/7",
  workingDirectory: "/home/one",
  cores: 4,
};

/** The plan that a command line of `serve` leads to. */
function plan(words: string[], around: Partial<Surroundings> = {}) {
  const command = serveCommand().exitOverride().configureOutput({ outputError: () => {} });
  command.action(() => {});
  command.parse(words, { from: "user" });
  return planServe(command.opts(), { ...surroundings, ...around });
}

/** Calls that must fail with a UsageError whose text contains a part. */
function refuses(call: () => unknown, part: string) {
  throws(call, (error: Error) => error instanceof UsageError && error.message.includes(part), part);
}

Deno.test("a port's settings are read", () => {
  deepEqual(parsePort("name=web,socket=/tmp/a,,b=c.sock,mode=client,queues=4,mac=52-54-00-AA-BB-01,mtu=9000"), {
    name: "web",
    socket: "/tmp/a,b=c.sock",
    mode: "client",
    queues: 4,
    mac: "52:54:00:aa:bb:01",
    mtu: 9000,
  });
  deepEqual(parsePort("guest-tso=off"), { "guest-tso": false });
  deepEqual(parsePort("postcopy=on,device-state=on"), { postcopy: true, "device-state": true });
  deepEqual(parsePort("features=-mq-EVENT_IDX,features=-MTU"), { features: ["MQ", "EVENT_IDX", "MTU"] });
});

Deno.test("a port's settings are refused", async (t) => {
  const cases: [text: string, part: string][] = [
    ["", "cannot read --port"],
    ["name", "cannot read --port: name: give KEY=VALUE"],
    ["guest-tso=no", "cannot use guest-tso= in --port: no: give on or off"],
    ["name=", "cannot read --port"],
    ["name=a,", "cannot read --port"],
    ["=a", "unknown setting in --port: : choose from name, socket, mode"],
    ["socker=/tmp/a", "unknown setting in --port: socker: did you mean socket?"],
    ["xyz=1", "unknown setting in --port: xyz: choose from name, socket"],
    ["name=a,name=b", "twice in one --port: name: give it once"],
    ["name=1a", "cannot use name= in --port: 1a: give a letter"],
    ["name=a b", "cannot use name="],
    [`name=${"a".repeat(33)}`, "cannot use name="],
    ["mode=servr", "cannot use mode= in --port: servr: did you mean server?"],
    ["mode=both", "cannot use mode= in --port: both: choose from server, client"],
    ["queues=0", "cannot use queues= in --port: 0: give a whole number from 1 to 128"],
    ["queues=129", "from 1 to 128"],
    ["queues=2x", "cannot use queues= in --port: 2x"],
    ["queues=-1", "cannot use queues="],
    ["queues=1.5", "cannot use queues="],
    ["queues=0x4", "cannot use queues="],
    ["mac=52:54:00:12:34", "cannot use mac= in --port: 52:54:00:12:34: give a unicast address"],
    ["mac=53:54:00:12:34:56", "unicast"],
    ["mac=00:00:00:00:00:00", "unicast"],
    ["mac=52:54:00:12:34:5g", "cannot use mac="],
    ["mtu=67", "from 68 to 65535"],
    ["mtu=65536", "from 68 to 65535"],
    ["features=MQ", "cannot use features= in --port: MQ: give -NAME"],
    ["features=-", "cannot use features="],
    ["features=-MQ-EVENT_ID", "cannot use features= in --port: EVENT_ID: did you mean EVENT_IDX?"],
    ["features=-RING_RESET", "cannot use features= in --port: RING_RESET: choose from"],
  ];
  for (const [text, part] of cases) {
    await t.step(text === "" ? "nothing" : text, () => refuses(() => parsePort(text), part));
  }
});

Deno.test("ports get names, absolute sockets and MACs of their own", () => {
  const defaults = { directory: "run", queuePairs: 2, workingDirectory: "/w" };
  const ports = planPorts([{}, { name: "b", socket: "../x.sock", queues: 1 }, { socket: "/a/./c" }], defaults);
  deepEqual(ports.map(({ name, socket, offer }) => [name, socket, offer.queuePairs]), [
    ["port0", "/w/run/port0.sock", 2],
    ["b", "/x.sock", 1],
    ["port2", "/a/c", 2],
  ]);
  equal(new Set(ports.map(({ mac }) => mac)).size, 3);
  for (const { mac } of ports) match(mac, /^52:54:00(:[0-9a-f]{2}){3}$/);
  deepEqual(planPorts([{}, {}, {}], defaults).map(({ mac }) => mac).slice(0, 1), [ports[0]!.mac]);
});

Deno.test("a port offers what is left", () => {
  const defaults = { directory: "/d", queuePairs: 4, workingDirectory: "/" };
  const [all, some] = planPorts([{}, { features: ["MQ", "EVENT_IDX"], mtu: 1400 }], defaults);
  equal(all!.offer.queuePairs, 4);
  ok(hasFeature(all!.offer.features, "EVENT_IDX"));
  deepEqual([some!.offer.queuePairs, some!.offer.mtu], [1, 1400]);
  ok(!hasFeature(some!.offer.features, "EVENT_IDX"));
});

Deno.test("what helps migrations is offered where it is asked for", () => {
  const defaults = { directory: "/d", queuePairs: 1, workingDirectory: "/" };
  const [none, both] = planPorts([{}, { postcopy: true, "device-state": true }], defaults);
  const names = protocolFeatureNames(both!.offer.protocolFeatures & ~none!.offer.protocolFeatures);
  deepEqual(names, ["PAGEFAULT", "DEVICE_STATE"]);
  const refusal = "cannot serve post-copy with several queue pairs: b: QEMU waits for ever at the end: give queues=1";
  refuses(() => planPorts([{ name: "b", postcopy: true, queues: 2 }], defaults), refusal);
  refuses(() => planPorts([{ name: "b", postcopy: true }], { ...defaults, queuePairs: 2 }), refusal);
});

Deno.test("a thousand ports have a thousand MACs", () => {
  const ports = planPorts(Array.from({ length: 1024 }, () => ({})), {
    directory: "/d",
    queuePairs: 1,
    workingDirectory: "/",
  });
  equal(new Set(ports.map(({ mac }) => mac)).size, 1024);
});

Deno.test("ports that would clash are refused", () => {
  const defaults = { directory: "/d", queuePairs: 1, workingDirectory: "/" };
  refuses(() => planPorts([{ name: "a" }, { name: "a" }], defaults), "two ports with the same name: a");
  refuses(() => planPorts([{ name: "port1" }, {}], defaults), "two ports with the same name: port1");
  refuses(
    () => planPorts([{ socket: "/d/s" }, { socket: "/d/../d/s" }], defaults),
    "two ports with the same socket: /d/s",
  );
  const mac = "52:54:00:00:00:01";
  refuses(() => planPorts([{ mac }, { mac }], defaults), `two ports with the same mac: ${mac}`);
});

Deno.test("a socket path may have 107 bytes", () => {
  const defaults = { directory: "/d", queuePairs: 1, workingDirectory: "/" };
  const longest = `/${"a".repeat(106)}`;
  equal(planPorts([{ socket: longest }], defaults)[0]!.socket, longest);
  refuses(() => planPorts([{ socket: `${longest}b` }], defaults), "it has 108 bytes, give one of 107 or fewer");
  refuses(() => planPorts([{ socket: `/${"ä".repeat(54)}` }], defaults), "it has 109 bytes");
});

Deno.test("serve without options makes two ports in the user's directory", () => {
  const { ports, directory, workers, idle, socketMode } = plan([]);
  deepEqual(ports.map(({ socket }) => socket), ["/run/user/7/vhostctl/port0.sock", "/run/user/7/vhostctl/port1.sock"]);
  deepEqual({ directory, workers: workers.length, idle, socketMode }, {
    directory: "/run/user/7/vhostctl",
    workers: 2,
    idle: "adaptive",
    socketMode: 0o600,
  });
  equal(plan([], { runtimeDirectory: undefined }).directory, "/run/vhostctl");
  equal(plan([], { cores: 1 }).workers.length, 1);
});

Deno.test("serve plans ports and workers", () => {
  equal(plan(["--ports", "64", "--queues", "2"]).ports.length, 64);
  equal(plan(["--ports", "64"]).workers.length, 3);
  equal(plan(["--workers", "9"]).workers.length, 9);
  deepEqual(plan(["--cpus", "3,1"]).workers, [3, 1]);
  const given = plan(["--queues", "4", "--port", "name=a,socket=/a", "--port", "socket=/b,queues=1,mode=client"]);
  equal(given.directory, undefined);
  deepEqual(given.ports.map(({ name, mode, offer }) => [name, mode, offer.queuePairs]), [
    ["a", "server", 4],
    ["port1", "client", 1],
  ]);
  deepEqual(plan(["--socket-path", "/x.sock"]).ports.map(({ socket }) => socket), ["/x.sock"]);
});

Deno.test("serve refuses workers and CPUs that do not fit", () => {
  refuses(() => plan(["--cpus", "1", "--workers", "2"]), "--workers and --cpus differ: 2 workers, 1 CPUs");
});

Deno.test("values of options are read or refused", () => {
  equal(wholeNumber("--n", 1, 10)("10"), 10);
  for (const text of ["0", "11", "", "1e1", " 1", "-1", "9".repeat(40)]) {
    refuses(() => wholeNumber("--n", 1, 10)(text), "--n");
  }
  deepEqual(cpuList("3,0-2"), [3, 0, 1, 2]);
  for (const text of ["", "1,", "2-1", "a", "1-", "-1", "1,1", "0-2,1"]) {
    refuses(() => cpuList(text), "cannot use --cpus");
  }
  equal(socketMode("0660"), 0o660);
  equal(socketMode("666"), 0o666);
  for (const text of ["0460", "888", "77", "rw", "00660"]) refuses(() => socketMode(text), "cannot use --socket-mode");
  equal(seconds("--stats", 0.1)("0.5"), 0.5);
  equal(seconds("--stats", 0.1)("0"), 0);
  for (const text of ["0.01", "-1", "1s", ""]) refuses(() => seconds("--stats", 0.1)(text), "cannot use --stats");
});

Deno.test("the nearest word is one that could have been meant", () => {
  const words = ["serve", "bench", "migrate"];
  equal(nearest("sreve", words), "serve");
  equal(nearest("Serv", words), "serve");
  equal(nearest("migrat", words), "migrate");
  equal(nearest("xyz", words), undefined);
  equal(nearest("", words), undefined);
});

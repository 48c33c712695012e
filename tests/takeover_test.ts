/** `vhostctl serve --takeover`: one process goes on with the ports of another, and guests under load do not notice. */

import assert from "node:assert/strict";
import { askTakeover } from "../cli/control_client.ts";
import type { Said, Talk } from "../cli/takeover_talk.ts";
import { loadLibrary } from "../ffi/library.ts";
import { within } from "./real/process.ts";
import { Serve } from "./real/serve.ts";
import { end_ms, TakeoverPlace } from "./takeover_place.ts";

// It stays open for good: opened here, it belongs to no test.
loadLibrary();

for (const ring of ["split", "packed"] as const) {
  Deno.test(`guests with ${ring} rings under load pass through five processes, and no packet is lost`, async () => {
    await using place = await TakeoverPlace.start({ ring });
    place.load();
    await place.traffic();
    const gaps = [];
    for (let round = 0; round < 5; round++) {
      gaps.push(await place.takeOver());
      await place.traffic();
    }
    console.error(`${ring}: rings rested for ${gaps.map((gap) => gap.toFixed(1)).join(", ")} ms`);
    await place.account();
    for (const port of [0, 1]) assert.ok(Deno.lstatSync(`${place.folder}/port${port}.sock`).isSocket);
    await place.serve.finish();
    // The guests go on where they are.
    const left = Array.from(Deno.readDirSync(place.folder), ({ name }) => name).toSorted();
    assert.deepEqual(left, ["port0.sock.state", "port1.sock.state"]);
  });
}

Deno.test("four queues of migrating guests pass through three processes, which hold no more than one", async () => {
  await using place = await TakeoverPlace.start({ ring: "packed", queues: 4, logs: true });
  place.load();
  await place.traffic();
  const before = place.descriptors();
  for (let round = 0; round < 3; round++) {
    await place.takeOver();
    await place.traffic();
  }
  await place.hasDescriptors(before);
  const reports = await place.account();
  assert.ok(reports.every((port) => port.to_guest["log_pages"]! > 0));
});

/** As far as a new process gets before it dies, and what the old one says of it. */
const steps: readonly (readonly [name: string, act: (talk: Talk) => Promise<void>, reason: RegExp])[] = [
  ["dies at once", () => Promise.resolve(), /ended/],
  ["dies after the greeting", async (talk) => void await hear(talk, "hello"), /ended/],
  ["dies after it asked for addresses", async (talk) => {
    await hear(talk, "hello");
    await talk.send("give", {});
  }, /ended/],
  ["dies after the addresses", async (talk) => {
    await hear(talk, "hello");
    await talk.send("give", {});
    await hear(talk, "macs");
  }, /ended/],
  ["dies with one port of two", async (talk) => {
    await hear(talk, "hello");
    await give(talk, "port0");
  }, /ended/],
  ["dies with all ports", allGiven, /ended/],
  ["dies when it is ready", async (talk) => {
    await allGiven(talk);
    await talk.send("ready", {});
  }, /in time/],
  ["dies with the positions", resting, /in time/],
  ["says nothing, and goes on too late", async (talk) => {
    await resting(talk);
    // The other one has shut the connection before it went on.
    assert.equal(await talk.next(end_ms), "gone");
    assert.equal(talk.commit(), false);
  }, /in time/],
  ["refuses at the greeting", async (talk) => {
    await hear(talk, "hello");
    await talk.send("refusal", { reason: "no such port here" });
    await talk.next(end_ms);
  }, /^no such port here$/],
  ["refuses the positions", async (talk) => {
    await resting(talk);
    await talk.send("refusal", { reason: "no" });
    await talk.next(end_ms);
  }, /in time/],
  ["asks for a port that there is not", async (talk) => {
    await hear(talk, "hello");
    await talk.send("give", { port: "port7" });
    await hear(talk, "refusal");
  }, /no port "port7"/],
  ["commits before it was its turn", async (talk) => {
    await hear(talk, "hello");
    talk.commit();
    await talk.next(end_ms);
  }, /said commit instead/],
];

async function hear(talk: Talk, kind: Said["kind"]): Promise<Said> {
  const said = await talk.expect(kind, end_ms);
  for (const fd of said.fds) fd[Symbol.dispose]();
  return said;
}

async function give(talk: Talk, port: string): Promise<void> {
  await talk.send("give", { port });
  assert.ok((await hear(talk, "port")).fds.length > 5);
}

async function allGiven(talk: Talk): Promise<void> {
  await hear(talk, "hello");
  for (const port of ["port0", "port1"]) await give(talk, port);
}

async function resting(talk: Talk): Promise<void> {
  await allGiven(talk);
  await talk.send("ready", {});
  await hear(talk, "positions");
}

for (const ring of ["split", "packed"] as const) {
  Deno.test(`a new process dies at any step: the old one serves on, with ${ring} rings`, async (test) => {
    await using place = await TakeoverPlace.start({ ring });
    place.load();
    await place.traffic();
    const before = place.descriptors();
    for (const [name, act, reason] of steps) {
      await test.step(`it ${name}`, async () => {
        const from = place.serve.now;
        await place.impersonate(act);
        await place.servesOn(reason, from);
      });
    }
    await place.hasDescriptors(before);
    await place.takeOver();
    await place.traffic();
    await place.account();
  });
}

Deno.test("a new process that dies right behind its commit has the rings: the old one leaves", async () => {
  await using place = await TakeoverPlace.start({ ring: "split" });
  place.load();
  await place.traffic();
  await place.impersonate(async (talk) => {
    await resting(talk);
    assert.equal(talk.commit(), true);
  });
  const { code } = await within("its end", end_ms, place.serve.program.finished);
  assert.equal(code, 0);
  assert.equal(place.serve.records.at(-1)!.event, "handed_over");
});

Deno.test("who may not, or may not now, is told so at the control socket", async () => {
  await using place = await TakeoverPlace.start({ ring: "split" });
  const ask = async (socket: unknown, version: unknown = 1) => {
    return await askTakeover(place.control, { socket, version } as { socket: string; version: number });
  };
  assert.match(`${await ask("/tmp/elsewhere.sock")}`, /must lie beside/);
  assert.match(`${await ask(`${place.folder}/../elsewhere.sock`)}`, /must lie beside/);
  assert.match(`${await ask(`${place.folder}/absent.sock`)}`, /No such file/);
  Deno.writeTextFileSync(`${place.folder}/file`, "");
  assert.match(`${await ask(`${place.folder}/file`)}`, /no socket of this user's/);
  Deno.removeSync(`${place.folder}/file`);
  assert.match(`${await ask(7)}`, /socket/);
  assert.match(`${await ask(`${place.folder}/absent.sock`, 0)}`, /version/);
  assert.match(`${await ask(`${place.folder}/absent.sock`, "1")}`, /version/);
  // A port of its own, which then has its front end twice, is no process that takes over.
  const from = place.serve.now;
  await ask(`${place.folder}/port0.sock`);
  await place.serve.until("handover_failed", {}, { from });
  await place.impersonate(async (talk) => {
    await hear(talk, "hello");
    assert.match(`${await ask(`${place.folder}/fake.sock`)}`, /already/);
  });
  place.load();
  await place.traffic();
  await place.account();
});

Deno.test("a plan that lacks a port, or has it elsewhere, is refused, and more ports are opened", async () => {
  await using place = await TakeoverPlace.start({ ring: "packed" });
  place.load();
  await place.traffic();
  const [dir, folder, ...rest] = place.serveArguments;
  for (
    const [args, reason] of [
      [["--ports", "1"], /port port1 has no place here/],
      [
        ["--port", "name=port0,socket=/tmp/other.sock", "--port", "name=port1"],
        /port port0 has socket .* give the same/,
      ],
    ] as const
  ) {
    const from = place.serve.now;
    await assert.rejects(Serve.start(dir!, folder!, ...rest, ...args, "--takeover"), reason);
    await place.servesOn(reason, from);
  }
  // What the guest has it keeps.
  await place.takeOver("--port", "name=port0", "--port", "name=port1,features=-RING_PACKED");
  await place.serve.until("offer_kept", { port: "port1" });
  await place.traffic();
  await place.takeOver("--ports", "4");
  await place.traffic();
  assert.equal((await place.serve.ports()).size, 4);
  assert.ok(Deno.lstatSync(`${place.folder}/port3.sock`).isSocket);
});

/** `vhostctl migrate` against QEMUs that are made up: what it says to them, and what it tells of them. */

import assert from "node:assert/strict";
import { CommandError, UsageError } from "../cli/error.ts";
import { Migration, type MigrationPlan } from "../cli/migration.ts";
import { migrateCommand, planMigration } from "../cli/migrate_options.ts";
import { Convergence, type MigrateInfo, type Progress, progressOf, type Stall } from "../cli/migration_progress.ts";
import { type MigrationResult, resultLines } from "../cli/migration_outcome.ts";
import { progressText, stallLines } from "../cli/migration_text.ts";
import { Output } from "../cli/output.ts";
import { Qmp } from "../cli/qmp.ts";
import { addressText, socketAddress } from "../cli/socket_address.ts";
import { ControlServer } from "../cli/control_server.ts";
import { FakeQmp, Refused } from "./fake_qmp.ts";

const MiB = 1 << 20;

function options(...words: string[]): MigrationPlan {
  const command = migrateCommand().exitOverride();
  command.parse(words, { from: "user" });
  return planMigration(command.opts());
}

/** One answer after the other; the last one stays. */
function inTurn(...infos: MigrateInfo[]): () => MigrateInfo {
  let next = 0;
  return () => infos[Math.min(next++, infos.length - 1)]!;
}

/** The moments of a migration, after one at which there was none. */
function moments(...infos: MigrateInfo[]): () => MigrateInfo {
  return inTurn({}, ...infos);
}

function active(pass: number, remaining: number, more: Record<string, number> = {}): MigrateInfo {
  const ram = { "dirty-sync-count": pass, remaining, total: 1024 * MiB, transferred: 10 * MiB, "page-size": 4096 };
  return { status: "active", "expected-downtime": 120, ram: { ...ram, mbps: 800, "dirty-pages-rate": 0, ...more } };
}

const completed: MigrateInfo = {
  status: "completed",
  ...{ "total-time": 2100, "setup-time": 12, downtime: 34 },
  ram: { transferred: 300 * MiB, "dirty-sync-count": 5, remaining: 0, total: 1024 * MiB },
};

/** What one migration told and ended with. */
class Story {
  readonly progress: Progress[] = [];
  readonly stalls: Stall[] = [];
  readonly notes: string[] = [];
  readonly #stop = new AbortController();

  readonly #happens: (progress: Progress) => void;

  /** @param happens Called at each moment. */
  constructor(happens: (progress: Progress) => void = () => {}) {
    this.#happens = happens;
  }

  /** As Ctrl-C does. */
  stop(): void {
    this.#stop.abort();
  }

  async run(plan: MigrationPlan): Promise<MigrationResult> {
    await using migration = await Migration.open(plan, {
      progress: (progress) => {
        this.progress.push(progress);
        this.#happens(progress);
      },
      stalled: (stall) => void this.stalls.push(stall),
      note: (text) => void this.notes.push(text),
    });
    return await migration.run(this.#stop.signal);
  }
}

/** A socket that nobody listens on any more. */
async function leaveSocket(path: string): Promise<void> {
  const listener = Deno.listen({ transport: "unix", path: `${path}.live` });
  await Deno.rename(`${path}.live`, path);
  listener.close();
}

Deno.test("addresses are read as users and QEMU write them", () => {
  const read = socketAddress("--from");
  const cases: [string, string][] = [
    ["/run/qmp", "unix /run/qmp"],
    ["qmp", "unix qmp"],
    ["unix:/run/qmp,server=on,wait=off", "unix /run/qmp"],
    ["unix:/run/qmp,server,nowait", "unix /run/qmp"],
    ["/run/a:1/qmp", "unix /run/a:1/qmp"],
    ["host:4444", "tcp host:4444"],
    [":4444", "tcp localhost:4444"],
    ["tcp:10.0.0.1:4444,server=on,wait=off", "tcp 10.0.0.1:4444"],
    ["[fe80::1]:4444", "tcp [fe80::1]:4444"],
  ];
  for (const [text, wanted] of cases) assert.equal(`${read(text).transport} ${addressText(read(text))}`, wanted);
  for (const text of ["", "unix:", "tcp:host", "tcp:host:0", "tcp:host:70000"]) {
    assert.throws(() => read(text), UsageError, text);
  }
});

Deno.test("the command line becomes capabilities and parameters, and what cannot be meant is refused", () => {
  const plain = options("--from", "/q", "--to", "tcp:h:1");
  assert.deepEqual(Object.entries(plain.setting.capabilities).filter(([, on]) => on).map(([name]) => name), [
    "events",
    "return-path",
  ]);
  assert.ok(plain.setting.parameters["max-bandwidth"]! > 100e9);
  assert.equal("downtime-limit" in plain.setting.parameters, false);
  const rich = options(
    ...["--from", "/q", "--to", "unix:/m", "--to-qmp", "h:1", "--max-downtime", "2000", "--max-bandwidth", "1.2G"],
    ...["--auto-converge", "--postcopy", "--multifd", "4", "--cancel-after", "2.5"],
  );
  assert.deepEqual(rich.setting, {
    capabilities: {
      ...{ events: true, "return-path": true, "auto-converge": true, "postcopy-ram": true },
      ...{ multifd: true, "pause-before-switchover": false },
    },
    parameters: { "max-bandwidth": 1.2e9, "downtime-limit": 2000, "multifd-channels": 4 },
  });
  assert.equal(rich.cancelAfter_s, 2.5);
  assert.equal(options("--from", "/q", "--to", "exec:cat").setting.capabilities["return-path"], false);
  const wrong: [string[], RegExp][] = [
    [["--to", "tcp:h:1"], /option missing: --from/],
    [["--from", "/q"], /option missing: --to/],
    [["--from", "/q", "--to", "fd:3"], /file descriptor can be passed by its owner alone/],
    [["--from", "/q", "--to", "tcp:h"], /give QEMU's URI/],
    [["--from", "/q", "--to", "tcp:h:0"], /give QEMU's URI/],
    [["--from", "/q", "--to", "exec:cat", "--postcopy"], /cannot use --to with --postcopy/],
    [["--from", "/q", "--to", "tcp:h:1", "--max-bandwidth", "fast"], /cannot use --max-bandwidth: fast/],
    [["--from", "/q", "--to", "tcp:h:1", "--max-downtime", "0"], /cannot use --max-downtime: 0/],
  ];
  for (const [words, message] of wrong) {
    assert.throws(() => options(...words), (error) => error instanceof UsageError && message.test(error.message));
  }
});

Deno.test("a migration is set up, watched to its end, and reported", async () => {
  await using source = new FakeQmp();
  await using destination = new FakeQmp();
  source.answers["query-migrate"] = moments(active(1, 900 * MiB, { "dirty-pages-rate": 1000 }), completed);
  destination.answers["query-status"] = { status: "inmigrate", running: false };
  destination.answers["migrate-incoming"] = ({ uri }: Record<string, unknown>) => {
    assert.equal(uri, "unix:/m");
    return {};
  };
  source.answers["migrate"] = () => {
    assert.equal(source.capabilities.get("events"), true);
    assert.equal(destination.capabilities.get("events"), true);
    destination.answers["query-status"] = { status: "running", running: true };
    return {};
  };
  const story = new Story();
  const result = await story.run(
    options("--from", source.path, "--to", "unix:/m", "--to-qmp", destination.path, "--max-downtime", "500"),
  );
  assert.equal(source.parameters["downtime-limit"], 500);
  assert.equal(result.event, "migrated");
  assert.deepEqual([result.total_ms, result.setup_ms, result.downtime_ms, result.passes], [2100, 12, 34, 5]);
  assert.equal(result.destination.status, "running");
  assert.equal(result.not_known.source, "the guest has no vhost-user port");
  const [first] = story.progress;
  assert.deepEqual(
    [first!.remaining_bytes, first!.bytes_per_second, first!.dirty_bytes_per_second, first!.pass],
    [900 * MiB, 100e6, 4096e3, 1],
  );
  assert.equal(first!.estimated_ms, Math.round(900 * MiB / (100e6 - 4096e3) * 1000));
  const text = resultLines(result, new Output({ write: () => Promise.resolve(0), isTerminal: () => false }, {})).join(
    "\n",
  );
  assert.match(text, /^migrated in 2\.1 s, setup 12 ms, downtime 34 ms\nRAM: 315 MB sent in 5 passes\nsource: /);
});

Deno.test("what is left does not fall: it is told once, with options that help; what falls is left alone", () => {
  const at = (pass: number, remaining: number, seconds: number, dirty = 30_000) =>
    progressOf(active(pass, remaining, { "dirty-pages-rate": dirty }), seconds, undefined);
  const stalls = (rounds: number[]) => {
    const convergence = new Convergence();
    return rounds.map((remaining, index) => convergence.look(at(index + 1, remaining, index)));
  };
  assert.deepEqual(stalls([1000e6, 400e6, 160e6, 64e6, 26e6, 10e6, 4e6]).filter(Boolean), []);
  const told = stalls([1000e6, 400e6, 390e6, 410e6, 400e6, 405e6, 400e6]);
  assert.deepEqual(told.map((stall) => stall?.pass), [
    undefined,
    undefined,
    undefined,
    undefined,
    5,
    undefined,
    undefined,
  ]);
  const lines = stallLines(told[4]!, false);
  assert.match(
    lines[0]!,
    /^does not converge: the guest dirties 123 MB\/s, 100 MB\/s are sent, and 410 MB are left in pass 5/,
  );
  assert.match(lines.join("\n"), /--max-downtime 5000 .*--auto-converge.*--postcopy.*--max-bandwidth/s);
  assert.match(stallLines(told[4]!, true).join("\n"), /switching to post-copy$/);
  // The same pass again and again is no stall, and nor is one that sends nothing.
  const convergence = new Convergence();
  for (let second = 0; second < 100; second++) assert.equal(convergence.look(at(2, 400e6, second)), undefined);
  assert.match(progressText(at(3, 400e6, 1)), /400 MB of 1\.07 GB left, pass 3, .*no end in sight$/);
});

Deno.test("with --postcopy a migration that does not converge is switched over", async () => {
  await using source = new FakeQmp();
  const passes = [2, 3, 4, 5].map((pass) => active(pass, 400 * MiB, { "dirty-pages-rate": 30_000 }));
  source.answers["query-migrate"] = moments(active(1, 900 * MiB), ...passes, passes[3]!);
  source.answers["migrate-start-postcopy"] = () => {
    source.answers["query-migrate"] = completed;
    return {};
  };
  const story = new Story();
  const running = story.run(options("--from", source.path, "--to", "tcp:h:1", "--postcopy"));
  const result = await running;
  assert.deepEqual([result.event, result.postcopy, story.stalls.length], ["migrated", true, 1]);
  assert.equal(source.capabilities.get("postcopy-ram"), true);
});

Deno.test("where QEMU refuses post-copy the migration goes on without", async () => {
  await using source = new FakeQmp();
  const passes = [2, 3, 4, 5, 6, 7].map((pass) => active(pass, 400 * MiB, { "dirty-pages-rate": 30_000 }));
  source.answers["query-migrate"] = moments(active(1, 900 * MiB), ...passes, completed);
  source.answers["migrate-start-postcopy"] = () => {
    throw new Refused("Postcopy is not possible.");
  };
  const story = new Story();
  const result = await story.run(options("--from", source.path, "--to", "tcp:h:1", "--postcopy"));
  assert.deepEqual([result.event, result.postcopy], ["migrated", false]);
  assert.match(story.notes.join("\n"), /refused migrate-start-postcopy: Postcopy is not possible: it goes on without/);
  assert.equal(source.commands.includes("migrate_cancel"), false);
});

Deno.test("a migration that cannot be followed any more is cancelled", async () => {
  await using source = new FakeQmp();
  const before = moments(active(1, 900 * MiB), active(2, 400 * MiB));
  let looks = 0;
  source.answers["query-migrate"] = () => {
    if (++looks === 3) throw new Refused("Out of order.");
    return before();
  };
  const result = await new Story().run(options("--from", source.path, "--to", "tcp:h:1"));
  assert.deepEqual([result.event, result.reason], ["failed", "QEMU refused query-migrate: Out of order"]);
  assert.equal(source.commands.filter((command) => command === "migrate_cancel").length, 1);
});

Deno.test("Ctrl-C cancels, waits until that is done, puts settings back, and says where the guest is", async () => {
  await using source = new FakeQmp();
  await using destination = new FakeQmp();
  const story = new Story();
  source.answers["query-migrate"] = moments(active(1, 900 * MiB));
  source.answers["migrate"] = () => {
    setTimeout(() => story.stop(), 50);
    return {};
  };
  source.answers["migrate_cancel"] = () => {
    source.answers["query-migrate"] = inTurn({ ...active(1, 900 * MiB), status: "cancelling" }, {
      status: "cancelled",
    });
    destination.die();
    return {};
  };
  destination.answers["query-status"] = { status: "inmigrate", running: false };
  destination.answers["query-migrate"] = { "socket-address": [{ type: "unix", path: "/m" }] };
  const result = await story.run(options("--from", source.path, "--to", "unix:/m", "--to-qmp", destination.path));
  assert.deepEqual([result.event, result.source.status, result.destination.status], ["cancelled", "running", "gone"]);
  assert.deepEqual([...source.capabilities.values()].filter(Boolean), []);
  assert.equal(source.parameters["max-bandwidth"], 134217728);
  assert.equal(source.commands.filter((command) => command === "migrate_cancel").length, 1);
  assert.equal(destination.commands.includes("migrate-incoming"), false);
});

Deno.test("--cancel-after cancels by itself, but not what runs on the destination already", async () => {
  await using source = new FakeQmp();
  source.answers["query-migrate"] = moments({ ...active(3, 5 * MiB), status: "postcopy-active" });
  const story = new Story();
  const running = story.run(options("--from", source.path, "--to", "unix:/m", "--cancel-after", "0.1"));
  setTimeout(() => source.answers["query-migrate"] = completed, 1500);
  assert.equal((await running).event, "migrated");
  assert.match(story.notes.join("\n"), /not cancelled: post-copy has begun/);
  assert.equal(source.commands.includes("migrate_cancel"), false);
});

Deno.test("a failure has QEMU's reason, and the source's state is looked at", async () => {
  await using source = new FakeQmp();
  source.answers["query-migrate"] = moments(active(1, 900 * MiB), { status: "failed", "error-desc": "Broken pipe." });
  const story = new Story();
  const failed = await story.run(options("--from", source.path, "--to", "tcp:h:1"));
  assert.deepEqual([failed.event, failed.reason, failed.source.text], [
    "failed",
    "Broken pipe",
    "the guest runs on the source",
  ]);
  assert.equal(failed.destination.status, "not known");
  assert.deepEqual([...source.capabilities.values()].filter(Boolean), []);
});

Deno.test("a source that ends meanwhile is told as gone, a destination that ends afterwards as well", async () => {
  await using source = new FakeQmp();
  await using destination = new FakeQmp();
  destination.answers["query-status"] = { status: "inmigrate", running: false };
  destination.answers["query-migrate"] = { "socket-address": [{ type: "unix", path: "/m" }] };
  const plan = options("--from", source.path, "--to", "unix:/m", "--to-qmp", destination.path);
  source.answers["query-migrate"] = moments(active(1, 900 * MiB));
  source.answers["migrate"] = () => {
    setTimeout(() => source.die(), 20);
    return {};
  };
  const gone = await new Story().run(plan);
  assert.deepEqual([gone.event, gone.source.status, gone.destination.status], ["failed", "gone", "inmigrate"]);
  assert.match(gone.reason!, /QEMU closed its QMP socket/);

  source.answers["query-migrate"] = moments(completed);
  source.answers["migrate"] = () => {
    source.answers["query-status"] = { status: "postmigrate", running: false };
    destination.die();
    return {};
  };
  const lost = await new Story().run(plan);
  assert.deepEqual([lost.event, lost.destination.status], ["migrated", "gone"]);
  assert.match(lost.source.text, /say cont to it, and the guest runs on here/);
});

Deno.test("what cannot begin is refused with what to do, and nothing is changed", async () => {
  const cases: [string, (source: FakeQmp, destination: FakeQmp) => void, RegExp][] = [
    ["active", ({ answers }) => answers["query-migrate"] = active(1, 1), /under way already: active: wait for it/],
    [
      "blocked",
      ({ answers }) => answers["query-migrate"] = { "blocked-reasons": ["Migration disabled: vhost lacks LOG_ALL."] },
      /cannot migrate this guest: Migration disabled: vhost lacks LOG_ALL$/,
    ],
    [
      "gone",
      ({ answers }) => answers["query-status"] = { status: "postmigrate", running: false },
      /left this QEMU already/,
    ],
    [
      "waiting source",
      ({ answers }) => answers["query-status"] = { status: "inmigrate", running: false },
      /exchange --from and --to-qmp/,
    ],
    [
      "destination that runs",
      (_, { answers }) => answers["query-status"] = { status: "running", running: true },
      /destination does not wait for a guest: running: start its QEMU with -incoming defer/,
    ],
    ["no multifd", ({ capabilities }) => capabilities.delete("multifd"), /QEMU cannot: multifd/],
    [
      "destination that cannot listen",
      (_, { answers }) =>
        answers["migrate-incoming"] = () => {
          throw new Refused("Failed to bind socket: Address already in use");
        },
      /QEMU refused migrate-incoming: Failed to bind socket: Address already in use$/,
    ],
    [
      "refused",
      ({ answers }) =>
        answers["migrate"] = () => {
          throw new Refused("There's a migration process in progress");
        },
      /QEMU refused migrate: There's a migration process/,
    ],
  ];
  for (const [name, change, message] of cases) {
    await using source = new FakeQmp();
    await using destination = new FakeQmp();
    destination.answers["query-status"] = { status: "inmigrate", running: false };
    destination.answers["migrate-incoming"] = {};
    change(source, destination);
    const plan = options("--from", source.path, "--to", "tcp:h:1", "--to-qmp", destination.path, "--multifd", "2");
    await assert.rejects(new Story().run(plan), (error) => {
      assert.ok(error instanceof CommandError, `${name}: ${error}`);
      assert.match(error.message, message, name);
      return true;
    });
    assert.deepEqual([...source.capabilities.values()].filter(Boolean), [], name);
    assert.equal(source.parameters["max-bandwidth"], 134217728, name);
  }
});

Deno.test("a QMP socket that is not there, is busy, or is something else is told apart", async () => {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/gone`;
  const open = (address: string) => Qmp.open(socketAddress("--from")(address));
  await assert.rejects(
    open(path),
    /cannot reach QEMU: \S+gone: no such file: start QEMU with -qmp unix:\S+gone,server=on/,
  );
  await leaveSocket(path);
  await assert.rejects(open(path), /nobody listens there/);
  await Deno.remove(folder, { recursive: true });
  for (
    const [greeting, message] of [
      ["", /no greeting from QEMU: \S+: it serves one client at a time/],
      ["QEMU 7.2.22 monitor - type 'help' for more information", /QEMU's monitor for people/],
      ["HTTP/1.1 400 Bad Request", /it is something else/],
    ] as const
  ) {
    await using qemu = new FakeQmp(greeting);
    await assert.rejects(open(qemu.path), message);
  }
});

Deno.test("pages, announcements and drops come from the control sockets beside the guest's ports", async () => {
  await using source = new FakeQmp();
  const folder = await Deno.makeTempDir();
  const counters = { log_pages: 100, announcements: 1, drop_link_down: 7, drop_no_buffer: 20 };
  const port = () => ({
    port: "port0",
    socket: `${folder}/port0.sock`,
    state: "running",
    to_guest: { ...counters },
    from_guest: { log_pages: 1, announcements: 0, drop_link_down: 0, drop_no_buffer: 0 },
  });
  const uplink = () => ({
    port: "uplink0",
    state: "running",
    to_guest: {},
    from_guest: { drop_no_port: lost.packets },
  });
  const lost = { packets: 5 };
  const other = { ...port(), port: "port1", socket: `${folder}/port1.sock`, to_guest: { log_pages: 1e6 } };
  const path = `${folder}/control.sock`;
  const control = await ControlServer.open({ path, mode: 0o600, commands: { ports: () => [port(), other, uplink()] } });
  source.answers["human-monitor-command"] = " \\ net0: index=0,type=vhost-user,vhost-user0 to chr0\r\n";
  source.answers["qom-get"] = ({ path }: Record<string, unknown>) => {
    assert.equal(path, "/chardevs/chr0");
    return { type: "unix", path: `${folder}/port0.sock` };
  };
  source.answers["migrate"] = () => {
    counters.log_pages += 50;
    counters.drop_no_buffer += 1000;
    return {};
  };
  source.answers["query-migrate"] = moments(active(1, 9 * MiB), active(2, 9 * MiB), active(3, 9 * MiB), completed);
  const story = new Story(async (progress) => {
    if (progress.pass !== 2) return;
    counters.drop_link_down += 3;
    lost.packets += 2;
    await source.tell("STOP");
  });
  const result = await story.run(options("--from", source.path, "--to", "tcp:h:1"));
  assert.equal(result.logged_pages, 50);
  assert.deepEqual(result.dropped?.source, { link_down: 3, no_port: 2, no_buffer: 0 });
  assert.equal(result.not_known.source, undefined);
  assert.equal(result.announcements, null);
  await control[Symbol.asyncDispose]();
  const absent = await new Story().run(options("--from", source.path, "--to", "tcp:h:1"));
  assert.match(String(absent.not_known.source), /no control socket at \S+control\.sock: no such file/);
  await Deno.remove(folder, { recursive: true });
});

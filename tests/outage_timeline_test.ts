/** The timeline of `reconnect-watch`: what is told of a port and how it looks, as moments and outages. */

import assert from "node:assert/strict";
import type { Moment } from "../cli/outage_moment.ts";
import { outageTable, portOutages, tooLong } from "../cli/outage_summary.ts";
import { momentText } from "../cli/outage_text.ts";
import { PortTimeline } from "../cli/outage_timeline.ts";
import type { LookedLife, PortLook } from "../cli/port_look.ts";
import type { Occurrence } from "../mod.ts";

const features = ["VERSION_1"];
const reason = "peer closed the connection";

/** A port and whoever serves it, on a clock that a test sets. */
class Story {
  readonly timeline = new PortTimeline("a");
  time_ms = 1000;
  life: LookedLife = { now_ms: 0, opened_ms: 500, starts: 0, attempts: 0, recovered: 0 };
  packets = { to_guest: 0, from_guest: 0 };
  pairs = 0;
  /** Whether what happens is told; it shows in looks all the same. */
  tells = true;
  /** Whether queue pairs are of interest. */
  minds = false;

  /** A look when the clock shows this. */
  look(at_ms: number): string[] {
    this.time_ms = at_ms;
    const { started, connected_ms } = this.life;
    const look: PortLook & { life: LookedLife } = {
      port: "a",
      socket: "/a",
      state: started !== undefined ? "running" : connected_ms !== undefined ? "connected" : "waiting",
      queue_pairs: 4,
      queue_pairs_up: this.pairs,
      to_guest: { packets: this.packets.to_guest },
      from_guest: { packets: this.packets.from_guest },
      life: { ...this.life, now_ms: at_ms },
    };
    return words(this.timeline.looked(look).filter(({ event }) => this.minds || event !== "queues"));
  }

  connects(at_ms: number): string[] {
    this.life = { ...this.life, connected_ms: at_ms };
    return this.#tell(at_ms, { event: "connected" });
  }

  starts(at_ms: number): string[] {
    const started = { time_ms: at_ms, ring: "split" as const, features };
    this.life = { ...this.life, starts: this.life.starts + 1, started };
    return this.#tell(at_ms, { event: "started", ring: "split", features });
  }

  stops(at_ms: number): string[] {
    this.#end(at_ms, undefined);
    return this.#tell(at_ms, { event: "stopped" });
  }

  leaves(at_ms: number): string[] {
    if (this.life.started !== undefined) this.#end(at_ms, reason);
    this.life = { ...this.life, connected_ms: undefined };
    return this.#tell(at_ms, { event: "disconnected", reason });
  }

  /** Another process serves the port from now on. */
  succeeds(at_ms: number): void {
    this.life = { now_ms: at_ms, opened_ms: at_ms, starts: 0, attempts: 0, recovered: 0 };
    this.packets = { to_guest: 0, from_guest: 0 };
  }

  tell(at_ms: number, occurrence: Occurrence): string[] {
    return words(this.timeline.happened({ port: "a", ...occurrence }, at_ms));
  }

  lengths(now_ms: number): (number | null)[] {
    const { outages, median_ms, worst_ms, total_ms, lasting_ms } = portOutages(this.timeline, now_ms);
    return [outages, median_ms, worst_ms, total_ms, lasting_ms];
  }

  #tell(at_ms: number, occurrence: Occurrence): string[] {
    return this.tells ? this.tell(at_ms, occurrence) : [];
  }

  #end(at_ms: number, why: string | undefined): void {
    const ended = { time_ms: at_ms, reason: why, packets: this.packets };
    this.life = { ...this.life, started: undefined, ended };
  }
}

/** One that runs since 2000, with packets both ways. */
function running(): Story {
  const story = new Story();
  story.look(1000);
  story.connects(1500);
  story.starts(2000);
  story.packets = { to_guest: 5, from_guest: 7 };
  story.look(2100);
  return story;
}

/** `time event`, and what matters of it. */
function words(moments: readonly Moment[]): string[] {
  return moments.map((moment) => {
    const parts: unknown[] = [moment.time_ms, moment.event];
    if ("outage" in moment && moment.outage !== undefined) parts.push(moment.outage);
    if ("length_ms" in moment) parts.push(moment.length_ms);
    if (moment.event === "traffic") parts.push(moment.way, moment.after_ms);
    if (moment.event === "queues") parts.push(moment.queue_pairs_up);
    if (moment.event === "recovered") parts.push(moment.returned);
    if (moment.event === "found") parts.push(moment.state);
    return parts.join(" ");
  });
}

Deno.test("a front end that goes and comes back makes an outage, until rings run and packets pass each way", () => {
  const story = running();
  assert.deepEqual(story.leaves(3000), ["3000 disconnected true"]);
  assert.deepEqual(story.look(3100), []);
  assert.deepEqual(story.connects(3200), ["3200 connected"]);
  assert.deepEqual(story.starts(3250), ["3250 started", "3250 outage 250"]);
  assert.ok(story.timeline.isCurious);
  assert.deepEqual(story.look(3260), []);
  story.packets = { to_guest: 5, from_guest: 8 };
  assert.deepEqual(story.look(3280), ["3280 traffic from_guest 280"]);
  story.packets = { to_guest: 6, from_guest: 9 };
  assert.deepEqual(story.look(3300), ["3300 traffic to_guest 300"]);
  assert.ok(!story.timeline.isCurious);
  assert.deepEqual(story.lengths(9000), [1, 250, 250, 250, null]);
  assert.deepEqual(portOutages(story.timeline, 9000).traffic_worst_ms, { to_guest: 300, from_guest: 280 });
});

Deno.test("a way that never had packets is not waited for, and none for ever", () => {
  const story = new Story();
  story.look(1000);
  story.connects(1100);
  story.starts(1200);
  story.packets = { to_guest: 0, from_guest: 3 };
  for (const at_ms of [1300, 1320]) story.look(at_ms);
  story.leaves(2000);
  story.connects(2100);
  story.starts(2200);
  for (const at_ms of [2300, 2320]) story.look(at_ms);
  assert.ok(story.timeline.isCurious);
  story.look(20_000);
  assert.ok(!story.timeline.isCurious);
  story.packets = { to_guest: 0, from_guest: 4 };
  assert.deepEqual(story.look(20_500), []);
});

Deno.test("rings that the front end stops while it stays are no outage, nor is its going afterwards", () => {
  const story = running();
  assert.deepEqual(story.stops(3000), ["3000 stopped false"]);
  assert.deepEqual(story.starts(4000), ["4000 started"]);
  story.look(4100);
  story.stops(5000);
  assert.deepEqual(story.leaves(6000), ["6000 disconnected false"]);
  story.connects(7000);
  assert.deepEqual(story.starts(7100), ["7100 started"]);
  assert.deepEqual(story.lengths(9000), [0, null, null, 0, null]);
});

Deno.test("one that comes to nothing in the middle of an outage does not end it", () => {
  const story = running();
  story.leaves(3000);
  story.connects(3100);
  assert.deepEqual(story.leaves(3200), ["3200 disconnected true"]);
  assert.deepEqual(story.lengths(3500), [1, 500, 500, 500, 500]);
  story.connects(3600);
  assert.deepEqual(story.starts(4000), ["4000 started", "4000 outage 1000"]);
});

Deno.test("whoever serves the port is killed: the outage goes on until rings run at its successor", () => {
  const story = running();
  assert.equal(story.timeline.lost(3000), true);
  story.succeeds(3500);
  assert.deepEqual(story.look(3600), []);
  assert.equal(story.timeline.unheard, 0);
  assert.deepEqual(story.lengths(3700), [1, 700, 700, 700, 700]);
  // What the successor told before it was asked is not heard, and found when it is looked at.
  story.tells = false;
  story.connects(3800);
  story.starts(3900);
  story.packets = { to_guest: 0, from_guest: 1 };
  assert.deepEqual(story.look(4100), [
    "3800 connected",
    "3900 started",
    "3900 outage 900",
    "4100 traffic from_guest 1100",
  ]);
  assert.deepEqual(story.lengths(9000), [1, 900, 900, 900, null]);
  assert.equal(story.timeline.unheard, 0);
});

Deno.test("killed while no ring ran: no outage begins", () => {
  const story = running();
  story.stops(2500);
  assert.equal(story.timeline.lost(3000), false);
  story.succeeds(3500);
  story.look(3600);
  story.connects(3700);
  assert.deepEqual(story.starts(3800), ["3800 started"]);
  assert.deepEqual(story.lengths(9000), [0, null, null, 0, null]);
});

Deno.test("killed in the middle of an outage: that goes on", () => {
  const story = running();
  story.leaves(2500);
  assert.equal(story.timeline.lost(3000), true);
  story.succeeds(3500);
  story.look(3600);
  story.connects(3700);
  assert.deepEqual(story.starts(3800), ["3800 started", "3800 outage 1300"]);
});

Deno.test("only the way to whoever serves the port was lost: what happened meanwhile is found out", () => {
  const nothing = running();
  nothing.timeline.lost(3000);
  assert.deepEqual(nothing.look(3500), ["3500 no_outage"]);
  assert.deepEqual(nothing.lengths(9000), [0, null, null, 0, null]);

  const stopped = running();
  stopped.timeline.lost(3000);
  stopped.tells = false;
  stopped.stops(3200);
  assert.deepEqual(stopped.look(3500), ["3200 stopped false"]);
  assert.deepEqual(stopped.lengths(9000), [0, null, null, 0, null]);

  const gone = running();
  gone.timeline.lost(3000);
  gone.tells = false;
  gone.leaves(3200);
  assert.deepEqual(gone.look(3500), ["3200 disconnected true"]);
  gone.connects(3550);
  gone.starts(3600);
  assert.deepEqual(gone.look(3700), ["3550 connected", "3600 started", "3600 outage 400"]);
  assert.deepEqual(gone.lengths(9000), [1, 400, 400, 400, null]);
});

Deno.test("rings that were handed over to a successor never stood still", () => {
  const story = running();
  const { life } = story;
  story.timeline.lost(3000);
  story.succeeds(2990);
  story.life = { ...story.life, connected_ms: 1500, starts: 1, started: life.started };
  assert.deepEqual(story.look(3100), ["3100 no_outage"]);
  assert.deepEqual(story.lengths(9000), [0, null, null, 0, null]);
});

Deno.test("what is told by number alone shows when the port is looked at", () => {
  const story = running();
  story.tells = false;
  story.leaves(3000);
  story.connects(3010);
  story.starts(3020);
  assert.deepEqual(story.look(3500), ["3000 disconnected true", "3010 connected", "3020 started", "3020 outage 20"]);
  story.stops(4000);
  story.starts(4100);
  assert.deepEqual(story.look(4500), ["4000 stopped false", "4100 started"]);
  assert.equal(story.timeline.unheard, 0);
  // Of several only the last shows: the others are counted.
  for (const at_ms of [5000, 5100, 5200]) {
    story.leaves(at_ms);
    story.connects(at_ms + 10);
    story.starts(at_ms + 20);
  }
  assert.deepEqual(story.look(5500), [
    ...["5200 disconnected true", "5210 connected", "5220 started", "5220 outage 20", "5500 unheard"],
  ]);
  assert.equal(story.timeline.unheard, 2);
  assert.match(outageTable([portOutages(story.timeline, 9000)])[1]!, /2 starts more, too fast to be told$/);
});

Deno.test("frames given back are counted once, told or found", () => {
  const story = running();
  assert.deepEqual(story.tell(2200, { event: "recovered", returned: 3 }), ["2200 recovered 3"]);
  story.life = { ...story.life, recovered: 3 };
  assert.deepEqual(story.look(2300), []);
  story.life = { ...story.life, recovered: 5 };
  assert.deepEqual(story.look(2400), ["2400 recovered 2"]);
  story.timeline.lost(3000);
  assert.deepEqual(story.look(3100), ["3100 no_outage"]);
  story.timeline.lost(3200);
  story.succeeds(3300);
  story.life = { ...story.life, recovered: 4 };
  assert.deepEqual(story.look(3400), ["3400 recovered 4"]);
  assert.equal(story.timeline.recovered, 9);
});

Deno.test("attempts, and queue pairs once they have settled", () => {
  const story = new Story();
  story.minds = true;
  story.life = { ...story.life, attempts: 1, failure: "nobody listens there" };
  assert.deepEqual(story.look(1000), ["1000 found waiting", "1000 waiting"]);
  story.life = { ...story.life, attempts: 4 };
  assert.deepEqual(story.look(1500), []);
  assert.deepEqual(story.tell(1600, { event: "waiting", socket: "/a", reason: "no such file" }), ["1600 waiting"]);
  story.life = { ...story.life, failure: "no such file" };
  assert.deepEqual(story.look(1700), []);
  story.life = { ...story.life, failure: undefined };
  story.connects(1800);
  story.starts(1900);
  for (const [pairs, wanted] of [[1, []], [2, []], [4, []], [4, ["2203 queues 4"]], [4, []]] as const) {
    story.pairs = pairs;
    assert.deepEqual(story.look(2200 + (wanted.length > 0 ? 3 : 0)), wanted);
  }
  story.pairs = 2;
  assert.deepEqual(story.look(2300), []);
  assert.ok(story.timeline.isCurious);
  assert.deepEqual(story.look(2320), ["2320 queues 2"]);
});

Deno.test("the first look finds a port as it is, and an outage from before is none of ours", () => {
  const story = running();
  const late = new PortTimeline("a");
  story.leaves(3000);
  const look = { port: "a", state: "waiting", queue_pairs: 1, queue_pairs_up: 0, to_guest: {}, from_guest: {} };
  assert.deepEqual(words(late.looked({ ...look, life: { ...story.life, now_ms: 4000 } })), ["4000 found waiting"]);
  assert.equal(portOutages(late, 5000).outages, 0);
});

Deno.test("sums, the table, and the verdict", () => {
  const story = running();
  for (const [begins, ends] of [[3000, 3100], [4000, 4050], [5000, 6200]] as const) {
    story.leaves(begins);
    story.connects(ends - 10);
    story.starts(ends);
  }
  const ports = [portOutages(story.timeline, 9000)];
  assert.deepEqual([ports[0]!.median_ms, ports[0]!.worst_ms, ports[0]!.total_ms], [100, 1200, 1350]);
  assert.match(outageTable(ports)[1]!, /^a +3 +100 ms +1\.2 s +1\.4 s +- +- +0$/);
  assert.equal(tooLong(ports, 1200), undefined);
  assert.equal(tooLong(ports, 1199), "outage of a too long: 1200 ms: --max-outage allows 1199 ms");
  story.leaves(9000);
  const later = [portOutages(story.timeline, 12_000), portOutages(new PortTimeline("b"), 12_000)];
  assert.match(outageTable(later)[1]!, /still out, for 3\.0 s$/);
  assert.equal(tooLong(later, 2000), "outage of a too long: 3000 ms, and it lasts: --max-outage allows 2000 ms");
});

Deno.test("rings that start anew are compared with those before", () => {
  const story = running();
  const told = (ring: "split" | "packed", names: string[]) => {
    const [moment] = story.timeline.happened({ port: "a", event: "started", ring, features: names }, 3000);
    return momentText(moment!)[1];
  };
  assert.equal(told("split", features), "started: split rings, with the same features as before");
  assert.equal(told("packed", features), "started: packed rings: VERSION_1: other ones than before");
  assert.equal(told("packed", ["MQ"]), "started: packed rings: MQ: other ones than before");
});

Deno.test("moments as lines", () => {
  const cases: [Moment, string, RegExp][] = [
    [
      { time_ms: 0, port: "a", event: "stopped", outage: false },
      "a",
      /still connected: the guest's own doing, no outage/,
    ],
    [{ time_ms: 0, port: "a", event: "disconnected", reason, outage: true }, "a", /gone: peer closed .*: outage$/],
    [{ time_ms: 0, port: "a", event: "disconnected", reason, outage: false }, "a", /no ring ran, no outage$/],
    [{ time_ms: 0, port: "a", event: "connected", attempts: 3 }, "a", /connected, after 3 attempts in vain$/],
    [{ time_ms: 0, port: "a", event: "outage", length_ms: 250, reason }, "a", /^outage of 250 ms is over/],
    [
      { time_ms: 0, event: "serve_gone", reason: "killed", outages: ["a", "b"] },
      "serve",
      /^gone: killed: outage of a, b$/,
    ],
    [
      { time_ms: 0, event: "qemu_back_end", connected: false, netdev: "net0", chardev: "c0" },
      "QEMU",
      /^net0: back end gone \(chardev c0\)$/,
    ],
    [{ time_ms: 0, event: "qemu_event", name: "RESET", data: { guest: true } }, "QEMU", /^RESET guest=true$/],
    // Of a serve that is newer than we are.
    [{ time_ms: 0, port: "a", event: "sunk_deep" } as unknown as Moment, "a", /^sunk deep$/],
  ];
  for (const [moment, who, text] of cases) {
    assert.equal(momentText(moment)[0], who);
    assert.match(momentText(moment)[1], text);
  }
});

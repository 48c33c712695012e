/**
 * How long packets stand still when a back end is killed, and the same command line is started again at once:
 * `pmd-forward` and DPDK's testpmd with net_vhost, by turns. Both connect (`client=1`) to two ports of DPDK's
 * virtio-user that listens, and forward between them what it generates as fast as it can.
 *
 *   ./scripts/deno run --allow-all bench/outage.ts [--kills 50] [--ring split,packed]
 *
 * Prints a table on stdout, and each outage on stderr as it comes: the longest time for which one of the two ports
 * received nothing, as the driver's counters tell. A driver that gets no packets again within 20 s starts anew, and
 * that kill counts as one that was not survived. Wants the machine for itself.
 */

import { parseArgs } from "node:util";
import { JsonProcess } from "../cli/json_process.ts";
import { table } from "../cli/output.ts";
import { pause } from "../cli/pause.ts";
import { quantile } from "../cli/statistics.ts";
import { findTestpmd, Testpmd as TestpmdBackEnd } from "../cli/testpmd.ts";
import { ring_paths, Testpmd } from "../tests/real/dpdk.ts";
import { Ports } from "../tests/real/exchange.ts";
import { generate, silence_ms } from "../tests/real/rx_silence.ts";

const program = Deno.env.get("VHOSTCTL") ?? new URL("../scripts/vhostctl", import.meta.url).pathname;
const cpu = 0;
/** So long packets flow at least before the next kill, and for up to as long again. */
const life_ms = 200;

const { values } = parseArgs({
  args: Deno.args,
  options: { kills: { type: "string", default: "50" }, ring: { type: "string", default: "split,packed" } },
});

interface BackEnd {
  readonly name: string;
  start(sockets: readonly string[]): Promise<JsonProcess>;
}

const testpmd = await findTestpmd(undefined);

const backEnds: readonly BackEnd[] = [
  {
    name: "pmd-forward",
    start(sockets) {
      const vdevs = sockets.flatMap((socket, port) => ["--vdev", `eth_vhost${port},iface=${socket},client=1`]);
      return Promise.resolve(new JsonProcess(this.name, program, ["pmd-forward", "--cpus", `${cpu}`, ...vdevs]));
    },
  },
  {
    name: testpmd.version,
    async start(sockets) {
      return (await TestpmdBackEnd.start({ program: testpmd, sockets, queues: 1, cpu, client: true })).process;
    },
  },
];

/** A back end and its driver. They stand still while it is another's turn. */
class Contender implements AsyncDisposable {
  readonly backEnd: BackEnd;
  readonly outages_ms: number[] = [];
  kills = 0;
  readonly #packed: boolean;
  readonly #ports = new Ports();
  #process: Promise<JsonProcess> | undefined;
  #driver: Testpmd | undefined;

  constructor(backEnd: BackEnd, packed: boolean) {
    this.backEnd = backEnd;
    this.#packed = packed;
  }

  async kill(): Promise<void> {
    this.kills++;
    const driver = this.#driver ??= await this.#begin();
    this.#signal("SIGCONT", await this.#process!);
    await pause(life_ms * (1 + Math.random()));
    const { sockets } = this.#ports;
    try {
      const before = await this.#process!;
      const outage_ms = await silence_ms(driver, () => before.kill(), () => {
        this.#process = this.backEnd.start(sockets);
      });
      this.outages_ms.push(outage_ms);
      console.error(`${this.backEnd.name}: ${outage_ms.toFixed(0)} ms`);
      this.#signal("SIGSTOP", await this.#process!);
    } catch (reason) {
      console.error(`${this.backEnd.name}: ${(reason as Error).message}`);
      await this.#end();
    }
  }

  async #begin(): Promise<Testpmd> {
    const { sockets } = this.#ports;
    const path = ring_paths.find(({ packed }) => packed === this.#packed)!;
    const driver = Testpmd.start({ sockets, path, server: true });
    this.#process = this.backEnd.start(sockets);
    await generate(await driver);
    return driver;
  }

  #signal(signal: "SIGSTOP" | "SIGCONT", process: JsonProcess): void {
    process.signal(signal);
    this.#driver?.program.kill(signal);
  }

  async #end(): Promise<void> {
    await (await this.#process)?.kill();
    await this.#driver?.kill();
    this.#driver = undefined;
    // It listens on no socket file that is there already.
    for (const socket of this.#ports.sockets) await Deno.remove(socket).catch(() => {});
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end();
    this.#ports[Symbol.dispose]();
  }
}

function row(ring: string, { backEnd, kills, outages_ms }: Contender): string[] {
  const figures = [0.5, 0, 1].map((share) => quantile(outages_ms, share));
  return [ring, backEnd.name, `${kills}`, `${outages_ms.length}`, ...figures.map((value) => value.toFixed(0))];
}

const rows: string[][] = [];
for (const ring of values.ring.split(",")) {
  await using stack = new AsyncDisposableStack();
  const contenders = backEnds.map((backEnd) => stack.use(new Contender(backEnd, ring === "packed")));
  for (let turn = 0; turn < Number(values.kills); turn++) {
    for (const contender of contenders) await contender.kill();
  }
  rows.push(...contenders.map((contender) => row(ring, contender)));
}
const heads = ["KILLS", "SURVIVED", "OUTAGE ms", "SHORTEST", "LONGEST"];
const columns = [
  { title: "RING" },
  { title: "BACK END" },
  ...heads.map((title) => ({ title, align: "right" as const })),
];
console.log(table(columns, rows).join("\n"));

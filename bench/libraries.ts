/**
 * Builds of libvring against each other, and against DPDK's testpmd and our own forwarders: what a change is worth.
 *
 *   VHOSTCTL_LIB=build/libvring-x86_64_v4.so ./scripts/deno run --allow-all bench/libraries.ts \\
 *     [--size 64] [--ring split] [--seconds 20] BASE.so OTHER.so ... [log:BASE.so] [dpdk] [pmd-forward] [typescript]
 *
 * `log:` before a library: the same, with guests that migrate.
 * `pmd-forward` is ours in io mode, `typescript` the same through `EthDev` (bench/forward.ts); both in bursts of 32.
 *
 * All live at once and take turns on the same CPUs; the guests are always those of $VHOSTCTL_LIB. For each distance of
 * the two CPUs a line: the median rate of each, and of its ratio to the first, with the middle half. The same library
 * twice shows what is noise.
 */

import { parseArgs } from "node:util";
import { distance_ns, type Measurement, pairOptions, socketFolder } from "../cli/bench_measure.ts";
import { place } from "../cli/bench_common_options.ts";
import type { Case, Ring } from "../cli/bench_result.ts";
import { type Contender, takeTurn } from "../cli/bench_turn.ts";
import { nearMax_ns, stayed } from "../cli/distance.ts";
import { GuestPair } from "../cli/guest_pair.ts";
import { allowedCpus } from "../cli/machine.ts";
import { ServeProcess } from "../cli/serve_process.ts";
import { quantile } from "../cli/statistics.ts";
import { JsonProcess, ownProgram } from "../cli/json_process.ts";
import { StopGuard } from "../cli/stop_guard.ts";
import { findTestpmd, Testpmd } from "../cli/testpmd.ts";

const { values, positionals } = parseArgs({
  args: Deno.args,
  options: {
    size: { type: "string", default: "64" },
    ring: { type: "string", default: "split" },
    seconds: { type: "string", default: "20" },
  },
  allowPositionals: true,
});

const guestLibrary = Deno.env.get("VHOSTCTL_LIB");
if (guestLibrary === undefined || positionals.length === 0) {
  console.error("set VHOSTCTL_LIB to the guests' library, and name those to compare");
  Deno.exit(2);
}
Deno.env.set("VHOSTCTL_SELF", new URL("../scripts/vhostctl", import.meta.url).pathname);

const wanted: Case = { size_bytes: Number(values.size), ring: values.ring as Ring, queues: 1, ring_size: 256 };
const placement = place(allowedCpus());
const measurement: Measurement = {
  ...{
    way: "vm2vm",
    seconds: Number(values.seconds),
    check_every: 1024,
    placement,
    stop: new AbortController().signal,
  },
  progress: () => {},
};

/** With the guests' library, on one CPU. */
const ownForwarders: Record<string, (sockets: readonly string[], cpu: string) => JsonProcess> = {
  "pmd-forward": (sockets, cpu) => {
    const vdevs = sockets.flatMap((socket, number) => ["--vdev", `eth_vhost${number},iface=${socket}`]);
    return new JsonProcess("pmd-forward", ownProgram(), [
      "pmd-forward",
      "--json",
      "--burst",
      "32",
      "--cpus",
      cpu,
      ...vdevs,
    ]);
  },
  typescript: (sockets, cpu) => {
    const program = ["run", "--allow-all", new URL("forward.ts", import.meta.url).pathname];
    return new JsonProcess("forward.ts", "taskset", ["-c", cpu, Deno.execPath(), ...program, ...sockets]);
  },
};

async function startForwarder(stack: AsyncDisposableStack, library: string) {
  const directory = await socketFolder(stack);
  if (library === "dpdk") {
    const sockets = ["a", "b"].map((name) => `${directory}/${name}.sock`);
    const program = await findTestpmd(undefined);
    const testpmd = await Testpmd.start({ program, sockets, queues: 1, cpu: placement.worker_cpus[0]! });
    return { forwarder: stack.use(testpmd).process, sockets };
  }
  const own = ownForwarders[library];
  if (own !== undefined) {
    const sockets = ["a", "b"].map((name) => `${directory}/${name}.sock`);
    const forwarder = stack.use(own(sockets, `${placement.worker_cpus[0]!}`));
    await forwarder.next((message) => message["event"] === "ready");
    return { forwarder, sockets };
  }
  Deno.env.set("VHOSTCTL_LIB", library);
  const serve = stack.use(await ServeProcess.start({ directory, queues: 1, workerCpus: placement.worker_cpus }));
  Deno.env.set("VHOSTCTL_LIB", guestLibrary!);
  return { forwarder: serve.process, sockets: serve.sockets };
}

async function startContender(stack: AsyncDisposableStack, name: string): Promise<Contender> {
  const library = name.replace(/^log:/, "");
  const { forwarder, sockets } = await startForwarder(stack, library);
  stack.use(new StopGuard([forwarder.pid]));
  const options = { ...pairOptions(sockets, measurement), together: true, logs: library !== name };
  const pair = stack.use(await GuestPair.start(wanted, options));
  await pair.rest();
  forwarder.signal("SIGSTOP");
  return { forwarder, pair };
}

/** One turn each, first to last or last to first. Rates in million packets a second. */
async function round(contenders: readonly Contender[], backwards: boolean): Promise<number[]> {
  const rates: number[] = [];
  const order = contenders.map((_, index) => index);
  for (const index of backwards ? order.toReversed() : order) {
    const { packets, seconds } = await takeTurn(contenders[index]!, measurement);
    rates[index] = packets / seconds / 1e6;
  }
  return rates;
}

function print(where: string, rounds: readonly (readonly number[])[]): void {
  console.log(`${where}: ${values.size} B ${values.ring}, ${rounds.length} rounds`);
  for (const [index, library] of positionals.entries()) {
    const rate = quantile(rounds.map((rates) => rates[index]!), 0.5);
    const ratios = rounds.map((rates) => rates[index]! / rates[0]!);
    const [low, median, high] = [0.25, 0.5, 0.75].map((share) => quantile(ratios, share).toFixed(3));
    console.log(`  ${library}: ${rate.toFixed(2)} Mpps, ${median} (${low}-${high})`);
  }
}

async function main(): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const contenders: Contender[] = [];
  for (const library of positionals) contenders.push(await startContender(stack, library));
  const rounds: Record<string, number[][]> = {};
  const deadline = Date.now() + 1000 * measurement.seconds;
  for (let number = 0; Date.now() < deadline; number++) {
    const before_ns = await distance_ns(placement);
    const rates = await round(contenders, number % 2 === 1);
    if (before_ns === undefined || !stayed(before_ns, await distance_ns(placement))) continue;
    (rounds[before_ns < nearMax_ns ? "near" : "far"] ??= []).push(rates);
  }
  for (const [where, rates] of Object.entries(rounds)) print(where, rates);
}

await main();

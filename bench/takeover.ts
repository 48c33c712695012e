/**
 * How long guests under full load are not served when one `serve` takes over from another, again and again, and how
 * many of their packets are lost by it: `./scripts/deno run --allow-all bench/takeover.ts [TAKEOVERS]`, with
 * VHOSTCTL_LIB set.
 *
 * @module
 */
import { quantile } from "../cli/statistics.ts";
import { TakeoverPlace } from "../tests/takeover_place.ts";

const takeovers = Number(Deno.args[0] ?? 100);

for (const ring of ["split", "packed"] as const) {
  await using place = await TakeoverPlace.start({ ring });
  place.load();
  const gaps: number[] = [];
  for (let round = 0; round < takeovers; round++) {
    await place.traffic();
    gaps.push(await place.takeOver());
  }
  const reports = await place.account();
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  const sent = sum(reports.map((port) => port.from_guest["packets"]!));
  const full = sum(reports.map((port) => port.to_guest["drop_no_buffer"]!));
  const [median, most] = [quantile(gaps, 0.5), Math.max(...gaps)].map((gap) => gap.toFixed(1));
  const late = gaps.filter((gap) => gap >= 10).length;
  console.log(
    `${ring}: ${takeovers} takeovers, gap median ${median} ms, worst ${most} ms, ${late} of 10 ms and more; ` +
      `${sent} packets: ${sent - full} delivered, ${full} found a full ring, and not one is missing`,
  );
}

/** A peer that comes 600 times a second makes a few lines, not 600 a second. */

import { deepEqual, equal } from "node:assert/strict";
import { Budget } from "../pmd/budget.ts";
import { Repeats } from "../pmd/repeats.ts";

Deno.test("the first is told, the rest by number, less and less often", () => {
  const told: [number, number][] = [];
  const repeats = new Repeats((count, seconds) => told.push([count, seconds]));
  let alone = 0;
  for (let now_ms = 0; now_ms <= 100_000; now_ms += 10) alone += repeats.again(now_ms) ? 1 : 0;
  equal(alone, 1);
  deepEqual(told, [[1000, 10], [2000, 20], [4000, 40]]);
  repeats.tick(101_000);
  equal(told.length, 3);
  repeats.tick(103_000);
  deepEqual(told.at(-1), [3000, 33]);
  repeats.tick(200_000);
  equal(told.length, 4);
  equal(repeats.again(200_000), true);
});

Deno.test("what comes once in a while is told each time", () => {
  const told: number[] = [];
  const repeats = new Repeats((count) => told.push(count));
  for (let now_ms = 0; now_ms < 100_000; now_ms += 3000) {
    equal(repeats.again(now_ms), true);
    repeats.tick(now_ms + 2500);
  }
  deepEqual(told, []);
});

Deno.test("a budget allows a burst, then so many a second", () => {
  const budget = new Budget(10, 2);
  const taken = (from_ms: number, to_ms: number) => {
    let count = 0;
    for (let now_ms = from_ms; now_ms < to_ms; now_ms += 10) count += budget.take(now_ms) ? 1 : 0;
    return count;
  };
  equal(taken(1000, 1200), 10);
  equal(taken(1200, 11_200), 20);
  equal(taken(100_000, 100_100), 10);
});

/** However many wait, there is one timer: and everybody is called, once, unless it no longer wants to be. */

import { deepEqual, equal, ok } from "node:assert/strict";
import { callAfter } from "../pmd/shared_timer.ts";

/** Counts the timers that are armed while it lives. */
class Timers implements Disposable {
  readonly #set = globalThis.setTimeout;
  readonly #clear = globalThis.clearTimeout;
  readonly #armed = new Set<unknown>();
  most = 0;

  constructor() {
    globalThis.setTimeout = ((callback: () => void, pause_ms?: number) => {
      const id = this.#set(() => {
        this.#armed.delete(id);
        callback();
      }, pause_ms);
      this.#armed.add(id);
      this.most = Math.max(this.most, this.#armed.size);
      return id;
    }) as typeof setTimeout;
    globalThis.clearTimeout = (id) => {
      this.#armed.delete(id);
      this.#clear(id);
    };
  }

  get armed(): number {
    return this.#armed.size;
  }

  [Symbol.dispose](): void {
    globalThis.setTimeout = this.#set;
    globalThis.clearTimeout = this.#clear;
  }
}

Deno.test("1,024 who wait for different times cost one timer, and each is called once", async () => {
  using timers = new Timers();
  const calls = new Map<number, number>();
  const all = Promise.withResolvers<void>();
  for (let each = 0; each < 1024; each++) {
    callAfter(Math.random() * 300, () => {
      calls.set(each, (calls.get(each) ?? 0) + 1);
      if (calls.size === 1024) all.resolve();
    });
  }
  equal(timers.armed, 1);
  await all.promise;
  equal(timers.most, 1);
  equal(timers.armed, 0);
  ok([...calls.values()].every((count) => count === 1));
});

Deno.test("who is disposed of is not called, not even together with others, and leaves no timer", async () => {
  using timers = new Timers();
  const calls: string[] = [];
  callAfter(50, () => calls.push("never"))[Symbol.dispose]();
  equal(timers.armed, 0);
  const done = Promise.withResolvers<void>();
  const second = { wait: undefined as Disposable | undefined };
  callAfter(0, () => {
    calls.push("first");
    second.wait![Symbol.dispose]();
    callAfter(0, () => {
      calls.push("again");
      done.resolve();
    });
  });
  second.wait = callAfter(0, () => calls.push("second"));
  deepEqual(calls, [], "nobody is called before the call has returned");
  await done.promise;
  deepEqual(calls, ["first", "again"]);
  equal(timers.armed, 0);
});

Deno.test("one that is due sooner is called sooner, whenever it came", async () => {
  const calls: string[] = [];
  const late = Promise.withResolvers<void>();
  callAfter(200, () => late.resolve(void calls.push("late")));
  callAfter(100, () => calls.push("soon"));
  callAfter(0, () => calls.push("at once"));
  await late.promise;
  deepEqual(calls, ["at once", "soon", "late"]);
});

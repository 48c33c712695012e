/**
 * Waiting without giving way: nothing else of this thread happens meanwhile.
 *
 * @module
 */

const patience_ms = 20_000;
const nap_ms = 0.1;
const sleeper = new Int32Array(new SharedArrayBuffer(4));

/** Sleeps for a moment. */
export function nap(): void {
  Atomics.wait(sleeper, 0, 0, nap_ms);
}

/** Asks again and again, in place, until the answer is not undefined. */
export function patiently<T>(what: string, ask: () => T | undefined, timeout_ms = patience_ms): T {
  const deadline = performance.now() + timeout_ms;
  while (true) {
    const answer = ask();
    if (answer !== undefined) return answer;
    if (performance.now() > deadline) throw new Error(`waited ${timeout_ms} ms in vain: ${what}`);
    nap();
  }
}

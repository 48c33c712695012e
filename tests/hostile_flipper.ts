/**
 * Changes a word of guest memory as fast as it can, in a thread of its own: what is read twice is read differently.
 * Started by `hostile_flips.ts`, as a worker.
 *
 * @module
 */

import { type FlipJob, FlipSwitch } from "./hostile_flips.ts";
import { mapShared } from "./hostile_system.ts";

const mapped = new Map<number, Uint8Array<ArrayBuffer>>();
/** Between two looks at the switch. */
const flipsAtOnce = 64;

function writer({ fd, bytes, at, values }: FlipJob): (i: number) => void {
  const memory = mapped.get(fd) ?? mapShared(fd, bytes);
  mapped.set(fd, memory);
  const view = new DataView(memory.buffer, memory.byteOffset + at);
  const numbers = values.value.map(Number);
  const pick = <T>(all: readonly T[], i: number) => all[i % all.length]!;
  switch (values.width) {
    case 2:
      return (i) => view.setUint16(0, pick(numbers, i), true);
    case 4:
      return (i) => view.setUint32(0, pick(numbers, i), true);
    case 8:
      return (i) => view.setBigUint64(0, pick(values.value, i), true);
  }
}

addEventListener("message", (event) => {
  const job = (event as MessageEvent<FlipJob>).data;
  const flip = writer(job);
  const toggle = new FlipSwitch(job.memory);
  toggle.running = true;
  for (let i = 0; !toggle.stopAsked;) {
    for (let k = 0; k < flipsAtOnce; k++) flip(i++);
  }
  toggle.running = false;
});

(globalThis as unknown as { postMessage: (message: string) => void }).postMessage("ready");

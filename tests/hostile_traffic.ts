/**
 * Two honest guests that exchange frames without a pause, in a thread of their own: whatever is done to other ports,
 * every frame must arrive, intact and in order. Started by `hostile_world.ts`, as a worker.
 *
 * @module
 */

import { equals, macBytes, sequenceOf } from "./hostile_bytes.ts";
import { Guest } from "./hostile_guest.ts";
import { Board, type TrafficJob } from "./hostile_board.ts";

/** Frames under way in one direction, at most: far fewer than there are buffers. */
const windowFrames = 48;
const burstFrames = 4;
const pause_ms = 1;
/** No frame arrived for so long although some are under way: they are lost. */
const patience_ms = 20_000;

/** From one guest to the other. */
class Direction {
  readonly #from: Guest;
  readonly #to: Guest;
  readonly #source: Uint8Array;
  readonly #underway: Uint8Array[] = [];
  #sent = 0;
  #last_ms = performance.now();

  constructor(from: Guest, to: Guest) {
    this.#from = from;
    this.#to = to;
    this.#source = macBytes(from.mac);
  }

  send(): void {
    for (let i = 0; i < burstFrames && this.#underway.length < windowFrames; i++) {
      const frame = this.#from.frame(this.#to.mac, 60 + this.#sent++ * 97 % 1440);
      this.#underway.push(frame);
      this.#from.send(frame);
    }
  }

  /** Returns how many arrived; throws for one that is not the next. */
  receive(): number {
    let count = 0;
    for (const { frame } of this.#to.arrivals()) {
      // Other ports' frames are nobody's concern here.
      if (!equals(frame.subarray(6, 12), this.#source)) continue;
      const expected = this.#underway.shift();
      if (expected === undefined) throw new Error(`${describe(frame)} arrived twice`);
      if (!equals(frame, expected)) throw new Error(`${describe(expected)}: ${describe(frame)} arrived in its place`);
      count++;
    }
    const now_ms = performance.now();
    if (count > 0 || this.#underway.length === 0) this.#last_ms = now_ms;
    if (now_ms - this.#last_ms > patience_ms) throw new Error(`${this.#underway.length} frames did not arrive`);
    return count;
  }
}

function describe(frame: Uint8Array): string {
  return frame.length < 18 ? `${frame.length} bytes` : `frame ${sequenceOf(frame)} of ${frame.length} bytes`;
}

function exchange({ guests }: TrafficJob, board: Board): void {
  using first = new Guest(guests[0]);
  using second = new Guest(guests[1]);
  for (const guest of [first, second]) {
    guest.start();
    guest.offerBuffers();
  }
  const directions = [new Direction(first, second), new Direction(second, first)];
  const sleeper = new Int32Array(new SharedArrayBuffer(4));
  board.state = "running";
  while (!board.stopAsked) {
    directions.forEach((direction, i) => {
      board.count(i, direction.receive());
      direction.send();
    });
    Atomics.wait(sleeper, 0, 0, pause_ms);
  }
}

addEventListener("message", (event) => {
  const job = (event as MessageEvent<TrafficJob>).data;
  const board = new Board(job.memory);
  try {
    exchange(job, board);
    board.state = "stopped";
  } catch (error) {
    board.fail(error instanceof Error ? error.stack ?? error.message : String(error));
  }
});

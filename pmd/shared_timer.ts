/**
 * One timer for everybody who waits: a thousand ports whose front ends are away cost a few wake-ups a second, not a
 * thousand.
 *
 * @module
 */

/** Who is due so close together is called together. */
const slot_ms = 20;

type Callback = () => void;

/** By the number of the slot in which they are to be called. */
const slots = new Map<number, Set<Callback>>();
/** The one timer, and the slot that it waits for. */
let armed: { readonly slot: number; readonly timer: ReturnType<typeof setTimeout> } | undefined;

/**
 * Calls back once after a pause, which may end two hundredths of a second early; never before this has returned.
 * Dispose of the result to be left in peace.
 *
 * @param callback May not throw.
 */
export function callAfter(pause_ms: number, callback: Callback): Disposable {
  const slot = Math.floor((performance.now() + pause_ms) / slot_ms);
  const callbacks = slots.get(slot) ?? new Set();
  // Whoever asks twice is called twice.
  const own = () => callback();
  slots.set(slot, callbacks.add(own));
  arm();
  return {
    [Symbol.dispose]() {
      if (!callbacks.delete(own) || callbacks.size > 0) return;
      slots.delete(slot);
      arm();
    },
  };
}

/** Without anybody who waits there is no timer, so that a program can end. */
function arm(): void {
  const first = slots.size === 0 ? undefined : Math.min(...slots.keys());
  if (first === armed?.slot) return;
  clearTimeout(armed?.timer);
  armed = undefined;
  if (first === undefined) return;
  const timer = setTimeout(ring, Math.max(0, first * slot_ms - performance.now()));
  armed = { slot: first, timer };
}

function ring(): void {
  armed = undefined;
  const now = Math.floor(performance.now() / slot_ms);
  const due = [...slots].filter(([slot]) => slot <= now).toSorted(([one], [other]) => one - other);
  for (const [slot] of due) slots.delete(slot);
  for (const [, callbacks] of due) {
    // One of them may dispose of another.
    for (const callback of callbacks) if (callbacks.delete(callback)) callback();
  }
  arm();
}

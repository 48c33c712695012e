/**
 * A port's side of moving what the switch knows of it, for one front end's session.
 *
 * @module
 */
import { readPipe, writePipe } from "../ffi/fd.ts";
import type { Direction, Port, VringStats } from "../ffi/port.ts";
import type { Pump } from "../ffi/pump.ts";
import {
  decodeState,
  type DeviceState,
  encodeState,
  stateBytesMax,
  type StateCounters,
  type StateTransfer,
} from "../vhost/device_state.ts";
import type { Fd } from "../vhost/fd.ts";
import type { Occurrence } from "./port_event.ts";

/** What is read at once, before others have their turn. */
const pieceBytes = 1 << 16;

export interface StateTransferParts {
  readonly port: Port;
  readonly pump: Pump;
  /** What NET_SET_MTU said. */
  readonly mtu: () => number | undefined;
  readonly tell: (occurrence: Occurrence) => void;
  /** Of a session that another process has begun: what it had counted. */
  readonly carried?: Carried | undefined;
}

/** What was counted of a guest, wherever it was, and whether that has gone to its next host. */
export type Carried = Readonly<Record<Direction, StateCounters>> & { readonly saved: boolean };

/** A state on its way in. What is beyond the limit is read, too: a front end that waits to write would stand still. */
class Arrival implements Disposable {
  readonly #pipe: Fd;
  readonly #watch: Disposable;
  readonly #bytes: Uint8Array[] = [];
  #length = 0;
  #later: ReturnType<typeof setTimeout> | undefined;
  ended = false;

  constructor(pipe: Fd, pump: Pump) {
    this.#pipe = pipe;
    this.#watch = pump.watch(pipe.number, () => this.read());
  }

  read(): void {
    clearTimeout(this.#later);
    const piece = readPipe(this.#pipe.number, pieceBytes);
    if (piece === undefined) return;
    if (piece.length === 0) {
      this.ended = true;
      return;
    }
    if (this.#length <= stateBytesMax) this.#bytes.push(piece);
    this.#length += piece.length;
    this.#later = setTimeout(() => this.read());
  }

  /** Too many, if there were. */
  get bytes(): Uint8Array {
    const whole = new Uint8Array(this.#bytes.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const piece of this.#bytes) {
      whole.set(piece, at);
      at += piece.length;
    }
    return whole;
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#later);
    this.#watch[Symbol.dispose]();
    this.#pipe[Symbol.dispose]();
  }
}

/** Lives as long as a session. */
export class PortStateTransfer implements StateTransfer, Disposable {
  readonly #parts: StateTransferParts;
  /** The port's counters when the session began: those before are of other guests. */
  readonly #before: Record<Direction, VringStats>;
  #carried: Readonly<Record<Direction, StateCounters>> = { toGuest: {}, fromGuest: {} };
  #saved = false;
  #arrival: Arrival | undefined;

  constructor(parts: StateTransferParts) {
    this.#parts = parts;
    if (parts.carried !== undefined) {
      this.#carried = parts.carried;
      this.#saved = parts.carried.saved;
    }
    this.#before = { toGuest: parts.port.stats("toGuest"), fromGuest: parts.port.stats("fromGuest") };
  }

  save(pipe: Fd): void {
    this.#begin();
    const { port, tell, mtu } = this.#parts;
    const state = {
      macs: port.macs(),
      mtu: mtu(),
      toGuest: this.#counted("toGuest"),
      fromGuest: this.#counted("fromGuest"),
    };
    writePipe(pipe.number, encodeState(state));
    this.#saved = true;
    tell({ event: "state_saved", ...summaryOf(state) });
  }

  /** For `StateTransferParts.carried`. Throws while a state is on its way in. */
  carried(): Carried {
    if (this.#arrival !== undefined) throw new Error("its guest's state is on its way: wait for it");
    return { toGuest: this.#counted("toGuest"), fromGuest: this.#counted("fromGuest"), saved: this.#saved };
  }

  load(pipe: Fd): void {
    this.#begin();
    this.#arrival = new Arrival(pipe.move(), this.#parts.pump);
    this.#arrival.read();
  }

  check(): void {
    const arrival = this.#arrival;
    if (arrival === undefined) {
      if (!this.#saved) throw new Error("no state was transferred: send SET_DEVICE_STATE_FD first");
      return;
    }
    for (let piece = 0; piece < 2 && !arrival.ended; piece++) arrival.read();
    if (!arrival.ended) throw new Error("the state has not come whole: close the pipe first");
    const { bytes } = arrival;
    this[Symbol.dispose]();
    this.#takeIn(bytes);
  }

  /** A guest without its hints is better than none: what cannot be read is told, and forgotten. */
  #takeIn(bytes: Uint8Array): void {
    const { port, tell } = this.#parts;
    try {
      const state = decodeState(bytes);
      port.learn(state.macs);
      this.#carried = state;
      tell({ event: "state_loaded", ...summaryOf(state) });
    } catch (error) {
      tell({ event: "state_dropped", reason: (error as Error).message });
    }
  }

  #begin(): void {
    this[Symbol.dispose]();
    this.#saved = false;
  }

  #counted(direction: Direction): StateCounters {
    const now = this.#parts.port.stats(direction);
    const sum: Record<string, number> = { ...this.#carried[direction] };
    for (const [name, value] of Object.entries(now)) {
      const more = Number(value - this.#before[direction][name as keyof VringStats]);
      if (more > 0) sum[name] = (sum[name] ?? 0) + more;
    }
    return sum;
  }

  [Symbol.dispose](): void {
    this.#arrival?.[Symbol.dispose]();
    this.#arrival = undefined;
  }
}

function summaryOf({ macs, mtu, toGuest, fromGuest }: DeviceState) {
  return { macs: macs.length, mtu, to_guest: toGuest, from_guest: fromGuest };
}

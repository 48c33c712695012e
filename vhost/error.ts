/**
 * What a peer can do wrong, as errors. Their messages are for people: what failed, the value, what to do.
 *
 * @module
 */

/** A peer broke the protocol. */
export class ProtocolError extends Error {
  override name = "ProtocolError";
}

/**
 * A whole message that is refused, with nothing changed. The session goes on where the sender awaits a verdict (it gets
 * a nack), and ends where it does not.
 */
export class RefusedError extends ProtocolError {
  override name = "RefusedError";
  /** As the specification has it, without `VHOST_USER_`; of an unknown request, its number. */
  readonly request: string;

  /** @param problem *What: value: what to do*, without a full stop. */
  constructor(request: string, problem: string) {
    super(`${request} refused: ${problem}`);
    this.request = request;
  }
}

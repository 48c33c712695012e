/**
 * What a peer can do wrong, as errors. Their messages are for people: what failed, the value, what to do.
 *
 * @module
 */

/** A peer broke the protocol: the session ends. */
export class ProtocolError extends Error {
  override name = "ProtocolError";
}

/**
 * A whole message that is refused, with nothing changed. The session goes on where the sender awaits a verdict (it gets
 * a nack), and ends where it does not.
 */
export class RefusedError extends ProtocolError {
  override name = "RefusedError";
}

/** The other side answered a request of ours with a nack. */
export class NackError extends ProtocolError {
  override name = "NackError";
}

/** The other side is gone. */
export class HangupError extends ProtocolError {
  override name = "HangupError";
}

/**
 * A migration on its way, as lines.
 *
 * @module
 */
import type { Progress, Stall } from "./migration_progress.ts";
import { byteQuantity, duration, quantity } from "./output.ts";

/** One line, short enough for most terminals: what matters most comes first. */
export function progressText(progress: Progress): string {
  const { status, pass, remaining_bytes, estimated_ms, logged_pages } = progress;
  if (progress.total_bytes === 0) return `${status} for ${duration(1000 * progress.seconds)}`;
  const parts = [
    `${status}: ${byteQuantity(remaining_bytes)} of ${byteQuantity(progress.total_bytes)} left`,
    `pass ${pass}`,
    `sends ${byteQuantity(progress.bytes_per_second)}/s`,
    `dirtied ${byteQuantity(progress.dirty_bytes_per_second)}/s (${quantity(progress.dirty_pages_per_second)} pages/s)`,
    estimated_ms === null ? "no end in sight" : `${duration(estimated_ms)} to go`,
    ...logged_pages === null ? [] : [`${quantity(logged_pages)} pages logged by us`],
  ];
  return parts.join(", ");
}

/** A round figure that is not less. */
function roundUp(value: number): number {
  const step = 10 ** Math.max(0, Math.floor(Math.log10(value)) - 1);
  return Math.ceil(value / step) * step;
}

/** What is the matter, and what can be done. */
export function stallLines(stall: Stall, toPostcopy: boolean): string[] {
  const { dirty_bytes_per_second, bytes_per_second, downtime_needed_ms } = stall;
  const rates = `dirties ${byteQuantity(dirty_bytes_per_second)}/s, ${byteQuantity(bytes_per_second)}/s are sent`;
  const head = `does not converge: the guest ${rates}, and ${
    quantity(stall.remaining_bytes)
  }B are left in pass ${stall.pass}`;
  if (toPostcopy) return [`${head}: switching to post-copy`];
  const longer = roundUp(1.2 * downtime_needed_ms);
  return [
    `${head}: it goes on; Ctrl-C cancels, and one of these helps:`,
    `  --max-downtime ${longer}   the guest stands still for that long`,
    "  --auto-converge       the guest is slowed down until it fits",
    "  --postcopy            the guest starts there first, where QEMU has it, and vhostctl serve with postcopy=on",
    `  --max-bandwidth       more than ${byteQuantity(bytes_per_second)}/s, where that was your limit, or a faster way`,
    "  or let the guest write less meanwhile",
  ];
}

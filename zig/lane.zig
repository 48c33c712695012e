//! A port's frames on a fixed way, as in testpmd: from each queue to that queue of one port, changed or not.

const abi = @import("abi.zig");
const action = @import("action.zig");
const burst_file = @import("burst.zig");
const switch_file = @import("switch.zig");
const Vring = @import("vring.zig").Vring;

/// Delivers a burst. What finds its target without a guest counts there as `link_down`; and in the sender's ring where
/// there is no such port any more.
pub fn forward(
    fabric: *switch_file.Switch,
    input: *switch_file.Input,
    burst: *burst_file.Burst,
    notices: *switch_file.Notices,
) void {
    const lane = &input.port.lane;
    const mask = action.apply(lane, burst);
    if (mask == 0) return;
    const target = if (lane.target < abi.ports_max) fabric.ports[lane.target] else null;
    const port = target orelse {
        input.vring.stats.drop_link_down += @popCount(mask);
        return;
    };
    if (port.receiver_count == 0) return drop(&port.vrings[0], @popCount(mask));
    const index = input.vring - input.port.vrings.ptr - 1;
    const whole = index < port.vrings.len and port.vrings[index].isUp();
    // A queue without a counterpart that is up has one of the others.
    const vring = if (whole) &port.vrings[index] else port.receivers[index / 2 % port.receiver_count];
    notices.add(vring, burst.deliver(vring, mask, port.mtu));
}

/// Other workers may count in the same ring.
fn drop(vring: *Vring, frames: u64) void {
    vring.lock.acquire();
    defer vring.lock.release();
    vring.stats.drop_link_down += frames;
}

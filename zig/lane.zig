//! A port's frames on a fixed way, as in testpmd: from each queue to that queue of one port, changed or not.

const std = @import("std");
const action = @import("action.zig");
const burst_file = @import("burst.zig");
const port_file = @import("port.zig");
const switch_file = @import("switch.zig");
const Port = port_file.Port;
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
    const target = if (lane.target == port_file.nowhere) null else fabric.ports[lane.target];
    const port = target orelse {
        input.vring.stats.drop_link_down += @popCount(mask);
        return;
    };
    const vring = receiverOf(port, input.vring - input.port.vrings.ptr - 1) orelse
        return drop(&port.vrings[0], @popCount(mask));
    notices.add(vring, burst.deliver(vring, mask, port.mtu));
}

/// The ring of that index, toGuest; one of the others for a queue without a counterpart that is up.
fn receiverOf(port: *const Port, index: usize) ?*Vring {
    if (index < port.vrings.len and port.vrings[index].isUp()) return &port.vrings[index];
    if (port.receiver_count == 0) return null;
    return port.receivers[index / 2 % port.receiver_count];
}

/// Other workers may count in the same ring.
fn drop(vring: *Vring, frames: u64) void {
    vring.lock.acquire();
    defer vring.lock.release();
    vring.stats.drop_link_down += frames;
}

test "a queue keeps to its counterpart, or has another while that is down" {
    const port: *Port = try .create(0, .{ .queue_pairs = 3, .mtu = 0 }, -1);
    defer port.destroy();
    port.findReceivers();
    try std.testing.expectEqual(null, receiverOf(port, 0));
    for ([_]usize{ 0, 4 }) |index| {
        port.vrings[index].started = true;
        port.vrings[index].enabled = true;
    }
    port.findReceivers();
    for ([_]usize{ 0, 2, 4, 6 }, [_]usize{ 0, 4, 4, 4 }) |index, expected| {
        try std.testing.expectEqual(&port.vrings[expected], receiverOf(port, index).?);
    }
}

//! A port's frames on a fixed way, as in testpmd: from each queue to that queue of one port, changed or not.

const std = @import("std");
const abi = @import("abi.zig");
const action = @import("action.zig");
const burst_file = @import("burst.zig");
const generator = @import("generator.zig");
const port_file = @import("port.zig");
const queue_burst = @import("queue_burst.zig");
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
    const mask = action.apply(&input.port.lane, burst);
    if (mask == 0) return;
    const port = targetOf(fabric, input) orelse {
        input.vring.stats.drop_link_down += @popCount(mask);
        return;
    };
    const vring = receiverOf(port, indexOf(input)) orelse return drop(&port.vrings[0], @popCount(mask));
    notices.add(vring, queue_burst.deliver(burst, vring, mask, port.mtu));
}

/// Whether frames of ours are to go by and by.
pub fn wantsToSend(input: *const switch_file.Input) bool {
    return isOurs(input.port.lane.mode) or input.vring.first > 0;
}

/// Whether frames of ours are to go, and somebody is there who has buffers for them.
pub fn sends(fabric: *switch_file.Switch, input: *const switch_file.Input) bool {
    if (!wantsToSend(input) or !input.vring.isUp()) return false;
    const port = targetOf(fabric, input) orelse return false;
    const vring = receiverOf(port, indexOf(input)) orelse return false;
    return vring.isUp() and vring.pending();
}

/// Sends a burst of our own. What finds no buffer is counted, and goes with the next one.
pub fn send(
    fabric: *switch_file.Switch,
    input: *switch_file.Input,
    burst: *burst_file.Burst,
    notices: *switch_file.Notices,
) void {
    const lane = &input.port.lane;
    const own = input.vring;
    const count = if (own.first > 0) @min(lane.burst, own.first) else lane.burst;
    generator.fill(burst, lane, count, own.flow);
    const port = targetOf(fabric, input).?;
    const vring = receiverOf(port, indexOf(input)).?;
    notices.add(vring, queue_burst.deliver(burst, vring, burst_file.firstFrames(count), port.mtu));
    const gone = count - @popCount(burst.left);
    own.flow = generator.following(lane, own.flow, gone);
    own.first -|= gone;
}

fn isOurs(mode: abi.ForwardMode) bool {
    return mode == .txonly or mode == .flowgen;
}

fn targetOf(fabric: *switch_file.Switch, input: *const switch_file.Input) ?*Port {
    const number = input.port.lane.target;
    return if (number == port_file.nowhere) null else fabric.ports[number];
}

/// Of the ring to the guest beside this one.
fn indexOf(input: *const switch_file.Input) usize {
    return input.vring - input.port.vrings.ptr - 1;
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

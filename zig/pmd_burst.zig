//! A poll mode driver's bursts: frames between rings and memory of the caller's, moved by the control
//! thread itself. For rings that no worker serves.

const std = @import("std");
const abi = @import("abi.zig");
const burst_file = @import("burst.zig");
const frame_file = @import("frame.zig");
const net_header = @import("net_header.zig");
const queue_burst = @import("queue_burst.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");
const Used = @import("vring_entry.zig").Used;
const Vring = @import("vring.zig").Vring;

const header_bytes = @sizeOf(spec.NetHeader);
const line_bytes = 64;
const every_feature = ~@as(u64, 0);

pub const Error = error{InvalidArgument};

comptime {
    std.debug.assert(abi.packet_room_max % line_bytes == 0);
    std.debug.assert(abi.packet_room_max >= header_bytes + net_header.frame_bytes_max);
}

/// Copies what the guest sent into `arena`, as many frames as `packets` and `arena` surely have room for.
/// Each begins behind room for its header, which is at a multiple of 64. Returns their number; the ring may
/// have broken.
pub fn receive(burst: *burst_file.Burst, vring: *Vring, arena: []u8, packets: []abi.Packet) u32 {
    if (!vring.started or vring.isBroken()) return 0;
    const room = arena.len / abi.packet_room_max;
    queue_burst.collectSome(burst, vring, @intCast(@min(packets.len, room, burst_file.frames_max)));
    if (vring.enabled) {
        burst_file.countSent(burst, &vring.stats);
    } else {
        vring.stats.drop_disabled += burst.count;
        burst.count = 0;
    }
    var at: u32 = 0;
    for (burst.frames[0..burst.count], packets[0..burst.count]) |*frame, *packet| {
        packet.* = .{ .offset = at + header_bytes, .length = frame.len, .header = std.mem.toBytes(frame.header) };
        frame_file.copySegments(arena.ptr + packet.offset, frame.segments);
        at = std.mem.alignForward(u32, packet.offset + frame.len, line_bytes);
    }
    notify(vring, queue_burst.giveBack(burst, vring));
    return burst.count;
}

/// Copies frames into the guest, in order. Returns how many are done with; the others found no buffer. What
/// cannot be given to this guest is done with, too, and counted by reason. All or none are looked at: of a
/// frame that lies outside, or contradicts its header, nothing comes.
pub fn send(
    burst: *burst_file.Burst,
    vring: *Vring,
    mtu: u32,
    arena: []u8,
    packets: []const abi.Packet,
) Error!u32 {
    if (packets.len > burst_file.frames_max) return error.InvalidArgument;
    burst.begin();
    for (packets, burst.frames[0..packets.len], 0..) |packet, *frame, i| {
        const segment = &burst.source.items[i];
        frame.* = try frameOf(arena, packet, segment);
    }
    if (!vring.isUp()) return 0;
    burst.count = @intCast(packets.len);
    notify(vring, queue_burst.deliver(burst, vring, burst_file.firstFrames(burst.count), mtu));
    return burst.count - @popCount(burst.left);
}

fn frameOf(arena: []u8, packet: abi.Packet, segment: *burst_file.Segment) Error!burst_file.Frame {
    const end = @as(u64, packet.offset) + packet.length;
    if (packet.offset < header_bytes or end > arena.len) return error.InvalidArgument;
    if (packet.length < spec.ethernet_header_bytes) return error.InvalidArgument;
    if (packet.length > net_header.frame_bytes_max) return error.InvalidArgument;
    segment.* = .{ .base = arena.ptr + packet.offset, .len = packet.length };
    const wanted = std.mem.bytesToValue(spec.NetHeader, &packet.header);
    const header = net_header.checked(wanted, packet.length, every_feature) catch return error.InvalidArgument;
    var frame: burst_file.Frame = .{
        .segments = segment[0..1],
        .len = packet.length,
        .behind_header = true,
        .header = header,
        .ethernet = @splat(0),
    };
    const seen = @min(packet.length, frame.ethernet.len);
    @memcpy(frame.ethernet[0..seen], segment.base[0..seen]);
    return frame;
}

/// The fence orders what was used before the driver's wish for calls (virtio 2.7.13, 2.8.21).
fn notify(vring: *Vring, used: Used) void {
    if (!used.any) return;
    sys.fence();
    vring.notify(used);
}

const DriverPacked = @import("driver_packed.zig").DriverPacked;
const DriverSplit = @import("driver_split.zig").DriverSplit;
const Feature = spec.Feature;
const Rig = @import("driver_rig.zig").Rig;

const mergeable = @as(u64, 1) << Feature.mrg_rxbuf | @as(u64, 1) << Feature.version_1;
const ring_packed = @as(u64, 1) << Feature.ring_packed;

/// The device of `rig`. What finds no buffer is with us still, and is lost then.
fn forwardThrough(rig: anytype, arena: []u8) !u32 {
    var arrived: u32 = 0;
    while (rig.from.device.pending()) {
        var packets: [abi.packets_max]abi.Packet = undefined;
        const room = packets[0..rig.random.random().intRangeAtMost(u32, 1, packets.len)];
        const count = receive(rig.burst, &rig.from.device, arena, room);
        try std.testing.expect(count > 0 and count <= @min(room.len, arena.len / abi.packet_room_max));
        for (packets[0..count]) |packet| {
            const lost = rig.lostCount();
            const sent = try send(rig.burst, &rig.to.device, 0, arena, &.{packet});
            try std.testing.expect(sent == 1 or rig.lostCount() > lost);
            if (rig.lostCount() == lost) arrived += 1 else rig.expected.remove(arrived);
        }
    }
    return arrived;
}

test "frames go through memory of the caller's whole and in order, over any chains" {
    const arena = try std.testing.allocator.alignedAlloc(u8, .@"64", 5 * abi.packet_room_max);
    defer std.testing.allocator.free(arena);
    inline for (.{ DriverSplit, DriverPacked }, .{ 0, ring_packed }) |Driver, format| {
        for ([_]u64{ 0, mergeable }) |features| {
            const rig: *Rig(Driver) = try .create(.{ .features = format | features, .size = 64 });
            defer rig.destroy();
            for (0..200) |_| {
                try rig.fill();
                const arrived = try forwardThrough(rig, arena);
                try rig.finish(arrived);
            }
            try std.testing.expect(rig.arrived > 1000);
        }
    }
}

test "frames outside, or at odds with their header, are refused, and those without a buffer are left" {
    const arena = try std.testing.allocator.alloc(u8, 4096);
    defer std.testing.allocator.free(arena);
    @memset(arena, 0);
    const rig: *Rig(DriverSplit) = try .create(.{ .features = mergeable, .size = 4 });
    defer rig.destroy();
    const good: abi.Packet = .{ .offset = 64, .length = 60, .header = @splat(0) };
    var partial = good.header;
    partial[0] = spec.NetHeader.needs_csum;
    partial[6] = 59;
    for ([_]abi.Packet{
        .{ .offset = 11, .length = 60, .header = good.header },
        .{ .offset = 4096 - 59, .length = 60, .header = good.header },
        .{ .offset = 0xffff_ffff, .length = 60, .header = good.header },
        .{ .offset = 64, .length = 13, .header = good.header },
        .{ .offset = 64, .length = 0xffff_ffff, .header = good.header },
        .{ .offset = 64, .length = 60, .header = partial },
    }) |bad| {
        const packets = [_]abi.Packet{ good, bad };
        try std.testing.expectError(error.InvalidArgument, send(rig.burst, &rig.to.device, 0, arena, &packets));
    }
    const three: [3]abi.Packet = @splat(good);
    try std.testing.expectEqual(0, try send(rig.burst, &rig.to.device, 0, arena, &three));
    for (0..2) |_| {
        const piece = rig.addressOf(0, 0);
        try rig.to.driver.add(&.{}, &.{.{ .gpa = piece, .len = 200 }}, 0, .direct);
    }
    _ = rig.to.driver.publish();
    try std.testing.expectEqual(2, try send(rig.burst, &rig.to.device, 0, arena, &three));
    // Too long for this guest: it is done with, and the ring has no buffer for the next.
    try std.testing.expectEqual(1, try send(rig.burst, &rig.to.device, 40, arena, three[0..1]));
    try std.testing.expectEqual(1, rig.to.device.stats.drop_too_big);
    rig.to.device.enabled = false;
    try std.testing.expectEqual(0, try send(rig.burst, &rig.to.device, 0, arena, &three));
}

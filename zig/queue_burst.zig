//! Bursts from and to a queue, whomever it leads to: a guest that we serve, a back end whose driver we are, or an
//! interface of the host's.

const std = @import("std");
const Arrival = @import("arrival.zig").Arrival;
const burst_file = @import("burst.zig");
const DriverQueue = @import("driver_queue.zig").DriverQueue;
const frame_file = @import("frame.zig");
const net_header = @import("net_header.zig");
const spec = @import("spec.zig");
const UplinkQueue = @import("uplink_queue.zig").UplinkQueue;
const Used = @import("vring_entry.zig").Used;
const Vring = @import("vring.zig").Vring;

const Burst = burst_file.Burst;
const Frame = burst_file.Frame;
const Mask = burst_file.Mask;
const NetHeader = spec.NetHeader;

const every_feature = ~@as(u64, 0);

/// See `Burst.collect`.
pub fn collect(burst: *Burst, vring: *Vring) void {
    if (vring.peer == .guest) burst.collect(vring) else collectOthers(burst, vring, burst_file.frames_max);
}

/// See `Burst.collectSome`.
pub fn collectSome(burst: *Burst, vring: *Vring, chains_max: u32) void {
    if (vring.peer == .guest) burst.collectSome(vring, chains_max) else collectOthers(burst, vring, chains_max);
}

fn collectOthers(burst: *Burst, vring: *Vring, frames_max: u32) void {
    burst.begin();
    (switch (vring.peer) {
        .guest => unreachable,
        .back_end => |queue| collectBuffers(burst, vring, queue, frames_max),
        .uplink => |queue| collectPackets(burst, vring, queue, frames_max),
    }) catch |reason| vring.breakBy(reason);
}

fn collectBuffers(burst: *Burst, vring: *Vring, queue: *DriverQueue, frames_max: u32) !void {
    try queue.reap();
    while (burst.count < frames_max) {
        const taken = try frameOf(burst, vring, queue);
        if (taken == 0) return;
        queue.take(taken);
    }
}

fn collectPackets(burst: *Burst, vring: *Vring, queue: *UplinkQueue, frames_max: u32) !void {
    var arrival: Arrival = undefined;
    while (burst.count < frames_max and try queue.read(&arrival)) {
        const segments = burst.source.items[burst.source.used + 1 ..][0..arrival.count];
        var total: u32 = 0;
        for (segments, arrival.segments[0..arrival.count]) |*segment, found| {
            segment.* = found;
            total += found.len;
        }
        const drop = if (total < spec.ethernet_header_bytes)
            &vring.stats.drop_runt
        else if (total < arrival.len or total > net_header.frame_bytes_max)
            &vring.stats.drop_too_big
        else
            addFrame(burst, vring, segments, total, arrival.header) orelse continue;
        drop.* += 1;
    }
    const gro = queue.gro orelse return;
    const merged = gro.merge(burst.frames[0..burst.count], &burst.source);
    burst.count -= merged;
    vring.stats.merged += merged;
}

/// See `Burst.giveBack`.
pub fn giveBack(burst: *Burst, vring: *Vring) Used {
    return switch (vring.peer) {
        .guest => burst.giveBack(vring),
        .back_end => |queue| if (queue.taken == 0) .{} else queue.offer(),
        .uplink => |queue| {
            queue.giveBack();
            return .{};
        },
    };
}

/// See `Burst.deliver`.
pub fn deliver(burst: *Burst, vring: *Vring, mask: Mask, mtu: u32) Used {
    if (vring.peer == .guest) return burst.deliver(vring, mask, mtu);
    vring.lock.acquire();
    defer vring.lock.release();
    burst.left = 0;
    if (vring.isBroken()) {
        vring.stats.drop_link_down += @popCount(mask);
        return .{};
    }
    return switch (vring.peer) {
        .guest => unreachable,
        .back_end => |queue| deliverBuffers(burst, vring, queue, mask, mtu),
        .uplink => |queue| {
            queue.begin();
            const used = deliverTo(burst, vring, queue, mask, mtu);
            queue.finish();
            return used;
        },
    };
}

fn deliverBuffers(burst: *Burst, vring: *Vring, queue: *DriverQueue, mask: Mask, mtu: u32) Used {
    queue.reap() catch |reason| {
        vring.breakBy(reason);
        vring.stats.drop_link_down += @popCount(mask);
        return .{};
    };
    _ = deliverTo(burst, vring, queue, mask, mtu);
    return queue.publish();
}

/// `queue` is a `DriverQueue` or an `UplinkQueue`.
fn deliverTo(burst: *Burst, vring: *Vring, queue: anytype, mask: Mask, mtu: u32) Used {
    var counts: burst_file.Counts = .{};
    var left = mask;
    while (left != 0) : (left &= left - 1) {
        const frame = &burst.frames[@ctz(left)];
        const placed = if (takes(queue, frame))
            place(vring, queue, frame, mtu, &counts)
        else
            placePieces(burst, vring, queue, frame, mtu, &counts);
        if (!placed) break;
    }
    vring.stats.drop_no_buffer += @popCount(left);
    burst.left = left;
    counts.commit(&vring.stats);
    return .{};
}

/// Whether whoever is there does what is left to do.
fn takes(queue: anytype, frame: *const Frame) bool {
    return if (net_header.checked(frame.header, frame.len, queue.features)) |_| true else |_| false;
}

/// Buffers that the next frame takes, which becomes one of the burst if it is good; 0: it is not there as a whole.
fn frameOf(burst: *Burst, vring: *Vring, queue: *DriverQueue) error{BadHead}!u32 {
    const first = queue.peek(0) orelse return 0;
    const front_bytes = queue.headerBytes();
    if (first.len < front_bytes) return error.BadHead;
    var header = net_header.plain;
    @memcpy(std.mem.asBytes(&header)[0..front_bytes], queue.buffer(first.token)[0..front_bytes]);
    const mergeable = spec.has(queue.features, spec.Feature.mrg_rxbuf);
    const count: u32 = if (mergeable) header.num_buffers else 1;
    if (count == 0 or count > queue.items.len) return error.BadHead;
    if (queue.peek(count - 1) == null) return 0;
    // The rest is for the next burst; in front of the segments is room for the one that `Burst.front` puts there.
    if (burst.source.left() <= count) return 0;
    const segments = burst.source.items[burst.source.used + 1 ..][0..count];
    var total: u32 = 0;
    for (segments, 0..) |*segment, i| {
        const item = queue.peek(@intCast(i)).?;
        const skip = if (i == 0) front_bytes else 0;
        if (item.len < skip or item.len > queue.capacity() + front_bytes) return error.BadHead;
        segment.* = .{ .base = queue.buffer(item.token) + skip, .len = item.len - skip };
        total += segment.len;
    }
    const drop = if (total < spec.ethernet_header_bytes)
        &vring.stats.drop_runt
    else if (total > net_header.frame_bytes_max)
        &vring.stats.drop_too_big
    else
        addFrame(burst, vring, segments, total, header) orelse return count;
    drop.* += 1;
    return count;
}

fn addFrame(burst: *Burst, vring: *Vring, segments: []burst_file.Segment, total: u32, header: NetHeader) ?*u64 {
    const frame = &burst.frames[burst.count];
    frame.* = .{
        .segments = segments,
        .len = total,
        .behind_header = false,
        .header = net_header.checked(header, total, every_feature) catch |reason|
            return burst_file.dropOfHeader(&vring.stats, reason),
        .ethernet = @splat(0),
    };
    var cursor: @import("chain.zig").Cursor = .{ .segments = segments };
    _ = cursor.read(&frame.ethernet);
    burst.source.used += @as(u32, @intCast(segments.len)) + 1;
    burst.count += 1;
    return null;
}

/// One frame to whoever is there, unless it has to be dropped. False: there is no buffer.
fn place(vring: *Vring, queue: anytype, frame: *const Frame, mtu: u32, counts: *burst_file.Counts) bool {
    const is_whole = frame.header.gso_type == NetHeader.gso_none;
    const too_long = mtu != 0 and is_whole and frame.len > mtu + burst_file.plain_overhead_bytes;
    const drop = if (too_long) &vring.stats.drop_too_big else switch (@TypeOf(queue)) {
        *DriverQueue => writeFrame(vring, queue, frame) catch return false,
        *UplinkQueue => queue.put(frame, &vring.stats),
        else => comptime unreachable,
    };
    if (drop) |counter| counter.* += 1 else counts.add(frame);
    return true;
}

/// The same for a frame that is not taken as it is: what we make of it. False: there is no buffer for the first piece;
/// pieces behind that which find none are dropped.
fn placePieces(
    burst: *Burst,
    vring: *Vring,
    queue: anytype,
    frame: *const Frame,
    mtu: u32,
    counts: *burst_file.Counts,
) bool {
    burst.cut.init(frame, spec.has(queue.features, spec.Feature.csum)) catch {
        vring.stats.drop_bad_gso += 1;
        return true;
    };
    const total = burst.cut.pieceCount();
    var done: u32 = 0;
    pieces: while (done < total) {
        burst.cut.next(&burst.pieces);
        for (burst.pieces.frames[0..burst.pieces.count]) |*piece| {
            if (!place(vring, queue, piece, mtu, counts)) break :pieces;
            done += 1;
        }
    }
    if (done == 0) return false;
    vring.stats.drop_no_buffer += total - done;
    burst_file.countPieces(&vring.stats, &burst.cut);
    return true;
}

/// The counter of why a frame cannot go to this back end, if it cannot.
fn writeFrame(vring: *Vring, queue: *DriverQueue, frame: *const Frame) error{NoBuffer}!?*u64 {
    if (frame.len > queue.capacity()) return &vring.stats.drop_too_big;
    const token = queue.free() orelse return error.NoBuffer;
    const bytes = queue.buffer(token);
    const front_bytes = queue.headerBytes();
    var header = frame.header;
    // A driver sets it to zero (virtio 5.1.6.2.1).
    header.num_buffers = 0;
    @memcpy(bytes[0..front_bytes], std.mem.asBytes(&header)[0..front_bytes]);
    frame_file.copySegments(bytes + front_bytes, frame.segments);
    queue.add(token, front_bytes + frame.len);
    return null;
}

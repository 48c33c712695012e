//! A virtqueue whose driver we are: buffers that go round in it, by number. For ports that face a back end.
//!
//! The rings and the memory are a `Guest`'s, which must not run meanwhile, and stays open.

const std = @import("std");
const driver_entry = @import("driver_entry.zig");
const DriverPacked = @import("driver_packed.zig").DriverPacked;
const DriverSplit = @import("driver_split.zig").DriverSplit;
const guest_side = @import("guest_side.zig");
const spec = @import("spec.zig");
const vring_entry = @import("vring_entry.zig");

const allocator = std.heap.c_allocator;
const Item = driver_entry.Item;
const Used = vring_entry.Used;

pub const DriverQueue = struct {
    /// A guest's ring and buffers.
    pub const Side = union(enum) {
        split: *guest_side.Side(DriverSplit),
        packed_ring: *guest_side.Side(DriverPacked),
    };

    side: Side,
    features: u64,
    /// Buffers that came back. Receiving: of these the first `taken` are with somebody who looks at them still.
    /// Sending: they are free.
    items: []Item,
    listed: u32,
    taken: u32,
    receives: bool,

    /// All buffers are with the device (receiving) or free (sending). The ring becomes as new.
    pub fn create(side: Side, features: u64, receives: bool) error{OutOfMemory}!*DriverQueue {
        const queue = try allocator.create(DriverQueue);
        errdefer allocator.destroy(queue);
        const count = switch (side) {
            inline else => |one| one.count,
        };
        queue.* = .{
            .side = side,
            .features = features,
            .items = try allocator.alloc(Item, count),
            .listed = count,
            .taken = if (receives) count else 0,
            .receives = receives,
        };
        for (queue.items, 0..) |*item, token| item.* = .{ .token = @intCast(token), .len = 0 };
        switch (side) {
            inline else => |one| one.ring.reset(),
        }
        if (receives) _ = queue.offer();
        return queue;
    }

    pub fn destroy(queue: *DriverQueue) void {
        allocator.free(queue.items);
        allocator.destroy(queue);
    }

    pub fn headerBytes(queue: *const DriverQueue) u32 {
        return spec.NetHeader.size(queue.features);
    }

    /// Of a frame, in one buffer.
    pub fn capacity(queue: *const DriverQueue) u32 {
        return switch (queue.side) {
            inline else => |one| one.shape.capacity,
        };
    }

    pub fn buffer(queue: *const DriverQueue, token: u32) [*]u8 {
        return switch (queue.side) {
            inline else => |one| one.buffer(token),
        };
    }

    /// Lists what the device is done with.
    pub fn reap(queue: *DriverQueue) driver_entry.Broken!void {
        queue.listed += switch (queue.side) {
            inline else => |one| try one.ring.reap(queue.items[queue.listed..]),
        };
    }

    /// Receiving: the next of the listed buffers, `ahead` behind the one that `take` would take.
    pub fn peek(queue: *const DriverQueue, ahead: u32) ?Item {
        const at = queue.taken + ahead;
        return if (at < queue.listed) queue.items[at] else null;
    }

    pub fn take(queue: *DriverQueue, count: u32) void {
        queue.taken += count;
    }

    /// Receiving: gives the device those buffers that were taken.
    pub fn offer(queue: *DriverQueue) Used {
        for (queue.items[0..queue.taken]) |item| queue.add(item.token, queue.capacity() + queue.headerBytes());
        std.mem.copyForwards(Item, queue.items, queue.items[queue.taken..queue.listed]);
        queue.listed -= queue.taken;
        queue.taken = 0;
        return queue.publish();
    }

    /// Sending: the number of a free buffer, for `add`.
    pub fn free(queue: *DriverQueue) ?u32 {
        if (queue.listed == 0) return null;
        queue.listed -= 1;
        return queue.items[queue.listed].token;
    }

    /// Gives the device so much of a buffer, to be shown by `publish`. A ring has a place for each of its buffers.
    pub fn add(queue: *DriverQueue, token: u32, bytes: u32) void {
        switch (queue.side) {
            inline else => |one| {
                const gpa = one.room.gpa + @as(u64, token) * one.shape.stride;
                const piece = [_]driver_entry.Piece{.{ .gpa = gpa, .len = bytes }};
                const out: []const driver_entry.Piece = if (queue.receives) &.{} else &piece;
                const in: []const driver_entry.Piece = if (queue.receives) &piece else &.{};
                one.ring.add(out, in, token, .direct) catch unreachable;
            },
        }
    }

    pub fn publish(queue: *DriverQueue) Used {
        const shown = switch (queue.side) {
            inline else => |one| one.ring.publish(),
        };
        return .{ .from = shown.from, .to = shown.to, .any = shown.any };
    }

    pub fn wantsKick(queue: *const DriverQueue, shown: Used) bool {
        return switch (queue.side) {
            inline else => |one| one.ring.wantsKick(.{ .from = shown.from, .to = shown.to, .any = shown.any }),
        };
    }

    /// Receiving: a frame may be there. Sending: a buffer is free, or comes back.
    pub fn pending(queue: *const DriverQueue) bool {
        if (queue.listed > queue.taken) return true;
        return switch (queue.side) {
            inline else => |one| one.ring.pending(),
        };
    }

    pub fn arm(queue: *DriverQueue) void {
        switch (queue.side) {
            inline else => |one| one.ring.arm(),
        }
    }

    pub fn disarm(queue: *DriverQueue) void {
        switch (queue.side) {
            inline else => |one| one.ring.disarm(),
        }
    }
};

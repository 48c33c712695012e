//! How a simulated guest receives: it takes what arrived, has every frame inspected where it lies,
//! and offers the buffers again.
//!
//! One thread. What is offered waits for the ring's `publish`.

const std = @import("std");
const driver_entry = @import("driver_entry.zig");
const guest_frame = @import("guest_frame.zig");
const Inspector = @import("guest_inspector.zig").Inspector;
const guest_sender = @import("guest_sender.zig");
const guest_shape = @import("guest_shape.zig");
const guest_side = @import("guest_side.zig");

const Broken = driver_entry.Broken;
const Item = driver_entry.Item;

/// Longer than any frame that fits a descriptor's worth of header and what IPv4 allows.
const scratch_bytes = 1 << 17;

pub fn Receiver(comptime Driver: type) type {
    return struct {
        side: Side,
        header_bytes: u32,
        mergeable: bool,
        /// The burst in hand, and room for the rest of its last frame.
        items: []Item,
        /// Every buffer was offered once.
        offered: bool,
        scratch: []u8,

        const Self = @This();
        const Side = guest_side.Side(Driver);
        const Sender = guest_sender.Sender(Driver);

        pub fn create(allocator: std.mem.Allocator, side: Side, mergeable: bool) error{OutOfMemory}!Self {
            const items = try allocator.alloc(Item, side.count + guest_side.burst_max);
            errdefer allocator.free(items);
            var self: Self = .{
                .side = side,
                .header_bytes = side.shape.header_bytes,
                .mergeable = mergeable,
                .items = items,
                .offered = false,
                .scratch = try allocator.alloc(u8, scratch_bytes),
            };
            self.reset();
            return self;
        }

        /// Not of the ring.
        pub fn destroyBuffers(self: *Self, allocator: std.mem.Allocator) void {
            allocator.free(self.scratch);
            allocator.free(self.items);
        }

        /// The ring as new. The device does not run.
        pub fn reset(self: *Self) void {
            self.side.reset(true);
            self.offered = false;
        }

        /// Before a run.
        pub fn start(self: *Self) void {
            if (self.offered) return;
            self.offered = true;
            const items = self.items[0..self.side.count];
            for (items, 0..) |*item, token| item.* = .{ .token = @intCast(token), .len = 0 };
            self.offer(items);
        }

        fn offer(self: *Self, items: []Item) void {
            const side = &self.side;
            if (side.shape.isSlot()) {
                for (items) |*item| item.len = side.shape.header_bytes + side.shape.capacity;
                return side.ring.offer(items);
            }
            for (items) |item| {
                var out: guest_shape.Pieces = undefined;
                const pieces = side.pieces(item.token, side.shape.capacity, &out);
                // There are no more buffers than the ring has room for.
                side.ring.add(&.{}, pieces, item.token, side.how()) catch unreachable;
            }
        }

        /// Takes what arrived, up to `limit` buffers and the rest of a frame; returns how many frames.
        /// With `echo`, what was good is sent back.
        pub fn receive(self: *Self, limit: u32, inspector: *Inspector, echo: ?*Sender) Broken!u32 {
            @setRuntimeSafety(false);
            const side = &self.side;
            var count = try side.reap(self.items[0..limit]);
            if (count == 0) return 0;
            for (self.items[0..count]) |item| @prefetch(side.buffer(item.token), .{});
            const slot = side.shape.isSlot();
            const span = side.shape.capacity - guest_frame.bytes_min;
            var frames: u32 = 0;
            var bytes: u64 = 0;
            var i: u32 = 0;
            while (i < count) : (frames += 1) {
                const item = self.items[i];
                const buffer = side.buffer(item.token);
                const len = item.len -% self.header_bytes;
                if (slot and len -% guest_frame.bytes_min <= span and self.isPlain(buffer)) {
                    const frame = (buffer + self.header_bytes)[0..len];
                    const good = inspector.isExpected(frame.ptr, len) or inspector.inspect(frame);
                    if (echo) |sender| if (good) try sendBack(sender, frame, inspector);
                    bytes += len;
                    i += 1;
                } else {
                    const parts = try self.receiveParts(i, &count, inspector, echo);
                    bytes += parts.bytes;
                    i += parts.buffers;
                }
            }
            self.offer(self.items[0..count]);
            side.countBurst(frames, bytes);
            inspector.stats.received += frames;
            inspector.stats.received_bytes += bytes;
            return frames;
        }

        fn sendBack(sender: *Sender, frame: []const u8, inspector: *Inspector) Broken!void {
            if (!try sender.sendCopy(frame, true)) inspector.stats.echo_dropped += 1;
        }

        /// A header that says: all in this buffer, and nothing left to be done.
        inline fn isPlain(self: *const Self, header: [*]const u8) bool {
            @setRuntimeSafety(false);
            if (self.header_bytes == 10) return !hasOffload(header);
            const first: *align(1) const u64 = @ptrCast(header);
            const last: *align(1) const u32 = @ptrCast(header + 8);
            return first.* == 0 and last.* == 1 << 16;
        }

        fn hasOffload(header: [*]const u8) bool {
            return !std.mem.allEqual(u8, header[0..10], 0);
        }

        const Parts = struct { buffers: u32, bytes: u64 };

        /// A frame that is in several buffers or pieces, or is short or odd. The device shows all
        /// buffers of a frame at once (virtio 5.1.6.4.1): those that the burst had no room for are
        /// taken now.
        fn receiveParts(self: *Self, first: u32, count: *u32, inspector: *Inspector, echo: ?*Sender) Broken!Parts {
            const side = &self.side;
            const header = side.buffer(self.items[first].token);
            const buffers = self.buffersOf(self.items[first], header);
            const end = first + buffers;
            if (end > count.*) count.* += try side.reap(self.items[count.*..end]);
            if (buffers == 0 or end > count.*) {
                inspector.stats.bad_header += 1;
                return .{ .buffers = 1, .bytes = self.items[first].len -| self.header_bytes };
            }
            const items = self.items[first..end];
            var len: u64 = 0;
            for (items) |item| len += item.len;
            const parts: Parts = .{ .buffers = buffers, .bytes = len - self.header_bytes };
            if (echo == null and self.isExpected(items[0], parts.bytes, inspector)) return parts;
            const frame = self.gather(items) orelse {
                inspector.stats.bad_header += 1;
                return parts;
            };
            if (hasOffload(header)) {
                // Others may leave work to the receiver; whoever sends what we send does not.
                const ours = guest_frame.parse(frame) != null;
                const counter = if (ours) &inspector.stats.bad_header else &inspector.stats.foreign;
                counter.* += 1;
            } else if (inspector.inspect(frame)) {
                if (echo) |sender| try sendBack(sender, frame, inspector);
            }
            return parts;
        }

        /// Buffers of the frame that begins in `item`; 0: that cannot be.
        fn buffersOf(self: *const Self, item: Item, header: [*]const u8) u32 {
            if (item.len < self.header_bytes) return 0;
            if (self.header_bytes == 10) return 1;
            const buffers = std.mem.readInt(u16, header[10..12], .little);
            if (!self.mergeable) return @intFromBool(buffers == 1);
            return if (buffers > self.side.count) 0 else buffers;
        }

        /// By the head of a frame alone, where that lies in one piece.
        fn isExpected(self: *const Self, first: Item, len: u64, inspector: *Inspector) bool {
            if (!self.side.shape.isSlot() or first.len < self.header_bytes + guest_frame.bytes_min) return false;
            if (len > guest_frame.bytes_max) return false;
            const buffer = self.side.buffer(first.token);
            return !hasOffload(buffer) and inspector.isExpected(buffer + self.header_bytes, @intCast(len));
        }

        /// A whole frame in one piece; null: it is longer than any, or than its buffers.
        fn gather(self: *Self, items: []const Item) ?[]u8 {
            var at: usize = 0;
            for (items) |item| {
                var out: guest_shape.Pieces = undefined;
                var left = item.len;
                for (self.side.pieces(item.token, self.side.shape.capacity, &out)) |piece| {
                    const len = @min(left, piece.len);
                    if (at + len > self.scratch.len) return null;
                    @memcpy(self.scratch[at..][0..len], self.side.host(piece)[0..len]);
                    at += len;
                    left -= len;
                }
                if (left > 0) return null;
            }
            return self.scratch[self.header_bytes..at];
        }
    };
}

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
        /// The burst in hand: its slots, from `first` on, or its chains; as many as `count`.
        first: u32,
        count: u32,
        /// Chains; slots too, when a frame asks for more than a look.
        items: []Item,
        /// Of `items`, when they stand for slots.
        listed: u32,
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
                .first = 0,
                .count = 0,
                .items = items,
                .listed = 0,
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
            self.count = self.side.count;
            for (self.items[0..self.count], 0..) |*item, token| item.* = .{ .token = @intCast(token), .len = 0 };
            self.offer();
        }

        /// Offers the buffers of the burst in hand again.
        fn offer(self: *Self) void {
            const side = &self.side;
            if (side.slots) return side.ring.offerSlots(self.count);
            for (self.items[0..self.count]) |item| {
                var out: guest_shape.Pieces = undefined;
                const pieces = side.pieces(item.token, side.shape.capacity, &out);
                // There are no more buffers than the ring has room for.
                side.ring.add(&.{}, pieces, item.token, side.how()) catch unreachable;
            }
        }

        /// Takes what arrived, up to `limit` buffers and the rest of a frame; returns how many frames.
        /// With `echo`, what was good is sent back.
        pub fn receive(self: *Self, limit: u32, inspector: *Inspector, echo: ?*Sender) Broken!u32 {
            try self.take(limit);
            if (self.count == 0) return 0;
            var frames: u32 = 0;
            var bytes: u64 = 0;
            var done: u32 = 0;
            while (done < self.count) {
                if (self.side.slots and echo == null) {
                    const same = self.passExpected(done, inspector);
                    frames += same;
                    done += same;
                    bytes += @as(u64, same) * (inspector.line_bytes -| self.header_bytes);
                    if (done == self.count) break;
                }
                self.list();
                const parts = try self.receiveOne(done, inspector, echo);
                frames += 1;
                bytes += parts.bytes;
                done += parts.buffers;
            }
            self.offer();
            self.side.countBurst(frames, bytes);
            inspector.stats.received += frames;
            inspector.stats.received_bytes += bytes;
            return frames;
        }

        /// The next burst.
        fn take(self: *Self, limit: u32) Broken!void {
            const side = &self.side;
            self.listed = 0;
            self.count = 0;
            if (side.slots) {
                const run = side.ring.reapSlots(limit) catch |reason| switch (reason) {
                    error.OutOfOrder => {
                        side.leaveSlots();
                        return self.take(limit);
                    },
                    else => |broken| return broken,
                };
                self.first = run.first;
                self.count = run.count;
                for (0..run.count) |i| @prefetch(side.buffer(self.slotAt(@intCast(i))), .{});
            } else {
                self.count = try side.ring.reap(self.items[0..limit]);
                for (self.items[0..self.count]) |item| @prefetch(side.buffer(item.token), .{});
            }
        }

        /// More buffers for the burst in hand, up to `end` in all.
        fn takeMore(self: *Self, end: u32) Broken!void {
            const side = &self.side;
            if (side.slots) {
                const run = side.ring.reapSlots(end - self.count) catch |reason| switch (reason) {
                    // They come as chains with the next burst: that frame is torn.
                    error.OutOfOrder => return,
                    else => |broken| return broken,
                };
                self.count += run.count;
                self.list();
            } else {
                self.count += try side.ring.reap(self.items[self.count..end]);
            }
        }

        inline fn slotAt(self: *const Self, i: u32) u32 {
            const slot = self.first + i;
            return if (slot < self.side.count) slot else slot - self.side.count;
        }

        /// Writes slots of the burst down as items.
        fn list(self: *Self) void {
            if (!self.side.slots) return;
            while (self.listed < self.count) : (self.listed += 1) {
                const slot = self.slotAt(self.listed);
                self.items[self.listed] = .{ .token = slot, .len = self.side.ring.usedLength(slot) };
            }
        }

        /// How many slots from `from` on hold just what the frame before lets expect.
        inline fn passExpected(self: *Self, from: u32, inspector: *Inspector) u32 {
            @setRuntimeSafety(false);
            const side = &self.side;
            var number = inspector.track.next;
            var slot = self.slotAt(from);
            const same: u32 = for (from..self.count) |i| {
                const buffer = side.buffer(slot);
                const bytes = side.ring.usedLength(slot);
                if (!inspector.isNext(buffer, self.header_bytes, bytes, number)) break @intCast(i - from);
                number += 1;
                slot = if (slot + 1 < side.count) slot + 1 else 0;
            } else self.count - from;
            inspector.track.next = number;
            return same;
        }

        const Parts = struct { buffers: u32, bytes: u64 };

        fn receiveOne(self: *Self, at: u32, inspector: *Inspector, echo: ?*Sender) Broken!Parts {
            const item = self.items[at];
            const buffer = self.side.buffer(item.token);
            const len = item.len -% self.header_bytes;
            if (inspector.view != .whole) return self.receivePiece(at, inspector);
            const span = self.side.shape.capacity - guest_frame.bytes_min;
            const whole = len -% guest_frame.bytes_min <= span;
            if (!self.side.shape.isSlot() or !whole or !self.isPlain(buffer)) {
                return self.receiveParts(at, inspector, echo);
            }
            const frame = (buffer + self.header_bytes)[0..len];
            const good = inspector.isExpected(frame.ptr, len) or inspector.inspect(frame);
            if (good) {
                inspector.follow(buffer, self.header_bytes, item.len);
                if (echo) |sender| try sendBack(sender, frame, inspector);
            }
            return .{ .buffers = 1, .bytes = len };
        }

        fn sendBack(sender: *Sender, frame: []const u8, inspector: *Inspector) Broken!void {
            if (!try sender.sendCopy(frame, true)) inspector.stats.echo_dropped += 1;
        }

        /// A header that says: all in this buffer, and nothing left to be done.
        inline fn isPlain(self: *const Self, header: [*]const u8) bool {
            @setRuntimeSafety(false);
            if (self.header_bytes == 10) return std.mem.allEqual(u8, header[0..10], 0);
            const first: *align(1) const u64 = @ptrCast(header);
            const last: *align(1) const u32 = @ptrCast(header + 8);
            return first.* == 0 and last.* == 1 << 16;
        }

        /// A piece of a frame, or another frame.
        fn receivePiece(self: *Self, at: u32, inspector: *Inspector) Broken!Parts {
            const buffer = self.side.buffer(self.items[at].token);
            const found = try self.partsOf(at, buffer);
            const parts = found orelse return self.tornAt(at, inspector);
            const len: usize = @intCast(parts.bytes);
            const frame = if (self.side.shape.isSlot() and parts.buffers == 1 and len <= self.side.shape.capacity)
                (buffer + self.header_bytes)[0..len]
            else
                self.gather(self.items[at..][0..parts.buffers]) orelse {
                    inspector.stats.bad_header += 1;
                    return parts;
                };
            inspector.inspectPiece(buffer, frame);
            return parts;
        }

        /// A frame that is in several buffers or pieces, or is short or odd. The device shows all
        /// buffers of a frame at once (virtio 5.1.6.4.1): those that the burst had no room for are
        /// taken now.
        fn receiveParts(self: *Self, first: u32, inspector: *Inspector, echo: ?*Sender) Broken!Parts {
            const header = self.side.buffer(self.items[first].token);
            const found = try self.partsOf(first, header);
            const parts = found orelse return self.tornAt(first, inspector);
            const items = self.items[first..][0..parts.buffers];
            if (echo == null and self.isExpected(items[0], parts.bytes, inspector)) return parts;
            const frame = self.gather(items) orelse {
                inspector.stats.bad_header += 1;
                return parts;
            };
            if (!inspector.suits(header, @intCast(frame.len))) {
                // Others may leave other work to the receiver than whoever sends what we send.
                const ours = guest_frame.parse(frame) != null;
                const counter = if (ours) &inspector.stats.bad_header else &inspector.stats.foreign;
                counter.* += 1;
            } else if (inspector.inspect(frame)) {
                if (echo) |sender| try sendBack(sender, frame, inspector);
            }
            return parts;
        }

        /// Of the frame that begins there; null: it is not there as a whole.
        fn partsOf(self: *Self, first: u32, header: [*]const u8) Broken!?Parts {
            const buffers = self.buffersOf(self.items[first], header);
            const end = first + buffers;
            if (end > self.count) try self.takeMore(end);
            if (buffers == 0 or end > self.count) return null;
            var len: u64 = 0;
            for (self.items[first..end]) |item| len += item.len;
            return .{ .buffers = buffers, .bytes = len - self.header_bytes };
        }

        fn tornAt(self: *const Self, first: u32, inspector: *Inspector) Parts {
            inspector.stats.bad_header += 1;
            return .{ .buffers = 1, .bytes = self.items[first].len -| self.header_bytes };
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
            if (!inspector.suits(buffer, @intCast(len))) return false;
            return inspector.isExpected(buffer + self.header_bytes, @intCast(len));
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

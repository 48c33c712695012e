//! How a simulated guest sends: it takes back what the device is done with, writes the next frames of
//! its flows there, and offers them in bursts.
//!
//! One thread. What is offered waits for the ring's `publish`.

const std = @import("std");
const driver_entry = @import("driver_entry.zig");
const guest_frame = @import("guest_frame.zig");
const Sequencer = @import("guest_sequencer.zig").Sequencer;
const guest_shape = @import("guest_shape.zig");
const guest_side = @import("guest_side.zig");

const Broken = driver_entry.Broken;
const Item = driver_entry.Item;

/// What is in a send buffer: the header for a frame of this length, or one of these.
const blank = 0;
/// Other than the sequencer's.
const foreign = 1;

pub fn Sender(comptime Driver: type) type {
    return struct {
        side: Side,
        /// The queue pair, and its flow whose turn it is.
        queue: u16,
        flow: u16,
        header_bytes: u32,
        /// Buffers that the device does not have: `idle[begin..end]`.
        idle: []Item,
        begin: u32,
        end: u32,
        /// Of each buffer.
        lengths: []u32,
        /// To make a frame in, when its buffer is in pieces.
        scratch: []u8,

        const Self = @This();
        pub const Side = guest_side.Side(Driver);

        pub fn create(allocator: std.mem.Allocator, side: Side, queue: u16) error{OutOfMemory}!Self {
            const idle = try allocator.alloc(Item, 2 * side.count);
            errdefer allocator.free(idle);
            const lengths = try allocator.alloc(u32, side.count);
            errdefer allocator.free(lengths);
            var self: Self = .{
                .side = side,
                .queue = queue,
                .flow = queue,
                .header_bytes = side.shape.header_bytes,
                .idle = idle,
                .begin = 0,
                .end = 0,
                .lengths = lengths,
                .scratch = try allocator.alloc(u8, guest_frame.bytes_max),
            };
            @memset(lengths, blank);
            self.reset();
            return self;
        }

        /// Not of the ring.
        pub fn destroyBuffers(self: *Self, allocator: std.mem.Allocator) void {
            allocator.free(self.scratch);
            allocator.free(self.lengths);
            allocator.free(self.idle);
        }

        /// The ring as new. The device does not run.
        pub fn reset(self: *Self) void {
            self.side.reset(false);
            self.begin = 0;
            self.end = self.side.count;
            for (self.idle[0..self.end], 0..) |*item, token| item.* = .{ .token = @intCast(token), .len = 0 };
        }

        /// Before a run: what is in the buffers has another route.
        pub fn start(self: *Self) void {
            self.flow = self.queue;
            for (self.lengths) |*length| length.* = @min(length.*, foreign);
        }

        /// Takes back what the device is done with.
        pub fn reclaim(self: *Self) Broken!void {
            if (self.begin > 0) {
                std.mem.copyForwards(Item, self.idle, self.idle[self.begin..self.end]);
                self.end -= self.begin;
                self.begin = 0;
            }
            self.end += try self.side.reap(self.idle[self.end..]);
        }

        /// No frame can be sent before the device is done with another.
        pub fn isFull(self: *const Self) bool {
            return self.begin == self.end;
        }

        /// Offers up to `limit` frames; returns how many.
        pub fn send(self: *Self, limit: u32, sequencer: *Sequencer) Broken!u32 {
            if (self.end - self.begin < limit) try self.reclaim();
            const count = @min(self.end - self.begin, limit);
            if (count == 0) return 0;
            const items = self.idle[self.begin..][0..count];
            self.begin += count;
            const timed = sequencer.isTimeDue();
            var bytes: u64 = undefined;
            if (self.side.shape.isSlot()) {
                bytes = self.fillSlots(items, sequencer);
                if (timed) sequencer.time(self.frameOf(items[0]));
                self.side.ring.offer(items);
            } else {
                bytes = self.addChains(items, sequencer, timed);
            }
            self.side.countBurst(count, bytes);
            sequencer.stats.sent += count;
            sequencer.stats.sent_bytes += bytes;
            return count;
        }

        fn frameOf(self: *Self, item: Item) []u8 {
            return self.side.buffer(item.token)[self.header_bytes..item.len];
        }

        fn fillSlots(self: *Self, items: []Item, sequencer: *Sequencer) u64 {
            @setRuntimeSafety(false);
            var flow = self.flow;
            var bytes: u64 = 0;
            for (items) |*item| {
                const len = sequencer.nextLength();
                const frame = self.side.buffer(item.token) + self.header_bytes;
                if (self.lengths[item.token] != len) self.writeHeader(item.token, len, sequencer);
                sequencer.stamp(frame, len, flow);
                flow = sequencer.flowAfter(flow, self.queue);
                item.len = self.header_bytes + len;
                bytes += len;
            }
            self.flow = flow;
            return bytes;
        }

        fn writeHeader(self: *Self, token: u32, len: u32, sequencer: *const Sequencer) void {
            const buffer = self.side.buffer(token);
            if (self.lengths[token] == blank) {
                @memset(buffer[0..self.header_bytes], 0);
                guest_frame.fillBody(buffer[self.header_bytes..][0..self.side.shape.capacity]);
            }
            sequencer.writeHeader(buffer + self.header_bytes, len);
            self.lengths[token] = len;
        }

        fn addChains(self: *Self, items: []Item, sequencer: *Sequencer, timed: bool) u64 {
            var bytes: u64 = 0;
            for (items, 0..) |*item, i| {
                const frame = self.scratch[0..sequencer.nextLength()];
                sequencer.writeHeader(frame.ptr, @intCast(frame.len));
                sequencer.stamp(frame.ptr, @intCast(frame.len), self.flow);
                if (timed and i == 0) sequencer.time(frame);
                self.flow = sequencer.flowAfter(self.flow, self.queue);
                self.addChain(item.token, frame);
                bytes += frame.len;
            }
            return bytes;
        }

        fn addChain(self: *Self, token: u32, frame: []const u8) void {
            var out: guest_shape.Pieces = undefined;
            const pieces = self.side.pieces(token, @intCast(frame.len), &out);
            var header_left = self.header_bytes;
            var at: usize = 0;
            for (pieces) |piece| {
                const bytes = self.side.host(piece);
                const head = @min(header_left, bytes.len);
                @memset(bytes[0..head], 0);
                @memcpy(bytes[head..], frame[at..][0 .. bytes.len - head]);
                header_left -= @intCast(head);
                at += bytes.len - head;
            }
            // There are no more buffers than the ring has room for.
            self.side.ring.add(pieces, &.{}, token, self.side.how()) catch unreachable;
        }

        /// Offers a frame of somebody else's making, as a copy. False: there is no room, or it is too
        /// long.
        pub fn sendCopy(self: *Self, frame: []const u8, turned: bool) Broken!bool {
            if (frame.len > self.side.shape.capacity) return false;
            if (self.begin == self.end) try self.reclaim();
            if (self.begin == self.end) return false;
            const item = &self.idle[self.begin];
            self.begin += 1;
            if (!self.side.shape.isSlot()) {
                @memcpy(self.scratch[0..frame.len], frame);
                if (turned) guest_frame.turnRound(self.scratch);
                self.addChain(item.token, self.scratch[0..frame.len]);
                return true;
            }
            const buffer = self.side.buffer(item.token);
            @memset(buffer[0..self.header_bytes], 0);
            const copy = buffer[self.header_bytes..][0..frame.len];
            @memcpy(copy, frame);
            if (turned) guest_frame.turnRound(copy);
            if (self.lengths[item.token] != blank) self.lengths[item.token] = foreign;
            item.len = @intCast(self.header_bytes + frame.len);
            self.side.ring.offer(item[0..1]);
            return true;
        }
    };
}

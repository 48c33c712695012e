//! How a simulated guest sends: it takes back what the device is done with, writes the next frames of
//! its flows there, and offers them in bursts.
//!
//! One thread. What is offered waits for the ring's `publish`.

const std = @import("std");
const driver_entry = @import("driver_entry.zig");
const guest_frame = @import("guest_frame.zig");
const spec = @import("spec.zig");
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
        /// Of each buffer.
        lengths: []u32,
        /// Slots that may hold other frames than this run's, the next ones.
        strange: u32,
        /// Chains that the device does not have: `idle[begin..end]`.
        idle: []Item,
        begin: u32,
        end: u32,
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
                .lengths = lengths,
                .strange = 0,
                .idle = idle,
                .begin = 0,
                .end = 0,
                .scratch = try allocator.alloc(u8, side.shape.capacity),
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
            self.strange = self.side.count;
            for (self.lengths) |*length| length.* = @min(length.*, foreign);
        }

        /// Buffers that the device does not have.
        pub inline fn idleCount(self: *const Self) u32 {
            return if (self.side.slots) self.side.count - self.side.ring.outstanding() else self.end - self.begin;
        }

        /// Takes back what the device is done with.
        pub fn reclaim(self: *Self) Broken!void {
            if (self.side.slots) {
                _ = self.side.ring.reapSlots(self.side.count) catch |reason| switch (reason) {
                    error.OutOfOrder => self.leaveSlots(),
                    else => |broken| return broken,
                };
            }
            if (self.side.slots) return;
            if (self.begin > 0) {
                std.mem.copyForwards(Item, self.idle, self.idle[self.begin..self.end]);
                self.end -= self.begin;
                self.begin = 0;
            }
            self.end += try self.side.ring.reap(self.idle[self.end..]);
        }

        fn leaveSlots(self: *Self) void {
            const next = self.side.ring.nextSlot();
            self.begin = 0;
            self.end = self.idleCount();
            for (self.idle[0..self.end], 0..) |*item, i| {
                item.* = .{ .token = @intCast((next + i) % self.side.count), .len = 0 };
            }
            self.side.leaveSlots();
        }

        /// Offers up to `limit` frames; returns how many.
        pub fn send(self: *Self, limit: u32, sequencer: *Sequencer) Broken!u32 {
            if (self.idleCount() < limit) try self.reclaim();
            const count = @min(self.idleCount(), limit);
            if (count == 0) return 0;
            const timed = sequencer.isTimeDue();
            const bytes = if (self.side.slots)
                self.sendSlots(count, sequencer, timed)
            else
                self.sendChains(count, sequencer, timed);
            self.side.countBurst(count, bytes);
            sequencer.stats.sent += count;
            sequencer.stats.sent_bytes += bytes;
            return count;
        }

        fn sendSlots(self: *Self, count: u32, sequencer: *Sequencer, timed: bool) u64 {
            const first = self.side.ring.nextSlot();
            var bytes: u64 = 0;
            if (self.strange == 0 and sequencer.isUniform()) {
                const size = self.side.count;
                const part = @min(count, size - first);
                const stride = self.side.shape.stride;
                sequencer.stampRun(self.frameAt(first), stride, part, self.flow);
                sequencer.stampRun(self.frameAt(0), stride, count - part, self.flow);
                bytes = @as(u64, count) * sequencer.frame_bytes;
            } else {
                for (0..count) |i| bytes += self.fillSlot(@intCast((first + i) % self.side.count), sequencer);
                self.strange -|= count;
            }
            if (timed) sequencer.time(self.frameAt(first)[0..self.lengths[first]]);
            self.side.ring.offerSlots(count);
            return bytes;
        }

        fn frameAt(self: *const Self, token: u32) [*]u8 {
            return self.side.buffer(token) + self.header_bytes;
        }

        fn fillSlot(self: *Self, slot: u32, sequencer: *Sequencer) u32 {
            const len = sequencer.nextLength();
            if (self.lengths[slot] != len) {
                self.clear(slot);
                self.writeNetHeader(slot, sequencer.offload.header(len));
                sequencer.writeHeader(self.frameAt(slot), len);
                self.lengths[slot] = len;
                self.side.ring.setLength(slot, self.header_bytes + len);
            }
            sequencer.stamp(self.frameAt(slot), len, self.flow);
            self.flow = sequencer.flowAfter(self.flow, self.queue);
            return len;
        }

        /// Before the first frame in a buffer.
        fn clear(self: *Self, token: u32) void {
            if (self.lengths[token] != blank) return;
            guest_frame.fillBody(self.frameAt(token)[0..self.side.shape.capacity]);
        }

        fn writeNetHeader(self: *Self, token: u32, header: spec.NetHeader) void {
            @memcpy(self.side.buffer(token)[0..self.header_bytes], std.mem.asBytes(&header)[0..self.header_bytes]);
        }

        fn sendChains(self: *Self, count: u32, sequencer: *Sequencer, timed: bool) u64 {
            var bytes: u64 = 0;
            for (self.idle[self.begin..][0..count], 0..) |item, i| {
                const frame = self.scratch[0..sequencer.nextLength()];
                sequencer.writeHeader(frame.ptr, @intCast(frame.len));
                sequencer.stamp(frame.ptr, @intCast(frame.len), self.flow);
                if (timed and i == 0) sequencer.time(frame);
                self.flow = sequencer.flowAfter(self.flow, self.queue);
                self.addChain(item.token, sequencer.offload.header(@intCast(frame.len)), frame);
                bytes += frame.len;
            }
            self.begin += count;
            return bytes;
        }

        fn addChain(self: *Self, token: u32, net_header: spec.NetHeader, frame: []const u8) void {
            var out: guest_shape.Pieces = undefined;
            const pieces = self.side.pieces(token, @intCast(frame.len), &out);
            var header: []const u8 = std.mem.asBytes(&net_header)[0..self.header_bytes];
            var at: usize = 0;
            for (pieces) |piece| {
                const bytes = self.side.host(piece);
                const head = @min(header.len, bytes.len);
                @memcpy(bytes[0..head], header[0..head]);
                @memcpy(bytes[head..], frame[at..][0 .. bytes.len - head]);
                header = header[head..];
                at += bytes.len - head;
            }
            // There are no more buffers than the ring has room for.
            self.side.ring.add(pieces, &.{}, token, self.side.how()) catch unreachable;
        }

        /// Offers a frame of somebody else's making, as a copy. False: there is no room, or it is too
        /// long.
        pub fn sendCopy(self: *Self, frame: []const u8, turned: bool) Broken!bool {
            if (frame.len > self.side.shape.capacity) return false;
            if (self.idleCount() == 0) try self.reclaim();
            if (self.idleCount() == 0) return false;
            if (self.side.slots) {
                const slot = self.side.ring.nextSlot();
                self.clear(slot);
                self.writeNetHeader(slot, std.mem.zeroes(spec.NetHeader));
                const copy = self.frameAt(slot)[0..frame.len];
                @memcpy(copy, frame);
                if (turned) guest_frame.turnRound(copy);
                self.lengths[slot] = foreign;
                self.strange = self.side.count;
                self.side.ring.setLength(slot, @intCast(self.header_bytes + frame.len));
                self.side.ring.offerSlots(1);
            } else {
                @memcpy(self.scratch[0..frame.len], frame);
                if (turned) guest_frame.turnRound(self.scratch);
                const plain = std.mem.zeroes(spec.NetHeader);
                self.addChain(self.idle[self.begin].token, plain, self.scratch[0..frame.len]);
                self.begin += 1;
            }
            return true;
        }
    };
}

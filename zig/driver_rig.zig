//! A driver and a device on one memory, for tests: what the driver of one ring sends, the device
//! copies into the buffers of another, and every byte and token is looked at on the way.

const std = @import("std");
const abi = @import("abi.zig");
const Burst = @import("burst.zig").Burst;
const driver_entry = @import("driver_entry.zig");
const Inflight = @import("inflight.zig").Inflight;
const Journal = @import("journal.zig").Journal;
const memory_file = @import("memory.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");
const Vring = @import("vring.zig").Vring;

const Item = driver_entry.Item;
const Piece = driver_entry.Piece;

pub const gpa_base = 0x1_0000_0000;
pub const memory_bytes = 16 << 20;
const buffers_at = 4 << 20;
const buffer_bytes = 2048;
pub const frame_bytes_max = 1200;
const header_bytes_max = 12;

pub const Options = struct {
    features: u64,
    size: u32,
    /// Pieces that a chain may have; it never has more than the ring.
    pieces_max: u32 = 5,
    indirect: bool = false,
    /// What the device has in hand is written to memory of the front end's.
    tracked: bool = false,
    seed: u64 = 1,
};

/// One ring, seen from both sides.
pub fn End(comptime Driver: type) type {
    return struct {
        driver: Driver,
        device: Vring,
        memory: []align(64) u8,

        const Self = @This();

        fn open(self: *Self, at: u64, rig: *Rig(Driver), number: u32) !void {
            const options = rig.options;
            const config: driver_entry.Config = .{
                .size = options.size,
                .features = options.features,
                .table_entries = options.pieces_max,
            };
            self.memory = @alignCast(rig.host[at..][0..Driver.bytes(config)]);
            self.driver = try .create(std.testing.allocator, self.memory, gpa_base + at, config);
            self.device.init(&rig.memory, rig.journal, number, -1);
            self.device.inflight = rig.inflight;
            try self.startDevice(options);
            self.device.enabled = true;
        }

        /// Starts the device, or starts it again, where the driver says.
        pub fn startDevice(self: *Self, options: Options) !void {
            try self.device.start(.{
                .features = options.features,
                .desc_gpa = self.driver.areas.desc,
                .avail_gpa = self.driver.areas.avail,
                .used_gpa = self.driver.areas.used,
                .log_gpa = 0,
                .size = options.size,
                .base = self.driver.base(),
                .flags = 0,
            });
        }
    };
}

/// A sender, a device, and a receiver.
pub fn Rig(comptime Driver: type) type {
    return struct {
        options: Options,
        fd: i32,
        host: sys.Map,
        memory: memory_file.Memory,
        table: *memory_file.Table,
        journal: *Journal,
        inflight: ?*Inflight,
        burst: *Burst,
        from: End(Driver),
        to: End(Driver),
        random: std.Random.DefaultPrng,
        /// What each receive buffer is made of, by token; and the frames under way, by send token.
        offered: [tokens]Chain,
        sent: [tokens]u32,
        free_receive: Tokens,
        free_send: Tokens,
        expected: Expected,
        arrived: u64,
        /// Receive buffers that came back with nothing in them.
        empty: u32,

        const Self = @This();

        pub fn create(options: Options) !*Self {
            const self = try std.testing.allocator.create(Self);
            self.options = options;
            self.fd = try sys.memoryFile("rig", memory_bytes);
            self.host = try sys.mapShared(self.fd, 0, memory_bytes);
            self.memory.init();
            self.table = try .create();
            const region: abi.Region = .{ .gpa = gpa_base, .size_bytes = memory_bytes, .mmap_offset = 0 };
            try self.table.add(region, self.fd, &self.memory.faults);
            self.memory.swap(self.table);
            self.burst = try .create();
            self.journal = try .create(2);
            self.inflight = if (options.tracked) try trackedBy(2, options.size) else null;
            try self.from.open(0, self, 1);
            try self.to.open(buffers_at / 2, self, 0);
            self.pair();
            self.random = .init(options.seed);
            self.free_receive = .all;
            self.free_send = .all;
            self.expected = .{};
            self.arrived = 0;
            self.empty = 0;
            return self;
        }

        pub fn destroy(self: *Self) void {
            self.to.driver.destroy(std.testing.allocator);
            self.from.driver.destroy(std.testing.allocator);
            for ([_]*Vring{ &self.to.device, &self.from.device }) |device| _ = device.leave() catch unreachable;
            if (self.inflight) |inflight| inflight.destroy();
            self.burst.destroy();
            self.journal.close();
            self.table.destroy();
            self.memory.unmapAll();
            sys.unmap(self.host);
            sys.close(self.fd);
            std.testing.allocator.destroy(self);
        }

        /// Makes both a queue pair.
        pub fn pair(self: *Self) void {
            self.from.device.other = &self.to.device;
            self.to.device.other = &self.from.device;
        }

        /// Fills both rings as far as chance wants, lets the device work, and checks what came of it.
        pub fn round(self: *Self) !void {
            try self.fill();
            const arrived = try self.forward();
            try self.finish(arrived);
        }

        pub fn fill(self: *Self) !void {
            const random = self.random.random();
            for (0..random.uintLessThan(u32, self.options.size + 2)) |_| if (!try self.offer()) break;
            for (0..random.uintLessThan(u32, self.options.size + 2)) |_| if (!try self.send()) break;
            _ = self.to.driver.publish();
            _ = self.from.driver.publish();
        }

        /// So many frames should have arrived.
        pub fn finish(self: *Self, arrived: u32) !void {
            try std.testing.expectEqual(arrived, self.expected.count);
            try std.testing.expectEqual(0, self.from.device.broken.load(.monotonic));
            try std.testing.expectEqual(0, self.to.device.broken.load(.monotonic));
            self.arrived += arrived;
            try self.takeSent();
            try self.takeReceived();
        }

        /// Device: everything that was sent goes to the receiver, what finds no place is lost.
        fn forward(self: *Self) !u32 {
            var arrived: u32 = 0;
            while (self.from.device.pending()) {
                self.burst.collect(&self.from.device);
                try std.testing.expect(self.burst.count > 0);
                for (0..self.burst.count) |i| {
                    const lost = self.lostCount();
                    _ = self.burst.deliver(&self.to.device, @as(u64, 1) << @intCast(i), 0);
                    if (self.lostCount() == lost) arrived += 1 else self.expected.remove(arrived);
                }
                _ = self.burst.giveBack(&self.from.device);
            }
            return arrived;
        }

        pub fn lostCount(self: *const Self) u64 {
            return self.to.device.stats.drop_no_buffer + self.to.device.stats.drop_too_big;
        }

        pub fn offer(self: *Self) !bool {
            const random = self.random.random();
            const token = self.free_receive.pop() orelse return false;
            const big = !spec.has(self.options.features, spec.Feature.mrg_rxbuf);
            // A full ring always holds the longest frame.
            const whole = frame_bytes_max + header_bytes_max;
            const least = whole / self.options.size + 1;
            const len = if (big) whole else random.intRangeAtMost(u32, least, @max(least, 700));
            self.offered[token] = self.chainOf(tokens + token, len);
            const pieces = self.offered[token].pieces();
            self.to.driver.add(&.{}, pieces, token, self.how()) catch {
                self.free_receive.push(token);
                return false;
            };
            return true;
        }

        pub fn send(self: *Self) !bool {
            const random = self.random.random();
            const token = self.free_send.pop() orelse return false;
            const header_bytes = spec.NetHeader.size(self.options.features);
            const len = header_bytes + random.intRangeAtMost(u32, 14, frame_bytes_max);
            const chain = self.chainOf(token, len);
            const number = self.expected.next_sent;
            var at: usize = 0;
            for (chain.pieces()) |piece| {
                for (self.bytesOf(piece)) |*byte| {
                    byte.* = if (at < header_bytes) 0 else contentOf(number, at - header_bytes);
                    at += 1;
                }
            }
            self.from.driver.add(chain.pieces(), &.{}, token, self.how()) catch {
                self.free_send.push(token);
                return false;
            };
            self.sent[token] = number;
            self.expected.add(len - header_bytes);
            return true;
        }

        /// Takes the next frame that arrived, over as many buffers as its header says; null: there is none.
        pub fn takeFrame(self: *Self, bytes: []u8) !?[]u8 {
            const header_bytes = spec.NetHeader.size(self.options.features);
            var len: usize = 0;
            while (len == 0) : (self.empty += @intFromBool(len == 0)) {
                if (!self.to.driver.pending()) return null;
                len = try self.takeBuffer(bytes);
            }
            var taken: u32 = 1;
            var buffers: u32 = 1;
            while (true) : (taken += 1) {
                if (header_bytes == 12 and len >= 12) buffers = std.mem.readInt(u16, bytes[10..12], .little);
                if (taken >= buffers and len >= header_bytes) break;
                len += try self.takeBuffer(bytes[len..]);
            }
            try std.testing.expectEqual(buffers, taken);
            return bytes[header_bytes..len];
        }

        /// Every send buffer comes back, in order.
        pub fn takeSent(self: *Self) !void {
            var items: [7]Item = undefined;
            while (true) {
                const count = try self.from.driver.reap(&items);
                for (items[0..count]) |item| {
                    try std.testing.expectEqual(self.expected.next_returned, self.sent[item.token]);
                    self.expected.next_returned += 1;
                    self.free_send.push(item.token);
                }
                if (count == 0) break;
            }
            try std.testing.expectEqual(self.expected.next_sent, self.expected.next_returned);
            try std.testing.expectEqual(0, self.from.driver.outstanding());
        }

        /// The frames arrive in order, whole, each over as many buffers as its header says.
        fn takeReceived(self: *Self) !void {
            while (self.expected.pop()) |frame| {
                var room: [frame_bytes_max + 64]u8 = undefined;
                const bytes = try self.takeFrame(&room) orelse return error.FrameMissing;
                try std.testing.expectEqual(frame.len, bytes.len);
                try expectContent(frame.number, bytes);
            }
            var item: [1]Item = undefined;
            try std.testing.expectEqual(0, try self.to.driver.reap(&item));
            try std.testing.expectEqual(0, self.empty);
        }

        pub fn takeBuffer(self: *Self, bytes: []u8) !usize {
            var item: [1]Item = undefined;
            try std.testing.expectEqual(1, try self.to.driver.reap(&item));
            var done: usize = 0;
            for (self.offered[item[0].token].pieces()) |piece| {
                const len = @min(piece.len, item[0].len - done);
                @memcpy(bytes[done..][0..len], self.bytesOf(piece)[0..len]);
                done += len;
            }
            try std.testing.expectEqual(item[0].len, done);
            self.free_receive.push(item[0].token);
            return done;
        }

        fn how(self: *Self) driver_entry.How {
            return if (self.options.indirect and self.random.random().boolean()) .indirect else .direct;
        }

        /// `len` bytes of a buffer of their own, cut at random.
        fn chainOf(self: *Self, buffer: u32, len: u32) Chain {
            const random = self.random.random();
            const most = @min(len, @min(self.options.pieces_max, self.options.size));
            var chain: Chain = .{ .count = random.intRangeAtMost(u32, 1, most), .items = undefined };
            var left = len;
            var gpa = gpa_base + buffers_at + @as(u64, buffer) * buffer_bytes;
            for (0..chain.count) |i| {
                const rest: u32 = chain.count - @as(u32, @intCast(i)) - 1;
                const piece = if (rest == 0) left else random.intRangeAtMost(u32, 1, left - rest);
                chain.items[i] = .{ .gpa = gpa, .len = piece };
                gpa += piece + random.uintLessThan(u32, 8);
                left -= piece;
            }
            return chain;
        }

        pub fn addressOf(_: *const Self, token: u32, first: u32) u64 {
            return gpa_base + buffers_at + @as(u64, first + token) * buffer_bytes;
        }

        fn bytesOf(self: *Self, piece: Piece) []u8 {
            return self.host[piece.gpa - gpa_base ..][0..piece.len];
        }
    };
}

/// Memory as a front end gets it from a back end.
pub fn trackedBy(queues: u32, size: u32) !*Inflight {
    const bytes = tracked_lead + queues * (64 + 32 * @as(u64, size) + 64);
    const fd = try sys.memoryFile("inflight", bytes);
    defer sys.close(fd);
    return .create(fd, tracked_lead, bytes - tracked_lead, queues, size);
}

/// It need not begin where a page does.
const tracked_lead = 4096 + 64;

pub const tokens = 512;

const Chain = struct {
    count: u32,
    items: [16]Piece,

    pub fn pieces(chain: *const Chain) []const Piece {
        return chain.items[0..chain.count];
    }
};

const Tokens = struct {
    items: [tokens]u32,
    count: u32,

    pub const all: Tokens = filled: {
        var items: [tokens]u32 = undefined;
        for (&items, 0..) |*item, i| item.* = i;
        break :filled .{ .items = items, .count = tokens };
    };

    fn pop(self: *Tokens) ?u32 {
        if (self.count == 0) return null;
        self.count -= 1;
        return self.items[self.count];
    }

    fn push(self: *Tokens, token: u32) void {
        self.items[self.count] = token;
        self.count += 1;
    }
};

/// Frames on their way, oldest first.
const Expected = struct {
    frames: [tokens]Frame = undefined,
    count: u32 = 0,
    next_sent: u32 = 0,
    next_returned: u32 = 0,

    const Frame = struct { number: u32, len: u32 };

    fn add(self: *Expected, len: u32) void {
        self.frames[self.count] = .{ .number = self.next_sent, .len = len };
        self.count += 1;
        self.next_sent += 1;
    }

    pub fn remove(self: *Expected, index: u32) void {
        self.count -= 1;
        std.mem.copyForwards(Frame, self.frames[index..self.count], self.frames[index + 1 .. self.count + 1]);
    }

    pub fn pop(self: *Expected) ?Frame {
        if (self.count == 0) return null;
        const frame = self.frames[0];
        self.remove(0);
        return frame;
    }
};

pub fn contentOf(number: u32, at: usize) u8 {
    return @truncate((number *% 0x9e37_79b9 +% @as(u32, @intCast(at)) *% 0x85eb_ca6b) >> 13);
}

fn expectContent(number: u32, bytes: []const u8) !void {
    for (bytes, 0..) |byte, at| try std.testing.expectEqual(contentOf(number, at), byte);
}

const Feature = spec.Feature;

fn bit(number: u6) u64 {
    return @as(u64, 1) << number;
}

/// Every combination of features that changes how a ring works, each with and without tables.
pub fn expectAllPass(comptime Driver: type, sizes: []const u32, format: u64) !void {
    const choices = [_]u64{
        bit(Feature.event_idx),
        bit(Feature.in_order),
        bit(Feature.mrg_rxbuf),
        bit(Feature.version_1),
        bit(Feature.indirect_desc),
    };
    for (sizes) |size| {
        for (0..@as(u32, 1) << choices.len) |chosen| {
            var features = format;
            for (choices, 0..) |choice, i| {
                if (chosen >> @intCast(i) & 1 != 0) features |= choice;
            }
            const indirect = spec.has(features, Feature.indirect_desc);
            const rig: *Rig(Driver) = try .create(.{ .features = features, .size = size, .indirect = indirect });
            defer rig.destroy();
            for (0..100) |_| try rig.round();
            try std.testing.expect(rig.arrived > 20);
        }
    }
}

/// Long enough for every index and wrap counter to go round several times.
pub fn expectEndures(comptime Driver: type, features: u64, size: u32) !void {
    const rig: *Rig(Driver) = try .create(.{ .features = features, .size = size, .pieces_max = 1 });
    defer rig.destroy();
    while (rig.arrived < 200_000) try rig.round();
}

/// Slots carry frames as chains do, and go on as chains.
pub fn expectSlotsPass(comptime Driver: type, features: u64, size: u32) !void {
    const rig: *Rig(Driver) = try .create(.{ .features = features, .size = size });
    defer rig.destroy();
    const header_bytes = spec.NetHeader.size(features);
    rig.from.driver.useSlots(.{ .gpa = rig.addressOf(0, 0), .stride = buffer_bytes, .len = 100, .writable = false });
    rig.to.driver.useSlots(.{ .gpa = rig.addressOf(0, tokens), .stride = buffer_bytes, .len = 1500, .writable = true });
    var number: u32 = 0;
    while (number < 150_000) {
        const count = rig.random.random().intRangeAtMost(u32, 1, @min(size, 64));
        for (0..count) |i| {
            const slot = (rig.from.driver.nextSlot() + @as(u32, @intCast(i))) % size;
            const next = number + @as(u32, @intCast(i));
            const len = header_bytes + 60 + next % 1000;
            writeNumber(rig.bytesOf(.{ .gpa = rig.addressOf(slot, 0), .len = len }), next);
            rig.from.driver.setLength(slot, len);
        }
        rig.to.driver.offerSlots(count);
        rig.from.driver.offerSlots(count);
        _ = rig.to.driver.publish();
        _ = rig.from.driver.publish();
        rig.burst.collect(&rig.from.device);
        try std.testing.expectEqual(count, rig.burst.count);
        _ = rig.burst.deliver(&rig.to.device, ~@as(u64, 0) >> @intCast(64 - count), 0);
        _ = rig.burst.giveBack(&rig.from.device);
        try std.testing.expectEqual(count, (try rig.from.driver.reapSlots(1000)).count);
        // A limit leaves the rest for later.
        const first = try rig.to.driver.reapSlots(count / 2);
        try std.testing.expectEqual(count / 2, first.count);
        const rest = try rig.to.driver.reapSlots(1000);
        try std.testing.expectEqual(count - count / 2, rest.count);
        for (0..count) |i| {
            const slot = (first.first + @as(u32, @intCast(i))) % size;
            const expected = number + @as(u32, @intCast(i));
            const len = rig.to.driver.usedLength(slot);
            try std.testing.expectEqual(header_bytes + 60 + expected % 1000, len);
            const bytes = rig.bytesOf(.{ .gpa = rig.addressOf(slot, tokens), .len = len });
            try std.testing.expectEqual(expected, std.mem.readInt(u32, bytes[40..44], .little));
        }
        number += count;
    }
    // What is with the device now comes back as chains.
    rig.to.driver.offerSlots(@min(size, 3));
    rig.to.driver.leaveSlots();
    rig.from.driver.leaveSlots();
    for (0..1000) |_| {
        try std.testing.expect(try rig.send());
        _ = rig.to.driver.publish();
        _ = rig.from.driver.publish();
        rig.burst.collect(&rig.from.device);
        _ = rig.burst.deliver(&rig.to.device, 1, 0);
        _ = rig.burst.giveBack(&rig.from.device);
        try rig.takeSent();
        _ = rig.expected.pop();
        var item: [1]Item = undefined;
        try std.testing.expectEqual(1, try rig.to.driver.reap(&item));
        const piece: Piece = .{ .gpa = rig.addressOf(item[0].token, tokens), .len = 1500 };
        try rig.to.driver.add(&.{}, &.{piece}, item[0].token, .direct);
    }
}

fn writeNumber(bytes: []u8, number: u32) void {
    @memset(bytes, 0);
    std.mem.writeInt(u32, bytes[40..44], number, .little);
}

/// Each side is told when it asked to be, and not otherwise; across a whole ring of positions.
pub fn expectNotices(comptime Driver: type, features: u64, size: u32) !void {
    const rig: *Rig(Driver) = try .create(.{ .features = features, .size = size, .pieces_max = 1 });
    defer rig.destroy();
    const driver = &rig.from.driver;
    const device = &rig.from.device;
    for (0..3 * size) |i| {
        // A new ring with EVENT_IDX asks for the first buffer.
        const armed = i % 3 != 2;
        if (armed) device.arm() else device.disarm();
        if (armed) driver.arm() else driver.disarm();
        try std.testing.expect(try rig.send());
        const shown = driver.publish();
        try std.testing.expectEqual(armed, driver.wantsKick(shown));
        rig.burst.collect(device);
        const used = rig.burst.giveBack(device);
        try std.testing.expectEqual(armed, switch (device.format) {
            .split => device.ring.split.wantsCall(used),
            .packed_ring => device.ring.packed_ring.wantsCall(used),
        });
        try std.testing.expect(driver.pending());
        try rig.takeSent();
        try std.testing.expect(!driver.pending());
    }
}

//! A device that is killed between any two of its instructions, for tests: its process is stepped through a burst, and
//! after each step that changed what outlives it, another process takes up the rings in a copy of that and looks
//! whether all is well.

const builtin = @import("builtin");
const std = @import("std");
const driver_rig = @import("driver_rig.zig");
const firstFrames = @import("burst.zig").firstFrames;
const Journal = @import("journal.zig").Journal;
const recovery = @import("recovery.zig");
const spec = @import("spec.zig");
const Vring = @import("vring.zig").Vring;

const testing = std.testing;

extern "c" fn ptrace(request: c_long, process: c_int, address: usize, data: usize) c_long;
extern "c" fn raise(signal: c_int) c_int;
/// Quicker than ours where nothing is optimised.
extern "c" fn memcmp(one: [*]const u8, other: [*]const u8, bytes: usize) c_int;

const trace_me = 0;
const single_step = 9;
const signal_stop = 19;
const signal_kill = 9;
const signal_trap = 5;

pub fn CrashRig(comptime Driver: type) type {
    return struct {
        rig: *Rig,
        /// What says where the rings are, and a copy of all that.
        looked: [7][]const u8,
        seen: []u8,
        random: std.Random.DefaultPrng,
        /// Of the ring that sends, by the front end, where that has gone on with it.
        told: ?u32 = null,
        /// The front end's memory is all that is left of a device.
        forgets: bool = false,
        /// Frames that one who was killed later may have counted as lost: its counters went with it.
        counted: u64 = 0,

        const Self = @This();
        const Rig = driver_rig.Rig(Driver);

        pub fn create(options: driver_rig.Options) !Self {
            const rig: *Rig = try .create(options);
            // So that the rings' memory is not new.
            for (0..5) |_| try rig.round();
            const tracked: []const u8 = if (rig.inflight) |inflight| inflight.file.bytes else "";
            var looked: [7][]const u8 = .{ rig.from.memory, rig.to.memory, "", "", "", "", tracked };
            for (0..2) |number| {
                looked[2 + 2 * number] = std.mem.asBytes(rig.journal.record(number));
                const shadow = try rig.journal.shadow(number, options.size);
                looked[3 + 2 * number] = std.mem.sliceAsBytes(shadow[0..options.size]);
            }
            var total: usize = 0;
            for (looked) |bytes| total += bytes.len;
            const seen = try testing.allocator.alloc(u8, total);
            return .{ .rig = rig, .looked = looked, .seen = seen, .random = .init(options.seed) };
        }

        pub fn destroy(self: *Self) void {
            testing.allocator.free(self.seen);
            self.rig.destroy();
        }

        /// Kills a device before each of its steps, and one for good at a step of chance; then the same of one that
        /// takes the rings up after that. Returns how many states were looked at.
        pub fn run(self: *Self) !u32 {
            try self.fill();
            const first = try self.stepThrough(serve, true);
            self.counted = try self.countLost();
            const second = try self.stepThrough(takeUp, true);
            try self.expectGoesOn();
            self.counted = 0;
            return first + second;
        }

        /// Both rings, but for frames that would find no buffers: whoever counts those may die of it.
        fn fill(self: *Self) !void {
            const rig = self.rig;
            while (try rig.offer()) {}
            var waits: [driver_rig.tokens]bool = @splat(true);
            for (rig.free_receive.items[0..rig.free_receive.count]) |token| waits[token] = false;
            var room: u64 = 0;
            for (waits, &rig.offered) |is_there, *chain| {
                if (is_there) for (chain.pieces()) |piece| {
                    room += piece.len;
                };
            }
            // What does not fit the last of a frame's buffers is not used.
            const mergeable = spec.has(rig.options.features, spec.Feature.mrg_rxbuf);
            const need: u64 = driver_rig.frame_bytes_max + 12 + @as(u64, if (mergeable) 700 else 0);
            while (room >= need and try rig.send()) room -= need;
            _ = rig.to.driver.publish();
            _ = rig.from.driver.publish();
        }

        /// The device's work, as a process that dies of nothing else.
        fn serve(self: *Self) !void {
            const rig = self.rig;
            while (rig.from.device.pending()) {
                rig.burst.collect(&rig.from.device);
                _ = rig.burst.deliver(&rig.to.device, firstFrames(rig.burst.count), 0);
                _ = rig.burst.giveBack(&rig.from.device);
            }
        }

        /// The same by a new one. A front end with packed rings knows no better than where they once began.
        fn takeUp(self: *Self) !void {
            try self.restart();
            const rig = self.rig;
            for ([_]*driver_rig.End(Driver){ &rig.to, &rig.from }) |end| {
                if (!self.forgets) try testing.expect(end.device.unsettled);
                if (end.device.unsettled) recovery.settle(&end.device, end == &rig.from);
            }
            try self.serve();
        }

        fn restart(self: *Self) !void {
            const rig = self.rig;
            for ([_]*driver_rig.End(Driver){ &rig.to, &rig.from }, 0..) |end, number| {
                var config = end.device.config;
                if (end == &rig.from) if (self.told) |base| {
                    config.base = base;
                };
                end.device.init(&rig.memory, rig.journal, @intCast(number), -1);
                rig.pair();
                end.device.inflight = rig.inflight;
                if (self.forgets) end.device.record.end();
                try end.device.start(config);
                end.device.enabled = true;
            }
        }

        /// Steps another process through `work` to its end, or to its death at a step of chance. `looks`: with a look
        /// at each state on the way.
        fn stepThrough(self: *Self, comptime work: fn (*Self) anyerror!void, looks: bool) !u32 {
            const child = std.c.fork();
            try testing.expect(child >= 0);
            if (child == 0) {
                _ = ptrace(trace_me, 0, 0, 0);
                _ = raise(signal_stop);
                work(self) catch std.c._exit(1);
                std.c._exit(0);
            }
            const last = self.random.random().intRangeAtMost(u32, 1, 60);
            var states: u32 = 0;
            _ = self.isNews();
            while (try isStopped(child)) {
                if (self.isNews()) {
                    states += 1;
                    if (looks) try self.expectRecovers();
                    if (states == last) break;
                }
                try testing.expectEqual(0, ptrace(single_step, child, 0, 0));
            } else return states;
            _ = std.c.kill(child, @fromBackingInt(signal_kill));
            _ = try isStopped(child);
            return states;
        }

        /// Whether what says where the rings are has changed since the last look.
        fn isNews(self: *Self) bool {
            var news = false;
            var at: usize = 0;
            for (self.looked) |bytes| {
                const seen = self.seen[at..][0..bytes.len];
                at += bytes.len;
                if (memcmp(bytes.ptr, seen.ptr, bytes.len) == 0) continue;
                news = true;
                @memcpy(seen, bytes);
            }
            return news;
        }

        /// The driver begins anew while nobody is there, at the same place, after a device was killed in the middle:
        /// what the record says counts no more.
        pub fn expectNewDriverWins(self: *Self) !void {
            try self.fill();
            _ = try self.stepThrough(serve, false);
            const rig = self.rig;
            for ([_]*driver_rig.End(Driver){ &rig.to, &rig.from }) |end| end.driver.reset();
            rig.expected = .{ .next_sent = 77, .next_returned = 77 };
            rig.free_receive = .all;
            rig.free_send = .all;
            try self.restart();
            for ([_]*driver_rig.End(Driver){ &rig.to, &rig.from }) |end| try testing.expect(!end.device.unsettled);
            for (0..20) |_| try rig.round();
            try testing.expectEqual(0, rig.from.device.stats.drop_crash);
        }

        /// The front end takes buffers itself while nobody is there, from where the ring once began, as far as it
        /// believes that there are any: the driver gets each back once, from whomever.
        pub fn expectBothGiveBack(self: *Self) !void {
            const rig = self.rig;
            var begin = rig.from.device.config;
            try self.fill();
            _ = try self.stepThrough(serve, false);
            while (try rig.send()) {}
            _ = rig.from.driver.publish();
            // Of a split ring it knows.
            if (rig.from.device.format == .split) begin.base = rig.from.device.ring.split.usedIndex();
            const journal: *Journal = try .create(2);
            defer journal.close();
            var front_end: Vring = undefined;
            front_end.init(&rig.memory, journal, 1, -1);
            const event = eventOf(&rig.from.device);
            const before = event[0..4].*;
            try front_end.start(begin);
            while (front_end.pending()) {
                rig.burst.collect(&front_end);
                _ = rig.burst.giveBack(&front_end);
                try testing.expect(!front_end.isBroken());
            }
            self.told = (try front_end.stop()).base;
            // Sometimes it also says whether it wants kicks.
            if (self.random.random().boolean()) event[0..4].* = before;
            try self.takeUp();
            try rig.takeSent();
            rig.expected.count = 0;
            var room: [driver_rig.frame_bytes_max + 64]u8 = undefined;
            while (try rig.takeFrame(&room)) |_| {}
            for (0..20) |_| try rig.round();
        }

        /// In a process with a copy of everything.
        fn expectRecovers(self: *Self) !void {
            const child = std.c.fork();
            try testing.expect(child >= 0);
            if (child == 0) {
                self.expectRecoversHere() catch |reason| {
                    std.debug.print("{t}\n", .{reason});
                    std.c._exit(1);
                };
                std.c._exit(0);
            }
            try testing.expect(!try isStopped(child));
        }

        /// How many frames who takes the rings up now counts as lost.
        fn countLost(self: *Self) !u64 {
            const child = std.c.fork();
            try testing.expect(child >= 0);
            if (child == 0) {
                self.takeUpHere() catch std.c._exit(0xff);
                std.c._exit(@intCast(self.rig.from.device.stats.drop_crash));
            }
            var status: c_int = undefined;
            try testing.expectEqual(child, std.c.waitpid(child, &status, 0));
            const lost: u32 = @as(u32, @bitCast(status)) >> 8;
            try testing.expect(lost < 0xff);
            return lost;
        }

        fn takeUpHere(self: *Self) !void {
            try keepToOurselves(self.rig.host);
            try keepToOurselves(self.rig.journal.map);
            if (self.rig.inflight) |inflight| try keepToOurselves(inflight.file.map);
            // The device has it mapped elsewhere.
            self.rig.memory.rows[0].host = self.rig.host.ptr;
            try self.takeUp();
        }

        fn expectRecoversHere(self: *Self) !void {
            try self.takeUpHere();
            try self.expectAccounted();
            for (0..3) |_| try self.rig.round();
        }

        /// After the last device: the rings are taken up here, and go on.
        fn expectGoesOn(self: *Self) !void {
            try self.takeUp();
            try self.expectAccounted();
            for (0..20) |_| try self.rig.round();
        }

        /// No entry of a region is lost for good.
        fn expectAllFree(device: *Vring) !void {
            if (device.format == .split) return;
            const region = device.ring.packed_ring.region orelse return;
            var at = region.free_head;
            for (region.next) |_| {
                try testing.expect(at < region.next.len);
                at = region.next[at];
            }
        }

        /// Each buffer came back once; each frame arrived once, whole and in order, or is counted.
        fn expectAccounted(self: *Self) !void {
            const rig = self.rig;
            for ([_]*Vring{ &rig.to.device, &rig.from.device }) |device| try expectAllFree(device);
            try rig.takeSent();
            var room: [driver_rig.frame_bytes_max + 64]u8 = undefined;
            var lost: u64 = 0;
            while (try rig.takeFrame(&room)) |bytes| {
                while (true) : (lost += 1) {
                    const frame = rig.expected.pop() orelse return error.FrameOfNobody;
                    if (frame.len == bytes.len and isContent(frame.number, bytes)) break;
                }
            }
            // What was to be seen next by the receiver came back to it empty.
            rig.empty = 0;
            lost += rig.expected.count;
            rig.expected.count = 0;
            if (lost > rig.from.device.stats.drop_crash + self.counted) return error.FramesMissing;
        }
    };
}

/// Four bytes, of which a split ring has two.
fn eventOf(device: *const Vring) [*]u8 {
    return switch (device.format) {
        .split => @ptrCast(device.ring.split.avail_event),
        .packed_ring => @ptrCast(device.ring.packed_ring.device_event),
    };
}

fn isContent(number: u32, bytes: []const u8) bool {
    for (bytes, 0..) |byte, at| if (driver_rig.contentOf(number, at) != byte) return false;
    return true;
}

/// Whether it stopped after a step, and lives. Else it has ended, well or by our hand.
fn isStopped(child: c_int) !bool {
    var status: c_int = undefined;
    try testing.expectEqual(child, std.c.waitpid(child, &status, 0));
    const bits: u32 = @bitCast(status);
    if (bits == 0 or bits == signal_kill) return false;
    const stopped = 0x7f;
    if (bits == stopped | signal_trap << 8 or bits == stopped | signal_stop << 8) return true;
    return error.DeviceFailed;
}

fn testAll(comptime Driver: type, format: u64, tracked: bool) !void {
    const version_1 = @as(u64, 1) << spec.Feature.version_1;
    const event_idx = @as(u64, 1) << spec.Feature.event_idx;
    const mergeable = @as(u64, 1) << spec.Feature.mrg_rxbuf;
    const tables = @as(u64, 1) << spec.Feature.indirect_desc;
    for ([_]u64{ 0, event_idx, mergeable | version_1, tables | event_idx }, 1..) |features, seed| {
        var self: CrashRig(Driver) = try .create(.{
            .features = features | format,
            .size = 16,
            .indirect = spec.has(features, spec.Feature.indirect_desc),
            .tracked = tracked,
            .seed = seed,
        });
        defer self.destroy();
        var states: u32 = 0;
        self.forgets = tracked;
        states += try self.run();
        // Where both are there, one goes on with what the other has written.
        self.forgets = false;
        if (tracked) states += try self.run();
        try testing.expect(states >= 5);
    }
}

fn testOthers(comptime Driver: type, format: u64) !void {
    for (0..2) |seed| {
        for ([_]u64{ 0, 1 << spec.Feature.event_idx }) |features| {
            // Whoever begins anywhere begins in the middle of no chain.
            const options: driver_rig.Options = .{
                .features = features | format,
                .size = 16,
                .pieces_max = 1,
                .seed = seed,
            };
            var first: CrashRig(Driver) = try .create(options);
            defer first.destroy();
            try first.expectNewDriverWins();
            var second: CrashRig(Driver) = try .create(options);
            defer second.destroy();
            try second.expectBothGiveBack();
        }
    }
}

/// The emulator that runs the tests of other processors steps nobody.
const step_tests = struct {
    test "a driver that began anew, and a front end that went on, are believed" {
        try testOthers(@import("driver_split.zig").DriverSplit, 0);
        try testOthers(@import("driver_packed.zig").DriverPacked, 1 << spec.Feature.ring_packed);
    }

    test "a device may be killed between any two instructions on split rings" {
        try testAll(@import("driver_split.zig").DriverSplit, 0, false);
    }

    test "a device may be killed between any two instructions on packed rings" {
        try testAll(@import("driver_packed.zig").DriverPacked, 1 << spec.Feature.ring_packed, false);
    }

    test "a device may be killed between any two instructions on split rings, and nothing of it is left" {
        try testAll(@import("driver_split.zig").DriverSplit, 0, true);
    }

    test "a device may be killed between any two instructions on packed rings, and nothing of it is left" {
        try testAll(@import("driver_packed.zig").DriverPacked, 1 << spec.Feature.ring_packed, true);
    }
};

test {
    if (builtin.cpu.arch == .x86_64) _ = step_tests;
}

/// Puts a copy of memory that is shared with others in its place.
fn keepToOurselves(map: []align(std.heap.page_size_min) u8) !void {
    const copy = try std.heap.page_allocator.dupe(u8, map);
    defer std.heap.page_allocator.free(copy);
    try testing.expect(@import("sys.zig").mapZeroPages(@intFromPtr(map.ptr), map.len));
    @memcpy(map, copy);
}

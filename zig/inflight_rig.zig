//! What becomes of rings whose front end keeps memory for us, for tests: as another back end would have left it, of
//! another ring, with anything in it at any time, or gone.

const std = @import("std");
const abi = @import("abi.zig");
const driver_entry = @import("driver_entry.zig");
const driver_rig = @import("driver_rig.zig");
const inflight_file = @import("inflight.zig");
const recovery = @import("recovery.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");
const Vring = @import("vring.zig").Vring;

const Inflight = inflight_file.Inflight;
const testing = std.testing;

const DriverPacked = @import("driver_packed.zig").DriverPacked;
const DriverSplit = @import("driver_split.zig").DriverSplit;

const size = 16;
const split_features: u64 = 0;
const packed_features = @as(u64, 1) << spec.Feature.ring_packed | @as(u64, 1) << spec.Feature.version_1;

fn rigOf(comptime Driver: type, seed: u64, pieces_max: u32) !*driver_rig.Rig(Driver) {
    return .create(.{
        .features = if (Driver == DriverPacked) packed_features else split_features,
        .size = size,
        .pieces_max = pieces_max,
        .tracked = true,
        .seed = seed,
    });
}

/// Another process takes a ring up, with nothing but the front end's memory and a base that is wrong.
fn takeUp(rig: anytype, end: anytype, from_guest: bool) !void {
    var config = end.device.config;
    config.base = if (end.device.format == .packed_ring) 0x8003 else 7;
    const number = end.device.number;
    end.device.record.end();
    _ = try end.device.leave();
    end.device.init(&rig.memory, rig.journal, number, -1);
    end.device.inflight = rig.inflight;
    try end.device.start(config);
    end.device.enabled = true;
    if (end.device.unsettled) recovery.settle(&end.device, from_guest);
}

/// The region of the ring that sends, which is the second.
fn sendRegion(rig: anytype, head_bytes: usize, entry_bytes: usize) []u8 {
    const bytes = head_bytes + size * entry_bytes;
    const at = std.mem.alignForward(usize, bytes, 64);
    return rig.inflight.?.file.bytes[at..][0..bytes];
}

fn put(comptime T: type, bytes: []u8, at: usize, value: T) void {
    std.mem.writeInt(T, bytes[at..][0..@sizeOf(T)], value, .little);
}

test "heads that another back end had in hand go back in the order of their counters, split" {
    const rig = try rigOf(DriverSplit, 1, 1);
    defer rig.destroy();
    for (0..20) |_| try rig.round();
    for (0..6) |_| try testing.expect(try rig.send());
    _ = rig.from.driver.publish();
    // It took five, gave the second back, and died before it had unmarked that.
    const ring = &rig.from.device.ring.split;
    var heads: [5]u16 = undefined;
    for (&heads, 0..) |*head, i| head.* = ring.avail[2 + (ring.next_avail +% @as(u16, @intCast(i))) % size];
    const region = sendRegion(rig, 16, 16);
    for (heads, 0..) |head, i| {
        put(u8, region, 16 + 16 * @as(usize, head), 1);
        put(u64, region, 16 + 16 * @as(usize, head) + 8, 1000 + i);
    }
    put(u16, region, 12, heads[1]);
    const used = ring.used[1];
    ring.elements[used % size] = .{ .id = heads[1], .len = 0 };
    ring.used[1] = used +% 1;
    try takeUp(rig, &rig.from, true);
    try testing.expectEqual(4, rig.from.device.stats.drop_crash);
    try testing.expectEqual(used +% 5, ring.used[1]);
    const expected = [_]u16{ heads[0], heads[2], heads[3], heads[4] };
    for (expected, 1..) |head, i| {
        try testing.expectEqual(@as(u32, head), ring.elements[(used +% @as(u16, @intCast(i))) % size].id);
    }
    try testing.expectEqual(used +% 5, std.mem.readInt(u16, region[14..16], .little));
    for (0..size) |head| try testing.expectEqual(0, region[16 + 16 * head]);
    // The sixth is the next.
    try testing.expectEqual(used +% 5, rig.from.device.ring.split.next_avail);
}

test "chains that another back end had in hand go back in the order of their counters, packed" {
    const rig = try rigOf(DriverPacked, 1, 1);
    defer rig.destroy();
    for (0..20) |_| try rig.round();
    for (0..6) |_| try testing.expect(try rig.send());
    _ = rig.from.driver.publish();
    const ring = &rig.from.device.ring.packed_ring;
    var place = ring.used;
    const region = sendRegion(rig, 32, 32);
    var ids: [5]u16 = undefined;
    // In entries from the last down, and all of what is free from the first up.
    for (&ids, 0..) |*id, i| {
        id.* = ring.desc[place.index].id;
        place.advance(1, size);
        const at = 32 + 32 * (size - 1 - i);
        put(u8, region, at, 1);
        put(u16, region, at + 4, @intCast(size - 1 - i));
        put(u16, region, at + 6, 1);
        put(u64, region, at + 8, 1000 + i);
        put(u16, region, at + 16, id.*);
    }
    for (0..size - 5) |i| put(u16, region, 32 + 32 * i + 2, @intCast(if (i == size - 6) size else i + 1));
    put(u32, region, 12, 0);
    const next = ring.used;
    try takeUp(rig, &rig.from, true);
    try testing.expectEqual(5, rig.from.device.stats.drop_crash);
    place = next;
    for (ids) |id| {
        try testing.expectEqual(id, ring.desc[place.index].id);
        const flags = ring.desc[place.index].flags & (spec.desc_avail | spec.desc_used);
        try testing.expectEqual(flags, if (place.wrap) spec.desc_avail | spec.desc_used else 0);
        place.advance(1, size);
    }
    try testing.expectEqual(place, rig.from.device.ring.packed_ring.avail);
    try testing.expectEqual(place, rig.from.device.ring.packed_ring.used);
}

fn expectNewDriverWins(comptime Driver: type) !void {
    for (0..40) |seed| {
        const rig = try rigOf(Driver, seed, 3);
        defer rig.destroy();
        for (0..seed) |_| try rig.round();
        try rig.fill();
        rig.burst.collect(&rig.from.device);
        for ([_]*driver_rig.End(Driver){ &rig.to, &rig.from }) |end| end.driver.reset();
        rig.expected = .{ .next_sent = 77, .next_returned = 77 };
        rig.free_receive = .all;
        rig.free_send = .all;
        // Its front end gives the old memory all the same; here a base is right.
        const refills = seed % 2 == 0 and seed > 1;
        if (refills) try rig.fill();
        for ([_]*driver_rig.End(Driver){ &rig.to, &rig.from }) |end| {
            const config = end.device.config;
            end.device.record.end();
            _ = try end.device.leave();
            try end.device.start(config);
            try testing.expect(!end.device.unsettled);
        }
        if (!refills) for (0..10) |_| try rig.round();
    }
}

test "a driver that began anew wins over what a region says" {
    try expectNewDriverWins(DriverSplit);
    try expectNewDriverWins(DriverPacked);
}

test "a driver that began anew before anything came back to it gets back nothing that it did not send, split" {
    for (0..200) |seed| {
        const rig = try rigOf(DriverSplit, seed, 3);
        defer rig.destroy();
        while (try rig.send()) {}
        _ = rig.from.driver.publish();
        rig.burst.collect(&rig.from.device);
        rig.from.driver.reset();
        rig.free_send = .all;
        while (try rig.send()) {}
        _ = rig.from.driver.publish();
        try takeUp(rig, &rig.from, true);
        var items: [size]driver_entry.Item = undefined;
        const count = try rig.from.driver.reap(&items);
        try testing.expectEqual(rig.from.device.stats.drop_crash, count);
    }
}

test "a ring that was stopped begins where its front end says" {
    inline for (.{ DriverSplit, DriverPacked }) |Driver| {
        const rig = try rigOf(Driver, 1, 1);
        defer rig.destroy();
        for (0..20) |_| try rig.round();
        var config = rig.from.device.config;
        config.base = (try rig.from.device.stop()).base;
        const bytes: usize = if (Driver == DriverPacked) 32 else 16;
        try testing.expectEqual(0, std.mem.readInt(u16, sendRegion(rig, bytes, bytes)[8..10], .little));
        rig.from.driver.reset();
        rig.expected = .{};
        rig.free_send = .all;
        config.base = rig.from.driver.base();
        try rig.from.device.start(config);
        for (0..10) |_| try rig.round();
    }
}

/// Anything at all, often with a good head: then the rest is looked at.
fn scribble(random: std.Random, bytes: []u8, head_bytes: usize, entry_bytes: usize) void {
    const stride = std.mem.alignForward(usize, head_bytes + size * entry_bytes, 64);
    for (0..2) |number| {
        const region = bytes[number * stride ..][0 .. head_bytes + size * entry_bytes];
        for (0..random.uintLessThan(u32, 40)) |_| {
            const at = random.uintLessThan(usize, region.len / 2) * 2;
            const small: u16 = random.uintLessThan(u16, size + 2);
            put(u16, region, at, if (random.boolean()) small else random.int(u16));
        }
        for (0..size) |i| if (random.uintLessThan(u32, 3) == 0) {
            region[head_bytes + i * entry_bytes] = random.int(u8) & 1;
        };
        if (random.uintLessThan(u32, 8) == 0) continue;
        put(u64, region, 0, 0);
        put(u16, region, 8, 1);
        put(u16, region, 10, size);
    }
}

fn expectUnharmed(comptime Driver: type, head_bytes: usize, entry_bytes: usize) !void {
    var random: std.Random.DefaultPrng = .init(7);
    var held: u32 = 0;
    for (0..1500) |seed| {
        const rig = try rigOf(Driver, seed, 3);
        defer rig.destroy();
        for (0..random.random().uintLessThan(u32, 5)) |_| try rig.round();
        try rig.fill();
        if (random.random().boolean()) rig.burst.collect(&rig.from.device);
        const file = &rig.inflight.?.file;
        scribble(random.random(), file.bytes, head_bytes, entry_bytes);
        const buffers = rig.host[8 << 20 ..][0 .. 1 << 16];
        const before = std.hash.Wyhash.hash(0, buffers);
        for ([_]*driver_rig.End(Driver){ &rig.to, &rig.from }) |end| {
            try takeUp(rig, end, end == &rig.from);
            held += @intCast(end.device.stats.drop_crash);
        }
        // Whatever the ring says now, work goes on or the ring breaks.
        rig.burst.collect(&rig.from.device);
        _ = rig.burst.deliver(&rig.to.device, 0, 0);
        _ = rig.burst.giveBack(&rig.from.device);
        try testing.expectEqual(before, std.hash.Wyhash.hash(0, buffers));
        const lead = @intFromPtr(file.bytes.ptr) - @intFromPtr(file.map.ptr);
        try testing.expect(std.mem.allEqual(u8, file.map[0..lead], 0));
        try testing.expect(std.mem.allEqual(u8, file.map[lead + file.bytes.len ..], 0));
    }
    try testing.expect(held > 100);
}

test "whatever a region says, nothing is written outside, and there is an end" {
    try expectUnharmed(DriverSplit, 16, 16);
    try expectUnharmed(DriverPacked, 32, 32);
}

test "what is written to a region under running rings changes nothing" {
    inline for (.{ DriverSplit, DriverPacked }) |Driver| {
        const rig = try rigOf(Driver, 1, 5);
        defer rig.destroy();
        var over: std.atomic.Value(bool) = .init(false);
        const thread: std.Thread = try .spawn(.{}, struct {
            fn run(bytes: []u8, done: *std.atomic.Value(bool)) void {
                var random: std.Random.DefaultPrng = .init(1);
                while (!done.load(.monotonic)) for (bytes) |*byte| {
                    @atomicStore(u8, byte, random.random().int(u8), .monotonic);
                };
            }
        }.run, .{ rig.inflight.?.file.bytes, &over });
        defer thread.join();
        defer over.store(true, .monotonic);
        for (0..500) |_| try rig.round();
    }
}

test "memory that is cut off under running rings changes nothing" {
    inline for (.{ DriverSplit, DriverPacked }) |Driver| {
        const rig = try rigOf(Driver, 1, 5);
        defer rig.destroy();
        for (0..5) |_| try rig.round();
        @import("fault.zig").lose(rig.inflight.?.file.map);
        for (0..50) |_| try rig.round();
        try testing.expect(rig.inflight.?.file.isFaulty());
    }
}

test "memory that does not hold what it should is refused, or the ring that it does not hold" {
    const fd = try sys.memoryFile("inflight", 8192);
    defer sys.close(fd);
    try testing.expectError(error.InvalidArgument, Inflight.create(fd, 0, 4096, 0, 16));
    try testing.expectError(error.InvalidArgument, Inflight.create(fd, 0, 4096, 2 * abi.queue_pairs_max + 1, 16));
    try testing.expectError(error.InvalidArgument, Inflight.create(fd, 0, 4096, 1, 0));
    try testing.expectError(error.InvalidArgument, Inflight.create(fd, 0, 4096, 1, abi.vring_size_max + 1));
    try testing.expectError(error.Misaligned, Inflight.create(fd, 4, 4096, 1, 16));
    try testing.expectError(error.FileTooShort, Inflight.create(fd, 4104, 4096, 1, 16));
    try testing.expectError(error.InvalidArgument, Inflight.create(fd, std.math.maxInt(u64) - 7, 16, 1, 16));
    const rig = try rigOf(DriverSplit, 1, 1);
    defer rig.destroy();
    var config = rig.from.device.config;
    const last = try rig.from.device.stop();
    config.base = last.base;
    // So many bytes are enough for one ring and a byte less than two.
    const inflight: *Inflight = try .create(fd, 8, 2 * 320 - 64 + 16 - 1, 2, size);
    defer inflight.destroy();
    rig.from.device.inflight = inflight;
    try testing.expectError(error.InvalidArgument, rig.from.device.start(config));
    const small: *Inflight = try .create(fd, 8, 1024, 2, size / 2);
    defer small.destroy();
    rig.from.device.inflight = small;
    try testing.expectError(error.InvalidArgument, rig.from.device.start(config));
    // Of this ring nothing is kept.
    const other: *Inflight = try .create(fd, 8, 1024, 1, size);
    defer other.destroy();
    rig.from.device.inflight = other;
    try rig.from.device.start(config);
    for (0..5) |_| try rig.round();
    _ = try rig.from.device.leave();
    rig.from.device.inflight = rig.inflight;
    try rig.from.device.start(rig.from.device.config);
}

fn expectUntouched(comptime Driver: type) !void {
    const rig = try rigOf(Driver, 3, 3);
    defer rig.destroy();
    const inflight = rig.inflight.?;
    const before = try testing.allocator.dupe(u8, inflight.file.bytes);
    defer testing.allocator.free(before);
    for (0..30) |rounds| {
        for (0..rounds) |_| try rig.round();
        @memcpy(before, inflight.file.bytes);
        inflight.owned = false;
        for ([_]*driver_rig.End(Driver){ &rig.to, &rig.from }) |end| {
            const config = end.device.config;
            _ = try end.device.leave();
            try end.device.start(config);
            try testing.expect(end.device.taken_up);
            recovery.settle(&end.device, end == &rig.from);
            // One that fails now leaves it so.
            _ = try end.device.leave();
            try end.device.start(config);
            recovery.settle(&end.device, end == &rig.from);
        }
        try testing.expectEqualSlices(u8, before, inflight.file.bytes);
        inflight.owned = true;
        for ([_]*driver_rig.End(Driver){ &rig.to, &rig.from }) |end| end.device.ownRegion();
    }
    for ([_]*driver_rig.End(Driver){ &rig.to, &rig.from }) |end| try takeUp(rig, end, end == &rig.from);
    for (0..10) |_| try rig.round();
    try testing.expectEqual(0, rig.from.device.stats.drop_crash);
}

test "memory that another process still writes to is not touched before it is ours, and then is right" {
    try expectUntouched(DriverSplit);
    try expectUntouched(DriverPacked);
}

//! Which port a MAC address was last seen at. Shared by all workers without a lock: an entry is one
//! word, and a lost race costs a flooded packet or one more lesson, never a wrong word.

const std = @import("std");

const ways = 8;
const buckets = 1024;

/// Bits 0-47 the address as it lies in the frame, 48-63 the port + 1. 0: free.
const Entry = std.atomic.Value(u64);

const Bucket = struct {
    entries: [ways]Entry align(64),
    /// Milliseconds, when the address was last confirmed.
    seen_ms: [ways]std.atomic.Value(u32),
};

comptime {
    std.debug.assert(ways * buckets == @import("abi.zig").macs_max);
}

const address_mask = 0xffff_ffff_ffff;
const ahead_ms_max = 60_000;
/// Of one port, that are told.
pub const addresses_max = 256;

pub const MacTable = struct {
    buckets: [buckets]Bucket,
    age_ms: u32,
    /// Changes whenever an answer may have changed: what was looked up before is then stale.
    generation: std.atomic.Value(u32),

    pub fn init(table: *MacTable, age_ms: u32) void {
        @memset(std.mem.asBytes(&table.buckets), 0);
        table.age_ms = age_ms;
        table.generation = .init(1);
    }

    /// The port of an address, or null.
    pub fn find(table: *const MacTable, mac: u64, now_ms: u32) ?u16 {
        const bucket = table.bucketOf(mac);
        for (&bucket.entries, &bucket.seen_ms) |*entry, *seen| {
            const word = entry.load(.monotonic);
            if (word == 0 or word & address_mask != mac) continue;
            if (ageOf(seen.load(.monotonic), now_ms) > table.age_ms) return null;
            return @intCast((word >> 48) - 1);
        }
        return null;
    }

    /// Notes that `mac` was seen at `port`. In a full bucket the port's own entry goes first, so that
    /// a guest that sends from ever new addresses forgets its own, then the oldest.
    pub fn learn(table: *MacTable, mac: u64, port: u16, now_ms: u32) void {
        const bucket = @constCast(table.bucketOf(mac));
        const word = mac | @as(u64, port + 1) << 48;
        var victim: usize = 0;
        var victim_rank: u64 = 0;
        for (&bucket.entries, 0..) |*entry, i| {
            const old = entry.load(.monotonic);
            const age = ageOf(bucket.seen_ms[i].load(.monotonic), now_ms);
            if (old != 0 and old & address_mask == mac) {
                bucket.seen_ms[i].store(now_ms, .monotonic);
                if (old == word) return;
                entry.store(word, .monotonic);
                table.changed();
                return;
            }
            const rank: u64 = if (old == 0 or age > table.age_ms)
                3 << 32
            else if (old >> 48 == word >> 48)
                1 << 32 | @as(u64, age)
            else
                age;
            if (i == 0 or rank > victim_rank) {
                victim = i;
                victim_rank = rank;
            }
        }
        bucket.seen_ms[victim].store(now_ms, .monotonic);
        bucket.entries[victim].store(word, .monotonic);
        table.changed();
    }

    /// The addresses of a port; of those that do not fit the ones seen last.
    pub fn addressesOf(table: *const MacTable, port: u16, macs: []u64, now_ms: u32) usize {
        var ages: [addresses_max]u32 = undefined;
        const room = @min(macs.len, addresses_max);
        var count: usize = 0;
        for (&table.buckets) |*bucket| {
            for (&bucket.entries, &bucket.seen_ms) |*entry, *seen| {
                const word = entry.load(.monotonic);
                const age = ageOf(seen.load(.monotonic), now_ms);
                if (word >> 48 != @as(u64, port) + 1 or age > table.age_ms) continue;
                var place = count;
                if (count == room) {
                    place = std.mem.indexOfMax(u32, ages[0..room]);
                    if (ages[place] <= age) continue;
                } else count += 1;
                macs[place] = word & address_mask;
                ages[place] = age;
            }
        }
        return count;
    }

    /// All that is known, as it is kept: the address, and the port + 1 in the bits from 48 on. Returns how many.
    pub fn all(table: *const MacTable, words: []u64, now_ms: u32) usize {
        var count: usize = 0;
        for (&table.buckets) |*bucket| {
            for (&bucket.entries, &bucket.seen_ms) |*entry, *seen| {
                const word = entry.load(.monotonic);
                if (word == 0 or ageOf(seen.load(.monotonic), now_ms) > table.age_ms) continue;
                if (count == words.len) return count;
                words[count] = word;
                count += 1;
            }
        }
        return count;
    }

    /// Forgets a port. Workers are paused.
    pub fn forget(table: *MacTable, port: u16) void {
        for (&table.buckets) |*bucket| {
            for (&bucket.entries) |*entry| {
                if (entry.load(.monotonic) >> 48 == @as(u64, port) + 1) entry.store(0, .monotonic);
            }
        }
        table.changed();
    }

    /// Another worker's clock may be a little ahead of ours.
    fn ageOf(seen_ms: u32, now_ms: u32) u32 {
        return if (seen_ms -% now_ms < ahead_ms_max) 0 else now_ms -% seen_ms;
    }

    fn changed(table: *MacTable) void {
        _ = table.generation.fetchAdd(1, .monotonic);
    }

    fn bucketOf(table: *const MacTable, mac: u64) *const Bucket {
        const hash = mac *% 0x9e37_79b9_7f4a_7c15;
        return &table.buckets[@intCast(hash >> (64 - std.math.log2(@as(comptime_int, buckets))))];
    }
};

test "an address is found where it was seen last, until it is old" {
    const table = try std.testing.allocator.create(MacTable);
    defer std.testing.allocator.destroy(table);
    table.init(1000);
    try std.testing.expectEqual(null, table.find(0x525400000001, 0));
    table.learn(0x525400000001, 3, 0);
    try std.testing.expectEqual(3, table.find(0x525400000001, 1000));
    try std.testing.expectEqual(null, table.find(0x525400000001, 1001));
    table.learn(0x525400000001, 4, 2000);
    try std.testing.expectEqual(4, table.find(0x525400000001, 2000));
    table.forget(4);
    try std.testing.expectEqual(null, table.find(0x525400000001, 2000));
}

test "an address that a worker with a clock ahead of ours has seen is not old" {
    const table = try std.testing.allocator.create(MacTable);
    defer std.testing.allocator.destroy(table);
    table.init(1000);
    table.learn(0x525400000001, 3, 10_001);
    try std.testing.expectEqual(3, table.find(0x525400000001, 10_000));
}

test "a flood of addresses from one port leaves those of another" {
    const table = try std.testing.allocator.create(MacTable);
    defer std.testing.allocator.destroy(table);
    table.init(1_000_000);
    table.learn(0x525400000001, 1, 0);
    for (0..100_000) |i| table.learn(0x020000000000 + i * 2, 2, @intCast(i / 100));
    try std.testing.expectEqual(1, table.find(0x525400000001, 1000));
}

test "a port's addresses are told, those seen last if there are too many" {
    const table = try std.testing.allocator.create(MacTable);
    defer std.testing.allocator.destroy(table);
    table.init(1000);
    for (0..20) |i| table.learn(0x020000000000 + i * 2, @intCast(1 + i % 2), @intCast(i * 100));
    var macs: [4]u64 = undefined;
    // Those of ten and more have become old.
    try std.testing.expectEqual(4, table.addressesOf(2, &macs, 2000));
    std.mem.sort(u64, &macs, {}, std.sort.asc(u64));
    for ([_]u64{ 13, 15, 17, 19 }, macs) |i, mac| try std.testing.expectEqual(0x020000000000 + i * 2, mac);
    var all: [64]u64 = undefined;
    try std.testing.expectEqual(5, table.addressesOf(2, &all, 2000));
}

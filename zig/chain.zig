//! A descriptor chain as a list of pieces of host memory: the slow, general way to read a buffer.
//! Every descriptor is fetched once, every length and address is the guest's and checked.

const std = @import("std");
const Memory = @import("memory.zig").Memory;
const spec = @import("spec.zig");

/// The chain loops, straddles unmapped memory, or has a buffer of the wrong direction: it can be
/// returned to the driver, but not used.
pub const Error = error{BadChain};

pub const Direction = enum { readable, writable };

pub const Segment = struct { base: [*]u8, len: u32 };

/// A stack of segments with a fixed place in memory, so that slices of it stay good.
pub const Pool = struct {
    items: []Segment,
    used: u32 = 0,

    /// There is room: `Walk.room` is never more than what is left.
    pub fn append(pool: *Pool, base: [*]u8, len: u32) void {
        std.debug.assert(pool.used < pool.items.len);
        pool.items[pool.used] = .{ .base = base, .len = len };
        pool.used += 1;
    }

    pub fn left(pool: *const Pool) usize {
        return pool.items.len - pool.used;
    }

    /// The segments from `first` on, less their first `bytes`, of which there are as many.
    pub fn behind(pool: *Pool, first: u32, bytes: u32) []const Segment {
        return pool.items[pool.used - cut(pool.items[first..pool.used], bytes) .. pool.used];
    }

    /// The same segments with `bytes` in the place of their first ones. In the pool they have a free place before
    /// them.
    pub fn replaceFront(pool: *Pool, segments: []const Segment, bytes: []u8) []const Segment {
        const first: u32 = @intCast(segments.ptr - pool.items.ptr);
        const end: u32 = @intCast(first + segments.len);
        const rest = cut(pool.items[first..end], @intCast(bytes.len));
        const at = end - rest - 1;
        pool.items[at] = .{ .base = bytes.ptr, .len = @intCast(bytes.len) };
        return pool.items[at..end];
    }
};

/// Takes the first `bytes` off, of which there are as many; the number of segments left, at the end.
fn cut(segments: []Segment, bytes: u32) u32 {
    var left_bytes = bytes;
    for (segments, 0..) |*segment, i| {
        if (segment.len > left_bytes) {
            segment.base += left_bytes;
            segment.len -= left_bytes;
            return @intCast(segments.len - i);
        }
        left_bytes -= segment.len;
    }
    return 0;
}

/// One chain being read into a pool.
pub const Walk = struct {
    memory: *const Memory,
    hint: *u32,
    pool: *Pool,
    direction: Direction,
    /// INDIRECT_DESC was negotiated.
    indirect: bool,
    /// Descriptors that may still come; a chain is never longer than its ring (virtio 2.7.5.3.1,
    /// 2.8.5), which is also what ends a loop.
    steps_max: u32,
    steps_left: u32,
    /// Bytes that still may go to the pool, a segment each at worst. What is beyond is measured only.
    room: u64,
    /// Bytes of the chain.
    total: u64 = 0,

    /// Adds one buffer. An empty one is legal and adds nothing, wherever it points.
    pub fn append(walk: *Walk, addr: u64, len: u32, flags: u16) Error!void {
        if (walk.steps_left == 0) return error.BadChain;
        walk.steps_left -= 1;
        if ((flags & spec.desc_write != 0) != (walk.direction == .writable)) return error.BadChain;
        const wanted = @min(len, walk.room);
        const end = std.math.add(u64, addr, wanted) catch return error.BadChain;
        var at = addr;
        while (at < end) {
            const piece = walk.memory.span(at, end - at, walk.hint) orelse return error.BadChain;
            walk.pool.append(piece.base, @intCast(piece.len));
            at += piece.len;
        }
        walk.room -= wanted;
        walk.total += len;
    }

    /// Reads an indirect table: linked by `next` in a split ring (2.7.5.3), in sequence in a
    /// packed one (2.8.7), where only the WRITE flag counts.
    pub fn table(walk: *Walk, comptime linked: bool, addr: u64, len: u32, flags: u16) Error!void {
        if (!walk.indirect or flags & spec.desc_next != 0) return error.BadChain;
        if (len == 0 or len % entry_bytes != 0) return error.BadChain;
        _ = std.math.add(u64, addr, len) catch return error.BadChain;
        const entries = len / entry_bytes;
        var index: u32 = 0;
        while (true) {
            const raw = try walk.fetch(addr + @as(u64, index) * entry_bytes);
            if (linked) {
                const desc = @as(*const spec.Desc, @ptrCast(&raw)).*;
                if (desc.flags & spec.desc_indirect != 0) return error.BadChain;
                try walk.append(desc.addr, desc.len, desc.flags);
                if (desc.flags & spec.desc_next == 0) return;
                index = desc.next;
                if (index >= entries) return error.BadChain;
            } else {
                const desc = @as(*const spec.PackedDesc, @ptrCast(&raw)).*;
                try walk.append(desc.addr, desc.len, desc.flags);
                index += 1;
                if (index == entries) return;
            }
        }
    }

    /// One entry of a table, read once; it may straddle regions.
    fn fetch(walk: *Walk, at: u64) Error![2]u64 {
        if (walk.memory.translate(at, entry_bytes, walk.hint)) |base| {
            return @as(*align(1) const volatile @Vector(2, u64), @ptrCast(base)).*;
        }
        var raw: [2]u64 = undefined;
        if (!walk.memory.read(at, std.mem.asBytes(&raw), walk.hint)) return error.BadChain;
        return raw;
    }
};

const entry_bytes = 16;

/// Walks through the bytes of a list of segments.
pub const Cursor = struct {
    segments: []const Segment,
    offset: u32 = 0,

    /// The next contiguous bytes, at most `limit`; empty at the end.
    pub fn take(cursor: *Cursor, limit: usize) []u8 {
        while (cursor.segments.len > 0) {
            const segment = cursor.segments[0];
            const count = @min(segment.len - cursor.offset, limit);
            if (count == 0 and limit != 0) {
                cursor.segments = cursor.segments[1..];
                cursor.offset = 0;
                continue;
            }
            const piece = segment.base[cursor.offset..][0..count];
            cursor.offset += @intCast(count);
            return piece;
        }
        return &.{};
    }

    /// Copies the next bytes out; the number copied is short only at the end.
    pub fn read(cursor: *Cursor, bytes: []u8) usize {
        var done: usize = 0;
        while (done < bytes.len) {
            const piece = cursor.take(bytes.len - done);
            if (piece.len == 0) break;
            @memcpy(bytes[done..][0..piece.len], piece);
            done += piece.len;
        }
        return done;
    }
};

/// Guest memory at 0x1000 that is an array, for tests.
const Bench = struct {
    memory: Memory,
    hint: u32 = 0,
    items: [8]Segment = undefined,
    pool: Pool,

    fn create(bytes: []u8) !*Bench {
        const bench = try std.testing.allocator.create(Bench);
        bench.memory.init();
        bench.memory.rows[0] = .{ .gpa = 0x1000, .size = bytes.len, .host = bytes.ptr };
        bench.memory.count = 1;
        bench.hint = 0;
        bench.pool = .{ .items = &bench.items };
        return bench;
    }

    fn walk(bench: *Bench) Walk {
        return .{
            .memory = &bench.memory,
            .hint = &bench.hint,
            .pool = &bench.pool,
            .direction = .writable,
            .indirect = true,
            .steps_max = 4,
            .steps_left = 4,
            .room = 8,
        };
    }
};

test "the tables of both formats: packed ones have their flags last, and only WRITE counts" {
    var bytes: [96]u8 align(16) = @splat(0);
    const bench = try Bench.create(&bytes);
    defer std.testing.allocator.destroy(bench);
    const linked: *[2]spec.Desc = @ptrCast(&bytes);
    linked[0] = .{ .addr = 0x1040, .len = 3, .flags = spec.desc_write | spec.desc_next, .next = 1 };
    linked[1] = .{ .addr = 0x1050, .len = 9, .flags = spec.desc_write, .next = 7 };
    var walk = bench.walk();
    try walk.table(true, 0x1000, 32, spec.desc_indirect);
    try std.testing.expectEqual(@as(u64, 12), walk.total);
    // No more than the room of eight is wanted of memory.
    try std.testing.expectEqual(@as(u32, 5), bench.items[1].len);
    const sequence: *[2]spec.PackedDesc = @ptrCast(&bytes);
    sequence[0] = .{ .addr = 0x1040, .len = 3, .id = 0xffff, .flags = spec.desc_write | spec.desc_indirect };
    sequence[1] = .{ .addr = 0x1050, .len = 1, .id = 0, .flags = spec.desc_write };
    walk = bench.walk();
    try walk.table(false, 0x1000, 32, spec.desc_indirect);
    try std.testing.expectEqual(@as(u64, 4), walk.total);
}

test "a table that loops, leaves its end, nests or goes on behind itself is refused" {
    var bytes: [96]u8 align(16) = @splat(0);
    const bench = try Bench.create(&bytes);
    defer std.testing.allocator.destroy(bench);
    const table: *[2]spec.Desc = @ptrCast(&bytes);
    const cases = [_]struct { flags: u16, next: u16 }{
        .{ .flags = spec.desc_write | spec.desc_next, .next = 0 },
        .{ .flags = spec.desc_write | spec.desc_next, .next = 2 },
        .{ .flags = spec.desc_indirect, .next = 0 },
        .{ .flags = 0, .next = 0 },
    };
    for (cases) |case| {
        table[0] = .{ .addr = 0x1040, .len = 0, .flags = case.flags, .next = case.next };
        var walk = bench.walk();
        try std.testing.expectError(error.BadChain, walk.table(true, 0x1000, 32, spec.desc_indirect));
    }
    table[0] = .{ .addr = 0x1040, .len = 0, .flags = spec.desc_write, .next = 0 };
    for ([_]u32{ 0, 8, 17 }) |len| {
        var walk = bench.walk();
        try std.testing.expectError(error.BadChain, walk.table(true, 0x1000, len, spec.desc_indirect));
    }
    var walk = bench.walk();
    const both = spec.desc_indirect | spec.desc_next;
    try std.testing.expectError(error.BadChain, walk.table(true, 0x1000, 32, both));
    walk.indirect = false;
    try std.testing.expectError(error.BadChain, walk.table(true, 0x1000, 32, spec.desc_indirect));
}

test "what lies behind some bytes begins in the middle of a segment, or at the next" {
    var bytes: [8]u8 = undefined;
    var items = [_]Segment{ .{ .base = &bytes, .len = 3 }, .{ .base = bytes[3..], .len = 5 } };
    var pool: Pool = .{ .items = &items, .used = 2 };
    try std.testing.expectEqual(@as(u32, 5), pool.behind(0, 3)[0].len);
    const rest = pool.behind(0, 4);
    try std.testing.expectEqual(@as(usize, 1), rest.len);
    try std.testing.expectEqual(@intFromPtr(&bytes[4]), @intFromPtr(rest[0].base));
}

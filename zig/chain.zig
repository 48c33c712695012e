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

    pub fn append(pool: *Pool, base: [*]u8, len: u32) Error!void {
        if (pool.used == pool.items.len) return error.BadChain;
        pool.items[pool.used] = .{ .base = base, .len = len };
        pool.used += 1;
    }

    pub fn left(pool: *const Pool) usize {
        return pool.items.len - pool.used;
    }
};

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
    steps_left: u32,
    /// Bytes in the pool from this chain.
    total: u64 = 0,

    /// Adds one buffer. An empty one is legal and adds nothing, wherever it points.
    pub fn append(walk: *Walk, addr: u64, len: u32, flags: u16) Error!void {
        if (walk.steps_left == 0) return error.BadChain;
        walk.steps_left -= 1;
        if ((flags & spec.desc_write != 0) != (walk.direction == .writable)) return error.BadChain;
        const end = std.math.add(u64, addr, len) catch return error.BadChain;
        var at = addr;
        while (at < end) {
            const piece = walk.memory.span(at, end - at, walk.hint) orelse return error.BadChain;
            try walk.pool.append(piece.base, @intCast(piece.len));
            at += piece.len;
        }
        walk.total += len;
    }

    /// Reads an indirect table: linked by `next` in a split ring (2.7.5.3), in sequence in a
    /// packed one (2.8.7), where only the WRITE flag counts.
    pub fn table(walk: *Walk, comptime linked: bool, addr: u64, len: u32, flags: u16) Error!void {
        if (!walk.indirect or flags & spec.desc_next != 0) return error.BadChain;
        if (len == 0 or len % @sizeOf(spec.Desc) != 0) return error.BadChain;
        _ = std.math.add(u64, addr, len) catch return error.BadChain;
        const entries = len / @sizeOf(spec.Desc);
        var index: u32 = 0;
        while (true) {
            var desc: spec.Desc = undefined;
            const at = addr + @as(u64, index) * @sizeOf(spec.Desc);
            if (!walk.memory.read(at, std.mem.asBytes(&desc), walk.hint)) return error.BadChain;
            if (linked and desc.flags & spec.desc_indirect != 0) return error.BadChain;
            try walk.append(desc.addr, desc.len, desc.flags);
            if (linked) {
                if (desc.flags & spec.desc_next == 0) return;
                index = desc.next;
                if (index >= entries) return error.BadChain;
            } else {
                index += 1;
                if (index == entries) return;
            }
        }
    }
};

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

    /// What is left, as segments in `pool`.
    pub fn rest(cursor: *const Cursor, pool: *Pool) Error![]const Segment {
        if (cursor.offset == 0 or cursor.segments.len == 0) return cursor.segments;
        const first = pool.used;
        const head = cursor.segments[0];
        if (head.len > cursor.offset) try pool.append(head.base + cursor.offset, head.len - cursor.offset);
        for (cursor.segments[1..]) |segment| try pool.append(segment.base, segment.len);
        return pool.items[first..pool.used];
    }
};

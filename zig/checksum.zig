//! The Internet checksum (RFC 1071), over pieces of memory one after the other.

const std = @import("std");

/// A sum in the making. Words are added as memory has them, whatever the byte order: the result is
/// stored in the same way (RFC 1071, 2.B).
pub const Sum = struct {
    total: u64 = 0,
    /// An odd number of bytes was added: the next one is the second of its word.
    odd: bool = false,

    pub fn add(sum: *Sum, bytes: []const u8) void {
        const folded = fold(sumOf(bytes));
        sum.total += if (sum.odd) @byteSwap(folded) else folded;
        if (bytes.len % 2 != 0) sum.odd = !sum.odd;
    }

    /// The checksum of all that was added.
    pub fn finish(sum: Sum) u16 {
        return ~fold(sum.total);
    }
};

const lanes = std.simd.suggestVectorLength(u32) orelse 4;
const Lanes = @Vector(lanes, u32);
/// Each adds less than 2^16 to a lane.
const steps_max = 1 << 16;

/// Puts a sum into its field, as it was taken.
pub fn store(field: *[2]u8, sum: u16) void {
    std.mem.writeInt(u16, field, sum, native);
}

fn sumOf(bytes: []const u8) u64 {
    @setRuntimeSafety(false);
    var total: u64 = 0;
    var at: usize = 0;
    while (at + @sizeOf(Lanes) <= bytes.len) {
        var sums: [2]Lanes = @splat(@splat(0));
        const end = @min(bytes.len, at + steps_max * @sizeOf(Lanes));
        while (at + @sizeOf(Lanes) <= end) : (at += @sizeOf(Lanes)) {
            const words = @as(*align(1) const Lanes, @ptrCast(bytes[at..])).*;
            sums[0] +%= words & @as(Lanes, @splat(0xffff));
            sums[1] +%= words >> @splat(16);
        }
        for (sums) |sum| total += @reduce(.Add, @as(@Vector(lanes, u64), sum));
    }
    while (at + 4 <= bytes.len) : (at += 4) total += std.mem.readInt(u32, bytes[at..][0..4], native);
    if (at + 2 <= bytes.len) {
        total += std.mem.readInt(u16, bytes[at..][0..2], native);
        at += 2;
    }
    if (at < bytes.len) total += std.mem.readInt(u16, &.{ bytes[at], 0 }, native);
    return total;
}

const native = @import("builtin").cpu.arch.endian();

fn fold(total: u64) u16 {
    var rest = total;
    while (rest >> 16 != 0) rest = (rest & 0xffff) + (rest >> 16);
    return @intCast(rest);
}

test "RFC 1071's example, cut anywhere" {
    const bytes = [_]u8{ 0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7 };
    for (0..bytes.len + 1) |first| {
        for (first..bytes.len + 1) |second| {
            var sum: Sum = .{};
            for ([_][]const u8{ bytes[0..first], bytes[first..second], bytes[second..] }) |piece| sum.add(piece);
            try std.testing.expectEqual(std.mem.nativeToBig(u16, ~@as(u16, 0xddf2)), sum.finish());
        }
    }
}

test "with its checksum in it, a packet sums up to nothing, odd lengths as well" {
    var bytes: [1001]u8 = undefined;
    for (&bytes, 0..) |*byte, i| byte.* = @truncate(i *% 31 +% 7);
    for ([_]usize{ 2, 3, 64, 65, 1000, 1001 }) |len| {
        bytes[0..2].* = .{ 0, 0 };
        var sum: Sum = .{};
        sum.add(bytes[0..len]);
        std.mem.writeInt(u16, bytes[0..2], sum.finish(), native);
        sum = .{};
        sum.add(bytes[0..len]);
        try std.testing.expectEqual(0, sum.finish());
    }
}

test "sums of any length are those of their words one by one, also of the largest words" {
    const bytes = try std.testing.allocator.alloc(u8, steps_max * @sizeOf(Lanes) + 200);
    defer std.testing.allocator.free(bytes);
    @memset(bytes, 0xff);
    try std.testing.expectEqual(0xffff, fold(sumOf(bytes)));
    for (bytes[0..500], 0..) |*byte, i| byte.* = @truncate(i *% 31 +% 7);
    for (0..500) |len| {
        var words: u64 = 0;
        for (bytes[0..len], 0..) |byte, i| {
            const pair: [2]u8 = if (i % 2 == 0) .{ byte, 0 } else .{ 0, byte };
            words += std.mem.readInt(u16, &pair, native);
        }
        try std.testing.expectEqual(fold(words), fold(sumOf(bytes[0..len])));
    }
}

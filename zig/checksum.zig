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

fn sumOf(bytes: []const u8) u64 {
    var total: u64 = 0;
    var at: usize = 0;
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

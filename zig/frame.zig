//! A packet on its way.

const std = @import("std");
const copy = @import("copy.zig").copy;
const Segment = @import("chain.zig").Segment;
const NetHeader = @import("spec.zig").NetHeader;

/// Bytes of a frame that are fetched to be looked at: destination, source, type, and two more, so
/// that it is one load.
pub const ethernet_bytes = 16;

/// Whether none of a frame's first bytes is set that belong to its addresses.
pub inline fn hasNoAddresses(bytes: @Vector(ethernet_bytes, u8)) bool {
    const words: [2]u64 = @bitCast(bytes);
    return words[0] | (words[1] & 0xffff_ffff) == 0;
}

/// A packet where it lies, in its sender's memory. It may be read until its head is returned.
pub const Frame = struct {
    /// Without the virtio-net header.
    segments: []const Segment,
    len: u32,
    /// All of it lies right behind the whole header that its sender wrote.
    behind_header: bool,
    /// Checked, and cleared of what means nothing. A vector of 16 bytes is loaded from here.
    header: NetHeader align(16),
    /// A private copy: what decides over the frame is never read from the guest twice.
    ethernet: [ethernet_bytes]u8 align(8),

    pub fn destination(frame: *const Frame) u64 {
        return std.mem.readInt(u64, frame.ethernet[0..8], .little) & 0xffff_ffff_ffff;
    }

    pub fn source(frame: *const Frame) u64 {
        return std.mem.readInt(u64, frame.ethernet[4..12], .little) >> 16;
    }

    pub fn etherType(frame: *const Frame) u16 {
        return std.mem.readInt(u16, frame.ethernet[12..14], .big);
    }

    pub inline fn isMulticast(frame: *const Frame) bool {
        return frame.ethernet[0] & 1 != 0;
    }
};

/// Copies what lies in these segments, one at least.
pub inline fn copySegments(target: [*]u8, segments: []const Segment) void {
    @setRuntimeSafety(false);
    copy(target, segments[0].base, segments[0].len);
    var at: usize = segments[0].len;
    for (segments[1..]) |segment| {
        copy(target + at, segment.base, segment.len);
        at += segment.len;
    }
}

test "any byte of either address makes a difference, and none behind them" {
    for (0..ethernet_bytes) |at| {
        var bytes: [ethernet_bytes]u8 = @splat(0);
        bytes[at] = 0x80;
        try std.testing.expectEqual(at >= 12, hasNoAddresses(bytes));
    }
}

//! Frames by which a host says where it is: gratuitous ARP, which it sends itself, and RARP, which we send for it where
//! it cannot after a migration (vhost-user, SEND_RARP).

const std = @import("std");
const chain = @import("chain.zig");
const Frame = @import("frame.zig").Frame;

/// The least that Ethernet has, without the check sequence.
pub const frame_bytes = 60;

const ethertype_arp = 0x0806;
const ethertype_rarp = 0x8035;
/// Behind the Ethernet header (RFC 826, RFC 903).
const packet_bytes = 28;
/// Ethernet, IPv4, lengths of their addresses, and the request "what is my address".
const request = [_]u8{ 0, 1, 8, 0, 6, 4, 0, 3 };

/// RARP from `mac`, which lies in memory as in a frame, to all; what follows the packet is zero.
pub fn write(frame: *[frame_bytes]u8, mac: u64) void {
    const source: [6]u8 = std.mem.toBytes(std.mem.nativeToLittle(u64, mac))[0..6].*;
    const none: [4]u8 = @splat(0);
    const all: [6]u8 = @splat(0xff);
    const packet = all ++ source ++ [_]u8{ ethertype_rarp >> 8, ethertype_rarp & 0xff } ++ request ++
        source ++ none ++ source ++ none;
    frame.* = packet ++ @as([frame_bytes - packet.len]u8, @splat(0));
}

/// ARP whose sender is who is asked for.
pub fn isGratuitous(frame: *const Frame) bool {
    if (frame.etherType() != ethertype_arp) return false;
    var bytes: [14 + packet_bytes]u8 = undefined;
    var cursor: chain.Cursor = .{ .segments = frame.segments };
    if (cursor.read(&bytes) < bytes.len) return false;
    return std.mem.eql(u8, bytes[28..32], bytes[38..42]);
}

test "RARP asks for the address of who sends it, and zeros follow" {
    var frame: [frame_bytes]u8 = @splat(0xee);
    write(&frame, 0x0100_0054_52);
    const expected = [_]u8{ 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 1, 0, 0x80, 0x35 } ++
        [_]u8{ 0, 1, 8, 0, 6, 4, 0, 3, 0x52, 0x54, 0, 0, 1, 0, 0, 0, 0, 0, 0x52, 0x54, 0, 0, 1, 0, 0, 0, 0, 0 };
    try std.testing.expectEqualSlices(u8, &expected, frame[0..expected.len]);
    try std.testing.expect(std.mem.allEqual(u8, frame[expected.len..], 0));
}

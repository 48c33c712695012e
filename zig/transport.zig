//! The checksums of IPv4, TCP and UDP, computed by us.

const std = @import("std");
const checksum = @import("checksum.zig");
const Frame = @import("frame.zig").Frame;
const net_header = @import("net_header.zig");
const packet_file = @import("packet.zig");
const spec = @import("spec.zig");
const store = checksum.store;

/// Writes them into the frame's private front. What has no checksum keeps none: UDP over IPv4 need not have one
/// (RFC 768), fragments have it of the whole, and segments get theirs when they are cut.
pub fn fillChecksums(frame: *Frame, front: []u8) void {
    const network = packet_file.Network.of(front);
    const at = front.len - network.bytes.len;
    switch (network.type) {
        net_header.ethertype_ipv4 => fillIpv4(frame, front, at),
        net_header.ethertype_ipv6 => fillIpv6(frame, front, at),
        else => {},
    }
}

fn fillIpv4(frame: *Frame, front: []u8, at: usize) void {
    const packet = packet_file.Ipv4.of(front[at..]) orelse return;
    if (!packet.isFragment()) {
        const total = std.mem.readInt(u16, packet.bytes[2..4], .big);
        if (total >= packet.header.len) {
            fillTransport(frame, front, .{
                .at = at + packet.header.len,
                .len = total - packet.header.len,
                .protocol = packet.bytes[9],
                .addresses = packet.addresses,
            });
        }
    }
    const field = packet.header[10..12];
    field.* = .{ 0, 0 };
    var sum: checksum.Sum = .{};
    sum.add(packet.header);
    store(field, sum.finish());
}

fn fillIpv6(frame: *Frame, front: []u8, at: usize) void {
    const bytes = front[at..];
    if (bytes.len < packet_file.ipv6_bytes) return;
    fillTransport(frame, front, .{
        .at = at + packet_file.ipv6_bytes,
        .len = std.mem.readInt(u16, bytes[4..6], .big),
        .protocol = bytes[6],
        .addresses = bytes[8..packet_file.ipv6_bytes],
    });
}

/// Header and payload of TCP or UDP: where in the frame, and what else their checksum covers.
const Segment = struct { at: usize, len: usize, protocol: u8, addresses: []const u8 };

fn fillTransport(frame: *Frame, front: []u8, segment: Segment) void {
    const is_tcp = segment.protocol == packet_file.protocol_tcp;
    const header_bytes: usize = if (is_tcp) 20 else 8;
    if (!packet_file.isTcpOrUdp(segment.protocol) or segment.len < header_bytes) return;
    if (segment.at + segment.len > frame.len or segment.at + header_bytes > front.len) return;
    if (frame.header.gso_type != spec.NetHeader.gso_none) return;
    const offset: usize = if (is_tcp) 16 else 6;
    const field = front[segment.at + offset ..][0..2];
    const unfinished = frame.header.flags & spec.NetHeader.needs_csum != 0;
    // It may be that of a packet inside this one, in a tunnel.
    if (unfinished and (frame.header.csum_start != segment.at or frame.header.csum_offset != offset)) return;
    if (!is_tcp and !unfinished and field[0] == 0 and field[1] == 0) return;
    field.* = .{ 0, 0 };
    var sum: checksum.Sum = .{};
    sum.add(segment.addresses);
    sum.add(&.{ 0, segment.protocol, @truncate(segment.len >> 8), @truncate(segment.len) });
    addRange(&sum, frame, segment.at, segment.len);
    const value = sum.finish();
    // In UDP, 0 stands for none (RFC 768).
    store(field, if (value == 0 and !is_tcp) 0xffff else value);
    frame.header = net_header.plain;
}

fn addRange(sum: *checksum.Sum, frame: *const Frame, at: usize, len: usize) void {
    var skip = at;
    var left = len;
    for (frame.segments) |piece| {
        const first = @min(skip, piece.len);
        const count = @min(left, piece.len - first);
        sum.add(piece.base[first..][0..count]);
        skip -= first;
        left -= count;
    }
}

/// As RFC 1071 says it in words: the sum of 16-bit words, whose carries are added again.
fn plainSum(pieces: []const []const u8) u16 {
    var bytes: [400]u8 = @splat(0);
    var len: usize = 0;
    for (pieces) |piece| {
        @memcpy(bytes[len..][0..piece.len], piece);
        len += piece.len;
    }
    var total: u32 = 0;
    var at: usize = 0;
    while (at < len) : (at += 2) total += std.mem.readInt(u16, bytes[at..][0..2], .big);
    while (total >> 16 != 0) total = (total & 0xffff) + (total >> 16);
    return @intCast(total);
}

/// The frame after `fillChecksums`, its first `cut` bytes in the front.
fn filled(sent: []const u8, header: spec.NetHeader, cut: usize, into: []u8) spec.NetHeader {
    @memcpy(into[0..sent.len], sent);
    const rest: @import("chain.zig").Segment = .{ .base = into.ptr + cut, .len = @intCast(sent.len - cut) };
    const segments = [_]@import("chain.zig").Segment{ .{ .base = into.ptr, .len = @intCast(cut) }, rest };
    var frame: Frame = .{
        .segments = &segments,
        .len = @intCast(sent.len),
        .behind_header = false,
        .header = header,
        .ethernet = into[0..16].*,
    };
    fillChecksums(&frame, into[0..cut]);
    return frame.header;
}

const ethernet: [12]u8 = @splat(2);
const addresses = [_]u8{ 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7 };

fn ipv4Head(protocol: u8, len: u8, fragment: u8) [20]u8 {
    return [_]u8{ 0x45, 0, 0, len, 0, 0, 0x40 * (1 - fragment), fragment, 0x40, protocol, 0x55, 0x55 } ++ addresses;
}

test "an IPv4 header gets the checksum that is known for it" {
    const frame = ethernet ++ [_]u8{ 8, 0 } ++ ipv4Head(17, 0x73, 0);
    var into: [64]u8 = undefined;
    _ = filled(&frame, net_header.plain, frame.len, &into);
    try std.testing.expectEqualSlices(u8, &.{ 0xb8, 0x61 }, into[24..26]);
}

test "with header, addresses and content, TCP and UDP sum up, wherever the frame is cut" {
    const content: [31]u8 = @splat(0xf3);
    const padding: [7]u8 = @splat(0x99);
    inline for (.{ 6, 17 }) |protocol| {
        const bytes = if (protocol == 6) 20 else 8;
        const head: [bytes]u8 = @splat(0x21);
        const len = bytes + content.len;
        const v4_head = [_]u8{ 8, 0 } ++ ipv4Head(protocol, 20 + len, 0);
        const v4 = ethernet ++ v4_head ++ head ++ content ++ padding;
        const v6_head = [_]u8{ 0x86, 0xdd, 0x60, 0, 0, 0, 0, len, protocol, 64 };
        const v6_addresses = addresses ++ addresses ++ addresses ++ addresses;
        const v6 = ethernet ++ v6_head ++ v6_addresses ++ head ++ content ++ padding;
        for ([_][]const u8{ &v4, &v6 }, [_]usize{ 34, 54 }, [_]usize{ 26, 22 }) |sent, at, from| {
            for (at + bytes..sent.len + 1) |cut| {
                var into: [200]u8 = undefined;
                _ = filled(sent, net_header.plain, cut, &into);
                const pseudo = [_]u8{ 0, protocol, 0, len };
                const sum = plainSum(&.{ into[from..at], &pseudo, into[at..][0..len] });
                try std.testing.expectEqual(0xffff, sum);
                try std.testing.expectEqualSlices(u8, &padding, into[at + len .. sent.len]);
            }
        }
    }
}

test "what has no checksum of its own is left alone, and what its sender left to us is finished" {
    const head = [_]u8{ 0, 1, 0, 2, 0, 12, 0, 0, 1, 2, 3, 4 };
    var into: [64]u8 = undefined;
    const udp = ethernet ++ [_]u8{ 8, 0 } ++ ipv4Head(17, 32, 0) ++ head;
    _ = filled(&udp, net_header.plain, 46, &into);
    try std.testing.expectEqualSlices(u8, &head, into[34..46]);
    var unfinished = net_header.plain;
    unfinished.flags = spec.NetHeader.needs_csum;
    unfinished.csum_start = 34;
    unfinished.csum_offset = 6;
    try std.testing.expectEqual(net_header.plain, filled(&udp, unfinished, 46, &into));
    try std.testing.expectEqual(0xffff, plainSum(&.{ &addresses, &.{ 0, 17, 0, 12 }, into[34..46] }));
    unfinished.csum_start = 38;
    try std.testing.expectEqual(unfinished, filled(&udp, unfinished, 46, &into));
    try std.testing.expectEqualSlices(u8, &head, into[34..46]);
    const tcp: [20]u8 = @splat(1);
    const fragment = ethernet ++ [_]u8{ 8, 0 } ++ ipv4Head(6, 40, 1) ++ tcp;
    _ = filled(&fragment, net_header.plain, 54, &into);
    try std.testing.expectEqualSlices(u8, &tcp, into[34..54]);
    const beyond = ethernet ++ [_]u8{ 8, 0 } ++ ipv4Head(6, 41, 0) ++ tcp;
    _ = filled(&beyond, net_header.plain, 54, &into);
    try std.testing.expectEqualSlices(u8, &tcp, into[34..54]);
}

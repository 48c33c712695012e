//! Which queue of a receiver a frame goes to: all frames of one flow to the same one, so that no
//! flow is reordered.

const std = @import("std");
const chain = @import("chain.zig");
const Frame = @import("frame.zig").Frame;
const net_header = @import("net_header.zig");
const packet = @import("packet.zig");
const spec = @import("spec.zig");

/// Enough for Ethernet, two tags, IPv6 and ports.
const parsed_bytes = 14 + 8 + 40 + 4;

/// The same number for both directions of a flow: of addresses and ports where there are any, of
/// the MAC addresses otherwise. A fragment counts as having no ports, the first of them included, so
/// that a datagram stays together.
pub fn hash(frame: *const Frame) u32 {
    var bytes: [parsed_bytes]u8 = @splat(0);
    var cursor: chain.Cursor = .{ .segments = frame.segments };
    const len = cursor.read(&bytes);
    // The type that decided elsewhere decides here: never read from the guest twice.
    bytes[0..14].* = frame.ethernet[0..14].*;
    const network = packet.Network.of(bytes[0..len]);
    return switch (network.type) {
        net_header.ethertype_ipv4 => if (network.bytes.len < 20) ofMacs(frame) else ofIpv4(network.bytes),
        net_header.ethertype_ipv6 => if (network.bytes.len < 40) ofMacs(frame) else ofIpv6(network.bytes),
        else => ofMacs(frame),
    };
}

fn ofMacs(frame: *const Frame) u32 {
    return mix(frame.destination() ^ frame.source());
}

fn ofIpv4(bytes: []const u8) u32 {
    const addresses = std.mem.readInt(u32, bytes[12..16], .big) ^ std.mem.readInt(u32, bytes[16..20], .big);
    const fragment = std.mem.readInt(u16, bytes[6..8], .big) & 0x3fff != 0;
    const header_bytes = @as(usize, bytes[0] & 0xf) * 4;
    var ports: u32 = 0;
    if (!fragment and header_bytes >= 20) ports = portsAt(bytes, bytes[9], header_bytes);
    return mix(@as(u64, addresses) << 16 ^ ports);
}

fn ofIpv6(bytes: []const u8) u32 {
    var addresses: u64 = 0;
    for (0..4) |i| addresses ^= std.mem.readInt(u64, bytes[8 + 8 * i ..][0..8], .big);
    return mix(addresses ^ @as(u64, portsAt(bytes, bytes[6], 40)) << 16);
}

/// Both ports in one order-free number; 0 for other protocols, and past the parsed bytes.
fn portsAt(bytes: []const u8, protocol: u8, at: usize) u32 {
    if (!packet.isTcpOrUdp(protocol)) return 0;
    if (at + 4 > bytes.len) return 0;
    const source = std.mem.readInt(u16, bytes[at..][0..2], .big);
    const target = std.mem.readInt(u16, bytes[at + 2 ..][0..2], .big);
    return @as(u32, source ^ target) ^ (@as(u32, source) + target) << 8;
}

fn mix(value: u64) u32 {
    return @truncate((value *% 0x9e37_79b9_7f4a_7c15) >> 32);
}

fn udpFrame(source_port: u16, target_port: u16, swap: bool, fragment: bool, bytes: *[64]u8) Frame {
    bytes.* = @splat(0);
    bytes[12..14].* = .{ 0x08, 0x00 };
    bytes[14] = 0x45;
    if (fragment) bytes[20] = 0x20;
    bytes[23] = packet.protocol_udp;
    const source: usize = if (swap) 30 else 26;
    bytes[source + 3] = 1;
    bytes[(26 + 30) - source + 3] = 2;
    std.mem.writeInt(u16, bytes[34..36], if (swap) target_port else source_port, .big);
    std.mem.writeInt(u16, bytes[36..38], if (swap) source_port else target_port, .big);
    return .{
        .segments = &.{},
        .len = 64,
        .behind_header = false,
        .header = net_header.plain,
        .ethernet = bytes[0..16].*,
    };
}

test "both directions of a flow agree, ports tell flows apart, fragments have none" {
    var bytes: [64]u8 = undefined;
    const segment: [1]chain.Segment = .{.{ .base = &bytes, .len = 64 }};
    var first = udpFrame(1000, 2000, false, false, &bytes);
    first.segments = &segment;
    const there = hash(&first);
    var back = udpFrame(1000, 2000, true, false, &bytes);
    back.segments = &segment;
    try std.testing.expectEqual(there, hash(&back));
    var other = udpFrame(1001, 2000, false, false, &bytes);
    other.segments = &segment;
    try std.testing.expect(there != hash(&other));
    var fragment = udpFrame(1000, 2000, false, true, &bytes);
    fragment.segments = &segment;
    const alone = hash(&fragment);
    var next = udpFrame(7, 8, false, true, &bytes);
    next.segments = &segment;
    try std.testing.expectEqual(alone, hash(&next));
}

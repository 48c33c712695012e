//! Frames of our own: Ethernet, IPv4 and UDP, as testpmd's txonly and flowgen make them.

const std = @import("std");
const abi = @import("abi.zig");
const burst_file = @import("burst.zig");
const checksum = @import("checksum.zig");
const net_header = @import("net_header.zig");
const spec = @import("spec.zig");

const ip_bytes = 20;
const udp_bytes = 8;
const headers_bytes = spec.ethernet_header_bytes + ip_bytes + udp_bytes;
pub const frame_bytes_min = headers_bytes;
pub const frame_bytes_max = spec.ethernet_header_bytes + 65535;
pub const flows_max = 1024;

const Addresses = struct { source: u32, destination: u32, source_port: u16, destination_port: u16 };

/// All that is behind the headers.
var zeros: [frame_bytes_max]u8 = @splat(0);

/// A burst of `count` frames, all of it private; `first_flow` is that of the first one.
pub fn fill(burst: *burst_file.Burst, lane: *const abi.Lane, count: u32, first_flow: u32) void {
    burst.begin();
    burst.count = count;
    var flow = first_flow;
    for (burst.frames[0..count], burst.fronts[0..count], burst.halves[0..count]) |*frame, *front, *halves| {
        write(front[0..headers_bytes], lane, addressesOf(lane, flow));
        flow = following(lane, flow, 1);
        halves[0] = .{ .base = front, .len = headers_bytes };
        halves[1] = .{ .base = &zeros, .len = lane.frame_bytes - headers_bytes };
        frame.* = .{
            .segments = halves[0..if (halves[1].len == 0) 1 else 2],
            .len = lane.frame_bytes,
            .behind_header = false,
            .header = net_header.plain,
            .ethernet = front[0..16].*,
        };
    }
}

/// The flow so many frames after one.
pub fn following(lane: *const abi.Lane, flow: u32, frames: u32) u32 {
    return (flow + frames) % if (lane.mode == .flowgen) flows_max else lane.flows;
}

fn addressesOf(lane: *const abi.Lane, flow: u32) Addresses {
    if (lane.mode == .flowgen) return .{
        .source = 0x0afe_0000,
        .destination = 0x0afd_0000 + flow,
        .source_port = 1000,
        .destination_port = 1001,
    };
    return .{
        .source = lane.source +% flow,
        .destination = lane.destination,
        .source_port = lane.source_port,
        .destination_port = lane.destination_port,
    };
}

fn write(bytes: *[headers_bytes]u8, lane: *const abi.Lane, addresses: Addresses) void {
    const ip_total: u16 = @intCast(lane.frame_bytes - spec.ethernet_header_bytes);
    std.mem.writeInt(u48, bytes[0..6], @intCast(lane.peer_mac), .big);
    std.mem.writeInt(u48, bytes[6..12], @intCast(lane.own_mac), .big);
    std.mem.writeInt(u16, bytes[12..14], net_header.ethertype_ipv4, .big);
    const ip = bytes[14..34];
    ip.* = @splat(0);
    ip[0] = 0x45;
    std.mem.writeInt(u16, ip[2..4], ip_total, .big);
    ip[8] = 64;
    ip[9] = 17;
    std.mem.writeInt(u32, ip[12..16], addresses.source, .big);
    std.mem.writeInt(u32, ip[16..20], addresses.destination, .big);
    var sum: checksum.Sum = .{};
    sum.add(ip);
    std.mem.writeInt(u16, ip[10..12], sum.finish(), @import("builtin").cpu.arch.endian());
    const udp = bytes[34..42];
    std.mem.writeInt(u16, udp[0..2], addresses.source_port, .big);
    std.mem.writeInt(u16, udp[2..4], addresses.destination_port, .big);
    std.mem.writeInt(u16, udp[4..6], ip_total - ip_bytes, .big);
    // No checksum (RFC 768).
    udp[6..8].* = .{ 0, 0 };
}

test "a frame is what it says, and flows follow one another" {
    const burst: *burst_file.Burst = try .create();
    defer burst.destroy();
    var lane = std.mem.zeroes(abi.Lane);
    lane.mode = .txonly;
    lane.own_mac = 0x0200_0000_00aa;
    lane.peer_mac = 0x0200_0000_00bb;
    lane.frame_bytes = 64;
    lane.flows = 2;
    lane.source = 0xc612_0001;
    lane.destination = 0xc612_0002;
    lane.source_port = 9;
    lane.destination_port = 10;
    fill(burst, &lane, 3, 0);
    try std.testing.expectEqual(3, burst.count);
    const expected = [_]u8{ 2, 0, 0, 0, 0, 0xbb, 2, 0, 0, 0, 0, 0xaa, 8, 0 } ++
        [_]u8{ 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0xee, 0x93, 198, 18, 0, 1, 198, 18, 0, 2 } ++
        [_]u8{ 0, 9, 0, 10, 0, 30, 0, 0 };
    for ([_]usize{ 0, 2 }) |i| {
        const frame = &burst.frames[i];
        try std.testing.expectEqualSlices(u8, &expected, frame.segments[0].base[0..headers_bytes]);
        try std.testing.expectEqual(64 - headers_bytes, frame.segments[1].len);
    }
    try std.testing.expectEqual([_]u8{ 198, 18, 0, 2 }, burst.fronts[1][26..30].*);
    lane.mode = .flowgen;
    lane.frame_bytes = headers_bytes;
    fill(burst, &lane, 2, flows_max - 1);
    try std.testing.expectEqual(1, burst.frames[0].segments.len);
    try std.testing.expectEqual([_]u8{ 10, 253, 3, 255 }, burst.fronts[0][30..34].*);
    try std.testing.expectEqual([_]u8{ 10, 253, 0, 0 }, burst.fronts[1][30..34].*);
}

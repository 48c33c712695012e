//! What a forwarder does to frames on their way, as testpmd's modes do it. A frame is changed in a private copy of its
//! front: its sender's buffer stays as it was.

const std = @import("std");
const abi = @import("abi.zig");
const burst_file = @import("burst.zig");
const net_header = @import("net_header.zig");
const packet_file = @import("packet.zig");
const transport = @import("transport.zig");

const Burst = burst_file.Burst;
const Frame = burst_file.Frame;
const Ipv4 = packet_file.Ipv4;
const Mask = burst_file.Mask;
const Network = packet_file.Network;
const isTcpOrUdp = packet_file.isTcpOrUdp;
const ipv6_bytes = packet_file.ipv6_bytes;
const mac_bytes = packet_file.mac_bytes;
const protocol_icmp = packet_file.protocol_icmp;

const ethertype_arp = 0x0806;
const arp_bytes = 28;
/// Ethernet, IPv4, and the length of an address of each; a request.
const arp_request = [8]u8{ 0, 1, 8, 0, 6, 4, 0, 1 };

/// The frames that go on, each as the mode makes it.
pub fn apply(lane: *const abi.Lane, burst: *Burst) Mask {
    const all = burst_file.firstFrames(burst.count);
    return switch (lane.mode) {
        .learn, .io => all,
        .none, .rxonly, .txonly, .flowgen => 0,
        .mac => change(burst, all, lane, setMacs),
        .macswap => change(burst, all, lane, swapMacs),
        .swap5 => change(burst, all, lane, swapAll),
        .icmpecho => change(burst, all, lane, answer),
        .csum => change(burst, all, lane, checksum),
    };
}

const Change = fn (lane: *const abi.Lane, frame: *Frame, front: []u8) bool;

fn change(burst: *Burst, all: Mask, lane: *const abi.Lane, comptime how: Change) Mask {
    var gone: Mask = 0;
    for (burst.frames[0..burst.count], 0..) |*frame, i| {
        const front = burst.front(i);
        if (!how(lane, frame, front)) gone |= @as(Mask, 1) << @intCast(i);
        @memcpy(frame.ethernet[0 .. 2 * mac_bytes], front[0 .. 2 * mac_bytes]);
    }
    return all & ~gone;
}

fn setMacs(lane: *const abi.Lane, _: *Frame, front: []u8) bool {
    std.mem.writeInt(u48, front[0..mac_bytes], @intCast(lane.peer_mac), .big);
    std.mem.writeInt(u48, front[mac_bytes .. 2 * mac_bytes], @intCast(lane.own_mac), .big);
    return true;
}

fn swapMacs(_: *const abi.Lane, _: *Frame, front: []u8) bool {
    swap(mac_bytes, front);
    return true;
}

/// MAC addresses, and where there are any IP addresses and the ports of TCP and UDP. No checksum changes by that.
fn swapAll(_: *const abi.Lane, _: *Frame, front: []u8) bool {
    swap(mac_bytes, front);
    const network = Network.of(front);
    switch (network.type) {
        net_header.ethertype_ipv4 => if (Ipv4.of(network.bytes)) |packet| {
            swap(4, packet.addresses);
            if (packet.hasPorts()) swap(2, packet.payload);
        },
        net_header.ethertype_ipv6 => if (network.bytes.len >= ipv6_bytes) {
            const payload = network.bytes[ipv6_bytes..];
            swap(16, network.bytes[8..ipv6_bytes]);
            if (isTcpOrUdp(network.bytes[6]) and payload.len >= 4) swap(2, payload);
        },
        else => {},
    }
    return true;
}

/// Checksums anew, and from the port's address to its peer's.
fn checksum(lane: *const abi.Lane, frame: *Frame, front: []u8) bool {
    transport.fillChecksums(frame, front);
    return setMacs(lane, frame, front);
}

/// Turns an ARP request or an ICMP echo request into its reply; nothing else goes on.
fn answer(lane: *const abi.Lane, _: *Frame, front: []u8) bool {
    const network = Network.of(front);
    return switch (network.type) {
        ethertype_arp => answerArp(lane, front, network.bytes),
        net_header.ethertype_ipv4 => answerEcho(front, network.bytes),
        else => false,
    };
}

/// As RFC 826 has it, for IPv4 over Ethernet; whoever's address was asked for, it is ours.
fn answerArp(lane: *const abi.Lane, front: []u8, packet: []u8) bool {
    if (packet.len < arp_bytes or !std.mem.eql(u8, packet[0..8], &arp_request)) return false;
    packet[7] = 2;
    swap(mac_bytes + 4, packet[8..arp_bytes]);
    const own = packet[8..][0..mac_bytes];
    std.mem.writeInt(u48, own, @intCast(lane.own_mac), .big);
    front[0..mac_bytes].* = front[mac_bytes .. 2 * mac_bytes].*;
    front[mac_bytes .. 2 * mac_bytes].* = own.*;
    return true;
}

/// RFC 792. The type goes from 8 to 0, and the checksum with it (RFC 1624, 3).
fn answerEcho(front: []u8, bytes: []u8) bool {
    const packet = Ipv4.of(bytes) orelse return false;
    if (packet.isFragment() or bytes[9] != protocol_icmp or packet.payload.len < 8) return false;
    if (packet.payload[0] != 8 or packet.payload[1] != 0) return false;
    packet.payload[0] = 0;
    const sum = packet.payload[2..4];
    const grown = @as(u32, std.mem.readInt(u16, sum, .big)) + 0x0800;
    std.mem.writeInt(u16, sum, @truncate(grown + (grown >> 16)), .big);
    swap(mac_bytes, front);
    swap(4, packet.addresses);
    return true;
}

/// The two numbers of `bytes` each with which it begins.
fn swap(comptime bytes: usize, both: []u8) void {
    const first = both[0..bytes].*;
    both[0..bytes].* = both[bytes .. 2 * bytes].*;
    both[bytes .. 2 * bytes].* = first;
}

/// A burst of one frame whose bytes lie in two pieces, for tests.
const Bench = struct {
    burst: *Burst,
    sent: []u8,
    lane: abi.Lane,

    fn create(mode: abi.ForwardMode, sent: []u8, cut: u32) !Bench {
        const burst: *Burst = try .create();
        const segments = burst.source.items[1..3];
        segments[0] = .{ .base = sent.ptr, .len = cut };
        segments[1] = .{ .base = sent.ptr + cut, .len = @intCast(sent.len - cut) };
        burst.count = 1;
        burst.frames[0] = .{
            .segments = if (cut == sent.len) segments[0..1] else segments,
            .len = @intCast(sent.len),
            .behind_header = true,
            .header = net_header.plain,
            .ethernet = sent[0..16].*,
        };
        var lane = std.mem.zeroes(abi.Lane);
        lane.mode = mode;
        lane.own_mac = 0x0200_0000_00aa;
        lane.peer_mac = 0x0200_0000_00bb;
        return .{
            .burst = burst,
            .sent = sent,
            .lane = lane,
        };
    }

    /// What goes on, if anything does.
    fn run(bench: Bench, into: *[300]u8) ?[]u8 {
        if (apply(&bench.lane, bench.burst) == 0) return null;
        const frame = &bench.burst.frames[0];
        std.testing.expectEqualSlices(u8, frame.ethernet[0..12], bench.burst.fronts[0][0..12]) catch unreachable;
        var cursor: @import("chain.zig").Cursor = .{ .segments = frame.segments };
        return into[0..cursor.read(into)];
    }
};

fn expectAction(mode: abi.ForwardMode, sent: []const u8, expected: ?[]const u8) !void {
    for ([_]usize{ 1, 14, 40, 127, 128, 129, sent.len }) |cut| {
        if (cut > sent.len) continue;
        var bytes: [300]u8 = undefined;
        @memcpy(bytes[0..sent.len], sent);
        const bench: Bench = try .create(mode, bytes[0..sent.len], @intCast(cut));
        defer bench.burst.destroy();
        var into: [300]u8 = undefined;
        const arrived = bench.run(&into);
        try std.testing.expectEqualSlices(u8, sent, bytes[0..sent.len]);
        if (expected == null) try std.testing.expectEqual(null, arrived);
        if (expected) |wanted| try std.testing.expectEqualSlices(u8, wanted, arrived.?);
    }
}

const macs = [_]u8{ 0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2 };
const swapped_macs = macs[6..12].* ++ macs[0..6].*;
const content: [200]u8 = @splat(0x77);

test "MAC addresses are exchanged, or set, and all else stays" {
    const rest = [_]u8{ 0x88, 0xb5 } ++ content;
    try expectAction(.macswap, &(macs ++ rest), &(swapped_macs ++ rest));
    const set = [_]u8{ 2, 0, 0, 0, 0, 0xbb, 2, 0, 0, 0, 0, 0xaa };
    try expectAction(.mac, &(macs ++ rest), &(set ++ rest));
    try expectAction(.swap5, &(macs ++ rest), &(swapped_macs ++ rest));
    try expectAction(.rxonly, &(macs ++ rest), null);
}

fn ipv4(protocol: u8, fragment: u8, turned: bool) [22]u8 {
    const here = [_]u8{ 10, 0, 0, 1 };
    const there = [_]u8{ 10, 0, 0, 2 };
    const head = [_]u8{ 8, 0, 0x45, 0, 0, 200, 0, 1, 0, fragment, 64, protocol, 0x12, 0x34 };
    return head ++ (if (turned) there else here) ++ (if (turned) here else there);
}

test "addresses and ports are exchanged where there are any" {
    const ports = [_]u8{ 0, 1, 0, 2 };
    const turned = [_]u8{ 0, 2, 0, 1 };
    const tag = [_]u8{ 0x81, 0, 0, 7 };
    for ([_]u8{ packet_file.protocol_tcp, packet_file.protocol_udp }) |protocol| {
        const sent = ipv4(protocol, 0, false) ++ ports ++ content;
        const arrived = ipv4(protocol, 0, true) ++ turned ++ content;
        try expectAction(.swap5, &(macs ++ sent), &(swapped_macs ++ arrived));
        try expectAction(.swap5, &(macs ++ tag ++ tag ++ sent), &(swapped_macs ++ tag ++ tag ++ arrived));
    }
    const later = ipv4(packet_file.protocol_udp, 3, false) ++ ports ++ content;
    const turned_later = ipv4(packet_file.protocol_udp, 3, true) ++ ports ++ content;
    try expectAction(.swap5, &(macs ++ later), &(swapped_macs ++ turned_later));
    const short = ipv4(packet_file.protocol_udp, 0, false);
    try expectAction(.swap5, &(macs ++ short), &(swapped_macs ++ ipv4(packet_file.protocol_udp, 0, true)));
    const head = [_]u8{ 0x86, 0xdd, 0x60, 0, 0, 0, 0, 200, packet_file.protocol_udp, 64 };
    const here: [16]u8 = @splat(1);
    const there: [16]u8 = @splat(2);
    const sent = macs ++ head ++ here ++ there ++ ports ++ content;
    try expectAction(.swap5, &sent, &(swapped_macs ++ head ++ there ++ here ++ turned ++ content));
}

test "checksums are computed anew, over a packet in whatever pieces" {
    const set = [_]u8{ 2, 0, 0, 0, 0, 0xbb, 2, 0, 0, 0, 0, 0xaa };
    const zeros: [180]u8 = @splat(0);
    const wrong = [_]u8{ 0, 1, 0, 2, 0, 180, 0x77, 0x77 };
    const sent = ipv4(packet_file.protocol_udp, 0, false) ++ wrong ++ zeros[0..172].*;
    var expected = sent;
    expected[12..14].* = .{ 0x66, 0x22 };
    expected[28..30].* = .{ 0xea, 0x80 };
    try expectAction(.csum, &(macs ++ sent), &(set ++ expected));
}

test "an echo request becomes its reply, with a checksum that holds" {
    const echo = [_]u8{ 8, 0, 0xf0, 0xff, 0, 1, 0, 1, 0, 0 };
    const reply = [_]u8{ 0, 0, 0xf8, 0xff, 0, 1, 0, 1, 0, 0 };
    const sent = macs ++ ipv4(protocol_icmp, 0, false) ++ echo;
    try expectAction(.icmpecho, &sent, &(swapped_macs ++ ipv4(protocol_icmp, 0, true) ++ reply));
    const carried = [_]u8{ 8, 0, 0xff, 0xff, 0, 0, 0, 0 };
    const carry = [_]u8{ 0, 0, 0x08, 0x00, 0, 0, 0, 0 };
    const round = macs ++ ipv4(protocol_icmp, 0, false) ++ carried;
    try expectAction(.icmpecho, &round, &(swapped_macs ++ ipv4(protocol_icmp, 0, true) ++ carry));
    try expectAction(.icmpecho, &(macs ++ ipv4(protocol_icmp, 0, false) ++ reply), null);
    try expectAction(.icmpecho, &(macs ++ ipv4(protocol_icmp, 1, false) ++ echo), null);
    try expectAction(.icmpecho, &(macs ++ ipv4(packet_file.protocol_udp, 0, false) ++ echo), null);
    try expectAction(.icmpecho, &(macs ++ [_]u8{ 0x86, 0xdd } ++ content), null);
}

test "who asks for an address is told ours" {
    const here = [_]u8{ 0x52, 0x54, 0, 0, 0, 2, 10, 0, 0, 1 };
    const asked = [_]u8{ 0, 0, 0, 0, 0, 0, 10, 0, 0, 9 };
    const own = [_]u8{ 2, 0, 0, 0, 0, 0xaa };
    const sent = macs ++ [_]u8{ 8, 6 } ++ arp_request ++ here ++ asked;
    const reply = [_]u8{ 8, 6, 0, 1, 8, 0, 6, 4, 0, 2 } ++ own ++ asked[6..10].* ++ here;
    try expectAction(.icmpecho, &sent, &(macs[6..12].* ++ own ++ reply));
    try expectAction(.icmpecho, &(macs ++ reply), null);
}

//! Frames of fuzzers with their headers, as one side sends them and the other has to get them.

const std = @import("std");
const chain = @import("chain.zig");
const Frame = @import("frame.zig").Frame;
const net_header = @import("net_header.zig");
const Random = @import("fuzz_run.zig").Random;
const segment = @import("segment.zig");
const spec = @import("spec.zig");

const NetHeader = spec.NetHeader;

pub const Packet = struct {
    header: NetHeader,
    /// From the destination address on.
    bytes: []const u8,

    pub fn destination(packet: Packet) [6]u8 {
        return packet.bytes[0..6].*;
    }

    pub fn source(packet: Packet) [6]u8 {
        return packet.bytes[6..12].*;
    }

    pub fn etherType(packet: Packet) u16 {
        return std.mem.readInt(u16, packet.bytes[12..14], .big);
    }

    /// What a receiver with these features has to get of it: the packet itself, or pieces, which are allocated; null:
    /// nothing, its header is not that of such a packet. What pieces look like is for tests of their own.
    pub fn partsFor(packet: Packet, features: u64, arena: std.mem.Allocator) ?[]const Packet {
        if (net_header.isPlain(packet.header) or net_header.accepts(features, packet.header, packet.etherType())) {
            return arena.dupe(Packet, &.{packet}) catch unreachable;
        }
        var frame: Frame = .{
            .segments = &.{.{ .base = @constCast(packet.bytes.ptr), .len = @intCast(packet.bytes.len) }},
            .len = @intCast(packet.bytes.len),
            .behind_header = false,
            .header = packet.header,
            .ethernet = @splat(0),
        };
        const seen = @min(packet.bytes.len, frame.ethernet.len);
        @memcpy(frame.ethernet[0..seen], packet.bytes[0..seen]);
        const cut = arena.create(segment.Cut) catch unreachable;
        cut.init(&frame, spec.has(features, spec.Feature.guest_csum)) catch return null;
        const pieces = arena.create(segment.Pieces) catch unreachable;
        const room = arena.alloc(chain.Segment, segment.Pieces.segments_max) catch unreachable;
        pieces.segments = .{ .items = room };
        const parts = arena.alloc(Packet, cut.pieceCount()) catch unreachable;
        var done: usize = 0;
        while (done < parts.len) {
            cut.next(pieces);
            for (pieces.frames[0..pieces.count]) |piece| {
                const bytes = arena.alloc(u8, piece.len) catch unreachable;
                var cursor: chain.Cursor = .{ .segments = piece.segments };
                std.debug.assert(cursor.read(bytes) == bytes.len);
                parts[done] = .{ .header = piece.header, .bytes = bytes };
                done += 1;
            }
        }
        return parts;
    }
};

/// The address of a station, one of the few that fuzzers use.
pub fn mac(number: u8) [6]u8 {
    return .{ 0x52, 0x54, 0, 0, 0, number };
}

pub const broadcast: [6]u8 = @splat(0xff);

/// As the switch sees an address.
pub fn macNumber(address: [6]u8) u64 {
    return std.mem.readInt(u48, &address, .little);
}

/// A header for a frame of `len` bytes: often plain, else with an offload, right or nearly so.
pub fn header(random: *Random, len: u32) NetHeader {
    var made = net_header.plain;
    made.num_buffers = @truncate(random.next());
    if (!random.once(3)) return made;
    if (random.once(8)) {
        random.fill(std.mem.asBytes(&made));
        return made;
    }
    if (!random.once(4)) {
        made.flags = NetHeader.needs_csum;
        made.csum_start = @truncate(random.below(@max(len, 1)));
        made.csum_offset = @truncate(random.below(32));
        if (random.once(16)) made.csum_start = @truncate(random.next());
        if (random.once(16)) made.csum_offset = @truncate(random.next());
        // The last place that fits, and the first that does not.
        if (random.once(4)) made.csum_start = @truncate(len -% made.csum_offset -% random.between(1, 3));
    }
    if (random.once(2)) {
        const kinds = [_]u8{ 1, 3, 4, 5, 2, 0x81, 0x84, 0x80, 0xff };
        made.gso_type = random.pick(u8, &kinds);
        made.gso_size = if (random.once(8)) 0 else @truncate(random.next());
        made.hdr_len = @truncate(random.next());
    }
    return made;
}

/// Packets that there really are: so many kinds, whose every packet has the same addresses and ports.
pub const real_kinds = 5;
pub const real_bytes_min = 14 + 40 + 20 + 1;
pub const real_bytes_max = net_header.frame_bytes_max;

/// Makes one behind the addresses of a frame, if its length is right, to be cut into few pieces; returns its header.
pub fn makeReal(random: *Random, kind: u32, bytes: []u8) NetHeader {
    if (bytes.len < real_bytes_min or bytes.len > real_bytes_max) return net_header.plain;
    const is_ipv6 = kind % 2 == 1;
    const is_tcp = kind < 2;
    const at: u16 = 14 + if (is_ipv6) @as(u16, 40) else 20;
    @memset(bytes[14 .. at + @as(u16, if (is_tcp) 20 else 8)], @intCast(kind));
    bytes[12..14].* = if (is_ipv6) .{ 0x86, 0xdd } else .{ 0x08, 0x00 };
    bytes[14] = if (is_ipv6) 0x60 else 0x45;
    bytes[@as(usize, if (is_ipv6) 20 else 23)] = if (is_tcp) 6 else 17;
    bytes[20..22].* = .{ if (is_ipv6) bytes[20] else 0, if (is_ipv6) bytes[21] else 0 };
    bytes[at + 12] = if (is_tcp) 0x50 else bytes[at + 12];
    if (!is_tcp) std.mem.writeInt(u16, bytes[at + 4 ..][0..2], @truncate(bytes.len - at), .big);
    const kinds = [real_kinds]u8{
        NetHeader.gso_tcpv4,  NetHeader.gso_tcpv6, NetHeader.gso_udp_l4,
        NetHeader.gso_udp_l4, NetHeader.gso_udp,
    };
    var made = net_header.plain;
    made.flags = NetHeader.needs_csum;
    made.csum_start = at;
    made.csum_offset = if (is_tcp) 16 else 6;
    made.gso_type = kinds[kind];
    made.gso_size = @truncate(random.between(@intCast(bytes.len / 4 + 8), @intCast(@min(bytes.len, 65535))));
    return made;
}

/// Frame lengths, those beside a limit more often.
pub fn length(random: *Random) u32 {
    const edges = [_]u32{ 14, 15, 16, 17, 60, 1514, 1518, 1519 };
    return switch (random.below(16)) {
        0...5 => random.pick(u32, &edges),
        6 => random.between(14, 9000),
        7 => if (random.once(16)) random.between(65_000, net_header.frame_bytes_max) else 64,
        else => random.between(14, 300),
    };
}

/// What every header that leaves the switch has to be, whoever sent it.
pub fn isSane(made: NetHeader, len: u32, receiver: u64, num_buffers: ?u16) bool {
    if (num_buffers) |count| if (made.num_buffers != count) return false;
    if (made.flags & ~NetHeader.needs_csum != 0) return false;
    if (made.flags == 0) {
        if (made.csum_start != 0 or made.csum_offset != 0) return false;
    } else {
        if (!spec.has(receiver, spec.Feature.guest_csum)) return false;
        if (@as(u32, made.csum_start) + made.csum_offset + 2 > len) return false;
    }
    if (made.gso_type == NetHeader.gso_none) return made.gso_size == 0 and made.hdr_len == 0;
    return made.gso_size != 0 and made.hdr_len <= len;
}

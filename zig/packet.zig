//! Where the headers of a packet lie in its first bytes: Ethernet with up to two tags, then IP. What is too
//! short, or is not what it says, is not there.

const std = @import("std");

pub const mac_bytes = 6;
pub const ipv6_bytes = 40;

pub const protocol_icmp = 1;
pub const protocol_tcp = 6;
pub const protocol_udp = 17;

/// Extension headers of IPv6 (RFC 8200, 4).
const extension_hop_by_hop = 0;
const extension_routing = 43;
pub const extension_fragment = 44;
pub const extension_destination = 60;

const ethertype_vlan = 0x8100;
const ethertype_qinq = 0x88a8;

pub fn isTcpOrUdp(protocol: u8) bool {
    return protocol == protocol_tcp or protocol == protocol_udp;
}

/// In network byte order, as all numbers of packets.
pub fn read16(bytes: []const u8) u16 {
    return std.mem.readInt(u16, bytes[0..2], .big);
}

pub fn write16(bytes: []u8, value: u16) void {
    std.mem.writeInt(u16, bytes[0..2], value, .big);
}

/// Those that have a length and another header behind them, but the fragment header.
pub fn isExtension(protocol: u8) bool {
    return protocol == extension_hop_by_hop or protocol == extension_routing or protocol == extension_destination;
}

/// What is behind the Ethernet header and up to two tags.
pub const Network = struct {
    type: u16,
    bytes: []u8,

    pub fn of(front: []u8) Network {
        var at: usize = 2 * mac_bytes;
        for (0..3) |_| {
            if (front.len < at + 2) break;
            const kind = std.mem.readInt(u16, front[at..][0..2], .big);
            if (kind != ethertype_vlan and kind != ethertype_qinq) return .{ .type = kind, .bytes = front[at + 2 ..] };
            at += 4;
        }
        return .{ .type = 0, .bytes = front[front.len..] };
    }
};

pub const Ipv4 = struct {
    /// Header and what follows it, as far as it is there.
    bytes: []u8,
    header: []u8,
    /// Source, then destination.
    addresses: []u8,
    payload: []u8,

    pub fn of(bytes: []u8) ?Ipv4 {
        if (bytes.len < 20) return null;
        const header_bytes = @as(usize, bytes[0] & 0xf) * 4;
        if (bytes[0] >> 4 != 4 or header_bytes < 20 or header_bytes > bytes.len) return null;
        return .{
            .bytes = bytes,
            .header = bytes[0..header_bytes],
            .addresses = bytes[12..20],
            .payload = bytes[header_bytes..],
        };
    }

    /// One of several, the first included.
    pub fn isFragment(packet: Ipv4) bool {
        return std.mem.readInt(u16, packet.bytes[6..8], .big) & 0x3fff != 0;
    }

    pub fn hasPorts(packet: Ipv4) bool {
        const offset = std.mem.readInt(u16, packet.bytes[6..8], .big) & 0x1fff;
        return offset == 0 and isTcpOrUdp(packet.bytes[9]) and packet.payload.len >= 4;
    }
};

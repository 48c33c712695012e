//! The virtio-net header as a guest wrote it: what may pass, and to whom.

const std = @import("std");
const abi = @import("abi.zig");
const spec = @import("spec.zig");

const Feature = spec.Feature;
const NetHeader = spec.NetHeader;

/// Longest frame: the largest buffer that a driver must offer, less the header (virtio 5.1.6.3.1).
pub const frame_bytes_max = abi.packet_bytes_max;

/// Pieces that a frame may have to be cut into: TCP segments of 48 bytes, Linux's least, are fewer. A cut costs as much
/// as so many frames, here as in a kernel behind an uplink.
const pieces_max = 2048;

pub const Error = error{
    /// Asks for what its sender did not negotiate.
    BadHeader,
    /// The checksum is not within the packet, or in its Ethernet header.
    BadCsum,
    /// Segments of no size or next to none, or of no kind that there is, or headers longer than the packet.
    BadGso,
};

/// No checksum to finish, no segments to make: nothing in it needs a look.
pub inline fn isPlain(header: NetHeader) bool {
    return header.flags & NetHeader.needs_csum == 0 and header.gso_type == NetHeader.gso_none;
}

/// The same of its first eight bytes.
pub inline fn isPlainWord(low: u64) bool {
    const gso = @as(u64, 0xff) << 8 * @offsetOf(NetHeader, "gso_type");
    return low & (gso | NetHeader.needs_csum << 8 * @offsetOf(NetHeader, "flags")) == 0;
}

/// Checks a header against the frame behind it (`len` bytes), and returns what a receiver may see
/// of it: only fields that mean something, `num_buffers` 1.
pub fn checked(header: NetHeader, len: u32, sender: u64) Error!NetHeader {
    var clean: NetHeader = plain;
    if (header.flags & NetHeader.needs_csum != 0) {
        if (!spec.has(sender, Feature.csum)) return error.BadHeader;
        const field = @as(u32, header.csum_start) + header.csum_offset;
        if (field + 2 > len or header.csum_start < spec.ethernet_header_bytes) return error.BadCsum;
        clean.flags = NetHeader.needs_csum;
        clean.csum_start = header.csum_start;
        clean.csum_offset = header.csum_offset;
    }
    if (header.gso_type == NetHeader.gso_none) return clean;
    if (@as(u32, header.gso_size) * pieces_max < len or header.hdr_len > len) return error.BadGso;
    if (header.gso_type & NetHeader.gso_ecn != 0 and !spec.has(sender, Feature.host_ecn)) return error.BadHeader;
    const allowed = switch (header.gso_type & ~NetHeader.gso_ecn) {
        NetHeader.gso_tcpv4 => spec.has(sender, Feature.host_tso4),
        NetHeader.gso_tcpv6 => spec.has(sender, Feature.host_tso6),
        NetHeader.gso_udp => spec.has(sender, Feature.host_ufo),
        NetHeader.gso_udp_l4 => spec.has(sender, Feature.host_uso),
        else => return error.BadGso,
    };
    if (!allowed) return error.BadHeader;
    clean.gso_type = header.gso_type;
    clean.gso_size = header.gso_size;
    // A hint of the sender's, on which no receiver should rely (5.1.6.2.2).
    clean.hdr_len = header.hdr_len;
    return clean;
}

pub const plain: NetHeader = .{
    .flags = 0,
    .gso_type = NetHeader.gso_none,
    .hdr_len = 0,
    .gso_size = 0,
    .csum_start = 0,
    .csum_offset = 0,
    .num_buffers = 1,
};

/// Whether a receiver negotiated all that a checked header asks of it (5.1.6.4.1).
pub fn accepts(receiver: u64, header: NetHeader, ethertype: u16) bool {
    if (header.flags & NetHeader.needs_csum != 0 and !spec.has(receiver, Feature.guest_csum)) return false;
    if (header.gso_type & NetHeader.gso_ecn != 0 and !spec.has(receiver, Feature.guest_ecn)) return false;
    return switch (header.gso_type & ~NetHeader.gso_ecn) {
        NetHeader.gso_none => true,
        NetHeader.gso_tcpv4 => spec.has(receiver, Feature.guest_tso4),
        NetHeader.gso_tcpv6 => spec.has(receiver, Feature.guest_tso6),
        NetHeader.gso_udp => spec.has(receiver, Feature.guest_ufo),
        // One type for both families: behind a VLAN tag the family is not looked for.
        else => switch (ethertype) {
            ethertype_ipv4 => spec.has(receiver, Feature.guest_uso4),
            ethertype_ipv6 => spec.has(receiver, Feature.guest_uso6),
            else => spec.has(receiver, Feature.guest_uso4) and spec.has(receiver, Feature.guest_uso6),
        },
    };
}

pub const ethertype_ipv4 = 0x0800;
pub const ethertype_ipv6 = 0x86dd;

test "a checksum field outside the frame, and a sender without the offload, are refused" {
    const csum = @as(u64, 1) << Feature.csum;
    var header = plain;
    header.flags = NetHeader.needs_csum;
    header.csum_start = 34;
    header.csum_offset = 16;
    try std.testing.expectError(error.BadHeader, checked(header, 60, 0));
    try std.testing.expectError(error.BadCsum, checked(header, 51, csum));
    try std.testing.expectEqual(header, try checked(header, 52, csum));
    header.csum_start = 0xffff;
    header.csum_offset = 0xffff;
    try std.testing.expectError(error.BadCsum, checked(header, frame_bytes_max, csum));
    header.csum_start = 13;
    header.csum_offset = 0;
    try std.testing.expectError(error.BadCsum, checked(header, 60, csum));
}

test "segmentation needs a size, a known type and the sender's feature" {
    const tso = @as(u64, 1) << Feature.host_tso4;
    var header = plain;
    header.gso_type = NetHeader.gso_tcpv4;
    try std.testing.expectError(error.BadGso, checked(header, 9000, tso));
    header.gso_size = 1448;
    try std.testing.expectEqual(header, try checked(header, 9000, tso));
    try std.testing.expectError(error.BadHeader, checked(header, 9000, 0));
    header.gso_type |= NetHeader.gso_ecn;
    try std.testing.expectError(error.BadHeader, checked(header, 9000, tso));
    header.gso_type = 2;
    try std.testing.expectError(error.BadGso, checked(header, 9000, ~@as(u64, 0)));
}

test "headers cannot be longer than the frame" {
    var header = plain;
    header.gso_type = NetHeader.gso_tcpv4;
    header.gso_size = 1448;
    header.hdr_len = 0xffff;
    const tso = @as(u64, 1) << Feature.host_tso4;
    try std.testing.expectError(error.BadGso, checked(header, 0xfffe, tso));
    try std.testing.expectEqual(0xffff, (try checked(header, 0xffff, tso)).hdr_len);
}

test "a receiver takes what it negotiated" {
    var header = plain;
    try std.testing.expect(accepts(0, header, ethertype_ipv4));
    header.gso_type = NetHeader.gso_udp_l4;
    const uso4 = @as(u64, 1) << Feature.guest_uso4;
    try std.testing.expect(accepts(uso4, header, ethertype_ipv4));
    try std.testing.expect(!accepts(uso4, header, ethertype_ipv6));
    try std.testing.expect(!accepts(uso4, header, 0x8100));
}

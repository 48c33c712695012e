//! Frames of fuzzers with their headers, as one side sends them and the other has to get them.

const std = @import("std");
const net_header = @import("net_header.zig");
const Random = @import("fuzz_run.zig").Random;
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

    /// Whether a receiver with these features has to get it.
    pub fn suits(packet: Packet, features: u64) bool {
        return net_header.accepts(features, packet.header, packet.etherType());
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

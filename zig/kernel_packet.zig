//! Random packets as a guest hands them over, valid in all that a header asks for: what Linux cuts, we have to cut the
//! same way. All of a packet follows from the random numbers.
//!
//! Left out is what Linux itself gets wrong: UDP fragments (UFO) behind IPv6 extension headers, which it counts as part
//! of the datagram when it numbers the fragments; and TCP whose payload fits into one segment, but not with its
//! options, which it takes for several segments and then drops.

const std = @import("std");
const abi = @import("abi.zig");
const chain = @import("chain.zig");
const frame_file = @import("frame.zig");
const net_header = @import("net_header.zig");
const packet_file = @import("packet.zig");
const Random = @import("fuzz_run.zig").Random;
const spec = @import("spec.zig");

const NetHeader = spec.NetHeader;
const read16 = std.mem.readInt;

pub const Kind = enum { tcp4, tcp6, uso4, uso6, ufo4, ufo6, plain };

pub const bytes_max = abi.packet_bytes_max;
const parts_max = 512;
const gap_bytes_max = 16;
const udp_bytes = 8;
const ip_bytes_max = 65535;
/// Frames that stay whole have to fit an interface's MTU, which for a tap is no more than this.
pub const whole_bytes_max = 65521;
/// Of one datagram (UDP_MAX_SEGMENTS).
const uso_pieces_max = 128;
/// As net_header.zig has it.
const pieces_max = 2048;
/// Linux takes 65535 for something else (GSO_BY_FRAGS).
const size_max = 65534;
const size_min = 8;
const data_valid = 2;
const option_padding = 1;
const option_jumbo = 0xc2;
/// Linux counts it in 16 bits from what it keeps free in front of the frame, and refuses what is beyond.
const csum_start_max = 0xf000;

pub const Packet = struct {
    kind: Kind,
    is_ipv6: bool,
    is_tcp: bool,
    header: NetHeader,
    bytes: [bytes_max]u8,
    len: u32,
    network_at: u32,
    transport_at: u32,
    payload_at: u32,
    /// The same bytes as the guest's memory has them.
    scattered: [bytes_max + parts_max * gap_bytes_max]u8,
    parts: [parts_max]chain.Segment,
    parts_count: u32,

    /// With the number in its destination address, by which its pieces are known from what else is on the way.
    pub fn make(packet: *Packet, random: *Random, number: u64) void {
        packet.kind = random.pick(Kind, std.enums.values(Kind));
        packet.is_ipv6 = switch (packet.kind) {
            .tcp4, .uso4, .ufo4 => false,
            .tcp6, .uso6, .ufo6 => true,
            .plain => random.once(2),
        };
        packet.is_tcp = switch (packet.kind) {
            .tcp4, .tcp6 => true,
            .uso4, .uso6, .ufo4, .ufo6 => false,
            .plain => random.once(2),
        };
        packet.len = 0;
        packet.addEthernet(random, number);
        packet.network_at = packet.len;
        if (packet.is_ipv6) packet.addIpv6(random) else packet.addIpv4(random);
        packet.transport_at = packet.len;
        if (packet.is_tcp) packet.addTcp(random) else random.fill(packet.add(udp_bytes));
        packet.payload_at = packet.len;
        packet.header = net_header.plain;
        packet.chooseSize(random);
        packet.addPayload(random);
        packet.writeLengths();
        packet.writeChecksum(random);
        packet.writeHeader(random);
    }

    fn add(packet: *Packet, bytes: u32) []u8 {
        packet.len += bytes;
        return packet.bytes[packet.len - bytes .. packet.len];
    }

    fn addEthernet(packet: *Packet, random: *Random, number: u64) void {
        packet.add(6)[0..6].* = destinationOf(number);
        // A few senders, since a bridge remembers each.
        packet.add(6)[0..6].* = .{ 2, 0xee, 0, 0, 0, @intCast(random.below(8)) };
        const tags: u32 = if (random.once(2)) 0 else random.between(1, 2);
        for (0..tags) |_| {
            write16(packet.add(2), random.pick(u16, &.{ 0x8100, 0x88a8 }));
            random.fill(packet.add(2));
        }
        write16(packet.add(2), if (packet.is_ipv6) net_header.ethertype_ipv6 else net_header.ethertype_ipv4);
    }

    fn addIpv4(packet: *Packet, random: *Random) void {
        const words: u32 = if (random.once(2)) 5 else random.between(5, 15);
        const header = packet.add(words * 4);
        random.fill(header);
        header[0] = 0x40 | @as(u8, @intCast(words));
        // Identifications that overflow come rarely by themselves.
        if (random.once(4)) write16(header[4..], @intCast(0xffff - random.below(50)));
        // Don't fragment, or not; and now and then the flag that nobody uses.
        header[6] = random.pick(u8, &.{ 0, 0x40, 0x40, 0xc0 });
        header[7] = 0;
        header[9] = packet.protocol();
    }

    fn addIpv6(packet: *Packet, random: *Random) void {
        const header = packet.add(packet_file.ipv6_bytes);
        random.fill(header);
        header[0] = 0x60 | (header[0] & 0xf);
        var next = &header[6];
        const few: u32 = if (packet.kind == .ufo6 or random.once(2)) 0 else 4;
        // What all headers may have: one of TCP of 60 bytes has to follow.
        var room: u32 = 256 - 60 - packet.len;
        for (0..random.between(0, few)) |i| {
            const bytes = random.between(1, 6) * 8;
            if (bytes > room) break;
            room -= bytes;
            // Hop-by-hop options only come first (RFC 8200, 4.1).
            next.* = random.pick(u8, if (i == 0) &.{ 0, 43, 60 } else &.{ 43, 60 });
            const extension = packet.add(bytes);
            random.fill(extension);
            extension[1] = @intCast(bytes / 8 - 1);
            // Only a jumbogram has this option (RFC 2675), and such a header Linux takes out.
            if (extension[2] == option_jumbo) extension[2] = option_padding;
            next = &extension[0];
        }
        next.* = packet.protocol();
    }

    fn addTcp(packet: *Packet, random: *Random) void {
        const words: u32 = if (random.once(3)) 5 else random.between(5, 15);
        const header = packet.add(words * 4);
        random.fill(header);
        // Sequence numbers that overflow come rarely by themselves.
        if (random.once(4)) write16(header[4..], 0xffff);
        header[12] = @intCast(words << 4 | random.below(2) * random.below(16));
    }

    /// Of pieces.
    fn chooseSize(packet: *Packet, random: *Random) void {
        packet.header.gso_type = switch (packet.kind) {
            .tcp4 => NetHeader.gso_tcpv4,
            .tcp6 => NetHeader.gso_tcpv6,
            .uso4, .uso6 => NetHeader.gso_udp_l4,
            .ufo4, .ufo6 => NetHeader.gso_udp,
            .plain => return,
        };
        // As many sizes of each number of bits.
        const largest = @as(u32, 1) << @intCast(random.between(4, 16));
        const any = @min(random.between(size_min, largest), size_max);
        const typical = random.pick(u32, &.{ 536, 1220, 1448, 8948 });
        const size = if (random.once(2)) typical else any;
        packet.header.gso_size = @intCast(if (packet.isUfo()) size & ~@as(u32, 7) else size);
        if (packet.is_tcp and random.once(4)) packet.header.gso_type |= NetHeader.gso_ecn;
    }

    fn addPayload(packet: *Packet, random: *Random) void {
        const payload = packet.add(packet.chooseLength(random));
        switch (random.below(8)) {
            0 => @memset(payload, 0xff),
            1 => @memset(payload, 0),
            else => random.fill(payload),
        }
    }

    fn chooseLength(packet: *const Packet, random: *Random) u32 {
        const uncounted: u32 = if (packet.is_ipv6) packet_file.ipv6_bytes else 0;
        var room = ip_bytes_max + uncounted - (packet.payload_at - packet.network_at);
        room = @min(room, bytes_max - packet.payload_at);
        if (packet.kind == .plain) {
            return edge(random, 1448, @min(room, whole_bytes_max - packet.payload_at));
        }
        const size: u32 = packet.header.gso_size;
        room = @min(room, pieces_max * size - packet.payload_at);
        if (packet.isUso()) room = @min(room, uso_pieces_max * size);
        // The header of a datagram that becomes fragments is in the first of them.
        const len = if (packet.isUfo()) edge(random, size, room + udp_bytes) -| udp_bytes else edge(random, size, room);
        if (packet.isCut(len)) return len;
        const fitting = @min(len, whole_bytes_max - packet.payload_at);
        if (!packet.is_tcp) return fitting;
        const options = packet.payload_at - packet.transport_at - 20;
        if (fitting + options <= size) return fitting;
        return if (options <= size) size - options else size + 1;
    }

    fn isCut(packet: *const Packet, payload_bytes: u32) bool {
        return payload_bytes + @as(u32, if (packet.isUfo()) udp_bytes else 0) > packet.header.gso_size;
    }

    fn writeLengths(packet: *Packet) void {
        const network = packet.bytes[packet.network_at..packet.len];
        if (packet.is_ipv6) {
            write16(network[4..], @intCast(network.len - packet_file.ipv6_bytes));
        } else {
            write16(network[2..], @intCast(network.len));
            const header = network[0 .. packet.transport_at - packet.network_at];
            write16(header[10..], 0);
            write16(header[10..], ~sumOf(header));
        }
        const transport = packet.bytes[packet.transport_at..packet.len];
        if (!packet.is_tcp) write16(transport[4..], @intCast(transport.len));
    }

    /// That of the pseudo-header, where the sum of all goes.
    fn writeChecksum(packet: *Packet, random: *Random) void {
        const len = packet.len - packet.transport_at;
        const piece = packet.payload_at - packet.transport_at + @min(packet.header.gso_size, packet.payloadBytes());
        if (random.once(8)) packet.chooseAddress(if (random.once(2)) len else piece);
        var sum = packet.pseudoSum(len);
        // There are two zeros.
        if (sum == 0xffff and random.once(2)) sum = 0;
        write16(packet.bytes[packet.transport_at + packet.sumOffset() ..], sum);
    }

    /// Such that the pseudo-header of so many bytes has a sum of zero.
    fn chooseAddress(packet: *Packet, len: u32) void {
        const address = packet.addresses();
        const header = packet.bytes[packet.network_at..packet.transport_at];
        write16(address, 0);
        write16(address, ~packet.pseudoSum(len));
        if (packet.is_ipv6) return;
        write16(header[10..], 0);
        write16(header[10..], ~sumOf(header));
    }

    fn addresses(packet: *Packet) []u8 {
        const network = packet.bytes[packet.network_at..];
        return if (packet.is_ipv6) network[8..40] else network[12..20];
    }

    fn pseudoSum(packet: *Packet, len: u32) u16 {
        return addOnes(addOnes(sumOf(packet.addresses()), packet.protocol()), @intCast(len));
    }

    fn writeHeader(packet: *Packet, random: *Random) void {
        const header = &packet.header;
        header.flags = NetHeader.needs_csum;
        // Means nothing beside the other.
        if (random.once(8)) header.flags |= data_valid;
        header.csum_start = @intCast(packet.transport_at);
        header.csum_offset = packet.sumOffset();
        // Linux takes it for the part that is to be in one piece of memory.
        header.hdr_len = @intCast(switch (random.below(3)) {
            0 => 0,
            1 => @min(packet.payload_at, packet.len),
            else => random.between(spec.ethernet_header_bytes, @min(packet.len, 0xffff)),
        });
        header.num_buffers = @intCast(random.below(3));
        if (packet.kind != .plain or !random.once(4)) return;
        // Any other place behind the IP header is as good.
        header.csum_start = @intCast(random.between(packet.transport_at, @min(packet.len - 2, csum_start_max)));
        header.csum_offset = @intCast(random.between(0, packet.len - 2 - header.csum_start));
    }

    /// Its checksum, or that of the piece whose payload is so far behind the headers, becomes zero: `sum` is what it is
    /// now. False: it cannot, or another way.
    pub fn zeroSum(packet: *Packet, random: *Random, offset: u32, sum: u16) bool {
        const header = packet.header;
        if (header.csum_start != packet.transport_at or header.csum_offset != packet.sumOffset()) return false;
        const left = packet.payloadBytes() -| offset;
        const len = if (packet.kind == .plain or packet.isUfo()) left else @min(left, header.gso_size);
        if (len < 2) return false;
        const word = packet.bytes[packet.payload_at + offset + 2 * random.below(len / 2) ..];
        write16(word, addOnes(read16(u16, word[0..2], .big), sum));
        return true;
    }

    /// As a guest's buffers lie: with something else between them.
    pub fn scatter(packet: *Packet, random: *Random) void {
        const part_bytes_max = random.pick(u32, &.{ 1, 7, 64, 1500, 4096, bytes_max });
        var at: u32 = 0;
        var place: u32 = 0;
        packet.parts_count = 0;
        while (at < packet.len) {
            const left = packet.len - at;
            const is_last = packet.parts_count + 1 == parts_max;
            const len = if (is_last) left else random.between(1, @min(left, part_bytes_max));
            const gap = packet.scattered[place..][0..random.between(1, gap_bytes_max)];
            @memset(gap, 0xa5);
            place += @intCast(gap.len);
            @memcpy(packet.scattered[place..][0..len], packet.bytes[at..][0..len]);
            packet.parts[packet.parts_count] = .{ .base = packet.scattered[place..].ptr, .len = len };
            packet.parts_count += 1;
            place += len;
            at += len;
        }
    }

    /// Where it was scattered to, as a port receives it.
    pub fn frame(packet: *const Packet) net_header.Error!frame_file.Frame {
        return .{
            .segments = packet.parts[0..packet.parts_count],
            .len = packet.len,
            .behind_header = false,
            .header = try net_header.checked(packet.header, packet.len, std.math.maxInt(u64)),
            .ethernet = packet.bytes[0..frame_file.ethernet_bytes].*,
        };
    }

    pub fn isUfo(packet: *const Packet) bool {
        return packet.kind == .ufo4 or packet.kind == .ufo6;
    }

    fn isUso(packet: *const Packet) bool {
        return packet.kind == .uso4 or packet.kind == .uso6;
    }

    pub fn payloadBytes(packet: *const Packet) u32 {
        return packet.len - packet.payload_at;
    }

    fn protocol(packet: *const Packet) u8 {
        return if (packet.is_tcp) packet_file.protocol_tcp else packet_file.protocol_udp;
    }

    /// From the transport header on.
    pub fn sumOffset(packet: *const Packet) u16 {
        return if (packet.is_tcp) 16 else 6;
    }
};

/// Of no station, so that a bridge floods it.
pub fn destinationOf(number: u64) [6]u8 {
    var address: [6]u8 = undefined;
    std.mem.writeInt(u48, &address, 2 << 40 | @as(u48, @as(u40, @truncate(number))), .big);
    return address;
}

/// A length up to `room`, more often than not next to where a piece ends.
fn edge(random: *Random, size: u32, room: u32) u32 {
    const count = if (random.once(2)) random.between(1, 4) else random.between(1, @max(1, room / size));
    const len = switch (random.below(8)) {
        0 => random.below(4),
        1 => random.between(0, room),
        2 => random.between(0, @min(room, 4 * size)),
        3 => if (random.once(4)) room - random.below(2) else size,
        else => count * size - 1 + random.below(3),
    };
    return @min(len, room);
}

/// One's complement (RFC 1071), of as many bytes as make words.
fn sumOf(bytes: []const u8) u16 {
    var sum: u16 = 0;
    var at: usize = 0;
    while (at < bytes.len) : (at += 2) sum = addOnes(sum, read16(u16, bytes[at..][0..2], .big));
    return sum;
}

fn addOnes(one: u16, other: u16) u16 {
    const sum = @as(u32, one) + other;
    return @truncate(sum + (sum >> 16));
}

fn write16(bytes: []u8, value: u16) void {
    std.mem.writeInt(u16, bytes[0..2], value, .big);
}

test "packets are what their headers say, however they are scattered" {
    const packet = try std.testing.allocator.create(Packet);
    defer std.testing.allocator.destroy(packet);
    const copy = try std.testing.allocator.alloc(u8, bytes_max);
    defer std.testing.allocator.free(copy);
    var random: Random = .{ .state = 1 };
    for (0..2000) |number| {
        packet.make(&random, number);
        packet.scatter(&random);
        const frame = try packet.frame();
        try std.testing.expect(packet.payload_at <= 256);
        try std.testing.expectEqual(packet.network_at, 14 + (packet.network_at - 14) / 4 * 4);
        var cursor: chain.Cursor = .{ .segments = frame.segments };
        try std.testing.expectEqualSlices(u8, packet.bytes[0..packet.len], copy[0..cursor.read(copy)]);
        try std.testing.expectEqual(destinationOf(number), frame.ethernet[0..6].*);
        const network: packet_file.Network = .of(packet.bytes[0..packet.len]);
        try std.testing.expectEqual(packet.len - packet.network_at, network.bytes.len);
        if (packet.is_ipv6) continue;
        try std.testing.expectEqual(0xffff, sumOf(packet_file.Ipv4.of(network.bytes).?.header));
    }
}

test "lengths stay inside their room, and meet the ends of pieces" {
    var random: Random = .{ .state = 2 };
    var met: [3]bool = @splat(false);
    for (0..1000) |_| {
        const len = edge(&random, 100, 450);
        try std.testing.expect(len <= 450);
        for (&met, [_]u32{ 299, 300, 301 }) |*one, end| one.* = one.* or len == end;
    }
    try std.testing.expectEqual([_]bool{ true, true, true }, met);
}

test "a checksum becomes zero by what is added to it" {
    const packet = try std.testing.allocator.create(Packet);
    defer std.testing.allocator.destroy(packet);
    var random: Random = .{ .state = 3 };
    var zeros: u32 = 0;
    for (0..500) |number| {
        packet.make(&random, number);
        if (packet.kind != .plain or packet.payloadBytes() % 2 != 0) continue;
        const transport = packet.bytes[packet.transport_at..packet.len];
        if (!packet.zeroSum(&random, 0, ~sumOf(transport))) continue;
        try std.testing.expectEqual(0xffff, sumOf(transport));
        zeros += 1;
    }
    try std.testing.expect(zeros > 10);
}

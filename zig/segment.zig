//! Frames that their receiver cannot take as they are: segments are cut and checksums finished by us, as Linux does it.
//! Headers are read once, into a private copy, and must be what the virtio-net header says of them.

const std = @import("std");
const abi = @import("abi.zig");
const chain = @import("chain.zig");
const checksum = @import("checksum.zig");
const frame_file = @import("frame.zig");
const net_header = @import("net_header.zig");
const packet = @import("packet.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");

const Frame = frame_file.Frame;
const NetHeader = spec.NetHeader;
const read16 = packet.read16;
const store = checksum.store;
const write16 = packet.write16;

/// Pieces in one go.
pub const pieces_max = abi.packets_max;
/// Of all headers in front of each piece: Ethernet with tags, IP with options or extension headers, TCP with options.
const head_bytes_max = 256;
/// Of IPv6 (RFC 8200, 4.5).
const fragment_header_bytes = 8;
const udp_bytes = 8;
const ip_bytes_max = 65535;

const tcp_flags = struct {
    const fin = 0x01;
    const psh = 0x08;
    const cwr = 0x80;
};

/// What the header asks for contradicts the packet.
pub const Error = error{BadGso};

/// Frames that were made of one, and where their own bytes are.
pub const Pieces = struct {
    frames: [pieces_max]Frame,
    heads: [pieces_max][head_bytes_max + fragment_header_bytes]u8,
    segments: chain.Pool,
    count: u32,

    /// Segments that are enough for any frame, each byte of it in one of its own.
    pub const segments_max = net_header.frame_bytes_max + 2 * pieces_max;
};

const Kind = enum {
    /// One piece, of which only the checksum is finished, or nothing at all.
    whole,
    tcp,
    udp,
    /// Fragments of a datagram (UFO).
    fragments,
};

/// A frame in the making of pieces.
pub const Cut = struct {
    frame: *const Frame,
    kind: Kind,
    partial: bool,
    /// All headers that go in front of each piece, as they were.
    head: [head_bytes_max]u8,
    head_bytes: u32,
    network_at: u32,
    transport_at: u32,
    is_ipv6: bool,
    /// Of IPv6: where the part that goes into every fragment ends, and the byte that names the header behind it.
    fragment_at: u32,
    next_header_at: u32,
    fragment_id: u32,
    /// Of a datagram in fragments: its finished checksum.
    sum: u16,
    /// Bytes in each piece but the last, how many are behind the head, and how many of them are done.
    size: u32,
    total: u32,
    done: u32,
    rest: chain.Cursor,

    /// Of a frame whose header was checked. `partial`: the receiver finishes checksums.
    pub fn init(cut: *Cut, frame: *const Frame, partial: bool) Error!void {
        cut.frame = frame;
        cut.partial = partial;
        cut.rest = .{ .segments = frame.segments };
        cut.kind = .whole;
        cut.done = 0;
        const gso = frame.header.gso_type & ~NetHeader.gso_ecn;
        if (gso == NetHeader.gso_none) return;
        // A driver sets both (virtio 5.1.6.2.1).
        if (frame.header.flags & NetHeader.needs_csum == 0) return error.BadGso;
        cut.head_bytes = @intCast(cut.rest.read(&cut.head));
        @memcpy(cut.head[0..frame_file.ethernet_bytes], &frame.ethernet);
        const transport = try cut.parse(gso);
        cut.size = frame.header.gso_size;
        cut.head_bytes = cut.transport_at + if (gso == NetHeader.gso_udp) 0 else transport.bytes;
        cut.total = frame.len - cut.head_bytes;
        cut.rest = .{ .segments = frame.segments };
        // What is no longer than one piece is none, and stays as it is.
        if (cut.total <= cut.size) return;
        skip(&cut.rest, cut.head_bytes);
        if (gso == NetHeader.gso_udp) return cut.beginFragments();
        cut.kind = if (transport.protocol == packet.protocol_udp) .udp else .tcp;
    }

    const Transport = struct { protocol: u8, bytes: u32 };

    /// Finds the headers, each where the virtio-net header says it is.
    fn parse(cut: *Cut, gso: u8) Error!Transport {
        const head = cut.head[0..cut.head_bytes];
        const network = packet.Network.of(head);
        cut.network_at = @intCast(head.len - network.bytes.len);
        cut.is_ipv6 = network.type == net_header.ethertype_ipv6;
        if (!cut.is_ipv6 and network.type != net_header.ethertype_ipv4) return error.BadGso;
        const protocol = if (cut.is_ipv6) try cut.parseIpv6(network.bytes) else try cut.parseIpv4(network.bytes);
        const is_tcp = gso == NetHeader.gso_tcpv4 or gso == NetHeader.gso_tcpv6;
        if (is_tcp and cut.is_ipv6 != (gso == NetHeader.gso_tcpv6)) return error.BadGso;
        const header = cut.frame.header;
        if (protocol != @as(u8, if (is_tcp) packet.protocol_tcp else packet.protocol_udp)) return error.BadGso;
        if (header.csum_start != cut.transport_at) return error.BadGso;
        if (header.csum_offset != fieldOf(is_tcp)) return error.BadGso;
        const bytes = try transportBytes(head[cut.transport_at..], is_tcp);
        // As IP counts: all of an IPv4 packet (RFC 791, 3.1), what follows the header of IPv6 (RFC 8200, 3).
        const counted_at = cut.network_at + @as(u32, if (cut.is_ipv6) packet.ipv6_bytes else 0);
        if (cut.frame.len - counted_at > ip_bytes_max) return error.BadGso;
        const len = cut.frame.len - cut.transport_at;
        if (!is_tcp and read16(head[cut.transport_at + 4 ..]) != len) return error.BadGso;
        return .{ .protocol = protocol, .bytes = bytes };
    }

    fn parseIpv4(cut: *Cut, bytes: []u8) Error!u8 {
        const ip = packet.Ipv4.of(bytes) orelse return error.BadGso;
        if (ip.isFragment()) return error.BadGso;
        cut.transport_at = cut.network_at + @as(u32, @intCast(ip.header.len));
        return bytes[9];
    }

    /// The protocol behind those extension headers that may be in front of it (RFC 8200, 4.1).
    fn parseIpv6(cut: *Cut, bytes: []const u8) Error!u8 {
        if (bytes.len < packet.ipv6_bytes or bytes[0] >> 4 != 6) return error.BadGso;
        var next_at: u32 = 6;
        var at: u32 = packet.ipv6_bytes;
        cut.fragment_at = cut.network_at + at;
        cut.next_header_at = cut.network_at + next_at;
        while (packet.isExtension(bytes[next_at])) {
            if (bytes.len < at + 8) return error.BadGso;
            const len = (@as(u32, bytes[at + 1]) + 1) * 8;
            const is_for_all = bytes[next_at] != packet.extension_destination;
            next_at = at;
            at += len;
            if (bytes.len < at) return error.BadGso;
            if (!is_for_all) continue;
            cut.fragment_at = cut.network_at + at;
            cut.next_header_at = cut.network_at + next_at;
        }
        cut.transport_at = cut.network_at + at;
        return bytes[next_at];
    }

    /// All of the datagram has one checksum, which is in its first fragment. Offsets count in units of eight bytes.
    fn beginFragments(cut: *Cut) Error!void {
        cut.kind = .fragments;
        cut.size &= ~@as(u32, 7);
        if (cut.size == 0) return error.BadGso;
        if (cut.is_ipv6 and cut.fragment_at != cut.transport_at) return error.BadGso;
        const before = cut.transport_at - cut.network_at + @as(u32, if (cut.is_ipv6) fragment_header_bytes else 0);
        const counted = before + cut.size - @as(u32, if (cut.is_ipv6) packet.ipv6_bytes else 0);
        if (counted > ip_bytes_max) return error.BadGso;
        cut.sum = cut.wholeSum();
        if (cut.is_ipv6) cut.fragment_id = sys.random();
    }

    /// From csum_start to the end; 0 stands for none there (RFC 768), and in one's complement there is another 0.
    fn wholeSum(cut: *const Cut) u16 {
        var rest: chain.Cursor = .{ .segments = cut.frame.segments };
        skip(&rest, cut.frame.header.csum_start);
        var sum: checksum.Sum = .{};
        while (true) {
            const bytes = rest.take(std.math.maxInt(u32));
            if (bytes.len == 0) break;
            sum.add(bytes);
        }
        return nonZero(sum.finish());
    }

    /// Nothing is cut.
    pub fn isWhole(cut: *const Cut) bool {
        return cut.kind == .whole;
    }

    /// How many pieces there will be, those done included.
    pub fn pieceCount(cut: *const Cut) u32 {
        return if (cut.kind == .whole) 1 else std.math.divCeil(u32, cut.total, cut.size) catch unreachable;
    }

    /// Makes the next pieces, in the place of those that were made before; none at the end.
    pub fn next(cut: *Cut, pieces: *Pieces) void {
        pieces.count = 0;
        pieces.segments.used = 0;
        if (cut.kind == .whole) {
            if (cut.done == 0) cut.finishWhole(pieces);
            cut.done = 1;
            return;
        }
        while (pieces.count < pieces_max and cut.done < cut.total) {
            cut.makePiece(pieces, @min(cut.size, cut.total - cut.done));
        }
    }

    fn makePiece(cut: *Cut, pieces: *Pieces, len: u32) void {
        const head = &pieces.heads[pieces.count];
        const piece = &pieces.frames[pieces.count];
        const mark = pieces.segments.used;
        pieces.segments.used += 1;
        // With its checksum, the datagram's header goes into the head of the first fragment.
        const in_head: u32 = if (cut.kind == .fragments and cut.done == 0) udp_bytes else 0;
        skip(&cut.rest, in_head);
        takeInto(&pieces.segments, &cut.rest, len - in_head);
        const segments = pieces.segments.items[mark..pieces.segments.used];
        piece.* = .{
            .segments = segments,
            .len = undefined,
            .behind_header = false,
            .header = net_header.plain,
            .ethernet = cut.frame.ethernet,
        };
        const head_bytes = switch (cut.kind) {
            .whole => unreachable,
            .tcp, .udp => cut.writeSegment(piece, head, segments[1..], len),
            .fragments => cut.writeFragment(head, len),
        };
        segments[0] = .{ .base = head, .len = head_bytes };
        piece.len = head_bytes + len - in_head;
        pieces.count += 1;
        cut.done += len;
    }

    /// The frame as it is but for its checksum, wherever that is.
    fn finishWhole(cut: *Cut, pieces: *Pieces) void {
        const frame = &pieces.frames[0];
        pieces.count = 1;
        frame.* = cut.frame.*;
        frame.header.gso_type = NetHeader.gso_none;
        frame.header.gso_size = 0;
        frame.header.hdr_len = 0;
        if (cut.partial or frame.header.flags & NetHeader.needs_csum == 0) return;
        const field = @as(u32, frame.header.csum_start) + frame.header.csum_offset;
        const own = pieces.heads[0][0..2];
        store(own, cut.wholeSum());
        takeInto(&pieces.segments, &cut.rest, field);
        skip(&cut.rest, own.len);
        pieces.segments.append(own, own.len);
        takeInto(&pieces.segments, &cut.rest, frame.len - field - @as(u32, own.len));
        frame.segments = pieces.segments.items[0..pieces.segments.used];
        frame.behind_header = false;
        frame.header = net_header.plain;
    }

    fn writeSegment(cut: *Cut, piece: *Frame, head: []u8, payload: []const chain.Segment, len: u32) u32 {
        const bytes = cut.head_bytes;
        @memcpy(head[0..bytes], cut.head[0..bytes]);
        cut.writeNetwork(head, bytes - cut.network_at + len);
        const transport = head[cut.transport_at..bytes];
        const is_tcp = cut.kind == .tcp;
        if (is_tcp) {
            const sequence = transport[4..8];
            std.mem.writeInt(u32, sequence, std.mem.readInt(u32, sequence, .big) +% cut.done, .big);
            // The sender slows down once (RFC 3168, 6.1.2), and what ends with the packet ends with its last piece.
            if (cut.done > 0) transport[13] &= ~@as(u8, tcp_flags.cwr);
            if (cut.done + len < cut.total) transport[13] &= ~@as(u8, tcp_flags.fin | tcp_flags.psh);
        } else {
            write16(transport[4..], @intCast(transport.len + len));
        }
        const offset = fieldOf(is_tcp);
        const field = transport[offset..][0..2];
        // In it is the sum of the pseudo-header, with the length of the whole: that of the piece takes its place.
        const whole: u16 = @intCast(cut.frame.len - cut.transport_at);
        const part: u16 = @intCast(transport.len + len);
        write16(field, addOnes(addOnes(read16(field), ~whole), part));
        if (cut.partial) {
            piece.header.flags = NetHeader.needs_csum;
            piece.header.csum_start = @intCast(cut.transport_at);
            piece.header.csum_offset = offset;
            return bytes;
        }
        var sum: checksum.Sum = .{};
        sum.add(transport);
        for (payload) |segment| sum.add(segment.base[0..segment.len]);
        store(field, if (is_tcp) sum.finish() else nonZero(sum.finish()));
        return bytes;
    }

    /// Of a piece whose packet has `len` bytes from the network header on. Each has an IPv4 identification of its own.
    fn writeNetwork(cut: *const Cut, head: []u8, len: u32) void {
        const network = head[cut.network_at..];
        if (cut.is_ipv6) return write16(network[4..], @intCast(len - packet.ipv6_bytes));
        const number: u16 = @truncate(cut.done / cut.size);
        write16(network[2..], @intCast(len));
        write16(network[4..], read16(network[4..]) +% number);
        finishIpv4(network[0 .. cut.transport_at - cut.network_at]);
    }

    /// Of `len` bytes of the datagram, of which the first ones, its header, are put here.
    fn writeFragment(cut: *const Cut, head: []u8, len: u32) u32 {
        const more = cut.done + len < cut.total;
        @memcpy(head[0..cut.transport_at], cut.head[0..cut.transport_at]);
        var bytes = cut.transport_at;
        if (cut.is_ipv6) {
            bytes += fragment_header_bytes;
            cut.writeFragment6(head[0..bytes], len, more);
        } else {
            cut.writeFragment4(head[cut.network_at..bytes], len, more);
        }
        if (cut.done > 0) return bytes;
        @memcpy(head[bytes..][0..udp_bytes], cut.head[cut.transport_at..][0..udp_bytes]);
        store(head[bytes + 6 ..][0..2], cut.sum);
        return bytes + udp_bytes;
    }

    /// RFC 791, 3.2.
    fn writeFragment4(cut: *const Cut, network: []u8, len: u32, more: bool) void {
        write16(network[2..], @intCast(network.len + len));
        write16(network[6..], @as(u16, if (more) 0x2000 else 0) | @as(u16, @intCast(cut.done / 8)));
        finishIpv4(network);
    }

    /// RFC 8200, 4.5.
    fn writeFragment6(cut: *const Cut, head: []u8, len: u32, more: bool) void {
        const header = head[cut.transport_at..];
        header[0] = packet.protocol_udp;
        header[1] = 0;
        write16(header[2..], @as(u16, @intCast(cut.done)) | @intFromBool(more));
        std.mem.writeInt(u32, header[4..8], cut.fragment_id, .big);
        head[cut.next_header_at] = packet.extension_fragment;
        write16(head[cut.network_at + 4 ..], @intCast(head.len - cut.network_at - packet.ipv6_bytes + len));
    }
};

/// Where the checksum is, from the transport header on.
fn fieldOf(is_tcp: bool) u16 {
    return if (is_tcp) 16 else 6;
}

fn transportBytes(bytes: []const u8, is_tcp: bool) Error!u32 {
    if (bytes.len < @as(usize, if (is_tcp) 20 else udp_bytes)) return error.BadGso;
    if (!is_tcp) return udp_bytes;
    const len = @as(u32, bytes[12] >> 4) * 4;
    return if (len < 20 or len > bytes.len) error.BadGso else len;
}

fn finishIpv4(header: []u8) void {
    write16(header[10..], 0);
    var sum: checksum.Sum = .{};
    sum.add(header);
    store(header[10..12], sum.finish());
}

/// One's complement (RFC 1071, 2).
fn addOnes(one: u16, other: u16) u16 {
    const sum = @as(u32, one) + other;
    return @truncate(sum + (sum >> 16));
}

/// In UDP, 0 stands for none (RFC 768); its other self is as right in TCP.
fn nonZero(sum: u16) u16 {
    return if (sum == 0) 0xffff else sum;
}

fn skip(cursor: *chain.Cursor, bytes: u32) void {
    var left = bytes;
    while (left > 0) left -= @intCast(cursor.take(left).len);
}

fn takeInto(pool: *chain.Pool, cursor: *chain.Cursor, bytes: u32) void {
    var left = bytes;
    while (left > 0) {
        const piece = cursor.take(left);
        pool.append(piece.ptr, @intCast(piece.len));
        left -= @intCast(piece.len);
    }
}

/// A packet of Linux's as a guest hands it over, 3500 bytes of payload, in pieces of memory; and what was cut from it.
const Bench = struct {
    bytes: [4000]u8,
    len: u32,
    parts: [64]chain.Segment,
    frame: Frame,
    cut: Cut,
    pieces: Pieces,
    items: [Pieces.segments_max]chain.Segment,

    const payload_bytes = 3500;

    fn create(head: []const u8, transport_at: u16, gso: u8, size: u16, random: std.Random) !*Bench {
        const bench = try std.testing.allocator.create(Bench);
        @memcpy(bench.bytes[0..head.len], head);
        bench.len = @intCast(head.len + payload_bytes);
        for (bench.bytes[head.len..bench.len], 0..) |*byte, i| byte.* = @truncate(i *% 7 +% (i >> 8));
        bench.pieces.segments = .{ .items = &bench.items };
        bench.frame = .{
            .segments = bench.parts[0..bench.divide(random)],
            .len = bench.len,
            .behind_header = false,
            .header = net_header.plain,
            .ethernet = head[0..16].*,
        };
        bench.frame.header.flags = NetHeader.needs_csum;
        bench.frame.header.csum_start = transport_at;
        bench.frame.header.csum_offset = fieldOf(head.len - transport_at > udp_bytes);
        bench.frame.header.gso_type = gso;
        bench.frame.header.gso_size = size;
        return bench;
    }

    fn divide(bench: *Bench, random: std.Random) usize {
        var at: u32 = 0;
        for (&bench.parts, 0..) |*part, i| {
            const left = bench.len - at;
            const len = if (i + 1 == bench.parts.len) left else random.intRangeAtMost(u32, 1, @min(left, 400));
            part.* = .{ .base = bench.bytes[at..].ptr, .len = len };
            at += len;
            if (at == bench.len) return i + 1;
        }
        return bench.parts.len;
    }

    fn start(bench: *Bench, partial: bool) !void {
        try bench.cut.init(&bench.frame, partial);
        bench.cut.next(&bench.pieces);
    }

    fn destroy(bench: *Bench) void {
        std.testing.allocator.destroy(bench);
    }

    fn read(bench: *Bench, index: usize, into: *[4000]u8) []u8 {
        const piece = &bench.pieces.frames[index];
        var cursor: chain.Cursor = .{ .segments = piece.segments };
        const len = cursor.read(into);
        std.testing.expectEqual(piece.len, len) catch unreachable;
        return into[0..len];
    }

    /// Their lengths, and the 16-bit words at these places.
    fn expect(bench: *Bench, lens: []const usize, places: []const usize, words: []const []const u16) !void {
        try std.testing.expectEqual(lens.len, bench.pieces.count);
        try std.testing.expectEqual(lens.len, bench.cut.pieceCount());
        for (lens, words, 0..) |len, each, i| {
            var into: [4000]u8 = undefined;
            const bytes = bench.read(i, &into);
            try std.testing.expectEqual(len, bytes.len);
            for (places, each) |place, word| try std.testing.expectEqual(word, read16(bytes[place..]));
        }
        bench.cut.next(&bench.pieces);
        try std.testing.expectEqual(0, bench.pieces.count);
    }
};

const macs = [_]u8{ 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1 };
const from6 = [_]u8{ 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 };
const to6 = [_]u8{ 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2 };
const ports_and_numbers = [_]u8{ 0x03, 0xe8, 0x07, 0xd0, 0xff, 0xff, 0xff, 0x00, 0x11, 0x22, 0x33, 0x44 };

fn ip4(protocol: u8, len: u16, flags: u8) [22]u8 {
    const total = [_]u8{ @truncate(len >> 8), @truncate(len) };
    const rest = [_]u8{ 0x12, 0x34, flags, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2 };
    return [_]u8{ 8, 0, 0x45, 0 } ++ total ++ rest;
}

fn ip6(protocol: u8, len: u16) [42]u8 {
    const bytes = [_]u8{ @truncate(len >> 8), @truncate(len), protocol, 64 };
    return [_]u8{ 0x86, 0xdd, 0x60, 0x01, 0x23, 0x45 } ++ bytes ++ from6 ++ to6;
}

/// In the place of the checksum: the sum of the pseudo-header.
fn pseudo(is_ipv6: bool, protocol: u8, len: u16) u16 {
    const addresses: u16 = if (is_ipv6) addOnes(addOnes(0xfd00, 1), addOnes(0xfd00, 2)) else 0x1403;
    return addOnes(addOnes(addresses, protocol), len);
}

fn tcp(is_ipv6: bool, flags: u8) [20]u8 {
    const sum = pseudo(is_ipv6, 6, 20 + Bench.payload_bytes);
    return ports_and_numbers ++ [_]u8{ 0x50, flags, 2, 0, @truncate(sum >> 8), @truncate(sum), 0, 0 };
}

fn udp(is_ipv6: bool) [8]u8 {
    const len = udp_bytes + Bench.payload_bytes;
    const sum = pseudo(is_ipv6, 17, len);
    return [_]u8{ 0x03, 0xe8, 0x07, 0xd0, len >> 8, len & 0xff, @truncate(sum >> 8), @truncate(sum) };
}

// The numbers are those that Linux 6.18 makes of the same packets.

test "TCP is cut as Linux cuts it: identifications, sequence numbers, flags, checksums" {
    var random: std.Random.DefaultPrng = .init(1);
    const tag = [_]u8{ 0x81, 0, 0x60, 0x64 };
    const head = macs ++ tag ++ ip4(6, 40 + Bench.payload_bytes, 0x40) ++ tcp(false, 0x10);
    for (0..20) |_| {
        const bench: *Bench = try .create(&head, 38, NetHeader.gso_tcpv4, 1000, random.random());
        defer bench.destroy();
        try bench.start(false);
        try bench.expect(&.{ 1058, 1058, 1058, 558 }, &.{ 20, 22, 28, 42, 44, 50, 54 }, &.{
            &.{ 0x0410, 0x1234, 0x10b2, 0xffff, 0xff00, 0x5010, 0x2f07 },
            &.{ 0x0410, 0x1235, 0x10b1, 0x0000, 0x02e8, 0x5010, 0xa79e },
            &.{ 0x0410, 0x1236, 0x10b0, 0x0000, 0x06d0, 0x5010, 0x2434 },
            &.{ 0x021c, 0x1237, 0x12a3, 0x0000, 0x0ab8, 0x5010, 0xe0d6 },
        });
    }
    const head6 = macs ++ ip6(6, 20 + Bench.payload_bytes) ++ tcp(true, 0xff);
    const bench: *Bench = try .create(&head6, 54, NetHeader.gso_tcpv6, 1000, random.random());
    defer bench.destroy();
    try bench.start(false);
    try bench.expect(&.{ 1074, 1074, 1074, 574 }, &.{ 18, 60, 66, 70 }, &.{
        &.{ 0x03fc, 0xff00, 0x50f6, 0x481f },
        &.{ 0x03fc, 0x02e8, 0x5076, 0xc136 },
        &.{ 0x03fc, 0x06d0, 0x5076, 0x3dcc },
        &.{ 0x0208, 0x0ab8, 0x507f, 0xfa65 },
    });
}

test "a datagram becomes several, or fragments of itself" {
    var random: std.Random.DefaultPrng = .init(2);
    const head = macs ++ ip4(17, 28 + Bench.payload_bytes, 0x40) ++ udp(false);
    const several: *Bench = try .create(&head, 34, NetHeader.gso_udp_l4, 1000, random.random());
    defer several.destroy();
    try several.start(false);
    try several.expect(&.{ 1042, 1042, 1042, 542 }, &.{ 16, 18, 24, 38, 40 }, &.{
        &.{ 0x0404, 0x1234, 0x10b3, 0x03f0, 0xc08f },
        &.{ 0x0404, 0x1235, 0x10b2, 0x03f0, 0x3d0e },
        &.{ 0x0404, 0x1236, 0x10b1, 0x03f0, 0xbd8b },
        &.{ 0x0210, 0x1237, 0x12a4, 0x01fc, 0x800a },
    });
    const fragments: *Bench = try .create(&head, 34, NetHeader.gso_udp, 1480, random.random());
    defer fragments.destroy();
    try fragments.start(false);
    try fragments.expect(&.{ 1514, 1514, 582 }, &.{ 16, 18, 20, 24 }, &.{
        &.{ 0x05dc, 0x1234, 0x2000, 0x2edb },
        &.{ 0x05dc, 0x1234, 0x20b9, 0x2e22 },
        &.{ 0x0238, 0x1234, 0x0172, 0x510d },
    });
    const head6 = macs ++ ip6(17, 8 + Bench.payload_bytes) ++ udp(true);
    const fragments6: *Bench = try .create(&head6, 54, NetHeader.gso_udp, 1448, random.random());
    defer fragments6.destroy();
    try fragments6.start(false);
    var into: [4000]u8 = undefined;
    try std.testing.expectEqual(0xb4c6, read16(fragments6.read(0, &into)[68..]));
    try fragments6.expect(&.{ 1510, 1510, 674 }, &.{ 18, 20, 54, 56 }, &.{
        &.{ 0x05b0, 0x2c40, 0x1100, 0x0001 },
        &.{ 0x05b0, 0x2c40, 0x1100, 0x05a9 },
        &.{ 0x026c, 0x2c40, 0x1100, 0x0b50 },
    });
}

test "who finishes checksums gets them as they are to be finished" {
    var random: std.Random.DefaultPrng = .init(3);
    const head = macs ++ ip6(6, 20 + Bench.payload_bytes) ++ tcp(true, 0x10);
    const bench: *Bench = try .create(&head, 54, NetHeader.gso_tcpv6, 2000, random.random());
    defer bench.destroy();
    try bench.start(true);
    for (bench.pieces.frames[0..2]) |piece| {
        try std.testing.expectEqual(NetHeader.needs_csum, piece.header.flags);
        try std.testing.expectEqual(54, piece.header.csum_start);
        try std.testing.expectEqual(16, piece.header.csum_offset);
        try std.testing.expectEqual(NetHeader.gso_none, piece.header.gso_type);
    }
    try bench.expect(&.{ 2074, 1574 }, &.{70}, &.{ &.{pseudo(true, 6, 2020)}, &.{pseudo(true, 6, 1520)} });
}

test "a packet that needs no cut keeps all but its checksum, wherever that is" {
    var random: std.Random.DefaultPrng = .init(4);
    const head = macs ++ ip4(6, 40 + Bench.payload_bytes, 0x40) ++ tcp(false, 0x19);
    for ([_]u16{ 3500, 0 }) |size| {
        const gso: u8 = if (size == 0) NetHeader.gso_none else NetHeader.gso_tcpv4;
        const bench: *Bench = try .create(&head, 34, gso, size, random.random());
        defer bench.destroy();
        try bench.start(false);
        var into: [4000]u8 = undefined;
        const bytes = bench.read(0, &into);
        try std.testing.expectEqualSlices(u8, bench.bytes[0..50], bytes[0..50]);
        try std.testing.expectEqualSlices(u8, bench.bytes[52..bench.len], bytes[52..]);
        var sum: checksum.Sum = .{};
        sum.add(&.{ 0x14, 0x03, 0, 6, (20 + Bench.payload_bytes) >> 8, (20 + Bench.payload_bytes) & 0xff });
        sum.add(bytes[34..]);
        try std.testing.expectEqual(0, sum.finish());
        try std.testing.expectEqual(net_header.plain, bench.pieces.frames[0].header);
        bench.cut.next(&bench.pieces);
        try std.testing.expectEqual(0, bench.pieces.count);
    }
}

test "what the header asks for must be what the packet is" {
    var random: std.Random.DefaultPrng = .init(5);
    const head = macs ++ ip4(6, 40 + Bench.payload_bytes, 0x40) ++ tcp(false, 0x10);
    const wrong = [_]struct { at: usize, value: u8 }{
        .{ .at = 12, .value = 9 }, // not IP
        .{ .at = 14, .value = 0x44 }, // a header shorter than there is
        .{ .at = 14, .value = 0x46 }, // options, and TCP elsewhere
        .{ .at = 20, .value = 0x20 }, // a fragment
        .{ .at = 23, .value = 17 }, // UDP
        .{ .at = 46, .value = 0x40 }, // TCP's header too short
    };
    for (wrong) |each| {
        const bench: *Bench = try .create(&head, 34, NetHeader.gso_tcpv4, 1000, random.random());
        defer bench.destroy();
        bench.bytes[each.at] = each.value;
        bench.frame.ethernet = bench.bytes[0..16].*;
        try std.testing.expectError(error.BadGso, bench.start(false));
    }
    const bench: *Bench = try .create(&head, 34, NetHeader.gso_tcpv4, 1000, random.random());
    defer bench.destroy();
    const good = bench.frame.header;
    for ([_]u8{ NetHeader.gso_tcpv6, NetHeader.gso_udp, NetHeader.gso_udp_l4 }) |gso| {
        bench.frame.header.gso_type = gso;
        try std.testing.expectError(error.BadGso, bench.start(false));
    }
    bench.frame.header = good;
    bench.frame.header.csum_start = 38;
    try std.testing.expectError(error.BadGso, bench.start(false));
    bench.frame.header = good;
    bench.frame.header.csum_offset = 6;
    try std.testing.expectError(error.BadGso, bench.start(false));
    bench.frame.header = good;
    bench.frame.header.flags = 0;
    try std.testing.expectError(error.BadGso, bench.start(false));
}

/// A frame of `total` bytes, whose pieces are as long as can be, is cut; one byte more is refused.
fn expectLimit(head: []const u8, transport_at: u16, gso: u8, total: u32, size: u16) !void {
    const bench: *Bench = try std.testing.allocator.create(Bench);
    defer bench.destroy();
    const bytes = try std.testing.allocator.alloc(u8, total + 1);
    defer std.testing.allocator.free(bytes);
    @memset(bytes, 0);
    @memcpy(bytes[0..head.len], head);
    bench.pieces.segments = .{ .items = &bench.items };
    for ([_]u32{ total, total + 1 }) |len| {
        if (head.len - transport_at == udp_bytes) write16(bytes[transport_at + 4 ..], @truncate(len - transport_at));
        bench.parts[0] = .{ .base = bytes.ptr, .len = len };
        bench.frame = .{
            .segments = bench.parts[0..1],
            .len = len,
            .behind_header = false,
            .header = net_header.plain,
            .ethernet = bytes[0..16].*,
        };
        bench.frame.header.flags = NetHeader.needs_csum;
        bench.frame.header.csum_start = transport_at;
        bench.frame.header.csum_offset = fieldOf(head.len - transport_at > udp_bytes);
        bench.frame.header.gso_type = gso;
        bench.frame.header.gso_size = size;
        if (len > total) return std.testing.expectError(error.BadGso, bench.start(false));
        try bench.start(false);
        try std.testing.expectEqual(2, bench.pieces.count);
    }
}

test "a packet is no longer than IP can say, nor is any of its pieces" {
    const head4 = macs ++ ip4(6, 0, 0x40) ++ tcp(false, 0x10);
    try expectLimit(&head4, 34, NetHeader.gso_tcpv4, 14 + 65535, 65535 - 41);
    const head6 = macs ++ ip6(6, 0) ++ tcp(true, 0x10);
    try expectLimit(&head6, 54, NetHeader.gso_tcpv6, 54 + 65535, 65535 - 21);
    const udp4 = macs ++ ip4(17, 0, 0x40) ++ udp(false);
    try expectLimit(&udp4, 34, NetHeader.gso_udp, 14 + 65535, 65512);
    const udp6 = macs ++ ip6(17, 0) ++ udp(true);
    // With the header that each fragment has before it.
    try expectLimit(&udp6, 54, NetHeader.gso_udp, 54 + 65535, 65520);
    try std.testing.expectError(error.BadGso, expectLimit(&udp6, 54, NetHeader.gso_udp, 54 + 65535, 65528));
}

test "extension headers are repeated, and a frame of nothing but headers is refused" {
    var random: std.Random.DefaultPrng = .init(6);
    const options = [_]u8{ 43, 0, 1, 4, 0, 0, 0, 0, 60, 0, 4, 0, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0 };
    const head = macs ++ ip6(0, options.len + 20 + Bench.payload_bytes) ++ options ++ tcp(true, 0x10);
    const bench: *Bench = try .create(&head, 54 + options.len, NetHeader.gso_tcpv6, 3000, random.random());
    defer bench.destroy();
    try bench.start(false);
    const at = 54 + options.len + 16;
    var sums: [2]u16 = undefined;
    for (&sums, [_]u16{ 3020, 520 }, 0..) |*sum, len, i| {
        var into: [4000]u8 = undefined;
        const bytes = bench.read(i, &into);
        sum.* = read16(bytes[at..]);
        try std.testing.expectEqualSlices(u8, &options, bytes[54..][0..options.len]);
        var whole: checksum.Sum = .{};
        whole.add(bytes[22..54]);
        whole.add(&.{ 0, 6, @truncate(len >> 8), @truncate(len) });
        whole.add(bytes[54 + options.len ..]);
        try std.testing.expectEqual(0, whole.finish());
    }
    try bench.expect(&.{ 3098, 598 }, &.{ 18, at }, &.{ &.{ 3044, sums[0] }, &.{ 544, sums[1] } });
    bench.bytes[55] = 200;
    try std.testing.expectError(error.BadGso, bench.start(false));
}

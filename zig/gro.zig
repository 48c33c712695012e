//! Frames of TCP streams put together again, as they come from an uplink whose kernel or NIC did not: what a guest
//! receives big costs it as much as one small frame. What `segment.zig` would make of the result is what came.

const std = @import("std");
const abi = @import("abi.zig");
const chain = @import("chain.zig");
const checksum = @import("checksum.zig");
const frame_file = @import("frame.zig");
const net_header = @import("net_header.zig");
const packet = @import("packet.zig");
const spec = @import("spec.zig");

const Frame = frame_file.Frame;
const NetHeader = spec.NetHeader;
const read16 = packet.read16;
const store = checksum.store;
const write16 = packet.write16;

/// Ethernet with two tags, IPv6, and TCP with all options.
const head_bytes_max = 14 + 8 + 40 + 60;
/// Streams that are watched at once, in one burst.
const streams_max = 8;
const packet_bytes_max = 65535;

const tcp_psh = 0x08;
const tcp_ack = 0x10;

/// Headers of a frame that may be part of a bigger one, as offsets into its first segment.
const Candidate = struct {
    frame: *const Frame,
    bytes: []u8,
    network_at: u32,
    transport_at: u32,
    payload_at: u32,
    is_ipv6: bool,

    /// Null: it is to stay as it is.
    fn of(frame: *const Frame) ?Candidate {
        if (frame.segments.len != 1 or frame.header.gso_type != NetHeader.gso_none) return null;
        const bytes = frame.segments[0].base[0..frame.len];
        const network = packet.Network.of(bytes);
        const network_at: u32 = @intCast(bytes.len - network.bytes.len);
        const is_ipv6 = network.type == net_header.ethertype_ipv6;
        const header_bytes: u32 = if (is_ipv6) packet.ipv6_bytes else 20;
        if (network.bytes.len < header_bytes + 20) return null;
        if (lengthOf(network) != network.bytes.len) return null;
        const tcp = network.bytes[header_bytes..];
        const tcp_bytes = @as(u32, tcp[12] >> 4) * 4;
        if (tcp_bytes < 20 or tcp_bytes >= tcp.len) return null;
        // What else a flag says is said once, of one place in the stream.
        if (tcp[12] & 0x0f != 0 or tcp[13] & ~@as(u8, tcp_psh) != tcp_ack) return null;
        return .{
            .frame = frame,
            .bytes = bytes,
            .network_at = network_at,
            .transport_at = network_at + header_bytes,
            .payload_at = network_at + header_bytes + tcp_bytes,
            .is_ipv6 = is_ipv6,
        };
    }

    /// As IP has it; 0: it is no plain TCP.
    fn lengthOf(network: packet.Network) usize {
        const bytes = network.bytes;
        switch (network.type) {
            net_header.ethertype_ipv4 => {
                const is_plain = bytes[0] == 0x45 and bytes[9] == packet.protocol_tcp;
                const is_fragment = read16(bytes[6..]) & 0x3fff != 0;
                return if (is_plain and !is_fragment) read16(bytes[2..]) else 0;
            },
            net_header.ethertype_ipv6 => {
                const is_plain = bytes[0] >> 4 == 6 and bytes[6] == packet.protocol_tcp;
                return if (is_plain) packet.ipv6_bytes + @as(usize, read16(bytes[4..])) else 0;
            },
            else => return 0,
        }
    }

    fn payloadBytes(candidate: Candidate) u32 {
        return @intCast(candidate.bytes.len - candidate.payload_at);
    }

    fn tcpHeader(candidate: Candidate) []const u8 {
        return candidate.bytes[candidate.transport_at..candidate.payload_at];
    }

    fn ip(candidate: Candidate) []const u8 {
        return candidate.bytes[candidate.network_at..candidate.transport_at];
    }

    fn sequence(candidate: Candidate) u32 {
        return std.mem.readInt(u32, candidate.tcpHeader()[4..8], .big);
    }

    fn isPushed(candidate: Candidate) bool {
        return candidate.tcpHeader()[13] & tcp_psh != 0;
    }

    /// Same addresses, tags and ports.
    fn isOfStream(candidate: Candidate, other: Candidate) bool {
        if (candidate.transport_at != other.transport_at) return false;
        const addresses_at: usize = if (candidate.is_ipv6) 8 else 12;
        return std.mem.eql(u8, candidate.bytes[0..candidate.network_at], other.bytes[0..other.network_at]) and
            std.mem.eql(u8, candidate.ip()[addresses_at..], other.ip()[addresses_at..]) and
            std.mem.eql(u8, candidate.tcpHeader()[0..4], other.tcpHeader()[0..4]);
    }

    /// Of headers all that is repeated in segments of one packet.
    fn isAlike(candidate: Candidate, other: Candidate) bool {
        if (candidate.payload_at != other.payload_at) return false;
        const mine = candidate.ip();
        const its = other.ip();
        const same_ip = if (candidate.is_ipv6)
            std.mem.eql(u8, mine[0..4], its[0..4]) and std.mem.eql(u8, mine[6..8], its[6..8])
        else
            std.mem.eql(u8, mine[0..2], its[0..2]) and std.mem.eql(u8, mine[6..10], its[6..10]);
        const tcp = candidate.tcpHeader();
        const other_tcp = other.tcpHeader();
        // Acknowledgement; window; urgent pointer and options.
        return same_ip and std.mem.eql(u8, tcp[8..12], other_tcp[8..12]) and
            std.mem.eql(u8, tcp[14..16], other_tcp[14..16]) and std.mem.eql(u8, tcp[18..], other_tcp[18..]);
    }

    /// Its sums are right, or left to be finished, and then it comes from this host.
    fn isSound(candidate: Candidate) bool {
        const header = candidate.frame.header;
        if (!candidate.is_ipv6 and !sumsUp(candidate.ip())) return false;
        if (header.flags & NetHeader.needs_csum != 0) {
            return header.csum_start == candidate.transport_at and header.csum_offset == 16;
        }
        var sum = candidate.pseudoSum(candidate.bytes.len - candidate.transport_at);
        sum.add(candidate.bytes[candidate.transport_at..]);
        return sum.finish() == 0;
    }

    fn pseudoSum(candidate: Candidate, len: usize) checksum.Sum {
        var sum: checksum.Sum = .{};
        const addresses_at: usize = if (candidate.is_ipv6) 8 else 12;
        sum.add(candidate.ip()[addresses_at..]);
        sum.add(&.{ 0, packet.protocol_tcp, @truncate(len >> 8), @truncate(len) });
        return sum;
    }
};

/// A frame that others are put behind.
const Stream = struct {
    first: Candidate,
    last: Candidate,
    index: u32,
    frames: u32,
    payload: u32,
    /// A short or pushed segment is the last one, and so is one before another that does not fit.
    over: bool,

    fn takes(stream: *const Stream, next: Candidate) bool {
        const bytes = next.payloadBytes();
        if (bytes > stream.first.payloadBytes() or !next.isAlike(stream.first)) return false;
        const end = stream.first.payload_at - stream.first.network_at + stream.payload + bytes;
        if (end > packet_bytes_max) return false;
        if (next.sequence() != stream.first.sequence() +% stream.payload) return false;
        if (next.frame.header.flags != stream.first.frame.header.flags) return false;
        if (!stream.follows(next)) return false;
        return (stream.frames > 1 or stream.first.isSound()) and next.isSound();
    }

    fn follows(stream: *const Stream, next: Candidate) bool {
        if (next.is_ipv6) return true;
        // Of what is not to be fragmented the number means nothing (RFC 6864, 4.1), and many senders leave it.
        const before = read16(stream.last.ip()[4..]);
        const number = read16(next.ip()[4..]);
        const whole = next.ip()[6] & 0x40 != 0;
        return number == before +% 1 or (whole and number == before);
    }
};

/// Room for the headers of what is put together; good as long as the burst.
pub const Gro = struct {
    heads: [streams_max][head_bytes_max]u8,
    streams: [streams_max]Stream,
    count: u32,
    /// By frame: the frame that it is put behind.
    behind: [abi.packets_max]u8,

    const nothing = 0xff;

    /// Puts together what can be; those that are part of others leave the frames. Returns how many did. In `pool` is
    /// room for all of it.
    pub fn merge(gro: *Gro, frames: []Frame, pool: *chain.Pool) u32 {
        gro.count = 0;
        gro.behind = @splat(nothing);
        for (frames, 0..) |*frame, i| {
            const candidate = Candidate.of(frame) orelse continue;
            gro.place(candidate, @intCast(i));
        }
        var merged: u32 = 0;
        for (gro.streams[0..gro.count], gro.heads[0..gro.count]) |*stream, *head| {
            if (stream.frames < 2) continue;
            gro.join(frames, pool, stream, head);
            merged += stream.frames - 1;
        }
        if (merged > 0) gro.compact(frames);
        return merged;
    }

    fn place(gro: *Gro, candidate: Candidate, index: u32) void {
        for (gro.streams[0..gro.count]) |*stream| {
            if (stream.over or !candidate.isOfStream(stream.first)) continue;
            if (!stream.takes(candidate)) {
                // What comes later must not overtake it.
                stream.over = true;
                continue;
            }
            stream.last = candidate;
            stream.frames += 1;
            stream.payload += candidate.payloadBytes();
            stream.over = candidate.isPushed() or candidate.payloadBytes() < stream.first.payloadBytes();
            gro.behind[index] = @intCast(stream.index);
            return;
        }
        if (gro.count == streams_max) return;
        gro.streams[gro.count] = .{
            .first = candidate,
            .last = candidate,
            .index = index,
            .frames = 1,
            .payload = candidate.payloadBytes(),
            .over = candidate.isPushed(),
        };
        gro.count += 1;
    }

    /// Makes one frame of a stream's: a head of its own, and the payloads where they lie.
    fn join(
        gro: *const Gro,
        frames: []Frame,
        pool: *chain.Pool,
        stream: *const Stream,
        head: *[head_bytes_max]u8,
    ) void {
        const first = stream.first;
        // In front of the segments is room for the one that `Burst.front` puts there.
        pool.used += 1;
        const mark = pool.used;
        @memcpy(head[0..first.payload_at], first.bytes[0..first.payload_at]);
        pool.append(head, first.payload_at);
        for (frames, gro.behind[0..frames.len], 0..) |*frame, before, i| {
            if (i != stream.index and before != stream.index) continue;
            pool.append(frame.segments[0].base + first.payload_at, frame.len - first.payload_at);
        }
        const frame = &frames[stream.index];
        frame.segments = pool.items[mark..pool.used];
        frame.len = first.payload_at + stream.payload;
        frame.behind_header = false;
        finishHead(stream, head);
        frame.header = net_header.plain;
        frame.header.flags = NetHeader.needs_csum;
        frame.header.csum_start = @intCast(first.transport_at);
        frame.header.csum_offset = 16;
        frame.header.gso_type = if (first.is_ipv6) NetHeader.gso_tcpv6 else NetHeader.gso_tcpv4;
        frame.header.gso_size = @intCast(first.payloadBytes());
        frame.header.hdr_len = @intCast(first.payload_at);
    }

    fn compact(gro: *const Gro, frames: []Frame) void {
        var kept: u32 = 0;
        for (frames, gro.behind[0..frames.len], 0..) |frame, before, i| {
            if (before != nothing) continue;
            if (kept != i) frames[kept] = frame;
            kept += 1;
        }
    }
};

/// Lengths of the whole, the sum of the pseudo-header in the place of the checksum, and PSH of the last.
fn finishHead(stream: *const Stream, head: []u8) void {
    const first = stream.first;
    const network = head[first.network_at..first.transport_at];
    const transport_len = first.payload_at - first.transport_at + stream.payload;
    if (first.is_ipv6) {
        write16(network[4..], @intCast(transport_len));
    } else {
        write16(network[2..], @intCast(network.len + transport_len));
        write16(network[10..], 0);
        var sum: checksum.Sum = .{};
        sum.add(network);
        store(network[10..12], sum.finish());
    }
    head[first.transport_at + 13] |= stream.last.tcpHeader()[13] & tcp_psh;
    store(head[first.transport_at + 16 ..][0..2], ~first.pseudoSum(transport_len).finish());
}

fn sumsUp(bytes: []const u8) bool {
    var sum: checksum.Sum = .{};
    sum.add(bytes);
    return sum.finish() == 0;
}

/// A big packet, the pieces that are cut from it, and what becomes of them.
const Bench = struct {
    frames: [abi.packets_max]Frame,
    count: u32,
    pool: chain.Pool,
    gro: Gro,
    cut: segment.Cut,
    pieces: segment.Pieces,
    whole: [9000]u8,
    whole_segment: [1]chain.Segment,
    frame: Frame,
    room: [abi.packets_max][1600]u8,

    fn create() !*Bench {
        const bench = try std.testing.allocator.create(Bench);
        bench.count = 0;
        bench.pool = .{ .items = try std.testing.allocator.alloc(chain.Segment, 4 * abi.packets_max) };
        const items = try std.testing.allocator.alloc(chain.Segment, segment.Pieces.segments_max);
        bench.pieces.segments = .{ .items = items };
        return bench;
    }

    fn destroy(bench: *Bench) void {
        std.testing.allocator.free(bench.pool.items);
        std.testing.allocator.free(bench.pieces.segments.items);
        std.testing.allocator.destroy(bench);
    }

    /// A packet of `len` bytes and its pieces, the latter behind what the burst has.
    fn send(bench: *Bench, is_ipv6: bool, port: u8, len: u32, size: u16, partial: bool) !void {
        const bytes = bench.whole[0..len];
        for (bytes, 0..) |*byte, i| byte.* = @truncate(i *% 31 +% port);
        const at: u16 = if (is_ipv6) 54 else 34;
        if (is_ipv6) writeIpv6(bytes) else writeIpv4(bytes);
        const tcp = [_]u8{ 0, port, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, 0x80, 0x18, 9, 9, 0, 0, 0, 0 };
        const options = [_]u8{ 1, 1, 8, 10, 1, 1, 1, 1, 2, 2, 2, 2 };
        @memcpy(bytes[at..][0 .. tcp.len + options.len], &(tcp ++ options));
        var sum: checksum.Sum = .{};
        sum.add(if (is_ipv6) bytes[22..54] else bytes[26..34]);
        sum.add(&.{ 0, 6, @truncate((len - at) >> 8), @truncate(len - at) });
        store(bytes[at + 16 ..][0..2], ~sum.finish());
        bench.whole_segment[0] = .{ .base = bytes.ptr, .len = len };
        bench.frame = .{
            .segments = &bench.whole_segment,
            .len = len,
            .behind_header = false,
            .header = net_header.plain,
            .ethernet = bytes[0..16].*,
        };
        bench.frame.header.flags = NetHeader.needs_csum;
        bench.frame.header.csum_start = at;
        bench.frame.header.csum_offset = 16;
        bench.frame.header.gso_type = if (is_ipv6) NetHeader.gso_tcpv6 else NetHeader.gso_tcpv4;
        bench.frame.header.gso_size = size;
        bench.frame.header.hdr_len = at + 32;
        try bench.cut.init(&bench.frame, partial);
        bench.cut.next(&bench.pieces);
        for (bench.pieces.frames[0..bench.pieces.count]) |*piece| bench.arrive(piece);
    }

    fn arrive(bench: *Bench, piece: *const Frame) void {
        const index = bench.count;
        var cursor: chain.Cursor = .{ .segments = piece.segments };
        _ = cursor.read(&bench.room[index]);
        const segments = bench.pool.items[bench.pool.used + 1 ..][0..1];
        segments[0] = .{ .base = &bench.room[index], .len = piece.len };
        bench.pool.used += 2;
        bench.frames[index] = piece.*;
        bench.frames[index].segments = segments;
        bench.count += 1;
    }

    fn merge(bench: *Bench) u32 {
        const merged = bench.gro.merge(bench.frames[0..bench.count], &bench.pool);
        bench.count -= merged;
        return merged;
    }

    fn expectWhole(bench: *Bench, index: usize) !void {
        const frame = &bench.frames[index];
        try std.testing.expectEqual(bench.frame.header, frame.header);
        var bytes: [9000]u8 = undefined;
        var cursor: chain.Cursor = .{ .segments = frame.segments };
        const len = cursor.read(&bytes);
        try std.testing.expectEqualSlices(u8, bench.whole[0..bench.frame.len], bytes[0..len]);
    }
};

const segment = @import("segment.zig");
const macs = [_]u8{ 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1 };

fn writeIpv4(bytes: []u8) void {
    const head = macs ++ [_]u8{ 8, 0, 0x45, 0, 0, 0, 0xff, 0xfe, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2 };
    @memcpy(bytes[0..34], &head);
    write16(bytes[16..], @intCast(bytes.len - 14));
    var sum: checksum.Sum = .{};
    sum.add(bytes[14..34]);
    store(bytes[24..26], sum.finish());
}

fn writeIpv6(bytes: []u8) void {
    @memcpy(bytes[0..22], &(macs ++ [_]u8{ 0x86, 0xdd, 0x60, 1, 2, 3, 0, 0, 6, 64 }));
    write16(bytes[18..], @intCast(bytes.len - 54));
    @memset(bytes[22..54], 7);
}

test "what was cut comes together as it was, sums finished or not" {
    for ([_]bool{ false, true }) |is_ipv6| {
        for ([_]bool{ false, true }) |partial| {
            for ([_]u32{ 3000, 4096, 8999 }) |len| {
                const bench: *Bench = try .create();
                defer bench.destroy();
                try bench.send(is_ipv6, 1, len, 1000, partial);
                const count = bench.count;
                try std.testing.expectEqual(count - 1, bench.merge());
                try std.testing.expectEqual(1, bench.count);
                try bench.expectWhole(0);
            }
        }
    }
}

test "streams side by side stay apart, and each keeps its order" {
    const bench: *Bench = try .create();
    defer bench.destroy();
    try bench.send(false, 1, 2000, 600, false);
    try bench.send(false, 2, 2000, 600, false);
    const frames = &bench.frames;
    // One of each in turn.
    const shuffled = [_]Frame{ frames[0], frames[4], frames[1], frames[5], frames[2], frames[6], frames[3], frames[7] };
    frames[0..8].* = shuffled;
    try std.testing.expectEqual(6, bench.merge());
    try std.testing.expectEqual(2, bench.count);
    try bench.expectWhole(1);
}

test "a segment that is damaged, missing or unlike the others ends what is put together" {
    const content = 100;
    const ipv4_sum = 24;
    const sequence_number = 41;
    const sender = 11;
    const fin = 47;
    for ([_]usize{ content, ipv4_sum, sequence_number, sender, fin }) |place| {
        const bench: *Bench = try .create();
        defer bench.destroy();
        try bench.send(false, 1, 66 + 4 * 1000, 1000, false);
        bench.room[1][place] ^= 1;
        bench.frames[1].ethernet = bench.room[1][0..16].*;
        // The first one stays alone, and so does the second. Third and fourth go together.
        try std.testing.expectEqual(1, bench.merge());
        try std.testing.expectEqual(3, bench.count);
        for (0..2) |i| {
            const base: [*]u8 = &bench.room[i];
            try std.testing.expectEqual(base, bench.frames[i].segments[0].base);
        }
    }
}

test "an identification out of turn ends what is put together, but where it means nothing" {
    for ([_]u8{ 0, 0x40 }) |flags| {
        const bench: *Bench = try .create();
        defer bench.destroy();
        try bench.send(false, 1, 66 + 4 * 1000, 1000, false);
        for (bench.room[0..4]) |*bytes| {
            const network = bytes[14..34];
            network[6] = flags;
            write16(network[4..], 7);
            write16(network[10..], 0);
            var sum: checksum.Sum = .{};
            sum.add(network);
            store(network[10..12], sum.finish());
        }
        // All the same, which it may be in what is not to be fragmented.
        try std.testing.expectEqual(@as(u32, if (flags == 0) 0 else 3), bench.merge());
    }
}

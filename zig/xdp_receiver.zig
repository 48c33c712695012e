//! What an AF_XDP socket receives, where it lies.

const std = @import("std");
const Arrival = @import("arrival.zig").Arrival;
const net_header = @import("net_header.zig");
const sys = @import("sys.zig");
const umem_file = @import("umem.zig");
const xdp_ring = @import("xdp_ring.zig");

const Piece = umem_file.Piece;
const Umem = umem_file.Umem;
const XdpRing = xdp_ring.XdpRing;

pub const XdpReceiver = struct {
    fd: i32,
    umem: Umem,
    ring: XdpRing(Piece),
    /// Chunks for the kernel to receive into.
    fill: XdpRing(u64),
    /// Pieces that are looked at.
    taken: u32,

    pub fn open(fd: i32, umem: Umem, offsets: xdp_ring.Offsets) sys.Error!XdpReceiver {
        const ring_at = 0;
        const fill_at = 0x1_0000_0000;
        const ring: XdpRing(Piece) = try .open(fd, ring_at, offsets.receive, umem_file.ring_entries);
        errdefer ring.close();
        const fill: XdpRing(u64) = try .open(fd, fill_at, offsets.fill, umem_file.ring_entries);
        return .{ .fd = fd, .umem = umem, .ring = ring, .fill = fill, .taken = 0 };
    }

    /// Gives the kernel all chunks that are to receive into: a driver may want them when the socket is bound.
    pub fn stock(receiver: *XdpReceiver) void {
        for (0..umem_file.chunks_each) |number| receiver.fill.put(umem_file.receiveAddress(@intCast(number)));
        receiver.fill.publish();
    }

    /// Goes on where another process rests, which has given back all that it read.
    pub fn goOn(receiver: *XdpReceiver) void {
        receiver.ring.resumeConsuming();
        receiver.fill.resumeProducing();
    }

    pub fn close(receiver: XdpReceiver) void {
        receiver.ring.close();
        receiver.fill.close();
    }

    /// A driver that found no chunks does not look for them again by itself, and says so.
    pub fn pending(receiver: *const XdpReceiver) bool {
        if (receiver.ring.available() > 0) return true;
        return receiver.fill.wantsWakeup() and sys.isReadable(receiver.fd);
    }

    /// The next packet; false: there is none, or not all of it. One in too many pieces has fewer bytes than its `len`.
    ///
    /// The header says nothing, for nothing is known: XDP is before all that the kernel could tell, and a sum that is
    /// still to be finished looks like a wrong one. From a wire there are none; a veth's peer sends them unless it has
    /// `ethtool -K PEER tx off`.
    pub fn read(receiver: *XdpReceiver, arrival: *Arrival) bool {
        arrival.header = net_header.plain;
        arrival.count = 0;
        arrival.len = 0;
        const available = receiver.ring.available();
        for (0..available) |ahead| {
            const piece = receiver.ring.peek(@intCast(ahead));
            if (arrival.count < arrival.segments.len) {
                const bytes = receiver.umem.bytesOf(piece);
                arrival.segments[arrival.count] = .{ .base = bytes.ptr, .len = piece.len };
                arrival.count += 1;
            }
            arrival.len += piece.len;
            if (piece.options & Piece.continued != 0) continue;
            receiver.ring.next +%= @intCast(ahead + 1);
            receiver.taken += @intCast(ahead + 1);
            return true;
        }
        return false;
    }

    /// Those that were read are the kernel's again.
    pub fn giveBack(receiver: *XdpReceiver) void {
        if (receiver.taken == 0) return;
        while (receiver.taken > 0) : (receiver.taken -= 1) {
            const piece = receiver.ring.peek(0 -% receiver.taken);
            receiver.fill.put(umem_file.chunkAddress(piece.address));
        }
        receiver.ring.release();
        receiver.fill.publish();
    }
};

const TestRing = xdp_ring.TestRing;

/// Stands for the kernel's side of a socket.
const Bench = struct {
    umem: Umem,
    ring: TestRing(Piece),
    fill: TestRing(u64),

    fn create() !Bench {
        return .{
            .umem = try .open(),
            .ring = try .create(umem_file.ring_entries),
            .fill = try .create(umem_file.ring_entries),
        };
    }

    fn receiver(bench: *const Bench) XdpReceiver {
        return .{ .fd = -1, .umem = bench.umem, .ring = bench.ring.ours, .fill = bench.fill.ours, .taken = 0 };
    }

    fn destroy(bench: Bench) void {
        bench.fill.destroy();
        bench.ring.destroy();
        bench.umem.close();
    }

    /// One packet in pieces of these lengths, each byte of them `content`. The places of the chunks are given back
    /// later, by `fill.kernels.release`.
    fn arrive(bench: *Bench, content: u8, lens: []const u32) void {
        for (lens, 1..) |len, i| {
            const address = bench.fill.kernels.peek(0) + 256;
            bench.fill.kernels.next +%= 1;
            const more: u32 = if (i < lens.len) Piece.continued else 0;
            const piece: Piece = .{ .address = address, .len = len, .options = more };
            @memset(bench.umem.bytesOf(piece), content);
            bench.ring.kernels.put(piece);
        }
        bench.ring.kernels.publish();
    }
};

test "packets come in pieces where they lie, and their chunks go back, however many there were" {
    var bench: Bench = try .create();
    defer bench.destroy();
    var receiver = bench.receiver();
    receiver.stock();
    var arrival: Arrival = undefined;
    for (0..2 * umem_file.chunks_each) |round| {
        try std.testing.expect(!receiver.pending());
        try std.testing.expectEqual(umem_file.chunks_each, bench.fill.kernels.available());
        const content: u8 = @truncate(round);
        bench.arrive(content, &.{60});
        bench.arrive(content +% 1, &.{ 3840, 3840, 320 });
        try std.testing.expect(receiver.pending());
        try std.testing.expect(receiver.read(&arrival));
        try std.testing.expectEqual(60, arrival.len);
        try std.testing.expectEqual(content, arrival.segments[0].base[59]);
        try std.testing.expect(receiver.read(&arrival));
        try std.testing.expectEqual(8000, arrival.len);
        try std.testing.expectEqual(3, arrival.count);
        try std.testing.expectEqual(320, arrival.segments[2].len);
        try std.testing.expectEqual(content +% 1, arrival.segments[2].base[319]);
        try std.testing.expect(!receiver.read(&arrival));
        receiver.giveBack();
        bench.fill.kernels.release();
    }
}

test "a packet waits until it is whole, and one in too many pieces is told by its length" {
    var bench: Bench = try .create();
    defer bench.destroy();
    var receiver = bench.receiver();
    receiver.stock();
    var arrival: Arrival = undefined;
    bench.ring.kernels.put(.{ .address = 256, .len = 3840, .options = Piece.continued });
    bench.ring.kernels.publish();
    try std.testing.expect(!receiver.read(&arrival));
    bench.ring.kernels.put(.{ .address = 4096 + 256, .len = 100, .options = 0 });
    bench.ring.kernels.publish();
    try std.testing.expect(receiver.read(&arrival));
    try std.testing.expectEqual(3940, arrival.len);
    bench.arrive(1, &@as([Arrival.segments_max + 2]u32, @splat(1000)));
    try std.testing.expect(receiver.read(&arrival));
    try std.testing.expectEqual(1000 * (Arrival.segments_max + 2), arrival.len);
    try std.testing.expectEqual(Arrival.segments_max, arrival.count);
}

test "another process goes on where one rests, between pieces of a packet, and all chunks are there" {
    var bench: Bench = try .create();
    defer bench.destroy();
    var one = bench.receiver();
    one.stock();
    var arrival: Arrival = undefined;
    for (0..3 * umem_file.ring_entries) |round| {
        const content: u8 = @truncate(round);
        bench.arrive(content, &.{ 3840, 100 });
        bench.arrive(content +% 1, &.{3840});
        bench.ring.kernels.entryAt(bench.ring.kernels.next -% 1).options = Piece.continued;
        try std.testing.expect(one.read(&arrival));
        try std.testing.expectEqual(content, arrival.segments[1].base[99]);
        try std.testing.expect(!one.read(&arrival));
        one.giveBack();
        bench.arrive(content +% 1, &.{77});
        var other = bench.receiver();
        other.goOn();
        try std.testing.expect(other.read(&arrival));
        try std.testing.expectEqual(3917, arrival.len);
        try std.testing.expectEqual(content +% 1, arrival.segments[1].base[76]);
        other.giveBack();
        bench.fill.kernels.release();
        try std.testing.expectEqual(umem_file.chunks_each, bench.fill.kernels.available());
        one = other;
    }
}

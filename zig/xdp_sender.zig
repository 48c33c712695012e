//! What an AF_XDP socket sends: frames that nobody else will finish, copied into its memory.

const std = @import("std");
const abi = @import("abi.zig");
const chain = @import("chain.zig");
const Frame = @import("frame.zig").Frame;
const sys = @import("sys.zig");
const umem_file = @import("umem.zig");
const xdp_ring = @import("xdp_ring.zig");

const Hands = umem_file.Hands;
const Piece = umem_file.Piece;
const Umem = umem_file.Umem;
const XdpRing = xdp_ring.XdpRing;
const chunk_bytes = umem_file.chunk_bytes;

/// Calls in a row by which the kernel sent nothing: an interface that is busy for longer than that has to wait for the
/// next burst.
const vain_calls_max = 16;

/// Of the kernel's buffers for each frame that it copied and a driver still has, above the frame.
const overhead_bytes = 1024;

pub const XdpSender = struct {
    fd: i32,
    umem: Umem,
    ring: XdpRing(Piece),
    /// Chunks that the kernel is done with.
    completion: XdpRing(u64),
    free: *Hands,
    /// A frame may be longer than a chunk.
    in_pieces: bool,
    /// The last burst did not leave.
    is_down: bool,

    pub fn open(sender: *XdpSender, fd: i32, umem: Umem, offsets: xdp_ring.Offsets, in_pieces: bool) sys.Error!void {
        const ring_at = 0x8000_0000;
        const completion_at = 0x1_8000_0000;
        const ring: XdpRing(Piece) = try .open(fd, ring_at, offsets.send, umem_file.ring_entries);
        errdefer ring.close();
        const completion: XdpRing(u64) = try .open(fd, completion_at, offsets.completion, umem_file.ring_entries);
        sender.over(fd, umem, ring, completion, in_pieces);
        // Without zero copy the kernel copies frames once more: of these, too, as many as there are chunks may be on
        // their way. Else it is fewer.
        sys.setSendBuffer(fd, umem_file.chunks_each * (chunk_bytes + overhead_bytes)) catch {};
    }

    fn over(
        sender: *XdpSender,
        fd: i32,
        umem: Umem,
        ring: XdpRing(Piece),
        completion: XdpRing(u64),
        in_pieces: bool,
    ) void {
        sender.* = .{
            .fd = fd,
            .umem = umem,
            .ring = ring,
            .completion = completion,
            .free = umem.hands(),
            .in_pieces = in_pieces,
            .is_down = false,
        };
    }

    /// Goes on where another process rests, which has shown all that it put.
    pub fn goOn(sender: *XdpSender) void {
        sender.ring.resumeProducing();
        sender.completion.resumeConsuming();
    }

    pub fn close(sender: *const XdpSender) void {
        sender.ring.close();
        sender.completion.close();
    }

    /// Copies a frame, to be sent when the burst is over, or returns the counter of why it is not.
    pub fn put(sender: *XdpSender, frame: *const Frame, stats: *abi.VringStats) ?*u64 {
        var left = std.math.divCeil(u32, frame.len, chunk_bytes) catch unreachable;
        if (left > 1 and !sender.in_pieces) return &stats.drop_too_big;
        if (sender.is_down) return &stats.drop_link_down;
        if (!sender.has(left)) return if (sender.is_down) &stats.drop_link_down else &stats.drop_no_buffer;
        const free = sender.free;
        var cursor: chain.Cursor = .{ .segments = frame.segments };
        while (left > 0) : (left -= 1) {
            free.count -= 1;
            const number = free.numbers[free.count];
            sender.ring.put(.{
                .address = umem_file.sendAddress(number),
                .len = @intCast(cursor.read(sender.umem.sendChunk(number))),
                .options = if (left > 1) Piece.continued else 0,
            });
        }
        return null;
    }

    /// Whether there are so many chunks, or will be once the kernel did what it has.
    fn has(sender: *XdpSender, chunks: u32) bool {
        if (sender.free.count >= chunks) return true;
        sender.reap();
        if (sender.free.count >= chunks) return true;
        sender.finish();
        sender.reap();
        return sender.free.count >= chunks;
    }

    fn reap(sender: *XdpSender) void {
        const free = sender.free;
        const available = sender.completion.available();
        for (0..available) |ahead| {
            free.numbers[free.count] = umem_file.sendNumber(sender.completion.peek(@intCast(ahead)));
            free.count += 1;
        }
        sender.completion.next +%= available;
        sender.completion.release();
    }

    /// The burst is over: what was put is sent, and what was left before.
    pub fn finish(sender: *XdpSender) void {
        sender.ring.publish();
        sender.is_down = false;
        var vain_calls: u32 = 0;
        // Without zero copy each call sends no more than so many (TX_BATCH_SIZE, 32).
        while (vain_calls < vain_calls_max) {
            const before = sender.ring.unconsumed();
            if (before == 0 or !sender.ring.wantsWakeup()) return;
            sys.wake(sender.fd) catch switch (sys.lastErrno()) {
                sys.errno_again, sys.errno_busy, sys.errno_no_buffers, sys.errno_interrupted => {},
                else => {
                    sender.is_down = true;
                    return;
                },
            };
            vain_calls = if (sender.ring.unconsumed() == before) vain_calls + 1 else 0;
        }
    }
};

const TestRing = xdp_ring.TestRing;

/// Stands for the kernel's side of a socket.
const Bench = struct {
    umem: Umem,
    ring: TestRing(Piece),
    completion: TestRing(u64),
    sender: XdpSender,
    bytes: [3 * chunk_bytes]u8,
    segments: [2]chain.Segment,
    stats: abi.VringStats,

    fn create(in_pieces: bool) !*Bench {
        const bench = try std.testing.allocator.create(Bench);
        bench.umem = try .open();
        bench.ring = try .create(umem_file.ring_entries);
        bench.completion = try .create(umem_file.ring_entries);
        bench.sender.over(-1, bench.umem, bench.ring.ours, bench.completion.ours, in_pieces);
        for (&bench.bytes, 0..) |*byte, i| byte.* = @truncate(i *% 7 +% i / 256);
        return bench;
    }

    fn destroy(bench: *Bench) void {
        bench.completion.destroy();
        bench.ring.destroy();
        bench.umem.close();
        std.testing.allocator.destroy(bench);
    }

    /// A frame in two segments.
    fn put(bench: *Bench, len: u32) ?*u64 {
        bench.segments = .{
            .{ .base = &bench.bytes, .len = 50 },
            .{ .base = bench.bytes[50..].ptr, .len = len - 50 },
        };
        const frame: Frame = .{
            .segments = &bench.segments,
            .len = len,
            .behind_header = false,
            .header = @import("net_header.zig").plain,
            .ethernet = @splat(0),
        };
        return bench.sender.put(&frame, &bench.stats);
    }

    /// Sends the next frame, which is to be one of `len` bytes.
    fn expectSent(bench: *Bench, len: u32) !void {
        var done: usize = 0;
        while (true) {
            try std.testing.expect(bench.ring.kernels.available() > 0);
            const piece = bench.ring.kernels.peek(0);
            const bytes = bench.umem.bytesOf(piece);
            try std.testing.expectEqualSlices(u8, bench.bytes[done..][0..bytes.len], bytes);
            done += bytes.len;
            bench.ring.kernels.next +%= 1;
            bench.completion.kernels.put(piece.address);
            if (piece.options & Piece.continued == 0) break;
        }
        bench.ring.kernels.release();
        bench.completion.kernels.publish();
        try std.testing.expectEqual(len, done);
    }
};

test "frames go out as they are, in pieces of a chunk, and chunks are used again" {
    const bench: *Bench = try .create(true);
    defer bench.destroy();
    for (0..umem_file.chunks_each) |_| {
        for ([_]u32{ 60, chunk_bytes, chunk_bytes + 1, 3 * chunk_bytes }) |len| {
            try std.testing.expectEqual(null, bench.put(len));
            try std.testing.expectEqual(0, bench.ring.kernels.available());
            bench.sender.finish();
            try bench.expectSent(len);
        }
    }
}

test "what finds no chunk, or fits none, is dropped and counted by reason" {
    const bench: *Bench = try .create(false);
    defer bench.destroy();
    try std.testing.expectEqual(&bench.stats.drop_too_big, bench.put(chunk_bytes + 1));
    for (0..umem_file.chunks_each) |_| try std.testing.expectEqual(null, bench.put(60));
    try std.testing.expectEqual(&bench.stats.drop_no_buffer, bench.put(60));
    // What is there was shown when room was looked for.
    try bench.expectSent(60);
    try std.testing.expectEqual(null, bench.put(70));
    try std.testing.expectEqual(&bench.stats.drop_no_buffer, bench.put(60));
    // The fd is none: the interface is gone.
    const flags: *u32 = @constCast(bench.sender.ring.flags);
    flags.* = 1;
    try std.testing.expectEqual(&bench.stats.drop_link_down, bench.put(60));
    try bench.expectSent(60);
    // Nothing is added to what is left, until it has left.
    try std.testing.expectEqual(&bench.stats.drop_link_down, bench.put(60));
    flags.* = 0;
    bench.sender.finish();
    try std.testing.expectEqual(null, bench.put(60));
}

test "another process goes on with the chunks that one had in hand, and others that come back" {
    const bench: *Bench = try .create(true);
    defer bench.destroy();
    for (0..umem_file.chunks_each) |_| {
        // Some rest in either ring, and one is between them, in the driver's hands.
        for ([_]u32{ 60, chunk_bytes + 1, 70, 80 }) |len| try std.testing.expectEqual(null, bench.put(len));
        bench.sender.finish();
        const held = bench.ring.kernels.peek(0);
        bench.ring.kernels.next +%= 1;
        bench.ring.kernels.release();
        try bench.expectSent(chunk_bytes + 1);
        const adopted: Umem = try .adopt(bench.umem.fd);
        defer adopted.forget();
        var other: XdpSender = undefined;
        other.over(-1, adopted, bench.ring.ours, bench.completion.ours, true);
        other.goOn();
        try bench.expectSent(70);
        try bench.expectSent(80);
        bench.completion.kernels.put(held.address);
        bench.completion.kernels.publish();
        other.reap();
        try std.testing.expectEqual(umem_file.chunks_each, other.free.count);
        var seen: std.StaticBitSet(umem_file.chunks_each) = .empty;
        for (other.free.numbers) |number| seen.set(number);
        try std.testing.expectEqual(umem_file.chunks_each, seen.count());
        bench.sender.goOn();
    }
}

test "memory that is laid out in another way, or makes no sense, is refused" {
    const umem: Umem = try .open();
    defer umem.close();
    const hands = umem.hands();
    for ([_]*u32{ &hands.version, &hands.count, &hands.numbers[7] }) |number| {
        const before = number.*;
        number.* = umem_file.chunks_each + 1;
        try std.testing.expectError(error.InvalidArgument, Umem.adopt(umem.fd));
        number.* = before;
    }
    const short = try sys.memoryFile("test", chunk_bytes);
    defer sys.close(short);
    try std.testing.expectError(error.InvalidArgument, Umem.adopt(short));
}

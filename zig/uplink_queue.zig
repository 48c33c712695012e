//! A queue of an interface of the host's, one direction of it: frames behind virtio-net headers, given to the kernel
//! one a call, and read or found in a ring; or without headers, in rings both ways.

const builtin = @import("builtin");
const std = @import("std");
const abi = @import("abi.zig");
const Arrival = @import("arrival.zig").Arrival;
const chain = @import("chain.zig");
const Frame = @import("frame.zig").Frame;
const Gro = @import("gro.zig").Gro;
const sys = @import("sys.zig");

const PacketReader = @import("packet_reader.zig").PacketReader;
const PacketRing = @import("packet_ring.zig").PacketRing;
const XdpReceiver = @import("xdp_receiver.zig").XdpReceiver;
const XdpSocket = @import("xdp_socket.zig").XdpSocket;
const allocator = std.heap.c_allocator;

/// Pieces that the kernel may cut in one burst: of usual packets it cuts no more than 3000, and each may cost as much
/// as a packet. A guest of tiny segments would hold up all others.
const pieces_in_burst = 8192;

pub const UplinkQueue = struct {
    fd: i32,
    /// What the kernel does for us, as features of a device.
    features: u64,
    /// Of what is sent.
    header_bytes: u32,
    source: Source,
    /// Whose queue it is, if there is no header.
    xdp: ?*XdpSocket,
    gro: ?*Gro,
    /// In this burst.
    pieces_left: u32,
    /// For a frame in too many segments. Only what frames filled is ever real.
    linear: sys.Map,

    const Source = union(enum) { none, reader: PacketReader, ring: *PacketRing, receiver: *XdpReceiver };

    pub const Error = error{ InvalidArgument, OutOfMemory, System };

    /// How frames come and go: one a call; the same, but received in a ring, of which the place to go on at may be
    /// known; or in rings.
    pub const Way = union(enum) { file, ring: ?u32, xdp: *XdpSocket };

    /// How to make one. The fd is borrowed for the call.
    pub const Config = struct { fd: i32, features: u64, header_bytes: u32, receives: bool, way: Way, gro: bool };

    pub fn create(config: Config) Error!*UplinkQueue {
        const queue = try allocator.create(UplinkQueue);
        errdefer allocator.destroy(queue);
        queue.features = config.features;
        queue.header_bytes = config.header_bytes;
        queue.fd = try sys.duplicate(config.fd);
        errdefer sys.close(queue.fd);
        queue.linear = try sys.mapPrivate(abi.packet_room_max);
        errdefer sys.unmap(queue.linear);
        queue.source = .none;
        queue.gro = null;
        queue.pieces_left = 0;
        queue.xdp = null;
        if (config.receives and config.gro) queue.gro = try allocator.create(Gro);
        errdefer if (queue.gro) |gro| allocator.destroy(gro);
        switch (config.way) {
            .file => if (config.receives) {
                queue.source = .{ .reader = try PacketReader.open(queue.fd) };
            },
            .ring => |place| if (config.receives) {
                const ring = try allocator.create(PacketRing);
                errdefer allocator.destroy(ring);
                if (place) |known| try ring.openAt(queue.fd, known) else try ring.open(queue.fd);
                queue.source = .{ .ring = ring };
            },
            .xdp => |socket| {
                if (!socket.take(if (config.receives) .receiver else .sender)) return error.InvalidArgument;
                queue.xdp = socket;
                if (config.receives) queue.source = .{ .receiver = &socket.receiver };
            },
        }
        return queue;
    }

    pub fn destroy(queue: *UplinkQueue) void {
        switch (queue.source) {
            .none => {},
            .reader => |*reader| reader.close(),
            .ring => |ring| {
                ring.close();
                allocator.destroy(ring);
            },
            .receiver => {},
        }
        if (queue.xdp) |socket| socket.leave(if (queue.source == .receiver) .receiver else .sender);
        if (queue.gro) |gro| allocator.destroy(gro);
        sys.unmap(queue.linear);
        sys.close(queue.fd);
        allocator.destroy(queue);
    }

    /// The place in its ring, for another process to go on there; 0 where it has none.
    pub fn position(queue: *const UplinkQueue) u32 {
        return if (queue.source == .ring) queue.source.ring.next else 0;
    }

    /// Whether there is something to be read; it need not look every time. Or, of a queue that sends, whether it takes
    /// frames: of those that the kernel does not take it drops and counts.
    pub fn pending(queue: *UplinkQueue) bool {
        return switch (queue.source) {
            .none => true,
            .reader => |*reader| reader.pending(),
            .ring => |ring| ring.pending(),
            .receiver => |receiver| receiver.pending(),
        };
    }

    /// Something came, says epoll.
    pub fn woken(queue: *UplinkQueue) void {
        if (queue.source == .reader) queue.source.reader.drained = false;
    }

    /// The next packet of a burst, good until `giveBack`. False: there is none.
    pub fn read(queue: *UplinkQueue, arrival: *Arrival) error{InterfaceGone}!bool {
        return switch (queue.source) {
            .none => false,
            .reader => |*reader| reader.read(arrival),
            .ring => |ring| ring.read(arrival),
            .receiver => |receiver| receiver.read(arrival),
        };
    }

    /// The burst is over.
    pub fn giveBack(queue: *UplinkQueue) void {
        switch (queue.source) {
            .none => {},
            .reader => |*reader| reader.taken = 0,
            .ring => |ring| ring.giveBack(),
            .receiver => |receiver| receiver.giveBack(),
        }
    }

    /// A burst to the kernel begins.
    pub fn begin(queue: *UplinkQueue) void {
        queue.pieces_left = pieces_in_burst;
    }

    /// A burst to the kernel is over: it has all frames, or gets them now.
    pub fn finish(queue: *UplinkQueue) void {
        if (queue.xdp) |socket| socket.sender.finish();
    }

    /// Gives the kernel a frame, or returns the counter of why it took none.
    pub fn put(queue: *UplinkQueue, frame: *const Frame, stats: *abi.VringStats) ?*u64 {
        const pieces = if (frame.header.gso_size == 0) 1 else frame.len / frame.header.gso_size;
        if (pieces > queue.pieces_left) return &stats.drop_no_buffer;
        queue.pieces_left -= pieces;
        if (queue.xdp) |socket| return socket.sender.put(frame, stats);
        var header = frame.header;
        header.num_buffers = 0;
        var vectors: [sys.vectors_max]sys.Vector = undefined;
        vectors[0] = .{ .base = std.mem.asBytes(&header), .len = queue.header_bytes };
        var count: usize = 2;
        if (frame.segments.len < vectors.len) {
            count = frame.segments.len + 1;
            for (frame.segments, vectors[1..count]) |segment, *vector| {
                vector.* = .{ .base = segment.base, .len = segment.len };
            }
        } else {
            var cursor: chain.Cursor = .{ .segments = frame.segments };
            vectors[1] = .{ .base = queue.linear.ptr, .len = cursor.read(queue.linear[0..frame.len]) };
        }
        write(queue.fd, vectors[0..count]) catch return dropOf(sys.lastErrno(), stats);
        return null;
    }
};

/// Pages of a guest in post-copy that have not come fail the call: this thread then asks for them.
fn write(fd: i32, vectors: []const sys.Vector) sys.Error!void {
    sys.writePacket(fd, vectors) catch |reason| {
        if (sys.lastErrno() != sys.errno_fault) return reason;
        for (vectors) |vector| touch(vector.base[0..vector.len]);
        return sys.writePacket(fd, vectors);
    };
}

fn touch(bytes: []const u8) void {
    var at: usize = 0;
    while (at < bytes.len) {
        const byte: *const volatile u8 = &bytes[at];
        _ = byte.*;
        const next_page = std.mem.alignForward(usize, @intFromPtr(byte) + 1, std.heap.page_size_min);
        at = next_page - @intFromPtr(bytes.ptr);
    }
}

fn dropOf(errno: u16, stats: *abi.VringStats) *u64 {
    return switch (errno) {
        sys.errno_again, sys.errno_no_buffers, sys.errno_no_memory => &stats.drop_no_buffer,
        sys.errno_too_long => &stats.drop_too_big,
        // It has other limits than we have: 128 pieces of a datagram, say.
        sys.errno_invalid => &stats.drop_bad_gso,
        else => &stats.drop_link_down,
    };
}

test "a burst has the kernel cut so many pieces, and no more" {
    const nowhere = try sys.openDevice("/dev/null");
    defer sys.close(nowhere);
    const queue: *UplinkQueue = try .create(.{
        .fd = nowhere,
        .features = 0,
        .header_bytes = 12,
        .receives = false,
        .way = .file,
        .gro = false,
    });
    defer queue.destroy();
    var bytes: [2000]u8 = @splat(0);
    const segments = [_]chain.Segment{.{ .base = &bytes, .len = bytes.len }};
    var frame: Frame = .{
        .segments = &segments,
        .len = bytes.len,
        .behind_header = false,
        .header = std.mem.zeroes(@import("spec.zig").NetHeader),
        .ethernet = @splat(0),
    };
    frame.header.gso_size = 1;
    var stats = std.mem.zeroes(abi.VringStats);
    for (0..2) |_| {
        queue.begin();
        for (0..pieces_in_burst / bytes.len) |_| try std.testing.expectEqual(null, queue.put(&frame, &stats));
        try std.testing.expectEqual(&stats.drop_no_buffer, queue.put(&frame, &stats).?);
    }
}

/// The emulator that runs the tests of other processors has no userfaultfd.
const userfault_tests = struct {
    test "a frame in a page that is still to come waits for it, and goes out whole" {
        const post_copy_file = @import("post_copy.zig");
        post_copy_file.PostCopy.probe() catch return error.SkipZigTest;
        const file = try sys.memoryFile("test", 1 << 16);
        defer sys.close(file);
        const map = try sys.mapShared(file, 0, 1 << 16);
        defer sys.unmap(map);
        var post_copy: post_copy_file.PostCopy = .{};
        const uffd = try post_copy.advise();
        try post_copy.listen();
        try post_copy.register(map);
        const pair = try sys.socketPair();
        defer for (pair) |fd| sys.close(fd);
        const Filler = struct {
            fn fill(fd: i32, to: [*]u8) void {
                sys.sleep(20_000_000);
                const page: [4096]u8 = @splat(7);
                for (0..2) |i| sys.fillUserfault(fd, to + 4096 * i, &page) catch unreachable;
            }
        };
        const thread = try std.Thread.spawn(.{}, Filler.fill, .{ uffd, map.ptr });
        try write(pair[0], &.{ .{ .base = "head", .len = 4 }, .{ .base = map.ptr + 4000, .len = 200 } });
        thread.join();
        var bytes: [300]u8 = undefined;
        try std.testing.expectEqual(204, try sys.receive(pair[1], &bytes));
        try std.testing.expectEqualStrings("head", bytes[0..4]);
        try std.testing.expect(std.mem.allEqual(u8, bytes[4..204], 7));
        post_copy.end();
    }
};

test {
    if (builtin.cpu.arch == .x86_64) _ = userfault_tests;
}

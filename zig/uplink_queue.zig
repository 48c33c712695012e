//! A queue of an interface of the host's, one direction of it: frames behind virtio-net headers, given to the kernel
//! one a call, and read or found in a ring.

const std = @import("std");
const abi = @import("abi.zig");
const Arrival = @import("arrival.zig").Arrival;
const chain = @import("chain.zig");
const Frame = @import("frame.zig").Frame;
const Gro = @import("gro.zig").Gro;
const sys = @import("sys.zig");

const PacketReader = @import("packet_reader.zig").PacketReader;
const PacketRing = @import("packet_ring.zig").PacketRing;
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
    gro: ?*Gro,
    /// In this burst.
    pieces_left: u32,
    /// For a frame in too many segments. Only what frames filled is ever real.
    linear: sys.Map,

    const Source = union(enum) { none, reader: PacketReader, ring: *PacketRing };

    pub const Error = error{ OutOfMemory, System };

    /// How to make one. The fd is borrowed for the call.
    pub const Config = struct { fd: i32, features: u64, header_bytes: u32, receives: bool, has_ring: bool, gro: bool };

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
        if (!config.receives) return queue;
        if (config.gro) queue.gro = try allocator.create(Gro);
        errdefer if (queue.gro) |gro| allocator.destroy(gro);
        if (config.has_ring) {
            const ring = try allocator.create(PacketRing);
            errdefer allocator.destroy(ring);
            try ring.open(queue.fd);
            queue.source = .{ .ring = ring };
        } else {
            queue.source = .{ .reader = try PacketReader.open(queue.fd) };
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
        }
        if (queue.gro) |gro| allocator.destroy(gro);
        sys.unmap(queue.linear);
        sys.close(queue.fd);
        allocator.destroy(queue);
    }

    /// Whether there is something to be read. It need not look every time.
    pub fn pending(queue: *UplinkQueue) bool {
        return switch (queue.source) {
            .none => false,
            .reader => |*reader| reader.pending(),
            .ring => |ring| ring.pending(),
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
        };
    }

    /// The burst is over.
    pub fn giveBack(queue: *UplinkQueue) void {
        switch (queue.source) {
            .none => {},
            .reader => |*reader| reader.taken = 0,
            .ring => |ring| ring.giveBack(),
        }
    }

    /// A burst to the kernel begins.
    pub fn begin(queue: *UplinkQueue) void {
        queue.pieces_left = pieces_in_burst;
    }

    /// Gives the kernel a frame, or returns the counter of why it took none.
    pub fn put(queue: *UplinkQueue, frame: *const Frame, stats: *abi.VringStats) ?*u64 {
        const pieces = if (frame.header.gso_size == 0) 1 else frame.len / frame.header.gso_size;
        if (pieces > queue.pieces_left) return &stats.drop_no_buffer;
        queue.pieces_left -= pieces;
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
        sys.writePacket(queue.fd, vectors[0..count]) catch return dropOf(sys.lastErrno(), stats);
        return null;
    }
};

fn dropOf(errno: u16, stats: *abi.VringStats) *u64 {
    return switch (errno) {
        sys.errno_again, sys.errno_no_buffers, sys.errno_no_memory => &stats.drop_no_buffer,
        sys.errno_too_long => &stats.drop_too_big,
        // It has other limits than we have: 128 pieces of a datagram, say.
        sys.errno_invalid => &stats.drop_bad_gso,
        else => &stats.drop_link_down,
    };
}

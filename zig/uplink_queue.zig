//! A queue of an interface of the host's, one direction of it: a file descriptor that takes and brings frames behind
//! virtio-net headers, one a call.

const std = @import("std");
const abi = @import("abi.zig");
const chain = @import("chain.zig");
const Frame = @import("frame.zig").Frame;
const net_header = @import("net_header.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");

const NetHeader = spec.NetHeader;
const header_bytes = @sizeOf(NetHeader);

/// While others are busy, we look this often whether something came.
const look_cycles = 4096;

comptime {
    std.debug.assert(abi.packet_room_max >= header_bytes + net_header.frame_bytes_max);
}

pub const UplinkQueue = struct {
    fd: i32,
    /// What the kernel does for us, as features of a device.
    features: u64,
    receives: bool,
    /// Receiving, for a burst; sending, for a frame in too many segments. Only what frames filled is ever real.
    room: sys.Map,
    /// Nothing was there when it was last read, and nobody told of more.
    drained: bool,
    looked: u64,

    pub const Error = error{ OutOfMemory, System };

    /// `fd` is borrowed for this call.
    pub fn create(fd: i32, features: u64, receives: bool) Error!*UplinkQueue {
        const queue = try std.heap.c_allocator.create(UplinkQueue);
        errdefer std.heap.c_allocator.destroy(queue);
        queue.* = .{
            .fd = try sys.duplicate(fd),
            .features = features,
            .receives = receives,
            .room = undefined,
            .drained = false,
            .looked = 0,
        };
        errdefer sys.close(queue.fd);
        queue.room = try sys.mapPrivate(if (receives) abi.packets_max * abi.packet_room_max else abi.packet_room_max);
        return queue;
    }

    pub fn destroy(queue: *UplinkQueue) void {
        sys.unmap(queue.room);
        sys.close(queue.fd);
        std.heap.c_allocator.destroy(queue);
    }

    /// Whether there is something to be read. It does not look every time.
    pub fn pending(queue: *UplinkQueue) bool {
        if (!queue.drained) return queue.receives;
        const now = sys.cycles();
        if (now -% queue.looked < look_cycles) return false;
        queue.looked = now;
        queue.drained = !sys.isReadable(queue.fd);
        return !queue.drained;
    }

    /// Something came, says epoll.
    pub fn woken(queue: *UplinkQueue) void {
        queue.drained = false;
    }

    /// The next packet, header first, in place `slot` of the room until that is read into again; null: there is none.
    pub fn read(queue: *UplinkQueue, slot: usize) error{InterfaceGone}!?[]u8 {
        const bytes = queue.room[slot * abi.packet_room_max ..][0..abi.packet_room_max];
        const len = sys.readFile(queue.fd, bytes) catch {
            queue.drained = true;
            queue.looked = sys.cycles();
            if (isGone(sys.lastErrno())) return error.InterfaceGone;
            return null;
        };
        return bytes[0..len];
    }

    /// Gives the kernel a frame, or returns the counter of why it took none.
    pub fn put(queue: *UplinkQueue, frame: *const Frame, stats: *abi.VringStats) ?*u64 {
        var header = frame.header;
        header.num_buffers = 0;
        var vectors: [sys.vectors_max]sys.Vector = undefined;
        vectors[0] = .{ .base = std.mem.asBytes(&header), .len = header_bytes };
        var count: usize = 2;
        if (frame.segments.len < vectors.len) {
            count = frame.segments.len + 1;
            for (frame.segments, vectors[1..count]) |segment, *vector| {
                vector.* = .{ .base = segment.base, .len = segment.len };
            }
        } else {
            var cursor: chain.Cursor = .{ .segments = frame.segments };
            vectors[1] = .{ .base = queue.room.ptr, .len = cursor.read(queue.room[0..frame.len]) };
        }
        sys.writePacket(queue.fd, vectors[0..count]) catch return dropOf(sys.lastErrno(), stats);
        return null;
    }
};

fn isGone(errno: u16) bool {
    return errno == sys.errno_bad_state or errno == sys.errno_no_device;
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

//! Packets that are read one by one, each behind a virtio-net header.

const std = @import("std");
const abi = @import("abi.zig");
const Arrival = @import("arrival.zig").Arrival;
const spec = @import("spec.zig");
const sys = @import("sys.zig");

const header_bytes = @sizeOf(spec.NetHeader);

/// While others are busy, we look this often whether something came.
const look_cycles = 4096;

pub const PacketReader = struct {
    /// Its owner's.
    fd: i32,
    /// For a burst; only what packets filled is ever real.
    room: sys.Map,
    /// Packets in it that are looked at.
    taken: u32,
    /// Nothing was there when it was last read, and nobody told of more.
    drained: bool,
    looked: u64,

    pub fn open(fd: i32) sys.Error!PacketReader {
        const room = try sys.mapPrivate(abi.packets_max * abi.packet_room_max);
        return .{ .fd = fd, .room = room, .taken = 0, .drained = false, .looked = 0 };
    }

    pub fn close(reader: *PacketReader) void {
        sys.unmap(reader.room);
    }

    pub fn pending(reader: *PacketReader) bool {
        if (!reader.drained) return true;
        const now = sys.cycles();
        if (now -% reader.looked < look_cycles) return false;
        reader.looked = now;
        reader.drained = !sys.isReadable(reader.fd);
        return !reader.drained;
    }

    /// The next packet; false: there is none.
    pub fn read(reader: *PacketReader, arrival: *Arrival) error{InterfaceGone}!bool {
        if (reader.taken == abi.packets_max) return false;
        const bytes = reader.room[reader.taken * abi.packet_room_max ..][0..abi.packet_room_max];
        const len = sys.readFile(reader.fd, bytes) catch {
            reader.drained = true;
            reader.looked = sys.cycles();
            return if (sys.lastErrno() == sys.errno_bad_state) error.InterfaceGone else false;
        };
        if (len < header_bytes) return false;
        @memcpy(std.mem.asBytes(&arrival.header), bytes[0..header_bytes]);
        arrival.segments[0] = .{ .base = bytes[header_bytes..].ptr, .len = @intCast(len - header_bytes) };
        arrival.count = 1;
        arrival.len = @intCast(len - header_bytes);
        reader.taken += 1;
        return true;
    }
};

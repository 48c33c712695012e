//! One ring of a simulated guest and the buffers that go round in it, whichever way they go. Buffers
//! in one piece go by slots, as long as the device keeps their order; all others as chains.

const std = @import("std");
const abi = @import("abi.zig");
const driver_entry = @import("driver_entry.zig");
const guest_shape = @import("guest_shape.zig");

const Piece = driver_entry.Piece;
const Shape = guest_shape.Shape;

/// A burst is never longer.
pub const burst_max = 256;

/// A part of a guest's memory.
pub const Room = struct {
    bytes: []align(4096) u8,
    gpa: u64,
};

pub fn Side(comptime Driver: type) type {
    return struct {
        ring: Driver,
        shape: Shape,
        room: Room,
        /// With this many buffers the ring is full.
        count: u32,
        /// It goes by slots.
        slots: bool,
        stats: abi.GuestVringStats,

        const Self = @This();

        pub fn configOf(features: u64, size: u32, shape: Shape) driver_entry.Config {
            const table_entries = if (shape.indirect) shape.segments + 1 else 0;
            return .{ .size = size, .features = features, .table_entries = table_entries };
        }

        /// Memory for all buffers.
        pub fn bufferBytes(size: u32, shape: Shape) u64 {
            return @as(u64, countOf(size, shape)) * shape.stride;
        }

        fn countOf(size: u32, shape: Shape) u32 {
            return if (shape.indirect) size else size / (shape.segments + 1);
        }

        pub fn create(ring: Driver, room: Room, shape: Shape) Self {
            return .{
                .ring = ring,
                .shape = shape,
                .room = room,
                .count = countOf(ring.config.size, shape),
                .slots = false,
                .stats = std.mem.zeroes(abi.GuestVringStats),
            };
        }

        /// The ring as new. The device does not run.
        pub fn reset(self: *Self, writable: bool) void {
            self.ring.reset();
            self.slots = self.shape.isSlot();
            if (!self.slots) return;
            self.ring.useSlots(.{
                .gpa = self.room.gpa,
                .stride = self.shape.stride,
                .len = self.shape.header_bytes + self.shape.capacity,
                .writable = writable,
            });
        }

        /// The device does not keep the order.
        pub fn leaveSlots(self: *Self) void {
            self.ring.leaveSlots();
            self.slots = false;
        }

        pub inline fn buffer(self: *const Self, token: u32) [*]u8 {
            @setRuntimeSafety(false);
            return self.room.bytes.ptr + @as(usize, token) * self.shape.stride;
        }

        fn gpaOf(self: *const Self, token: u32) u64 {
            return self.room.gpa + @as(u64, token) * self.shape.stride;
        }

        /// Where so much of a frame lies in a buffer, its header before it.
        pub fn pieces(self: *const Self, token: u32, frame_bytes: u32, out: *guest_shape.Pieces) []const Piece {
            return self.shape.pieces(self.gpaOf(token), frame_bytes, out);
        }

        pub fn host(self: *const Self, piece: Piece) []u8 {
            return self.room.bytes[@intCast(piece.gpa - self.room.gpa)..][0..piece.len];
        }

        pub fn how(self: *const Self) driver_entry.How {
            return if (self.shape.indirect) .indirect else .direct;
        }

        pub inline fn countBurst(self: *Self, packets: u64, bytes: u64) void {
            self.stats.packets += packets;
            self.stats.bytes += bytes;
            self.stats.bursts += 1;
        }

        /// A snapshot; any thread.
        pub fn snapshot(self: *const Self) abi.GuestVringStats {
            var stats = self.stats;
            stats.outstanding = self.ring.outstanding();
            return stats;
        }
    };
}

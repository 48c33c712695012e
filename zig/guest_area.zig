//! What lies where in a simulated guest's memory: whose an address is, and what its own driver writes.

const std = @import("std");
const abi = @import("abi.zig");
const driver_entry = @import("driver_entry.zig");
const Guest = @import("guest.zig").Guest;
const spec = @import("spec.zig");

/// Guest-physical.
pub const Range = struct {
    gpa: u64,
    bytes: u64,

    fn has(range: Range, gpa: u64) bool {
        return gpa >= range.gpa and gpa - range.gpa < range.bytes;
    }
};

pub const Place = struct {
    area: abi.GuestArea,
    ring: u32,
    /// Of `buffer`: its number.
    buffer: u32,
};

/// One ring with all that belongs to it.
const Parts = struct {
    areas: driver_entry.Areas,
    /// What the device alone writes: elements and index, without the event behind them; none of a packed ring.
    used_bytes: u64,
    /// The device's event.
    event: Range,
    tables: Range,
    buffers: Range,
    stride: u32,

    fn of(guest: *Guest, index: u32) Parts {
        return switch (guest.sideOf(index)) {
            .split => |side| partsOf(side, 4 + 8 * @as(u64, side.ring.config.size), 2),
            .packed_ring => |side| partsOf(side, 0, 4),
        };
    }

    fn partsOf(side: anytype, used_bytes: u64, event_bytes: u64) Parts {
        const config = side.ring.config;
        return .{
            .areas = side.ring.areas,
            .used_bytes = used_bytes,
            .event = .{ .gpa = side.ring.areas.used + used_bytes, .bytes = event_bytes },
            .tables = .{
                .gpa = side.ring.tables_gpa,
                .bytes = @as(u64, config.size) * config.table_entries * @sizeOf(spec.Desc),
            },
            .buffers = .{ .gpa = side.room.gpa, .bytes = side.room.bytes.len },
            .stride = side.shape.stride,
        };
    }

    fn areaOf(parts: Parts, gpa: u64) abi.GuestArea {
        const areas = parts.areas;
        if (gpa >= areas.desc and gpa < areas.avail) return .desc;
        if (gpa >= areas.avail and gpa < areas.used) return .avail;
        if (gpa >= areas.used and gpa - areas.used < parts.used_bytes) return .used;
        if (parts.event.has(gpa)) return .event;
        if (parts.tables.has(gpa)) return .table;
        return if (parts.buffers.has(gpa)) .buffer else .none;
    }
};

/// What lies at an address.
pub fn placeOf(guest: *Guest, gpa: u64) Place {
    for (0..guest.vringCount()) |i| {
        const index: u32 = @intCast(i);
        const parts: Parts = .of(guest, index);
        const area = parts.areaOf(gpa);
        if (area == .none) continue;
        const buffer = if (area == .buffer) (gpa - parts.buffers.gpa) / parts.stride else 0;
        return .{ .area = area, .ring = index, .buffer = @intCast(buffer) };
    }
    return .{ .area = .none, .ring = 0, .buffer = 0 };
}

/// What the driver of a ring writes as long as the guest runs; the device writes there, too, where a ring is packed.
pub fn ownRanges(guest: *Guest, index: u32) [3]Range {
    const parts: Parts = .of(guest, index);
    const sends = index % 2 == 1;
    return .{
        .{ .gpa = parts.areas.desc, .bytes = parts.areas.used - parts.areas.desc },
        parts.tables,
        if (sends) parts.buffers else .{ .gpa = parts.buffers.gpa, .bytes = 0 },
    };
}

test "every byte that matters has its place" {
    for ([_]u64{ 0, 1 << 34 }) |format| {
        var config = std.mem.zeroes(abi.GuestConfig);
        config.features = 1 << 32 | 1 << 28 | format;
        config.gpa = 0x1_0000_0000;
        config.queue_pairs = 2;
        config.ring_size = 8;
        config.buffer_bytes = 2048;
        config.frame_bytes_max = 1514;
        config.receive_indirect = 1;
        const guest: *Guest = try .open(config);
        defer guest.close();
        const ring = guest.vring(2);
        const room = switch (guest.lanes) {
            inline else => |lanes| lanes[1].receiver.side.room,
        };
        const event = if (format == 0) ring.used_gpa + 4 + 8 * 8 else ring.used_gpa;
        const Case = struct { gpa: u64, area: abi.GuestArea, buffer: u32 = 0 };
        for ([_]Case{
            .{ .gpa = ring.desc_gpa + 127, .area = .desc },
            .{ .gpa = ring.avail_gpa, .area = .avail },
            .{ .gpa = event - 1, .area = if (format == 0) .used else .avail },
            .{ .gpa = event, .area = .event },
            .{ .gpa = room.gpa, .area = .buffer },
            .{ .gpa = room.gpa + 3000, .area = .buffer, .buffer = 1 },
        }) |case| {
            const expected: Place = .{ .area = case.area, .ring = 2, .buffer = case.buffer };
            try std.testing.expectEqual(expected, placeOf(guest, case.gpa));
        }
        try std.testing.expectEqual(abi.GuestArea.none, placeOf(guest, config.gpa - 1).area);
        const ranges = ownRanges(guest, 2);
        try std.testing.expectEqual(ring.used_gpa, ranges[0].gpa + ranges[0].bytes);
        try std.testing.expectEqual(8 * 16, ranges[1].bytes);
        try std.testing.expectEqual(0, ranges[2].bytes);
        try std.testing.expect(ownRanges(guest, 3)[2].bytes >= 8 * 1526);
    }
}

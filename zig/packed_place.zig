//! A place in a packed ring together with its wrap counter (virtio 2.8.1), as both sides of the ring
//! count it and as the event areas hold it.

const std = @import("std");
const spec = @import("spec.zig");
const vring_entry = @import("vring_entry.zig");

pub const Place = struct {
    index: u16,
    wrap: bool,

    /// Where both sides of a new ring begin.
    pub const first: Place = .{ .index = 0, .wrap = true };

    /// From bits 0-14, the index, and 15, the wrap counter.
    pub fn of(bits: u16) Place {
        return .{ .index = bits & 0x7fff, .wrap = bits >> 15 != 0 };
    }

    pub fn word(place: Place) u16 {
        return place.index | @as(u16, @intFromBool(place.wrap)) << 15;
    }

    /// At most one lap.
    pub inline fn advance(place: *Place, count: u32, size: u32) void {
        const index = place.index + count;
        const over = index >= size;
        place.index = @truncate(if (over) index - size else index);
        place.wrap = place.wrap != over;
    }
};

/// Whether flags are those of a descriptor that the driver offers in the lap of that wrap counter (2.8.1).
pub inline fn isAvailable(flags: u16, wrap: bool) bool {
    const expected: u16 = if (wrap) spec.desc_avail else spec.desc_used;
    return flags & (spec.desc_avail | spec.desc_used) == expected;
}

/// Whether a step from `from` to `to`, of at most one lap, passed `event` (2.8.10).
pub fn crossed(event: Place, from: Place, to: Place, size: u32) bool {
    // All as distances behind `to`; a place of the other lap lies one ring further back.
    const lap: u16 = @truncate(size);
    const begin = if (from.wrap == to.wrap) from.index else from.index -% lap;
    const wanted = if (event.wrap == to.wrap) event.index else event.index -% lap;
    return vring_entry.crossed(wanted, begin, to.index);
}

test "a place goes round rings of any size" {
    var place: Place = .of(0x8000);
    place.advance(4, 5);
    try std.testing.expectEqual(@as(u16, 0x8004), place.word());
    place.advance(1, 5);
    try std.testing.expectEqual(@as(u16, 0), place.word());
    place.advance(5, 5);
    try std.testing.expectEqual(@as(u16, 0x8000), place.word());
}

test "every event inside a step is passed, every other is not, in rings of any size" {
    for ([_]u32{ 1, 2, 5, 8 }) |size| {
        for (0..2 * size) |start| {
            for (1..size + 1) |step| {
                for (0..2 * size) |ahead| {
                    const from = placeOf(start, size);
                    const event = placeOf(start + ahead, size);
                    const passed = ahead < step;
                    try std.testing.expectEqual(passed, crossed(event, from, placeOf(start + step, size), size));
                }
            }
        }
    }
}

fn placeOf(position: usize, size: u32) Place {
    return .{ .index = @intCast(position % size), .wrap = position / size % 2 == 0 };
}

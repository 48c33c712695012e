//! Numbers that stand for long-lived objects on the other side of the boundary. A number that was
//! given back is never valid again: it carries the use count of its slot.

const std = @import("std");

/// A table of at most `capacity` objects. Opening and closing is for one thread at a time; looking
/// up is for any.
pub fn Handles(comptime T: type, comptime capacity: u32) type {
    return struct {
        const Self = @This();
        const Slot = struct { object: ?*T = null, uses: u32 = 0 };

        slots: [capacity]Slot = @splat(.{}),

        /// The number of an object, never 0; null when the table is full.
        pub fn open(self: *Self, object: *T) ?u32 {
            for (&self.slots, 0..) |*slot, i| {
                if (slot.object != null) continue;
                slot.uses = (slot.uses + 1) % (uses_max + 1);
                slot.object = object;
                return (slot.uses * capacity + @as(u32, @intCast(i))) + 1;
            }
            return null;
        }

        pub fn get(self: *const Self, handle: u32) ?*T {
            if (handle == 0) return null;
            const slot = &self.slots[(handle - 1) % capacity];
            return if ((handle - 1) / capacity == slot.uses) slot.object else null;
        }

        /// Forgets the object and returns it.
        pub fn close(self: *Self, handle: u32) ?*T {
            const object = self.get(handle) orelse return null;
            self.slots[(handle - 1) % capacity].object = null;
            return object;
        }

        /// Status codes are negative: handles stay positive as i32.
        const uses_max = (std.math.maxInt(i32) - 1) / capacity - 1;
    };
}

test "a handle that was closed stays closed when its slot is used again" {
    var table: Handles(u8, 2) = .{};
    var objects = [_]u8{ 1, 2, 3 };
    const first = table.open(&objects[0]).?;
    const second = table.open(&objects[1]).?;
    try std.testing.expectEqual(null, table.open(&objects[2]));
    try std.testing.expectEqual(&objects[0], table.close(first).?);
    try std.testing.expectEqual(null, table.get(first));
    const third = table.open(&objects[2]).?;
    try std.testing.expect(third != first and third != second);
    try std.testing.expectEqual(null, table.get(first));
    try std.testing.expectEqual(&objects[2], table.get(third).?);
    try std.testing.expectEqual(null, table.get(0));
}

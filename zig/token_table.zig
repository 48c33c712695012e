//! Places that are named by tokens. A token whose place was given back finds nothing, also when the
//! place is used again.

const std = @import("std");
const sys = @import("sys.zig");

pub const Error = error{
    /// The token was given back, or never was one.
    NoSuchHandle,
    LimitReached,
};

fn SlotOf(comptime T: type) type {
    return struct {
        /// How often the place was given back: part of the token.
        uses: u32,
        next_free: ?u32,
        object: ?T,
    };
}

/// At most `capacity` objects, which do not move. Their memory is taken as they come to be used.
pub fn TokenTable(comptime T: type, comptime capacity: u32) type {
    return struct {
        const Self = @This();

        slots: *[capacity]Slot,
        /// Places from here on were never used.
        used: u32,
        first_free: ?u32,

        const Slot = SlotOf(T);
        pub const Found = struct { token: u32, object: *T };

        pub fn create() sys.Error!Self {
            const memory = try sys.mapPrivate(@sizeOf(Slot) * capacity);
            return .{ .slots = @ptrCast(memory.ptr), .used = 0, .first_free = null };
        }

        pub fn destroy(table: *Self) void {
            const bytes: [*]align(std.heap.page_size_min) u8 = @ptrCast(@alignCast(table.slots));
            sys.unmap(bytes[0 .. @sizeOf(Slot) * capacity]);
        }

        /// Gives the object a place. The token is not 0, and positive as an i32 too.
        pub fn insert(table: *Self, object: T) error{LimitReached}!Found {
            if (table.isFull()) return error.LimitReached;
            const index = table.first_free orelse table.used;
            const slot = &table.slots[index];
            if (table.first_free == null) {
                slot.uses = 0;
                table.used += 1;
            } else {
                table.first_free = slot.next_free;
            }
            slot.object = object;
            return .{ .token = slot.uses * capacity + index + 1, .object = &slot.object.? };
        }

        pub fn find(table: *Self, token: u32) error{NoSuchHandle}!*T {
            if (token == 0 or (token - 1) % capacity >= table.used) return error.NoSuchHandle;
            const slot = &table.slots[(token - 1) % capacity];
            if (slot.uses != (token - 1) / capacity or slot.object == null) return error.NoSuchHandle;
            return &slot.object.?;
        }

        /// Takes the place back, if the token has one.
        pub fn remove(table: *Self, token: u32) void {
            _ = table.find(token) catch return;
            const index = (token - 1) % capacity;
            const slot = &table.slots[index];
            slot.* = .{ .uses = (slot.uses + 1) % uses_max, .next_free = table.first_free, .object = null };
            table.first_free = index;
        }

        pub fn isFull(table: *const Self) bool {
            return table.first_free == null and table.used == capacity;
        }

        /// What is in a place below `used`, if anything.
        pub fn at(table: *Self, index: u32) ?Found {
            std.debug.assert(index < table.used);
            const slot = &table.slots[index];
            if (slot.object == null) return null;
            return .{ .token = slot.uses * capacity + index + 1, .object = &slot.object.? };
        }

        const uses_max = (std.math.maxInt(i32) - 1) / capacity;
    };
}

const testing = std.testing;

test "an old token finds nothing, also when its place is used again" {
    var table = try TokenTable(u8, 4).create();
    defer table.destroy();
    const old = try table.insert(1);
    table.remove(old.token);
    table.remove(old.token);
    const new = try table.insert(2);
    try testing.expect(new.object == old.object);
    try testing.expect(new.token != old.token);
    try testing.expectError(error.NoSuchHandle, table.find(old.token));
    try testing.expectEqual(2, (try table.find(new.token)).*);
    for ([_]u32{ 0, 2, 3, 4, 9, std.math.maxInt(i32), std.math.maxInt(u32) }) |never_given| {
        try testing.expectError(error.NoSuchHandle, table.find(never_given));
    }
}

test "a full table refuses, and takes again what was given back" {
    const capacity = 100;
    var table = try TokenTable(u32, capacity).create();
    defer table.destroy();
    var tokens: [capacity]u32 = undefined;
    for (&tokens, 0..) |*token, i| token.* = (try table.insert(@intCast(i))).token;
    try testing.expectError(error.LimitReached, table.insert(0));
    for (tokens, 0..) |token, i| if (i % 2 == 0) table.remove(token);
    for (&tokens, 0..) |*token, i| {
        if (i % 2 == 0) token.* = (try table.insert(@intCast(i))).token;
    }
    try testing.expect(table.isFull());
    for (tokens, 0..) |token, i| try testing.expectEqual(i, (try table.find(token)).*);
    for (0..capacity) |index| {
        const found = table.at(@intCast(index)).?;
        try testing.expectEqual(found.object, try table.find(found.token));
    }
}

test "tokens stay positive until the last use of a place, and then begin anew" {
    const Table = TokenTable(u8, 2);
    var table = try Table.create();
    defer table.destroy();
    const first = try table.insert(1);
    table.remove(first.token);
    table.slots[0].uses = Table.uses_max - 1;
    const last = try table.insert(1);
    try testing.expect(last.token <= std.math.maxInt(i32));
    table.remove(last.token);
    try testing.expectEqual(first.token, (try table.insert(1)).token);
}

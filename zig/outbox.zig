//! Messages that a socket would not take yet, each with its fds, in order and bounded.

const std = @import("std");
const abi = @import("abi.zig");
const sys = @import("sys.zig");

pub const Error = error{ OutOfMemory, System };

/// A whole message on the wire: the header, then the payload.
pub const message_bytes_max = 12 + abi.message_payload_max;

/// Its memory, about 64 KiB, is there only while there is a message in it.
pub const Outbox = struct {
    slots: []Slot = &.{},
    first: u32 = 0,
    count: u32 = 0,

    const slots_max = 60;

    const Slot = struct {
        size: u32,
        fd_count: u32,
        fds: [abi.message_fds_max]i32,
        bytes: [message_bytes_max]u8,
    };

    pub const Message = struct { bytes: []const u8, fds: []const i32 };

    pub fn isEmpty(outbox: *const Outbox) bool {
        return outbox.count == 0;
    }

    pub fn isFull(outbox: *const Outbox) bool {
        return outbox.count == slots_max;
    }

    /// Keeps what is left of a message, and duplicates of its fds.
    pub fn push(outbox: *Outbox, message: Message) Error!void {
        std.debug.assert(!outbox.isFull());
        std.debug.assert(message.bytes.len > 0);
        if (outbox.slots.len == 0) outbox.slots = try std.heap.page_allocator.alloc(Slot, slots_max);
        errdefer if (outbox.isEmpty()) outbox.clear();
        const slot = &outbox.slots[(outbox.first + outbox.count) % slots_max];
        slot.fd_count = 0;
        errdefer closeFds(slot);
        for (message.fds) |fd| {
            slot.fds[slot.fd_count] = try sys.duplicate(fd);
            slot.fd_count += 1;
        }
        slot.size = @intCast(message.bytes.len);
        @memcpy(slot.bytes[0..message.bytes.len], message.bytes);
        outbox.count += 1;
    }

    /// What to send next.
    pub fn front(outbox: *const Outbox) Message {
        std.debug.assert(!outbox.isEmpty());
        const slot = &outbox.slots[outbox.first];
        return .{ .bytes = slot.bytes[0..slot.size], .fds = slot.fds[0..slot.fd_count] };
    }

    /// So many bytes of the front were sent, and with the first of them its fds.
    pub fn advance(outbox: *Outbox, bytes: usize) void {
        const slot = &outbox.slots[outbox.first];
        std.debug.assert(bytes > 0 and bytes <= slot.size);
        closeFds(slot);
        slot.size -= @intCast(bytes);
        std.mem.copyForwards(u8, slot.bytes[0..slot.size], slot.bytes[bytes..][0..slot.size]);
        if (slot.size > 0) return;
        outbox.first = (outbox.first + 1) % slots_max;
        outbox.count -= 1;
        if (outbox.count == 0) outbox.clear();
    }

    /// Forgets everything.
    pub fn clear(outbox: *Outbox) void {
        for (0..outbox.count) |i| closeFds(&outbox.slots[(outbox.first + i) % slots_max]);
        if (outbox.slots.len > 0) std.heap.page_allocator.free(outbox.slots);
        outbox.* = .{};
    }

    fn closeFds(slot: *Slot) void {
        for (slot.fds[0..slot.fd_count]) |fd| sys.close(fd);
        slot.fd_count = 0;
    }
};

test "messages leave in order, in pieces, and their fds with the first piece" {
    var outbox: Outbox = .{};
    const fd = try sys.eventfd();
    defer sys.close(fd);
    for (0..3) |round| {
        for (0..Outbox.slots_max) |i| {
            try std.testing.expect(!outbox.isFull());
            const bytes = [_]u8{ @intCast(i), @intCast(round), 7 };
            try outbox.push(.{ .bytes = &bytes, .fds = if (i == 1) &.{fd} else &.{} });
        }
        try std.testing.expect(outbox.isFull());
        for (0..Outbox.slots_max) |i| {
            const whole = outbox.front();
            try std.testing.expectEqual(@as(usize, if (i == 1) 1 else 0), whole.fds.len);
            try std.testing.expectEqualSlices(u8, &.{ @intCast(i), @intCast(round), 7 }, whole.bytes);
            const kept = if (i == 1) whole.fds[0] else -1;
            outbox.advance(1);
            try std.testing.expectEqualSlices(u8, &.{ @intCast(round), 7 }, outbox.front().bytes);
            try std.testing.expectEqual(0, outbox.front().fds.len);
            if (kept >= 0) try std.testing.expectError(error.System, sys.fileInfo(kept));
            outbox.advance(2);
        }
        try std.testing.expect(outbox.isEmpty());
        try std.testing.expectEqual(0, outbox.slots.len);
    }
}

test "clearing closes the fds that were kept, and a bad fd keeps nothing" {
    var outbox: Outbox = .{};
    const fd = try sys.eventfd();
    defer sys.close(fd);
    try std.testing.expectError(error.System, outbox.push(.{ .bytes = "a", .fds = &.{ fd, -1 } }));
    try std.testing.expectEqual(0, outbox.slots.len);
    try outbox.push(.{ .bytes = "a", .fds = &.{fd} });
    const kept = outbox.front().fds[0];
    try std.testing.expect(kept != fd);
    outbox.clear();
    try std.testing.expectError(error.System, sys.fileInfo(kept));
    _ = try sys.fileInfo(fd);
}

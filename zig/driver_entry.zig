//! What the driver sides of both ring formats have in common, as they show it to their user, and the
//! queues of numbers that both are made of.
//!
//! A ring is used in one of two ways. *Chains*: `add` takes pieces of guest memory in any
//! arrangement, `reap` returns their token, in any order. *Slots*: place i of the ring always holds
//! buffer i, in one descriptor, so that a burst in order costs next to nothing; whoever meets a device
//! that is not in order, or that returns batches, goes on with chains.

const std = @import("std");
const spec = @import("spec.zig");

/// A piece of guest memory, by guest-physical address.
pub const Piece = struct { gpa: u64, len: u32 };

/// A buffer that came back. `len` is what the device says it wrote, which may be more than it could.
pub const Item = struct { token: u32, len: u32 };

/// Where the descriptors of a chain go: into the ring, or into a table that the ring points to.
pub const How = enum { direct, indirect };

/// There are not enough free descriptors, or the table is too short.
pub const Error = error{Full};

/// The device wrote what no correct device can: the ring is not to be used any more.
pub const Broken = error{ BadUsedIndex, BadUsedId };

/// Or it returned another buffer than the next.
pub const SlotError = Broken || error{OutOfOrder};

/// Slots that came back, one after the other: after the last one comes the first.
pub const Run = struct { first: u32, count: u32 };

/// The buffers of slots: as many as the ring is long, `stride` bytes apart.
pub const SlotPlan = struct { gpa: u64, stride: u32, len: u32, writable: bool };

/// What one `publish` showed the device: available places `from` up to `to`.
pub const Published = struct {
    from: u16 = 0,
    to: u16 = 0,
    any: bool = false,
};

pub const Config = struct {
    /// Descriptors: split, a power of two; packed, any number; both, up to 32768.
    size: u32,
    /// As negotiated: EVENT_IDX, IN_ORDER and INDIRECT_DESC count here.
    features: u64,
    /// Entries in each descriptor's own indirect table; 0 without `How.indirect`.
    table_entries: u32 = 0,

    pub fn eventIdx(config: Config) bool {
        return spec.has(config.features, spec.Feature.event_idx);
    }

    pub fn inOrder(config: Config) bool {
        return spec.has(config.features, spec.Feature.in_order);
    }
};

/// Guest-physical addresses of a ring's areas, as the device is told them.
pub const Areas = struct { desc: u64, avail: u64, used: u64 };

/// Every area begins on a line of its own.
pub const area_align = 64;

/// Offsets of the areas in a ring's memory, its indirect tables behind them, and the sum.
pub const Layout = struct {
    avail: u64,
    used: u64,
    tables: u64,
    bytes: u64,

    pub fn of(config: Config, desc_bytes: u64, avail_bytes: u64, used_bytes: u64) Layout {
        const avail = std.mem.alignForward(u64, desc_bytes, area_align);
        const used = avail + std.mem.alignForward(u64, avail_bytes, area_align);
        const tables = used + std.mem.alignForward(u64, used_bytes, area_align);
        const table_bytes = @as(u64, config.size) * config.table_entries * @sizeOf(spec.Desc);
        return .{
            .avail = avail,
            .used = used,
            .tables = tables,
            .bytes = tables + std.mem.alignForward(u64, table_bytes, area_align),
        };
    }
};

/// What the driver knows of a buffer, by its head's index (split) or its id (packed).
pub const Slot = struct {
    token: u32,
    /// Bytes that the device may write: what a buffer without a used entry of its own was used for.
    capacity: u32,
    /// In the descriptor of a slot.
    len: u32,
    /// Descriptors in the ring; 0 while the driver has it.
    count: u16,
    /// Split: the next descriptor of the chain, or the next free one.
    next: u16,
};

/// At most `capacity` numbers, first in, first out.
pub const Fifo = struct {
    items: []u16,
    head: u32 = 0,
    tail: u32 = 0,

    pub fn create(allocator: std.mem.Allocator, capacity: u32) error{OutOfMemory}!Fifo {
        return .{ .items = try allocator.alloc(u16, std.math.ceilPowerOfTwoAssert(u32, capacity)) };
    }

    pub fn destroy(fifo: *Fifo, allocator: std.mem.Allocator) void {
        allocator.free(fifo.items);
    }

    pub inline fn count(fifo: *const Fifo) u32 {
        return fifo.tail -% fifo.head;
    }

    pub inline fn push(fifo: *Fifo, number: u16) void {
        @setRuntimeSafety(false);
        fifo.items[fifo.tail & (fifo.items.len - 1)] = number;
        fifo.tail +%= 1;
    }

    pub inline fn pop(fifo: *Fifo) u16 {
        @setRuntimeSafety(false);
        const number = fifo.items[fifo.head & (fifo.items.len - 1)];
        fifo.head +%= 1;
        return number;
    }
};

/// Bytes of several pieces.
pub fn total(pieces: []const Piece) u32 {
    var sum: u32 = 0;
    for (pieces) |piece| sum += piece.len;
    return sum;
}

test "areas lie apart, each on a line of its own" {
    const config: Config = .{ .size = 3, .features = 0, .table_entries = 2 };
    const layout: Layout = .of(config, 3 * 16, 4, 4);
    try std.testing.expectEqual(Layout{ .avail = 64, .used = 128, .tables = 192, .bytes = 192 + 128 }, layout);
}

test "numbers leave in the order in which they came" {
    var fifo: Fifo = try .create(std.testing.allocator, 3);
    defer fifo.destroy(std.testing.allocator);
    for (0..10) |i| {
        fifo.push(@intCast(i));
        fifo.push(@intCast(i + 100));
        try std.testing.expectEqual(2, fifo.count());
        try std.testing.expectEqual(i, fifo.pop());
        try std.testing.expectEqual(i + 100, fifo.pop());
    }
}

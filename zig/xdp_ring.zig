//! A ring that an AF_XDP socket shares with the kernel: one of them produces entries, the other consumes them (Linux,
//! Documentation/networking/af_xdp.rst).

const std = @import("std");
const sys = @import("sys.zig");

/// struct xdp_ring_offset: where things are in a ring's memory.
pub const RingOffsets = extern struct { producer: u64, consumer: u64, entries: u64, flags: u64 };

/// struct xdp_mmap_offsets.
pub const Offsets = extern struct {
    receive: RingOffsets,
    send: RingOffsets,
    fill: RingOffsets,
    completion: RingOffsets,
};

const flag_need_wakeup = 1;

/// Our end of a ring of such entries.
pub fn XdpRing(comptime Entry: type) type {
    return struct {
        const Ring = @This();

        map: sys.Map,
        producer: *u32,
        consumer: *u32,
        flags: *const u32,
        /// A power of two.
        entries: []Entry,
        /// The next entry that we produce or consume. The kernel knows of it after `publish` or `release`.
        next: u32,

        /// What is at `at` of a socket: `count` entries.
        pub fn open(fd: i32, at: u64, offsets: RingOffsets, count: u32) sys.Error!Ring {
            return .over(try sys.mapShared(fd, at, offsets.entries + count * @sizeOf(Entry)), offsets, count);
        }

        /// One that nobody used before, or that is still to be resumed, in memory that is laid out so.
        pub fn over(map: sys.Map, offsets: RingOffsets, count: u32) Ring {
            std.debug.assert(std.math.isPowerOfTwo(count));
            const entries: [*]Entry = @ptrCast(@alignCast(map[@intCast(offsets.entries)..]));
            return .{
                .map = map,
                .producer = @ptrCast(@alignCast(&map[@intCast(offsets.producer)])),
                .consumer = @ptrCast(@alignCast(&map[@intCast(offsets.consumer)])),
                .flags = @ptrCast(@alignCast(&map[@intCast(offsets.flags)])),
                .entries = entries[0..count],
                .next = 0,
            };
        }

        pub fn close(ring: Ring) void {
            sys.unmap(ring.map);
        }

        // Of a ring whose producer we are.

        /// Goes on behind what another process showed.
        pub fn resumeProducing(ring: *Ring) void {
            ring.next = @atomicLoad(u32, ring.producer, .acquire);
        }

        /// There is room: a ring has as many entries as there are chunks.
        pub fn put(ring: *Ring, entry: Entry) void {
            std.debug.assert(ring.unconsumed() < ring.entries.len);
            ring.entryAt(ring.next).* = entry;
            ring.next +%= 1;
        }

        /// Shows what was put. Whether the kernel wants to be woken is to be asked after that: an exchange is a full
        /// fence.
        pub fn publish(ring: *Ring) void {
            _ = @atomicRmw(u32, ring.producer, .Xchg, ring.next, .seq_cst);
        }

        /// Put, and not taken by the kernel so far.
        pub fn unconsumed(ring: *const Ring) u32 {
            return ring.next -% @atomicLoad(u32, ring.consumer, .acquire);
        }

        /// The kernel does nothing about this ring until it is called.
        pub fn wantsWakeup(ring: *const Ring) bool {
            return @atomicLoad(u32, ring.flags, .seq_cst) & flag_need_wakeup != 0;
        }

        // Of a ring whose consumer we are.

        /// Goes on behind what another process released.
        pub fn resumeConsuming(ring: *Ring) void {
            ring.next = @atomicLoad(u32, ring.consumer, .acquire);
        }

        /// There, and not consumed by us.
        pub fn available(ring: *const Ring) u32 {
            return @atomicLoad(u32, ring.producer, .acquire) -% ring.next;
        }

        /// The next entry after so many others; or one before it, that was consumed and not released.
        pub fn peek(ring: *const Ring, ahead: u32) Entry {
            return ring.entryAt(ring.next +% ahead).*;
        }

        /// Gives the kernel the places of what was consumed.
        pub fn release(ring: *Ring) void {
            @atomicStore(u32, ring.consumer, ring.next, .release);
        }

        pub fn entryAt(ring: *const Ring, index: u32) *Entry {
            return &ring.entries[index & (ring.entries.len - 1)];
        }
    };
}

/// A ring in memory of our own, of which a test is both ends.
pub fn TestRing(comptime Entry: type) type {
    return struct {
        ours: XdpRing(Entry),
        kernels: XdpRing(Entry),

        const offsets: RingOffsets = .{ .producer = 0, .consumer = 64, .flags = 128, .entries = 192 };

        pub fn create(count: u32) !@This() {
            const map = try sys.mapPrivate(192 + count * @sizeOf(Entry));
            return .{ .ours = .over(map, offsets, count), .kernels = .over(map, offsets, count) };
        }

        pub fn destroy(ring: @This()) void {
            ring.ours.close();
        }
    };
}

test "entries come in order, also where the counters begin anew" {
    const ring: TestRing(u64) = try .create(4);
    defer ring.destroy();
    var producer = ring.ours;
    var consumer = ring.kernels;
    for ([_]*u32{ producer.producer, producer.consumer, &producer.next, &consumer.next }) |counter| {
        counter.* = std.math.maxInt(u32) - 5;
    }
    for (0..10) |round| {
        for (0..3) |i| producer.put(10 * round + i);
        try std.testing.expectEqual(0, consumer.available());
        producer.publish();
        try std.testing.expectEqual(3, consumer.available());
        for (0..3) |i| try std.testing.expectEqual(10 * round + i, consumer.peek(@intCast(i)));
        consumer.next +%= 3;
        try std.testing.expectEqual(10 * round + 2, consumer.peek(0 -% @as(u32, 1)));
        try std.testing.expectEqual(3, producer.unconsumed());
        consumer.release();
        try std.testing.expectEqual(0, producer.unconsumed());
    }
    try std.testing.expect(!producer.wantsWakeup());
}

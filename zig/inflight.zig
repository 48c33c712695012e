//! Memory that a front end keeps for us, with a region for each ring: what we have in hand of it, so that whoever comes
//! after us knows, even if nothing else of us is left (vhost-user, Inflight I/O tracking). What is in a region is laid
//! out by the ring's format: `inflight_split.zig`, `inflight_packed.zig`.
//!
//! The front end may write there, or shorten the file, at any time. A ring that runs only writes; at its start a copy
//! is read, once.

const std = @import("std");
const abi = @import("abi.zig");
const ForeignPart = @import("foreign_part.zig").ForeignPart;
const sys = @import("sys.zig");

pub const Error = error{Misaligned} || @import("foreign_part.zig").Error;

/// Of a region that can be read; 0 is one that nobody has written.
pub const version = 1;

/// Every region begins so far from the one before that this divides it, as in other back ends.
const region_align = 64;

/// Heads and entries hold 64-bit numbers.
const part_align = @alignOf(u64);

pub const Inflight = struct {
    file: ForeignPart,
    /// Where it lies: a duplicate of the file's descriptor, or -1 where there were no more.
    fd: i32,
    /// False: another process writes to it still, and we only map it.
    owned: bool,
    queues: u32,
    queue_size: u32,

    /// Maps `bytes` of a file, borrowed, from `offset` on. It is ours.
    pub fn create(fd: i32, offset: u64, bytes: u64, queues: u32, queue_size: u32) Error!*Inflight {
        if (queues == 0 or queues > 2 * abi.queue_pairs_max) return error.InvalidArgument;
        if (queue_size == 0 or queue_size > abi.vring_size_max) return error.InvalidArgument;
        if (offset % part_align != 0) return error.Misaligned;
        const inflight = std.heap.c_allocator.create(Inflight) catch return error.OutOfMemory;
        errdefer std.heap.c_allocator.destroy(inflight);
        inflight.queues = queues;
        inflight.queue_size = queue_size;
        inflight.owned = true;
        try inflight.file.open(fd, offset, bytes);
        inflight.fd = sys.duplicate(fd) catch -1;
        return inflight;
    }

    /// No ring runs.
    pub fn destroy(inflight: *Inflight) void {
        inflight.file.close();
        if (inflight.fd >= 0) sys.close(inflight.fd);
        std.heap.c_allocator.destroy(inflight);
    }

    /// The region of a ring of `size`; null where the front end keeps none for it.
    pub fn tableOf(inflight: *Inflight, comptime T: type, number: u32, size: u32) Error!?T {
        if (number >= inflight.queues) return null;
        if (size > inflight.queue_size) return error.InvalidArgument;
        const Head = @typeInfo(@FieldType(T, "head")).pointer.child;
        const Entry = @typeInfo(@FieldType(T, "entries")).pointer.child;
        const bytes = @sizeOf(Head) + inflight.queue_size * @sizeOf(Entry);
        const at = number * std.mem.alignForward(usize, bytes, region_align);
        if (at + bytes > inflight.file.bytes.len) return error.InvalidArgument;
        const region: [*]align(part_align) u8 = @alignCast(inflight.file.bytes.ptr + at);
        const entries: [*]Entry = @ptrCast(@alignCast(region + @sizeOf(Head)));
        return .{ .head = @ptrCast(region), .entries = entries[0..inflight.queue_size] };
    }
};

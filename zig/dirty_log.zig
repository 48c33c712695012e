//! The dirty log of a guest that migrates: a bitmap of the front end's with a bit for each page of guest memory. Who
//! writes to the guest marks the page afterwards; the front end takes the marks away and sends those pages again
//! (vhost-user, Migration).
//!
//! Control replaces a log while workers are held; all workers mark, beside the front end that clears.

const std = @import("std");
const ForeignPart = @import("foreign_part.zig").ForeignPart;
const sys = @import("sys.zig");

pub const Error = @import("foreign_part.zig").Error;

/// Of a page, whatever the host's or the guest's own are (vhost-user, Migration).
pub const page_bytes = 4096;
/// Pages that one byte stands for.
const byte_pages = 8;

pub const DirtyLog = struct {
    file: ForeignPart,
    bits: []u8,
    /// Where it lies: a duplicate of the file's descriptor, or -1 where there were no more, and the place in the file.
    fd: i32,
    offset: u64,
    /// An eventfd that is signalled when pages were marked, or -1; whoever has the log owns it.
    bell: i32,

    /// Maps `bytes` of a file from `offset` on. The fd is only borrowed.
    pub fn create(fd: i32, offset: u64, bytes: u64) Error!*DirtyLog {
        const log = std.heap.c_allocator.create(DirtyLog) catch return error.OutOfMemory;
        errdefer std.heap.c_allocator.destroy(log);
        try log.file.open(fd, offset, bytes);
        log.bits = log.file.bytes;
        log.bell = -1;
        log.fd = sys.duplicate(fd) catch -1;
        log.offset = offset;
        return log;
    }

    /// Nobody marks any more.
    pub fn destroy(log: *DirtyLog) void {
        log.file.close();
        if (log.fd >= 0) sys.close(log.fd);
        std.heap.c_allocator.destroy(log);
    }

    /// Whether its file was truncated under it: marks are lost.
    pub fn isFaulty(log: *const DirtyLog) bool {
        return log.file.isFaulty();
    }

    /// Takes over the marks of a log in whose place this one comes: its front end may have read it for the last time
    /// before they were made. QEMU has a device that starts again write on, and then gives it another log.
    pub fn inherit(log: *DirtyLog, before: *const DirtyLog) void {
        const count = @min(log.bits.len, before.bits.len);
        for (log.bits[0..count], before.bits[0..count]) |*byte, *old| {
            const marks = @atomicLoad(u8, old, .monotonic);
            if (marks != 0) _ = @atomicRmw(u8, byte, .Or, marks, .seq_cst);
        }
    }

    /// Begins a round of marks, of what was written before.
    pub fn begin(log: *DirtyLog) Marking {
        // A mark that is there already stays only if the front end, should it take it away after our look, then reads
        // what we wrote: those writes may not come later than the look.
        sys.fence();
        return .{ .log = log };
    }
};

/// A round of marks.
pub const Marking = struct {
    log: *DirtyLog,
    pages: u64 = 0,

    /// Marks what a range touches. Pages that the log does not reach are not marked: where a front end gives a log
    /// that is too short, it does without them.
    pub fn add(marking: *Marking, gpa: u64, len: u64) void {
        if (len == 0) return;
        const last = (gpa +| (len - 1)) / page_bytes;
        var page = gpa / page_bytes;
        while (page <= last) {
            const at = page / byte_pages;
            if (at >= marking.log.bits.len) return;
            const end = @min(last, page | (byte_pages - 1));
            marking.set(&marking.log.bits[@intCast(at)], bitsOf(page % byte_pages, end % byte_pages));
            page = end + 1;
        }
    }

    /// Other workers and back ends set bits of the same byte, and the front end clears them: both at once must not
    /// undo one another, so it is one instruction.
    inline fn set(marking: *Marking, byte: *u8, bits: u8) void {
        if (@atomicLoad(u8, byte, .monotonic) & bits == bits) return;
        const old = @atomicRmw(u8, byte, .Or, bits, .seq_cst);
        marking.pages += @popCount(bits & ~old);
    }

    /// Tells the front end, if it wants to be told, and returns how many pages were not marked before.
    pub fn finish(marking: Marking) u64 {
        if (marking.pages == 0) return 0;
        const bell = @atomicLoad(i32, &marking.log.bell, .monotonic);
        // Whoever made it blocking and filled it has held us up once, and is told nothing more.
        if (bell >= 0 and !sys.eventfdSignal(bell)) @atomicStore(i32, &marking.log.bell, -1, .monotonic);
        return marking.pages;
    }
};

/// Bits `first` to `last`.
fn bitsOf(first: u64, last: u64) u8 {
    const up: u8 = @truncate(@as(u16, 0xff) << @intCast(first));
    return up & @as(u8, 0xff) >> @intCast(byte_pages - 1 - last);
}

test "every page that a range touches is marked, once, and none beyond the log" {
    const fd = try sys.memoryFile("log", 8192);
    defer sys.close(fd);
    // Somebody else's bytes lie on both sides of it.
    const log: *DirtyLog = try .create(fd, 4101, 5);
    defer log.destroy();
    const file = try sys.mapShared(fd, 0, 8192);
    defer sys.unmap(file);
    const Case = struct { gpa: u64, len: u64, pages: u64, bits: [5]u8 };
    const all: u8 = 0xff;
    for ([_]Case{
        .{ .gpa = 0, .len = 1, .pages = 1, .bits = .{ 1, 0, 0, 0, 0 } },
        .{ .gpa = 4095, .len = 2, .pages = 2, .bits = .{ 3, 0, 0, 0, 0 } },
        .{ .gpa = 0x7fff, .len = 2, .pages = 2, .bits = .{ 0x80, 1, 0, 0, 0 } },
        .{ .gpa = 0x7000, .len = 0xa001, .pages = 11, .bits = .{ 0x80, all, 3, 0, 0 } },
        .{ .gpa = 0x9000, .len = 0, .pages = 0, .bits = @splat(0) },
        .{ .gpa = 39 * 4096, .len = 4 << 20, .pages = 1, .bits = .{ 0, 0, 0, 0, 0x80 } },
        .{ .gpa = 40 * 4096, .len = 4096, .pages = 0, .bits = @splat(0) },
        .{ .gpa = std.math.maxInt(u64) - 4, .len = 60, .pages = 0, .bits = @splat(0) },
    }) |case| {
        @memset(log.bits, 0);
        for ([_]u64{ case.pages, 0 }) |pages| {
            var marking = log.begin();
            marking.add(case.gpa, case.len);
            try std.testing.expectEqual(pages, marking.finish());
            try std.testing.expectEqualSlices(u8, &case.bits, file[4101..][0..5]);
        }
    }
    try std.testing.expect(std.mem.allEqual(u8, file[0..4101], 0) and std.mem.allEqual(u8, file[4106..], 0));
}

test "a log that lies outside its file, or is none, is refused; one that is cut off is known" {
    const fd = try sys.memoryFile("log", 4096);
    defer sys.close(fd);
    const bell = try sys.eventfd();
    defer sys.close(bell);
    const huge = std.math.maxInt(u64);
    try std.testing.expectError(error.InvalidArgument, DirtyLog.create(fd, 0, 0));
    try std.testing.expectError(error.InvalidArgument, DirtyLog.create(fd, huge, 2));
    try std.testing.expectError(error.FileTooShort, DirtyLog.create(fd, 0, huge));
    try std.testing.expectError(error.FileTooShort, DirtyLog.create(fd, 1, 4096));
    try std.testing.expectError(error.WrongFd, DirtyLog.create(bell, 0, 1));
    const log: *DirtyLog = try .create(fd, 0, 4096);
    defer log.destroy();
    log.bell = bell;
    for ([_]u64{ 1, 0 }) |rings| {
        var marking = log.begin();
        marking.add(0, 1);
        _ = marking.finish();
        try std.testing.expectEqual(rings, sys.eventfdDrain(bell));
    }
    try std.testing.expect(!log.isFaulty());
}

test "a log takes over what one before it has marked, as far as it reaches" {
    const fd = try sys.memoryFile("log", 8192);
    defer sys.close(fd);
    const before: *DirtyLog = try .create(fd, 0, 16);
    defer before.destroy();
    before.bits[0..16].* = @splat(0x11);
    const log: *DirtyLog = try .create(fd, 4096, 10);
    defer log.destroy();
    log.bits[3] = 0x80;
    log.inherit(before);
    try std.testing.expectEqualSlices(u8, &.{ 0x11, 0x11, 0x11, 0x91, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11 }, log.bits);
    try std.testing.expect(std.mem.allEqual(u8, log.file.map[10..], 0));
}

test "several at once lose no mark" {
    const fd = try sys.memoryFile("log", 4096);
    defer sys.close(fd);
    const log: *DirtyLog = try .create(fd, 0, 4096);
    defer log.destroy();
    const mark = struct {
        fn run(target: *DirtyLog, first: u64) void {
            for (0..4096) |byte| {
                var marking = target.begin();
                marking.add((byte * byte_pages + first) * page_bytes, 1);
                _ = marking.finish();
            }
        }
    }.run;
    var threads: [byte_pages]std.Thread = undefined;
    for (&threads, 0..) |*thread, i| thread.* = try .spawn(.{}, mark, .{ log, i });
    for (threads) |thread| thread.join();
    try std.testing.expect(std.mem.allEqual(u8, log.bits, 0xff));
}

//! A part of a file that a front end gave us, mapped: it may change and shorten the file at any time.

const std = @import("std");
const fault = @import("fault.zig");
const sys = @import("sys.zig");

pub const Error = error{ InvalidArgument, WrongFd, FileTooShort, OutOfMemory, LimitReached, System };

pub const ForeignPart = struct {
    map: sys.Map,
    guard: fault.Guard,
    /// SIGBUS faults in it: the front end truncated its file, and what is mapped is memory of our own by now.
    faults: fault.Counter,
    bytes: []u8,

    /// Maps `bytes` of a file from `offset` on. The fd is only borrowed. The part must stay where it is.
    pub fn open(part: *ForeignPart, fd: i32, offset: u64, bytes: u64) Error!void {
        const end = std.math.add(u64, offset, bytes) catch return error.InvalidArgument;
        if (bytes == 0) return error.InvalidArgument;
        const file = sys.fileInfo(fd) catch return error.WrongFd;
        if (!file.regular) return error.WrongFd;
        if (end > file.size) return error.FileTooShort;
        // hugetlbfs maps whole huge pages only, and names their size as its block size.
        const page = @max(std.heap.page_size_min, file.block_bytes);
        if (!std.math.isPowerOfTwo(page)) return error.WrongFd;
        const lead = offset & (page - 1);
        const reach = std.math.add(u64, lead, bytes) catch return error.InvalidArgument;
        if (reach > std.math.maxInt(u64) - page) return error.InvalidArgument;
        part.faults = .init(0);
        part.map = try sys.mapShared(fd, offset - lead, std.mem.alignForward(u64, reach, page));
        errdefer sys.unmap(part.map);
        part.guard = fault.watch(part.map, &part.faults) orelse return error.LimitReached;
        part.bytes = part.map[@intCast(lead)..][0..@intCast(bytes)];
    }

    /// Nobody looks at it any more.
    pub fn close(part: *ForeignPart) void {
        fault.forget(part.guard);
        sys.unmap(part.map);
    }

    pub fn isFaulty(part: *const ForeignPart) bool {
        return part.faults.load(.acquire) > 0;
    }
};

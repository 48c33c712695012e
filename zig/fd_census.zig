//! How many fds this process has and may have, for tests.

const std = @import("std");
const sys = @import("sys.zig");

pub fn openFds() u32 {
    const get_flags = 1;
    var count: u32 = 0;
    for (0..2048) |fd| {
        if (std.c.fcntl(@intCast(fd), get_flags) >= 0) count += 1;
    }
    return count;
}

/// Lets the process have so many fds more than it has.
pub const FdLimit = struct {
    before: std.c.rlimit,

    pub fn init(more: u64) !FdLimit {
        var limit: FdLimit = undefined;
        try std.testing.expectEqual(0, std.c.getrlimit(.NOFILE, &limit.before));
        // The lowest free number is what a new fd gets.
        const lowest = try sys.eventfd();
        sys.close(lowest);
        const lowered: std.c.rlimit = .{ .cur = @as(u64, @intCast(lowest)) + more, .max = limit.before.max };
        try std.testing.expectEqual(0, std.c.setrlimit(.NOFILE, &lowered));
        return limit;
    }

    pub fn deinit(limit: FdLimit) void {
        std.debug.assert(std.c.setrlimit(.NOFILE, &limit.before) == 0);
    }
};

//! What the kernel tells by files: Deno lets no program read /proc and /sys that may not do everything.

const std = @import("std");
const sys = @import("sys.zig");

const path_bytes_max = 255;

pub const Error = error{ InvalidArgument, System, LimitReached };

const Path = [path_bytes_max:0]u8;

fn checked(path: []const u8) Error!Path {
    const kernels = std.mem.startsWith(u8, path, "/proc/") or std.mem.startsWith(u8, path, "/sys/");
    if (!kernels or path.len > path_bytes_max) return error.InvalidArgument;
    for ([_][]const u8{ "\x00", "/../" }) |part| {
        if (std.mem.indexOf(u8, path, part) != null) return error.InvalidArgument;
    }
    var copy: Path = @splat(0);
    @memcpy(copy[0..path.len], path);
    return copy;
}

/// Reads a file; what does not fit is left out.
pub fn read(path: []const u8, bytes: []u8) Error!usize {
    const name = try checked(path);
    const fd = try sys.open(&name);
    defer sys.close(fd);
    var len: usize = 0;
    while (len < bytes.len) {
        const count = try sys.readFile(fd, bytes[len..]);
        if (count == 0) break;
        len += count;
    }
    return len;
}

/// Opens a file to be mapped and written to, such as a BAR of a PCI device.
pub fn open(path: []const u8) Error!i32 {
    const name = try checked(path);
    return sys.openDevice(&name);
}

/// Names in a directory, each followed by a line feed.
pub fn list(path: []const u8, bytes: []u8) Error!usize {
    const directory = try checked(path);
    const fd = try sys.openDirectory(&directory);
    defer sys.close(fd);
    var room: [4096]u8 align(8) = undefined;
    var len: usize = 0;
    while (true) {
        var entries = try sys.readDirectory(fd, &room);
        if (entries.len == 0) return len;
        while (entries.len > 0) {
            const name = sys.nextName(&entries);
            if (std.mem.eql(u8, name, ".") or std.mem.eql(u8, name, "..")) continue;
            if (len + name.len + 1 > bytes.len) return error.LimitReached;
            @memcpy(bytes[len..][0..name.len], name);
            bytes[len + name.len] = '\n';
            len += name.len + 1;
        }
    }
}

test "the kernel tells of this process, and nothing else is told" {
    var bytes: [4096]u8 = undefined;
    const text = bytes[0..try read("/proc/self/status", &bytes)];
    try std.testing.expect(std.mem.indexOf(u8, text, "Cpus_allowed_list:") != null);
    try std.testing.expectEqual(5, try read("/proc/self/status", bytes[0..5]));
    // An emulator has threads of its own.
    var threads = std.mem.tokenizeScalar(u8, bytes[0..try list("/proc/self/task", &bytes)], '\n');
    var own = false;
    while (threads.next()) |thread| own = own or try std.fmt.parseInt(i32, thread, 10) == sys.threadId();
    try std.testing.expect(own);
    try std.testing.expectError(error.LimitReached, list("/proc/self/task", bytes[0..1]));
    try std.testing.expectError(error.System, read("/proc/self/none", &bytes));
    try std.testing.expectError(error.InvalidArgument, read("/etc/passwd", &bytes));
    try std.testing.expectError(error.InvalidArgument, read("/proc/self/status\x00", &bytes));
    try std.testing.expectError(error.InvalidArgument, read("/proc/self/../../etc/passwd", &bytes));
}

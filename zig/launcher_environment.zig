//! The environment: what it says about the cache, and what of it the program is given.

const std = @import("std");

const Entry = [*:0]const u8;
pub const Text = [:0]const u8;

/// The value of a variable; null when it is not set, or empty, which the rules for $XDG_CACHE_HOME call the
/// same.
pub fn find(environment: []const ?Entry, name: []const u8) ?Text {
    for (environment) |entry| {
        const text = std.mem.span(entry.?);
        if (text.len > name.len + 1 and text[name.len] == '=' and std.mem.startsWith(u8, text, name)) {
            return text[name.len + 1 ..];
        }
    }
    return null;
}

pub const Place = struct {
    path: Text,
    /// Someone asked for this place by name, and will want to know when it is not used.
    wanted: bool,
};

/// Where the cache of user `user` is to be; null when there is no place for it. The path may not exist.
pub fn cachePlace(allocator: std.mem.Allocator, environment: []const ?Entry, user: u32) !?Place {
    if (find(environment, "VHOSTCTL_CACHE_DIR")) |path| return .{ .path = path, .wanted = true };
    if (user == 0) return .{ .path = "/var/cache/vhostctl", .wanted = false };
    const home, const below = if (absolute(environment, "XDG_CACHE_HOME")) |path|
        .{ path, "vhostctl" }
    else if (absolute(environment, "HOME")) |path|
        .{ path, ".cache/vhostctl" }
    else
        return null;
    return .{ .path = try std.fmt.allocPrintSentinel(allocator, "{s}/{s}", .{ home, below }, 0), .wanted = false };
}

/// Relative paths are to be ignored, as the XDG base directory specification wants it.
fn absolute(environment: []const ?Entry, name: []const u8) ?Text {
    const path = find(environment, name) orelse return null;
    return if (path[0] == '/') path else null;
}

/// Settings meant for other programs on the same runtime: options, certificates, debuggers, an IPC channel.
const runtime_prefixes = [_][]const u8{ "DENO_", "NODE_", "OTEL_DENO" };

/// The environment for the program: `added` (`NAME=value` each) takes the place of what had the same names.
pub fn forProgram(
    allocator: std.mem.Allocator,
    environment: []const ?Entry,
    added: []const Entry,
) ![:null]const ?Entry {
    var kept: std.ArrayList(?Entry) = try .initCapacity(allocator, environment.len + added.len + 1);
    for (environment) |entry| {
        if (!isReplaced(std.mem.span(entry.?), added)) kept.appendAssumeCapacity(entry);
    }
    for (added) |entry| kept.appendAssumeCapacity(entry);
    return kept.toOwnedSliceSentinel(allocator, null);
}

fn isReplaced(text: []const u8, added: []const Entry) bool {
    for (runtime_prefixes) |prefix| if (std.mem.startsWith(u8, text, prefix)) return true;
    for (added) |entry| {
        const other = std.mem.span(entry);
        const name = other[0 .. std.mem.indexOfScalar(u8, other, '=').? + 1];
        if (std.mem.startsWith(u8, text, name)) return true;
    }
    return false;
}

const testing = std.testing;

fn expectPlace(expected: ?[]const u8, environment: []const ?Entry, user: u32) !void {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    const place = try cachePlace(arena.allocator(), environment, user);
    if (expected) |path| try testing.expectEqualStrings(path, place.?.path) else try testing.expectEqual(null, place);
}

test "the cache is where it is asked for, else the system's or the user's own" {
    try expectPlace("/c", &.{ "HOME=/h", "VHOSTCTL_CACHE_DIR=/c", "XDG_CACHE_HOME=/x" }, 0);
    try expectPlace("relative", &.{"VHOSTCTL_CACHE_DIR=relative"}, 1);
    try expectPlace("/var/cache/vhostctl", &.{ "HOME=/h", "XDG_CACHE_HOME=/x" }, 0);
    try expectPlace("/x/vhostctl", &.{ "HOME=/h", "XDG_CACHE_HOME=/x" }, 1);
    try expectPlace("/h/.cache/vhostctl", &.{"HOME=/h"}, 1);
    try expectPlace("/h/.cache/vhostctl", &.{ "HOME=/h", "XDG_CACHE_HOME=", "VHOSTCTL_CACHE_DIR=" }, 1);
    try expectPlace("/h/.cache/vhostctl", &.{ "XDG_CACHE_HOME=relative", "HOME=/h" }, 1);
    try expectPlace(null, &.{ "HOMES=/h", "HOME=relative" }, 1);
    try expectPlace(null, &.{}, 1);
}

test "the program is not given settings of the runtime, nor two values of one variable" {
    const before = [_]?Entry{
        "PATH=/bin",
        "DENO_V8_FLAGS=--jitless",
        "NODE_OPTIONS=--inspect",
        "OTEL_DENO=true",
        "VHOSTCTL_LIB=/elsewhere",
        "VHOSTCTL_LIBRARY=other",
        "DENO_DIR=/d",
        "NO_COLOR=1",
    };
    const after = try forProgram(testing.allocator, &before, &.{ "VHOSTCTL_LIB=/lib", "DENO_DIR=/c" });
    defer testing.allocator.free(after);
    const expected = [_][]const u8{
        "PATH=/bin",
        "VHOSTCTL_LIBRARY=other",
        "NO_COLOR=1",
        "VHOSTCTL_LIB=/lib",
        "DENO_DIR=/c",
    };
    try testing.expectEqual(expected.len, after.len);
    for (expected, after) |text, entry| try testing.expectEqualStrings(text, std.mem.span(entry.?));
}

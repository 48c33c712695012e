//! The program that dist/vhostctl begins with: it unpacks the Deno runtime, the bundled application and the
//! libvring for this CPU, all of which stand behind it in the same file, into a private cache, or where there
//! is none into memory, and becomes that runtime. From the second start on the cache makes that a matter of a
//! few system calls.
//!
//! One thread, no libc, nothing left behind in the process but the lock on the cache entry.

const std = @import("std");
const builtin = @import("builtin");
const cache = @import("launcher_cache.zig");
const cpu = @import("launcher_cpu.zig");
const environment = @import("launcher_environment.zig");
const file = @import("launcher_file.zig");
const payload = @import("launcher_payload.zig");

const Cache = cache.Cache;
const Fd = file.Fd;
const Level = payload.Level;
const Payload = payload.Payload;
const Text = [:0]const u8;

/// A failed check of our own ends the program at once; code to describe it would be most of the launcher.
pub const panic = std.debug.no_panic;
pub const std_options: std.Options = .{ .enable_segfault_handler = false, .signal_stack_size = null };
pub const std_options_debug_threaded_io: ?*std.Io.Threaded = null;

/// The host lacks something, as all of vhostctl says it.
const exit_lacking = 3;

/// What is allocated lives as long as the process.
const allocator = std.heap.page_allocator;

pub fn main(init: std.process.Init.Minimal) u8 {
    file.openStandardStreams();
    var path_buffer: [file.path_bytes_max]u8 = undefined;
    const own_path = file.readLink("/proc/self/exe", &path_buffer) catch
        return fail("it cannot find its own file: /proc/self/exe: mount /proc", .{});
    const content = file.map("/proc/self/exe") catch |err|
        return fail("its own file cannot be read: {s}: {s}", .{ own_path, explain(err) });
    const source = Payload.init(content) catch |err| return failPayload(err, own_path, content.len);
    const level = cpu.level() orelse return fail("this CPU is too old: it lacks x86-64-v2 (SSE4.2, POPCNT): " ++
        "use another, or give the virtual machine a CPU model that has it (QEMU: -cpu host)", .{});
    const launch: Launch = .{ .source = &source, .level = level, .own_path = own_path, .init = init };
    const place = environment.cachePlace(allocator, init.environ.block.slice, file.effectiveUser()) catch |err|
        return fail("no memory: {s}: free some", .{@errorName(err)});
    return launch.run(place);
}

fn fail(comptime format: []const u8, arguments: anytype) u8 {
    say(format, arguments);
    return exit_lacking;
}

fn say(comptime format: []const u8, arguments: anytype) void {
    var buffer: [4 * file.path_bytes_max]u8 = undefined;
    const text = std.fmt.bufPrint(&buffer, "vhostctl: " ++ format ++ "\n", arguments) catch return;
    file.writeAll(2, text) catch {};
}

fn failPayload(err: payload.Error, path: []const u8, bytes: usize) u8 {
    return switch (err) {
        error.Incomplete => fail("its own file is not whole: {s} ({d} bytes): copy it again", .{ path, bytes }),
        error.Damaged => fail("its own file is damaged: {s} ({d} bytes): copy it again", .{ path, bytes }),
    };
}

const Error = cache.Error || error{
    OutOfMemory,
    /// The runtime's dynamic loader is not on this system.
    NoLoader,
    /// Deno takes lists of paths, and has no way to write a path with a comma in one.
    Comma,
};

fn explain(err: Error) []const u8 {
    return switch (err) {
        error.Absent => "there is no such directory, and it cannot be made",
        error.Denied => "permission denied",
        error.NotDirectory => "not a directory (a symbolic link is none)",
        error.ReadOnly => "the file system is read-only",
        error.Full, error.OutOfMemory => "no space left",
        error.Busy => "another process does not let go of it",
        error.Foreign => "it belongs to another user",
        error.Shared => "others may write to it",
        error.NoExec => "programs in it may not be executed",
        error.NoLoader => "the dynamic loader of glibc is absent",
        error.Comma => "there is a comma in its path",
        error.Incomplete, error.Damaged => "the content is damaged",
        error.Unsupported, error.Failed => "a system call fails",
    };
}

const no_place: environment.Place = .{ .path = "(neither XDG_CACHE_HOME nor HOME is set)", .wanted = false };

/// One start, until it succeeds and this program is no more.
const Launch = struct {
    source: *const Payload,
    level: Level,
    own_path: Text,
    init: std.process.Init.Minimal,

    fn run(launch: *const Launch, place: ?environment.Place) u8 {
        const where = place orelse no_place;
        const cache_error = if (place == null) error.Absent else launch.fromCache(where.path) catch |err| err;
        if (launch.isFinal(cache_error)) |code| return code;
        if (where.wanted) say("the cache is not used: {s}: {s}: starting from memory instead, which takes longer", .{
            where.path, explain(cache_error),
        });
        const memory_error = launch.fromMemory() catch |err| err;
        if (launch.isFinal(memory_error)) |code| return code;
        const reason = if (memory_error == error.Denied or memory_error == error.NoExec)
            "programs in it are forbidden (sysctl vm.memfd_noexec)"
        else
            explain(memory_error);
        return fail("the runtime cannot be started: neither from the cache {s}: {s}; nor from memory: {s}: set " ++
            "VHOSTCTL_CACHE_DIR to a directory of yours with 120 MB free, on a file system not mounted noexec", .{
            where.path, explain(cache_error), reason,
        });
    }

    /// Says what no other way of starting could mend.
    fn isFinal(launch: *const Launch, err: Error) ?u8 {
        return switch (err) {
            error.Damaged => failPayload(error.Damaged, launch.own_path, launch.source.file.len),
            error.NoLoader => fail("the runtime cannot be started: this system has no glibc: " ++
                "use one that has version 2.27 or later", .{}),
            else => null,
        };
    }

    fn parts(launch: *const Launch) [3]cache.Part {
        const footer = &launch.source.footer;
        const library = switch (launch.level) {
            inline else => |level| "libvring-" ++ @tagName(level) ++ ".so",
        };
        return .{
            // Its name is what `ps` and `pkill` know the process by.
            .{ .name = "vhostctl", .section = &footer.runtime, .executable = true },
            .{ .name = "vhostctl.js", .section = &footer.application, .executable = false },
            .{ .name = library, .section = footer.library(launch.level), .executable = false },
        };
    }

    fn fromCache(launch: *const Launch, path: Text) Error!noreturn {
        const opened: Cache = try .open(path, launch.source.footer.build);
        defer opened.close();
        var buffer: [file.path_bytes_max]u8 = undefined;
        const directory = try file.pathOf(opened.entry, &buffer);
        if (std.mem.indexOfScalar(u8, directory, ',') != null) return error.Comma;
        const wanted = launch.parts();
        try opened.provide(launch.source, &wanted);
        try file.keepOnExec(opened.entry);
        return launch.start(.{
            .at = opened.entry,
            .runtime = wanted[0].name,
            .application = try print("{s}/{s}", .{ directory, wanted[1].name }),
            .library = try print("{s}/{s}", .{ directory, wanted[2].name }),
            // V8 keeps compiled code there.
            .deno_dir = try print("{s}/deno", .{directory}),
        });
    }

    fn fromMemory(launch: *const Launch) Error!noreturn {
        var files: [3]Fd = undefined;
        for (launch.parts(), &files) |part, *fd| fd.* = try launch.memoryFile(part);
        for (files[1..]) |fd| try file.keepOnExec(fd);
        var links: [2][32]u8 = undefined;
        return launch.start(.{
            .at = files[0],
            .runtime = "",
            .application = file.descriptorPath(files[1], &links[0]),
            .library = file.descriptorPath(files[2], &links[1]),
            // No directory can be made below a device: there will be no cache of compiled code.
            .deno_dir = "/dev/null/deno",
        });
    }

    fn memoryFile(launch: *const Launch, part: cache.Part) Error!Fd {
        const fd = try file.memoryFile(part.name, part.executable);
        errdefer file.close(fd);
        try cache.unpack(launch.source, part.section, fd);
        return file.finishMemoryFile(fd);
    }

    const Files = struct {
        at: Fd,
        /// A name in `at`, or "" for `at` itself.
        runtime: Text,
        application: Text,
        library: Text,
        deno_dir: Text,
    };

    fn start(launch: *const Launch, files: Files) Error!noreturn {
        const variables = try environment.forProgram(allocator, launch.init.environ.block.slice, &.{
            try print("DENO_DIR={s}", .{files.deno_dir}),
            "DENO_NO_UPDATE_CHECK=1",
            try print("VHOSTCTL_LIB={s}", .{files.library}),
            try print("VHOSTCTL_SELF={s}", .{launch.own_path}),
        });
        const arguments = try launch.programArguments(files);
        file.execute(files.at, files.runtime, arguments, variables) catch |err| return switch (err) {
            // The runtime itself is there: so it is its loader that is not.
            error.Absent => error.NoLoader,
            error.Denied => error.NoExec,
            else => err,
        };
    }

    fn programArguments(launch: *const Launch, files: Files) Error![:null]const ?[*:0]const u8 {
        const own = launch.init.args.vector;
        var list: std.ArrayList(?[*:0]const u8) = .empty;
        try list.append(allocator, if (own.len > 0) own[0] else "vhostctl");
        var template = launch.source.arguments();
        while (template.next()) |argument| {
            const half = try std.mem.replaceOwned(u8, allocator, argument, "{library}", files.library);
            const whole = try std.mem.replaceOwned(u8, allocator, half, "{application}", files.application);
            try list.append(allocator, try allocator.dupeSentinel(u8, whole, 0));
        }
        if (own.len > 1) for (own[1..]) |argument| try list.append(allocator, argument);
        return list.toOwnedSliceSentinel(allocator, null);
    }
};

fn print(comptime format: []const u8, arguments: anytype) Error!Text {
    return std.fmt.allocPrintSentinel(allocator, format, arguments, 0);
}

test {
    std.testing.refAllDecls(@This());
    _ = @import("launcher_lz4.zig");
}

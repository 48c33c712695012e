//! Post-copy: the guest runs here already while some of its memory is still elsewhere. Its mapping is registered with a
//! userfaultfd that the front end has: a thread of ours that touches a page which is not here sleeps until the front
//! end has fetched it (userfaultfd(2)). Faults of user mode only: that needs no privilege, and a system call that
//! touches such a page fails with EFAULT instead of sleeping.
//!
//! Whoever sleeps so serves other ports, too. A page that does not come at all must not hold them up for ever: a thread
//! of our own watches, and after `patience_ms` gives up the memory of that one port.

const builtin = @import("builtin");
const std = @import("std");
const abi = @import("abi.zig");
const fault = @import("fault.zig");
const sys = @import("sys.zig");
const system_file = @import("system_file.zig");

pub const Error = error{ InvalidArgument, LimitReached, OutOfMemory, System };

const look_ms = 100;
/// So long a thread may sleep on one page. An operator has to mend a broken migration by hand, which takes longer.
const patience_ms = 5000;
/// Those of a new table, while the old one is still there.
const ranges_max = 2 * abi.regions_max;
const sleepers_max = 128;

const none = -1;

/// What a port has of it. Calls are for the control thread, which alone adds and takes out ranges.
pub const PostCopy = struct {
    /// Also the front end's.
    uffd: i32 = none,
    listens: bool = false,
    /// The front end did not fetch: the memory is zeros, for good.
    lost: std.atomic.Value(bool) = .init(false),
    /// Between control and the watcher.
    mutex: sys.Mutex = .{},
    ranges: [ranges_max]sys.Map = undefined,
    count: u32 = 0,
    watcher: ?std.Thread = null,
    quit: std.atomic.Value(u32) = .init(0),
    sleepers: Sleepers = .{},

    /// Whether this host lets us.
    pub fn probe() Error!void {
        sys.close(try sys.openUserfault());
    }

    /// Returns the descriptor that the front end is to have; borrowed. In place of one of before: QEMU asks once for
    /// each queue pair, and uses the last.
    pub fn advise(post_copy: *PostCopy) Error!i32 {
        if (post_copy.listens) return error.InvalidArgument;
        const uffd = try sys.openUserfault();
        if (post_copy.uffd != none) sys.close(post_copy.uffd);
        post_copy.uffd = uffd;
        return uffd;
    }

    /// From now on what is mapped is registered, before anybody touches it.
    pub fn listen(post_copy: *PostCopy) Error!void {
        if (post_copy.listens) return;
        if (post_copy.uffd == none) return error.InvalidArgument;
        post_copy.quit.store(0, .monotonic);
        post_copy.lost.store(false, .monotonic);
        post_copy.sleepers.count = 0;
        const options: std.Thread.SpawnConfig = .{ .stack_size = sys.thread_stack_bytes };
        post_copy.watcher = std.Thread.spawn(options, watch, .{post_copy}) catch return error.OutOfMemory;
        post_copy.listens = true;
    }

    /// Nobody has touched the mapping yet.
    pub fn register(post_copy: *PostCopy, map: sys.Map) Error!void {
        if (!post_copy.listens) return;
        if (post_copy.count == ranges_max) return error.LimitReached;
        try sys.registerUserfault(post_copy.uffd, map);
        post_copy.mutex.lock();
        defer post_copy.mutex.unlock();
        post_copy.ranges[post_copy.count] = map;
        post_copy.count += 1;
    }

    /// The mapping is about to go, and nobody uses it any more.
    pub fn forget(post_copy: *PostCopy, map: sys.Map) void {
        post_copy.mutex.lock();
        defer post_copy.mutex.unlock();
        for (post_copy.ranges[0..post_copy.count]) |*range| {
            if (range.ptr != map.ptr) continue;
            sys.unregisterUserfault(post_copy.uffd, map);
            post_copy.count -= 1;
            range.* = post_copy.ranges[post_copy.count];
            return;
        }
    }

    /// All of the guest is here. Who sleeps wakes.
    pub fn end(post_copy: *PostCopy) void {
        post_copy.mutex.lock();
        for (post_copy.ranges[0..post_copy.count]) |range| sys.unregisterUserfault(post_copy.uffd, range);
        post_copy.count = 0;
        post_copy.mutex.unlock();
        post_copy.close();
    }

    /// Nobody fetches any more. Who sleeps wakes, and finds zeros of our own: a page made in the guest's file would
    /// stay there in place of the one to come.
    pub fn abandon(post_copy: *PostCopy) void {
        post_copy.lose();
        post_copy.close();
    }

    fn lose(post_copy: *PostCopy) void {
        post_copy.mutex.lock();
        defer post_copy.mutex.unlock();
        for (post_copy.ranges[0..post_copy.count]) |range| {
            fault.lose(range);
            sys.wakeUserfault(post_copy.uffd, range);
        }
        post_copy.count = 0;
    }

    fn close(post_copy: *PostCopy) void {
        if (post_copy.watcher) |thread| {
            post_copy.quit.store(1, .release);
            sys.futexWakeAll(&post_copy.quit);
            thread.join();
        }
        post_copy.watcher = null;
        post_copy.listens = false;
        if (post_copy.uffd != none) sys.close(post_copy.uffd);
        post_copy.uffd = none;
    }

    // The watcher.

    fn watch(post_copy: *PostCopy) void {
        sys.blockSignals();
        sys.nameThread("vhost postcopy");
        while (post_copy.quit.load(.acquire) == 0) {
            sys.futexWait(&post_copy.quit, 0, look_ms * 1_000_000);
            if (faultsUnderWay(post_copy.uffd) == 0) {
                post_copy.sleepers.count = 0;
            } else if (post_copy.sleepers.longest() >= patience_ms) {
                post_copy.lost.store(true, .release);
                post_copy.lose();
            }
        }
    }
};

/// Threads that sleep in a page fault of this userfaultfd.
fn faultsUnderWay(uffd: i32) u64 {
    var path: [64]u8 = undefined;
    var text: [512]u8 = undefined;
    const name = std.fmt.bufPrint(&path, "/proc/self/fdinfo/{d}", .{uffd}) catch unreachable;
    const len = system_file.read(name, &text) catch return 0;
    const label = "total:\t";
    const at = std.mem.indexOf(u8, text[0..len], label) orelse return 0;
    const digits = std.mem.sliceTo(text[at + label.len .. len], '\n');
    return std.fmt.parseInt(u64, digits, 10) catch 0;
}

/// Threads of this process that sleep on a page, and for how long already.
const Sleepers = struct {
    items: [sleepers_max]Sleeper = undefined,
    count: u32 = 0,

    /// `faults` tells whether it is still the same page.
    const Sleeper = struct { thread: u32, faults: u64, slept_ms: u32 };

    /// Looks at all threads, and returns the longest time, in milliseconds. To be called every `look_ms`.
    fn longest(sleepers: *Sleepers) u32 {
        var room: [1 << 14]u8 = undefined;
        const len = system_file.list("/proc/self/task", &room) catch return 0;
        var before = sleepers.*;
        sleepers.count = 0;
        var most: u32 = 0;
        var names = std.mem.tokenizeScalar(u8, room[0..len], '\n');
        while (names.next()) |name| {
            const thread = std.fmt.parseInt(u32, name, 10) catch continue;
            const now = sleeperOf(thread, &before) orelse continue;
            if (sleepers.count == sleepers_max) return most;
            sleepers.items[sleepers.count] = now;
            sleepers.count += 1;
            most = @max(most, now.slept_ms);
        }
        return most;
    }

    fn sleeperOf(thread: u32, before: *const Sleepers) ?Sleeper {
        const old: ?Sleeper = for (before.items[0..before.count]) |each| {
            if (each.thread == thread) break each;
        } else null;
        const asleep = sleepsOnPage(thread);
        if (!asleep and old == null) return null;
        const faults = faultsOf(thread) orelse return null;
        const same = if (old) |one| one.faults == faults else false;
        if (!same) return if (asleep) .{ .thread = thread, .faults = faults, .slept_ms = 0 } else null;
        // A signal has it look at the page once more: for a moment it does not sleep.
        const passed: u32 = if (asleep) look_ms else 0;
        return .{ .thread = thread, .faults = faults, .slept_ms = old.?.slept_ms + passed };
    }
};

/// Blocked, and not in a system call: proc(5), /proc/pid/syscall.
fn sleepsOnPage(thread: u32) bool {
    var text: [256]u8 = undefined;
    return std.mem.startsWith(u8, threadFile(thread, "syscall", &text) orelse return false, "-1 ");
}

/// Page faults that the thread has got over: fields 10 and 12 of proc(5), /proc/pid/stat.
fn faultsOf(thread: u32) ?u64 {
    var text: [1024]u8 = undefined;
    const line = threadFile(thread, "stat", &text) orelse return null;
    // The second field is a name, in parentheses, and may have some of its own.
    const at = std.mem.lastIndexOfScalar(u8, line, ')') orelse return null;
    var fields = std.mem.tokenizeScalar(u8, line[at + 1 ..], ' ');
    var sum: u64 = 0;
    var number: u32 = 3;
    while (fields.next()) |field| : (number += 1) {
        if (number == 10 or number == 12) sum += std.fmt.parseInt(u64, field, 10) catch return null;
        if (number == 12) return sum;
    }
    return null;
}

fn threadFile(thread: u32, comptime file: []const u8, text: []u8) ?[]const u8 {
    var path: [64]u8 = undefined;
    const name = std.fmt.bufPrint(&path, "/proc/self/task/{d}/" ++ file, .{thread}) catch unreachable;
    const len = system_file.read(name, text) catch return null;
    return text[0..len];
}

/// A mapped file, and a thread that reads a byte of it.
const TestReader = struct {
    fd: i32,
    map: sys.Map,
    guard: fault.Guard,
    faults: fault.Counter = .init(0),
    post_copy: PostCopy = .{},
    found: std.atomic.Value(u32) = .init(unread),

    const unread = 1000;

    fn start(reader: *TestReader) !void {
        const fd = try sys.memoryFile("test", 1 << 16);
        const map = try sys.mapShared(fd, 0, 1 << 16);
        reader.* = .{ .fd = fd, .map = map, .guard = undefined };
        reader.guard = fault.watch(map, &reader.faults).?;
        _ = try reader.post_copy.advise();
        try reader.post_copy.listen();
        try reader.post_copy.register(map);
    }

    fn close(reader: *TestReader) void {
        fault.forget(reader.guard);
        sys.unmap(reader.map);
        sys.close(reader.fd);
    }

    fn read(reader: *TestReader) void {
        const byte: *volatile u8 = &reader.map[4096];
        reader.found.store(byte.*, .release);
    }

    /// Until the thread sleeps on the page.
    fn awaitSleep(reader: *TestReader) void {
        while (faultsUnderWay(reader.post_copy.uffd) == 0) sys.sleep(1_000_000);
    }
};

fn skipWithoutUserfaults() !void {
    PostCopy.probe() catch return error.SkipZigTest;
}

/// The emulator that runs the tests of other processors has no userfaultfd.
const userfault_tests = struct {
    test "a page that comes is found, and at the end the rest is as the file has it" {
        try skipWithoutUserfaults();
        var reader: TestReader = undefined;
        try reader.start();
        defer reader.close();
        const thread = try std.Thread.spawn(.{}, TestReader.read, .{&reader});
        reader.awaitSleep();
        try std.testing.expectEqual(TestReader.unread, reader.found.load(.acquire));
        const page: [4096]u8 = @splat(7);
        try sys.fillUserfault(reader.post_copy.uffd, reader.map[4096..].ptr, &page);
        thread.join();
        try std.testing.expectEqual(7, reader.found.load(.acquire));
        reader.post_copy.end();
        try std.testing.expectEqual(0, reader.map[8192]);
        try std.testing.expectEqual(0, reader.faults.load(.acquire));
    }

    test "where nobody fetches, who sleeps wakes at the end, and the file stays as it was" {
        try skipWithoutUserfaults();
        var reader: TestReader = undefined;
        try reader.start();
        defer reader.close();
        const thread = try std.Thread.spawn(.{}, TestReader.read, .{&reader});
        reader.awaitSleep();
        reader.post_copy.abandon();
        thread.join();
        try std.testing.expectEqual(0, reader.found.load(.acquire));
        try std.testing.expectEqual(1, reader.faults.load(.acquire));
        try std.testing.expectEqual(0, (try sys.fileInfo(reader.fd)).allocated_bytes);
    }

    test "a page that does not come costs the port its memory, not the thread" {
        try skipWithoutUserfaults();
        var reader: TestReader = undefined;
        try reader.start();
        defer reader.close();
        const thread = try std.Thread.spawn(.{}, TestReader.read, .{&reader});
        thread.join();
        try std.testing.expect(reader.post_copy.lost.load(.acquire));
        try std.testing.expectEqual(1, reader.faults.load(.acquire));
        reader.post_copy.end();
    }
};

test {
    if (builtin.cpu.arch == .x86_64) _ = userfault_tests;
}

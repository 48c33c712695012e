//! One run of one fuzzer: its random numbers, its clock, and how it says what went wrong.
//!
//! All that a fuzzer does follows from the seed; where it stands when it fails is told by its step.

const std = @import("std");
const sys = @import("sys.zig");

/// A small generator (SplitMix64), so that a seed means the same for ever.
pub const Random = struct {
    state: u64,

    pub fn next(random: *Random) u64 {
        random.state +%= 0x9e37_79b9_7f4a_7c15;
        var word = random.state;
        word = (word ^ word >> 30) *% 0xbf58_476d_1ce4_e5b9;
        word = (word ^ word >> 27) *% 0x94d0_49bb_1331_11eb;
        return word ^ word >> 31;
    }

    /// From 0 up to `limit`, which is not among them.
    pub fn below(random: *Random, limit: u64) u32 {
        return @intCast((random.next() >> 32) * limit >> 32);
    }

    /// Both ends are among them.
    pub fn between(random: *Random, first: u32, last: u32) u32 {
        return first + random.below(@as(u64, last) - first + 1);
    }

    /// True once in so many times.
    pub fn once(random: *Random, times: u32) bool {
        return random.below(times) == 0;
    }

    pub fn pick(random: *Random, comptime T: type, items: []const T) T {
        return items[random.below(items.len)];
    }

    pub fn fill(random: *Random, bytes: []u8) void {
        var left = bytes;
        while (left.len >= 8) : (left = left[8..]) std.mem.writeInt(u64, left[0..8], random.next(), .little);
        for (left) |*byte| byte.* = @truncate(random.next());
    }
};

/// A step that takes so long hangs.
const step_seconds_max = 60;

pub const Run = struct {
    name: []const u8,
    seed: u64,
    random: Random,
    deadline_ns: u64,
    step: std.atomic.Value(u64),

    pub fn init(run: *Run, name: []const u8, seed: u64, seconds: u64) void {
        run.name = name;
        run.seed = seed;
        run.random = .{ .state = seed };
        run.deadline_ns = sys.nanoseconds() + seconds * 1_000_000_000;
        run.step = .init(0);
        current = run;
        const thread = std.Thread.spawn(.{}, watch, .{run}) catch |reason| run.fail("no thread: {t}", .{reason});
        thread.detach();
    }

    /// Begins the next step; false when the time is over.
    pub fn more(run: *Run) bool {
        const step = run.step.load(.monotonic);
        run.step.store(step + 1, .monotonic);
        return step % 16 != 0 or sys.nanoseconds() < run.deadline_ns;
    }

    pub fn expect(run: *const Run, holds: bool, comptime format: []const u8, arguments: anytype) void {
        if (!holds) run.fail(format, arguments);
    }

    pub fn expectEqual(run: *const Run, expected: anytype, actual: @TypeOf(expected), what: []const u8) void {
        if (expected != actual) run.fail("{s}: {any} instead of {any}", .{ what, actual, expected });
    }

    pub fn fail(run: *const Run, comptime format: []const u8, arguments: anytype) noreturn {
        @branchHint(.cold);
        std.debug.panic(format, arguments);
        _ = run;
    }

    fn watch(run: *Run) void {
        var seen: u64 = 0;
        while (true) {
            sys.sleep(step_seconds_max * 1_000_000_000);
            const step = run.step.load(.monotonic);
            if (step == seen) run.fail("the step does not end", .{});
            seen = step;
        }
    }
};

var current: ?*Run = null;

/// Says where the run stood, for failures and crashes alike.
pub fn report(message: []const u8, address: ?usize) noreturn {
    @branchHint(.cold);
    if (current) |run| {
        const step = run.step.load(.monotonic);
        std.debug.print("fuzz: {s}: seed {d}, step {d}: {s}\n", .{ run.name, run.seed, step, message });
    }
    std.debug.defaultPanic(message, address);
}

test "numbers stay inside their limits, and a seed always gives the same ones" {
    var random: Random = .{ .state = 1 };
    var again: Random = .{ .state = 1 };
    for (0..1000) |_| {
        const number = random.between(3, 5);
        try std.testing.expect(number >= 3 and number <= 5);
        try std.testing.expectEqual(number, again.between(3, 5));
    }
    try std.testing.expectEqual(0, random.below(1));
}

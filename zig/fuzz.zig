//! The fuzzers, by name: `fuzz --list` names them, `fuzz NAME SEED SECONDS` runs one. What a run does
//! follows from its seed alone; it ends with 0, or says what went wrong at which step.

const std = @import("std");
const fuzz_change = @import("fuzz_change.zig");
const fuzz_hostile = @import("fuzz_hostile.zig");
const fuzz_messages = @import("fuzz_messages.zig");
const fuzz_run = @import("fuzz_run.zig");
const fuzz_table = @import("fuzz_table.zig");
const fuzz_twin = @import("fuzz_twin.zig");

pub const panic = std.debug.FullPanic(fuzz_run.report);

const Fuzzer = struct { name: []const u8, play: *const fn (*fuzz_run.Run) void };

const fuzzers = [_]Fuzzer{
    .{ .name = "split-hostile", .play = fuzz_hostile.split },
    .{ .name = "packed-hostile", .play = fuzz_hostile.packedRing },
    .{ .name = "split-twin", .play = fuzz_twin.split },
    .{ .name = "packed-twin", .play = fuzz_twin.packedRing },
    .{ .name = "lengths-change", .play = fuzz_change.play },
    .{ .name = "memory-table", .play = fuzz_table.play },
    .{ .name = "messages", .play = fuzz_messages.play },
};

const usage =
    \\Usage: fuzz --list
    \\       fuzz NAME SEED SECONDS
    \\
;

pub fn main(init: std.process.Init.Minimal) u8 {
    var arguments = init.args.iterate();
    _ = arguments.skip();
    const name = arguments.next() orelse return refuse();
    if (std.mem.eql(u8, name, "--list")) {
        for (fuzzers) |fuzzer| std.debug.print("{s}\n", .{fuzzer.name});
        return 0;
    }
    const seed = std.fmt.parseInt(u64, arguments.next() orelse return refuse(), 10) catch return refuse();
    const seconds = std.fmt.parseInt(u32, arguments.next() orelse return refuse(), 10) catch return refuse();
    for (fuzzers) |fuzzer| {
        if (!std.mem.eql(u8, fuzzer.name, name)) continue;
        var run: fuzz_run.Run = undefined;
        run.init(fuzzer.name, seed, seconds);
        fuzzer.play(&run);
        std.debug.print("fuzz: {s}: seed {d}: {d} steps\n", .{ name, seed, run.step.load(.monotonic) });
        return 0;
    }
    return refuse();
}

fn refuse() u8 {
    std.debug.print("{s}", .{usage});
    return 2;
}

//! How far two CPUs are apart: the time that a cache line takes from one to the other.
//!
//! Where a host moves the CPUs of a virtual machine about, it changes by itself, and every rate between
//! two threads with it.

const std = @import("std");
const sys = @import("sys.zig");

/// The line goes there and back so often in a batch; the quickest batch counts, as one in which
/// nobody else had either CPU.
const batch_turns = 200;
const batches = 40;
/// Not waited for any longer, where one of the CPUs is not to be had.
const patience_ns = 200 * std.time.ns_per_ms;

const Error = error{ InvalidArgument, OutOfMemory, Busy };

const Ball = struct {
    turn: std.atomic.Value(u32) align(64) = .init(0),
    given_up: std.atomic.Value(bool) align(64) = .init(false),
    best_ns: u64 align(64) = std.math.maxInt(u64),

    /// Waits for one's turn; false: too long.
    fn await(ball: *Ball, turn: u32, deadline_ns: u64) bool {
        while (true) {
            for (0..1000) |_| {
                if (ball.turn.load(.acquire) == turn) return true;
                std.atomic.spinLoopHint();
            }
            if (ball.given_up.load(.monotonic) or sys.nanoseconds() > deadline_ns) return false;
        }
    }

    fn serve(ball: *Ball, cpu: u32, deadline_ns: u64) void {
        sys.blockSignals();
        sys.bindToCpu(cpu) catch return ball.giveUp();
        var turn: u32 = 0;
        for (0..batches) |_| {
            const begin = sys.nanoseconds();
            for (0..batch_turns) |_| {
                ball.turn.store(turn + 1, .release);
                turn += 2;
                if (!ball.await(turn, deadline_ns)) return ball.giveUp();
            }
            ball.best_ns = @min(ball.best_ns, sys.nanoseconds() - begin);
        }
    }

    fn answer(ball: *Ball, cpu: u32, deadline_ns: u64) void {
        sys.blockSignals();
        sys.bindToCpu(cpu) catch return ball.giveUp();
        var turn: u32 = 1;
        for (0..batches * batch_turns) |_| {
            if (!ball.await(turn, deadline_ns)) return ball.giveUp();
            ball.turn.store(turn + 1, .release);
            turn += 2;
        }
    }

    fn giveUp(ball: *Ball) void {
        ball.given_up.store(true, .monotonic);
    }
};

/// Nanoseconds for one way. `Busy`: somebody else had one of the CPUs all the time.
pub fn measure(cpu: u32, other: u32) Error!u32 {
    if (cpu == other or !sys.mayRunOn(cpu) or !sys.mayRunOn(other)) return error.InvalidArgument;
    var ball: Ball = .{};
    const deadline_ns = sys.nanoseconds() + patience_ns;
    const options: std.Thread.SpawnConfig = .{ .stack_size = sys.thread_stack_bytes };
    const answering = std.Thread.spawn(options, Ball.answer, .{ &ball, other, deadline_ns }) catch
        return error.OutOfMemory;
    const serving = std.Thread.spawn(options, Ball.serve, .{ &ball, cpu, deadline_ns }) catch {
        ball.giveUp();
        answering.join();
        return error.OutOfMemory;
    };
    serving.join();
    answering.join();
    if (ball.best_ns == std.math.maxInt(u64)) return error.Busy;
    return @intCast(ball.best_ns / (2 * batch_turns));
}

test "a line takes some time, and a CPU has no distance from itself" {
    try std.testing.expectError(error.InvalidArgument, measure(0, 0));
    try std.testing.expectError(error.InvalidArgument, measure(0, 1 << 20));
    if (!sys.mayRunOn(0) or !sys.mayRunOn(1)) return;
    // A machine that is busy with other things has no answer.
    const distance_ns = measure(0, 1) catch |reason| return if (reason == error.Busy) {} else reason;
    try std.testing.expect(distance_ns > 0 and distance_ns < 100_000);
}

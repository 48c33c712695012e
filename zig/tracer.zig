//! How many instructions a thread of another process executes: it is let go on one by one, where the host gives no
//! counter of them.
//!
//! Of a process that this one may trace (ptrace(2)), such as a child; all three by the same thread of ours.

const std = @import("std");
const builtin = @import("builtin");
const sys = @import("sys.zig");

pub const Error = sys.Error || error{Closed};

/// Halts the thread.
pub fn begin(thread: i32) Error!void {
    try sys.traceSeize(thread);
    _ = try stopped(thread);
}

/// Lets it go on for so many steps; returns how many instructions these were.
pub fn step(thread: i32, steps: u32) Error!u32 {
    var instructions: u32 = 0;
    var signal: u32 = 0;
    var at = try place(thread);
    for (0..steps) |_| {
        try sys.traceStep(thread, signal);
        signal = try stopped(thread);
        const now = try place(thread);
        // A repeated move stays where it is until it is done.
        instructions += @intFromBool(now != at);
        at = now;
    }
    return instructions;
}

/// Lets it go.
pub fn end(thread: i32) Error!void {
    try sys.traceRelease(thread);
}

/// Waits until it stands still; returns the signal that it is to get when it goes on.
fn stopped(thread: i32) Error!u32 {
    const signal = try sys.traceWait(thread) orelse return error.Closed;
    return if (signal == sys.signal_trap) 0 else signal;
}

/// The address of the next instruction; where nothing repeats, one that always differs.
fn place(thread: i32) Error!u64 {
    if (builtin.cpu.arch == .x86_64) return sys.traceInstructionPointer(thread);
    const other = struct {
        threadlocal var count: u64 = 0;
    };
    other.count += 1;
    return other.count;
}

const testing = std.testing;

/// The emulator that runs the tests of other processors lets nobody be traced.
const trace_tests = struct {
    test "instructions of another process are counted, a repeated move once, and it goes on" {
        const file = try sys.memoryFile("tracer", 4096);
        defer sys.close(file);
        const shared = try sys.mapShared(file, 0, 4096);
        defer sys.unmap(shared);
        const counter: *std.atomic.Value(u64) = @ptrCast(shared.ptr);
        const child = std.c.fork();
        if (child == 0) {
            while (true) {
                asm volatile (
                    \\mov $100, %%ecx
                    \\rep movsb
                    :
                    : [from] "{rsi}" (shared.ptr + 256),
                      [to] "{rdi}" (shared.ptr + 512),
                    : .{ .rcx = true, .rsi = true, .rdi = true, .memory = true });
                _ = counter.fetchAdd(1, .monotonic);
            }
        }
        defer {
            _ = std.c.kill(child, @fromBackingInt(9));
            _ = std.c.waitpid(child, null, 0);
        }
        while (counter.load(.monotonic) == 0) std.atomic.spinLoopHint();
        try begin(child);
        const before = counter.load(.monotonic);
        try testing.expectEqual(before, counter.load(.monotonic));
        const instructions = try step(child, 10_000);
        const rounds = counter.load(.monotonic) - before;
        // A hundred steps of each round are one instruction.
        try testing.expect(rounds >= 80 and rounds <= 99);
        try testing.expect(instructions > 4 * rounds and instructions < 20 * rounds);
        try end(child);
        const then = counter.load(.monotonic);
        while (counter.load(.monotonic) == then) std.atomic.spinLoopHint();
    }
};

test "nobody is traced who is not there" {
    try testing.expectError(error.System, begin(std.math.maxInt(i32)));
}

test {
    if (builtin.cpu.arch == .x86_64) _ = trace_tests;
}

//! The least that frames cost from one guest to another: one thread that copies the same buffers in the same order,
//! as wide as we can, which another CPU has written before. No rings, no checks, no notifications.

const std = @import("std");
const copy = @import("copy.zig").copy;
const Shape = @import("guest_shape.zig").Shape;
const sys = @import("sys.zig");

/// virtio_net_hdr_v1 (virtio 5.1.6).
const header_bytes = 12;
/// The first ones find cold caches and pages. Of the others the middle one counts.
const laps_cold = 3;
const laps = 41;
/// Not waited for any longer, where one of the CPUs is not to be had.
const patience_ns = 2 * std.time.ns_per_s;

pub const Error = sys.Error || error{ InvalidArgument, OutOfMemory, Busy };

pub const Plan = struct {
    /// Copies.
    cpu: u32,
    /// Writes what is to be copied.
    other: u32,
    frame_bytes: u32,
    /// Of each frame, as its sender does.
    written_bytes: u32,
    /// Of a receive buffer; a longer frame takes several.
    buffer_bytes: u32,
    ring_size: u32,

    fn isValid(plan: Plan) bool {
        return plan.cpu != plan.other and sys.mayRunOn(plan.cpu) and sys.mayRunOn(plan.other) and
            plan.frame_bytes >= 1 and plan.frame_bytes <= 1 << 16 and plan.written_bytes <= plan.frame_bytes and
            plan.buffer_bytes > header_bytes and plan.buffer_bytes <= 1 << 17 and
            plan.ring_size >= 1 and plan.ring_size <= 1 << 15;
    }
};

/// As many buffers as a ring has descriptors.
const Buffers = struct {
    map: sys.Map,
    stride: u32,
    count: u32,

    fn open(bytes: u32, count: u32) sys.Error!Buffers {
        const stride = Shape.of(header_bytes, bytes - header_bytes, 0, false).stride;
        const map = try sys.mapPrivate(@as(usize, stride) * count);
        @memset(map, 1);
        return .{ .map = map, .stride = stride, .count = count };
    }

    fn at(buffers: *const Buffers, index: usize) [*]u8 {
        return buffers.map.ptr + index % buffers.count * buffers.stride;
    }
};

const Course = struct {
    plan: Plan,
    source: Buffers,
    target: Buffers,
    deadline_ns: u64,
    /// Where the next frame goes.
    next: usize = 0,
    taken_ns: [laps]u64 = undefined,
    /// Even: the writer's; odd: the copier's.
    turn: std.atomic.Value(u32) align(64) = .init(0),
    given_up: std.atomic.Value(bool) align(64) = .init(false),

    fn await(course: *Course, turn: u32) bool {
        while (true) {
            for (0..1000) |_| {
                if (course.turn.load(.acquire) == turn) return true;
                std.atomic.spinLoopHint();
            }
            if (course.given_up.load(.monotonic)) return false;
            if (sys.nanoseconds() > course.deadline_ns) {
                course.given_up.store(true, .monotonic);
                return false;
            }
        }
    }

    fn write(course: *Course) void {
        sys.blockSignals();
        sys.bindToCpu(course.plan.other) catch return course.given_up.store(true, .monotonic);
        const bytes = header_bytes + course.plan.written_bytes;
        for (0..laps_cold + laps) |lap| {
            for (0..course.source.count) |i| @memset(course.source.at(i)[0..bytes], @truncate(lap));
            course.turn.store(@intCast(2 * lap + 1), .release);
            if (!course.await(@intCast(2 * lap + 2))) return;
        }
    }

    fn copyAll(course: *Course) void {
        sys.blockSignals();
        sys.bindToCpu(course.plan.cpu) catch return course.given_up.store(true, .monotonic);
        for (0..laps_cold + laps) |lap| {
            if (!course.await(@intCast(2 * lap + 1))) return;
            const begin = sys.nanoseconds();
            for (0..course.source.count) |i| course.copyFrame(course.source.at(i));
            const taken = sys.nanoseconds() - begin;
            if (lap >= laps_cold) course.taken_ns[lap - laps_cold] = taken;
            course.turn.store(@intCast(2 * lap + 2), .release);
        }
    }

    fn copyFrame(course: *Course, source: [*]const u8) void {
        var done: usize = 0;
        const bytes = header_bytes + course.plan.frame_bytes;
        while (done < bytes) {
            const part = @min(bytes - done, course.plan.buffer_bytes);
            copy(course.target.at(course.next), source + done, part);
            course.next += 1;
            done += part;
        }
    }
};

/// Picoseconds a frame. `Busy`: somebody else had one of the CPUs all the time.
pub fn measure(plan: Plan) Error!u32 {
    if (!plan.isValid()) return error.InvalidArgument;
    const source: Buffers = try .open(header_bytes + plan.frame_bytes, plan.ring_size);
    defer sys.unmap(source.map);
    const target: Buffers = try .open(plan.buffer_bytes, plan.ring_size);
    defer sys.unmap(target.map);
    var course: Course = .{
        .plan = plan,
        .source = source,
        .target = target,
        .deadline_ns = sys.nanoseconds() + patience_ns,
    };
    const options: std.Thread.SpawnConfig = .{ .stack_size = sys.thread_stack_bytes };
    const writing = std.Thread.spawn(options, Course.write, .{&course}) catch return error.OutOfMemory;
    const copying = std.Thread.spawn(options, Course.copyAll, .{&course}) catch {
        course.given_up.store(true, .monotonic);
        writing.join();
        return error.OutOfMemory;
    };
    writing.join();
    copying.join();
    if (course.given_up.load(.monotonic)) return error.Busy;
    std.mem.sort(u64, &course.taken_ns, {}, std.sort.asc(u64));
    return @intCast(course.taken_ns[laps / 2] * 1000 / plan.ring_size);
}

test "what is copied takes some time, and one CPU is not enough" {
    const plan: Plan = .{
        .cpu = 0,
        .other = 1,
        .frame_bytes = 5000,
        .written_bytes = 5000,
        .buffer_bytes = 2048,
        .ring_size = 64,
    };
    var wrong = plan;
    wrong.other = 0;
    try std.testing.expectError(error.InvalidArgument, measure(wrong));
    wrong = plan;
    wrong.written_bytes = 5001;
    try std.testing.expectError(error.InvalidArgument, measure(wrong));
    if (!sys.mayRunOn(0) or !sys.mayRunOn(1)) return error.SkipZigTest;
    try std.testing.expect(try measure(plan) > 0);
}

test "a frame lies in as many buffers as it needs, one after the other" {
    const plan: Plan = .{
        .cpu = 0,
        .other = 1,
        .frame_bytes = 5000,
        .written_bytes = 0,
        .buffer_bytes = 2048,
        .ring_size = 4,
    };
    const source: Buffers = try .open(header_bytes + plan.frame_bytes, plan.ring_size);
    defer sys.unmap(source.map);
    const target: Buffers = try .open(plan.buffer_bytes, plan.ring_size);
    defer sys.unmap(target.map);
    var course: Course = .{ .plan = plan, .source = source, .target = target, .deadline_ns = 0 };
    const frame = source.at(0)[0 .. header_bytes + plan.frame_bytes];
    for (frame, 0..) |*byte, i| byte.* = @truncate(i * 7);
    for (0..2) |_| course.copyFrame(frame.ptr);
    try std.testing.expectEqual(6, course.next);
    // The second frame begins in the last buffer.
    try std.testing.expectEqualSlices(u8, frame[0..2048], target.at(3)[0..2048]);
    try std.testing.expectEqualSlices(u8, frame[2048..4096], target.at(0)[0..2048]);
    try std.testing.expectEqualSlices(u8, frame[4096..], target.at(1)[0 .. frame.len - 4096]);
}

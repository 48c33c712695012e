//! Copying frame bytes. Zig 0.17 does not vectorize loops, hence the explicit vectors; a tail is
//! one more vector that overlaps what was copied before.

const std = @import("std");
const builtin = @import("builtin");

const wide_bytes = if (std.Target.x86.featureSetHas(builtin.cpu.features, .avx512f)) 64 else 32;
const Wide = @Vector(wide_bytes, u8);
const Half = @Vector(32, u8);
const Quarter = @Vector(16, u8);

/// From here on the processor's own string copy is the faster one (where it says so: FSRM, ERMS).
const string_bytes_min = 1024;

/// `target` and `source` do not overlap. Each source byte is read at least once, and no more than
/// twice: what was read second is not checked against the first, nor need it be.
pub inline fn copy(noalias target: [*]u8, noalias source: [*]const u8, len: usize) void {
    @setRuntimeSafety(false);
    if (len <= 2 * wide_bytes) return copyShort(target, source, len);
    if (builtin.cpu.arch == .x86_64 and len >= string_bytes_min) return copyString(target, source, len);
    var at: usize = 0;
    while (at + 2 * wide_bytes <= len) : (at += 2 * wide_bytes) {
        const first = load(Wide, source + at);
        const second = load(Wide, source + at + wide_bytes);
        store(Wide, target + at, first);
        store(Wide, target + at + wide_bytes, second);
    }
    const tail = len - 2 * wide_bytes;
    const first = load(Wide, source + tail);
    const second = load(Wide, source + tail + wide_bytes);
    store(Wide, target + tail, first);
    store(Wide, target + tail + wide_bytes, second);
}

/// The least that `copyLed` copies.
pub const led_bytes_min = wide_bytes;

/// Copies `len` bytes, but the first 12 come from `lead`, of which 16 can be read. Both ends of the first store, and
/// all that follow, lie as the buffers do: where those begin with a cache line, no store straddles two.
pub inline fn copyLed(noalias target: [*]u8, noalias source: [*]const u8, lead: *const [16]u8, len: usize) void {
    @setRuntimeSafety(false);
    store(Wide, target, led(load(Wide, source), lead));
    const rest = len - wide_bytes;
    if (rest <= 8) return store(u64, target + len - 8, load(u64, source + len - 8));
    if (rest <= 16) return store(Quarter, target + len - 16, load(Quarter, source + len - 16));
    if (rest <= 32) return store(Half, target + len - 32, load(Half, source + len - 32));
    if (builtin.cpu.arch == .x86_64 and len >= string_bytes_min) {
        return copyString(target + wide_bytes, source + wide_bytes, rest);
    }
    var at: usize = wide_bytes;
    while (at + wide_bytes < len) : (at += wide_bytes) store(Wide, target + at, load(Wide, source + at));
    store(Wide, target + len - wide_bytes, load(Wide, source + len - wide_bytes));
}

inline fn led(bytes: Wide, lead: *const [16]u8) Wide {
    const lanes = wide_bytes / 4;
    const front: @Vector(4, u32) = @bitCast(load(Quarter, lead));
    const spread = @shuffle(u32, front, undefined, [4]i32{ 0, 1, 2, 3 } ++ @as([lanes - 4]i32, @splat(0)));
    const from_lead = [3]i32{ ~@as(i32, 0), ~@as(i32, 1), ~@as(i32, 2) };
    const mask: [lanes]i32 = from_lead ++ @as([lanes]i32, std.simd.iota(i32, lanes))[3..].*;
    return @bitCast(@shuffle(u32, @as(@Vector(lanes, u32), @bitCast(bytes)), spread, mask));
}

inline fn copyShort(noalias target: [*]u8, noalias source: [*]const u8, len: usize) void {
    @setRuntimeSafety(false);
    if (len >= wide_bytes) return copyEnds(Wide, target, source, len);
    if (wide_bytes == 64 and len >= 32) return copyEnds(@Vector(32, u8), target, source, len);
    if (len >= 16) return copyEnds(@Vector(16, u8), target, source, len);
    if (len >= 8) return copyEnds(@Vector(8, u8), target, source, len);
    if (len >= 4) return copyEnds(@Vector(4, u8), target, source, len);
    for (0..len) |i| target[i] = source[i];
}

/// Two stores, from both ends, for `len` from one to two of `T`.
inline fn copyEnds(comptime T: type, noalias target: [*]u8, noalias source: [*]const u8, len: usize) void {
    @setRuntimeSafety(false);
    const tail = len - @sizeOf(T);
    const first = load(T, source);
    const last = load(T, source + tail);
    store(T, target, first);
    store(T, target + tail, last);
}

inline fn copyString(target: [*]u8, source: [*]const u8, len: usize) void {
    var end: [*]u8 = undefined;
    var source_end: [*]const u8 = undefined;
    var left: usize = undefined;
    asm volatile ("rep movsb"
        : [end] "={rdi}" (end),
          [source_end] "={rsi}" (source_end),
          [left] "={rcx}" (left),
        : [target] "{rdi}" (target),
          [source] "{rsi}" (source),
          [len] "{rcx}" (len),
        : .{ .memory = true });
}

inline fn load(comptime T: type, source: [*]const u8) T {
    return @as(*align(1) const T, @ptrCast(source)).*;
}

inline fn store(comptime T: type, target: [*]u8, value: T) void {
    @as(*align(1) T, @ptrCast(target)).* = value;
}

test "every length up to two pages, and nothing beyond it" {
    var source: [8192]u8 = undefined;
    for (&source, 0..) |*byte, i| byte.* = @truncate(i *% 31 +% 7);
    var target: [8192 + 16]u8 = undefined;
    for (0..source.len + 1) |len| {
        if (len > 300 and len % 61 != 0) continue;
        @memset(&target, 0xa5);
        copy(target[8..].ptr, &source, len);
        try std.testing.expectEqualSlices(u8, source[0..len], target[8..][0..len]);
        try std.testing.expect(std.mem.allEqual(u8, target[0..8], 0xa5));
        try std.testing.expect(std.mem.allEqual(u8, target[8 + len ..][0..8], 0xa5));
    }
}

test "a lead of its own, then every byte of the source, and nothing beyond" {
    var source: [4096]u8 = undefined;
    for (&source, 0..) |*byte, i| byte.* = @truncate(i *% 31 +% 7);
    var lead: [16]u8 align(16) = undefined;
    @memcpy(&lead, "twelve bytes,not");
    var target: [source.len + 16]u8 = undefined;
    for (led_bytes_min..source.len + 1) |len| {
        if (len > 300 and len % 61 != 0) continue;
        @memset(&target, 0xee);
        copyLed(&target, &source, &lead, len);
        try std.testing.expectEqualSlices(u8, lead[0..12], target[0..12]);
        try std.testing.expectEqualSlices(u8, source[12..len], target[12..len]);
        try std.testing.expect(std.mem.allEqual(u8, target[len..], 0xee));
    }
}

//! Which build of libvring this CPU can run: the levels of the x86-64 psABI, read from CPUID and, for the
//! wide registers that the kernel must save, from XGETBV.

const std = @import("std");
const builtin = @import("builtin");
const payload = @import("launcher_payload.zig");

const Level = payload.Level;

/// The highest level that this CPU has; null when it lacks even the lowest.
pub fn level() ?Level {
    if (builtin.cpu.arch != .x86_64) return .aarch64;
    return levelOf(read());
}

/// The registers that the levels are defined by.
const Registers = struct {
    leaf_1_ecx: u32 = 0,
    leaf_7_ebx: u32 = 0,
    extended_1_ecx: u32 = 0,
    xcr0: u64 = 0,
};

const v2_leaf_1_ecx = bits(&.{ 0, 9, 13, 19, 20, 23 }); // SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT
const v2_extended_1_ecx = bits(&.{0}); // LAHF and SAHF
const v3_leaf_1_ecx = bits(&.{ 12, 22, 27, 28, 29 }); // FMA, MOVBE, OSXSAVE, AVX, F16C
const v3_leaf_7_ebx = bits(&.{ 3, 5, 8 }); // BMI1, AVX2, BMI2
const v3_extended_1_ecx = bits(&.{5}); // LZCNT
const v3_xcr0 = bits(&.{ 1, 2 }); // XMM and YMM
const v4_leaf_7_ebx = bits(&.{ 16, 17, 28, 30, 31 }); // AVX512F, DQ, CD, BW, VL
const v4_xcr0 = bits(&.{ 5, 6, 7 }); // masks, and both halves of ZMM

fn bits(comptime places: []const u5) u32 {
    var mask: u32 = 0;
    for (places) |place| mask |= @as(u32, 1) << place;
    return mask;
}

fn has(value: u64, mask: u32) bool {
    return value & mask == mask;
}

fn levelOf(registers: Registers) ?Level {
    if (!has(registers.leaf_1_ecx, v2_leaf_1_ecx) or !has(registers.extended_1_ecx, v2_extended_1_ecx)) return null;
    if (!has(registers.leaf_1_ecx, v3_leaf_1_ecx) or !has(registers.leaf_7_ebx, v3_leaf_7_ebx)) return .x86_64_v2;
    if (!has(registers.extended_1_ecx, v3_extended_1_ecx) or !has(registers.xcr0, v3_xcr0)) return .x86_64_v2;
    if (!has(registers.leaf_7_ebx, v4_leaf_7_ebx) or !has(registers.xcr0, v4_xcr0)) return .x86_64_v3;
    return .x86_64_v4;
}

fn read() Registers {
    const highest = cpuid(0).eax;
    const highest_extended = cpuid(0x8000_0000).eax;
    var registers: Registers = .{ .leaf_1_ecx = cpuid(1).ecx };
    if (highest >= 7) registers.leaf_7_ebx = cpuid(7).ebx;
    if (highest_extended >= 0x8000_0001) registers.extended_1_ecx = cpuid(0x8000_0001).ecx;
    // XGETBV exists where the kernel has switched it on.
    if (has(registers.leaf_1_ecx, bits(&.{27}))) registers.xcr0 = xgetbv();
    return registers;
}

const Leaf = struct { eax: u32, ebx: u32, ecx: u32 };

fn cpuid(leaf: u32) Leaf {
    var eax: u32 = undefined;
    var ebx: u32 = undefined;
    var ecx: u32 = undefined;
    asm volatile ("cpuid"
        : [eax] "={eax}" (eax),
          [ebx] "={ebx}" (ebx),
          [ecx] "={ecx}" (ecx),
        : [leaf] "{eax}" (leaf),
          [subleaf] "{ecx}" (@as(u32, 0)),
        : .{ .edx = true });
    return .{ .eax = eax, .ebx = ebx, .ecx = ecx };
}

fn xgetbv() u64 {
    var low: u32 = undefined;
    var high: u32 = undefined;
    asm volatile ("xgetbv"
        : [low] "={eax}" (low),
          [high] "={edx}" (high),
        : [register] "{ecx}" (@as(u32, 0)),
    );
    return @as(u64, high) << 32 | low;
}

const testing = std.testing;

test "each level needs all of its own bits and those below" {
    if (builtin.cpu.arch != .x86_64) return error.SkipZigTest;
    const v2: Registers = .{ .leaf_1_ecx = v2_leaf_1_ecx, .extended_1_ecx = v2_extended_1_ecx };
    const v3: Registers = .{
        .leaf_1_ecx = v2_leaf_1_ecx | v3_leaf_1_ecx,
        .leaf_7_ebx = v3_leaf_7_ebx,
        .extended_1_ecx = v2_extended_1_ecx | v3_extended_1_ecx,
        .xcr0 = v3_xcr0,
    };
    var v4 = v3;
    v4.leaf_7_ebx |= v4_leaf_7_ebx;
    v4.xcr0 |= v4_xcr0;
    const steps = [_]struct { Registers, ?Level, ?Level }{
        .{ v2, .x86_64_v2, null },
        .{ v3, .x86_64_v3, .x86_64_v2 },
        .{ v4, .x86_64_v4, .x86_64_v3 },
    };
    for (steps, 0..) |step, index| {
        const registers, const whole, const below = step;
        try testing.expectEqual(whole, levelOf(registers));
        // Every bit that this step has and the one before has not.
        const before: Registers = if (index == 0) .{} else steps[index - 1][0];
        inline for (@typeInfo(Registers).@"struct".field_names) |name| {
            var left = @field(registers, name) & ~@field(before, name);
            while (left != 0) : (left &= left - 1) {
                var lacking = registers;
                @field(lacking, name) &= ~(left & (0 -% left));
                try testing.expectEqual(below, levelOf(lacking));
            }
        }
    }
    // A kernel that does not save the wide registers: the CPU's own bits are worth nothing.
    v4.xcr0 = 0;
    try testing.expectEqual(.x86_64_v2, levelOf(v4));
}

test "the level is the one that the kernel's list of flags gives" {
    if (builtin.cpu.arch != .x86_64) return error.SkipZigTest;
    var buffer: [16 << 10]u8 = undefined;
    const fd: i32 = @intCast(std.os.linux.open("/proc/cpuinfo", .{}, 0));
    defer _ = std.os.linux.close(fd);
    const text = buffer[0..std.os.linux.read(fd, &buffer, buffer.len)];
    const expected: ?Level = if (std.mem.indexOf(u8, text, " avx512vl") != null)
        .x86_64_v4
    else if (std.mem.indexOf(u8, text, " avx2") != null) .x86_64_v3 else .x86_64_v2;
    try testing.expectEqual(expected, level());
}

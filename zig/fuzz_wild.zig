//! Rings whose areas lie anywhere, over each other and over buffers, and memory full of half-truths:
//! nothing can be foreseen but what must not happen.

const std = @import("std");
const abi = @import("abi.zig");
const Guest = @import("fuzz_guest.zig").Guest;
const Random = @import("fuzz_run.zig").Random;
const spec = @import("spec.zig");

/// A configuration that a front end may ask for; not many can be started.
pub fn config(random: *Random, guest: *const Guest) abi.VringConfig {
    const sizes = [_]u32{ 0, 1, 2, 3, 4, 7, 8, 64, 100, 256, 1024, 32768, 32769, 0xffff_ffff };
    return .{
        .features = random.next() | if (random.once(4)) 0 else feature(spec.Feature.indirect_desc),
        .desc_gpa = address(random, guest, 16),
        .avail_gpa = address(random, guest, 4),
        .used_gpa = address(random, guest, 4),
        .log_gpa = random.next(),
        .size = random.pick(u32, if (random.once(4)) &sizes else sizes[1..10]),
        .base = if (random.once(2)) random.below(4) else @truncate(random.next()),
        .flags = @truncate(random.next()),
    };
}

fn feature(bit: u6) u64 {
    return @as(u64, 1) << bit;
}

fn address(random: *Random, guest: *const Guest, alignment: u64) u64 {
    if (random.once(64)) return random.next();
    const place = random.pick(@TypeOf(guest.places[0]), guest.places);
    const inside = random.below(place.size);
    const any = place.gpa + if (random.once(16)) place.size - @min(inside & 0xff, place.size) else inside;
    return if (random.once(64)) any else any & ~(alignment - 1);
}

/// Writes into the areas of a ring, and elsewhere.
pub fn scribble(random: *Random, guest: *Guest, ring: abi.VringConfig) void {
    for (0..random.between(1, 100)) |_| {
        switch (random.below(8)) {
            0 => guest.writeNumber(u64, address(random, guest, 1), random.next()),
            1 => guest.writeNumber(u16, ring.avail_gpa +% 2, @truncate(random.next())),
            2 => guest.writeNumber(u16, ring.avail_gpa +% 2, @truncate(random.below(@as(u64, ring.size) + 2))),
            3 => guest.writeNumber(u16, ring.avail_gpa +% 4 +% 2 * random.below(ring.size), number(random, ring.size)),
            else => scribbleDesc(random, guest, ring.desc_gpa +% 16 * random.below(ring.size), ring.size),
        }
    }
}

fn scribbleDesc(random: *Random, guest: *Guest, gpa: u64, size: u32) void {
    const flags = [_]u16{ 0, 1, 2, 3, 4, 0x80, 0x81, 0x82, 0x83, 0x84, 0x8000, 0x8001, 0x8002 };
    guest.writeNumber(u64, gpa, address(random, guest, 1));
    guest.writeNumber(u32, gpa +% 8, if (random.once(8)) @truncate(random.next()) else random.below(4096));
    guest.writeNumber(u16, gpa +% 12, if (random.once(2)) random.pick(u16, &flags) else number(random, size));
    guest.writeNumber(u16, gpa +% 14, if (random.once(2)) random.pick(u16, &flags) else number(random, size));
}

fn number(random: *Random, size: u32) u16 {
    return @truncate(random.below(@as(u64, size) + @intFromBool(random.once(64))));
}

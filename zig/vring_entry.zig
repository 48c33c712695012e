//! What both ring formats have in common, as they show it to a burst.

const builtin = @import("builtin");
const std = @import("std");
const abi = @import("abi.zig");
const spec = @import("spec.zig");

/// The driver wrote what no correct driver can: the ring is not to be trusted any more.
pub const Broken = error{ BadAvailIndex, BadHead, BadPackedId };

/// What tells a buffer of one descriptor from others, and for which side it is.
pub const shape_flags = spec.desc_next | spec.desc_indirect | spec.desc_write;

/// The first descriptor of an offered buffer, fetched once.
pub const Entry = struct {
    addr: u64,
    len: u32,
    flags: u16,
    /// Split only: the next descriptor's index.
    next: u16,
    /// What the driver wants back: split, the head's index; packed, the buffer id.
    id: u16,
};

/// A chain that was read to its end.
pub const Chain = struct {
    id: u16,
    /// Ring positions it took.
    count: u32,
    /// False: it can only be given back.
    whole: bool,
};

/// A chain that was taken and is to go back.
pub const Head = extern struct { id: u16, count: u16 };

/// As many as one burst takes.
pub const heads_max = abi.packets_max;

/// Several at once.
pub const Heads = struct {
    pub const wide = 8;
    pub const Words = @Vector(wide, u64);

    /// Id and count of each, from the lowest bits on.
    pub inline fn load(heads: *const [heads_max]Head, at: u32) Words {
        @setRuntimeSafety(false);
        return @as(*align(2) const @Vector(wide, u32), @ptrCast(&heads[at])).*;
    }

    comptime {
        std.debug.assert(heads_max % wide == 0 and builtin.cpu.arch.endian() == .little);
    }
};

/// What one flush showed the driver: used positions `from` up to `to`.
pub const Used = struct {
    from: u16 = 0,
    to: u16 = 0,
    any: bool = false,
};

/// Sizes and alignments of a ring's three areas (virtio 2.7, 2.8).
pub const Layout = struct {
    desc_bytes: u64,
    desc_align: u64,
    avail_bytes: u64,
    avail_align: u64,
    used_bytes: u64,
    used_align: u64,
};

/// Whether a step of an index from `from` to `to` passed `event` (2.7.7.2), modulo 65536.
pub inline fn crossed(event: u16, from: u16, to: u16) bool {
    return to -% event -% 1 < to -% from;
}

test crossed {
    try std.testing.expect(crossed(5, 5, 6));
    try std.testing.expect(!crossed(6, 5, 6));
    try std.testing.expect(!crossed(4, 5, 6));
    try std.testing.expect(crossed(0xffff, 0xfff0, 3));
    try std.testing.expect(crossed(2, 0xfff0, 3));
    try std.testing.expect(!crossed(3, 0xfff0, 3));
}

//! What both ring formats have in common, as they show it to a burst.

const std = @import("std");

/// The driver wrote what no correct driver can: the ring is not to be trusted any more.
pub const Broken = error{ BadAvailIndex, BadHead, BadPackedId };

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
pub const Head = struct { id: u16, count: u16 };

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

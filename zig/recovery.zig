//! Takes a ring up where somebody left it in the middle: finishes what that one had begun to show the driver, and gives
//! back what it had in hand. Those frames may have been delivered already, so nobody gets them now: they are lost, at
//! most those of one burst.

const std = @import("std");
const burst_file = @import("burst.zig");
const Packed = @import("packed.zig").Packed;
const Place = @import("packed_place.zig").Place;
const Split = @import("split.zig").Split;
const sys = @import("sys.zig");
const Used = @import("vring_entry.zig").Used;
const Vring = @import("vring.zig").Vring;

/// Workers are held, and what is written may be marked where the guest migrates.
pub fn settle(vring: *Vring, from_guest: bool) void {
    vring.unsettled = false;
    const held = switch (vring.format) {
        .split => giveBackHeldSplit(vring, &vring.ring.split, from_guest),
        .packed_ring => giveBackHeldPacked(vring, &vring.ring.packed_ring, from_guest),
    };
    if (!held) (switch (vring.format) {
        .split => if (from_guest) settleSplit(vring, &vring.ring.split),
        .packed_ring => settlePacked(vring, &vring.ring.packed_ring, from_guest),
    }) catch |reason| return vring.breakBy(reason);
    vring.trackAnew(!held);
}

/// What the front end's region says that somebody had in hand, whoever that was. False: it was not asked.
fn giveBackHeldSplit(vring: *Vring, ring: *Split, from_guest: bool) bool {
    const region = ring.region orelse return false;
    if (region.heldCount() == 0) return false;
    var left: []const u16 = region.held;
    while (left.len > 0) {
        const batch = left[0..@min(left.len, burst_file.frames_max)];
        for (batch) |head| ring.complete(head, 0, 1);
        finish(vring, ring.flush(), if (from_guest) @intCast(batch.len) else 0);
        left = left[batch.len..];
    }
    region.forgetHeld();
    return true;
}

fn giveBackHeldPacked(vring: *Vring, ring: *Packed, from_guest: bool) bool {
    const region = ring.region orelse return false;
    const count = region.held;
    if (count == 0) return false;
    for (region.chains[0..count]) |chain| ring.complete(chain.back.id, 0, chain.back.count);
    finish(vring, ring.flush(), if (from_guest) count else 0);
    return true;
}

/// A split ring tells itself where the next buffer is, so that the front end's base says nothing. Towards the guest
/// nothing is left: what was not shown is there to be taken again.
fn settleSplit(vring: *Vring, ring: *Split) !void {
    const base: u16 = @truncate(vring.config.base);
    @atomicStore(u32, &vring.record.base, base, .monotonic);
    const in_hand = @as(u16, @truncate(vring.record.taken)) -% ring.next_avail;
    // More were never taken at once: others have gone on with the ring since.
    if (in_hand > burst_file.frames_max) return;
    var left = in_hand;
    while (left > 0) : (left -= 1) {
        const head = try ring.next() orelse break;
        ring.take(1);
        ring.complete(head.id, 0, 1);
    }
    finish(vring, ring.flush(), in_hand - left);
}

fn settlePacked(vring: *Vring, ring: *Packed, from_guest: bool) !void {
    const words: u32 = @truncate(vring.record.used >> 32);
    finish(vring, ring.finishFlush(words), 0);
    ring.avail = ring.used;
    const told: Place = .of(@truncate(vring.config.base));
    if (from_guest) {
        const stale: Place = .of(@truncate(vring.record.base));
        const foreign = goesOn(ring, stale, told);
        try giveBack(vring, ring, if (foreign) stale else .of(@truncate(vring.record.taken)));
        if (foreign and std.meta.eql(ring.used, stale)) {
            ring.avail = told;
            ring.used = told;
            vring.record.settle(told.word());
            vring.record.take(told.word());
        }
    }
    @atomicStore(u32, &vring.record.base, vring.config.base, .monotonic);
}

/// Whether the front end took buffers from the ring itself while nobody was there, from where it believed the ring to
/// be up to what it tells now. QEMU does, when the guest goes on sending, and has no way to learn where the ring is.
fn goesOn(ring: *const Packed, stale: Place, told: Place) bool {
    if (std.meta.eql(stale, told)) return false;
    return distance(ring.used, stale, ring.size) + distance(stale, told, ring.size) <= ring.size;
}

/// Gives everything back up to a place, if that is in this lap.
fn giveBack(vring: *Vring, ring: *Packed, until: Place) !void {
    var left = distance(ring.used, until, ring.size);
    if (left > ring.size) return;
    vring.record.take(until.word());
    var heads: u32 = 0;
    while (left > 0) : (heads += 1) {
        const chain = try ring.skip(try ring.next() orelse break);
        if (chain.count > left) break;
        ring.complete(chain.id, 0, chain.count);
        left -= chain.count;
    }
    finish(vring, ring.flush(), heads);
    ring.avail = ring.used;
}

/// Steps from one place on to another, of two laps at most.
fn distance(from: Place, to: Place, size: u32) u32 {
    if (from.wrap == to.wrap and to.index >= from.index) return to.index - from.index;
    return to.index + (if (from.wrap == to.wrap) 2 * size else size) - from.index;
}

fn finish(vring: *Vring, used: Used, lost: u32) void {
    vring.stats.drop_crash += lost;
    if (!used.any) return;
    vring.markUsed(used);
    // What was used before the driver's wish for calls (virtio 2.7.13, 2.8.21).
    sys.fence();
    vring.notify(used);
}

test distance {
    try std.testing.expectEqual(@as(u32, 3), distance(.of(0x8001), .of(0x8004), 8));
    try std.testing.expectEqual(@as(u32, 5), distance(.of(0x8004), .of(0x0001), 8));
    try std.testing.expectEqual(@as(u32, 13), distance(.of(0x8004), .of(0x8001), 8));
    try std.testing.expectEqual(@as(u32, 11), distance(.of(0x8001), .of(0x0004), 8));
}

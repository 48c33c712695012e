//! Packets of an AF_PACKET socket in a ring that the kernel shares with us: version 2, since there a packet is shown as
//! soon as it is there (Linux, Documentation/networking/packet_mmap.rst).

const std = @import("std");
const abi = @import("abi.zig");
const Arrival = @import("arrival.zig").Arrival;
const spec = @import("spec.zig");
const sys = @import("sys.zig");

/// A slot holds the longest packet that the kernel does not cut, and what is in front of it.
pub const slot_bytes = 17 * 4096;
pub const block_bytes = 1 << 20;
pub const slots_in_block = block_bytes / slot_bytes;
pub const blocks = 17;
const slots = blocks * slots_in_block;

/// struct tpacket2_hdr.
const Slot = extern struct {
    status: u32,
    len: u32,
    captured: u32,
    mac: u16,
    net: u16,
    seconds: u32,
    nanoseconds: u32,
    tag: u16,
    tag_type: u16,
    padding: u32,
};

const status_kernel = 0;
const status_user = 1;
const status_tag = 0x10;
const status_tag_type = 0x40;

const tag_bytes = 4;
const ethertype_vlan = 0x8100;
/// The ring's headers are those of before VERSION_1, whatever was asked for.
const header_bytes = 10;

pub const PacketRing = struct {
    map: sys.Map,
    next: u32,
    /// Slots before `next` that are still looked at.
    taken: u32,
    /// Addresses and tag of packets that came with one: the kernel takes it out.
    fronts: [abi.packets_max][16]u8,

    pub fn open(ring: *PacketRing, fd: i32) sys.Error!void {
        ring.map = try sys.mapShared(fd, 0, blocks * block_bytes);
        ring.start();
    }

    /// Goes on where another process, which is at rest, stands in the same ring.
    pub fn openAt(ring: *PacketRing, fd: i32, position: u32) sys.Error!void {
        ring.map = try sys.mapShared(fd, 0, blocks * block_bytes);
        ring.next = position % slots;
        ring.taken = 0;
    }

    fn start(ring: *PacketRing) void {
        ring.next = 0;
        ring.taken = 0;
        // Until several sockets shared an interface, each of them had all of its packets.
        while (ring.pending()) : (ring.next = (ring.next + 1) % slots) {
            @atomicStore(u32, &ring.slotAt(ring.next).status, status_kernel, .release);
        }
    }

    pub fn close(ring: *PacketRing) void {
        sys.unmap(ring.map);
    }

    fn slotAt(ring: *const PacketRing, index: u32) *align(16) Slot {
        const at = index / slots_in_block * block_bytes + index % slots_in_block * slot_bytes;
        return @ptrCast(@alignCast(ring.map[at..]));
    }

    pub fn pending(ring: *const PacketRing) bool {
        return @atomicLoad(u32, &ring.slotAt(ring.next).status, .acquire) & status_user != 0;
    }

    /// The next packet; false: there is none. One that was cut off has fewer bytes than its `len`.
    pub fn read(ring: *PacketRing, arrival: *Arrival) bool {
        if (!ring.pending() or ring.taken == ring.fronts.len) return false;
        const slot = ring.slotAt(ring.next);
        const base: [*]u8 = @ptrCast(slot);
        const bytes = base[slot.mac..][0..slot.captured];
        arrival.header = std.mem.zeroes(spec.NetHeader);
        @memcpy(std.mem.asBytes(&arrival.header)[0..header_bytes], (base + slot.mac - header_bytes)[0..header_bytes]);
        arrival.segments[0] = .{ .base = bytes.ptr, .len = @intCast(bytes.len) };
        arrival.count = 1;
        arrival.len = slot.len;
        if (slot.status & status_tag != 0 and bytes.len > 12) ring.putTagBack(slot, arrival);
        ring.next = (ring.next + 1) % slots;
        ring.taken += 1;
        return true;
    }

    /// Behind the addresses. What the header tells of places is told of the packet without it.
    fn putTagBack(ring: *PacketRing, slot: *const Slot, arrival: *Arrival) void {
        const front = &ring.fronts[ring.taken];
        const whole = arrival.segments[0];
        const tag_type = if (slot.status & status_tag_type != 0) slot.tag_type else ethertype_vlan;
        front[0..12].* = whole.base[0..12].*;
        std.mem.writeInt(u16, front[12..14], tag_type, .big);
        std.mem.writeInt(u16, front[14..16], slot.tag, .big);
        arrival.segments[0..2].* = .{
            .{ .base = front, .len = front.len },
            .{ .base = whole.base + 12, .len = whole.len - 12 },
        };
        arrival.count = 2;
        arrival.len += tag_bytes;
        if (arrival.header.flags & spec.NetHeader.needs_csum != 0) arrival.header.csum_start +|= tag_bytes;
        if (arrival.header.hdr_len != 0) arrival.header.hdr_len +|= tag_bytes;
    }

    /// Those that were read are the kernel's again.
    pub fn giveBack(ring: *PacketRing) void {
        for (0..ring.taken) |ahead| {
            const index = (ring.next + slots - ring.taken + @as(u32, @intCast(ahead))) % slots;
            @atomicStore(u32, &ring.slotAt(index).status, status_kernel, .release);
        }
        ring.taken = 0;
    }
};

/// A ring in memory of our own, and what a kernel would do to it.
const Bench = struct {
    ring: PacketRing,
    kernels: u32 = 0,

    fn create() !*Bench {
        const bench = try std.testing.allocator.create(Bench);
        bench.* = .{ .ring = undefined };
        bench.ring.map = try sys.mapPrivate(blocks * block_bytes);
        bench.ring.start();
        return bench;
    }

    fn destroy(bench: *Bench) void {
        bench.ring.close();
        std.testing.allocator.destroy(bench);
    }

    /// A packet with this tag, which is not in it, and whose checksum is left to be finished.
    fn arrive(bench: *Bench, bytes: []const u8, tag: ?u16) void {
        const slot = bench.ring.slotAt(bench.kernels);
        bench.kernels = (bench.kernels + 1) % slots;
        const base: [*]u8 = @ptrCast(slot);
        const mac = 78;
        slot.mac = mac;
        slot.len = @intCast(bytes.len);
        slot.captured = @intCast(bytes.len);
        slot.tag = tag orelse 0;
        slot.tag_type = 0x88a8;
        var header = std.mem.zeroes(spec.NetHeader);
        header.flags = spec.NetHeader.needs_csum;
        header.csum_start = 34;
        @memcpy((base + mac - header_bytes)[0..header_bytes], std.mem.asBytes(&header)[0..header_bytes]);
        @memcpy((base + mac)[0..bytes.len], bytes);
        const tagged: u32 = if (tag == null) 0 else status_tag | status_tag_type;
        @atomicStore(u32, &slot.status, status_user | tagged, .release);
    }
};

test "packets come round and round, and their places go back" {
    const bench: *Bench = try .create();
    defer bench.destroy();
    var arrival: Arrival = undefined;
    for (0..slots / 2 + 2) |round| {
        const bytes: [60]u8 = @splat(@truncate(round));
        for (0..2) |_| bench.arrive(&bytes, null);
        for (0..2) |_| {
            try std.testing.expect(bench.ring.read(&arrival));
            try std.testing.expectEqualSlices(u8, &bytes, arrival.segments[0].base[0..arrival.segments[0].len]);
            try std.testing.expectEqual(34, arrival.header.csum_start);
        }
        try std.testing.expect(!bench.ring.read(&arrival));
        bench.ring.giveBack();
        for (0..slots) |i| try std.testing.expectEqual(status_kernel, bench.ring.slotAt(@intCast(i)).status);
    }
}

test "a tag that the kernel took out is put back, and places behind it move" {
    const bench: *Bench = try .create();
    defer bench.destroy();
    var bytes: [60]u8 = undefined;
    for (&bytes, 0..) |*byte, i| byte.* = @intCast(i);
    bench.arrive(&bytes, 0x6064);
    var arrival: Arrival = undefined;
    try std.testing.expect(bench.ring.read(&arrival));
    var whole: [64]u8 = undefined;
    var cursor: @import("chain.zig").Cursor = .{ .segments = arrival.segments[0..arrival.count] };
    try std.testing.expectEqual(64, cursor.read(&whole));
    try std.testing.expectEqual(64, arrival.len);
    try std.testing.expectEqualSlices(u8, bytes[0..12] ++ [_]u8{ 0x88, 0xa8, 0x60, 0x64 } ++ bytes[12..], &whole);
    try std.testing.expectEqual(38, arrival.header.csum_start);
}

test "what came before the start is left" {
    const bench: *Bench = try .create();
    defer bench.destroy();
    const old: [60]u8 = @splat(1);
    const new: [60]u8 = @splat(2);
    bench.arrive(&old, null);
    bench.ring.start();
    bench.arrive(&new, null);
    var arrival: Arrival = undefined;
    try std.testing.expect(bench.ring.read(&arrival));
    try std.testing.expectEqual(2, arrival.segments[0].base[0]);
    try std.testing.expect(!bench.ring.read(&arrival));
}

//! A well-behaved guest beside the ones under test: its buffers are plain and plenty, it gets exactly
//! what it has to get, and its own traffic arrives whatever the others do.

const std = @import("std");
const abi = @import("abi.zig");
const fuzz_packet = @import("fuzz_packet.zig");
const memory_file = @import("memory.zig");
const same = @import("fuzz_guest.zig").same;
const packed_place = @import("packed_place.zig");
const Packet = fuzz_packet.Packet;
const Port = @import("port.zig").Port;
const Run = @import("fuzz_run.zig").Run;
const spec = @import("spec.zig");
const Switch = @import("switch.zig");
const sys = @import("sys.zig");

const allocator = std.heap.c_allocator;

/// As many buffers as a burst has frames: what one burst brings always finds room.
const ring_size = 64;
const buffer_bytes = 66 << 10;
const ring_bytes = 8 << 10;
const queue_bytes = 2 * (ring_bytes + ring_size * buffer_bytes);
const gpa_base = 1 << 30;
/// Bytes behind what was received that are looked at.
const behind_bytes = 64;
const poison = 0xa5;

/// The driver of one ring whose every buffer is one descriptor, numbered by its slot.
const SlotRing = struct {
    base: [*]align(16) u8,
    is_packed: bool,
    avail: packed_place.Place,
    used: packed_place.Place,
    avail_idx: u16,
    used_idx: u16,

    const avail_at = 0x1000;
    const used_at = 0x1400;

    fn start(ring: *SlotRing) void {
        @memset(ring.base[0..ring_bytes], 0);
        ring.avail = .first;
        ring.used = .first;
        ring.avail_idx = 0;
        ring.used_idx = 0;
    }

    fn offer(ring: *SlotRing, slot: u16, gpa: u64, len: u32, flags: u16) void {
        if (ring.is_packed) {
            const table: [*]spec.PackedDesc = @ptrCast(ring.base);
            const wrap: u16 = if (ring.avail.wrap) spec.desc_avail else spec.desc_used;
            table[ring.avail.index] = .{ .addr = gpa, .len = len, .id = slot, .flags = flags | wrap };
            return ring.avail.advance(1, ring_size);
        }
        const table: [*]spec.Desc = @ptrCast(ring.base);
        table[slot] = .{ .addr = gpa, .len = len, .flags = flags, .next = 0 };
        const avail: [*]u16 = @ptrCast(@alignCast(ring.base + avail_at));
        avail[2 + ring.avail_idx % ring_size] = slot;
        ring.avail_idx +%= 1;
        avail[1] = ring.avail_idx;
    }

    const Done = struct { slot: u16, len: u32 };

    fn reap(ring: *SlotRing) ?Done {
        if (ring.is_packed) {
            const table: [*]const spec.PackedDesc = @ptrCast(ring.base);
            const desc = table[ring.used.index];
            const both = spec.desc_avail | spec.desc_used;
            if (desc.flags & both != @as(u16, if (ring.used.wrap) both else 0)) return null;
            ring.used.advance(1, ring_size);
            return .{ .slot = desc.id, .len = desc.len };
        }
        const used: [*]const u16 = @ptrCast(@alignCast(ring.base + used_at));
        if (used[1] == ring.used_idx) return null;
        const elements: [*]const spec.UsedElement = @ptrCast(@alignCast(ring.base + used_at + 4));
        const element = elements[ring.used_idx % ring_size];
        ring.used_idx +%= 1;
        return .{ .slot = @intCast(element.id), .len = element.len };
    }
};

const Foreseen = struct { packet: Packet, in_order: bool };

pub const Peer = struct {
    run: *Run,
    port: *Port,
    features: u64,
    header_bytes: u32,
    file: i32,
    bytes: []align(std.heap.page_size_min) u8,
    rings: []SlotRing,
    inputs: []Switch.Input,
    foreseen: std.ArrayList(Foreseen),
    arena: std.heap.ArenaAllocator,
    /// What the port's counters towards the guest have to be.
    stats: abi.VringStats,
    sent: u32,

    pub fn init(peer: *Peer, run: *Run, number: u16, queue_pairs: u32, attention: i32) void {
        peer.run = run;
        peer.port = Port.create(number, .{ .queue_pairs = queue_pairs, .mtu = 0 }, attention) catch unreachable;
        const bytes = queue_pairs * queue_bytes;
        peer.file = sys.memoryFile("peer", bytes) catch run.fail("no memory file", .{});
        peer.bytes = sys.mapShared(peer.file, 0, bytes) catch run.fail("no mapping", .{});
        @memset(peer.bytes, poison);
        peer.rings = allocator.alloc(SlotRing, 2 * queue_pairs) catch unreachable;
        peer.inputs = allocator.alloc(Switch.Input, queue_pairs) catch unreachable;
        for (peer.rings, 0..) |*ring, i| ring.base = @alignCast(peer.bytes.ptr + i * (queue_bytes / 2));
        for (peer.inputs, 0..) |*input, i| input.* = .{ .vring = &peer.port.vrings[2 * i + 1], .port = peer.port };
        peer.foreseen = .empty;
        peer.arena = .init(allocator);
        peer.stats = std.mem.zeroes(abi.VringStats);
        peer.remap();
    }

    /// Maps the memory anew, under running rings as well.
    pub fn remap(peer: *Peer) void {
        const table = memory_file.Table.create() catch unreachable;
        const region: abi.Region = .{ .gpa = gpa_base, .size_bytes = peer.bytes.len, .mmap_offset = 0 };
        table.add(region, peer.file, &peer.port.memory.faults) catch |reason| peer.run.fail("peer: {t}", .{reason});
        peer.port.memory.swap(table);
        table.destroy();
        for (peer.port.vrings) |*vring| if (vring.started) vring.place() catch unreachable;
    }

    /// Starts every ring anew, in a format of chance.
    pub fn start(peer: *Peer) void {
        const random = &peer.run.random;
        const common = bit(spec.Feature.version_1) | bit(spec.Feature.guest_csum) | bit(spec.Feature.csum);
        peer.features = common | (random.next() & offloads);
        if (random.once(4)) peer.features &= ~(offloads | common);
        if (random.once(2)) peer.features |= bit(spec.Feature.mrg_rxbuf);
        const is_packed = random.once(2);
        if (is_packed) peer.features |= bit(spec.Feature.ring_packed) | bit(spec.Feature.version_1);
        peer.header_bytes = spec.NetHeader.size(peer.features);
        peer.sent = 0;
        for (peer.rings, peer.port.vrings, 0..) |*ring, *vring, i| {
            ring.is_packed = is_packed;
            ring.start();
            if (vring.started) _ = vring.stop() catch unreachable;
            vring.start(peer.config(i)) catch |reason| peer.run.fail("peer: {t}", .{reason});
            vring.enabled = true;
            if (i % 2 == 0) for (0..ring_size) |slot| peer.offerBuffer(ring, @intCast(slot));
        }
    }

    fn config(peer: *const Peer, index: usize) abi.VringConfig {
        const gpa = gpa_base + index * (queue_bytes / 2);
        return .{
            .features = peer.features,
            .desc_gpa = gpa,
            .avail_gpa = gpa + SlotRing.avail_at,
            .used_gpa = gpa + SlotRing.used_at,
            .log_gpa = 0,
            .size = ring_size,
            .base = if (spec.has(peer.features, spec.Feature.ring_packed)) 0x8000_8000 else 0,
            .flags = 0,
        };
    }

    fn bufferOf(ring: *const SlotRing, slot: usize) []u8 {
        return (ring.base + ring_bytes + slot * buffer_bytes)[0..buffer_bytes];
    }

    fn offerBuffer(peer: *Peer, ring: *SlotRing, slot: u16) void {
        const gpa = gpa_base + (@intFromPtr(bufferOf(ring, slot).ptr) - @intFromPtr(peer.bytes.ptr));
        ring.offer(slot, gpa, buffer_bytes - behind_bytes, spec.desc_write);
    }

    /// Room in a transmit ring.
    pub fn canSend(peer: *const Peer) bool {
        return peer.sent < ring_size;
    }

    pub fn send(peer: *Peer, queue: u32, packet: Packet) void {
        const ring = &peer.rings[2 * queue + 1];
        const slot: u16 = @intCast(peer.sent);
        peer.sent += 1;
        const buffer = bufferOf(ring, slot);
        @memcpy(buffer[0..peer.header_bytes], std.mem.asBytes(&packet.header)[0..peer.header_bytes]);
        @memcpy(buffer[peer.header_bytes..][0..packet.bytes.len], packet.bytes);
        const gpa = gpa_base + (@intFromPtr(buffer.ptr) - @intFromPtr(peer.bytes.ptr));
        ring.offer(slot, gpa, peer.header_bytes + @as(u32, @intCast(packet.bytes.len)), 0);
    }

    /// All that was sent came back, in order and with nothing written to it.
    pub fn reapSent(peer: *Peer, queue: u32) void {
        const ring = &peer.rings[2 * queue + 1];
        for (0..peer.sent) |slot| {
            const done = ring.reap() orelse peer.run.fail("peer: buffer {d} was not given back", .{slot});
            peer.run.expectEqual(slot, done.slot, "peer: buffer given back");
            peer.run.expectEqual(@as(u32, 0), done.len, "peer: bytes written to a sent buffer");
        }
        peer.run.expect(ring.reap() == null, "peer: more buffers given back than sent", .{});
        peer.sent = 0;
    }

    /// These have to arrive, in this order if `in_order`, unless an offload is in the way.
    pub fn foresee(peer: *Peer, packets: []const Packet, in_order: bool) void {
        for (packets) |packet| {
            const parts = packet.partsFor(peer.features, peer.arena.allocator()) orelse {
                peer.stats.drop_bad_gso += 1;
                continue;
            };
            for (parts) |part| {
                countPacket(&peer.stats, part);
                const copy = peer.arena.allocator().dupe(u8, part.bytes) catch unreachable;
                const kept: Packet = .{ .header = part.header, .bytes = copy };
                peer.foreseen.append(allocator, .{ .packet = kept, .in_order = in_order }) catch unreachable;
            }
        }
    }

    /// Takes what arrived. `strangers`: frames that nobody foresaw may be among it.
    pub fn receive(peer: *Peer, strangers: bool) void {
        for (0..peer.inputs.len) |queue| {
            const ring = &peer.rings[2 * queue];
            while (ring.reap()) |done| {
                peer.run.expect(done.slot < ring_size, "peer: slot {d}", .{done.slot});
                peer.take(bufferOf(ring, done.slot), done.len, strangers);
                peer.offerBuffer(ring, done.slot);
            }
        }
    }

    fn take(peer: *Peer, buffer: []u8, len: u32, strangers: bool) void {
        const run = peer.run;
        run.expect(len >= peer.header_bytes + 14 and len <= buffer_bytes - behind_bytes, "peer: {d} bytes", .{len});
        const behind = buffer[len..][0..behind_bytes];
        run.expect(std.mem.allEqual(u8, behind, poison), "peer: written behind {d} bytes", .{len});
        var header: spec.NetHeader = .{
            .flags = 0,
            .gso_type = 0,
            .hdr_len = 0,
            .gso_size = 0,
            .csum_start = 0,
            .csum_offset = 0,
            .num_buffers = 1,
        };
        @memcpy(std.mem.asBytes(&header)[0..peer.header_bytes], buffer[0..peer.header_bytes]);
        const bytes = buffer[peer.header_bytes..len];
        const sane = fuzz_packet.isSane(header, @intCast(bytes.len), peer.features, 1);
        run.expect(sane, "peer: header {any}", .{header});
        if (!peer.settle(header, bytes)) run.expect(strangers, "peer: a frame of {d} bytes from nowhere", .{bytes.len});
        @memset(buffer[0..len], poison);
    }

    /// Strikes a frame off the list; false: it is not there.
    fn settle(peer: *Peer, header: spec.NetHeader, bytes: []const u8) bool {
        var overtaken = false;
        for (peer.foreseen.items, 0..) |each, i| {
            const equal = std.meta.eql(each.packet.header, header) and same(each.packet.bytes, bytes);
            if (!equal) {
                overtaken = overtaken or each.in_order;
                continue;
            }
            const ordered = each.in_order and peer.inputs.len == 1;
            peer.run.expect(!ordered or !overtaken, "peer: a frame of {d} bytes came early", .{bytes.len});
            _ = peer.foreseen.orderedRemove(i);
            return true;
        }
        return false;
    }

    /// Nothing is missing. Counters are as foreseen, unless there are strangers.
    pub fn check(peer: *Peer, strangers: bool) void {
        peer.run.expect(peer.foreseen.items.len == 0, "peer: {d} frames lost", .{peer.foreseen.items.len});
        _ = peer.arena.reset(.retain_capacity);
        if (!strangers) expectCounts(peer.run, peer.stats, peer.port.sum(0), "peer");
        peer.stats = peer.port.sum(0);
    }
};

pub fn countPacket(stats: *abi.VringStats, packet: Packet) void {
    stats.packets += 1;
    stats.bytes += packet.bytes.len;
    if (packet.bytes[0] & 1 == 0) return;
    const all = std.mem.eql(u8, packet.bytes[0..6], &fuzz_packet.broadcast);
    if (all) stats.broadcast += 1 else stats.multicast += 1;
}

/// All but what depends on how bursts were cut and notified.
pub fn expectCounts(run: *const Run, expected: abi.VringStats, actual: abi.VringStats, who: []const u8) void {
    inline for (@typeInfo(abi.VringStats).@"struct".field_names) |name| {
        const counted = comptime std.mem.startsWith(u8, name, "drop_") or std.mem.endsWith(u8, name, "cast") or
            std.mem.eql(u8, name, "packets") or std.mem.eql(u8, name, "bytes");
        if (counted and @field(expected, name) != @field(actual, name)) {
            run.fail("{s}: {s}: {d} instead of {d}", .{ who, name, @field(actual, name), @field(expected, name) });
        }
    }
}

pub fn bit(feature: u6) u64 {
    return @as(u64, 1) << feature;
}

/// Every offload of both directions.
pub const offloads = bit(spec.Feature.csum) | bit(spec.Feature.guest_csum) |
    bit(spec.Feature.guest_tso4) | bit(spec.Feature.guest_tso6) | bit(spec.Feature.guest_ecn) |
    bit(spec.Feature.guest_ufo) | bit(spec.Feature.host_tso4) | bit(spec.Feature.host_tso6) |
    bit(spec.Feature.host_ecn) | bit(spec.Feature.host_ufo) | bit(spec.Feature.guest_uso4) |
    bit(spec.Feature.guest_uso6) | bit(spec.Feature.host_uso);

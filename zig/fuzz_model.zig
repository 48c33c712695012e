//! What a device has to make of a ring, read slowly from the specification: the judge of `split.zig`,
//! `packed.zig` and `chain.zig`, and made of none of them. It foresees every byte that the device writes.

const std = @import("std");
const abi = @import("abi.zig");
const Guest = @import("fuzz_guest.zig").Guest;
const spec = @import("spec.zig");

const allocator = std.heap.c_allocator;

pub const Direction = enum { readable, writable };

/// The ring cannot go on; `Ring.broken` says why.
pub const Broken = error{Broken};

/// A range of guest memory, whole as the driver described it.
pub const Piece = struct { gpa: u64, len: u32 };

/// A chain that was taken off the ring.
pub const Chain = struct {
    id: u16,
    /// Places in the ring.
    count: u32,
    /// It can only be given back.
    bad: bool,
    /// Bytes of all its buffers.
    total: u64,
    /// Descriptors looked at.
    steps: u32,
    /// Its table lies where the device may, or may not yet, have written what it gave back.
    blurred: bool,
};

const Completion = struct { id: u16, len: u32, count: u32 };

/// Where the ring stands: split uses `index` alone, modulo 65536.
pub const Position = struct { index: u32, wrap: bool = false };

pub const Ring = struct {
    guest: *Guest,
    config: abi.VringConfig,
    /// Of the ring's record.
    cookie: u32,
    is_packed: bool,
    avail: Position,
    used: Position,
    /// Split: the avail index as last read, and the avail position at the last flush.
    avail_seen: u16,
    released: u16,
    broken: abi.VringBroken,
    /// Of the chains read since the list was emptied; what lies beyond the room is not there.
    pieces: std.ArrayList(Piece),
    completions: std.ArrayList(Completion),

    /// For a ring as `Vring.start` starts it.
    pub fn start(ring: *Ring, guest: *Guest, config: abi.VringConfig, cookie: u32) void {
        ring.guest = guest;
        ring.config = config;
        ring.cookie = cookie;
        ring.is_packed = spec.has(config.features, spec.Feature.ring_packed);
        ring.broken = .no;
        ring.pieces.clearRetainingCapacity();
        ring.completions.clearRetainingCapacity();
        if (ring.is_packed) {
            ring.avail = .{ .index = config.base & 0x7fff, .wrap = config.base >> 15 & 1 != 0 };
            ring.used = ring.avail;
        } else {
            ring.used = .{ .index = guest.number(u16, config.used_gpa + 2) };
            // 0 is also what a front end says that keeps no positions.
            ring.avail = if (config.base == 0) ring.used else .{ .index = config.base };
            ring.avail_seen = @intCast(ring.avail.index);
            ring.released = ring.avail_seen;
        }
        ring.foreseeDisarm();
    }

    /// As GET_VRING_BASE has to answer.
    pub fn base(ring: *const Ring) u32 {
        if (!ring.is_packed) return ring.avail.index;
        return word(ring.avail) | @as(u32, word(ring.used)) << 16;
    }

    fn word(position: Position) u16 {
        return @intCast(position.index | @as(u32, @intFromBool(position.wrap)) << 15);
    }

    fn eventIdx(ring: *const Ring) bool {
        return spec.has(ring.config.features, spec.Feature.event_idx);
    }

    pub fn foreseeDisarm(ring: *Ring) void {
        const mark: u16 = @truncate(ring.cookie);
        if (ring.is_packed) return ring.guest.foreseeNumber(u32, ring.config.used_gpa, mark | @as(u32, 1) << 16);
        const behind = @as(u16, @intCast(ring.avail.index)) -% 1 -% (mark & 0x3fff);
        const event = if (behind == 0) 0xffff else behind;
        ring.guest.foreseeNumber(u16, ring.config.used_gpa + 4 + 8 * ring.config.size, event);
        if (!ring.eventIdx()) ring.guest.foreseeNumber(u16, ring.config.used_gpa, 1);
    }

    pub fn foreseeArm(ring: *Ring) void {
        const gpa = ring.config.used_gpa;
        if (ring.is_packed) {
            const mark: u16 = @truncate(ring.cookie);
            const event = if (ring.eventIdx()) word(ring.avail) | @as(u32, 2) << 16 else mark;
            ring.guest.foreseeNumber(u32, gpa, event);
        } else if (ring.eventIdx()) {
            ring.guest.foreseeNumber(u16, gpa + 4 + 8 * ring.config.size, @intCast(ring.avail.index));
        } else {
            ring.guest.foreseeNumber(u16, gpa, 0);
        }
    }

    /// Whether the driver offers more.
    pub fn pending(ring: *const Ring) bool {
        if (ring.is_packed) return isAvailable(ring.packedDesc(ring.avail.index).flags, ring.avail.wrap);
        return ring.guest.number(u16, ring.config.avail_gpa + 2) != ring.avail.index;
    }

    /// Takes the next chain and puts the first `room` bytes of it behind `pieces`; null: there is none.
    pub fn take(ring: *Ring, direction: Direction, room: u64) Broken!?Chain {
        var walk: Walk = .{ .ring = ring, .direction = direction, .room = room, .left = ring.config.size };
        if (ring.is_packed) return ring.takePacked(&walk);
        const head = try ring.nextHead() orelse return null;
        ring.avail.index = ring.avail.index + 1 & 0xffff;
        walk.direct(head);
        return walk.chain(head, 1);
    }

    /// What the next chain is, from its first descriptor alone.
    pub const Kind = enum {
        /// One descriptor, for the device to write to, in one place, with room for what was asked.
        whole,
        other,
        none,
    };

    /// Looks at the next chain without taking it.
    pub fn kind(ring: *Ring, need: u64) Broken!Kind {
        const desc = try ring.peek() orelse return .none;
        if (desc.flags & 7 != 2 or desc.len < need) return .other;
        const piece = ring.guest.find(desc.addr, need) orelse return .other;
        return if (piece.len == need) .whole else .other;
    }

    fn peek(ring: *Ring) Broken!?Desc {
        if (!ring.is_packed) return ring.splitDesc(try ring.nextHead() orelse return null);
        const desc = ring.packedDesc(ring.avail.index);
        if (!isAvailable(desc.flags, ring.avail.wrap)) return null;
        return if (desc.flags & 1 == 0 and desc.id >= ring.config.size) ring.broke(.bad_packed_id) else desc;
    }

    pub fn rewind(ring: *Ring, to: Position) void {
        ring.avail = to;
    }

    fn broke(ring: *Ring, reason: abi.VringBroken) Broken {
        ring.broken = reason;
        return error.Broken;
    }

    fn nextHead(ring: *Ring) Broken!?u16 {
        const at: u16 = @intCast(ring.avail.index);
        if (ring.avail_seen == at) {
            const seen = ring.guest.number(u16, ring.config.avail_gpa + 2);
            if (seen == at) return null;
            const unreturned = at -% ring.released;
            if (seen -% at > ring.config.size - unreturned) return ring.broke(.bad_avail_index);
            ring.avail_seen = seen;
        }
        const head = ring.guest.number(u16, ring.config.avail_gpa + 4 + 2 * (at % ring.config.size));
        return if (head < ring.config.size) head else ring.broke(.bad_head);
    }

    const Desc = struct { addr: u64, len: u32, id: u16, flags: u16, next: u16 };

    fn splitDesc(ring: *const Ring, index: u16) Desc {
        return ring.descAt(ring.config.desc_gpa + 16 * @as(u64, index), false).?;
    }

    fn packedDesc(ring: *const Ring, index: u32) Desc {
        return ring.descAt(ring.config.desc_gpa + 16 * @as(u64, index), true).?;
    }

    fn descAt(ring: *const Ring, gpa: u64, is_packed: bool) ?Desc {
        var raw: [16]u8 = undefined;
        if (!ring.guest.read(gpa, &raw)) return null;
        const first = std.mem.readInt(u16, raw[12..14], .little);
        const second = std.mem.readInt(u16, raw[14..16], .little);
        return .{
            .addr = std.mem.readInt(u64, raw[0..8], .little),
            .len = std.mem.readInt(u32, raw[8..12], .little),
            .id = if (is_packed) first else 0,
            .flags = if (is_packed) second else first,
            .next = if (is_packed) 0 else second,
        };
    }

    fn takePacked(ring: *Ring, walk: *Walk) Broken!?Chain {
        var desc = ring.packedDesc(ring.avail.index);
        if (!isAvailable(desc.flags, ring.avail.wrap)) return null;
        const size = ring.config.size;
        var count: u32 = 1;
        while (true) : (count += 1) {
            if (desc.flags & 4 == 0) {
                walk.buffer(desc.addr, desc.len, desc.flags);
            } else if (count == 1) {
                walk.table(desc, true);
            } else walk.bad = true;
            if (desc.flags & 1 == 0) break;
            if (count == size) return ring.broke(.bad_packed_id);
            desc = ring.packedDesc((ring.avail.index + count) % size);
        }
        if (desc.id >= size) return ring.broke(.bad_packed_id);
        step(&ring.avail, count, size);
        return walk.chain(desc.id, count);
    }

    fn step(position: *Position, count: u32, size: u32) void {
        position.index += count;
        if (position.index < size) return;
        position.index -= size;
        position.wrap = !position.wrap;
    }

    /// The device gives a chain back with `len` bytes written.
    pub fn complete(ring: *Ring, chain: Chain, len: u32) void {
        ring.completions.append(allocator, .{ .id = chain.id, .len = len, .count = chain.count }) catch unreachable;
    }

    /// The device shows all that it gave back; the number of them.
    pub fn flush(ring: *Ring) usize {
        const count = ring.completions.items.len;
        for (ring.completions.items) |each| ring.foreseeUsed(each);
        if (count > 0 and !ring.is_packed) {
            ring.guest.foreseeNumber(u16, ring.config.used_gpa + 2, @intCast(ring.used.index));
        }
        ring.released = @truncate(ring.avail.index);
        ring.completions.clearRetainingCapacity();
        return count;
    }

    fn foreseeUsed(ring: *Ring, each: Completion) void {
        const size = ring.config.size;
        if (ring.is_packed) {
            const gpa = ring.config.desc_gpa + 16 * @as(u64, ring.used.index);
            var flags: u16 = if (ring.used.wrap) 0x8080 else 0;
            if (each.len > 0) flags |= 2;
            ring.guest.foreseeNumber(u32, gpa + 8, each.len);
            ring.guest.foreseeNumber(u16, gpa + 12, each.id);
            ring.guest.foreseeNumber(u16, gpa + 14, flags);
            step(&ring.used, each.count, size);
        } else {
            const gpa = ring.config.used_gpa + 4 + 8 * (ring.used.index % size);
            ring.guest.foreseeNumber(u32, gpa, each.id);
            ring.guest.foreseeNumber(u32, gpa + 4, each.len);
            ring.used.index = ring.used.index + 1 & 0xffff;
        }
    }

    /// Whether a write to this range would meet what the device itself writes while it delivers.
    pub fn meetsUsed(ring: *const Ring, gpa: u64, len: u64) bool {
        const size = ring.config.size;
        const config = ring.config;
        const first = if (ring.is_packed) config.desc_gpa else config.used_gpa;
        const bytes = if (ring.is_packed) 16 * @as(u64, size) else 6 + 8 * @as(u64, size);
        return gpa < first + bytes and first < gpa + len;
    }
};

fn isAvailable(flags: u16, wrap: bool) bool {
    const avail = flags & 0x80 != 0;
    const used = flags & 0x8000 != 0;
    return avail == wrap and used != wrap;
}

/// One chain on its way into `Ring.pieces`.
const Walk = struct {
    ring: *Ring,
    direction: Direction,
    room: u64,
    left: u32,
    bad: bool = false,
    total: u64 = 0,
    steps: u32 = 0,
    blurred: bool = false,

    fn chain(walk: *const Walk, id: u16, count: u32) Chain {
        const steps = @max(walk.steps, count);
        return .{
            .id = id,
            .count = count,
            .bad = walk.bad,
            .total = walk.total,
            .steps = steps,
            .blurred = walk.blurred,
        };
    }

    fn buffer(walk: *Walk, addr: u64, len: u32, flags: u16) void {
        if (walk.left == 0 or (flags & 2 != 0) != (walk.direction == .writable)) walk.bad = true;
        if (walk.bad) return;
        walk.left -= 1;
        walk.steps += 1;
        const wanted: u32 = @intCast(@min(len, walk.room));
        var done: u64 = 0;
        while (done < wanted) {
            const at = std.math.add(u64, addr, done) catch return walk.spoil();
            const piece = walk.ring.guest.find(at, wanted - done) orelse return walk.spoil();
            done += piece.len;
        }
        walk.room -= wanted;
        walk.total += len;
        if (wanted == 0) return;
        walk.ring.pieces.append(allocator, .{ .gpa = addr, .len = wanted }) catch unreachable;
    }

    fn spoil(walk: *Walk) void {
        walk.bad = true;
    }

    fn direct(walk: *Walk, head: u16) void {
        var index = head;
        while (!walk.bad) {
            const desc = walk.ring.splitDesc(index);
            if (desc.flags & 4 != 0) return walk.table(desc, false);
            walk.buffer(desc.addr, desc.len, desc.flags);
            if (desc.flags & 1 == 0) return;
            if (desc.next >= walk.ring.config.size) return walk.spoil();
            index = desc.next;
        }
    }

    fn table(walk: *Walk, of: Ring.Desc, is_packed: bool) void {
        if (!spec.has(walk.ring.config.features, spec.Feature.indirect_desc)) return walk.spoil();
        if (of.flags & 1 != 0 or of.len == 0 or of.len % 16 != 0) return walk.spoil();
        if (of.addr > std.math.maxInt(u64) - @as(u64, of.len)) return walk.spoil();
        walk.blurred = walk.ring.completions.items.len > 0 and walk.ring.meetsUsed(of.addr, of.len);
        const entries = of.len / 16;
        var index: u32 = 0;
        while (!walk.bad) {
            const desc = walk.ring.descAt(of.addr + 16 * @as(u64, index), is_packed) orelse return walk.spoil();
            if (!is_packed and desc.flags & 4 != 0) return walk.spoil();
            walk.buffer(desc.addr, desc.len, desc.flags);
            if (is_packed) {
                index += 1;
                if (index == entries) return;
            } else {
                if (desc.flags & 1 == 0) return;
                index = desc.next;
                if (index >= entries) return walk.spoil();
            }
        }
    }
};

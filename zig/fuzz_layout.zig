//! What a driver may put into a ring: legal layouts, the odder the better, and everything that is not.

const std = @import("std");
const Guest = @import("fuzz_guest.zig").Guest;
const fuzz_model = @import("fuzz_model.zig");
const fuzz_packet = @import("fuzz_packet.zig");
const net_header = @import("net_header.zig");
const Random = @import("fuzz_run.zig").Random;
const spec = @import("spec.zig");

const Piece = fuzz_model.Piece;

/// More than any ring here has descriptors.
const pieces_max = 300;

const Desc = struct { addr: u64, len: u32, flags: u16 };

pub const Layout = struct {
    random: *Random,
    guest: *Guest,
    ring: *fuzz_model.Ring,
    direction: fuzz_model.Direction,
    header_bytes: u32,
    /// Guest memory that indirect tables usually lie in.
    tables: Piece,
    /// Whose frames these are.
    station: u8,
    /// Where the driver writes next: the avail index, or a place in the ring.
    at: fuzz_model.Position,
    next_desc: u16 = 0,
    pieces: [pieces_max]Piece = undefined,
    descs: [pieces_max]Desc = undefined,

    /// Offers up to `count` chains, one after the other.
    pub fn offer(layout: *Layout, count: u32) void {
        const ring = layout.ring;
        const size = ring.config.size;
        const drained = if (ring.is_packed) !ring.pending() else layout.at.index == ring.avail.index;
        if (drained) layout.at = ring.avail;
        for (0..count) |_| {
            if (!ring.is_packed and layout.at.index -% ring.avail.index & 0xffff >= size) break;
            const legal = !layout.random.once(4);
            const pieces = layout.sketch(legal);
            if (layout.direction == .readable) layout.fill(pieces, legal);
            const descs = layout.describe(pieces, legal);
            if (ring.is_packed) layout.writePacked(descs, legal) else layout.writeSplit(descs, legal);
        }
        layout.distract();
    }

    // Buffers.

    /// Lengths and addresses of a chain's buffers.
    fn sketch(layout: *Layout, legal: bool) []Piece {
        const random = layout.random;
        const size = layout.ring.config.size;
        const header = layout.header_bytes;
        const edges = [_]u32{ 0, 1, 13, 14, 15, 16 };
        const payload = if (random.once(4)) random.pick(u32, &edges) else fuzz_packet.length(random);
        const count: u32 = switch (random.below(12)) {
            0...2 => layout.cut(header + payload, 1),
            3 => layout.cut(random.below(header + 2), random.between(1, 3)),
            4 => layout.cutBehindHeader(payload, 1),
            5 => layout.cutBehindHeader(payload, random.between(1, 5)),
            6 => layout.cut(@min(header + payload, size), size),
            7 => layout.cut(header + payload, random.between(1, @min(size, pieces_max))),
            8 => layout.repeat(random.between(0, 3), @min(size, pieces_max)),
            9 => layout.repeat(random.below(2048), random.between(1, @min(size, 40))),
            10 => layout.cut(random.between(header + 65_580, header + 65_600), random.between(2, 8)),
            else => if (legal) layout.cut(2048, 1) else layout.repeat(random.below(9), random.between(1, size + 2)),
        };
        const pieces = layout.pieces[0..count];
        for (pieces) |*piece| {
            if (!legal and random.once(8)) piece.len = layout.anyLength();
            piece.gpa = layout.address(piece.len, legal);
        }
        return pieces;
    }

    /// `total` bytes in `count` buffers; some of them may be empty.
    fn cut(layout: *Layout, total: u32, count: u32) u32 {
        return layout.cutFrom(0, total, count);
    }

    fn cutFrom(layout: *Layout, first: u32, total: u32, count: u32) u32 {
        const end = @min(first + @max(count, 1), pieces_max);
        var left = total;
        for (layout.pieces[first..end], first..) |*piece, i| {
            const behind: u32 = @intCast(end - 1 - i);
            piece.len = if (behind == 0) left else @min(left, layout.random.below(2 * left / (behind + 1) + 2));
            left -= piece.len;
        }
        return end;
    }

    /// A header in buffers of its own, in up to twelve, then the frame.
    fn cutBehindHeader(layout: *Layout, payload: u32, count: u32) u32 {
        const first = layout.cut(layout.header_bytes, if (layout.random.once(2)) 1 else layout.random.between(1, 12));
        return layout.cutFrom(first, payload, count);
    }

    fn repeat(layout: *Layout, len: u32, count: u32) u32 {
        for (layout.pieces[0..count]) |*piece| piece.len = len;
        return count;
    }

    fn anyLength(layout: *Layout) u32 {
        const lengths = [_]u32{ 0, 1, 0xffff, 0x10000, 65_601, 65_602, 0x7fff_ffff, 0xffff_fff0, 0xffff_ffff };
        return if (layout.random.once(2)) layout.random.pick(u32, &lengths) else @truncate(layout.random.next());
    }

    /// Somewhere in the guest's memory; unless it must be legal, perhaps beside it.
    fn address(layout: *Layout, len: u32, legal: bool) u64 {
        const random = layout.random;
        const places = layout.guest.places;
        const place = places[random.below(places.len)];
        const end = place.gpa + place.size;
        const first_end = places[0].gpa + places[0].size;
        return switch (random.below(if (legal) 12 else 20)) {
            0...8 => place.gpa + if (len < place.size) random.below(place.size - len + 1) else 0,
            9 => end -% @min(len, place.size),
            10 => place.gpa,
            // Over two places that follow each other for the guest, but not here.
            11 => first_end - @min(random.below(@as(u64, len) + 1), places[0].size),
            12, 13 => end -% random.below(@as(u64, len) + 2),
            14 => place.gpa -% random.below(@as(u64, len) + 2),
            15 => end +% random.below(64),
            16 => 0 -% @as(u64, random.below(0x2_0000)),
            17 => 0 -% @as(u64, len),
            else => random.next(),
        };
    }

    /// A header and addresses at the front of a frame; the rest is what lies there.
    fn fill(layout: *Layout, pieces: []const Piece, legal: bool) void {
        const random = layout.random;
        var total: u64 = 0;
        for (pieces) |piece| total += piece.len;
        const frame_bytes: u32 = @intCast(@min(total -| layout.header_bytes, net_header.frame_bytes_max));
        var front: [12 + 14]u8 = undefined;
        const header = fuzz_packet.header(random, frame_bytes);
        front[0..12].* = std.mem.asBytes(&header).*;
        const frame = front[layout.header_bytes..];
        const destinations = [_][6]u8{
            fuzz_packet.mac(0), fuzz_packet.mac(1), fuzz_packet.mac(2), fuzz_packet.broadcast, fuzz_packet.mac(9),
        };
        frame[0..6].* = random.pick([6]u8, &destinations);
        frame[6..12].* = fuzz_packet.mac(if (random.once(32)) @truncate(random.below(4)) else layout.station);
        frame[12..14].* = if (random.once(2)) .{ 0x08, 0x00 } else .{ 0x86, 0xdd };
        if (!legal and random.once(8)) random.fill(&front);
        var left: []const u8 = front[0 .. layout.header_bytes + 14];
        for (pieces) |piece| {
            const count = @min(left.len, piece.len);
            layout.guest.write(piece.gpa, left[0..count]);
            left = left[count..];
        }
    }

    // Descriptors.

    fn describe(layout: *Layout, pieces: []const Piece, legal: bool) []Desc {
        const descs = layout.descs[0..pieces.len];
        const flags: u16 = if (layout.direction == .writable) spec.desc_write else 0;
        for (descs, pieces) |*desc, piece| desc.* = .{ .addr = piece.gpa, .len = piece.len, .flags = flags };
        if (!legal and layout.random.once(3)) {
            const desc = &descs[layout.random.below(descs.len)];
            desc.flags ^= @as(u16, 1) << @intCast(layout.random.below(16));
        }
        return descs;
    }

    /// Whether a chain goes into a table; it must where the ring is too short for it.
    fn wantsTable(layout: *Layout, count: usize) bool {
        if (!spec.has(layout.ring.config.features, spec.Feature.indirect_desc)) return layout.random.once(64);
        return count > layout.ring.config.size or layout.random.once(3);
    }

    fn tableAddress(layout: *Layout, count: usize, legal: bool) u64 {
        const bytes: u32 = @intCast(16 * count);
        if (layout.random.once(4)) return layout.address(bytes, legal);
        const room = layout.tables.len - bytes;
        return layout.tables.gpa + layout.random.below(room + 1);
    }

    fn tableLength(layout: *Layout, count: usize, legal: bool) u32 {
        const bytes: u32 = @intCast(16 * count);
        if (legal or !layout.random.once(4)) return bytes;
        const lengths = [_]u32{ 0, 8, bytes - 1, bytes + 1, bytes + 16, bytes -| 16, 0xffff_fff0, 0xffff_ffff };
        return layout.random.pick(u32, &lengths);
    }

    fn writeDesc(layout: *Layout, gpa: u64, desc: Desc, third: u16, fourth: u16) void {
        var raw: [16]u8 = undefined;
        std.mem.writeInt(u64, raw[0..8], desc.addr, .little);
        std.mem.writeInt(u32, raw[8..12], desc.len, .little);
        std.mem.writeInt(u16, raw[12..14], third, .little);
        std.mem.writeInt(u16, raw[14..16], fourth, .little);
        layout.guest.write(gpa, &raw);
    }

    fn writeSplit(layout: *Layout, descs: []const Desc, legal: bool) void {
        const random = layout.random;
        const config = layout.ring.config;
        const mask: u16 = @intCast(config.size - 1);
        // Descriptors of the ring before the table, where there is one.
        const direct = if (layout.wantsTable(descs.len)) random.below(@min(descs.len, 3)) else descs.len;
        const head = layout.next_desc & mask;
        for (descs[0..direct], 0..) |desc, i| {
            const last = i + 1 == descs.len;
            const index = layout.next_desc & mask;
            layout.next_desc +%= 1;
            var next = layout.next_desc & mask;
            if (!legal and random.once(16)) next = @truncate(random.next() & 0x1ff);
            layout.writeDesc(config.desc_gpa + 16 * @as(u64, index), desc, desc.flags | @intFromBool(!last), next);
        }
        if (direct < descs.len) layout.writeSplitTable(descs[direct..], legal);
        var offered: u16 = head;
        if (!legal and random.once(64)) offered = @truncate(random.next());
        const slot = layout.at.index & mask;
        layout.guest.writeNumber(u16, config.avail_gpa + 4 + 2 * slot, offered);
        layout.at.index = layout.at.index + 1 & 0xffff;
        layout.guest.writeNumber(u16, config.avail_gpa + 2, @intCast(layout.at.index));
    }

    fn writeSplitTable(layout: *Layout, descs: []const Desc, legal: bool) void {
        const random = layout.random;
        const config = layout.ring.config;
        const gpa = layout.tableAddress(descs.len, legal);
        for (descs, 0..) |desc, i| {
            const last = i + 1 == descs.len;
            var next: u16 = @truncate(i + 1);
            if (!legal and random.once(16)) next = @truncate(random.below(descs.len + 2));
            layout.writeDesc(gpa +% 16 * i, desc, desc.flags | @intFromBool(!last), next);
        }
        var flags: u16 = spec.desc_indirect;
        // Of a table's own descriptor, WRITE means nothing (2.7.5.3.2).
        if (random.once(4)) flags |= spec.desc_write;
        if (!legal and random.once(8)) flags |= spec.desc_next;
        const table: Desc = .{ .addr = gpa, .len = layout.tableLength(descs.len, legal), .flags = flags };
        const index = layout.next_desc & (config.size - 1);
        layout.next_desc +%= 1;
        const next: u16 = @truncate(random.next());
        layout.writeDesc(config.desc_gpa + 16 * @as(u64, index), table, table.flags, next);
    }

    fn writePacked(layout: *Layout, descs: []const Desc, legal: bool) void {
        const random = layout.random;
        const size = layout.ring.config.size;
        var id: u16 = @truncate(random.below(size));
        if (!legal and random.once(64)) id = @truncate(random.next());
        if (layout.wantsTable(descs.len)) {
            const gpa = layout.tableAddress(descs.len, legal);
            for (descs, 0..) |desc, i| {
                const other_flags: u16 = @as(u16, @truncate(random.next())) & ~spec.desc_write;
                layout.writeDesc(gpa +% 16 * i, desc, @truncate(random.next()), desc.flags | other_flags);
            }
            var flags: u16 = spec.desc_indirect;
            if (!legal and random.once(8)) flags |= spec.desc_next;
            layout.writeNext(.{ .addr = gpa, .len = layout.tableLength(descs.len, legal), .flags = flags }, id, legal);
            return;
        }
        for (descs, 0..) |desc, i| {
            const last = i + 1 == descs.len;
            var linked = desc;
            if (!last or (!legal and random.once(32))) linked.flags |= spec.desc_next;
            layout.writeNext(linked, if (last) id else @truncate(random.next()), legal);
        }
    }

    fn writeNext(layout: *Layout, desc: Desc, id: u16, legal: bool) void {
        const config = layout.ring.config;
        const wrap = if (!legal and layout.random.once(64)) !layout.at.wrap else layout.at.wrap;
        const lap: u16 = if (wrap) spec.desc_avail else spec.desc_used;
        const rest = desc.flags & ~(spec.desc_avail | spec.desc_used);
        layout.writeDesc(config.desc_gpa + 16 * @as(u64, layout.at.index), desc, id, rest | lap);
        layout.at.index += 1;
        if (layout.at.index < config.size) return;
        layout.at.index = 0;
        layout.at.wrap = !layout.at.wrap;
    }

    /// What a driver writes beside its chains: wishes for calls, and now and then an index from nowhere.
    fn distract(layout: *Layout) void {
        const random = layout.random;
        const ring = layout.ring;
        if (ring.is_packed) {
            const mask: u32 = if (random.once(2)) 0x3_ffff else 0xffff_ffff;
            return layout.guest.writeNumber(u32, ring.config.avail_gpa, @as(u32, @truncate(random.next())) & mask);
        }
        layout.guest.writeNumber(u16, ring.config.avail_gpa, @truncate(random.next() & 3));
        layout.guest.writeNumber(u16, ring.config.avail_gpa + 4 + 2 * ring.config.size, @truncate(random.next()));
        var idx: u16 = @intCast(layout.at.index);
        if (random.once(400)) idx +%= @truncate(random.next());
        if (random.once(400)) idx -%= 1;
        layout.guest.writeNumber(u16, ring.config.avail_gpa + 2, idx);
        layout.at.index = idx;
    }
};

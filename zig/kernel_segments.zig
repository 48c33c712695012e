//! Random packets, cut by us and by the Linux that this runs on, are compared byte by byte: `kernel_segments SEED
//! SECONDS`. All packets follow from the seed.
//!
//! Ends with 0; with 1 and both pieces at the first difference; with 3 where no namespace can be had to compare in.

const std = @import("std");
const chain = @import("chain.zig");
const Frame = @import("frame.zig").Frame;
const fuzz_run = @import("fuzz_run.zig");
const kernel_bench = @import("kernel_bench.zig");
const kernel_packet = @import("kernel_packet.zig");
const segment = @import("segment.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");

const Arrival = kernel_bench.Arrival;
const Kind = kernel_packet.Kind;
const NetHeader = spec.NetHeader;
const Way = kernel_bench.Way;

pub const panic = std.debug.FullPanic(fuzz_run.report);

/// Longest frame, with what stands in front of it.
const buffer_bytes = kernel_packet.bytes_max + 64;
/// A busy machine may leave the pieces lying for a while.
const patience_ms = 10_000;
/// The second tap is told seldom whether it is to finish checksums, since that takes as long as some packets.
const packets_per_offload = 32;
const fragment_header_bytes = 8;
const bytes_per_line = 16;

const usage =
    \\Usage: kernel_segments SEED SECONDS
    \\
;

const Count = struct { packets: u64 = 0, pieces: u64 = 0 };

const Comparison = struct {
    run: *fuzz_run.Run,
    bench: *kernel_bench.Bench,
    packet: kernel_packet.Packet,
    frame: Frame,
    cut: segment.Cut,
    pieces: segment.Pieces,
    segments: [segment.Pieces.segments_max]chain.Segment,
    ours: [buffer_bytes]u8,
    theirs: [buffer_bytes]u8,
    /// Of the tap; the other way there is no header.
    partial: bool,
    /// What is being compared.
    way: Way,
    piece: u32,
    /// Ours and theirs, of this datagram's fragments, and ours of the last one.
    ids: [2]u32,
    last_id: u32,
    by_kind: std.EnumArray(Kind, Count),
    by_way: std.EnumArray(Way, u64),

    fn create(run: *fuzz_run.Run, bench: *kernel_bench.Bench) *Comparison {
        const comparison = std.heap.c_allocator.create(Comparison) catch run.fail("no memory", .{});
        comparison.run = run;
        comparison.bench = bench;
        comparison.pieces.segments = .{ .items = &comparison.segments };
        comparison.partial = false;
        comparison.way = .tap;
        comparison.piece = 0;
        comparison.last_id = 0;
        comparison.by_kind = .initFill(.{});
        comparison.by_way = .initFill(0);
        return comparison;
    }

    fn number(comparison: *const Comparison) u64 {
        return comparison.run.step.load(.monotonic);
    }

    fn step(comparison: *Comparison) error{Differs}!void {
        const random = &comparison.run.random;
        const packet = &comparison.packet;
        packet.make(random, comparison.number());
        try comparison.prepare();
        if (random.once(8)) try comparison.zeroSum();
        if (comparison.number() % packets_per_offload == 0) try comparison.toggle();
        const count = comparison.by_kind.getPtr(packet.kind);
        count.packets += 1;
        const pieces = comparison.cut.pieceCount();
        for (std.enums.values(Way)) |way| {
            if (!comparison.bench.holds(way, pieces, comparison.pieceBytes())) continue;
            comparison.way = way;
            comparison.bench.write(way, &packet.header, packet.bytes[0..packet.len]) catch
                return comparison.differ("Linux refuses the packet: {s}", .{kernel_bench.lastReason()});
            try comparison.compare();
            count.pieces += pieces;
            comparison.by_way.getPtr(way).* += pieces;
        }
    }

    /// Scatters the packet, and looks at it as a port does.
    fn prepare(comparison: *Comparison) error{Differs}!void {
        comparison.packet.scatter(&comparison.run.random);
        comparison.frame = comparison.packet.frame() catch |reason|
            return comparison.differ("we refuse the header: {t}", .{reason});
        try comparison.begin(false);
    }

    fn begin(comparison: *Comparison, partial: bool) error{Differs}!void {
        comparison.cut.init(&comparison.frame, partial) catch |reason|
            return comparison.differ("we refuse the packet: {t}", .{reason});
        comparison.piece = 0;
    }

    /// A piece gets a checksum of zero, the one for which there are two numbers.
    fn zeroSum(comparison: *Comparison) error{Differs}!void {
        const random = &comparison.run.random;
        const packet = &comparison.packet;
        const is_many = !comparison.cut.isWhole() and !packet.isUfo();
        const chosen = if (is_many) random.below(comparison.cut.pieceCount()) else 0;
        var ours: []u8 = &.{};
        while (comparison.piece <= chosen) {
            comparison.cut.next(&comparison.pieces);
            for (comparison.pieces.frames[0..comparison.pieces.count]) |*piece| {
                if (comparison.piece == chosen) ours = comparison.flatten(piece);
                comparison.piece += 1;
            }
        }
        var place = packet.transport_at + packet.sumOffset();
        if (comparison.isNumbered()) place += fragment_header_bytes;
        const sum = std.mem.readInt(u16, ours[place..][0..2], .big);
        _ = packet.zeroSum(random, chosen * packet.header.gso_size, sum);
        return comparison.prepare();
    }

    /// UFO's fragments of IPv6 have an identification, which nobody can foretell.
    fn isNumbered(comparison: *const Comparison) bool {
        return comparison.packet.kind == .ufo6 and !comparison.cut.isWhole();
    }

    fn toggle(comparison: *Comparison) error{Differs}!void {
        comparison.partial = !comparison.partial;
        comparison.bench.setPartial(comparison.partial) catch
            return comparison.differ("the tap's offloads: {s}", .{kernel_bench.lastReason()});
    }

    fn pieceBytes(comparison: *const Comparison) u32 {
        const packet = &comparison.packet;
        const whole = comparison.cut.isWhole();
        return if (whole) packet.len else packet.payload_at + fragment_header_bytes + packet.header.gso_size;
    }

    fn compare(comparison: *Comparison) error{Differs}!void {
        const pieces = &comparison.pieces;
        try comparison.begin(comparison.way == .tap and comparison.partial);
        while (true) {
            comparison.cut.next(pieces);
            if (pieces.count == 0) break;
            for (pieces.frames[0..pieces.count]) |*piece| {
                try comparison.comparePiece(piece);
                comparison.piece += 1;
            }
        }
        if (comparison.piece != comparison.cut.pieceCount()) {
            return comparison.differ("we announce {d} pieces and make {d}", .{
                comparison.cut.pieceCount(),
                comparison.piece,
            });
        }
        if (comparison.receiveNow()) |_| return comparison.differ("Linux makes more pieces", .{});
        if (comparison.isNumbered()) comparison.last_id = comparison.ids[0];
    }

    fn comparePiece(comparison: *Comparison, piece: *const Frame) error{Differs}!void {
        const ours = comparison.flatten(piece);
        const arrival = comparison.receive() orelse
            return comparison.differ("Linux makes no such piece", .{});
        if (comparison.isNumbered()) try comparison.compareIds(ours, arrival.bytes);
        if (std.mem.findDiff(u8, ours, arrival.bytes)) |place| {
            dump("ours", ours, place);
            dump("Linux's", arrival.bytes, place);
            return comparison.differ("of {d} bytes (Linux: {d}), byte {d} differs", .{
                ours.len,
                arrival.bytes.len,
                place,
            });
        }
        const theirs = arrival.header orelse return;
        if (!isSameTask(piece.header, theirs)) {
            return comparison.differ("its header is {any}, Linux's {any}", .{ piece.header, theirs });
        }
    }

    /// The same one in all fragments of a datagram, another one in the next datagram. Both are blotted out.
    fn compareIds(comparison: *Comparison, ours: []u8, theirs: []u8) error{Differs}!void {
        const place = comparison.packet.transport_at + 4;
        if (theirs.len < place + 4) return;
        const fields = [2]*[4]u8{ ours[place..][0..4], theirs[place..][0..4] };
        for (fields, &comparison.ids, [_][]const u8{ "we change", "Linux changes" }) |field, *id, who| {
            const found = std.mem.readInt(u32, field, .big);
            field.* = @splat(0);
            if (comparison.piece == 0) id.* = found;
            if (id.* != found) return comparison.differ("{s} the identification of a datagram", .{who});
        }
        if (comparison.ids[0] == comparison.last_id) {
            return comparison.differ("two datagrams of ours have the same identification", .{});
        }
    }

    fn flatten(comparison: *Comparison, piece: *const Frame) []u8 {
        var cursor: chain.Cursor = .{ .segments = piece.segments };
        const bytes = comparison.ours[0..cursor.read(&comparison.ours)];
        comparison.run.expectEqual(piece.len, @as(u32, @intCast(bytes.len)), "length of a piece");
        return bytes;
    }

    /// The packet's next piece.
    fn receive(comparison: *Comparison) ?Arrival {
        for (0..patience_ms) |_| {
            if (comparison.receiveNow()) |arrival| return arrival;
            sys.sleep(1_000_000);
        }
        return null;
    }

    fn receiveNow(comparison: *Comparison) ?Arrival {
        const address = kernel_packet.destinationOf(comparison.number());
        while (comparison.bench.read(comparison.way, &comparison.theirs)) |arrival| {
            if (std.mem.startsWith(u8, arrival.bytes, &address)) return arrival;
        }
        return null;
    }

    /// Says where it stood.
    fn differ(comparison: *const Comparison, comptime format: []const u8, arguments: anytype) error{Differs} {
        const packet = &comparison.packet;
        dump("the packet", packet.bytes[0..packet.len], 0);
        std.debug.print("{any}\n{t} of {d} bytes, headers at {d} and {d}, {d} bytes of payload\n", .{
            packet.header,
            packet.kind,
            packet.len,
            packet.network_at,
            packet.transport_at,
            packet.payloadBytes(),
        });
        std.debug.print("kernel_segments: seed {d}, packet {d}, {t}{s}, piece {d}: " ++ format ++ "\n", .{
            comparison.run.seed,
            comparison.number(),
            comparison.way,
            if (comparison.partial) " that finishes checksums" else "",
            comparison.piece,
        } ++ arguments);
        return error.Differs;
    }

    /// One line; false: nothing was compared, which proves nothing.
    fn report(comparison: *const Comparison) bool {
        var all: Count = .{};
        for (comparison.by_kind.values) |count| {
            all.packets += count.packets;
            all.pieces += count.pieces;
        }
        var name: std.c.utsname = undefined;
        const release = if (std.c.uname(&name) == 0) std.mem.sliceTo(&name.release, 0) else "of unknown release";
        std.debug.print("kernel_segments: seed {d}: {d} packets, {d} pieces compared with Linux {s}:", .{
            comparison.run.seed,
            all.packets,
            all.pieces,
            release,
        });
        for (std.enums.values(Kind), comparison.by_kind.values) |kind, count| {
            std.debug.print(" {t} {d}/{d}", .{ kind, count.packets, count.pieces });
        }
        for (std.enums.values(Way), comparison.by_way.values) |way, pieces| {
            std.debug.print(" {t} {d}", .{ way, pieces });
        }
        std.debug.print("\n", .{});
        return std.mem.findScalar(u64, &comparison.by_way.values, 0) == null;
    }
};

/// What is left to do to the piece, and how.
fn isSameTask(ours: NetHeader, theirs: NetHeader) bool {
    if (ours.gso_type != theirs.gso_type) return false;
    const left = ours.flags & NetHeader.needs_csum;
    if (left != theirs.flags & NetHeader.needs_csum) return false;
    return left == 0 or (ours.csum_start == theirs.csum_start and ours.csum_offset == theirs.csum_offset);
}

/// Some lines around a place.
fn dump(name: []const u8, bytes: []const u8, place: usize) void {
    const line = place / bytes_per_line;
    const first = line -| 4;
    std.debug.print("{s}:\n", .{name});
    for (first..line + 12) |index| {
        const start = index * bytes_per_line;
        if (start >= bytes.len) break;
        std.debug.print("  {x:0>4}  {x}\n", .{ start, bytes[start..@min(bytes.len, start + bytes_per_line)] });
    }
}

pub fn main(init: std.process.Init.Minimal) u8 {
    var arguments = init.args.iterate();
    _ = arguments.skip();
    const seed = std.fmt.parseInt(u64, arguments.next() orelse return refuse(), 10) catch return refuse();
    const seconds = std.fmt.parseInt(u32, arguments.next() orelse return refuse(), 10) catch return refuse();
    if (arguments.next() != null) return refuse();
    var bench: kernel_bench.Bench = undefined;
    var missing: []const u8 = undefined;
    // While there is but one thread: a process of several gets no user namespace.
    bench.open(&missing) catch {
        const reason = kernel_bench.lastReason();
        std.debug.print("kernel_segments: nothing compared, for want of {s}: {s}\n", .{ missing, reason });
        return 3;
    };
    var run: fuzz_run.Run = undefined;
    run.init("kernel_segments", seed, seconds);
    const comparison: *Comparison = .create(&run, &bench);
    while (run.more()) comparison.step() catch return 1;
    return @intFromBool(!comparison.report());
}

fn refuse() u8 {
    std.debug.print("{s}", .{usage});
    return 2;
}

test "a header tells the same task, whatever else is in it" {
    var ours = std.mem.zeroes(NetHeader);
    var theirs = ours;
    theirs.hdr_len = 60;
    theirs.csum_start = 34;
    try std.testing.expect(isSameTask(ours, theirs));
    theirs.flags = NetHeader.needs_csum;
    try std.testing.expect(!isSameTask(ours, theirs));
    ours.flags = NetHeader.needs_csum;
    try std.testing.expect(!isSameTask(ours, theirs));
    ours.csum_start = 34;
    try std.testing.expect(isSameTask(ours, theirs));
    theirs.gso_type = NetHeader.gso_tcpv4;
    try std.testing.expect(!isSameTask(ours, theirs));
}

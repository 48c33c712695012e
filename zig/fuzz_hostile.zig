//! A hostile guest on a switch with two well-behaved ones. Between bursts it fills its rings with what a
//! driver may and may not write; the model says what must come of it, to the byte.

const std = @import("std");
const abi = @import("abi.zig");
const burst_file = @import("burst.zig");
const Fabric = @import("fuzz_fabric.zig").Fabric;
const fuzz_guest = @import("fuzz_guest.zig");
const fuzz_model = @import("fuzz_model.zig");
const fuzz_packet = @import("fuzz_packet.zig");
const fuzz_peer = @import("fuzz_peer.zig");
const Layout = @import("fuzz_layout.zig").Layout;
const net_header = @import("net_header.zig");
const Packet = fuzz_packet.Packet;
const Peer = fuzz_peer.Peer;
const Port = @import("port.zig").Port;
const fuzz_wild = @import("fuzz_wild.zig");
const Run = @import("fuzz_run.zig").Run;
const spec = @import("spec.zig");
const Switch = @import("switch.zig");
const sys = @import("sys.zig");
const Vring = @import("vring.zig").Vring;

const allocator = std.heap.c_allocator;

pub const Format = enum { split, packed_ring };

/// Of odd sizes, so that what lies behind each can be seen; the first two follow each other for the
/// guest, and the last ends with the address space.
const places = [_]fuzz_guest.Place{
    .{ .gpa = 0x1000, .size = 0x9000, .offset = 0x1000 },
    .{ .gpa = 0xa000, .size = 0x6013, .offset = 0x1_8040 },
    .{ .gpa = 0x4_0000, .size = 0x7ff1, .offset = 0xb020 },
    .{ .gpa = 0xffff_ffff_ffff_8fff, .size = 0x7000, .offset = 0x2_0fff },
};
const file_bytes = 0x2_9000;

/// In the first place: the areas of each ring, then tables.
const ring_bytes = 0x2000;
const tables: fuzz_model.Piece = .{ .gpa = 0x1000 + 2 * ring_bytes, .len = 0x3000 };

/// Frames of the other guests in one step: few, so that no limit of a burst is met.
const sent_max = 12;
/// Beyond so many descriptors the limits of a burst come near, and the model is not asked.
const foreseen_steps_max = 4096;

const station = 2;

/// One of the two rings, as the device has it and as the model has it.
const Side = struct {
    vring: *Vring,
    model: fuzz_model.Ring,
    layout: Layout,
    /// What the ring's counters have to be.
    stats: abi.VringStats,
    /// It has been seen broken since it was started.
    told: bool,
};

const Waiting = struct { packet: Packet, chain: fuzz_model.Chain, piece: fuzz_model.Piece };

const Hostile = struct {
    run: *Run,
    format: Format,
    fabric: Fabric,
    peers: [2]Peer,
    port: *Port,
    guest: fuzz_guest.Guest,
    input: Switch.Input,
    to_guest: Side,
    from_guest: Side,
    /// Frames that have a buffer in one piece, and are not in it yet.
    waiting: [burst_file.frames_max]Waiting,
    waiting_count: usize,
    /// Descriptors that the model has looked at in this burst.
    steps: u32,
    /// Something was written where the order of things is not promised: no foresight in this step.
    blurred: bool,
    /// The rings lie anywhere, and the model has no part in them.
    wild: bool,
    arena: std.heap.ArenaAllocator,
    err: i32,
    noise: [80_000]u8,
    blurs: u64,

    fn init(self: *Hostile, run: *Run, format: Format) void {
        self.run = run;
        self.format = format;
        self.fabric.init(run);
        const attention = self.fabric.attention;
        for (&self.peers, 0..) |*peer, i| peer.init(run, @intCast(i), @intCast(1 + i * 2), attention);
        self.port = Port.create(station, .{ .queue_pairs = 1, .mtu = 0 }, attention) catch unreachable;
        self.guest.init(run, &places, file_bytes);
        self.remap();
        self.input = .{ .vring = &self.port.vrings[1], .port = self.port };
        self.err = sys.eventfd() catch run.fail("no eventfd", .{});
        for ([_]*Side{ &self.to_guest, &self.from_guest }, self.port.vrings) |side, *vring| {
            side.vring = vring;
            side.model.pieces = .empty;
            side.model.completions = .empty;
            side.stats = std.mem.zeroes(abi.VringStats);
            vring.err = self.err;
            vring.call = sys.eventfd() catch run.fail("no eventfd", .{});
        }
        self.arena = .init(allocator);
        run.random.fill(&self.noise);
        self.fabric.receivers = .{
            .{ .peer = &self.peers[0] },
            .{ .peer = &self.peers[1] },
            .{ .other = .{ .context = self, .deliver = deliver, .up = false } },
        };
        for (&self.peers) |*peer| self.fabric.fabric.ports[peer.port.number] = peer.port;
        self.fabric.fabric.ports[station] = self.port;
        self.blurs = 0;
        self.waiting_count = 0;
    }

    /// The guest's memory moves under the device's rings.
    fn remap(self: *Hostile) void {
        const table = self.guest.table(self.run, &self.port.memory.faults);
        self.port.memory.swap(table);
        table.destroy();
        for (self.port.vrings) |*vring| if (vring.started) vring.place() catch unreachable;
    }

    // Rings come and go.

    fn restart(self: *Hostile) void {
        const features = self.anyFeatures();
        self.port.mtu = if (self.run.random.once(4)) 1500 else 0;
        self.startRing(&self.to_guest, 0, .writable, features);
        self.startRing(&self.from_guest, 1, .readable, features);
        for (&self.peers) |*peer| if (self.run.random.once(16)) peer.start();
        self.fabric.receivers[station].other.up = true;
        self.fabric.fabric.refresh();
        self.fabric.teach();
    }

    fn anyFeatures(self: *Hostile) u64 {
        const random = &self.run.random;
        var features = fuzz_peer.bit(spec.Feature.version_1) | (random.next() & fuzz_peer.offloads);
        for ([_]u6{ spec.Feature.mrg_rxbuf, spec.Feature.indirect_desc, spec.Feature.event_idx }) |feature| {
            if (!random.once(3)) features |= fuzz_peer.bit(feature);
        }
        if (self.format == .packed_ring) return features | fuzz_peer.bit(spec.Feature.ring_packed);
        const long_header = fuzz_peer.bit(spec.Feature.version_1) | fuzz_peer.bit(spec.Feature.mrg_rxbuf);
        return if (random.once(4)) features & ~long_header else features;
    }

    fn startRing(self: *Hostile, side: *Side, index: u32, direction: fuzz_model.Direction, features: u64) void {
        const run = self.run;
        if (side.vring.started) {
            const last = side.vring.stop() catch unreachable;
            side.vring.enabled = false;
            if (!self.blurred) run.expectEqual(side.model.base(), last.base, "ring base at stop");
        }
        const config = self.anyConfig(index, features);
        const desc = self.guest.find(config.desc_gpa, 16 * config.size).?;
        @memset(self.guest.bytes[desc.offset..][0..desc.len], 0);
        self.guest.writeNumber(u16, config.avail_gpa + 2, @truncate(config.base));
        self.guest.writeNumber(u16, config.used_gpa + 2, @truncate(run.random.next()));
        self.guest.accept();
        side.vring.start(config) catch |reason| run.fail("a ring of {d} is refused: {t}", .{ config.size, reason });
        side.vring.enabled = true;
        side.told = false;
        side.model.start(&self.guest, config, side.vring.record.cookie);
        side.layout = .{
            .random = &run.random,
            .guest = &self.guest,
            .ring = &side.model,
            .direction = direction,
            .header_bytes = spec.NetHeader.size(features),
            .tables = tables,
            .station = station,
            .at = side.model.avail,
        };
        self.guest.check(run);
    }

    fn anyConfig(self: *Hostile, index: u32, features: u64) abi.VringConfig {
        const random = &self.run.random;
        const split_sizes = [_]u32{ 1, 2, 4, 8, 16, 32, 64, 128, 256 };
        const packed_sizes = [_]u32{ 1, 2, 3, 5, 7, 16, 33, 64, 100, 128, 256 };
        const size = if (self.format == .split) random.pick(u32, &split_sizes) else random.pick(u32, &packed_sizes);
        const gpa = 0x1000 + @as(u64, index) * ring_bytes;
        const place = random.below(size) | @as(u32, random.below(2)) << 15;
        return .{
            .features = features,
            .desc_gpa = gpa,
            .avail_gpa = if (random.once(8)) endOf(2, 6 + 2 * size, index) else gpa + 0x1000,
            .used_gpa = if (random.once(8)) endOf(3, 6 + 8 * size, index) else gpa + 0x1400,
            .log_gpa = 0,
            .size = size,
            .base = if (self.format == .split) random.below(0x1_0000) else place | place << 16,
            .flags = 0,
        };
    }

    /// Where an area of one of two rings ends with a place, as near as its alignment lets it.
    fn endOf(place: usize, bytes: u64, index: u64) u64 {
        const end = places[place].gpa + places[place].size;
        return end - (bytes + 8) * (index + 1) & ~@as(u64, 3);
    }

    // One step.

    fn step(self: *Hostile) void {
        const random = &self.run.random;
        self.blurred = false;
        switch (random.below(64)) {
            0 => self.remap(),
            1 => self.peers[random.below(2)].remap(),
            2, 3 => self.rearm(),
            4, 5 => self.restart(),
            6 => return self.runWild(),
            else => {},
        }
        if (random.once(2)) self.to_guest.layout.offer(random.between(1, 12));
        self.peersSend();
        self.from_guest.layout.offer(random.between(1, 12));
        self.guestSends();
        if (self.blurred or self.isBroken()) self.restart();
    }

    fn isBroken(self: *const Hostile) bool {
        return self.to_guest.vring.isBroken() or self.from_guest.vring.isBroken();
    }

    /// Goes to sleep on a ring, and wakes.
    fn rearm(self: *Hostile) void {
        const side = &self.from_guest;
        side.vring.arm();
        side.model.foreseeArm();
        self.guest.check(self.run);
        self.run.expectEqual(side.model.pending(), side.vring.pending(), "a ring with something in it");
        side.vring.disarm();
        side.model.foreseeDisarm();
        self.guest.check(self.run);
    }

    /// The hostile guest's ring is served until it is empty or broken.
    fn guestSends(self: *Hostile) void {
        const side = &self.from_guest;
        while (side.model.pending() and !side.vring.isBroken()) {
            self.input.memo = .{};
            self.foreseeBurst();
            self.fabric.serve(&self.input);
            self.fabric.teach();
            self.settle(self.blurred);
            if (self.blurred) return;
        }
    }

    fn foreseeBurst(self: *Hostile) void {
        const side = &self.from_guest;
        var packets: [burst_file.frames_max]Packet = undefined;
        var count: usize = 0;
        var heads: usize = 0;
        self.steps = 0;
        while (heads < burst_file.frames_max) : (heads += 1) {
            side.model.pieces.clearRetainingCapacity();
            const room = side.layout.header_bytes + net_header.frame_bytes_max;
            const chain = (side.model.take(.readable, room) catch break) orelse break;
            side.model.complete(chain, 0);
            self.countSteps(chain);
            packets[count] = self.packetOf(chain) orelse continue;
            fuzz_peer.countPacket(&side.stats, packets[count]);
            count += 1;
        }
        if (!self.blurred) self.fabric.foresee(station, packets[0..count], false, &side.stats);
        _ = side.model.flush();
    }

    fn countSteps(self: *Hostile, chain: fuzz_model.Chain) void {
        self.steps += chain.steps;
        if (self.steps > foreseen_steps_max or chain.blurred) self.blurred = true;
    }

    /// The frame in a chain, or its drop counted.
    fn packetOf(self: *Hostile, chain: fuzz_model.Chain) ?Packet {
        const side = &self.from_guest;
        const stats = &side.stats;
        const header_bytes = side.layout.header_bytes;
        if (chain.bad) return drop(&stats.drop_bad_chain);
        if (chain.total < header_bytes) return drop(&stats.drop_bad_header);
        if (chain.total < header_bytes + 14) return drop(&stats.drop_runt);
        if (chain.total > header_bytes + net_header.frame_bytes_max) return drop(&stats.drop_too_big);
        const bytes = self.arena.allocator().alloc(u8, @intCast(chain.total)) catch unreachable;
        var done: usize = 0;
        for (side.model.pieces.items) |piece| {
            std.debug.assert(self.guest.read(piece.gpa, bytes[done..][0..piece.len]));
            done += piece.len;
        }
        var header = net_header.plain;
        @memcpy(std.mem.asBytes(&header)[0..header_bytes], bytes[0..header_bytes]);
        const frame = bytes[header_bytes..];
        header = net_header.checked(header, @intCast(frame.len), side.model.config.features) catch |reason|
            return drop(burst_file.dropOfHeader(stats, reason));
        return .{ .header = header, .bytes = frame };
    }

    fn drop(counter: *u64) ?Packet {
        counter.* += 1;
        return null;
    }

    /// The well-behaved guests send to each other, to the hostile one, and to all.
    fn peersSend(self: *Hostile) void {
        const random = &self.run.random;
        for (&self.peers, 0..) |*peer, i| {
            const queue = random.below(peer.inputs.len);
            var packets: [sent_max]Packet = undefined;
            const count = random.below(sent_max + 1);
            for (packets[0..count]) |*packet| packet.* = self.peerPacket(@intCast(i));
            var clean: [sent_max]Packet = undefined;
            for (packets[0..count]) |packet| peer.send(queue, packet);
            const passed = checkedPackets(packets[0..count], &clean, peer.features);
            self.steps = 0;
            self.foreseePeer(@intCast(i), passed);
            self.fabric.serve(&peer.inputs[queue]);
            peer.reapSent(queue);
            self.settle(self.blurred);
        }
    }

    fn foreseePeer(self: *Hostile, number: u16, packets: []const Packet) void {
        var stats = std.mem.zeroes(abi.VringStats);
        self.fabric.foresee(number, packets, true, &stats);
    }

    fn peerPacket(self: *Hostile, number: u8) Packet {
        const random = &self.run.random;
        const len = fuzz_packet.length(random);
        const at = random.below(self.noise.len - len + 1);
        const bytes = self.arena.allocator().dupe(u8, self.noise[at..][0..len]) catch unreachable;
        const destinations = [_][6]u8{
            fuzz_packet.mac(0), fuzz_packet.mac(1),    fuzz_packet.mac(station), fuzz_packet.mac(station),
            fuzz_packet.mac(9), fuzz_packet.broadcast,
        };
        bytes[0..6].* = random.pick([6]u8, &destinations);
        bytes[6..12].* = fuzz_packet.mac(number);
        bytes[12..14].* = if (random.once(2)) .{ 0x08, 0x00 } else .{ 0x86, 0xdd };
        if (!random.once(4)) return .{ .header = fuzz_packet.header(random, len), .bytes = bytes };
        return .{ .header = fuzz_packet.makeReal(random, random.below(fuzz_packet.real_kinds), bytes), .bytes = bytes };
    }

    fn checkedPackets(packets: []const Packet, into: []Packet, features: u64) []const Packet {
        var count: usize = 0;
        for (packets) |packet| {
            const len: u32 = @intCast(packet.bytes.len);
            var header = packet.header;
            if (spec.NetHeader.size(features) == 10) header.num_buffers = 1;
            header = net_header.checked(header, len, features) catch continue;
            into[count] = .{ .header = header, .bytes = packet.bytes };
            count += 1;
        }
        return into[0..count];
    }

    /// What has to come of one run of frames into the hostile guest.
    fn deliver(context: *anyopaque, packets: []const Packet) void {
        const self: *Hostile = @ptrCast(@alignCast(context));
        if (self.wild) return;
        const side = &self.to_guest;
        const stats = &side.stats;
        if (side.model.broken != .no) {
            stats.drop_link_down += packets.len;
            return;
        }
        for (packets, 0..) |packet, i| {
            const parts = packet.partsFor(side.model.config.features, self.arena.allocator()) orelse {
                self.fillWaiting();
                stats.drop_bad_gso += 1;
                continue;
            };
            // What was made of a frame is written before others are looked at.
            const is_cut = parts[0].bytes.ptr != packet.bytes.ptr;
            if (is_cut) self.fillWaiting();
            const result = self.putParts(parts);
            if (is_cut) self.fillWaiting();
            const placed = result catch {
                stats.drop_link_down += packets.len - i;
                break;
            };
            if (placed == .done) continue;
            stats.drop_no_buffer += if (placed == .short) 1 else packets.len - i;
            if (placed == .empty) break;
        }
        self.fillWaiting();
        _ = side.model.flush();
    }

    /// Too few buffers for a frame, or none; nothing was put there then.
    const Placed = enum { done, short, empty };

    fn putParts(self: *Hostile, parts: []const Packet) fuzz_model.Broken!Placed {
        const stats = &self.to_guest.stats;
        for (parts, 0..) |part, done| {
            const plain = part.header.gso_type == spec.NetHeader.gso_none;
            if (plain and self.port.mtu != 0 and part.bytes.len > self.port.mtu + 18) {
                stats.drop_too_big += 1;
                continue;
            }
            const placed = try self.put(part);
            if (placed == .done) continue;
            if (done == 0) return placed;
            stats.drop_no_buffer += parts.len - done;
            break;
        }
        return .done;
    }

    fn put(self: *Hostile, packet: Packet) fuzz_model.Broken!Placed {
        const side = &self.to_guest;
        const short = side.layout.header_bytes == 12;
        const need = side.layout.header_bytes + packet.bytes.len;
        while (true) {
            switch (try side.model.kind(need)) {
                .none => return .empty,
                .whole => if (short) {
                    side.model.pieces.clearRetainingCapacity();
                    const chain = (try side.model.take(.writable, need)).?;
                    self.countSteps(chain);
                    self.waiting[self.waiting_count] = .{
                        .packet = packet,
                        .chain = chain,
                        .piece = side.model.pieces.items[0],
                    };
                    self.waiting_count += 1;
                    return .done;
                },
                .other => {},
            }
            if (self.waiting_count == 0) return self.scatter(packet);
            self.fillWaiting();
        }
    }

    /// Frames in one piece go in one after the other, before the first that is none and at the end of a run.
    fn fillWaiting(self: *Hostile) void {
        const pieces = &self.to_guest.model.pieces;
        for (self.waiting[0..self.waiting_count]) |each| {
            pieces.clearRetainingCapacity();
            pieces.append(allocator, each.piece) catch unreachable;
            self.foreseeFrame(each.packet, &.{each.chain});
        }
        self.waiting_count = 0;
    }

    fn scatter(self: *Hostile, packet: Packet) fuzz_model.Broken!Placed {
        const side = &self.to_guest;
        const model = &side.model;
        const mergeable = spec.has(model.config.features, spec.Feature.mrg_rxbuf);
        const need = side.layout.header_bytes + packet.bytes.len;
        const start = model.avail;
        var chains: [256]fuzz_model.Chain = undefined;
        var count: usize = 0;
        var total: u64 = 0;
        model.pieces.clearRetainingCapacity();
        errdefer model.rewind(start);
        while (total < need) : (count += 1) {
            if (count > 0 and !mergeable) {
                model.rewind(start);
                side.stats.drop_too_big += 1;
                return .done;
            }
            const taken = if (count == model.config.size) null else try model.take(.writable, need - total);
            chains[count] = taken orelse {
                model.rewind(start);
                return if (count > 0) .short else .empty;
            };
            self.countSteps(chains[count]);
            total += chains[count].total;
            if (!chains[count].bad) continue;
            for (chains[0 .. count + 1]) |chain| model.complete(chain, 0);
            side.stats.drop_bad_chain += 1;
            return .done;
        }
        self.foreseeFrame(packet, chains[0..count]);
        return .done;
    }

    fn foreseeFrame(self: *Hostile, packet: Packet, chains: []const fuzz_model.Chain) void {
        const side = &self.to_guest;
        var header = packet.header;
        const mergeable = spec.has(side.model.config.features, spec.Feature.mrg_rxbuf);
        header.num_buffers = if (mergeable) @intCast(chains.len) else 1;
        const front = std.mem.asBytes(&header)[0..side.layout.header_bytes];
        const bytes = std.mem.concat(self.arena.allocator(), u8, &.{ front, packet.bytes }) catch unreachable;
        var left: []const u8 = bytes;
        for (side.model.pieces.items) |piece| {
            const len = @min(piece.len, left.len);
            self.guest.foresee(piece.gpa, left[0..len]);
            self.blurred = self.blurred or side.model.meetsUsed(piece.gpa, len);
            left = left[len..];
        }
        std.debug.assert(left.len == 0);
        var rest: u64 = bytes.len;
        for (chains) |chain| {
            const len: u32 = @intCast(@min(rest, chain.total));
            side.model.complete(chain, len);
            rest -= len;
        }
        fuzz_peer.countPacket(&side.stats, packet);
    }

    /// Some steps with rings that nobody can foresee.
    fn runWild(self: *Hostile) void {
        const random = &self.run.random;
        self.wild = true;
        self.blurred = true;
        const sides = [_]*Side{ &self.to_guest, &self.from_guest };
        for (sides) |side| {
            _ = side.vring.stop() catch unreachable;
            for (0..20) |_| side.vring.start(fuzz_wild.config(random, &self.guest)) catch continue;
        }
        self.fabric.receivers[station].other.up = sides[0].vring.started;
        self.fabric.fabric.refresh();
        for (0..random.between(1, 8)) |_| {
            for (sides) |side| if (side.vring.started) fuzz_wild.scribble(random, &self.guest, side.vring.config);
            self.peersSend();
            for (0..4) |_| {
                if (!sides[1].vring.started or sides[1].vring.isBroken()) break;
                self.fabric.serve(&self.input);
                self.fabric.teach();
                self.settle(true);
            }
        }
        self.wild = false;
        self.restart();
    }

    /// Everything is as foreseen, with everybody.
    fn settle(self: *Hostile, blurred: bool) void {
        const run = self.run;
        for (&self.peers) |*peer| {
            peer.receive(blurred);
            peer.check(blurred);
        }
        if (blurred) {
            self.blurs += 1;
            self.guest.checkBetween(run);
            self.guest.accept();
            self.to_guest.stats = self.to_guest.vring.stats;
            self.from_guest.stats = self.from_guest.vring.stats;
            _ = sys.eventfdDrain(self.err);
            return;
        }
        self.guest.check(run);
        var signals: u64 = 0;
        for ([_]*Side{ &self.to_guest, &self.from_guest }, [_][]const u8{ "to guest", "from guest" }) |side, name| {
            fuzz_peer.expectCounts(run, side.stats, side.vring.stats, name);
            const state = side.vring.state();
            run.expectEqual(side.model.base(), state.base, "ring base");
            run.expectEqual(@backingInt(side.model.broken), state.broken, "why a ring broke");
            signals += @intFromBool(state.broken != 0 and !side.told);
            side.told = state.broken != 0;
        }
        run.expectEqual(signals, sys.eventfdDrain(self.err), "errors signalled");
        _ = self.arena.reset(.retain_capacity);
    }
};

pub fn split(run: *Run) void {
    play(run, .split);
}

pub fn packedRing(run: *Run) void {
    play(run, .packed_ring);
}

fn play(run: *Run, format: Format) void {
    const self = allocator.create(Hostile) catch run.fail("no memory", .{});
    self.init(run, format);
    self.blurred = false;
    self.wild = false;
    for (&self.peers) |*peer| peer.start();
    self.restart();
    while (run.more()) self.step();
}

//! A guest whose second processor changes descriptors, tables, indexes, headers and frames while they
//! are read. What comes of them is chance, and follows from no seed; what may be written does not:
//! nothing outside the one window that its writable descriptors ever point into, and the device's own
//! areas. Its neighbours get what is theirs, and no header that was not looked at.

const std = @import("std");
const abi = @import("abi.zig");
const Fabric = @import("fuzz_fabric.zig").Fabric;
const fuzz_guest = @import("fuzz_guest.zig");
const fuzz_packet = @import("fuzz_packet.zig");
const fuzz_peer = @import("fuzz_peer.zig");
const net_header = @import("net_header.zig");
const Packet = fuzz_packet.Packet;
const Peer = fuzz_peer.Peer;
const Port = @import("port.zig").Port;
const fuzz_run = @import("fuzz_run.zig");
const Random = fuzz_run.Random;
const Run = fuzz_run.Run;
const spec = @import("spec.zig");
const Switch = @import("switch.zig");
const sys = @import("sys.zig");

const allocator = std.heap.c_allocator;

/// Areas that the device reads only, but for packed descriptors; what may be read; what may be written,
/// up to the last byte of its place; areas that the device writes, at the very end of theirs.
const places = [_]fuzz_guest.Place{
    .{ .gpa = 0x1000, .size = 0x4000, .offset = 0x1000 },
    .{ .gpa = 0x1_0000, .size = 0x5007, .offset = 0x6010 },
    .{ .gpa = 0x2_0000, .size = 0x3ff9, .offset = 0xc000 },
    .{ .gpa = 0x3_0000, .size = 0x0800, .offset = 0x1_1000 },
    .{ .gpa = 0x4_0000, .size = 0x0800, .offset = 0x1_3000 },
};
const file_bytes = 0x1_5000;

const readable = places[1];
const writable = places[2];
const ring_at = [2]u64{ 0x1000, 0x3000 };
const avail_at = 0x1000;
const station = 2;

/// What the other processor knows of one ring.
const Target = struct {
    is_packed: bool,
    size: u32,
    desc: [*]align(16) u8,
    avail: [*]align(4) u8,
    used: [*]align(4) u8,
    /// Where its descriptors and tables point.
    window: fuzz_guest.Place,
    writable: bool,
    /// The avail index goes as far as twice the ring: each look at it may allow more.
    bold: bool,
};

const Shared = struct {
    random: Random,
    bytes: []u8,
    targets: [2]Target,
    /// Odd: the other processor is to hold still, so that what is above can change.
    turn: std.atomic.Value(u32) = .init(0),
    /// The last turn that it saw.
    seen: std.atomic.Value(u32) = .init(0),

    fn hold(shared: *Shared) void {
        const turn = shared.turn.fetchAdd(1, .acq_rel) + 1;
        while (shared.seen.load(.acquire) != turn) sys.yieldCpu();
    }

    fn release(shared: *Shared) void {
        _ = shared.turn.fetchAdd(1, .acq_rel);
    }

    fn work(shared: *Shared) void {
        while (true) {
            const turn = shared.turn.load(.acquire);
            shared.seen.store(turn, .release);
            if (turn % 2 == 0) {
                for (0..64) |_| shared.change(&shared.random);
            } else sys.yieldCpu();
        }
    }

    /// `random` is the caller's own.
    fn change(shared: *Shared, random: *Random) void {
        const target = &shared.targets[random.below(2)];
        switch (random.below(8)) {
            0, 1 => offer(random, target),
            2, 3 => changeDesc(random, target, target.desc + 16 * @as(usize, random.below(target.size))),
            // A table may lie anywhere in the window.
            4 => {
                const at = target.window.offset + 16 * random.below((target.window.size - 16) / 16);
                changeDesc(random, target, @alignCast(shared.bytes.ptr + at));
            },
            5 => shared.changeFrame(random),
            else => if (target.is_packed) offer(random, target) else changeIndex(random, target),
        }
    }

    /// Headers and addresses at some places in the readable window.
    fn changeFrame(shared: *Shared, random: *Random) void {
        const at = readable.offset + 64 * @as(usize, random.below(readable.size / 64 - 1));
        const header = fuzz_packet.header(random, 100);
        var front: [12 + 14]u8 = undefined;
        front[0..12].* = std.mem.asBytes(&header).*;
        const known = [_]u8{ 0, 1, 9 };
        const single = fuzz_packet.mac(random.pick(u8, &known));
        front[12..18].* = if (random.once(4)) fuzz_packet.broadcast else single;
        front[18..24].* = fuzz_packet.mac(station);
        front[24..26].* = .{ 0x08, 0x00 };
        for (shared.bytes[at..][0..front.len], &front) |*byte, value| @atomicStore(u8, byte, value, .monotonic);
        const ports = shared.bytes[at + 12 + 14 ..][0..24];
        for (ports) |*byte| @atomicStore(u8, byte, @truncate(random.next() & 0x45), .monotonic);
    }
};

fn store(comptime T: type, at: [*]u8, value: T) void {
    @atomicStore(T, @as(*T, @ptrCast(@alignCast(at))), value, .monotonic);
}

/// A whole descriptor that is likely to be good, made available.
fn offer(random: *Random, target: *const Target) void {
    const at = target.desc + 16 * @as(usize, random.below(target.size));
    store(u64, at, address(random, target));
    store(u32, at + 8, length(random));
    const flags: u16 = if (target.writable) spec.desc_write else 0;
    if (!target.is_packed) return store(u16, at + 12, flags);
    const lap = if (random.once(2)) spec.desc_avail else spec.desc_used;
    store(u16, at + 12, @truncate(random.below(target.size)));
    store(u16, at + 14, flags | lap);
}

/// One field of a descriptor, of the ring or of a table.
fn changeDesc(random: *Random, target: *const Target, at: [*]u8) void {
    const common: u16 = if (target.writable) spec.desc_write else 0;
    const flags = [_]u16{ 0, 0, 0, 0, 1, 1, 4, 2, 5 };
    const lap = [_]u16{ 0, spec.desc_avail, spec.desc_used };
    const all = (common ^ random.pick(u16, &flags)) | if (target.is_packed) random.pick(u16, &lap) else 0;
    const over = @intFromBool(random.once(1 << 12));
    const small: u16 = @truncate(random.below(@as(u64, target.size) + over));
    switch (random.below(4)) {
        0 => store(u64, at, address(random, target)),
        1 => store(u32, at + 8, length(random)),
        2 => store(u16, at + 12, if (target.is_packed) small else all),
        else => store(u16, at + 14, if (target.is_packed) all else small),
    }
}

/// In the window, often near its end, or nowhere.
fn address(random: *Random, target: *const Target) u64 {
    const window = target.window;
    return switch (random.below(8)) {
        0 => window.gpa + window.size - random.below(128),
        1 => window.gpa + 16 * random.below(window.size / 16),
        2 => window.gpa + window.size + random.below(64),
        3 => if (random.once(8)) 0 -% @as(u64, random.below(4096)) else window.gpa,
        else => window.gpa + 64 * random.below(window.size / 64),
    };
}

fn length(random: *Random) u32 {
    const lengths = [_]u32{ 0, 1, 12, 26, 64, 100, 1526, 2048, 4096, 0x4000, 0xffff_ffff };
    return if (random.once(4)) 16 * random.below(8) else random.pick(u32, &lengths);
}

/// The avail index goes on, mostly as far as it may, sometimes further or back.
fn changeIndex(random: *Random, target: *const Target) void {
    const used = @atomicLoad(u16, @as(*u16, @ptrCast(@alignCast(target.used + 2))), .monotonic);
    const slot: usize = random.below(target.size);
    const over = @intFromBool(random.once(1 << 14));
    store(u16, target.avail + 4 + 2 * slot, @truncate(random.below(@as(u64, target.size) + over)));
    store(u16, target.avail + 4 + 2 * @as(usize, target.size), @truncate(random.next()));
    var step: u16 = @truncate(random.below(@as(u64, target.size) + 1));
    if (random.once(1 << 14)) step = @truncate(random.next());
    if (target.bold and random.once(2)) step +%= @truncate(target.size);
    store(u16, target.avail + 2, used +% step);
}

const Change = struct {
    run: *Run,
    fabric: Fabric,
    peers: [2]Peer,
    port: *Port,
    guest: fuzz_guest.Guest,
    input: Switch.Input,
    shared: Shared,
    noise: [4096]u8,

    fn init(self: *Change, run: *Run) void {
        self.run = run;
        self.fabric.init(run);
        for (&self.peers, 0..) |*peer, i| {
            peer.init(run, @intCast(i), @intCast(1 + i * 2), self.fabric.attention);
            self.fabric.fabric.ports[i] = peer.port;
            self.fabric.receivers[i] = .{ .peer = peer };
        }
        self.port = Port.create(station, .{ .queue_pairs = 1, .mtu = 0 }, self.fabric.attention) catch unreachable;
        self.fabric.fabric.ports[station] = self.port;
        self.fabric.receivers[station] = .{ .other = .{ .context = self, .deliver = ignore, .up = true } };
        self.guest.init(run, &places, file_bytes);
        const table = self.guest.table(run, &self.port.memory.faults);
        self.port.memory.swap(table);
        self.input = .{ .vring = &self.port.vrings[1], .port = self.port };
        for (self.port.vrings) |*vring| vring.call = sys.eventfd() catch run.fail("no eventfd", .{});
        run.random.fill(&self.noise);
        self.shared = .{ .random = .{ .state = run.random.next() }, .bytes = self.guest.bytes, .targets = undefined };
        for (&self.peers) |*peer| peer.start();
        self.restart();
        _ = self.shared.turn.fetchAdd(1, .monotonic);
        const thread = std.Thread.spawn(.{}, Shared.work, .{&self.shared}) catch run.fail("no thread", .{});
        thread.detach();
    }

    /// Nobody can foresee what the changing guest makes of its frames.
    fn ignore(context: *anyopaque, packets: []const Packet) void {
        _ = context;
        _ = packets;
    }

    /// Both rings from the start, in a format and size of chance. The other processor is held.
    fn restart(self: *Change) void {
        const random = &self.run.random;
        const is_packed = random.once(2);
        var features = random.next() & fuzz_peer.offloads | fuzz_peer.bit(spec.Feature.version_1);
        if (!random.once(3)) features |= fuzz_peer.bit(spec.Feature.mrg_rxbuf);
        if (!random.once(3)) features |= fuzz_peer.bit(spec.Feature.indirect_desc);
        if (random.once(2)) features |= fuzz_peer.bit(spec.Feature.event_idx);
        if (is_packed) features |= fuzz_peer.bit(spec.Feature.ring_packed);
        for (self.port.vrings, 0..) |*vring, i| {
            if (vring.started) _ = vring.stop() catch unreachable;
            const size = @as(u32, 1) << @intCast(random.below(7));
            const used_bytes: u64 = if (is_packed) 4 else 6 + 8 * size;
            const place = places[3 + i];
            const used_gpa = place.gpa + place.size - std.mem.alignForward(u64, used_bytes, 4);
            const config: abi.VringConfig = .{
                .features = features,
                .desc_gpa = ring_at[i],
                .avail_gpa = ring_at[i] + avail_at,
                .used_gpa = used_gpa,
                .log_gpa = 0,
                .size = size,
                .base = if (is_packed) 0x8000_8000 else 0,
                .flags = 0,
            };
            self.guest.writeNumber(u32, config.avail_gpa, 0);
            // What the avail index goes by.
            self.guest.writeNumber(u16, config.used_gpa + 2, 0);
            vring.start(config) catch |reason| self.run.fail("a ring is refused: {t}", .{reason});
            vring.enabled = true;
            self.shared.targets[i] = self.targetOf(config, i == 0);
        }
        self.fabric.fabric.refresh();
        self.fabric.teach();
    }

    fn targetOf(self: *Change, config: abi.VringConfig, is_writable: bool) Target {
        return .{
            .is_packed = spec.has(config.features, spec.Feature.ring_packed),
            .size = config.size,
            .desc = @alignCast(self.at(config.desc_gpa)),
            .avail = @alignCast(self.at(config.avail_gpa)),
            .used = @alignCast(self.at(config.used_gpa)),
            .window = if (is_writable) writable else readable,
            .writable = is_writable,
            .bold = self.run.random.once(4),
        };
    }

    fn at(self: *Change, gpa: u64) [*]u8 {
        return self.guest.bytes.ptr + self.guest.find(gpa, 1).?.offset;
    }

    fn step(self: *Change) void {
        self.shared.release();
        for (0..32) |_| {
            self.peersSend();
            self.serve();
            for (&self.peers) |*peer| {
                peer.receive(true);
                peer.check(true);
            }
            if (self.port.vrings[0].isBroken() or self.port.vrings[1].isBroken()) break;
        }
        self.shared.hold();
        self.checkMemory();
        const random = &self.run.random;
        if (self.port.vrings[0].isBroken() or self.port.vrings[1].isBroken() or random.once(16)) self.restart();
    }

    /// One turn on the changing guest's ring. Changes come between its halves too, for machines where
    /// the other processor is seldom there.
    fn serve(self: *Change) void {
        const random = &self.run.random;
        for (0..random.below(20)) |_| self.shared.change(random);
        self.fabric.burst.collect(self.input.vring);
        for (0..random.below(20)) |_| self.shared.change(random);
        self.fabric.finish(&self.input);
        self.input.memo = .{};
        self.fabric.teach();
    }

    /// Only windows and the rings' own areas have changed.
    fn checkMemory(self: *Change) void {
        for ([_]fuzz_guest.Place{ readable, writable }) |window| self.excuse(window.offset, window.size);
        for (self.port.vrings) |*vring| {
            const config = vring.config;
            const is_packed = spec.has(config.features, spec.Feature.ring_packed);
            const avail_bytes: u64 = if (is_packed) 4 else 6 + 2 * config.size;
            const used_bytes: u64 = if (is_packed) 4 else 6 + 8 * config.size;
            self.excuse(self.guest.find(config.desc_gpa, 1).?.offset, 16 * config.size);
            self.excuse(self.guest.find(config.avail_gpa, 1).?.offset, avail_bytes);
            self.excuse(self.guest.find(config.used_gpa, 1).?.offset, used_bytes);
        }
        self.guest.check(self.run);
    }

    fn excuse(self: *Change, offset: u64, len: u64) void {
        @memcpy(self.guest.expected[offset..][0..len], self.guest.bytes[offset..][0..len]);
    }

    /// The neighbours send to each other, and to the one that changes.
    fn peersSend(self: *Change) void {
        const random = &self.run.random;
        for (&self.peers, 0..) |*peer, number| {
            var packets: [8]Packet = undefined;
            const count = random.below(packets.len + 1);
            for (packets[0..count]) |*packet| {
                const len = random.between(14, 1514);
                const begin = random.below(self.noise.len - len + 1);
                const bytes = peer.arena.allocator().dupe(u8, self.noise[begin..][0..len]) catch unreachable;
                bytes[0..6].* = fuzz_packet.mac(if (random.once(2)) station else @intCast(1 - number));
                bytes[6..12].* = fuzz_packet.mac(@intCast(number));
                packet.* = .{ .header = net_header.plain, .bytes = bytes };
                peer.send(0, packet.*);
            }
            var stats = std.mem.zeroes(abi.VringStats);
            self.fabric.foresee(@intCast(number), packets[0..count], true, &stats);
            self.fabric.serve(&peer.inputs[0]);
            peer.reapSent(0);
        }
    }
};

pub fn play(run: *Run) void {
    const self = allocator.create(Change) catch run.fail("no memory", .{});
    self.init(run);
    while (run.more()) self.step();
}

//! Simulated guests on a switch, worked by hand in one thread, for tests.

const std = @import("std");
const abi = @import("abi.zig");
const burst_file = @import("burst.zig");
const Guest = @import("guest.zig").Guest;
const guest_state = @import("guest_state.zig");
const memory_file = @import("memory.zig");
const Port = @import("port.zig").Port;
const spec = @import("spec.zig");
const switch_file = @import("switch.zig");
const sys = @import("sys.zig");

const Input = switch_file.Input;

const guests_max = 4;
const inputs_max = 32;

pub const Rig = struct {
    fabric: *switch_file.Switch,
    burst: *burst_file.Burst,
    notices: switch_file.Notices,
    guests: [guests_max]*Guest,
    ports: [guests_max]*Port,
    count: u32,
    inputs: [inputs_max]Input,
    input_count: u32,

    pub fn create() !*Rig {
        const rig = try std.heap.page_allocator.create(Rig);
        rig.fabric = try std.heap.page_allocator.create(switch_file.Switch);
        rig.fabric.init(300_000);
        rig.burst = try .create();
        rig.notices.count = 0;
        rig.count = 0;
        rig.input_count = 0;
        return rig;
    }

    pub fn destroy(rig: *Rig) void {
        for (rig.guests[0..rig.count], rig.ports[0..rig.count]) |guest, port| {
            port.memory.unmapAll();
            // The rings' eventfds are the guest's.
            for (port.vrings) |*vring| vring.call = -1;
            port.destroy();
            guest.close();
        }
        rig.burst.destroy();
        std.heap.page_allocator.destroy(rig.fabric);
        std.heap.page_allocator.destroy(rig);
    }

    /// One more guest, its rings started and enabled.
    pub fn add(rig: *Rig, config: abi.GuestConfig) !*Guest {
        const guest: *Guest = try .open(config);
        const number: u16 = @intCast(rig.count);
        const port: *Port = try .create(number, .{ .queue_pairs = config.queue_pairs, .mtu = 0 }, -1);
        var table: *memory_file.Table = try .create();
        try table.add(guest.region(), guest.fd, &port.memory.faults);
        port.memory.swap(table);
        table.destroy();
        rig.guests[number] = guest;
        rig.ports[number] = port;
        rig.count += 1;
        rig.fabric.ports[number] = port;
        for (port.vrings, 0..) |*vring, index| {
            const place = guest.vring(@intCast(index));
            try vring.start(.{
                .features = config.features,
                .desc_gpa = place.desc_gpa,
                .avail_gpa = place.avail_gpa,
                .used_gpa = place.used_gpa,
                .log_gpa = 0,
                .size = place.size,
                .base = place.base,
                .flags = 0,
            });
            vring.enabled = true;
            vring.call = place.call;
            if (index % 2 == 0) continue;
            rig.inputs[rig.input_count] = .{ .vring = vring, .port = port };
            rig.input_count += 1;
        }
        rig.fabric.refresh();
        return guest;
    }

    /// One round of every guest and of the switch. False: nobody had anything to do.
    pub fn step(rig: *Rig) !bool {
        var found = false;
        for (rig.guests[0..rig.count]) |guest| found = guest.step() or found;
        for (rig.inputs[0..rig.input_count]) |*input| {
            found = rig.collect(input) or found;
            rig.deliver(input);
            try std.testing.expectEqual(0, input.vring.broken.load(.monotonic));
        }
        return found;
    }

    pub fn collect(rig: *Rig, input: *Input) bool {
        rig.burst.collect(input.vring);
        burst_file.countSent(rig.burst, &input.vring.stats);
        return rig.burst.count > 0;
    }

    pub fn deliver(rig: *Rig, input: *Input) void {
        rig.fabric.forward(input, rig.burst, 0, &rig.notices);
        rig.notices.add(input.vring, rig.burst.giveBack(input.vring));
        rig.notices.send();
    }

    /// Until nobody has anything to do.
    pub fn settle(rig: *Rig) !void {
        var quiet: u32 = 0;
        while (quiet < 3) quiet = if (try rig.step()) 0 else quiet + 1;
    }

    /// Packets that the switch dropped, for whatever reason.
    pub fn drops(rig: *const Rig) u64 {
        var sum: u64 = 0;
        for (rig.ports[0..rig.count]) |port| {
            for ([_]usize{ 0, 1 }) |direction| {
                const stats = port.sum(direction);
                inline for (@typeInfo(abi.VringStats).@"struct".field_names) |name| {
                    if (comptime std.mem.startsWith(u8, name, "drop_")) sum += @field(stats, name);
                }
            }
        }
        return sum;
    }
};

/// Nothing that a guest counts went wrong.
pub fn expectClean(guest: *const Guest) !void {
    const faults = .{ "lost", "duplicated", "reordered", "corrupted", "foreign", "bad_header", "unseen", "broken" };
    inline for (faults) |name| {
        std.testing.expectEqual(0, @field(guest.stats, name)) catch |reason| {
            std.debug.print("guest counts {d} {s}\n", .{ @field(guest.stats, name), name });
            return reason;
        };
    }
}

const Feature = spec.Feature;

fn bit(number: u6) u64 {
    return @as(u64, 1) << number;
}

fn testConfig(features: u64, size: u32) abi.GuestConfig {
    const mergeable = spec.has(features, Feature.mrg_rxbuf);
    return .{
        .features = features,
        .gpa = 0x4000_0000,
        .queue_pairs = 1,
        .ring_size = size,
        .buffer_bytes = if (mergeable) 512 else 2048,
        .frame_bytes_max = 1514,
        .send_segments = 0,
        .receive_segments = 0,
        .send_indirect = 0,
        .receive_indirect = 0,
    };
}

fn testTraffic(number: u64, peer: u64) abi.GuestTraffic {
    return .{
        .source_mac = 0x525400000000 + number,
        .destination_mac = 0x525400000000 + peer,
        .count = 1000,
        .rate = 0,
        .frame_bytes = 1514,
        .frame_bytes_min = 60,
        .check_every = 1,
        .flows = 3,
        .queues = 1,
        .burst = 16,
        .send = 1,
        .receive = 1,
        .echo = 0,
        .wait = .poll,
        .cpu = -1,
        .gso_size = 0,
        .window = 0,
    };
}

/// Two guests send to one another, as much as the switch drops nothing of.
fn expectExchange(config: abi.GuestConfig, traffic: abi.GuestTraffic) !void {
    const rig: *Rig = try .create();
    defer rig.destroy();
    const first = try rig.add(config);
    const second = try rig.add(config);
    var back = traffic;
    std.mem.swap(u64, &back.source_mac, &back.destination_mac);
    try first.prepare(traffic);
    try second.prepare(back);
    try rig.settle();
    for ([_]*Guest{ first, second }) |guest| {
        try expectClean(guest);
        try std.testing.expectEqual(traffic.count, guest.stats.sent);
        try std.testing.expectEqual(traffic.count + guest.stats.announcements, guest.stats.received);
        if (traffic.check_every == 1) try std.testing.expectEqual(traffic.count, guest.stats.received_checked);
        try std.testing.expectEqual(0, guest.stats.sending);
        try std.testing.expectEqual(0, guest.vringStats(1).outstanding);
    }
    try std.testing.expectEqual(0, rig.drops());
}

test "frames go from guest to guest by every feature" {
    const choices = [_]u64{
        bit(Feature.ring_packed), bit(Feature.event_idx), bit(Feature.in_order),
        bit(Feature.mrg_rxbuf),   bit(Feature.version_1),
    };
    for (0..@as(u32, 1) << choices.len) |chosen| {
        var features: u64 = 0;
        for (choices, 0..) |choice, i| if (chosen >> @intCast(i) & 1 != 0) {
            features |= choice;
        };
        try expectExchange(testConfig(features, 64), testTraffic(1, 2));
    }
}

test "frames go through buffers of every shape, and rings of every kind of size" {
    const all = bit(Feature.version_1) | bit(Feature.indirect_desc) | bit(Feature.in_order) | bit(Feature.event_idx);
    const Case = struct { size: u32, send: u32 = 0, receive: u32 = 0, tables: u32 = 0, mergeable: bool = false };
    const cases = [_]Case{
        .{ .size = 64, .send = 1, .receive = 1 },
        .{ .size = 64, .send = 2, .receive = 7 },
        .{ .size = 64, .send = 17, .receive = 3, .tables = 1 },
        .{ .size = 128, .send = 100, .receive = 2, .mergeable = true },
        .{ .size = 8, .tables = 1 },
        .{ .size = 2 },
        .{ .size = 1 },
        .{ .size = 3 },
        .{ .size = 7, .send = 2, .receive = 2 },
        .{ .size = 100, .mergeable = true },
        .{ .size = 255, .send = 254, .receive = 254 },
    };
    for (cases) |case| {
        for ([_]u64{ all | bit(Feature.ring_packed), all }) |features| {
            if (features == all and !std.math.isPowerOfTwo(case.size)) continue;
            var config = testConfig(features | if (case.mergeable) bit(Feature.mrg_rxbuf) else 0, case.size);
            config.send_segments = case.send;
            config.receive_segments = case.receive;
            config.send_indirect = case.tables;
            config.receive_indirect = case.tables;
            var traffic = testTraffic(1, 2);
            traffic.burst = 4;
            traffic.count = 200;
            try expectExchange(config, traffic);
        }
    }
}

test "frames of 65535 bytes, over many buffers and in one" {
    for ([_]u64{ 0, bit(Feature.mrg_rxbuf) }) |mergeable| {
        for ([_]u64{ 0, bit(Feature.ring_packed) }) |format| {
            var config = testConfig(bit(Feature.version_1) | mergeable | format, 256);
            config.frame_bytes_max = 65535;
            config.buffer_bytes = if (mergeable != 0) 1536 else 65535 + 12;
            var traffic = testTraffic(1, 2);
            traffic.frame_bytes = 65535;
            traffic.burst = 4;
            traffic.count = 100;
            try expectExchange(config, traffic);
            traffic.frame_bytes_min = 0;
            traffic.check_every = 7;
            try expectExchange(config, traffic);
        }
    }
}

test "some frames are checked, or none, and all are followed" {
    for ([_]u32{ 0, 10 }) |check_every| {
        const rig: *Rig = try .create();
        defer rig.destroy();
        const sender = try rig.add(testConfig(bit(Feature.version_1), 64));
        const receiver = try rig.add(testConfig(bit(Feature.version_1), 64));
        var traffic = testTraffic(2, 1);
        traffic.check_every = check_every;
        traffic.send = 0;
        try receiver.prepare(traffic);
        traffic = testTraffic(1, 2);
        traffic.check_every = check_every;
        traffic.count = 10_000;
        traffic.frame_bytes_min = 0;
        try sender.prepare(traffic);
        try rig.settle();
        try expectClean(receiver);
        try std.testing.expectEqual(10_001, receiver.stats.received);
        try std.testing.expectEqual(10_000 * 1514 + 60, receiver.stats.received_bytes);
        try std.testing.expectEqual(3, receiver.stats.streams);
        try std.testing.expectEqual(sender.stats.sent_checked, receiver.stats.received_checked);
        const checked = receiver.stats.received_checked;
        try std.testing.expect(if (check_every == 0) checked == 0 else checked > 700 and checked < 1500);
        try std.testing.expect(receiver.stats.latency_count > 0);
        try std.testing.expect(receiver.stats.latency_max_ns < 60 * std.time.ns_per_s);
    }
}

test "many flows are spread over all queues of the receiver, and each keeps its order" {
    const rig: *Rig = try .create();
    defer rig.destroy();
    var config = testConfig(bit(Feature.version_1) | bit(Feature.ring_packed), 256);
    config.queue_pairs = 4;
    const sender = try rig.add(config);
    const receiver = try rig.add(config);
    var traffic = testTraffic(2, 1);
    traffic.queues = 4;
    traffic.send = 0;
    try receiver.prepare(traffic);
    traffic = testTraffic(1, 2);
    traffic.queues = 4;
    traffic.flows = 64;
    traffic.count = 10_000;
    try sender.prepare(traffic);
    try rig.settle();
    try expectClean(receiver);
    try std.testing.expectEqual(64, receiver.stats.streams);
    for (0..4) |queue| {
        try std.testing.expect(receiver.vringStats(@intCast(2 * queue)).packets > 1000);
        try std.testing.expect(sender.vringStats(@intCast(2 * queue + 1)).packets > 2000);
    }
}

test "an echo comes back to its sender, good and in order" {
    const Case = struct { segments: u32, features: u64 };
    for ([_]Case{
        .{ .segments = 0, .features = 0 },
        .{ .segments = 3, .features = bit(Feature.ring_packed) },
        .{ .segments = 0, .features = bit(Feature.mrg_rxbuf) },
    }) |case| {
        const rig: *Rig = try .create();
        defer rig.destroy();
        var config = testConfig(bit(Feature.version_1) | case.features, 64);
        config.send_segments = case.segments;
        const sender = try rig.add(config);
        const mirror = try rig.add(config);
        var traffic = testTraffic(2, 1);
        traffic.send = 0;
        traffic.echo = 1;
        try mirror.prepare(traffic);
        traffic = testTraffic(1, 2);
        traffic.burst = 4;
        try sender.prepare(traffic);
        try rig.settle();
        try expectClean(sender);
        try expectClean(mirror);
        try std.testing.expectEqual(0, mirror.stats.echo_dropped);
        try std.testing.expectEqual(1000 + sender.stats.announcements, sender.stats.received);
    }
}

/// Frames of 9000 bytes that are to be cut, to a receiver with these features; the receiver's counters.
fn runLarge(format: u64, takes: u64, spoil: bool) !abi.GuestStats {
    const rig: *Rig = try .create();
    defer rig.destroy();
    const common = bit(Feature.version_1) | bit(Feature.mrg_rxbuf) | format;
    var config = testConfig(common | bit(Feature.csum) | bit(Feature.host_uso), 64);
    config.frame_bytes_max = 9000;
    const sender = try rig.add(config);
    // Room for the longest frames of two bursts: the sender has a turn more than it.
    const receiver = try rig.add(testConfig(common | takes, 128));
    var traffic = testTraffic(2, 1);
    traffic.frame_bytes = 9000;
    traffic.frame_bytes_min = 2000;
    traffic.gso_size = 1448;
    traffic.send = 0;
    try receiver.prepare(traffic);
    traffic = testTraffic(1, 2);
    traffic.frame_bytes = 9000;
    traffic.frame_bytes_min = 2000;
    traffic.gso_size = 1448;
    traffic.burst = 2;
    try sender.prepare(traffic);
    for (0..10) |_| _ = try rig.step();
    _ = sender.step();
    const input = &rig.inputs[0];
    try std.testing.expect(rig.collect(input));
    const byte = &rig.burst.frames[0].segments[0].base[1700];
    if (spoil) byte.* ^= 1;
    rig.deliver(input);
    if (spoil) byte.* ^= 1;
    try rig.settle();
    try std.testing.expectEqual(0, rig.drops());
    const cut = rig.ports[1].sum(0);
    try std.testing.expectEqual(cut.packets - 1 - cut.pieces + cut.cut, traffic.count);
    try std.testing.expectEqual(cut.packets, receiver.stats.received);
    return receiver.stats;
}

test "frames that are to be cut come whole or in pieces, and all of them are checked" {
    const csum = bit(Feature.guest_csum);
    const whole = csum | bit(Feature.guest_uso4) | bit(Feature.guest_uso6);
    for ([_]u64{ 0, bit(Feature.ring_packed) }) |format| {
        for ([_]u64{ whole, csum, 0 }) |takes| {
            const stats = try runLarge(format, takes, false);
            try expectFaults(stats, "");
            try std.testing.expectEqual(stats.received - stats.announcements, stats.received_checked);
            try std.testing.expectEqual(takes == whole, stats.received_checked == 1000);
        }
    }
    try expectFaults(try runLarge(0, whole, true), "corrupted");
}

const Fault = enum { none, flip, flip_address, drop, duplicate, swap };

/// Sends frames one way and lets `fault` befall the first two of one burst.
fn runWithFault(fault: Fault, check_every: u32) !abi.GuestStats {
    const rig: *Rig = try .create();
    defer rig.destroy();
    const sender = try rig.add(testConfig(bit(Feature.version_1), 64));
    const receiver = try rig.add(testConfig(bit(Feature.version_1), 64));
    var traffic = testTraffic(2, 1);
    traffic.send = 0;
    traffic.check_every = check_every;
    try receiver.prepare(traffic);
    traffic = testTraffic(1, 2);
    traffic.check_every = check_every;
    traffic.flows = 1;
    traffic.frame_bytes_min = 0;
    try sender.prepare(traffic);
    for (0..10) |_| _ = try rig.step();
    _ = sender.step();
    const input = &rig.inputs[0];
    try std.testing.expect(rig.collect(input));
    const frames = &rig.burst.frames;
    switch (fault) {
        .none => {},
        .flip => frames[0].segments[0].base[1000] ^= 0x10,
        .flip_address => frames[0].segments[0].base[27] ^= 0x10,
        .drop => rig.burst.count -= 1,
        .duplicate => {
            frames[rig.burst.count] = frames[rig.burst.count - 1];
            rig.burst.count += 1;
        },
        .swap => std.mem.swap(@TypeOf(frames[0]), &frames[0], &frames[1]),
    }
    const changed = frames[0].segments[0].base;
    rig.deliver(input);
    // The sender will use its buffer again.
    if (fault == .flip) changed[1000] ^= 0x10;
    if (fault == .flip_address) changed[27] ^= 0x10;
    try rig.settle();
    return receiver.stats;
}

fn expectFaults(stats: abi.GuestStats, comptime field: []const u8) !void {
    inline for (.{ "lost", "duplicated", "reordered", "corrupted", "foreign", "bad_header", "unseen" }) |name| {
        const expected = if (comptime std.mem.eql(u8, name, field)) 1 else 0;
        try std.testing.expectEqual(expected, @field(stats, name));
    }
}

test "each planted fault is counted once, as what it is" {
    for ([_]u32{ 1, 0 }) |check_every| {
        try expectFaults(try runWithFault(.none, check_every), "");
        try expectFaults(try runWithFault(.flip_address, check_every), "corrupted");
        try expectFaults(try runWithFault(.drop, check_every), "lost");
        try expectFaults(try runWithFault(.duplicate, check_every), "duplicated");
        try expectFaults(try runWithFault(.swap, check_every), "reordered");
    }
    try expectFaults(try runWithFault(.flip, 1), "corrupted");
    // What carries no checksum is not looked at behind its sequence number.
    try expectFaults(try runWithFault(.flip, 0), "");
}

test "a guest that is stopped, started and reset goes on with its numbers" {
    const rig: *Rig = try .create();
    defer rig.destroy();
    const sender = try rig.add(testConfig(bit(Feature.version_1), 64));
    const receiver = try rig.add(testConfig(bit(Feature.version_1), 64));
    var traffic = testTraffic(2, 1);
    traffic.send = 0;
    try receiver.prepare(traffic);
    for (0..3) |_| {
        try sender.prepare(testTraffic(1, 2));
        try rig.settle();
    }
    try expectClean(receiver);
    try std.testing.expectEqual(3000, receiver.stats.received_checked);
    try std.testing.expectEqual(3, receiver.stats.streams);
    // What the device has is forgotten with it.
    for (rig.ports[0].vrings) |*vring| _ = try vring.stop();
    try sender.reset();
    for (rig.ports[0].vrings, 0..) |*vring, index| {
        var config = vring.config;
        config.base = sender.vring(@intCast(index)).base;
        try vring.start(config);
    }
    try sender.prepare(testTraffic(1, 2));
    try rig.settle();
    try expectClean(receiver);
    try std.testing.expectEqual(4000, receiver.stats.received_checked);
}

test "threads that poll, yield and sleep move frames, and end when told" {
    for ([_]abi.GuestWait{ .poll, .yield, .sleep }) |wait| {
        const rig: *Rig = try .create();
        defer rig.destroy();
        const features = bit(Feature.version_1) | bit(Feature.event_idx);
        const sender = try rig.add(testConfig(features, 64));
        const receiver = try rig.add(testConfig(features | bit(Feature.ring_packed), 64));
        var traffic = testTraffic(2, 1);
        traffic.send = 0;
        traffic.wait = wait;
        try receiver.start(traffic);
        traffic = testTraffic(1, 2);
        traffic.wait = wait;
        traffic.rate = 20_000;
        try sender.start(traffic);
        try std.testing.expectError(error.AlreadyStarted, sender.start(traffic));
        const deadline = sys.nanoseconds() + 20 * std.time.ns_per_s;
        while (@atomicLoad(u64, &receiver.stats.received_checked, .monotonic) + rig.drops() < traffic.count) {
            if (sys.nanoseconds() > deadline) break;
            for (rig.inputs[0..rig.input_count]) |*input| if (rig.collect(input)) rig.deliver(input);
            sys.yieldCpu();
        }
        sender.stop();
        receiver.stop();
        // On a busy machine the receiver may be late.
        try std.testing.expectEqual(traffic.count, receiver.stats.received_checked + rig.drops());
        try std.testing.expect(receiver.stats.lost <= rig.drops());
        receiver.stats.lost = 0;
        try expectClean(receiver);
        if (wait == .sleep) try std.testing.expect(receiver.stats.sleeps > 0 and receiver.vringStats(0).calls > 0);
    }
}

/// Moves a rig's guest into a twin, memory and knowledge, and the switch's rings with it.
fn move(rig: *Rig, number: u32) !void {
    const guest = rig.guests[number];
    const port = rig.ports[number];
    const twin: *Guest = try .open(guest.config);
    @memcpy(twin.map, guest.map);
    var bytes: [1 << 17]u8 = undefined;
    const len = try guest_state.save(guest, &bytes);
    try guest_state.load(twin, bytes[0..len]);
    var states: [2]abi.VringState = undefined;
    for (port.vrings, &states) |*vring, *state| state.* = try vring.stop();
    var table: *memory_file.Table = try .create();
    try table.add(twin.region(), twin.fd, &port.memory.faults);
    port.memory.swap(table);
    table.destroy();
    for (port.vrings, 0..) |*vring, index| {
        var config = vring.config;
        config.base = states[index].base;
        try vring.start(config);
        vring.call = twin.vring(@intCast(index)).call;
    }
    guest.close();
    rig.guests[number] = twin;
}

test "a guest goes on elsewhere, in the middle of everything, and nobody notices" {
    const common = bit(Feature.version_1) | bit(Feature.indirect_desc);
    const Case = struct { features: u64, receive: u32 = 0, tables: u32 = 0 };
    for ([_]Case{
        .{ .features = 0 },
        .{ .features = bit(Feature.event_idx), .receive = 3 },
        .{ .features = bit(Feature.in_order) | bit(Feature.mrg_rxbuf), .receive = 2, .tables = 1 },
    }) |case| {
        for ([_]u64{ 0, bit(Feature.ring_packed) }) |format| {
            const rig: *Rig = try .create();
            defer rig.destroy();
            var config = testConfig(common | case.features | format, 64);
            config.receive_segments = case.receive;
            config.receive_indirect = case.tables;
            config.send_indirect = case.tables;
            _ = try rig.add(config);
            _ = try rig.add(testConfig(common, 64));
            var traffic = testTraffic(1, 2);
            traffic.burst = 4;
            var back = testTraffic(2, 1);
            back.burst = 4;
            try rig.guests[1].prepare(back);
            for (0..5) |_| {
                try rig.guests[0].prepare(traffic);
                for (0..20) |_| _ = try rig.step();
                // Both have frames under way.
                _ = rig.guests[1].step();
                for (rig.inputs[0..rig.input_count]) |*input| {
                    _ = rig.collect(input);
                    rig.deliver(input);
                }
                _ = try rig.guests[0].offer(3);
                try move(rig, 0);
            }
            try rig.guests[0].prepare(traffic);
            try rig.settle();
            for (rig.guests[0..2]) |guest| try expectClean(guest);
            try std.testing.expectEqual(0, rig.drops());
            try std.testing.expectEqual(back.count, rig.guests[0].stats.received_checked);
            try std.testing.expect(rig.guests[1].stats.received_checked > traffic.count + 5 * 20);
        }
    }
}

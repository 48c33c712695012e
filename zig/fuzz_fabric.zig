//! A switch between the guests of a fuzzer: serves rings as a worker does, and foresees where every
//! frame has to go.

const std = @import("std");
const abi = @import("abi.zig");
const burst_file = @import("burst.zig");
const fuzz_packet = @import("fuzz_packet.zig");
const Packet = fuzz_packet.Packet;
const Peer = @import("fuzz_peer.zig").Peer;
const Run = @import("fuzz_run.zig").Run;
const switch_file = @import("switch.zig");
const sys = @import("sys.zig");

const allocator = std.heap.c_allocator;

const packets_max = burst_file.frames_max;

/// Somebody who has to get frames.
pub const Receiver = union(enum) {
    peer: *Peer,
    /// The guest under test: one run of frames into its one ring.
    other: struct {
        context: *anyopaque,
        deliver: *const fn (*anyopaque, []const Packet) void,
        up: bool,
    },

    fn isUp(receiver: Receiver) bool {
        return switch (receiver) {
            .peer => true,
            .other => |other| other.up,
        };
    }

    fn deliver(receiver: Receiver, packets: []const Packet, in_order: bool) void {
        switch (receiver) {
            .peer => |peer| peer.foresee(packets, in_order),
            .other => |other| other.deliver(other.context, packets),
        }
    }
};

pub const Fabric = struct {
    run: *Run,
    fabric: switch_file.Switch,
    burst: *burst_file.Burst,
    notices: switch_file.Notices,
    now_ms: u32,
    /// Signalled when a ring breaks.
    attention: i32,
    /// By port number.
    receivers: [3]Receiver,

    pub fn init(fabric: *Fabric, run: *Run) void {
        fabric.run = run;
        fabric.fabric.init(300_000);
        fabric.burst = burst_file.Burst.create() catch run.fail("no memory", .{});
        fabric.notices.count = 0;
        fabric.now_ms = 1000;
        fabric.attention = sys.eventfd() catch run.fail("no eventfd", .{});
    }

    /// One turn of a worker on one ring.
    pub fn serve(fabric: *Fabric, input: *switch_file.Input) void {
        fabric.burst.collect(input.vring);
        fabric.finish(input);
    }

    /// The second half of a turn, once frames are collected.
    pub fn finish(fabric: *Fabric, input: *switch_file.Input) void {
        const vring = input.vring;
        if (vring.enabled) {
            burst_file.countSent(fabric.burst, &vring.stats);
            fabric.fabric.forward(input, fabric.burst, fabric.now_ms, &fabric.notices);
        } else {
            vring.stats.drop_disabled += fabric.burst.count;
        }
        fabric.notices.add(vring, fabric.burst.giveBack(vring));
        fabric.notices.send();
        // Of the addresses that a guest makes up, older ones give way: those that are taught stay.
        fabric.now_ms +%= 1;
    }

    /// As if every station had just sent, whoever took its address meanwhile. Now and then all that was
    /// made up is forgotten: in a full bucket, one frame's lesson would push out what the next looks for.
    pub fn teach(fabric: *Fabric) void {
        const crowded = fabric.now_ms % 256 == 0;
        for (0..fabric.receivers.len) |number| {
            if (crowded) fabric.fabric.macs.forget(@intCast(number));
            const address = fuzz_packet.macNumber(fuzz_packet.mac(@intCast(number)));
            fabric.fabric.macs.learn(address, @intCast(number), fabric.now_ms);
        }
    }

    const Route = union(enum) { flood, port: u16 };

    /// Where the frames of one burst, of at most `packets_max`, have to go; what goes nowhere is added to
    /// the sender's `stats`.
    pub fn foresee(
        fabric: *Fabric,
        sender: u16,
        packets: []const Packet,
        in_order: bool,
        stats: *abi.VringStats,
    ) void {
        var routes: [packets_max]Route = undefined;
        for (packets, 0..) |packet, i| routes[i] = fabric.route(sender, packets[0 .. i + 1], packet);
        var chosen: [packets_max]Packet = undefined;
        const flooded = select(packets, &routes, .flood, &chosen);
        for (fabric.receivers, 0..) |receiver, number| {
            if (number == sender or !receiver.isUp() or flooded.len == 0) continue;
            receiver.deliver(flooded, in_order);
        }
        var done: [3]bool = @splat(false);
        for (routes[0..packets.len]) |each| {
            if (each == .flood or done[each.port]) continue;
            done[each.port] = true;
            const mine = select(packets, &routes, each, &chosen);
            const receiver = fabric.receivers[each.port];
            if (each.port == sender) {
                stats.drop_same_port += mine.len;
            } else if (!receiver.isUp()) {
                stats.drop_link_down += mine.len;
            } else receiver.deliver(mine, in_order);
        }
    }

    fn select(packets: []const Packet, routes: *const [packets_max]Route, wanted: Route, into: []Packet) []Packet {
        var count: usize = 0;
        for (packets, routes[0..packets.len]) |packet, each| {
            if (!std.meta.eql(each, wanted)) continue;
            into[count] = packet;
            count += 1;
        }
        return into[0..count];
    }

    /// `sent` are the frames of the burst so far: their sources are known by now.
    fn route(fabric: *const Fabric, sender: u16, sent: []const Packet, packet: Packet) Route {
        const destination = packet.destination();
        if (destination[0] & 1 != 0) return .flood;
        for (sent) |before| {
            const source = before.source();
            const lesson = source[0] & 1 == 0 and fuzz_packet.macNumber(source) != 0;
            if (lesson and std.mem.eql(u8, &source, &destination)) return .{ .port = sender };
        }
        const found = fabric.fabric.macs.find(fuzz_packet.macNumber(destination), fabric.now_ms);
        return if (found) |number| .{ .port = number } else .flood;
    }
};

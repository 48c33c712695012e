//! Both sides of both rings against each other: two guests of the driver twins on one switch, in every
//! legal layout and combination of features. All traffic is looked at: bytes, order, lengths, buffers
//! given back, and that nobody sleeps through what concerns him.

const std = @import("std");
const DriverPacked = @import("driver_packed.zig").DriverPacked;
const DriverSplit = @import("driver_split.zig").DriverSplit;
const Fabric = @import("fuzz_fabric.zig").Fabric;
const fuzz_packet = @import("fuzz_packet.zig");
const fuzz_peer = @import("fuzz_peer.zig");
const net_header = @import("net_header.zig");
const Packet = fuzz_packet.Packet;
const Run = @import("fuzz_run.zig").Run;
const same = @import("fuzz_guest.zig").same;
const spec = @import("spec.zig");
const TwinGuest = @import("fuzz_twin_guest.zig").TwinGuest;

const allocator = std.heap.c_allocator;

/// Frames with the same addresses and ports, or without any; the last ones are of packets that there really are.
const flows = first_real_flow + fuzz_packet.real_kinds;
const first_real_flow = 7;
const flow_bytes = 14 + 20 + 8;

/// `frame` numbers what it was cut from, into so many parts.
const Foreseen = struct { packet: Packet, flow: u32, size: u32, frame: u64, parts: usize };

/// Frames on their way to one guest.
const Road = struct {
    foreseen: std.ArrayList(Foreseen) = .empty,
    arena: std.heap.ArenaAllocator = .init(allocator),
    /// The queue that each flow was last seen in.
    queues: [flows]?u32 = @splat(null),
    lost: std.ArrayList(Foreseen) = .empty,
    /// Sent, though they are not what their header says, for a receiver that we have to cut them for.
    unsuited: u64 = 0,

    /// How often drops may have been counted: of a frame that found no buffer at all, once or for each of its parts.
    fn dropsLeast(road: *const Road) u64 {
        var drops: u64 = road.unsuited;
        for (road.lost.items, 0..) |each, i| {
            var before: usize = 0;
            var all: usize = 0;
            for (road.lost.items, 0..) |other, j| {
                if (other.frame != each.frame) continue;
                all += 1;
                before += @intFromBool(j < i);
            }
            drops += @intFromBool(all < each.parts or before == 0);
        }
        return drops;
    }
};

fn Twins(comptime Driver: type) type {
    return struct {
        run: *Run,
        fabric: Fabric,
        guests: [2]Guest,
        roads: [2]Road,
        sequence: u64,

        const Self = @This();
        const Guest = TwinGuest(Driver);

        fn init(self: *Self, run: *Run) void {
            self.run = run;
            self.fabric.init(run);
            self.roads = @splat(.{});
            self.sequence = 0;
            for (&self.guests, 0..) |*guest, number| {
                guest.init(run, @intCast(number), self.fabric.attention);
                self.fabric.fabric.ports[number] = guest.port;
            }
        }

        /// Both guests boot anew, with other features and rings.
        fn boot(self: *Self) void {
            for (&self.guests) |*guest| guest.boot();
            self.changed();
            for (0..2) |number| {
                const address = fuzz_packet.macNumber(fuzz_packet.mac(@intCast(number)));
                self.fabric.fabric.macs.learn(address, @intCast(number), self.fabric.now_ms);
            }
        }

        /// Receivers came or went: flows may move.
        fn changed(self: *Self) void {
            self.fabric.fabric.refresh();
            for (&self.roads) |*road| road.queues = @splat(null);
        }

        fn step(self: *Self) void {
            const random = &self.run.random;
            const from = random.below(2);
            const sender = &self.guests[from];
            const receiver = &self.guests[1 - from];
            switch (random.below(256)) {
                0 => return self.boot(),
                1, 2, 3 => {
                    receiver.restartRing(random.below(receiver.rings.len));
                    self.changed();
                },
                4, 5 => receiver.remap(),
                6 => sender.remap(),
                7...40 => sender.sleepOrWake(),
                41...80 => receiver.sleepOrWake(),
                else => {},
            }
            receiver.offerBuffers();
            const queue = random.below(sender.pairs);
            const enough = self.send(sender, receiver, from, queue);
            self.forward(sender, queue);
            sender.reapSent(queue);
            self.receive(receiver, 1 - from, enough);
        }

        /// Sends some frames; whether all of them must arrive.
        fn send(self: *Self, sender: *Guest, receiver: *Guest, from: u32, queue: u32) bool {
            const random = &self.run.random;
            const road = &self.roads[1 - from];
            var need: Guest.Need = .{};
            for (0..random.below(20)) |_| {
                const has_real = sender.frame_max >= fuzz_packet.real_bytes_min;
                const flow = random.below(if (has_real) flows else first_real_flow);
                const packet = self.makePacket(sender, road, @intCast(from), flow);
                if (!sender.send(queue, packet)) break;
                const len: u32 = @intCast(packet.bytes.len);
                const clean = net_header.checked(packet.header, len, sender.features) catch unreachable;
                const passed: Packet = .{ .header = clean, .bytes = packet.bytes };
                const parts = passed.partsFor(receiver.features, road.arena.allocator()) orelse {
                    road.unsuited += 1;
                    continue;
                };
                for (parts) |part| {
                    const size: u32 = @intCast(part.bytes.len);
                    road.foreseen.append(allocator, .{
                        .packet = part,
                        .flow = flow,
                        .size = size,
                        .frame = self.sequence,
                        .parts = parts.len,
                    }) catch unreachable;
                    need.add(size + receiver.header_bytes);
                }
            }
            sender.publish(2 * queue + 1);
            return receiver.hasRoom(need);
        }

        /// A legal frame of a flow.
        fn makePacket(self: *Self, sender: *const Guest, road: *Road, from: u8, flow: u32) Packet {
            const random = &self.run.random;
            const is_real = flow >= first_real_flow;
            const least: u32 = if (is_real) fuzz_packet.real_bytes_min else if (flow == 0) 14 else flow_bytes + 8;
            const most = if (is_real) @min(sender.frame_max, fuzz_packet.real_bytes_max) else sender.frame_max;
            const len = @min(@max(fuzz_packet.length(random), least), most);
            const bytes = road.arena.allocator().alloc(u8, len) catch unreachable;
            self.sequence += 1;
            var word = self.sequence *% 0x9e37_79b9_7f4a_7c15;
            for (bytes, 0..) |*byte, i| {
                byte.* = @truncate(word >> @intCast(i % 8 * 8));
                if (i % 8 == 7) word = word *% 5 +% 1;
            }
            bytes[0..6].* = fuzz_packet.mac(1 - from);
            bytes[6..12].* = fuzz_packet.mac(from);
            bytes[12..14].* = .{ 0x88, 0xb5 };
            if (is_real) {
                const header = fuzz_packet.makeReal(random, flow - first_real_flow, bytes);
                const legal = if (net_header.checked(header, len, sender.features)) |_| true else |_| false;
                return .{ .header = if (legal) header else net_header.plain, .bytes = bytes };
            }
            if (flow > 0) fillFlow(bytes, flow);
            return .{ .header = self.legalHeader(sender.features, len), .bytes = bytes };
        }

        /// IPv4 and UDP, by port.
        fn fillFlow(bytes: []u8, flow: u32) void {
            bytes[12..14].* = .{ 0x08, 0x00 };
            @memset(bytes[14..flow_bytes], 0);
            bytes[14] = 0x45;
            bytes[23] = 17;
            bytes[35] = @truncate(flow);
        }

        fn legalHeader(self: *Self, features: u64, len: u32) spec.NetHeader {
            const random = &self.run.random;
            for (0..8) |_| {
                const header = fuzz_packet.header(random, len);
                if (net_header.checked(header, len, features)) |_| return header else |_| continue;
            }
            return net_header.plain;
        }

        fn forward(self: *Self, sender: *Guest, queue: u32) void {
            const input = &sender.inputs[queue];
            const audited = self.run.random.once(64);
            if (audited) for (&self.guests) |*guest| guest.audit.begin();
            while (input.vring.pending()) {
                self.run.expect(!input.vring.isBroken(), "a sender's ring broke", .{});
                self.fabric.serve(input);
            }
            if (audited) for (&self.guests) |*guest| guest.audit.finish(self.run, guest.migrates());
            sender.rings[2 * queue + 1].asleep = false;
        }

        /// Takes what arrived: each flow in order, and nothing missing that had room.
        fn receive(self: *Self, receiver: *Guest, number: u32, enough: bool) void {
            const road = &self.roads[number];
            for (0..receiver.pairs) |queue| {
                while (receiver.receive(@intCast(queue))) |packet| self.arrive(road, packet, @intCast(queue));
            }
            road.lost.appendSlice(allocator, road.foreseen.items) catch unreachable;
            const lost = road.lost.items.len;
            self.run.expect(!enough or lost == 0, "{d} frames lost that had room", .{lost});
            const drops = receiver.takeDrops();
            const right = drops >= road.dropsLeast() and drops <= lost + road.unsuited;
            self.run.expect(right, "{d} drops for {d} lost frames", .{ drops, lost + road.unsuited });
            road.lost.clearRetainingCapacity();
            road.unsuited = 0;
            road.foreseen.clearRetainingCapacity();
            _ = road.arena.reset(.retain_capacity);
        }

        fn arrive(self: *Self, road: *Road, packet: Packet, queue: u32) void {
            const found = for (road.foreseen.items, 0..) |each, i| {
                const equal = std.meta.eql(each.packet.header, packet.header);
                if (equal and same(each.packet.bytes, packet.bytes)) break i;
            } else self.run.fail("a frame of {d} bytes that nobody sent", .{packet.bytes.len});
            const flow = road.foreseen.items[found].flow;
            const expected = road.queues[flow] orelse queue;
            self.run.expectEqual(expected, queue, "the queue of a flow");
            road.queues[flow] = queue;
            _ = road.foreseen.orderedRemove(found);
            // Earlier ones of the flow would come late now: they are lost.
            var i: usize = 0;
            var left = found;
            while (left > 0) : (left -= 1) {
                if (road.foreseen.items[i].flow == flow) {
                    road.lost.append(allocator, road.foreseen.orderedRemove(i)) catch unreachable;
                } else i += 1;
            }
        }
    };
}

pub fn split(run: *Run) void {
    play(DriverSplit, run);
}

pub fn packedRing(run: *Run) void {
    play(DriverPacked, run);
}

fn play(comptime Driver: type, run: *Run) void {
    const self = allocator.create(Twins(Driver)) catch run.fail("no memory", .{});
    self.init(run);
    self.boot();
    while (run.more()) self.step();
}

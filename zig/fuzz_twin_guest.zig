//! A guest of the driver twins: legal in all it does, and odd in all that is legal. Looks at every
//! buffer that comes back.

const std = @import("std");
const abi = @import("abi.zig");
const Audit = @import("fuzz_audit.zig").Audit;
const driver_entry = @import("driver_entry.zig");
const DriverPacked = @import("driver_packed.zig").DriverPacked;
const fuzz_guest = @import("fuzz_guest.zig");
const fuzz_packet = @import("fuzz_packet.zig");
const fuzz_peer = @import("fuzz_peer.zig");
const memory_file = @import("memory.zig");
const net_header = @import("net_header.zig");
const Packet = fuzz_packet.Packet;
const Port = @import("port.zig").Port;
const Run = @import("fuzz_run.zig").Run;
const spec = @import("spec.zig");
const switch_file = @import("switch.zig");
const sys = @import("sys.zig");
const Vring = @import("vring.zig").Vring;

const allocator = std.heap.c_allocator;
const bit = fuzz_peer.bit;

const pairs_max = 3;
/// The rings' own memory, in one piece for the device; then buffers, in pieces that change.
const gpa_base = 0x7_0000_0000;
const ring_bytes = 1 << 20;
const rings_bytes = 2 * pairs_max * ring_bytes;
const zone_bytes_max = 70_000;
const zones = 64;
const buffers_bytes = 2 * pairs_max * zones * zone_bytes_max;
const memory_bytes = std.mem.alignForward(u64, rings_bytes + buffers_bytes, std.heap.page_size_min);
const pieces_max = 20;
const poison = 0xa5;

/// A buffer's pieces, all of them in its own zone, with gaps.
const Chain = struct {
    items: [pieces_max]driver_entry.Piece,
    count: u32,

    fn pieces(chain: *const Chain) []const driver_entry.Piece {
        return chain.items[0..chain.count];
    }
};

pub fn TwinGuest(comptime Driver: type) type {
    return struct {
        run: *Run,
        port: *Port,
        features: u64,
        header_bytes: u32,
        pairs: u32,
        file: i32,
        bytes: []align(std.heap.page_size_min) u8,
        audit: Audit,
        rings: []Ring,
        all_rings: [2 * pairs_max]Ring,
        inputs: [pairs_max]switch_file.Input,
        /// Longest frame that this guest sends.
        frame_max: u32,
        /// What the port had dropped before.
        drops: u64,
        frame: [net_header.frame_bytes_max + 12]u8,

        const Self = @This();

        /// One ring as its driver knows it.
        const Ring = struct {
            vring: *Vring,
            driver: Driver,
            made: bool,
            memory: []align(64) u8,
            first_zone: u64,
            buffer_bytes: u32,
            /// All buffers are that long.
            uniform: bool,
            /// The driver's fast way: place i of the ring holds buffer i.
            slots: bool,
            chains: [zones]Chain,
            free: [zones]u16,
            free_count: u32,
            capacity: u64,
            sent: std.ArrayList(u16),
            /// The driver armed its ring and found it empty: the next used buffer has to call.
            dozing: bool,
            calls_off: bool,
            /// The device did the same: the next buffer has to kick.
            asleep: bool,
            kicks_off: bool,
        };

        /// What some frames take.
        pub const Need = struct {
            frames: u32 = 0,
            bytes: u64 = 0,
            longest: u32 = 0,

            pub fn add(need: *Need, bytes: u32) void {
                need.frames += 1;
                need.bytes += bytes;
                need.longest = @max(need.longest, bytes);
            }
        };

        pub fn init(self: *Self, run: *Run, number: u16, attention: i32) void {
            self.run = run;
            self.port = Port.create(number, .{ .queue_pairs = pairs_max, .mtu = 0 }, attention) catch unreachable;
            self.file = sys.memoryFile("twin", memory_bytes) catch run.fail("no memory file", .{});
            self.bytes = sys.mapShared(self.file, 0, memory_bytes) catch run.fail("no mapping", .{});
            self.drops = 0;
            self.audit = .create(run, self.bytes, gpa_base);
            self.port.log = self.audit.log;
            @memset(self.bytes[rings_bytes..], poison);
            for (&self.all_rings, self.port.vrings, 0..) |*ring, *vring, i| {
                ring.vring = vring;
                ring.made = false;
                ring.memory = @alignCast(self.bytes[i * ring_bytes ..][0..ring_bytes]);
                ring.first_zone = rings_bytes + i * zones * zone_bytes_max;
                ring.sent = .empty;
                vring.call = sys.eventfd() catch run.fail("no eventfd", .{});
            }
            for (&self.inputs, 0..) |*input, i| input.* = .{ .vring = &self.port.vrings[2 * i + 1], .port = self.port };
            self.remap();
        }

        /// Maps the same memory anew, with other borders between its regions.
        pub fn remap(self: *Self) void {
            const random = &self.run.random;
            const table = memory_file.Table.create() catch unreachable;
            var at: u64 = 0;
            while (at < memory_bytes) {
                const least: u64 = if (at == 0) rings_bytes else 1;
                const left = memory_bytes - at;
                const step = if (random.once(4)) random.below(64) else random.below(8 << 20);
                const bytes = if (table.count > 200) left else @min(left, @max(least, step));
                const region: abi.Region = .{ .gpa = gpa_base + at, .size_bytes = bytes, .mmap_offset = at };
                table.add(region, self.file, &self.port.memory.faults) catch |reason|
                    self.run.fail("a region is refused: {t}", .{reason});
                at += bytes;
            }
            self.port.memory.swap(table);
            table.destroy();
            for (self.port.vrings) |*vring| if (vring.started) vring.place() catch unreachable;
        }

        /// Everything from the start: features, queues, rings, buffers.
        pub fn boot(self: *Self) void {
            const random = &self.run.random;
            for (self.port.vrings) |*vring| if (vring.started) {
                _ = vring.stop() catch unreachable;
                vring.enabled = false;
            };
            self.features = self.anyFeatures();
            self.header_bytes = spec.NetHeader.size(self.features);
            self.pairs = random.between(1, pairs_max);
            self.rings = self.all_rings[0 .. 2 * self.pairs];
            self.frame_max = if (random.once(4)) net_header.frame_bytes_max else 2000;
            for (self.rings, 0..) |*ring, i| self.bootRing(ring, i % 2 == 0);
        }

        fn anyFeatures(self: *Self) u64 {
            const random = &self.run.random;
            const optional = [_]u6{
                spec.Feature.mrg_rxbuf, spec.Feature.indirect_desc, spec.Feature.event_idx, spec.Feature.in_order,
                spec.Feature.log_all,
            };
            var features = random.next() & fuzz_peer.offloads;
            for (optional) |feature| if (random.once(2)) {
                features |= bit(feature);
            };
            if (Driver == DriverPacked) return features | bit(spec.Feature.ring_packed) | bit(spec.Feature.version_1);
            return if (random.once(4)) features else features | bit(spec.Feature.version_1);
        }

        pub fn migrates(self: *const Self) bool {
            return spec.has(self.features, spec.Feature.log_all);
        }

        fn bootRing(self: *Self, ring: *Ring, writable: bool) void {
            const random = &self.run.random;
            const size = if (Driver == DriverPacked)
                random.pick(u32, &.{ 1, 2, 3, 5, 17, 64, 100, 256, 1000, 1024 })
            else
                @as(u32, 1) << @intCast(random.below(11));
            const config: driver_entry.Config = .{
                .size = size,
                .features = self.features,
                .table_entries = @min(pieces_max, size),
            };
            if (ring.made) ring.driver.destroy(allocator);
            const gpa = gpa_base + (@intFromPtr(ring.memory.ptr) - @intFromPtr(self.bytes.ptr));
            ring.driver = Driver.create(allocator, ring.memory, gpa, config) catch unreachable;
            ring.made = true;
            ring.buffer_bytes = if (!writable) zone_bytes_max - 256 else switch (random.below(4)) {
                0 => random.between(1, 64),
                1 => 66_000,
                else => random.between(1000, 3000),
            };
            ring.slots = size <= zones and random.once(3);
            ring.uniform = ring.slots or random.once(2);
            if (ring.slots) ring.driver.useSlots(.{
                .gpa = zoneOf(ring, 0),
                .stride = zone_bytes_max,
                .len = ring.buffer_bytes,
                .writable = writable,
            });
            ring.free_count = @min(zones, size);
            for (0..ring.free_count) |token| ring.free[token] = @intCast(token);
            ring.capacity = 0;
            ring.sent.clearRetainingCapacity();
            // Buffers that the guest forgot still hold what came before.
            if (writable) @memset(self.bytes[ring.first_zone..][0 .. zones * zone_bytes_max], poison);
            self.startRing(ring, ring.driver.base());
        }

        fn startRing(self: *Self, ring: *Ring, base: u32) void {
            ring.vring.start(.{
                .features = self.features,
                .desc_gpa = ring.driver.areas.desc,
                .avail_gpa = ring.driver.areas.avail,
                .used_gpa = ring.driver.areas.used,
                .log_gpa = ring.driver.areas.used,
                .size = ring.driver.config.size,
                .base = base,
                .flags = @intFromBool(self.migrates()),
            }) catch |reason| self.run.fail("a ring is refused: {t}", .{reason});
            ring.vring.adoptLog(self.port.log);
            ring.vring.enabled = true;
            ring.dozing = false;
            ring.calls_off = false;
            ring.asleep = false;
            ring.kicks_off = true;
            _ = sys.eventfdDrain(ring.vring.call);
        }

        /// The back end goes and comes: it is told where it was, as it told before.
        pub fn restartRing(self: *Self, index: u32) void {
            const ring = &self.rings[index];
            const last = ring.vring.stop() catch unreachable;
            self.run.expectEqual(ring.driver.base(), last.base, "base at stop");
            // Some front ends know the lower half only.
            const half = Driver == DriverPacked and self.run.random.once(2);
            self.startRing(ring, if (half) last.base & 0xffff else last.base);
        }

        fn zoneOf(ring: *const Ring, token: usize) u64 {
            return gpa_base + ring.first_zone + token * zone_bytes_max;
        }

        fn bytesAt(self: *Self, gpa: u64, len: u64) []u8 {
            return self.bytes[gpa - gpa_base ..][0..len];
        }

        /// `total` bytes in the zone of a token, cut by chance; some pieces may be empty.
        fn cut(self: *Self, ring: *Ring, token: u16, total: u32) void {
            const random = &self.run.random;
            const most = @min(pieces_max, ring.driver.config.size);
            const chain = &ring.chains[token];
            chain.count = if (random.once(2)) 1 else random.between(1, most);
            var left = total;
            var gpa = zoneOf(ring, token);
            for (0..chain.count) |i| {
                const rest: u32 = chain.count - 1 - @as(u32, @intCast(i));
                const part = if (random.once(2)) random.below(4) else random.below(left + 1);
                const len = if (rest == 0) left else @min(left, part);
                chain.items[i] = .{ .gpa = gpa, .len = len };
                gpa += len + random.below(8);
                left -= len;
            }
        }

        /// Takes a buffer of `total` bytes; null: there is none, or the ring is full.
        fn put(self: *Self, ring: *Ring, total: u32, writable: bool, packet: ?Packet) ?void {
            if (ring.slots) return self.putSlot(ring, total, writable, packet);
            if (ring.free_count == 0) return null;
            const token = ring.free[ring.free_count - 1];
            self.cut(ring, token, total);
            if (packet) |sent| self.fill(&ring.chains[token], sent);
            const pieces = ring.chains[token].pieces();
            const indirect = spec.has(self.features, spec.Feature.indirect_desc) and self.run.random.once(2);
            const how: driver_entry.How = if (indirect) .indirect else .direct;
            const out = if (writable) pieces[0..0] else pieces;
            const in = if (writable) pieces else pieces[0..0];
            ring.driver.add(out, in, token, how) catch return null;
            ring.free_count -= 1;
            if (!writable) ring.sent.append(allocator, token) catch unreachable;
        }

        fn putSlot(self: *Self, ring: *Ring, total: u32, writable: bool, packet: ?Packet) ?void {
            if (ring.driver.outstanding() == ring.driver.config.size) return null;
            const slot: u16 = @intCast(ring.driver.nextSlot());
            ring.chains[slot].count = 1;
            ring.chains[slot].items[0] = .{ .gpa = zoneOf(ring, slot), .len = total };
            if (packet) |sent| self.fill(&ring.chains[slot], sent);
            ring.driver.setLength(slot, total);
            ring.driver.offerSlots(1);
            // Only the number of those that are free is kept.
            ring.free_count -= 1;
            if (!writable) ring.sent.append(allocator, slot) catch unreachable;
        }

        /// Goes on with chains, in the middle of it.
        fn leaveSlots(ring: *Ring) void {
            ring.driver.leaveSlots();
            ring.slots = false;
            const size = ring.driver.config.size;
            const first = ring.driver.nextSlot();
            for (0..ring.free_count) |i| ring.free[i] = @intCast((first + i) % size);
        }

        fn fill(self: *Self, chain: *const Chain, packet: Packet) void {
            const header = std.mem.asBytes(&packet.header)[0..self.header_bytes];
            var at: usize = 0;
            for (chain.pieces()) |piece| {
                const into = self.bytesAt(piece.gpa, piece.len);
                const front = @min(into.len, header.len -| at);
                @memcpy(into[0..front], header[@min(at, header.len)..][0..front]);
                at += front;
                const count = into.len - front;
                if (count > 0) @memcpy(into[front..], packet.bytes[at - header.len ..][0..count]);
                at += count;
            }
        }

        /// Receive buffers, as many as chance wants.
        pub fn offerBuffers(self: *Self) void {
            const random = &self.run.random;
            var index: usize = 0;
            while (index < self.rings.len) : (index += 2) {
                const ring = &self.rings[index];
                for (0..random.below(zones + 1)) |_| {
                    const len = if (ring.uniform) ring.buffer_bytes else random.between(1, ring.buffer_bytes);
                    self.put(ring, len, true, null) orelse break;
                    ring.capacity += len;
                }
                self.publish(@intCast(index));
            }
        }

        /// False: the ring is full.
        pub fn send(self: *Self, queue: u32, packet: Packet) bool {
            const len = self.header_bytes + @as(u32, @intCast(packet.bytes.len));
            return self.put(&self.rings[2 * queue + 1], len, false, packet) != null;
        }

        /// Shows the device what was added; the device has to be woken exactly if it sleeps.
        pub fn publish(self: *Self, index: u32) void {
            const ring = &self.rings[index];
            const shown = ring.driver.publish();
            sys.fence();
            if (!shown.any) return;
            const wanted = ring.driver.wantsKick(shown);
            self.run.expect(wanted or !ring.asleep, "the device sleeps and gets no kick", .{});
            const off = ring.kicks_off and (Driver == DriverPacked or !ring.driver.event_idx);
            self.run.expect(!wanted or !off, "a kick that the device does not want", .{});
        }

        /// Driver and device arm or disarm their ends.
        pub fn sleepOrWake(self: *Self) void {
            const random = &self.run.random;
            for (self.rings, 0..) |*ring, index| {
                if (random.once(2)) {
                    ring.driver.arm();
                    sys.fence();
                    ring.dozing = !ring.driver.pending();
                    ring.calls_off = false;
                } else {
                    ring.driver.disarm();
                    ring.dozing = false;
                    ring.calls_off = Driver == DriverPacked or !ring.driver.event_idx;
                }
                if (index % 2 == 0) continue;
                ring.kicks_off = random.once(2);
                const audited = random.once(256);
                if (audited) self.audit.begin();
                if (ring.kicks_off) ring.vring.disarm() else ring.vring.arm();
                if (audited) self.audit.finish(self.run, self.migrates());
                sys.fence();
                ring.asleep = !ring.kicks_off and !ring.vring.pending();
            }
        }

        fn checkCalls(self: *Self, ring: *Ring, any: bool) void {
            const calls = sys.eventfdDrain(ring.vring.call);
            if (any and ring.dozing) {
                self.run.expect(calls > 0, "the driver sleeps and gets no call", .{});
                ring.dozing = false;
            }
            self.run.expect(calls == 0 or !ring.calls_off, "{d} calls that the driver does not want", .{calls});
        }

        fn reap(self: *Self, ring: *Ring, items: []driver_entry.Item) []driver_entry.Item {
            if (ring.slots) return self.reapSlots(ring, items);
            const count = ring.driver.reap(items) catch |reason|
                self.run.fail("the driver finds its ring broken: {t}", .{reason});
            for (items[0..count]) |item| {
                ring.free[ring.free_count] = @intCast(item.token);
                ring.free_count += 1;
            }
            return items[0..count];
        }

        fn reapSlots(self: *Self, ring: *Ring, items: []driver_entry.Item) []driver_entry.Item {
            const back = ring.driver.reapSlots(@intCast(items.len)) catch |reason|
                self.run.fail("the driver finds its ring broken: {t}", .{reason});
            for (items[0..back.count], 0..) |*item, i| {
                const slot: u32 = @intCast((back.first + i) % ring.driver.config.size);
                item.* = .{ .token = slot, .len = ring.driver.usedLength(slot) };
            }
            ring.free_count += back.count;
            if (self.run.random.once(64)) leaveSlots(ring);
            return items[0..back.count];
        }

        /// All that was sent came back, in order and unwritten.
        pub fn reapSent(self: *Self, queue: u32) void {
            const ring = &self.rings[2 * queue + 1];
            self.checkCalls(ring, ring.driver.pending());
            var items: [zones]driver_entry.Item = undefined;
            const back = self.reap(ring, &items);
            self.run.expectEqual(ring.sent.items.len, back.len, "buffers given back");
            for (back, ring.sent.items) |item, token| {
                self.run.expectEqual(@as(u32, token), item.token, "the order of buffers given back");
                self.run.expectEqual(@as(u32, 0), item.len, "bytes written to a sent buffer");
            }
            ring.sent.clearRetainingCapacity();
            self.run.expectEqual(@as(u32, 0), ring.driver.outstanding(), "buffers outstanding");
        }

        /// Whether every one of its queues has room for all of `need`.
        pub fn hasRoom(self: *const Self, need: Need) bool {
            const mergeable = spec.has(self.features, spec.Feature.mrg_rxbuf);
            var index: usize = 0;
            while (index < self.rings.len) : (index += 2) {
                const ring = &self.rings[index];
                const offered = @min(zones, ring.driver.config.size) - ring.free_count;
                const waste = @as(u64, need.frames) * ring.buffer_bytes;
                const room = if (mergeable)
                    ring.capacity >= need.bytes + waste
                else
                    ring.uniform and offered >= need.frames and ring.buffer_bytes >= need.longest;
                if (!room) return false;
            }
            return true;
        }

        /// The next frame of a queue, good until the next call.
        pub fn receive(self: *Self, queue: u32) ?Packet {
            const ring = &self.rings[2 * queue];
            self.checkCalls(ring, ring.driver.pending());
            var done: u32 = 0;
            var buffers: u32 = 1;
            var taken: u32 = 0;
            while (taken < buffers) : (taken += 1) {
                var item: [1]driver_entry.Item = undefined;
                if (self.reap(ring, &item).len == 0) {
                    self.run.expect(taken == 0, "{d} buffers of a frame, of {d}", .{ taken, buffers });
                    return null;
                }
                const full = self.gather(ring, item[0], done);
                done += item[0].len;
                if (done >= 12 and self.header_bytes == 12) buffers = std.mem.readInt(u16, self.frame[10..12], .little);
                // A header may lie over several buffers: their number is known only then.
                if (done < self.header_bytes) buffers = taken + 2;
                self.run.expect(full or taken + 1 == buffers, "a buffer in the middle of a frame has room", .{});
            }
            return self.packetOf(done, buffers);
        }

        fn packetOf(self: *Self, done: u32, buffers: u32) Packet {
            self.run.expect(done >= self.header_bytes + 14, "a frame of {d} bytes", .{done});
            var header = net_header.plain;
            @memcpy(std.mem.asBytes(&header)[0..self.header_bytes], self.frame[0..self.header_bytes]);
            const bytes = self.frame[self.header_bytes..done];
            const expected: u16 = if (self.header_bytes == 12) @intCast(buffers) else 1;
            const sane = fuzz_packet.isSane(header, @intCast(bytes.len), self.features, expected);
            self.run.expect(sane, "header {any} of {d} buffers", .{ header, buffers });
            header.num_buffers = 1;
            return .{ .header = header, .bytes = bytes };
        }

        /// Copies a used buffer behind the `done` bytes of a frame; whether it was used whole.
        fn gather(self: *Self, ring: *Ring, item: driver_entry.Item, done: u32) bool {
            const chain = &ring.chains[item.token];
            var left = item.len;
            var total: u64 = 0;
            for (chain.pieces()) |piece| {
                const bytes = self.bytesAt(piece.gpa, piece.len);
                const count = @min(left, piece.len);
                @memcpy(self.frame[done + item.len - left ..][0..count], bytes[0..count]);
                @memset(bytes[0..count], poison);
                left -= count;
                total += piece.len;
            }
            self.run.expect(left == 0, "{d} bytes used of {d}", .{ item.len, total });
            ring.capacity -= total;
            self.checkPoison(chain);
            return item.len == total;
        }

        /// Nothing was written behind the used bytes, nor between and behind the pieces.
        fn checkPoison(self: *Self, chain: *const Chain) void {
            const first = chain.items[0].gpa;
            const last = chain.items[chain.count - 1];
            const zone = self.bytesAt(first, last.gpa + last.len - first + 8);
            self.run.expect(fuzz_guest.isAll(zone, poison), "written beside a buffer", .{});
        }

        /// Frames that the port dropped since the last time.
        pub fn takeDrops(self: *Self) u64 {
            const stats = self.port.sum(0);
            const wrong = stats.drop_bad_chain + stats.drop_link_down;
            self.run.expectEqual(@as(u64, 0), wrong, "frames dropped for no reason");
            const drops = stats.drop_no_buffer + stats.drop_too_big + stats.drop_bad_gso;
            defer self.drops = drops;
            return drops - self.drops;
        }
    };
}

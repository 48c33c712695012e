//! A simulated guest: memory of its own that a back end can map, virtio-net rings in it, and a thread
//! that drives them as `abi.GuestTraffic` says. It speaks to its device by rings and eventfds alone;
//! whoever opens it tells the device where they are.
//!
//! Open, start, stop and close are for one control thread; counters may be read by any.

const std = @import("std");
const abi = @import("abi.zig");
const driver_entry = @import("driver_entry.zig");
const DriverPacked = @import("driver_packed.zig").DriverPacked;
const DriverSplit = @import("driver_split.zig").DriverSplit;
const fence = @import("switch.zig").fence;
const guest_frame = @import("guest_frame.zig");
const Inspector = @import("guest_inspector.zig").Inspector;
const Receiver = @import("guest_receiver.zig").Receiver;
const Sender = @import("guest_sender.zig").Sender;
const Sequencer = @import("guest_sequencer.zig").Sequencer;
const guest_shape = @import("guest_shape.zig");
const guest_side = @import("guest_side.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");

const Room = guest_side.Room;
const Shape = guest_shape.Shape;

const page_bytes = 4096;
/// More memory is a mistake.
const memory_bytes_max = 1 << 40;
const default_burst = 32;
const allocator = std.heap.c_allocator;

pub const Error = error{ InvalidArgument, OutOfMemory, AlreadyStarted, System };

/// A queue pair.
fn Lane(comptime Driver: type) type {
    return struct {
        receiver: Receiver(Driver),
        sender: Sender(Driver),
        /// The device wrote what it must not: left alone until the next reset.
        broken: bool,
    };
}

const Lanes = union(enum) {
    split: []Lane(DriverSplit),
    packed_ring: []Lane(DriverPacked),
};

/// The eventfds of a ring.
const Bell = struct { kick: i32 = -1, call: i32 = -1 };

pub const Guest = struct {
    config: abi.GuestConfig,
    receive_shape: Shape,
    send_shape: Shape,
    fd: i32,
    map: sys.Map,
    lanes: Lanes,
    /// By ring, as numbered on the wire: 2i receives, 2i + 1 sends.
    bells: []Bell,
    /// Calls and `wake`.
    set: i32,
    wake: i32,
    inspector: Inspector,
    sequencer: Sequencer,
    traffic: abi.GuestTraffic,
    /// Buffers that a burst of frames fills.
    receive_limit: u32,
    thread: ?std.Thread,
    quit: std.atomic.Value(bool),
    /// The queue pair that was looked at first in the last round.
    first: usize,
    /// Of this run.
    sent: u64,
    began_ns: u64,
    now_ns: u64,
    clock: u64,
    stats: abi.GuestStats align(64),

    /// Takes memory, rings and eventfds. Nothing runs yet.
    pub fn open(config: abi.GuestConfig) Error!*Guest {
        const header_bytes = spec.NetHeader.size(config.features);
        try check(config, header_bytes);
        const guest = try allocator.create(Guest);
        errdefer allocator.destroy(guest);
        guest.config = config;
        guest.receive_shape = .of(
            header_bytes,
            config.buffer_bytes - header_bytes,
            config.receive_segments,
            config.receive_indirect != 0,
        );
        guest.send_shape = .of(header_bytes, config.frame_bytes_max, config.send_segments, config.send_indirect != 0);
        guest.stats = std.mem.zeroes(abi.GuestStats);
        guest.traffic = std.mem.zeroes(abi.GuestTraffic);
        guest.thread = null;
        guest.quit = .init(false);
        guest.sequencer = .init(&guest.stats, @truncate(sys.nanoseconds() *% 0x9e37_79b9_7f4a_7c15 >> 48));
        guest.inspector = try .create(&guest.stats);
        errdefer guest.inspector.destroy();
        try guest.openBells();
        errdefer guest.closeBells();
        try guest.openMemory();
        return guest;
    }

    /// Ends the thread, if there is one.
    pub fn close(guest: *Guest) void {
        guest.stop();
        guest.closeMemory();
        guest.closeBells();
        guest.inspector.destroy();
        allocator.destroy(guest);
    }

    fn check(config: abi.GuestConfig, header_bytes: u32) Error!void {
        const is_packed = spec.has(config.features, spec.Feature.ring_packed);
        const indirect = spec.has(config.features, spec.Feature.indirect_desc);
        const size = config.ring_size;
        if (config.queue_pairs == 0 or config.queue_pairs > abi.queue_pairs_max) return error.InvalidArgument;
        if (size == 0 or size > abi.vring_size_max) return error.InvalidArgument;
        if (!is_packed and !std.math.isPowerOfTwo(size)) return error.InvalidArgument;
        if (config.gpa % page_bytes != 0 or config.gpa > memory_bytes_max) return error.InvalidArgument;
        if (config.frame_bytes_max < guest_frame.bytes_min) return error.InvalidArgument;
        if (config.frame_bytes_max > guest_frame.bytes_max) return error.InvalidArgument;
        if (config.buffer_bytes < header_bytes + guest_frame.bytes_min) return error.InvalidArgument;
        if (config.buffer_bytes > header_bytes + guest_frame.bytes_max) return error.InvalidArgument;
        const segments = [_]u32{ config.send_segments, config.receive_segments };
        for (segments, [_]u32{ config.send_indirect, config.receive_indirect }) |count, by_table| {
            if (count > guest_shape.segments_max) return error.InvalidArgument;
            if (by_table != 0 and !indirect) return error.InvalidArgument;
            if (by_table == 0 and count + 1 > size) return error.InvalidArgument;
        }
    }

    fn openBells(guest: *Guest) Error!void {
        guest.set = try sys.epoll();
        errdefer sys.close(guest.set);
        guest.wake = try sys.eventfd();
        errdefer sys.close(guest.wake);
        try sys.epollAdd(guest.set, guest.wake, sys.event_in, wake_event);
        guest.bells = try allocator.alloc(Bell, 2 * guest.config.queue_pairs);
        @memset(guest.bells, .{});
        errdefer guest.closeCalls();
        for (guest.bells, 0..) |*bell, index| {
            bell.kick = try sys.eventfd();
            bell.call = try sys.eventfd();
            try sys.epollAdd(guest.set, bell.call, sys.event_in, index);
        }
    }

    const wake_event = std.math.maxInt(u64);

    fn closeBells(guest: *Guest) void {
        guest.closeCalls();
        sys.close(guest.wake);
        sys.close(guest.set);
    }

    fn closeCalls(guest: *Guest) void {
        for (guest.bells) |bell| {
            if (bell.kick >= 0) sys.close(bell.kick);
            if (bell.call >= 0) sys.close(bell.call);
        }
        allocator.free(guest.bells);
    }

    fn openMemory(guest: *Guest) Error!void {
        if (spec.has(guest.config.features, spec.Feature.ring_packed)) {
            try guest.openLanes(DriverPacked, "packed_ring");
        } else {
            try guest.openLanes(DriverSplit, "split");
        }
    }

    /// Offsets of a queue pair's parts, and their sum.
    fn Plan(comptime Driver: type) type {
        return struct {
            receive_config: driver_entry.Config,
            send_config: driver_entry.Config,
            send_ring: u64,
            receive_buffers: u64,
            send_buffers: u64,
            bytes: u64,

            const Side = guest_side.Side(Driver);

            fn of(guest: *const Guest) @This() {
                const size = guest.config.ring_size;
                const receive_config = Side.configOf(guest.config.features, size, guest.receive_shape);
                const send_config = Side.configOf(guest.config.features, size, guest.send_shape);
                const send_ring = onPages(Driver.bytes(receive_config));
                const receive_buffers = send_ring + onPages(Driver.bytes(send_config));
                const send_buffers = receive_buffers + onPages(Side.bufferBytes(size, guest.receive_shape));
                return .{
                    .receive_config = receive_config,
                    .send_config = send_config,
                    .send_ring = send_ring,
                    .receive_buffers = receive_buffers,
                    .send_buffers = send_buffers,
                    .bytes = send_buffers + onPages(Side.bufferBytes(size, guest.send_shape)),
                };
            }
        };
    }

    fn onPages(bytes: u64) u64 {
        return std.mem.alignForward(u64, bytes, page_bytes);
    }

    fn openLanes(guest: *Guest, comptime Driver: type, comptime field: []const u8) Error!void {
        const plan: Plan(Driver) = .of(guest);
        const bytes = plan.bytes * guest.config.queue_pairs;
        if (bytes > memory_bytes_max) return error.InvalidArgument;
        guest.fd = try sys.memoryFile("guest", bytes);
        errdefer sys.close(guest.fd);
        guest.map = try sys.mapShared(guest.fd, 0, bytes);
        errdefer sys.unmap(guest.map);
        const lanes = try allocator.alloc(Lane(Driver), guest.config.queue_pairs);
        errdefer allocator.free(lanes);
        for (lanes, 0..) |*lane, queue| {
            errdefer for (lanes[0..queue]) |*one| destroyLane(one);
            try guest.openLane(Driver, lane, plan, @intCast(queue));
        }
        guest.lanes = @unionInit(Lanes, field, lanes);
    }

    fn openLane(guest: *Guest, comptime Driver: type, lane: *Lane(Driver), plan: Plan(Driver), queue: u16) Error!void {
        const at = plan.bytes * queue;
        const Side = guest_side.Side(Driver);
        var receive_ring = try guest.openRing(Driver, at, plan.receive_config);
        errdefer receive_ring.destroy(allocator);
        const mergeable = spec.has(guest.config.features, spec.Feature.mrg_rxbuf);
        const receive_room = guest.roomAt(at + plan.receive_buffers, plan.send_buffers - plan.receive_buffers);
        const receive_side: Side = .create(receive_ring, receive_room, guest.receive_shape);
        lane.receiver = try .create(allocator, receive_side, mergeable);
        errdefer lane.receiver.destroyBuffers(allocator);
        var send_ring = try guest.openRing(Driver, at + plan.send_ring, plan.send_config);
        errdefer send_ring.destroy(allocator);
        const send_room = guest.roomAt(at + plan.send_buffers, plan.bytes - plan.send_buffers);
        lane.sender = try .create(allocator, .create(send_ring, send_room, guest.send_shape), queue);
        lane.broken = false;
    }

    fn openRing(guest: *Guest, comptime Driver: type, at: u64, config: driver_entry.Config) Error!Driver {
        const room = guest.roomAt(at, Driver.bytes(config));
        return .create(allocator, room.bytes, room.gpa, config);
    }

    fn roomAt(guest: *Guest, at: u64, bytes: u64) Room {
        return .{ .bytes = @alignCast(guest.map[@intCast(at)..][0..@intCast(bytes)]), .gpa = guest.config.gpa + at };
    }

    fn destroyLane(lane: anytype) void {
        lane.sender.side.ring.destroy(allocator);
        lane.sender.destroyBuffers(allocator);
        lane.receiver.side.ring.destroy(allocator);
        lane.receiver.destroyBuffers(allocator);
    }

    fn closeMemory(guest: *Guest) void {
        switch (guest.lanes) {
            inline else => |lanes| {
                for (lanes) |*lane| destroyLane(lane);
                allocator.free(lanes);
            },
        }
        sys.unmap(guest.map);
        sys.close(guest.fd);
    }

    // For whoever speaks to the back end.

    /// The one region of its memory; `fd` stays the guest's.
    pub fn region(guest: *const Guest) abi.Region {
        return .{ .gpa = guest.config.gpa, .size_bytes = guest.map.len, .mmap_offset = 0 };
    }

    pub fn vringCount(guest: *const Guest) u32 {
        return 2 * guest.config.queue_pairs;
    }

    /// A ring, as numbered on the wire. Of a guest that runs, `base` is right when all that the
    /// device used was looked at, which a lively guest has done soon after its device is gone.
    pub fn vring(guest: *const Guest, index: u32) abi.GuestVring {
        return switch (guest.lanes) {
            inline else => |lanes| if (index % 2 == 0)
                guest.vringOf(&lanes[index / 2].receiver.side.ring, index)
            else
                guest.vringOf(&lanes[index / 2].sender.side.ring, index),
        };
    }

    fn vringOf(guest: *const Guest, ring: anytype, index: u32) abi.GuestVring {
        return .{
            .desc_gpa = ring.areas.desc,
            .avail_gpa = ring.areas.avail,
            .used_gpa = ring.areas.used,
            .size = ring.config.size,
            .base = ring.base(),
            .kick = guest.bells[index].kick,
            .call = guest.bells[index].call,
        };
    }

    pub fn vringStats(guest: *const Guest, index: u32) abi.GuestVringStats {
        return switch (guest.lanes) {
            inline else => |lanes| if (index % 2 == 0)
                lanes[index / 2].receiver.side.snapshot()
            else
                lanes[index / 2].sender.side.snapshot(),
        };
    }

    /// All rings as new, as after a reboot. The guest does not run, nor does its device.
    pub fn reset(guest: *Guest) Error!void {
        if (guest.stats.running != 0) return error.AlreadyStarted;
        switch (guest.lanes) {
            inline else => |lanes| for (lanes) |*lane| {
                lane.receiver.reset();
                lane.sender.reset();
                lane.broken = false;
            },
        }
    }

    /// Starts the thread.
    pub fn start(guest: *Guest, traffic: abi.GuestTraffic) Error!void {
        if (guest.stats.running != 0) return error.AlreadyStarted;
        try guest.prepare(traffic);
        const options: std.Thread.SpawnConfig = .{ .stack_size = sys.thread_stack_bytes };
        guest.stats.running = 1;
        guest.thread = std.Thread.spawn(options, run, .{guest}) catch {
            guest.stats.running = 0;
            return error.OutOfMemory;
        };
    }

    /// Ends the thread, if there is one, after the burst in hand. What it sent stays with the device, and
    /// is taken back as far as the device is done with it.
    pub fn stop(guest: *Guest) void {
        const thread = guest.thread orelse return;
        guest.quit.store(true, .release);
        _ = sys.eventfdSignal(guest.wake);
        thread.join();
        guest.thread = null;
        guest.stats.running = 0;
        guest.stats.sending = 0;
        switch (guest.lanes) {
            inline else => |lanes| for (lanes) |*lane| {
                if (!lane.broken) lane.sender.reclaim() catch guest.breakLane(lane);
            },
        }
    }

    /// All of `start` but the thread: the caller then calls `step`.
    pub fn prepare(guest: *Guest, traffic: abi.GuestTraffic) Error!void {
        try guest.checkTraffic(traffic);
        guest.traffic = traffic;
        if (traffic.burst == 0) guest.traffic.burst = default_burst;
        const header_bytes = guest.receive_shape.header_bytes;
        const each = std.math.divCeil(u32, header_bytes + traffic.frame_bytes, guest.config.buffer_bytes) catch unreachable;
        guest.receive_limit = @min(guest.traffic.burst * each, guest_side.burst_max);
        guest.quit.store(false, .monotonic);
        _ = sys.eventfdDrain(guest.wake);
        guest.inspector.start(traffic.source_mac, traffic.check_every == 1);
        guest.sequencer.start(traffic);
        guest.first = 0;
        guest.sent = 0;
        guest.began_ns = sys.nanoseconds();
        guest.now_ns = guest.began_ns;
        guest.clock = sys.cycles();
        guest.stats.sending = @intFromBool(traffic.send != 0);
        switch (guest.lanes) {
            inline else => |lanes| guest.startLanes(lanes[0..traffic.queues]),
        }
    }

    fn checkTraffic(guest: *const Guest, traffic: abi.GuestTraffic) Error!void {
        const macs = [_]u64{ traffic.source_mac, traffic.destination_mac };
        for (macs) |mac| if (mac > guest_frame.broadcast) return error.InvalidArgument;
        if (traffic.queues == 0 or traffic.queues > guest.config.queue_pairs) return error.InvalidArgument;
        if (traffic.flows > guest_frame.flows_max) return error.InvalidArgument;
        if (traffic.burst > guest_side.burst_max) return error.InvalidArgument;
        if (traffic.send != 0 and traffic.echo != 0) return error.InvalidArgument;
        if (traffic.frame_bytes > guest_frame.bytes_max) return error.InvalidArgument;
        if (traffic.send == 0) return;
        if (traffic.frame_bytes > guest.config.frame_bytes_max) return error.InvalidArgument;
        if (traffic.frame_bytes < guest_frame.bytes_min) return error.InvalidArgument;
        const least = traffic.frame_bytes_min;
        if (least != 0 and (least < guest_frame.bytes_min or least > traffic.frame_bytes)) return error.InvalidArgument;
    }

    /// Offers buffers, says who is here, and kicks once, as the start of every ring.
    fn startLanes(guest: *Guest, lanes: anytype) void {
        for (lanes, 0..) |*lane, queue| {
            if (lane.broken) continue;
            lane.sender.start();
            if (guest.traffic.receive != 0) lane.receiver.start();
            if (queue == 0) {
                var frame: [guest_frame.bytes_min]u8 = undefined;
                guest_frame.writeAnnouncement(&frame, guest.traffic.source_mac);
                _ = lane.sender.sendCopy(&frame, false) catch {
                    guest.breakLane(lane);
                    continue;
                };
            }
            disarm(lane);
            _ = lane.receiver.side.ring.publish();
            _ = lane.sender.side.ring.publish();
            for (guest.bells[2 * queue ..][0..2]) |bell| _ = sys.eventfdSignal(bell.kick);
        }
    }

    fn breakLane(guest: *Guest, lane: anytype) void {
        lane.broken = true;
        guest.stats.broken += 1;
    }

    fn disarm(lane: anytype) void {
        lane.receiver.side.ring.disarm();
        lane.sender.side.ring.disarm();
    }

    // The thread.

    fn run(guest: *Guest) void {
        sys.blockSignals();
        sys.nameThread("guest");
        // A CPU that is not there is no reason not to run.
        if (guest.traffic.cpu >= 0) sys.bindToCpu(@intCast(guest.traffic.cpu)) catch {};
        while (!guest.quit.load(.acquire)) {
            if (guest.step()) continue;
            switch (guest.traffic.wait) {
                .poll => std.atomic.spinLoopHint(),
                .yield => sys.yieldCpu(),
                .sleep => guest.sleep(),
            }
        }
    }

    /// One look at every ring in use. False: there was nothing to do.
    pub fn step(guest: *Guest) bool {
        const begin = sys.cycles();
        if (guest.traffic.rate != 0) guest.now_ns = sys.nanoseconds();
        const found = switch (guest.lanes) {
            inline else => |lanes| guest.stepLanes(lanes[0..guest.traffic.queues]),
        };
        const end = sys.cycles();
        guest.stats.rounds += 1;
        guest.stats.cycles += end -% guest.clock;
        guest.clock = end;
        if (found) {
            guest.stats.busy_rounds += 1;
            guest.stats.busy_cycles += end -% begin;
        }
        return found;
    }

    fn stepLanes(guest: *Guest, lanes: anytype) bool {
        var found = false;
        // Another one begins every time: few frames that are due then come from all queues by turns.
        guest.first = if (guest.first + 1 < lanes.len) guest.first + 1 else 0;
        for (0..lanes.len) |i| {
            const next = guest.first + i;
            const queue = if (next < lanes.len) next else next - lanes.len;
            const lane = &lanes[queue];
            if (lane.broken) continue;
            const moved = guest.serve(lane, @intCast(queue)) catch {
                guest.breakLane(lane);
                continue;
            };
            found = found or moved;
        }
        return found;
    }

    fn serve(guest: *Guest, lane: anytype, queue: u32) driver_entry.Broken!bool {
        const received = if (guest.traffic.receive != 0) try guest.receive(lane, queue) else 0;
        const limit = guest.allowance();
        const sent = if (limit > 0) try lane.sender.send(limit, &guest.sequencer) else 0;
        guest.sent += sent;
        if (guest.traffic.count != 0 and guest.sent == guest.traffic.count) guest.stats.sending = 0;
        guest.show(&lane.sender.side, 2 * queue + 1);
        if (limit == 0 and received == 0) try lane.sender.reclaim();
        return received + sent > 0;
    }

    /// All that arrived, at most a ring full, burst by burst: each is offered again before the next is
    /// looked at, so that the device finds buffers.
    fn receive(guest: *Guest, lane: anytype, queue: u32) driver_entry.Broken!u32 {
        const receiver = &lane.receiver;
        const echo = if (guest.traffic.echo != 0) &lane.sender else null;
        var frames: u32 = 0;
        var left = receiver.side.count;
        while (left > 0) : (left -|= receiver.count) {
            const count = try receiver.receive(guest.receive_limit, &guest.inspector, echo);
            frames += count;
            guest.show(&receiver.side, 2 * queue);
            if (receiver.count < guest.receive_limit) break;
        }
        return frames;
    }

    /// Publishes what was offered, and kicks if the device wants it.
    fn show(guest: *Guest, side: anytype, index: u32) void {
        const shown = side.ring.publish();
        if (!shown.any) return;
        fence();
        if (side.ring.wantsKick(shown)) {
            _ = sys.eventfdSignal(guest.bells[index].kick);
            side.stats.kicks += 1;
        } else {
            side.stats.kicks_suppressed += 1;
        }
    }

    /// Frames that may be sent now, at most a burst.
    fn allowance(guest: *const Guest) u32 {
        const traffic = &guest.traffic;
        if (guest.stats.sending == 0) return 0;
        var limit: u64 = traffic.burst;
        if (traffic.count != 0) limit = @min(limit, traffic.count - guest.sent);
        if (traffic.rate != 0) limit = @min(limit, guest.due(guest.now_ns) -| guest.sent);
        return @intCast(limit);
    }

    /// Frames of this run that the rate allows up to a time.
    fn due(guest: *const Guest, at_ns: u64) u64 {
        return @intCast(@as(u128, at_ns - guest.began_ns) * guest.traffic.rate / std.time.ns_per_s);
    }

    /// Asks for calls, looks once more, and waits for one, or until a frame is due. A full fence lies
    /// between asking and looking (virtio 2.7.7.1, 2.8.10.1).
    fn sleep(guest: *Guest) void {
        switch (guest.lanes) {
            inline else => |lanes| guest.sleepOn(lanes[0..guest.traffic.queues]),
        }
    }

    fn sleepOn(guest: *Guest, lanes: anytype) void {
        const receiving = guest.traffic.receive != 0;
        for (lanes) |*lane| {
            if (lane.broken) continue;
            if (receiving) lane.receiver.side.ring.arm();
            if ((lane.sender.idleCount() == 0)) lane.sender.side.ring.arm();
        }
        fence();
        const pending = for (lanes) |*lane| {
            if (lane.broken) continue;
            if (receiving and lane.receiver.side.ring.pending()) break true;
            if ((lane.sender.idleCount() == 0) and lane.sender.side.ring.pending()) break true;
        } else false;
        if (!pending) {
            guest.stats.sleeps += 1;
            var events: [64]sys.Event = undefined;
            for (sys.epollWait(guest.set, &events, guest.patience())) |event| guest.take(lanes, event.data.u64);
        }
        for (lanes) |*lane| if (!lane.broken) disarm(lane);
    }

    /// Milliseconds until something is due; -1: nothing will be.
    fn patience(guest: *const Guest) i32 {
        if (guest.stats.sending == 0 or guest.traffic.rate == 0) return -1;
        const wanted = @as(u128, guest.sent + 1) * std.time.ns_per_s / guest.traffic.rate + guest.began_ns;
        const now = sys.nanoseconds();
        if (wanted <= now) return 1;
        return @intCast(@min((wanted - now) / std.time.ns_per_ms + 1, 1000));
    }

    fn take(guest: *Guest, lanes: anytype, event: u64) void {
        if (event == wake_event) {
            _ = sys.eventfdDrain(guest.wake);
            return;
        }
        _ = sys.eventfdDrain(guest.bells[@intCast(event)].call);
        // A ring that is not in use any more may still be called.
        if (event / 2 >= lanes.len) return;
        const lane = &lanes[@intCast(event / 2)];
        const stats = if (event % 2 == 0) &lane.receiver.side.stats else &lane.sender.side.stats;
        stats.calls += 1;
    }
};

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
    };
}

/// Two guests send to one another, as much as the switch drops nothing of.
fn expectExchange(config: abi.GuestConfig, traffic: abi.GuestTraffic) !void {
    const rig_file = @import("guest_rig.zig");
    const rig: *rig_file.Rig = try .create();
    defer rig.destroy();
    const first = try rig.add(config);
    const second = try rig.add(config);
    var back = traffic;
    std.mem.swap(u64, &back.source_mac, &back.destination_mac);
    try first.prepare(traffic);
    try second.prepare(back);
    try rig.settle();
    for ([_]*Guest{ first, second }) |guest| {
        try rig_file.expectClean(guest);
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
        const rig_file = @import("guest_rig.zig");
        const rig: *rig_file.Rig = try .create();
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
        try rig_file.expectClean(receiver);
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
    const rig_file = @import("guest_rig.zig");
    const rig: *rig_file.Rig = try .create();
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
    try rig_file.expectClean(receiver);
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
        const rig_file = @import("guest_rig.zig");
        const rig: *rig_file.Rig = try .create();
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
        try rig_file.expectClean(sender);
        try rig_file.expectClean(mirror);
        try std.testing.expectEqual(0, mirror.stats.echo_dropped);
        try std.testing.expectEqual(1000 + sender.stats.announcements, sender.stats.received);
    }
}

const Fault = enum { none, flip, flip_address, drop, duplicate, swap };

/// Sends frames one way and lets `fault` befall the first two of one burst.
fn runWithFault(fault: Fault, check_every: u32) !abi.GuestStats {
    const rig_file = @import("guest_rig.zig");
    const rig: *rig_file.Rig = try .create();
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
    const rig_file = @import("guest_rig.zig");
    const rig: *rig_file.Rig = try .create();
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
    try rig_file.expectClean(receiver);
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
    try rig_file.expectClean(receiver);
    try std.testing.expectEqual(4000, receiver.stats.received_checked);
}

test "threads that poll, yield and sleep move frames, and end when told" {
    for ([_]abi.GuestWait{ .poll, .yield, .sleep }) |wait| {
        const rig_file = @import("guest_rig.zig");
        const rig: *rig_file.Rig = try .create();
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
        try rig_file.expectClean(receiver);
        if (wait == .sleep) try std.testing.expect(receiver.stats.sleeps > 0 and receiver.vringStats(0).calls > 0);
    }
}

test "what cannot be is refused" {
    const good = testConfig(bit(Feature.version_1), 64);
    const Change = struct { field: []const u8, value: u64 };
    const changes = [_]Change{
        .{ .field = "queue_pairs", .value = 0 },
        .{ .field = "queue_pairs", .value = 129 },
        .{ .field = "ring_size", .value = 0 },
        .{ .field = "ring_size", .value = 65 },
        .{ .field = "ring_size", .value = 1 << 16 },
        .{ .field = "gpa", .value = 1 },
        .{ .field = "frame_bytes_max", .value = 59 },
        .{ .field = "frame_bytes_max", .value = 65536 },
        .{ .field = "buffer_bytes", .value = 71 },
        .{ .field = "send_segments", .value = 64 },
        .{ .field = "receive_segments", .value = 256 },
        .{ .field = "send_indirect", .value = 1 },
    };
    inline for (changes) |change| {
        var config = good;
        @field(config, change.field) = change.value;
        try std.testing.expectError(error.InvalidArgument, Guest.open(config));
    }
    const guest: *Guest = try .open(good);
    defer guest.close();
    const traffic = testTraffic(1, 2);
    inline for ([_]Change{
        .{ .field = "source_mac", .value = 1 << 48 },
        .{ .field = "queues", .value = 0 },
        .{ .field = "queues", .value = 2 },
        .{ .field = "flows", .value = 257 },
        .{ .field = "burst", .value = 257 },
        .{ .field = "echo", .value = 1 },
        .{ .field = "frame_bytes", .value = 59 },
        .{ .field = "frame_bytes", .value = 1515 },
        .{ .field = "frame_bytes_min", .value = 1515 },
        .{ .field = "frame_bytes_min", .value = 1 },
    }) |change| {
        var wrong = traffic;
        @field(wrong, change.field) = change.value;
        try std.testing.expectError(error.InvalidArgument, guest.prepare(wrong));
    }
}

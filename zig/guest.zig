//! A simulated guest: memory of its own that a back end can map, virtio-net rings in it, and a thread
//! that drives them as `abi.GuestTraffic` says. It speaks to its device by rings and eventfds alone;
//! whoever opens it tells the device where they are.
//!
//! Open, start, stop and close are for one control thread; counters may be read by any.

const std = @import("std");
const abi = @import("abi.zig");
const driver_entry = @import("driver_entry.zig");
const DriverPacked = @import("driver_packed.zig").DriverPacked;
const DriverQueue = @import("driver_queue.zig").DriverQueue;
const DriverSplit = @import("driver_split.zig").DriverSplit;
const guest_frame = @import("guest_frame.zig");
const Inspector = @import("guest_inspector.zig").Inspector;
const Offload = @import("guest_offload.zig").Offload;
const Receiver = @import("guest_receiver.zig").Receiver;
const Sender = @import("guest_sender.zig").Sender;
const Sequencer = @import("guest_sequencer.zig").Sequencer;
const guest_shape = @import("guest_shape.zig");
const guest_side = @import("guest_side.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");
const Window = @import("guest_window.zig").Window;

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
    /// Of a crew; and what it leaves to be sent in this round.
    window: ?Window,
    room: u64,
    /// Buffers that a burst of frames fills.
    receive_limit: u32,
    thread: ?std.Thread,
    /// A port drives its rings in its place.
    driven: bool,
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
        guest.window = null;
        guest.thread = null;
        guest.driven = false;
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
        if (config.frame_bytes_max > abi.packet_bytes_max) return error.InvalidArgument;
        if (config.buffer_bytes < header_bytes + guest_frame.bytes_min) return error.InvalidArgument;
        if (config.buffer_bytes > header_bytes + abi.packet_bytes_max) return error.InvalidArgument;
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

    /// Its rings are in use.
    pub fn isBusy(guest: *const Guest) bool {
        return guest.stats.running != 0 or guest.driven;
    }

    /// Of a ring, as numbered on the wire; for whoever drives it in the place of the guest.
    pub fn sideOf(guest: *Guest, index: u32) DriverQueue.Side {
        return switch (guest.lanes) {
            .split => |lanes| .{ .split = sideIn(lanes, index) },
            .packed_ring => |lanes| .{ .packed_ring = sideIn(lanes, index) },
        };
    }

    fn sideIn(lanes: anytype, index: u32) *@TypeOf(lanes[0].sender.side) {
        const lane = &lanes[index / 2];
        return if (index % 2 == 0) &lane.receiver.side else &lane.sender.side;
    }

    /// All rings as new, as after a reboot. The guest does not run, nor does its device.
    pub fn reset(guest: *Guest) Error!void {
        if (guest.isBusy()) return error.AlreadyStarted;
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
        if (guest.isBusy()) return error.AlreadyStarted;
        if (traffic.window != 0) return error.InvalidArgument;
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

    /// Gives the device up to so many frames more in each ring in use, and kicks nobody; returns how many in all. As a
    /// guest that is halted between the two.
    pub fn offer(guest: *Guest, frames: u32) Error!u32 {
        if (guest.isBusy()) return error.AlreadyStarted;
        if (guest.traffic.send == 0) return 0;
        const limit = @min(frames, guest_side.burst_max);
        var offered: u32 = 0;
        switch (guest.lanes) {
            inline else => |lanes| for (lanes[0..guest.traffic.queues]) |*lane| {
                if (lane.broken) continue;
                offered += lane.sender.send(limit, &guest.sequencer) catch {
                    guest.breakLane(lane);
                    continue;
                };
                _ = lane.sender.side.ring.publish();
            },
        }
        return offered;
    }

    /// Kicks every ring, as a hypervisor may at any time.
    pub fn kick(guest: *const Guest) void {
        for (guest.bells) |bell| _ = sys.eventfdSignal(bell.kick);
    }

    /// All of `start` but the thread: the caller then calls `step`.
    pub fn prepare(guest: *Guest, traffic: abi.GuestTraffic) Error!void {
        try guest.checkTraffic(traffic);
        guest.traffic = traffic;
        guest.window = null;
        if (traffic.burst == 0) guest.traffic.burst = default_burst;
        const header_bytes = guest.receive_shape.header_bytes;
        const bytes = header_bytes + traffic.frame_bytes;
        const each = std.math.divCeil(u32, bytes, guest.config.buffer_bytes) catch unreachable;
        guest.receive_limit = @min(guest.traffic.burst * each, guest_side.burst_max);
        guest.quit.store(false, .monotonic);
        _ = sys.eventfdDrain(guest.wake);
        guest.inspector.start(traffic, guest.config.features);
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
        try guest.checkOffload(traffic);
        if (traffic.send == 0) return;
        if (traffic.frame_bytes > guest.config.frame_bytes_max) return error.InvalidArgument;
        if (traffic.frame_bytes < guest_frame.bytes_min) return error.InvalidArgument;
        const least = traffic.frame_bytes_min;
        if (least != 0 and (least < guest_frame.bytes_min or least > traffic.frame_bytes)) return error.InvalidArgument;
    }

    fn checkOffload(guest: *const Guest, traffic: abi.GuestTraffic) Error!void {
        if (traffic.gso_size == 0) return;
        if (traffic.echo != 0 or traffic.gso_size > std.math.maxInt(u16)) return error.InvalidArgument;
        const offload: Offload = .{ .size = @intCast(traffic.gso_size) };
        const least = if (traffic.frame_bytes_min == 0) traffic.frame_bytes else traffic.frame_bytes_min;
        if (!offload.isLarge(least)) return error.InvalidArgument;
        // The identification numbers them.
        if (traffic.frame_bytes / traffic.gso_size > guest_frame.piece_mask) return error.InvalidArgument;
        const sends = traffic.send != 0;
        if (sends and !spec.has(guest.config.features, spec.Feature.host_uso)) return error.InvalidArgument;
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
                const sent = lane.sender.sendCopy(&frame, false) catch {
                    guest.breakLane(lane);
                    continue;
                };
                guest.stats.announced += @intFromBool(sent);
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
        guest.room = if (guest.window) |*window|
            window.room(guest.stats.sent, outstandingIn(lanes))
        else
            std.math.maxInt(u64);
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

    /// Frames that the device has.
    fn outstandingIn(lanes: anytype) u32 {
        var count: u32 = 0;
        for (lanes) |*lane| count += lane.sender.side.ring.outstanding();
        return count;
    }

    fn serve(guest: *Guest, lane: anytype, queue: u32) driver_entry.Broken!bool {
        const received = if (guest.traffic.receive != 0) try guest.receive(lane, queue) else 0;
        const limit = guest.allowance();
        const sent = if (limit > 0) try lane.sender.send(limit, &guest.sequencer) else 0;
        guest.sent += sent;
        guest.room -= sent;
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
        sys.fence();
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
        var limit: u64 = @min(traffic.burst, guest.room);
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
        sys.fence();
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

test "what cannot be is refused" {
    var good = std.mem.zeroes(abi.GuestConfig);
    good.features = @as(u64, 1) << spec.Feature.version_1;
    good.queue_pairs = 1;
    good.ring_size = 64;
    good.buffer_bytes = 2048;
    good.frame_bytes_max = 1514;
    const Change = struct { field: []const u8, value: u64 };
    const changes = [_]Change{
        .{ .field = "queue_pairs", .value = 0 },
        .{ .field = "queue_pairs", .value = 129 },
        .{ .field = "ring_size", .value = 0 },
        .{ .field = "ring_size", .value = 65 },
        .{ .field = "ring_size", .value = 1 << 16 },
        .{ .field = "gpa", .value = 1 },
        .{ .field = "frame_bytes_max", .value = 59 },
        .{ .field = "frame_bytes_max", .value = 65590 },
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
    var traffic = std.mem.zeroes(abi.GuestTraffic);
    traffic.queues = 1;
    traffic.frame_bytes = 1514;
    traffic.send = 1;
    try guest.prepare(traffic);
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
        .{ .field = "gso_size", .value = 1448 },
    }) |change| {
        var wrong = traffic;
        @field(wrong, change.field) = change.value;
        try std.testing.expectError(error.InvalidArgument, guest.prepare(wrong));
    }
}

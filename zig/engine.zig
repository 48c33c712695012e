//! Ports, a switch between them, and the workers that serve it, as the control thread drives them.
//!
//! All calls are for one control thread. A call that changes what workers see holds every worker
//! between two bursts, changes it, and lets them go: when it returns, the change is in force. A call
//! that fails has changed nothing.

const std = @import("std");
const abi = @import("abi.zig");
const Burst = @import("burst.zig").Burst;
const fault = @import("fault.zig");
const DirtyLog = @import("dirty_log.zig").DirtyLog;
const Doorbell = @import("doorbell.zig").Doorbell;
const DriverQueue = @import("driver_queue.zig").DriverQueue;
const generator = @import("generator.zig");
const Guest = @import("guest.zig").Guest;
const Inflight = @import("inflight.zig").Inflight;
const Journal = @import("journal.zig").Journal;
const memory_file = @import("memory.zig");
const pmd_burst = @import("pmd_burst.zig");
const port_file = @import("port.zig");
const Port = port_file.Port;
const switch_file = @import("switch.zig");
const Switch = switch_file.Switch;
const spec = @import("spec.zig");
const sys = @import("sys.zig");
const Uplink = @import("uplink.zig").Uplink;
const UplinkQueue = @import("uplink_queue.zig").UplinkQueue;
const Vring = @import("vring.zig").Vring;
const Worker = @import("worker.zig").Worker;

const Table = memory_file.Table;

/// Of frames of ours, where nothing was said: testpmd's.
const lane_frame_bytes = 64;

/// In a guest's name, that wait for its ring: more is a front end that does not stop.
const announcements_max = 64;

/// A worker that does not reach the end of its burst in this time has lost its core for good.
const hold_ns = 5_000_000_000;
/// The same where it may have to wait for many pages that come one after the other.
const hold_post_copy_ns = 60_000_000_000;

pub const Error = error{
    InvalidArgument,
    NoSuchHandle,
    LimitReached,
    OutOfMemory,
    Unmapped,
    Misaligned,
    Overlap,
    FileTooShort,
    WrongFd,
    NotStarted,
    AlreadyStarted,
    Stuck,
    System,
};

pub const Engine = struct {
    fabric: Switch,
    ports_max: u32,
    workers: [abi.workers_max]*Worker,
    worker_count: u32,
    /// Signalled when a ring breaks.
    attention: i32,
    /// The control thread's own, once it moves frames itself.
    burst: ?*Burst,
    faults_seen: u32,
    /// Workers are held from `pause` on, for calls to come: another process has the rings, or is to have them.
    at_rest: bool,

    pub fn create(config: abi.EngineConfig) Error!*Engine {
        if (config.ports_max == 0 or config.ports_max > abi.ports_max) return error.InvalidArgument;
        const engine = try std.heap.page_allocator.create(Engine);
        errdefer std.heap.page_allocator.destroy(engine);
        engine.fabric.init(config.mac_age_ms);
        engine.ports_max = config.ports_max;
        engine.worker_count = 0;
        engine.burst = null;
        engine.at_rest = false;
        engine.faults_seen = fault.total.load(.monotonic);
        engine.attention = try sys.eventfd();
        return engine;
    }

    /// Ends all workers, then closes all ports.
    pub fn destroy(engine: *Engine) void {
        for (engine.fabric.ports) |port| if (port) |each| each.memory.post_copy.abandon();
        if (engine.at_rest) engine.leave();
        for (engine.workers[0..engine.worker_count]) |worker| worker.destroy();
        engine.worker_count = 0;
        for (&engine.fabric.ports) |*slot| {
            const port = slot.* orelse continue;
            engine.stopAll(port);
            slot.* = null;
            discard(port);
        }
        if (engine.burst) |burst| burst.destroy();
        sys.close(engine.attention);
        std.heap.page_allocator.destroy(engine);
    }

    /// Stops all rings for another process to go on where they stand: between two bursts, so that nothing is in hand.
    /// Unlike `stopVring` this ends nothing: each stays as it is, for `proceed`. Meanwhile the rings are not touched.
    pub fn pause(engine: *Engine) error{Stuck}!void {
        try engine.hold();
        engine.at_rest = true;
    }

    /// Lets all rings go on, those too that were started at rest.
    pub fn proceed(engine: *Engine) void {
        if (!engine.at_rest) return;
        engine.at_rest = false;
        engine.release();
    }

    /// Takes the rings from the workers at rest, so that these can end without a look at them.
    fn leave(engine: *Engine) void {
        for (engine.fabric.ports) |port| if (port) |each| engine.stopAll(each);
        engine.proceed();
    }

    pub fn addWorker(engine: *Engine, config: abi.WorkerConfig) Error!u32 {
        if (engine.worker_count == abi.workers_max) return error.LimitReached;
        if (config.cpu >= 0 and !sys.mayRunOn(@intCast(config.cpu))) return error.InvalidArgument;
        engine.workers[engine.worker_count] = try Worker.create(&engine.fabric, config);
        engine.worker_count += 1;
        return engine.worker_count - 1;
    }

    /// To be called a few times a second.
    pub fn check(engine: *Engine) void {
        for (engine.workers[0..engine.worker_count]) |worker| worker.check();
    }

    pub fn openPort(engine: *Engine, config: abi.PortConfig) Error!u32 {
        if (config.queue_pairs == 0 or config.queue_pairs > abi.queue_pairs_max) return error.InvalidArgument;
        for (engine.fabric.ports[0..engine.ports_max], 0..) |slot, number| {
            if (slot != null) continue;
            const port = try Port.create(@intCast(number), config, engine.attention);
            errdefer port.destroy();
            try engine.hold();
            engine.fabric.ports[number] = port;
            engine.release();
            return @intCast(number);
        }
        return error.LimitReached;
    }

    pub fn closePort(engine: *Engine, port: *Port) Error!void {
        port.memory.post_copy.abandon();
        try engine.hold();
        engine.stopAll(port);
        engine.fabric.ports[port.number] = null;
        engine.fabric.macs.forget(port.number);
        // The next port of this number is another one.
        for (engine.fabric.ports) |each| {
            const other = each orelse continue;
            if (other.lane.target == port.number) other.lane.target = port_file.nowhere;
        }
        engine.release();
        discard(port);
    }

    /// The front end is gone: every ring stops, eventfds and memory go.
    pub fn resetPort(engine: *Engine, port: *Port) Error!void {
        const empty = try Table.create();
        errdefer empty.destroy();
        // A worker that sleeps on a page could not be held.
        port.memory.post_copy.abandon();
        try engine.hold();
        engine.stopAll(port);
        port.memory.swap(empty);
        for (port.vrings) |*vring| {
            vring.enabled = false;
            vring.announce_count = 0;
            for ([_]abi.VringFd{ .kick, .call, .err }) |kind| replaceFd(vring, kind, -1);
        }
        port.mtu = port.mtu_opened;
        const log = port.log;
        port.log = null;
        replace(&port.log_bell, -1);
        port.adoptInflight(null);
        port.adoptDoorbell(null, 0);
        engine.fabric.macs.forget(port.number);
        engine.release();
        empty.destroy();
        if (log) |one| one.destroy();
    }

    /// `mtu` 0: back to what the port was opened with.
    pub fn setMtu(engine: *Engine, port: *Port, mtu: u32) Error!void {
        try engine.hold();
        port.mtu = if (mtu == 0) port.mtu_opened else mtu;
        engine.release();
    }

    /// What is known of the port's rings goes to a file from now on, and is what that says; the fd is taken over. No
    /// ring runs.
    pub fn setJournal(_: *Engine, port: *Port, fd: i32) Error!void {
        for (port.vrings) |*vring| if (vring.started) return error.AlreadyStarted;
        const journal: *Journal = try .open(fd, port.vrings.len);
        journal.reserve() catch |reason| {
            journal.leave();
            return reason;
        };
        port.journal.close();
        port.adoptJournal(journal);
    }

    /// What we have in hand of the port's rings is written to this part of a file, too, and is what that says where
    /// nothing else is known; the fd is only borrowed. No ring runs. Or, not owned, it is only mapped before
    /// `ownInflight`.
    pub fn setInflight(
        _: *Engine,
        port: *Port,
        fd: i32,
        part: abi.Region,
        queues: u32,
        queue_size: u32,
        owned: bool,
    ) Error!void {
        for (port.vrings) |*vring| if (vring.started) return error.AlreadyStarted;
        if (queues > port.vrings.len) return error.InvalidArgument;
        const inflight: *Inflight = try .create(fd, part.mmap_offset, part.size_bytes, queues, queue_size);
        inflight.owned = owned;
        port.adoptInflight(inflight);
    }

    /// Another process writes there no more, from now on.
    pub fn ownInflight(engine: *Engine, port: *Port) Error!void {
        try engine.hold();
        defer engine.release();
        port.ownInflight();
    }

    /// The guest's driver is called by a doorbell of which `fd`, borrowed, is BAR 0, and `offset` where that begins in
    /// its page; whom it rings is `peer`. -1: by eventfds.
    pub fn setDoorbell(engine: *Engine, port: *Port, fd: i32, offset: u32, peer: u32) Error!void {
        if (peer > std.math.maxInt(u16)) return error.InvalidArgument;
        const doorbell: ?Doorbell = if (fd >= 0) try .open(fd, offset) else null;
        errdefer if (doorbell) |one| one.close();
        try engine.hold();
        defer engine.release();
        port.adoptDoorbell(doorbell, @intCast(peer));
    }

    /// Says in the guest's name where it is, once, as soon as its first ring is up.
    pub fn announce(engine: *Engine, port: *Port, mac: u64) Error!void {
        if (mac >> 48 != 0) return error.InvalidArgument;
        try engine.hold();
        defer engine.release();
        const vring = &port.vrings[1];
        vring.announce_mac = mac;
        vring.announce_count = @min(vring.announce_count + 1, announcements_max);
    }

    pub fn setLane(engine: *Engine, port: *Port, lane: abi.Lane) Error!void {
        if (lane.target >= engine.ports_max) return error.InvalidArgument;
        if (lane.own_mac >> 48 != 0 or lane.peer_mac >> 48 != 0) return error.InvalidArgument;
        if (lane.burst > abi.packets_max) return error.InvalidArgument;
        var whole = lane;
        if (lane.burst == 0) whole.burst = abi.packets_max;
        if (lane.frame_bytes == 0) whole.frame_bytes = lane_frame_bytes;
        if (lane.flows == 0) whole.flows = 1;
        if (whole.flows > generator.flows_max) return error.InvalidArgument;
        if (whole.frame_bytes < generator.frame_bytes_min) return error.InvalidArgument;
        if (whole.frame_bytes > generator.frame_bytes_max) return error.InvalidArgument;
        try engine.hold();
        port.lane = whole;
        for (port.vrings) |*vring| {
            vring.first = if (port.isFromGuest(vring)) lane.first else 0;
            vring.flow = 0;
        }
        engine.release();
    }

    /// Replaces the whole memory table, also under running rings: they go on in it.
    pub fn setMemory(engine: *Engine, port: *Port, regions: []const abi.Region, fds: []const i32) Error!void {
        const table = try Table.create();
        errdefer table.destroy();
        for (regions, fds) |region, fd| {
            try table.add(region, fd, &port.memory.faults);
            try table.register(region, &port.memory.post_copy);
        }
        try engine.adopt(port, table);
        table.destroy();
    }

    pub fn addRegion(engine: *Engine, port: *Port, region: abi.Region, fd: i32) Error!void {
        const table = try Table.create();
        table.copy(&port.memory);
        table.add(region, fd, &port.memory.faults) catch |reason| return forget(table, reason);
        const row = table.find(region).?;
        table.register(region, &port.memory.post_copy) catch |reason| {
            memory_file.unmap(row);
            return forget(table, reason);
        };
        engine.adopt(port, table) catch |reason| {
            memory_file.unmap(row);
            return forget(table, reason);
        };
        table.disown();
        table.destroy();
    }

    pub fn removeRegion(engine: *Engine, port: *Port, region: abi.Region) Error!void {
        const table = try Table.create();
        table.copy(&port.memory);
        var row = table.remove(region) catch |reason| return forget(table, reason);
        engine.adopt(port, table) catch |reason| return forget(table, reason);
        table.disown();
        table.destroy();
        memory_file.unmap(&row);
    }

    /// Frees a table whose rows belong to somebody else.
    fn forget(table: *Table, reason: Error) Error {
        table.disown();
        table.destroy();
        return reason;
    }

    /// Puts `table` in the place of the port's memory if every running ring can still be found in it;
    /// afterwards `table` has the rows of before.
    fn adopt(engine: *Engine, port: *Port, table: *Table) Error!void {
        try engine.hold();
        defer engine.release();
        port.memory.swap(table);
        for (port.vrings) |*vring| {
            if (!vring.started or vring.canPlace()) continue;
            port.memory.swap(table);
            return error.Unmapped;
        }
        for (port.vrings) |*vring| if (vring.started) vring.place() catch unreachable;
    }

    pub fn startVring(engine: *Engine, port: *Port, vring: *Vring, config: abi.VringConfig) Error!void {
        try engine.hold();
        defer engine.release();
        try vring.start(config);
        if (port.isFromGuest(vring)) engine.place(port, vring) catch |reason| {
            _ = vring.leave() catch unreachable;
            return reason;
        };
        port.adoptLog(vring);
        engine.fabric.refresh();
    }

    pub fn stopVring(engine: *Engine, port: *Port, vring: *Vring) Error!abi.VringState {
        try engine.hold();
        defer engine.release();
        const last = try vring.stop();
        if (port.isFromGuest(vring)) engine.withdraw(vring);
        engine.fabric.refresh();
        return last;
    }

    pub fn enableVring(engine: *Engine, vring: *Vring, enabled: bool) Error!void {
        if (vring.enabled == enabled) return;
        try engine.hold();
        defer engine.release();
        vring.enabled = enabled;
        engine.fabric.refresh();
    }

    /// Takes `fd` over (-1: none). A new call fd on a running ring is signalled once: what was
    /// signalled before it came went to nobody.
    pub fn setVringFd(engine: *Engine, vring: *Vring, kind: abi.VringFd, fd: i32) Error!void {
        try checkEventfd(fd);
        try engine.hold();
        defer engine.release();
        const worker = if (kind == .kick) engine.workerOf(vring) else null;
        if (worker) |owner| owner.unwatch(owner.find(vring).?);
        replaceFd(vring, kind, fd);
        if (worker) |owner| owner.watch(owner.find(vring).?);
        if (kind == .call and fd >= 0 and vring.started) _ = sys.eventfdSignal(fd);
    }

    fn checkEventfd(fd: i32) Error!void {
        if (fd < 0) return;
        if (!sys.isEventfd(fd)) return error.WrongFd;
        try sys.setNonblocking(fd);
    }

    fn replaceFd(vring: *Vring, kind: abi.VringFd, fd: i32) void {
        replace(vring.fdOf(kind), fd);
    }

    fn replace(slot: *i32, fd: i32) void {
        if (slot.* >= 0) sys.close(slot.*);
        slot.* = fd;
    }

    /// Marks go to this part of a file from now on, of all rings whose front end wants them; the fd is only borrowed. A
    /// log in its place is gone afterwards.
    pub fn setLog(engine: *Engine, port: *Port, fd: i32, offset: u64, bytes: u64) Error!void {
        const log: *DirtyLog = try .create(fd, offset, bytes);
        errdefer log.destroy();
        try engine.swapLog(port, log);
    }

    /// Rings whose front end wants marks rest from now on.
    pub fn dropLog(engine: *Engine, port: *Port) Error!void {
        try engine.swapLog(port, null);
    }

    fn swapLog(engine: *Engine, port: *Port, log: ?*DirtyLog) Error!void {
        try engine.hold();
        const before = port.log;
        port.log = log;
        if (log) |one| {
            one.bell = port.log_bell;
            if (before) |other| one.inherit(other);
        }
        for (port.vrings) |*vring| port.adoptLog(vring);
        engine.fabric.refresh();
        engine.release();
        if (before) |one| one.destroy();
    }

    /// Takes `fd` over, an eventfd (-1: none).
    pub fn setLogBell(engine: *Engine, port: *Port, fd: i32) Error!void {
        try checkEventfd(fd);
        try engine.hold();
        defer engine.release();
        replace(&port.log_bell, fd);
        if (port.log) |log| log.bell = fd;
    }

    /// What of a running ring is to be marked, and where: LOG_ALL of `features`, `flags` and `log_gpa`.
    pub fn setVringLog(engine: *Engine, port: *Port, vring: *Vring, config: abi.VringConfig) Error!void {
        if (!vring.started or vring.peer != .guest) return error.NotStarted;
        try engine.hold();
        defer engine.release();
        const bit = @as(u64, 1) << spec.Feature.log_all;
        vring.config.features = (vring.config.features & ~bit) | (config.features & bit);
        vring.config.flags = config.flags;
        vring.config.log_gpa = config.log_gpa;
        port.adoptLog(vring);
        engine.fabric.refresh();
    }

    /// Workers are held.
    fn stopAll(engine: *Engine, port: *Port) void {
        if (port.driven) |driven| driven.* = false;
        port.driven = null;
        for (port.vrings) |*vring| {
            _ = vring.leave() catch continue;
            if (port.isFromGuest(vring)) engine.withdraw(vring);
        }
        engine.fabric.refresh();
    }

    fn withdraw(engine: *Engine, vring: *Vring) void {
        for (engine.workers[0..engine.worker_count]) |worker| worker.remove(vring);
    }

    fn workerOf(engine: *Engine, vring: *Vring) ?*Worker {
        for (engine.workers[0..engine.worker_count]) |worker| {
            if (worker.find(vring) != null) return worker;
        }
        return null;
    }

    /// Makes a port face a back end, as the driver of the rings of `guest`, which the back end is told of after this:
    /// the port's queues carry what it sends and receives. Those that send are enabled later. Until the port is reset
    /// the guest does nothing else.
    pub fn drive(engine: *Engine, port: *Port, guest: *Guest) Error!void {
        if (2 * guest.config.queue_pairs > port.vrings.len or guest.isBusy()) return error.InvalidArgument;
        try engine.hold();
        defer engine.release();
        errdefer engine.stopAll(port);
        guest.driven = true;
        port.driven = &guest.driven;
        for (0..guest.config.queue_pairs) |pair| {
            // Their receive queue brings what comes from there, as a guest's transmit queue does.
            try engine.driveVring(port, &port.vrings[2 * pair], guest, @intCast(2 * pair + 1));
            try engine.driveVring(port, &port.vrings[2 * pair + 1], guest, @intCast(2 * pair));
        }
        engine.fabric.refresh();
    }

    fn driveVring(engine: *Engine, port: *Port, vring: *Vring, guest: *Guest, index: u32) Error!void {
        const bells = guest.bells[index];
        const queue = try DriverQueue.create(guest.sideOf(index), guest.config.features, index % 2 == 0);
        vring.drive(queue) catch |reason| {
            queue.destroy();
            return reason;
        };
        replaceFd(vring, .kick, try sys.duplicate(bells.call));
        replaceFd(vring, .call, try sys.duplicate(bells.kick));
        if (port.isFromGuest(vring)) try engine.place(port, vring);
    }

    /// Makes a port lead to an interface, a queue pair to each of its own, until the port is reset.
    pub fn attach(engine: *Engine, port: *Port, uplink: *const Uplink) Error!void {
        if (2 * uplink.queuePairs() > port.vrings.len) return error.InvalidArgument;
        try engine.hold();
        defer engine.release();
        errdefer engine.stopAll(port);
        for (port.vrings[0 .. 2 * uplink.queuePairs()], 0..) |*vring, index| {
            try engine.attachVring(port, vring, try uplink.queue(index / 2, port.isFromGuest(vring)));
        }
        engine.fabric.refresh();
    }

    fn attachVring(engine: *Engine, port: *Port, vring: *Vring, queue: *UplinkQueue) Error!void {
        vring.attach(queue) catch |reason| {
            queue.destroy();
            return reason;
        };
        if (!port.isFromGuest(vring)) return;
        replaceFd(vring, .kick, try sys.duplicate(queue.fd));
        try engine.place(port, vring);
    }

    /// Gives a ring to a worker. Where there are none it waits for `receive`.
    fn place(engine: *Engine, port: *Port, vring: *Vring) error{LimitReached}!void {
        const worker = engine.idlest() orelse return;
        try worker.add(.{ .vring = vring, .port = port });
    }

    /// See `pmd_burst.receive`. No worker serves this engine, and the ring is one from a guest.
    pub fn receive(engine: *Engine, port: *Port, vring: *Vring, arena: []u8, packets: []abi.Packet) Error!u32 {
        if (!port.isFromGuest(vring)) return error.InvalidArgument;
        const count = pmd_burst.receive(try engine.ownBurst(), vring, arena, packets);
        engine.lookForFaults();
        return count;
    }

    /// See `pmd_burst.send`. No worker serves this engine, and the ring is one to a guest.
    pub fn send(engine: *Engine, port: *Port, vring: *Vring, arena: []u8, packets: []const abi.Packet) Error!u32 {
        if (port.isFromGuest(vring)) return error.InvalidArgument;
        const count = try pmd_burst.send(try engine.ownBurst(), vring, port.mtu, arena, packets);
        engine.lookForFaults();
        return count;
    }

    /// Asks the guest for kicks, or no more, and looks once more. A full fence lies between (virtio 2.7.10.1,
    /// 2.8.10.1).
    pub fn arm(engine: *Engine, port: *Port, vring: *Vring, wanted: bool) Error!bool {
        if (engine.worker_count > 0 or !port.isFromGuest(vring)) return error.InvalidArgument;
        if (!vring.started or vring.isBroken()) return false;
        if (wanted) vring.arm() else vring.disarm();
        sys.fence();
        return vring.pending() or vring.announces();
    }

    fn ownBurst(engine: *Engine) Error!*Burst {
        if (engine.worker_count > 0) return error.InvalidArgument;
        if (engine.burst == null) engine.burst = try Burst.create();
        return engine.burst.?;
    }

    fn lookForFaults(engine: *Engine) void {
        const faults = fault.total.load(.monotonic);
        if (faults == engine.faults_seen) return;
        engine.faults_seen = faults;
        engine.fabric.breakFaulty();
    }

    /// The worker with the fewest rings.
    fn idlest(engine: *Engine) ?*Worker {
        var best: ?*Worker = null;
        for (engine.workers[0..engine.worker_count]) |worker| {
            if (best == null or worker.input_count < best.?.input_count) best = worker;
        }
        return best;
    }

    fn discard(port: *Port) void {
        port.memory.unmapAll();
        if (port.log) |log| log.destroy();
        replace(&port.log_bell, -1);
        port.destroy();
    }

    fn hold(engine: *Engine) error{Stuck}!void {
        if (engine.at_rest) return;
        const workers = engine.workers[0..engine.worker_count];
        for (workers) |worker| worker.ask();
        const deadline = sys.nanoseconds() + engine.patience();
        for (workers) |worker| worker.await(deadline) catch {
            engine.release();
            return error.Stuck;
        };
    }

    fn patience(engine: *const Engine) u64 {
        for (engine.fabric.ports) |port| {
            if (port) |each| if (each.memory.post_copy.listens) return hold_post_copy_ns;
        }
        return hold_ns;
    }

    fn release(engine: *Engine) void {
        if (engine.at_rest) return;
        for (engine.workers[0..engine.worker_count]) |worker| worker.release();
    }
};

test "a lane to a port that was closed does not lead to the next port of its number" {
    const engine: *Engine = try .create(.{ .ports_max = 2, .mac_age_ms = 1000 });
    defer engine.destroy();
    for (0..2) |number| try std.testing.expectEqual(number, try engine.openPort(.{ .queue_pairs = 1, .mtu = 0 }));
    const first = engine.fabric.ports[0].?;
    var lane = std.mem.zeroes(abi.Lane);
    lane.target = 1;
    try engine.setLane(first, lane);
    try engine.closePort(engine.fabric.ports[1].?);
    try std.testing.expectEqual(1, try engine.openPort(.{ .queue_pairs = 1, .mtu = 0 }));
    try std.testing.expectEqual(port_file.nowhere, first.lane.target);
}

/// A port that serves a guest, and one that drives its rings.
const Loop = struct {
    engine: *Engine,
    guest: *Guest,
    serving: *Port,
    driving: *Port,
    arena: []u8,

    fn create(features: u64) !Loop {
        const engine: *Engine = try .create(.{ .ports_max = 2, .mac_age_ms = 1000 });
        var config = std.mem.zeroes(abi.GuestConfig);
        config.features = features;
        config.queue_pairs = 1;
        config.ring_size = 64;
        config.buffer_bytes = 2048;
        config.frame_bytes_max = 65535;
        const guest: *Guest = try .open(config);
        for (0..2) |_| _ = try engine.openPort(.{ .queue_pairs = 1, .mtu = 0 });
        const ports = engine.fabric.ports;
        const loop: Loop = .{
            .engine = engine,
            .guest = guest,
            .serving = ports[0].?,
            .driving = ports[1].?,
            .arena = try std.testing.allocator.alloc(u8, 4 * abi.packet_room_max),
        };
        try engine.setMemory(loop.serving, &.{guest.region()}, &.{guest.fd});
        try engine.drive(loop.driving, guest);
        for (loop.serving.vrings, 0..) |*vring, index| try loop.serve(vring, @intCast(index));
        try engine.enableVring(&loop.driving.vrings[0], true);
        return loop;
    }

    fn serve(loop: Loop, vring: *Vring, index: u32) !void {
        const ring = loop.guest.vring(index);
        try loop.engine.startVring(loop.serving, vring, .{
            .features = loop.guest.config.features,
            .desc_gpa = ring.desc_gpa,
            .avail_gpa = ring.avail_gpa,
            .used_gpa = ring.used_gpa,
            .log_gpa = 0,
            .size = ring.size,
            .base = ring.base,
            .flags = 0,
        });
        try loop.engine.enableVring(vring, true);
    }

    fn destroy(loop: Loop) void {
        loop.engine.destroy();
        loop.guest.close();
        std.testing.allocator.free(loop.arena);
    }

    /// One frame of so many bytes of `filling`, out of one port and into the other.
    fn expectPasses(loop: Loop, from: *Port, to: *Port, length: u32, filling: u8) !void {
        var packets: [1]abi.Packet = .{.{ .offset = 64, .length = length, .header = @splat(0) }};
        @memset(loop.arena[64..][0..length], filling);
        try std.testing.expectEqual(1, try loop.engine.send(from, &from.vrings[0], loop.arena, &packets));
        @memset(loop.arena, 0);
        try std.testing.expectEqual(1, try loop.engine.receive(to, &to.vrings[1], loop.arena, &packets));
        try std.testing.expectEqual(length, packets[0].length);
        const bytes = loop.arena[packets[0].offset..][0..length];
        try std.testing.expect(std.mem.allEqual(u8, bytes, filling));
    }
};

test "what goes into a port that drives comes out of the one that serves, and back" {
    const version_1 = @as(u64, 1) << 32;
    const mergeable = @as(u64, 1) << 15;
    const more = version_1 | mergeable;
    for ([_]u64{ 0, version_1, more, more | 1 << 29, version_1 | 1 << 35 }) |features| {
        for ([_]u64{ 0, version_1 | 1 << 34 }) |format| {
            const loop: Loop = try .create(features | format);
            defer loop.destroy();
            var random: std.Random.DefaultPrng = .init(features);
            for (0..500) |i| {
                const most: u32 = if (features & mergeable == 0) 2000 else 65535;
                const length = random.random().intRangeAtMost(u32, 60, if (i % 8 == 0) most else 1514);
                try loop.expectPasses(loop.driving, loop.serving, length, @truncate(i));
                try loop.expectPasses(loop.serving, loop.driving, length, @truncate(i + 1));
            }
            try std.testing.expectEqual(500, loop.driving.sum(0).packets);
            try std.testing.expectEqual(500, loop.driving.sum(1).packets);
            try std.testing.expect(loop.guest.isBusy());
            try loop.engine.resetPort(loop.driving);
            try std.testing.expect(!loop.guest.isBusy());
        }
    }
}

/// A guest that sends without end, and a worker that takes what comes.
const Stream = struct {
    engine: *Engine,
    port: *Port,

    fn create(guest: *Guest) !Stream {
        const engine: *Engine = try .create(.{ .ports_max = 1, .mac_age_ms = 1000 });
        _ = try engine.addWorker(.{ .cpu = -1, .idle = .adaptive });
        _ = try engine.openPort(.{ .queue_pairs = 1, .mtu = 0 });
        const stream: Stream = .{ .engine = engine, .port = engine.fabric.ports[0].? };
        try engine.pause();
        try engine.setMemory(stream.port, &.{guest.region()}, &.{guest.fd});
        return stream;
    }

    /// At rest, from where the ring stands.
    fn start(stream: Stream, guest: *Guest, base: u32) !void {
        const ring = guest.vring(1);
        const vring = &stream.port.vrings[1];
        try stream.engine.startVring(stream.port, vring, .{
            .features = guest.config.features,
            .desc_gpa = ring.desc_gpa,
            .avail_gpa = ring.avail_gpa,
            .used_gpa = ring.used_gpa,
            .log_gpa = 0,
            .size = ring.size,
            .base = base,
            .flags = 0,
        });
        try stream.engine.enableVring(vring, true);
        stream.engine.proceed();
    }

    fn expectMore(stream: Stream) !void {
        const taken: *volatile u64 = &stream.port.vrings[1].stats.packets;
        const before = taken.*;
        for (0..5000) |_| {
            if (taken.* > before + 1000) return;
            sys.sleep(1_000_000);
        }
        return error.TestUnexpectedResult;
    }
};

test "rings at rest go on, in this engine and in the next, and no frame is missing" {
    const version_1 = @as(u64, 1) << 32;
    for ([_]u64{ version_1, version_1 | 1 << 34, version_1 | 1 << 34 | 1 << 29 }) |features| {
        var config = std.mem.zeroes(abi.GuestConfig);
        config.features = features;
        config.queue_pairs = 1;
        config.ring_size = 64;
        config.buffer_bytes = 2048;
        config.frame_bytes_max = 1514;
        const guest: *Guest = try .open(config);
        defer guest.close();
        var traffic = std.mem.zeroes(abi.GuestTraffic);
        traffic.source_mac = 0x0200_0000_000a;
        traffic.destination_mac = 0x0200_0000_000b;
        traffic.frame_bytes = 60;
        traffic.flows = 1;
        traffic.queues = 1;
        traffic.burst = 32;
        traffic.send = 1;
        traffic.wait = .yield;
        traffic.cpu = -1;
        try guest.start(traffic);
        var taken: u64 = 0;
        var base = guest.vring(1).base;
        for (0..4) |round| {
            const stream: Stream = try .create(guest);
            try stream.start(guest, base);
            try stream.expectMore();
            if (round % 2 == 0) {
                // Nobody went on in its place.
                try stream.engine.pause();
                const stats = stream.port.vrings[1].stats;
                sys.sleep(5_000_000);
                try std.testing.expectEqual(stats, stream.port.vrings[1].stats);
                stream.engine.proceed();
                try stream.expectMore();
            }
            if (round == 3) guest.stop();
            if (round == 3) sys.sleep(200_000_000);
            try stream.engine.pause();
            base = stream.port.vrings[1].state().base;
            taken += stream.port.vrings[1].stats.packets;
            stream.engine.destroy();
        }
        try std.testing.expectEqual(guest.stats.sent + guest.stats.announced, taken);
        try std.testing.expectEqual(0, guest.stats.broken);
    }
}

test "what a ring logs changes nothing else of it" {
    const more = @as(u64, 1) << 32 | 1 << 15 | 1 << 28;
    const loop: Loop = try .create(more);
    defer loop.destroy();
    const vring = &loop.serving.vrings[0];
    const before = vring.config;
    var config = std.mem.zeroes(abi.VringConfig);
    config.features = @as(u64, 1) << spec.Feature.log_all | 1 << 34;
    config.flags = spec.vring_log;
    config.log_gpa = 77;
    for ([_]u64{ more | 1 << spec.Feature.log_all, more }) |features| {
        try loop.engine.setVringLog(loop.serving, vring, config);
        try std.testing.expectEqual(features, vring.config.features);
        try std.testing.expectEqual(config.flags, vring.config.flags);
        try std.testing.expectEqual(config.log_gpa, vring.config.log_gpa);
        config = before;
    }
    try std.testing.expectEqual(before, vring.config);
}

test "more than a ring full waits, and is counted" {
    const loop: Loop = try .create(1 << 32);
    defer loop.destroy();
    const packets: [abi.packets_max]abi.Packet = @splat(.{ .offset = 64, .length = 60, .header = @splat(0) });
    const out = &loop.driving.vrings[0];
    try std.testing.expectEqual(64, try loop.engine.send(loop.driving, out, loop.arena, &packets));
    try std.testing.expectEqual(0, try loop.engine.send(loop.driving, out, loop.arena, &packets));
    try std.testing.expectEqual(64, out.stats.drop_no_buffer);
    var arrived: [abi.packets_max]abi.Packet = undefined;
    const from = &loop.serving.vrings[1];
    try std.testing.expectEqual(4, try loop.engine.receive(loop.serving, from, loop.arena, &arrived));
    try std.testing.expectEqual(4, try loop.engine.send(loop.driving, out, loop.arena, &packets));
}

test "the MTU of a port holds also where it drives" {
    const loop: Loop = try .create(1 << 32);
    defer loop.destroy();
    const out = &loop.driving.vrings[0];
    try loop.engine.setMtu(loop.driving, 1000);
    for ([_]u32{ 1018, 1019 }, 0..) |length, dropped| {
        const packet: abi.Packet = .{ .offset = 64, .length = length, .header = @splat(0) };
        try std.testing.expectEqual(1, try loop.engine.send(loop.driving, out, loop.arena, &.{packet}));
        try std.testing.expectEqual(dropped, out.stats.drop_too_big);
    }
}

/// Bytes of the ring and the buffers of a queue that may be changed, each with its share.
fn disturb(loop: Loop, random: std.Random) void {
    const ring = loop.guest.vring(0);
    const areas = [_]u64{ ring.desc_gpa, ring.avail_gpa, ring.used_gpa };
    for (0..random.intRangeAtMost(u32, 1, 4)) |_| {
        const gpa = if (random.boolean()) areas[random.uintLessThan(usize, areas.len)] else loop.guest.config.gpa;
        const reach: usize = if (gpa == loop.guest.config.gpa) 64 << 10 else 1024;
        const at: usize = @intCast(gpa - loop.guest.config.gpa + random.uintLessThan(usize, reach));
        if (random.boolean()) random.bytes(loop.guest.map[at..][0..4]) else loop.guest.map[at] +%= 1;
    }
}

test "a back end that writes anything anywhere breaks a ring at most" {
    const version_1 = @as(u64, 1) << 32;
    const choices = [_]u64{ 0, 1 << 15, 1 << 34, 1 << 34 | 1 << 15 | 1 << 35 };
    var broken: u32 = 0;
    for (choices, 0..) |choice, seed| {
        var random: std.Random.DefaultPrng = .init(seed);
        for (0..150) |_| {
            const loop: Loop = try .create(version_1 | choice);
            defer loop.destroy();
            for (0..20) |_| {
                const packets: [8]abi.Packet = @splat(.{ .offset = 64, .length = 1000, .header = @splat(0) });
                _ = try loop.engine.send(loop.serving, &loop.serving.vrings[0], loop.arena, &packets);
                _ = try loop.engine.send(loop.driving, &loop.driving.vrings[0], loop.arena, &packets);
                disturb(loop, random.random());
                var arrived: [abi.packets_max]abi.Packet = undefined;
                const count = try loop.engine.receive(loop.driving, &loop.driving.vrings[1], loop.arena, &arrived);
                for (arrived[0..count]) |packet| {
                    try std.testing.expect(packet.offset + @as(u64, packet.length) <= loop.arena.len);
                }
            }
            broken += @intFromBool(loop.driving.vrings[1].isBroken());
        }
    }
    try std.testing.expect(broken > 50);
}

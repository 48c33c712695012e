//! A port: one guest's memory and its rings. Ring 2i leads to the guest (toGuest), 2i+1 from it
//! (fromGuest), as numbered on the wire.

const std = @import("std");
const abi = @import("abi.zig");
const DirtyLog = @import("dirty_log.zig").DirtyLog;
const Doorbell = @import("doorbell.zig").Doorbell;
const Inflight = @import("inflight.zig").Inflight;
const journal_file = @import("journal.zig");
const Memory = @import("memory.zig").Memory;
const recovery = @import("recovery.zig");
const sys = @import("sys.zig");
const Vring = @import("vring.zig").Vring;

const Journal = journal_file.Journal;

/// The target of a lane whose port is closed.
pub const nowhere: u32 = abi.ports_max;

pub const Port = struct {
    number: u16,
    /// Longest frame to the guest, without its Ethernet header; 0: no limit.
    mtu: u32,
    /// As opened: what `mtu` is while the front end asks for no other.
    mtu_opened: u32,
    lane: abi.Lane,
    /// Of a port that drives the rings of a `Guest`: that they are in use there. null: it serves a guest.
    driven: ?*bool,
    memory: Memory,
    /// While the guest migrates.
    log: ?*DirtyLog,
    /// Eventfd of the front end's, to be signalled when there is something new in the log, or -1.
    log_bell: i32,
    /// What outlives us of its rings.
    journal: *Journal,
    /// The same, kept by the front end.
    inflight: ?*Inflight,
    /// Of a port whose guest is another one than we are in.
    doorbell: ?Doorbell,
    vrings: []align(64) Vring,
    /// The toGuest rings that are up, by queue. Rebuilt while workers are paused.
    receivers: [abi.queue_pairs_max]*Vring,
    receiver_count: u32,

    /// `attention` is signalled when a ring breaks.
    pub fn create(number: u16, config: abi.PortConfig, attention: i32) journal_file.Error!*Port {
        const allocator = std.heap.page_allocator;
        const port = try allocator.create(Port);
        errdefer allocator.destroy(port);
        port.number = number;
        port.mtu = config.mtu;
        port.mtu_opened = config.mtu;
        port.lane = std.mem.zeroes(abi.Lane);
        port.driven = null;
        port.memory.init();
        port.log = null;
        port.log_bell = -1;
        port.inflight = null;
        port.doorbell = null;
        port.receiver_count = 0;
        port.journal = try .create(2 * config.queue_pairs);
        errdefer port.journal.close();
        port.vrings = try allocator.alignedAlloc(Vring, .@"64", 2 * config.queue_pairs);
        for (port.vrings, 0..) |*vring, index| {
            vring.init(&port.memory, port.journal, @intCast(index), attention);
            vring.other = &port.vrings[index ^ 1];
        }
        return port;
    }

    /// No ring is started.
    pub fn adoptInflight(port: *Port, inflight: ?*Inflight) void {
        if (port.inflight) |before| before.destroy();
        port.inflight = inflight;
        for (port.vrings) |*vring| vring.inflight = inflight;
    }

    /// Another process had it until now. Rings rest since they were started.
    pub fn ownInflight(port: *Port) void {
        const inflight = port.inflight orelse return;
        inflight.owned = true;
        for (port.vrings) |*vring| vring.ownRegion();
    }

    /// Rings call by it, as `peer`'s vectors of their numbers, or by their eventfds. Workers are held.
    pub fn adoptDoorbell(port: *Port, doorbell: ?Doorbell, peer: u16) void {
        for (port.vrings, 0..) |*vring, index| {
            vring.bell = if (doorbell) |one| one.bell(peer, @intCast(index)) else null;
        }
        if (port.doorbell) |before| before.close();
        port.doorbell = doorbell;
    }

    /// Closes eventfds; memory and log must be gone by then.
    pub fn destroy(port: *Port) void {
        port.adoptInflight(null);
        port.adoptDoorbell(null, 0);
        for (port.vrings) |*vring| {
            for ([_]i32{ vring.kick, vring.call, vring.err }) |fd| if (fd >= 0) sys.close(fd);
        }
        port.journal.close();
        std.heap.page_allocator.free(port.vrings);
        std.heap.page_allocator.destroy(port);
    }

    /// Workers may be there: no ring is started.
    pub fn adoptJournal(port: *Port, journal: *Journal) void {
        port.journal = journal;
        for (port.vrings) |*vring| {
            vring.journal = journal;
            vring.record = journal.record(vring.number);
        }
    }

    pub fn isFromGuest(port: *const Port, vring: *const Vring) bool {
        return (vring - port.vrings.ptr) & 1 != 0;
    }

    pub fn findReceivers(port: *Port) void {
        port.receiver_count = 0;
        var index: usize = 0;
        while (index < port.vrings.len) : (index += 2) {
            const vring = &port.vrings[index];
            if (!vring.isUp()) continue;
            port.receivers[port.receiver_count] = vring;
            port.receiver_count += 1;
        }
    }

    /// Counters of one direction, summed: `first` is 0 for toGuest, 1 for fromGuest.
    pub fn sum(port: *const Port, first: usize) abi.VringStats {
        var total = std.mem.zeroes(abi.VringStats);
        var index = first;
        while (index < port.vrings.len) : (index += 2) {
            inline for (@typeInfo(abi.VringStats).@"struct".field_names) |name| {
                @field(total, name) += @field(port.vrings[index].stats, name);
            }
        }
        return total;
    }

    /// If the front end truncated a file, no ring of this port can go on. Any thread.
    pub fn breakIfFaulty(port: *Port) void {
        const logless = if (port.log) |log| log.isFaulty() else false;
        // What was on its way to a packed ring is gone.
        const recordless = port.journal.isLost();
        if (!logless and !recordless and !port.memory.isFaulty()) return;
        for (port.vrings) |*vring| {
            if (!vring.started or vring.isBroken()) continue;
            if (recordless or port.memory.isFaulty()) vring.breakBy(error.MemoryFault) else vring.loseLog();
        }
    }

    /// A ring marks in the log there is, and is settled as soon as it may write. What rested meanwhile may have lost
    /// its memory. Workers are held.
    pub fn adoptLog(port: *Port, vring: *Vring) void {
        vring.adoptLog(port.log);
        if (vring.unsettled and !vring.isBroken()) recovery.settle(vring, port.isFromGuest(vring));
        port.breakIfFaulty();
    }
};

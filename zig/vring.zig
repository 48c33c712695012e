//! One virtqueue of a port, of either format, with its eventfds and counters.
//!
//! The control thread configures it while the workers are paused. A fromGuest ring then belongs to
//! one worker; a toGuest ring to whoever holds its lock.

const std = @import("std");
const abi = @import("abi.zig");
const Bell = @import("doorbell.zig").Bell;
const Segment = @import("chain.zig").Segment;
const DirtyLog = @import("dirty_log.zig").DirtyLog;
const DriverQueue = @import("driver_queue.zig").DriverQueue;
const inflight_file = @import("inflight.zig");
const journal_file = @import("journal.zig");
const Memory = @import("memory.zig").Memory;
const Packed = @import("packed.zig").Packed;
const spec = @import("spec.zig");
const Split = @import("split.zig").Split;
const sys = @import("sys.zig");
const UplinkQueue = @import("uplink_queue.zig").UplinkQueue;
const vring_entry = @import("vring_entry.zig");

const Inflight = inflight_file.Inflight;
const Journal = journal_file.Journal;
const Record = journal_file.Record;

pub const Error = error{ Unmapped, AlreadyStarted, NotStarted, System } || inflight_file.Error;

pub const Format = enum { split, packed_ring };

const Ring = union { split: Split, packed_ring: Packed };

const Areas = struct { desc: [*]u8, avail: [*]u8, used: [*]u8 };

pub const Peer = union(enum) {
    /// We are the device.
    guest,
    /// We are the driver.
    back_end: *DriverQueue,
    /// There is no ring.
    uplink: *UplinkQueue,
};

pub const Vring = struct {
    memory: *Memory,
    /// What outlives us of this ring, by its number in the port's journal.
    journal: *Journal,
    number: u32,
    record: *Record,
    /// What the front end keeps for us of all its rings.
    inflight: ?*Inflight,
    /// The other ring of the queue pair.
    other: ?*Vring,
    /// It was started where somebody had left it,
    taken_up: bool,
    /// and what that one had in hand is not settled yet.
    unsettled: bool,
    format: Format,
    ring: Ring,
    config: abi.VringConfig,
    header_bytes: u32,
    /// Of `Memory.translate`: used by whoever works on the ring.
    hint: u32,
    started: bool,
    enabled: bool,
    broken: std.atomic.Value(u32),
    lock: Lock,
    kick: i32,
    call: i32,
    err: i32,
    /// In the place of `call`, where the driver is in another guest than we.
    bell: ?Bell,
    /// The engine's eventfd, signalled when the ring breaks.
    attention: i32,
    /// Where what we write into the guest's buffers is marked, and what we write into the ring, while it migrates.
    buffer_log: ?*DirtyLog,
    used_log: ?*DirtyLog,
    /// Of a ring from a guest: so often we are to say where it is, in its name, as soon as the ring is up.
    announce_count: u32,
    announce_mac: u64,
    /// Of a ring from a guest on a lane: frames of ours that are to go first, and the flow of the next one.
    first: u32,
    flow: u32,
    /// Whom it leads to. But for a guest nothing else above counts but the fds: `kick` is what wakes us, `call` what
    /// wakes a back end.
    peer: Peer,
    stats: abi.VringStats,

    pub fn init(vring: *Vring, memory: *Memory, journal: *Journal, number: u32, attention: i32) void {
        vring.* = .{
            .memory = memory,
            .journal = journal,
            .number = number,
            .record = journal.record(number),
            .inflight = null,
            .other = null,
            .taken_up = false,
            .unsettled = false,
            .format = .split,
            .ring = undefined,
            .config = std.mem.zeroes(abi.VringConfig),
            .header_bytes = 0,
            .hint = 0,
            .started = false,
            .enabled = false,
            .broken = .init(0),
            .lock = .{},
            .kick = -1,
            .call = -1,
            .err = -1,
            .bell = null,
            .attention = attention,
            .buffer_log = null,
            .used_log = null,
            .announce_count = 0,
            .announce_mac = 0,
            .first = 0,
            .flow = 0,
            .peer = .guest,
            .stats = std.mem.zeroes(abi.VringStats),
        };
    }

    /// Started, enabled and whole: packets may pass.
    pub fn isUp(vring: *const Vring) bool {
        return vring.started and vring.enabled and !vring.isBroken();
    }

    pub fn isBroken(vring: *const Vring) bool {
        return vring.broken.load(.monotonic) != 0;
    }

    /// Checks everything before it changes anything.
    pub fn start(vring: *Vring, config: abi.VringConfig) Error!void {
        if (vring.started) return error.AlreadyStarted;
        const format: Format = if (spec.has(config.features, spec.Feature.ring_packed)) .packed_ring else .split;
        if (config.size == 0 or config.size > abi.vring_size_max) return error.InvalidArgument;
        const areas = try vring.locate(format, config);
        switch (format) {
            .split => {
                if (!std.math.isPowerOfTwo(config.size)) return error.InvalidArgument;
                if (config.base > 0xffff) return error.InvalidArgument;
                vring.ring = .{ .split = undefined };
                try vring.startRing(&vring.ring.split, areas, config);
            },
            .packed_ring => {
                if (config.base & 0x7fff >= config.size) return error.InvalidArgument;
                if (config.base >> 16 & 0x7fff >= config.size) return error.InvalidArgument;
                const shadow = try vring.journal.shadow(vring.number, config.size);
                vring.ring = .{ .packed_ring = undefined };
                vring.ring.packed_ring.shadow = shadow;
                try vring.startRing(&vring.ring.packed_ring, areas, config);
            },
        }
        vring.format = format;
        vring.config = config;
        vring.header_bytes = spec.NetHeader.size(config.features);
        vring.broken.store(0, .monotonic);
        vring.started = true;
        vring.disarm();
    }

    /// Whether the ring is one that was left in the middle, by its record. A front end that moves packets itself while
    /// nobody is there writes to the event area, too; but QEMU does so only for what the guest sends, and a driver
    /// begins with all of its rings anew.
    fn isKnown(vring: *const Vring, config: abi.VringConfig, event: u32) bool {
        // One that is still on its way was left elsewhere; and to look would be to wait for its pages.
        if (vring.memory.post_copy.listens or !vring.record.isOf(config)) return false;
        return vring.record.knows(event) or if (vring.other) |other| other.isAsLeft() else false;
    }

    /// Whether it was as somebody left it when it started, or is before it does.
    fn isAsLeft(vring: *Vring) bool {
        if (vring.started) return vring.taken_up;
        const record = vring.record;
        if (!record.isWhole()) return false;
        var event: u32 = 0;
        const at = if (record.isPacked()) 0 else Split.eventOffset(record.size);
        const bytes = std.mem.asBytes(&event)[0..if (record.isPacked()) 4 else 2];
        return vring.memory.read(record.used_gpa +% at, bytes, &vring.hint) and record.knows(event);
    }

    /// Finds out where the ring is: by its record, if that knows it; else by the front end's region, if somebody left
    /// the ring there; else as the front end says.
    fn startRing(vring: *Vring, ring: anytype, areas: Areas, config: abi.VringConfig) Error!void {
        const Region = @TypeOf(ring.*).Region;
        ring.size = config.size;
        ring.event_idx = spec.has(config.features, spec.Feature.event_idx);
        ring.record = vring.record;
        ring.place(areas.desc, areas.avail, areas.used);
        const created = if (vring.inflight) |all| try Region.create(all, vring.number, config.size) else null;
        errdefer if (created) |one| one.destroy();
        // While another process has it, it is neither read nor written.
        const region = if (vring.ownsRegion()) created else null;
        vring.taken_up = vring.isKnown(config, ring.eventWord());
        vring.unsettled = vring.taken_up;
        if (vring.unsettled) {
            ring.start(ring.knownBase());
            // What the record says goes beyond it.
            if (region) |one| one.end();
        } else {
            // The driver has begun anew: if we die before the other ring of the pair starts, this one is as we left it,
            // and that one is still not.
            if (vring.record.isOf(config)) if (vring.other) |other| if (!other.started) other.record.end();
            vring.record.end();
            const left = if (region) |one| try ring.takeUp(one) else false;
            if (!left) ring.start(ring.toldBase(config.base));
            vring.unsettled = left and region.?.heldCount() > 0;
            if (!vring.unsettled) beginRecord(ring, config);
            if (!left) if (region) |one| ring.beginRegion(one);
        }
        ring.region = created;
    }

    /// The ring's record begins anew, from where the ring is.
    fn beginRecord(ring: anytype, config: abi.VringConfig) void {
        ring.record.begin(config, ring.baseOf(), ring.eventWord());
    }

    /// What was held by the region is settled: the record knows the ring from now on. Where it was settled by the
    /// record, the region begins anew, if it is ours.
    pub fn trackAnew(vring: *Vring, by_record: bool) void {
        if (by_record and !vring.ownsRegion()) return;
        switch (vring.format) {
            .split => trackRing(&vring.ring.split, vring.config, by_record),
            .packed_ring => trackRing(&vring.ring.packed_ring, vring.config, by_record),
        }
    }

    fn trackRing(ring: anytype, config: abi.VringConfig, by_record: bool) void {
        if (!by_record) return beginRecord(ring, config);
        if (ring.region) |region| ring.beginRegion(region);
    }

    /// The region is ours from now on. The ring rests since it was started.
    pub fn ownRegion(vring: *Vring) void {
        if (vring.isTracked()) vring.trackAnew(true);
    }

    fn ownsRegion(vring: *const Vring) bool {
        return if (vring.inflight) |all| all.owned else false;
    }

    /// Starts a ring whose driver we are, and owns its queue. One that sends is to be enabled when the device is ready.
    pub fn drive(vring: *Vring, queue: *DriverQueue) Error!void {
        if (vring.started) return error.AlreadyStarted;
        vring.peer = .{ .back_end = queue };
        vring.broken.store(0, .monotonic);
        vring.started = true;
        vring.enabled = queue.receives;
        vring.disarm();
    }

    /// Starts what is no ring, but leads to an interface, and owns its queue.
    pub fn attach(vring: *Vring, queue: *UplinkQueue) Error!void {
        if (vring.started) return error.AlreadyStarted;
        vring.peer = .{ .uplink = queue };
        vring.broken.store(0, .monotonic);
        vring.started = true;
        vring.enabled = true;
    }

    /// Where it stopped, its front end is to know.
    pub fn stop(vring: *Vring) Error!abi.VringState {
        if (vring.isTracked() and vring.ownsRegion() and !vring.unsettled) switch (vring.format) {
            .split => if (vring.ring.split.region) |region| region.end(),
            .packed_ring => if (vring.ring.packed_ring.region) |region| region.end(),
        };
        const last = try vring.leave();
        vring.record.end();
        return last;
    }

    /// Its front end is gone, and knows not where it was.
    pub fn leave(vring: *Vring) Error!abi.VringState {
        if (!vring.started) return error.NotStarted;
        const last = vring.state();
        if (vring.isTracked()) switch (vring.format) {
            .split => if (vring.ring.split.region) |region| region.destroy(),
            .packed_ring => if (vring.ring.packed_ring.region) |region| region.destroy(),
        };
        vring.started = false;
        vring.buffer_log = null;
        vring.used_log = null;
        vring.announce_count = 0;
        switch (vring.peer) {
            .guest => {},
            inline else => |queue| queue.destroy(),
        }
        vring.peer = .guest;
        return last;
    }

    pub fn state(vring: *const Vring) abi.VringState {
        const base = if (!vring.started) 0 else switch (vring.peer) {
            .guest => switch (vring.format) {
                .split => vring.ring.split.baseOf(),
                .packed_ring => vring.ring.packed_ring.baseOf(),
            },
            .back_end => 0,
            .uplink => |queue| queue.position(),
        };
        return .{
            .base = base,
            .started = @intFromBool(vring.started),
            .enabled = @intFromBool(vring.enabled),
            .broken = vring.broken.load(.monotonic),
        };
    }

    /// What was taken from a guest is in our hands from now on.
    pub inline fn noteTaken(vring: *Vring, heads: []const vring_entry.Head) void {
        vring.record.take(switch (vring.format) {
            .split => vring.ring.split.next_avail,
            .packed_ring => vring.ring.packed_ring.avail.word(),
        });
        if (vring.inflight != null) vring.noteHeads(heads);
    }

    noinline fn noteHeads(vring: *Vring, heads: []const vring_entry.Head) void {
        switch (vring.format) {
            .split => vring.ring.split.note(heads),
            .packed_ring => vring.ring.packed_ring.note(heads),
        }
    }

    /// Whether it is a running ring of a guest whose front end keeps memory for us.
    fn isTracked(vring: *const Vring) bool {
        return vring.started and vring.peer == .guest and vring.inflight != null;
    }

    /// Whether the areas of a running ring can still be found.
    pub fn canPlace(vring: *Vring) bool {
        if (vring.peer != .guest) return true;
        _ = vring.locate(vring.format, vring.config) catch return false;
        return true;
    }

    /// Finds the areas of a running ring anew, after its memory was mapped elsewhere.
    pub fn place(vring: *Vring) Error!void {
        if (vring.peer != .guest) return;
        const areas = try vring.locate(vring.format, vring.config);
        switch (vring.format) {
            .split => vring.ring.split.place(areas.desc, areas.avail, areas.used),
            .packed_ring => vring.ring.packed_ring.place(areas.desc, areas.avail, areas.used),
        }
    }

    fn locate(vring: *Vring, format: Format, config: abi.VringConfig) Error!Areas {
        const layout = switch (format) {
            .split => Split.layout(config.size),
            .packed_ring => Packed.layout(config.size),
        };
        if (config.desc_gpa % layout.desc_align != 0) return error.Misaligned;
        if (config.avail_gpa % layout.avail_align != 0) return error.Misaligned;
        if (config.used_gpa % layout.used_align != 0) return error.Misaligned;
        const memory = vring.memory;
        const areas: Areas = .{
            .desc = memory.translate(config.desc_gpa, layout.desc_bytes, &vring.hint) orelse return error.Unmapped,
            .avail = memory.translate(config.avail_gpa, layout.avail_bytes, &vring.hint) orelse return error.Unmapped,
            .used = memory.translate(config.used_gpa, layout.used_bytes, &vring.hint) orelse return error.Unmapped,
        };
        // A region may begin anywhere in its file; what the driver aligned must be so here, too.
        if (@intFromPtr(areas.desc) % layout.desc_align != 0) return error.Misaligned;
        if (@intFromPtr(areas.avail) % layout.avail_align != 0) return error.Misaligned;
        if (@intFromPtr(areas.used) % layout.used_align != 0) return error.Misaligned;
        return areas;
    }

    // While the guest migrates.

    /// Whether what goes into the guest by this ring must be marked.
    pub fn migrates(vring: *const Vring) bool {
        return vring.started and vring.peer == .guest and
            (spec.has(vring.config.features, spec.Feature.log_all) or vring.config.flags & spec.vring_log != 0);
    }

    /// Marks go to `log` from now on, if the front end wants any. As long as it wants some and there is no log that
    /// holds them the ring rests: what is not marked the guest would not have where it migrates to.
    pub fn adoptLog(vring: *Vring, log: ?*DirtyLog) void {
        const wanted = vring.migrates();
        const whole = if (log) |one| !one.isFaulty() else false;
        vring.used_log = if (wanted and whole) log else null;
        vring.buffer_log = if (spec.has(vring.config.features, spec.Feature.log_all)) vring.used_log else null;
        if (wanted and !whole) {
            // Not told at once: a device that starts anew while its guest migrates has its log a moment later.
            _ = vring.rest();
            return;
        }
        _ = vring.broken.cmpxchgStrong(@backingInt(abi.VringBroken.no_log), 0, .release, .monotonic);
        // What was written before, by us or by somebody who died over it, may be unmarked.
        if (vring.used_log) |one| vring.markRing(one);
    }

    /// Any thread. False: it did before.
    fn rest(vring: *Vring) bool {
        return vring.broken.cmpxchgStrong(0, @backingInt(abi.VringBroken.no_log), .release, .monotonic) == null;
    }

    /// The log is lost. Any thread.
    pub fn loseLog(vring: *Vring) void {
        if (vring.migrates() and vring.rest()) _ = sys.eventfdSignal(vring.attention);
    }

    /// The log's address of what we write into: the used area, or packed descriptors. For the latter nothing is said
    /// but where they are (vhost-user, Migration, names the used ring).
    fn usedAddress(vring: *const Vring) u64 {
        if (vring.format == .packed_ring) return vring.config.desc_gpa;
        return vring.deviceAddress();
    }

    /// The same of the area that is the device's: used, or packed, its event suppression.
    fn deviceAddress(vring: *const Vring) u64 {
        return if (vring.config.flags & spec.vring_log != 0) vring.config.log_gpa else vring.config.used_gpa;
    }

    fn markRing(vring: *Vring, log: *DirtyLog) void {
        var marking = log.begin();
        switch (vring.format) {
            .split => marking.add(vring.deviceAddress(), Split.layout(vring.config.size).used_bytes),
            .packed_ring => {
                const layout = Packed.layout(vring.config.size);
                marking.add(vring.deviceAddress(), layout.used_bytes);
                marking.add(vring.usedAddress(), layout.desc_bytes);
            },
        }
        vring.stats.log_pages += marking.finish();
    }

    /// After a flush.
    pub inline fn markUsed(vring: *Vring, used: vring_entry.Used) void {
        if (vring.used_log) |log| if (used.any) vring.markUsedIn(log, used);
    }

    noinline fn markUsedIn(vring: *Vring, log: *DirtyLog, used: vring_entry.Used) void {
        var marking = log.begin();
        switch (vring.format) {
            .split => vring.ring.split.markUsed(&marking, vring.usedAddress(), used),
            .packed_ring => vring.ring.packed_ring.markUsed(&marking, vring.usedAddress(), used),
        }
        vring.stats.log_pages += marking.finish();
    }

    fn markEvent(vring: *Vring) void {
        const log = vring.used_log orelse return;
        var marking = log.begin();
        switch (vring.format) {
            .split => vring.ring.split.markEvent(&marking, vring.deviceAddress()),
            .packed_ring => vring.ring.packed_ring.markEvent(&marking, vring.deviceAddress()),
        }
        vring.stats.log_pages += marking.finish();
    }

    /// Marks buffers after they were written, and before they are shown as used: if we die in between, nobody reads
    /// what is not marked.
    pub fn markBuffers(vring: *Vring, log: *DirtyLog, written: []const Segment) void {
        var marking = log.begin();
        for (written) |each| marking.add(vring.memory.addressOf(each.base, &vring.hint), each.len);
        vring.stats.log_pages += marking.finish();
    }

    /// Nothing more goes through the ring until it is started again. Told once, for the first reason;
    /// but what the zeros of a truncated file look like is not the driver's doing.
    pub fn breakBy(vring: *Vring, reason: anyerror) void {
        const broken: abi.VringBroken = if (vring.memory.faultReason()) |known| known else switch (reason) {
            error.BadAvailIndex, error.BadUsedIndex => .bad_avail_index,
            error.BadHead, error.BadUsedId => .bad_head,
            error.BadPackedId => .bad_packed_id,
            error.CallBlocked => .call_blocked,
            error.InterfaceGone => .interface_gone,
            else => .memory_fault,
        };
        if (vring.broken.cmpxchgStrong(0, @backingInt(broken), .release, .monotonic) != null) return;
        if (vring.err >= 0) _ = sys.eventfdSignal(vring.err);
        _ = sys.eventfdSignal(vring.attention);
    }

    pub fn arm(vring: *Vring) void {
        switch (vring.peer) {
            .guest => {
                if (vring.isBroken()) return;
                switch (vring.format) {
                    .split => vring.ring.split.arm(),
                    .packed_ring => vring.ring.packed_ring.arm(),
                }
                vring.markEvent();
            },
            .back_end => |queue| queue.arm(),
            .uplink => {},
        }
    }

    pub fn disarm(vring: *Vring) void {
        switch (vring.peer) {
            .guest => {
                if (vring.isBroken()) return;
                switch (vring.format) {
                    .split => vring.ring.split.disarm(),
                    .packed_ring => vring.ring.packed_ring.disarm(),
                }
                vring.markEvent();
            },
            .back_end => |queue| queue.disarm(),
            .uplink => {},
        }
    }

    /// A frame in the guest's name is to go before all others.
    pub inline fn announces(vring: *const Vring) bool {
        return vring.announce_count > 0 and vring.enabled;
    }

    pub fn pending(vring: *const Vring) bool {
        return switch (vring.peer) {
            .guest => switch (vring.format) {
                .split => vring.ring.split.pending(),
                .packed_ring => vring.ring.packed_ring.pending(),
            },
            inline else => |queue| queue.pending(),
        };
    }

    /// Calls the driver if it wants to be. A full fence lies between the flush and this. Two workers
    /// may be here for one ring, hence the atomic counters.
    pub fn notify(vring: *Vring, used: vring_entry.Used) void {
        const wanted = switch (vring.peer) {
            .guest => switch (vring.format) {
                .split => vring.ring.split.wantsCall(used),
                .packed_ring => vring.ring.packed_ring.wantsCall(used),
            },
            .back_end => |queue| queue.wantsKick(used),
            .uplink => return,
        };
        if (!wanted or (vring.call < 0 and vring.bell == null)) {
            _ = @atomicRmw(u64, &vring.stats.calls_suppressed, .Add, 1, .monotonic);
            return;
        }
        if (vring.bell) |bell| {
            bell.ring();
        } else if (!sys.eventfdSignal(vring.call)) {
            return vring.breakBy(error.CallBlocked);
        }
        _ = @atomicRmw(u64, &vring.stats.calls, .Add, 1, .monotonic);
    }

    pub fn fdOf(vring: *Vring, kind: abi.VringFd) *i32 {
        return switch (kind) {
            .kick => &vring.kick,
            .call => &vring.call,
            .err => &vring.err,
        };
    }
};

/// Held for one run of frames into one toGuest ring.
pub const Lock = struct {
    taken: std.atomic.Value(bool) = .init(false),

    pub inline fn acquire(lock: *Lock) void {
        while (lock.taken.swap(true, .acquire)) lock.wait();
    }

    pub inline fn release(lock: *Lock) void {
        lock.taken.store(false, .release);
    }

    /// The holder may have lost its core: do not burn ours for long.
    fn wait(lock: *Lock) void {
        @branchHint(.cold);
        var spins: u32 = 0;
        while (lock.taken.load(.monotonic)) : (spins += 1) {
            if (spins < 1000) std.atomic.spinLoopHint() else sys.yieldCpu();
        }
    }
};

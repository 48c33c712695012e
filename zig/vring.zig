//! One virtqueue of a port, of either format, with its eventfds and counters.
//!
//! The control thread configures it while the workers are paused. A fromGuest ring then belongs to
//! one worker; a toGuest ring to whoever holds its lock.

const std = @import("std");
const abi = @import("abi.zig");
const DriverQueue = @import("driver_queue.zig").DriverQueue;
const Memory = @import("memory.zig").Memory;
const Packed = @import("packed.zig").Packed;
const spec = @import("spec.zig");
const Split = @import("split.zig").Split;
const sys = @import("sys.zig");
const UplinkQueue = @import("uplink_queue.zig").UplinkQueue;
const vring_entry = @import("vring_entry.zig");

pub const Error = error{ InvalidArgument, Unmapped, Misaligned, AlreadyStarted, NotStarted };

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
    /// The engine's eventfd, signalled when the ring breaks.
    attention: i32,
    /// Of a ring from a guest on a lane: frames of ours that are to go first, and the flow of the next one.
    first: u32,
    flow: u32,
    /// Whom it leads to. But for a guest nothing else above counts but the fds: `kick` is what wakes us, `call` what
    /// wakes a back end.
    peer: Peer,
    stats: abi.VringStats,

    pub fn init(vring: *Vring, memory: *Memory, attention: i32) void {
        vring.* = .{
            .memory = memory,
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
            .attention = attention,
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
        const event_idx = spec.has(config.features, spec.Feature.event_idx);
        const areas = try vring.locate(format, config);
        switch (format) {
            .split => {
                if (!std.math.isPowerOfTwo(config.size)) return error.InvalidArgument;
                if (config.base > 0xffff) return error.InvalidArgument;
                vring.ring = .{ .split = undefined };
                vring.ring.split.size = config.size;
                vring.ring.split.event_idx = event_idx;
                vring.ring.split.place(areas.desc, areas.avail, areas.used);
                vring.ring.split.start(config.base);
            },
            .packed_ring => {
                if (config.base & 0x7fff >= config.size) return error.InvalidArgument;
                if (config.base >> 16 & 0x7fff >= config.size) return error.InvalidArgument;
                vring.ring = .{ .packed_ring = undefined };
                vring.ring.packed_ring.size = config.size;
                vring.ring.packed_ring.event_idx = event_idx;
                vring.ring.packed_ring.place(areas.desc, areas.avail, areas.used);
                vring.ring.packed_ring.start(config.base);
            },
        }
        vring.format = format;
        vring.config = config;
        vring.header_bytes = spec.NetHeader.size(config.features);
        vring.broken.store(0, .monotonic);
        vring.started = true;
        vring.disarm();
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

    pub fn stop(vring: *Vring) Error!abi.VringState {
        if (!vring.started) return error.NotStarted;
        const last = vring.state();
        vring.started = false;
        switch (vring.peer) {
            .guest => {},
            inline else => |queue| queue.destroy(),
        }
        vring.peer = .guest;
        return last;
    }

    pub fn state(vring: *const Vring) abi.VringState {
        const base = if (!vring.started or vring.peer != .guest) 0 else switch (vring.format) {
            .split => vring.ring.split.baseOf(),
            .packed_ring => vring.ring.packed_ring.baseOf(),
        };
        return .{
            .base = base,
            .started = @intFromBool(vring.started),
            .enabled = @intFromBool(vring.enabled),
            .broken = vring.broken.load(.monotonic),
        };
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

    /// Nothing more goes through the ring until it is started again. Told once, for the first reason;
    /// but what the zeros of a truncated file look like is not the driver's doing.
    pub fn breakBy(vring: *Vring, reason: anyerror) void {
        const broken: abi.VringBroken = if (vring.memory.isFaulty()) .memory_fault else switch (reason) {
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
            .guest => switch (vring.format) {
                .split => vring.ring.split.arm(),
                .packed_ring => vring.ring.packed_ring.arm(),
            },
            .back_end => |queue| queue.arm(),
            .uplink => {},
        }
    }

    pub fn disarm(vring: *Vring) void {
        switch (vring.peer) {
            .guest => switch (vring.format) {
                .split => vring.ring.split.disarm(),
                .packed_ring => vring.ring.packed_ring.disarm(),
            },
            .back_end => |queue| queue.disarm(),
            .uplink => {},
        }
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
        if (!wanted or vring.call < 0) {
            _ = @atomicRmw(u64, &vring.stats.calls_suppressed, .Add, 1, .monotonic);
            return;
        }
        if (!sys.eventfdSignal(vring.call)) return vring.breakBy(error.CallBlocked);
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

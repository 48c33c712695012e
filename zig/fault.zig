//! A file behind guest memory may be truncated by its owner at any time; the next access then
//! raises SIGBUS. The handler here puts zero pages under the whole mapping and counts, so that only
//! the port of that mapping is lost. A fault anywhere else goes on to whoever handled it before.

const std = @import("std");
const sys = @import("sys.zig");

pub const Counter = std.atomic.Value(u32);

/// Faults of all mappings: a worker that sees it change looks for the ports that it was in.
pub var total: Counter = .init(0);

/// Names a watched mapping.
pub const Guard = enum(u32) { none = std.math.maxInt(u32), _ };

const slots_max = 8192;

/// `start` is written last when a slot is taken and first when it is given back: the handler may
/// look at any moment, on any thread.
const Slot = struct {
    start: std.atomic.Value(usize) = .init(0),
    end: usize = 0,
    counter: *Counter = undefined,
    /// Its part of the counter.
    hits: Counter = .init(0),
};

var slots: [slots_max]Slot = @splat(.{});
var installed = std.atomic.Value(bool).init(false);
var previous: sys.SignalAction = undefined;

/// Watches a mapping until `forget`; as long, `counter` has its faults. Null: the table of slots is full.
pub fn watch(map: []align(std.heap.page_size_min) u8, counter: *Counter) ?Guard {
    if (!installed.swap(true, .acq_rel)) previous = sys.handleBusError(onBusError);
    const claimed = 1;
    for (&slots, 0..) |*slot, i| {
        if (slot.start.cmpxchgStrong(0, claimed, .acq_rel, .monotonic) != null) continue;
        slot.end = @intFromPtr(map.ptr) + map.len;
        slot.counter = counter;
        slot.start.store(@intFromPtr(map.ptr), .release);
        return @fromBackingInt(@intCast(i));
    }
    return null;
}

/// To be called before the mapping goes away, when nobody uses it any more.
pub fn forget(guard: Guard) void {
    if (guard == .none) return;
    const slot = &slots[@backingInt(guard)];
    _ = slot.counter.fetchSub(slot.hits.swap(0, .acquire), .release);
    slot.start.store(0, .release);
}

/// Does to a watched mapping what a fault in it would do.
pub fn lose(map: []align(std.heap.page_size_min) u8) void {
    for (&slots) |*slot| {
        if (slot.start.load(.acquire) == @intFromPtr(map.ptr)) _ = zero(slot);
    }
}

/// Safe in a signal handler.
fn zero(slot: *Slot) bool {
    const start = slot.start.load(.acquire);
    if (!sys.mapZeroPages(start, slot.end - start)) return false;
    _ = slot.hits.fetchAdd(1, .release);
    _ = slot.counter.fetchAdd(1, .release);
    _ = total.fetchAdd(1, .release);
    return true;
}

fn onBusError(signal: sys.Signal, info: *const sys.SignalInfo, context: ?*anyopaque) callconv(.c) void {
    const address = sys.faultAddress(info);
    for (&slots) |*slot| {
        const start = slot.start.load(.acquire);
        if (start <= 1 or address < start or address >= slot.end) continue;
        if (zero(slot)) return;
        break;
    }
    sys.chainSignal(&previous, signal, info, context);
}

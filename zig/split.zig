//! The device side of a split ring (virtio 2.7). Same methods as `packed.zig`, so that a burst is
//! written once and compiled for each.
//!
//! Buffers are taken in order and completed in the same order, which is all that IN_ORDER asks.

const std = @import("std");
const chain = @import("chain.zig");
const copy = @import("copy.zig").copy;
const Marking = @import("dirty_log.zig").Marking;
const inflight_split = @import("inflight_split.zig");
const Memory = @import("memory.zig").Memory;
const Record = @import("journal.zig").Record;
const spec = @import("spec.zig");
const vring_entry = @import("vring_entry.zig");

const Broken = vring_entry.Broken;
const Chain = vring_entry.Chain;
const Entry = vring_entry.Entry;
const Layout = vring_entry.Layout;
const Used = vring_entry.Used;

/// In the used area, behind flags and index.
const elements_at = 4;

/// Used elements go out in stores this many at a time.
const shadow_max = 64;

pub const Split = struct {
    desc: [*]align(16) const spec.Desc,
    /// flags, idx, ring[size], used_event.
    avail: [*]const u16,
    /// flags, idx.
    used: [*]u16,
    elements: [*]spec.UsedElement,
    avail_event: *u16,
    record: *Record,
    size: u32,
    event_idx: bool,
    next_avail: u16,
    /// The avail index as last seen.
    avail_idx: u16,
    /// `next_avail` at the last flush: what was taken since then still fills the ring.
    released: u16,
    /// The used index as the driver sees it, and as it will be.
    used_idx: u16,
    next_used: u16,
    /// What we have in hand of it is written there, too.
    region: ?*Region,
    shadow_count: u32,
    shadow: [shadow_max]spec.UsedElement align(8),

    comptime {
        std.debug.assert(shadow_max >= vring_entry.heads_max);
    }

    pub const Region = inflight_split.SplitRegion;

    pub fn layout(size: u32) Layout {
        return .{
            .desc_bytes = 16 * size,
            .desc_align = 16,
            .avail_bytes = 6 + 2 * size,
            .avail_align = 2,
            .used_bytes = 6 + 8 * size,
            .used_align = 4,
        };
    }

    /// Of the event index, in the used area.
    pub fn eventOffset(size: u32) u32 {
        return elements_at + 8 * size;
    }

    /// Points the ring at its memory; cursors stay.
    pub fn place(ring: *Split, desc: [*]u8, avail: [*]u8, used: [*]u8) void {
        ring.desc = @ptrCast(@alignCast(desc));
        ring.avail = @ptrCast(@alignCast(avail));
        ring.used = @ptrCast(@alignCast(used));
        ring.elements = @ptrCast(@alignCast(used + elements_at));
        ring.avail_event = @ptrCast(@alignCast(used + eventOffset(ring.size)));
    }

    /// Sets the cursors of a placed ring. The used index is the driver's copy: what was used stays
    /// used, whatever became of the back end that did it.
    pub fn start(ring: *Split, base: u32) void {
        ring.next_avail = @truncate(base);
        ring.avail_idx = ring.next_avail;
        ring.released = ring.next_avail;
        ring.used_idx = ring.usedIndex();
        ring.next_used = ring.used_idx;
        ring.shadow_count = 0;
        ring.region = null;
    }

    /// Sets the cursors behind what somebody else has in hand by `region`. False: it does not know this ring.
    pub fn takeUp(ring: *Split, region: *Region) error{OutOfMemory}!bool {
        const used_idx = ring.usedIndex();
        const avail_idx = @atomicLoad(u16, &ring.avail[1], .acquire);
        if (!try region.takeUp(.{
            .size = ring.size,
            .used_idx = used_idx,
            .avail_idx = avail_idx,
            .slots = ring.avail + 2,
        })) return false;
        ring.start(used_idx);
        // It may be another by now.
        ring.used_idx = used_idx;
        ring.next_used = used_idx;
        ring.next_avail +%= @intCast(region.heldCount());
        ring.avail_idx = ring.next_avail;
        return true;
    }

    /// Where we are is written to `region` from now on. Nothing is in hand.
    pub fn beginRegion(ring: *const Split, region: *Region) void {
        region.begin(ring.used_idx);
    }

    /// Where a ring goes on that its record knows.
    pub fn knownBase(ring: *const Split) u32 {
        return ring.usedIndex();
    }

    /// As GET_VRING_BASE answers it.
    pub fn baseOf(ring: *const Split) u32 {
        return ring.next_avail;
    }

    /// How many buffers the driver has got back, in all: as they go back in order, also where the next one is.
    pub fn usedIndex(ring: *const Split) u16 {
        return @atomicLoad(u16, &ring.used[1], .monotonic);
    }

    /// Where to begin, where nobody knows better than the front end. 0 is also what one says that keeps no positions,
    /// as DPDK's virtio-user; its ring does.
    pub fn toldBase(ring: *const Split, told: u32) u32 {
        return if (told == 0) ring.usedIndex() else told;
    }

    /// What the event area says, for the ring's record.
    pub fn eventWord(ring: *const Split) u32 {
        return @atomicLoad(u16, ring.avail_event, .monotonic);
    }

    /// The next buffer that the driver offers, not yet taken.
    pub inline fn next(ring: *Split) Broken!?Entry {
        @setRuntimeSafety(false);
        if (ring.next_avail == ring.avail_idx) {
            const idx = @atomicLoad(u16, &ring.avail[1], .acquire);
            if (idx == ring.next_avail) return null;
            const room = ring.size - (ring.next_avail -% ring.released);
            if (idx -% ring.next_avail > room) return error.BadAvailIndex;
            ring.avail_idx = idx;
        }
        const slot = ring.next_avail & (ring.size - 1);
        const head = @atomicLoad(u16, &ring.avail[2 + slot], .unordered);
        if (head >= ring.size) return error.BadHead;
        return entryOf(ring.fetch(head), head);
    }

    pub inline fn take(ring: *Split, count: u32) void {
        _ = count;
        ring.next_avail +%= 1;
    }

    /// Buffers of one descriptor each, one after the other. All that this takes is kept at hand; the ring stays where
    /// it was until `endRun`.
    pub const Run = struct {
        desc: [*]align(16) const spec.Desc,
        slots: [*]const u16,
        mask: u32,
        at: u32,
        left: u32,
        shadow: [*]spec.UsedElement,
        done: u32,

        /// The next buffer, if there is one in sight and its flags are these. Else `next` knows more.
        pub inline fn peek(run: *const Run, comptime flags: u16) ?Entry {
            @setRuntimeSafety(false);
            if (run.left == 0) return null;
            const head = @atomicLoad(u16, &run.slots[run.at & run.mask], .unordered);
            if (head > run.mask) return null;
            const entry = entryOf(fetchDesc(&run.desc[head]), head);
            return if (entry.flags & vring_entry.shape_flags == flags) entry else null;
        }

        pub inline fn take(run: *Run) void {
            @setRuntimeSafety(false);
            run.at += 1;
            run.left -= 1;
        }

        /// As `Split.complete`, of one that was taken in this run.
        pub inline fn complete(run: *Run, id: u16, len: u32) void {
            @setRuntimeSafety(false);
            run.shadow[run.done] = .{ .id = id, .len = len };
            run.done += 1;
        }
    };

    pub inline fn beginRun(ring: *Split) Run {
        @setRuntimeSafety(false);
        // What is wrong with an index `next` finds out.
        if (ring.next_avail == ring.avail_idx) _ = ring.next() catch {};
        return .{
            .desc = ring.desc,
            .slots = ring.avail + 2,
            .mask = ring.size - 1,
            .at = ring.next_avail,
            .left = @min(ring.avail_idx -% ring.next_avail, shadow_max - ring.shadow_count),
            .shadow = &ring.shadow,
            .done = ring.shadow_count,
        };
    }

    pub inline fn endRun(ring: *Split, run: Run) void {
        ring.next_avail = @truncate(run.at);
        ring.shadow_count = run.done;
    }

    pub inline fn position(ring: *const Split) u16 {
        return ring.next_avail;
    }

    pub fn rewind(ring: *Split, to: u16) void {
        ring.next_avail = to;
    }

    /// Reads the whole chain behind `entry` into `walk`.
    pub fn read(ring: *Split, entry: Entry, walk: *chain.Walk) Broken!Chain {
        const result: Chain = .{ .id = entry.id, .count = 1, .whole = true };
        ring.readDescs(entry, walk) catch return .{ .id = entry.id, .count = 1, .whole = false };
        return result;
    }

    fn readDescs(ring: *Split, head: Entry, walk: *chain.Walk) chain.Error!void {
        var desc = head;
        while (true) {
            // Direct descriptors may lead to one table, as the last (2.7.5.3.2).
            if (desc.flags & spec.desc_indirect != 0) return walk.table(true, desc.addr, desc.len, desc.flags);
            try walk.append(desc.addr, desc.len, desc.flags);
            if (desc.flags & spec.desc_next == 0) return;
            if (desc.next >= ring.size) return error.BadChain;
            desc = entryOf(ring.fetch(desc.next), head.id);
        }
    }

    /// Gives a buffer back; the driver sees it at `flush`. Never more than `size` between two of those.
    pub inline fn complete(ring: *Split, id: u16, len: u32, count: u32) void {
        @setRuntimeSafety(false);
        _ = count;
        if (ring.shadow_count == shadow_max) ring.spill();
        ring.shadow[ring.shadow_count] = .{ .id = id, .len = len };
        ring.shadow_count += 1;
    }

    /// Gives back what came from the guest, as it came. Nothing else was completed since the last flush.
    pub inline fn completeAll(ring: *Split, heads: *const [vring_entry.heads_max]vring_entry.Head, count: u32) void {
        @setRuntimeSafety(false);
        var at: u32 = 0;
        while (at < count) : (at += vring_entry.Heads.wide) {
            const ids = vring_entry.Heads.load(heads, at) & @as(vring_entry.Heads.Words, @splat(0xffff));
            @as(*align(8) vring_entry.Heads.Words, @ptrCast(&ring.shadow[at])).* = ids;
        }
        ring.shadow_count = count;
    }

    /// Writes collected elements behind the used index, where the driver does not look yet.
    fn spill(ring: *Split) void {
        @setRuntimeSafety(false);
        const at = ring.next_used & (ring.size - 1);
        const count = ring.shadow_count;
        const first = @min(count, ring.size - at);
        const source: [*]const u8 = @ptrCast(&ring.shadow);
        copy(@ptrCast(ring.elements + at), source, first * 8);
        if (first < count) copy(@ptrCast(ring.elements), source + first * 8, (count - first) * 8);
        ring.next_used +%= @truncate(count);
        ring.shadow_count = 0;
    }

    /// Heads are in our hands.
    pub fn note(ring: *Split, heads: []const vring_entry.Head) void {
        if (ring.region) |region| region.take(heads);
    }

    /// Shows the driver all that was completed, which is all that was taken.
    pub inline fn flush(ring: *Split) Used {
        return if (ring.region) |region| ring.showNoted(region) else ring.show();
    }

    /// What goes to the guest is never noted: as long as it is not shown it can be taken again. What comes from there
    /// is all in the shadow.
    noinline fn showNoted(ring: *Split, region: *Region) Used {
        const batch = ring.shadow[0..if (region.noted > 0) ring.shadow_count else 0];
        for (batch) |element| region.link(@truncate(element.id));
        const used = ring.show();
        for (batch) |element| region.unmark(@truncate(element.id));
        region.settle(ring.used_idx);
        return used;
    }

    inline fn show(ring: *Split) Used {
        @setRuntimeSafety(false);
        ring.released = ring.next_avail;
        if (ring.shadow_count > 0) ring.spill();
        const used: Used = .{ .from = ring.used_idx, .to = ring.next_used, .any = ring.used_idx != ring.next_used };
        if (used.any) {
            @atomicStore(u16, &ring.used[1], ring.next_used, .release);
            ring.used_idx = ring.next_used;
        }
        return used;
    }

    /// Marks what a flush wrote, in a used area that the log knows at `gpa`.
    pub fn markUsed(ring: *const Split, marking: *Marking, gpa: u64, used: Used) void {
        const at = used.from & (ring.size - 1);
        const count = used.to -% used.from;
        const first = @min(count, ring.size - at);
        marking.add(gpa, elements_at);
        marking.add(gpa +% elements_at + 8 * @as(u64, at), 8 * @as(u64, first));
        marking.add(gpa +% elements_at, 8 * @as(u64, count - first));
    }

    /// Marks what `arm` and `disarm` write.
    pub fn markEvent(ring: *const Split, marking: *Marking, gpa: u64) void {
        marking.add(gpa +% eventOffset(ring.size), 2);
        if (!ring.event_idx) marking.add(gpa, 2);
    }

    /// Whether the driver wants a call for what `flush` showed it (2.7.7.2). A full fence lies
    /// between the two.
    pub fn wantsCall(ring: *const Split, used: Used) bool {
        if (!ring.event_idx) return @atomicLoad(u16, &ring.avail[0], .monotonic) & spec.avail_no_interrupt == 0;
        const event = @atomicLoad(u16, &ring.avail[2 + ring.size], .monotonic);
        return vring_entry.crossed(event, used.from, used.to);
    }

    /// Asks for a kick at the next buffer. A full fence and `pending` must follow.
    pub fn arm(ring: *Split) void {
        if (ring.event_idx) ring.setEvent(ring.next_avail) else @atomicStore(u16, &ring.used[0], 0, .monotonic);
    }

    /// Asks for no kicks. With EVENT_IDX the event index is left behind; without, nobody reads it.
    pub fn disarm(ring: *Split) void {
        ring.setEvent(eventBehind(ring.next_avail, ring.record.cookie));
        if (!ring.event_idx) @atomicStore(u16, &ring.used[0], spec.used_no_notify, .monotonic);
    }

    fn setEvent(ring: *Split, event: u16) void {
        ring.record.expect(event);
        @atomicStore(u16, ring.avail_event, event, .monotonic);
    }

    pub fn pending(ring: *const Split) bool {
        return @atomicLoad(u16, &ring.avail[1], .acquire) != ring.next_avail;
    }

    inline fn fetch(ring: *const Split, index: u16) @Vector(2, u64) {
        @setRuntimeSafety(false);
        return fetchDesc(&ring.desc[index]);
    }
};

/// One 16-byte load: no field can be read twice.
inline fn fetchDesc(desc: *align(16) const spec.Desc) @Vector(2, u64) {
    return @as(*const volatile @Vector(2, u64), @ptrCast(desc)).*;
}

/// An index that the driver has passed before `next`, and will not pass again before it has offered far more than a
/// ring can hold; not 0, as in memory that nobody has written to.
pub fn eventBehind(next: u16, cookie: u32) u16 {
    const event = next -% 1 -% @as(u16, @truncate(cookie & 0x3fff));
    return if (event == 0) 0xffff else event;
}

inline fn entryOf(raw: @Vector(2, u64), id: u16) Entry {
    return .{
        .addr = raw[0],
        .len = @truncate(raw[1]),
        .flags = @truncate(raw[1] >> 32),
        .next = @truncate(raw[1] >> 48),
        .id = id,
    };
}

/// A ring of four whose memory is an array, for tests.
const Bench = struct {
    desc: [4]spec.Desc align(16) = @splat(.{ .addr = 0, .len = 0, .flags = 0, .next = 0 }),
    avail: [7]u16 = @splat(0),
    used: [20]u16 align(4) = @splat(0),
    record: Record = std.mem.zeroes(Record),
    ring: Split = undefined,

    fn start(bench: *Bench, base: u16) void {
        bench.avail[1] = base;
        bench.ring.record = &bench.record;
        bench.ring.size = 4;
        bench.ring.event_idx = false;
        bench.ring.place(@ptrCast(&bench.desc), @ptrCast(&bench.avail), @ptrCast(&bench.used));
        bench.ring.start(base);
    }

    fn takeAll(bench: *Bench) !u32 {
        var count: u32 = 0;
        while (try bench.ring.next()) |_| : (count += 1) bench.ring.take(1);
        return count;
    }
};

test "a driver cannot offer more than the ring holds until something comes back, nor take an offer back" {
    var bench: Bench = .{};
    bench.start(0xfffe);
    bench.avail[1] = 2;
    try std.testing.expectEqual(4, try bench.takeAll());
    for ([_]u16{ 3, 6, 1, 0xfffe }) |idx| {
        bench.avail[1] = idx;
        try std.testing.expectError(error.BadAvailIndex, bench.ring.next());
    }
    for (0..4) |id| bench.ring.complete(@intCast(id), 0, 1);
    try std.testing.expectEqual(Used{ .from = 0, .to = 4, .any = true }, bench.ring.flush());
    bench.avail[1] = 6;
    try std.testing.expectEqual(4, try bench.takeAll());
    // Only elements were written, and they have their ids.
    try std.testing.expectEqual(4, bench.used[1]);
    for (0..4) |i| try std.testing.expectEqual(i, bench.used[2 + 4 * i]);
    try std.testing.expectEqual(0, bench.used[18]);
}

test "a head beyond the ring breaks it, and so does more than a ring ahead" {
    var bench: Bench = .{};
    bench.start(0);
    bench.avail[1] = 1;
    bench.avail[2] = 4;
    try std.testing.expectError(error.BadHead, bench.ring.next());
    bench.start(0);
    bench.avail[1] = 5;
    try std.testing.expectError(error.BadAvailIndex, bench.ring.next());
}

//! The device side of a packed ring (virtio 2.8). Same methods as `split.zig`.
//!
//! Buffers are taken in order and completed in the same order, so that the used position follows
//! the avail position, chain by chain.

const std = @import("std");
const chain = @import("chain.zig");
const Marking = @import("dirty_log.zig").Marking;
const PackedRegion = @import("inflight_packed.zig").PackedRegion;
const Record = @import("journal.zig").Record;
const packed_place = @import("packed_place.zig");
const spec = @import("spec.zig");
const vring_entry = @import("vring_entry.zig");

const Broken = vring_entry.Broken;
const Chain = vring_entry.Chain;
const Entry = vring_entry.Entry;
const Layout = vring_entry.Layout;
const Place = packed_place.Place;
const Used = vring_entry.Used;
const isAvailable = packed_place.isAvailable;

const avail_used = spec.desc_avail | spec.desc_used;
const used_flags = @as(u64, avail_used) << 48;

pub const Packed = struct {
    desc: [*]align(16) spec.PackedDesc,
    driver_event: *align(4) const spec.Event,
    device_event: *align(4) spec.Event,
    record: *Record,
    /// What was completed since the last flush, as `Completion`s, with room for the whole ring. It outlives us.
    shadow: [*]u64,
    shadow_count: u32,
    size: u32,
    event_idx: bool,
    avail: Place,
    used: Place,
    /// What we have in hand of it is written there, too.
    region: ?*Region,

    pub const Region = PackedRegion;

    pub fn layout(size: u32) Layout {
        return .{
            .desc_bytes = 16 * size,
            .desc_align = 16,
            .avail_bytes = 4,
            .avail_align = 4,
            .used_bytes = 4,
            .used_align = 4,
        };
    }

    /// Points the ring at its memory; cursors stay.
    pub fn place(ring: *Packed, desc: [*]u8, avail: [*]u8, used: [*]u8) void {
        ring.desc = @ptrCast(@alignCast(desc));
        ring.driver_event = @ptrCast(@alignCast(avail));
        ring.device_event = @ptrCast(@alignCast(used));
    }

    /// Sets the cursors of a placed ring: bits 0-15 the avail place, 16-31 the used one. Peers that
    /// know the former only send zeros for the latter.
    pub fn start(ring: *Packed, base: u32) void {
        ring.avail = .of(@truncate(base));
        ring.used = if (base >> 16 == 0) ring.avail else .of(@truncate(base >> 16));
        ring.shadow_count = 0;
        ring.region = null;
    }

    /// Sets the cursors behind what somebody else has in hand by `region`. False: it does not know this ring.
    pub fn takeUp(ring: *Packed, region: *Region) error{OutOfMemory}!bool {
        const left = try region.takeUp(ring.desc, ring.size) orelse return false;
        ring.start(left.used.word());
        ring.take(left.taken);
        return true;
    }

    /// Where we are is written to `region` from now on. Nothing is in hand.
    pub fn beginRegion(ring: *const Packed, region: *Region) void {
        region.begin(ring.used);
    }

    /// Where a ring goes on that its record knows.
    pub fn knownBase(ring: *const Packed) u32 {
        return ring.record.usedPlace();
    }

    /// As GET_VRING_BASE answers it.
    pub fn baseOf(ring: *const Packed) u32 {
        return ring.avail.word() | @as(u32, ring.used.word()) << 16;
    }

    /// The next buffer that the driver offers, not yet taken.
    pub inline fn next(ring: *Packed) Broken!?Entry {
        @setRuntimeSafety(false);
        // Whatever a driver writes into descriptors that it has given away: there are no more than so many.
        if (ring.shadow_count >= ring.size) return null;
        const word = ring.fetch(ring.avail.index);
        if (!isAvailable(@truncate(word >> 48), ring.avail.wrap)) return null;
        const entry = ring.entryOf(ring.avail.index, word);
        // The id of a chain stands in its last descriptor (2.8.3).
        if (entry.id >= ring.size and entry.flags & spec.desc_next == 0) return error.BadPackedId;
        return entry;
    }

    pub inline fn take(ring: *Packed, count: u32) void {
        ring.avail.advance(count, ring.size);
    }

    /// Buffers of one descriptor each, one after the other. All that this takes is kept at hand; the ring stays where
    /// it was until `endRun`.
    pub const Run = struct {
        desc: [*]align(16) spec.PackedDesc,
        size: u32,
        index: u32,
        /// The flags of a descriptor that is offered in this lap.
        offered: u16,
        shadow: [*]u64,
        done: u32,

        /// The next buffer, if it is there and its flags are these. Else `next` knows more.
        pub inline fn peek(run: *const Run, comptime flags: u16) ?Entry {
            @setRuntimeSafety(false);
            if (run.done >= run.size) return null;
            const desc = &run.desc[run.index];
            const word = @atomicLoad(u64, wordOf(desc), .acquire);
            const found: u16 = @truncate(word >> 48);
            if (found & (avail_used | vring_entry.shape_flags) != run.offered | flags) return null;
            const entry = entryOfWord(desc, word);
            return if (entry.id < run.size) entry else null;
        }

        pub inline fn take(run: *Run) void {
            @setRuntimeSafety(false);
            run.index += 1;
            if (run.index == run.size) {
                @branchHint(.unlikely);
                run.index = 0;
                run.offered ^= avail_used;
            }
        }

        pub inline fn complete(run: *Run, id: u16, len: u32) void {
            @setRuntimeSafety(false);
            run.shadow[run.done] = @bitCast(Completion{ .len = len, .id = id, .count = 1 });
            run.done += 1;
        }
    };

    pub inline fn beginRun(ring: *Packed) Run {
        return .{
            .desc = ring.desc,
            .size = ring.size,
            .index = ring.avail.index,
            .offered = if (ring.avail.wrap) spec.desc_avail else spec.desc_used,
            .shadow = ring.shadow,
            .done = ring.shadow_count,
        };
    }

    pub inline fn endRun(ring: *Packed, run: Run) void {
        ring.avail = .{ .index = @truncate(run.index), .wrap = run.offered == spec.desc_avail };
        ring.shadow_count = run.done;
    }

    pub inline fn position(ring: *const Packed) Place {
        return ring.avail;
    }

    pub fn rewind(ring: *Packed, to: Place) void {
        ring.avail = to;
    }

    /// Reads the whole chain behind `head` into `walk`. The id stands in the last descriptor, and
    /// even a chain that cannot be used must be counted to its end.
    pub fn read(ring: *Packed, head: Entry, walk: *chain.Walk) Broken!Chain {
        var entry = head;
        var at = ring.avail;
        var result: Chain = .{ .id = head.id, .count = 1, .whole = true };
        while (true) : (result.count += 1) {
            if (result.whole) readDesc(entry, result.count, walk) catch {
                result.whole = false;
            };
            if (entry.flags & spec.desc_next == 0) break;
            if (result.count == ring.size) return error.BadPackedId;
            at.advance(1, ring.size);
            entry = ring.entryOf(at.index, ring.fetch(at.index));
        }
        if (entry.id >= ring.size) return error.BadPackedId;
        result.id = entry.id;
        return result;
    }

    fn readDesc(entry: Entry, count: u32, walk: *chain.Walk) chain.Error!void {
        if (entry.flags & spec.desc_indirect == 0) return walk.append(entry.addr, entry.len, entry.flags);
        if (count > 1) return error.BadChain;
        return walk.table(false, entry.addr, entry.len, entry.flags);
    }

    /// Counts a chain to its end without looking at its buffers, and takes it.
    pub fn skip(ring: *Packed, head: Entry) Broken!Chain {
        var entry = head;
        var result: Chain = .{ .id = head.id, .count = 1, .whole = false };
        var at = ring.avail;
        while (entry.flags & spec.desc_next != 0) : (result.count += 1) {
            if (result.count == ring.size) return error.BadPackedId;
            at.advance(1, ring.size);
            entry = ring.entryOf(at.index, ring.fetch(at.index));
        }
        if (entry.id >= ring.size) return error.BadPackedId;
        result.id = entry.id;
        ring.take(result.count);
        return result;
    }

    /// Gives a buffer back; the driver sees it at `flush`. Until then nothing of it is in the ring: if we die, the
    /// next one finds the driver's descriptors there.
    pub inline fn complete(ring: *Packed, id: u16, len: u32, count: u32) void {
        @setRuntimeSafety(false);
        const completion: Completion = .{ .len = len, .id = id, .count = @truncate(count) };
        ring.shadow[ring.shadow_count] = @bitCast(completion);
        ring.shadow_count += 1;
    }

    /// Gives back what came from the guest, as it came. Nothing else was completed since the last flush.
    pub inline fn completeAll(ring: *Packed, heads: *const [vring_entry.heads_max]vring_entry.Head, count: u32) void {
        @setRuntimeSafety(false);
        const whole = count & ~@as(u32, vring_entry.Heads.wide - 1);
        var at: u32 = 0;
        while (at < whole) : (at += vring_entry.Heads.wide) {
            const words = vring_entry.Heads.load(heads, at) << @splat(32);
            @as(*align(8) vring_entry.Heads.Words, @ptrCast(&ring.shadow[at])).* = words;
        }
        // The shadow is no larger than the ring.
        while (at < count) : (at += 1) {
            ring.shadow[at] = @bitCast(Completion{ .len = 0, .id = heads[at].id, .count = heads[at].count });
        }
        ring.shadow_count = count;
    }

    /// Chains are in our hands, behind what was given back.
    pub fn note(ring: *Packed, heads: []const vring_entry.Head) void {
        const region = ring.region orelse return;
        var at = ring.used;
        for (heads) |head| {
            region.take(head, ring.desc, at, ring.size);
            at.advance(head.count, ring.size);
        }
    }

    /// Shows the driver all that was completed.
    pub inline fn flush(ring: *Packed) Used {
        @setRuntimeSafety(false);
        if (ring.shadow_count == 0) return .{};
        return if (ring.region) |region| ring.showNoted(region) else ring.show();
    }

    /// What goes to the guest is noted only here: what was taken for it before is still the driver's to see.
    noinline fn showNoted(ring: *Packed, region: *Region) Used {
        const known = region.noted;
        var to = ring.used;
        for (ring.shadow[0..ring.shadow_count], 0..) |bits, i| {
            const completion: Completion = @bitCast(bits);
            const back: vring_entry.Head = .{ .id = completion.id, .count = completion.count };
            if (i >= known) region.take(back, ring.desc, to, ring.size);
            to.advance(completion.count, ring.size);
        }
        region.release(to);
        const used = ring.show();
        region.settle();
        return used;
    }

    inline fn show(ring: *Packed) Used {
        @setRuntimeSafety(false);
        const count = ring.shadow_count;
        const from = ring.used;
        ring.record.commit(from.word(), count);
        // The flags of the first, written last, show all of them.
        ring.used = ring.writeUsed(ring.shadow[0..count]);
        @atomicStore(u64, wordOf(&ring.desc[from.index]), usedWord(ring.shadow[0], lapFlags(from)), .release);
        ring.record.settle(ring.used.word());
        ring.shadow_count = 0;
        return .{ .from = from.word(), .to = ring.used.word(), .any = true };
    }

    /// Writes all used descriptors but the first; returns the place behind them.
    inline fn writeUsed(ring: *const Packed, completions: []const u64) Place {
        @setRuntimeSafety(false);
        const desc = ring.desc;
        const size = ring.size;
        var flags = lapFlags(ring.used);
        var index = ring.used.index + (completions[0] >> 48);
        var done: usize = 1;
        while (true) {
            while (done < completions.len and index < size) : (done += 1) {
                const bits = completions[done];
                @atomicStore(u64, wordOf(&desc[index]), usedWord(bits, flags), .monotonic);
                index += bits >> 48;
            }
            if (index >= size) {
                index -= size;
                flags ^= used_flags;
            }
            if (done == completions.len) return .{ .index = @truncate(index), .wrap = flags != 0 };
        }
    }

    /// Does what a flush that was cut off would have done, of so many completions in the shadow; nothing, if they
    /// cannot have been.
    pub fn finishFlush(ring: *Packed, count: u32) Used {
        if (!ring.canFlush(count)) return .{};
        if (ring.isOffered(ring.used)) {
            ring.shadow_count = count;
            return ring.flush();
        }
        // The driver has seen the first, and may have offered its descriptor again.
        for (ring.shadow[0..count]) |bits| ring.used.advance(@as(Completion, @bitCast(bits)).count, ring.size);
        ring.record.settle(ring.used.word());
        return .{};
    }

    fn canFlush(ring: *const Packed, count: u32) bool {
        if (count > ring.size) return false;
        var total: u32 = 0;
        for (ring.shadow[0..count]) |bits| {
            const completion: Completion = @bitCast(bits);
            if (completion.count == 0 or completion.id >= ring.size) return false;
            total += completion.count;
        }
        return total <= ring.size;
    }

    /// Whether the driver has offered what is at a place, and nobody has used it yet.
    fn isOffered(ring: *const Packed, at: Place) bool {
        return isAvailable(@truncate(ring.fetch(at.index) >> 48), at.wrap);
    }

    /// Marks what a flush wrote, in descriptors that the log knows at `gpa`.
    pub fn markUsed(ring: *const Packed, marking: *Marking, gpa: u64, used: Used) void {
        const from: Place = .of(used.from);
        const to: Place = .of(used.to);
        const begin = 16 * @as(u64, from.index);
        const end = 16 * @as(u64, to.index);
        if (from.wrap == to.wrap) return marking.add(gpa +% begin, end - begin);
        marking.add(gpa +% begin, 16 * @as(u64, ring.size) - begin);
        marking.add(gpa, end);
    }

    /// Marks what `arm` and `disarm` write, in a device area that the log knows at `gpa`.
    pub fn markEvent(_: *const Packed, marking: *Marking, gpa: u64) void {
        marking.add(gpa, @sizeOf(spec.Event));
    }

    /// Whether the driver wants a call for what `flush` showed it (2.8.10). A full fence lies
    /// between the two.
    pub fn wantsCall(ring: *const Packed, used: Used) bool {
        const raw = @atomicLoad(u32, @as(*const u32, @ptrCast(ring.driver_event)), .monotonic);
        const flags: u16 = @truncate(raw >> 16);
        if (flags == spec.Event.disable) return false;
        if (flags != spec.Event.at_desc or !ring.event_idx) return true;
        return packed_place.crossed(.of(@truncate(raw)), .of(used.from), .of(used.to), ring.size);
    }

    /// Asks for a kick at the next buffer. A full fence and `pending` must follow.
    pub fn arm(ring: *Packed) void {
        const event: spec.Event = if (ring.event_idx)
            .{ .offset_wrap = ring.avail.word(), .flags = spec.Event.at_desc }
        else
            .{ .offset_wrap = @truncate(ring.record.cookie), .flags = spec.Event.enable };
        ring.setEvent(event);
    }

    /// Asks for no kicks. What stands beside that nobody reads but who takes the ring up after us; it is not 0, as
    /// memory is that nobody has written to.
    pub fn disarm(ring: *Packed) void {
        ring.setEvent(.{ .offset_wrap = @truncate(ring.record.cookie), .flags = spec.Event.disable });
    }

    fn setEvent(ring: *Packed, event: spec.Event) void {
        ring.record.expect(@bitCast(event));
        @atomicStore(u32, @as(*u32, @ptrCast(ring.device_event)), @bitCast(event), .monotonic);
    }

    /// Where to begin, where nobody knows better than the front end.
    pub fn toldBase(_: *const Packed, told: u32) u32 {
        return told;
    }

    /// What the event area says, for the ring's record.
    pub fn eventWord(ring: *const Packed) u32 {
        return @atomicLoad(u32, @as(*const u32, @ptrCast(ring.device_event)), .monotonic);
    }

    pub fn pending(ring: *const Packed) bool {
        return ring.isOffered(ring.avail);
    }

    /// Length, id and flags of a descriptor in one load; the address is read after it, once.
    inline fn fetch(ring: *const Packed, index: u16) u64 {
        @setRuntimeSafety(false);
        return @atomicLoad(u64, wordOf(&ring.desc[index]), .acquire);
    }

    inline fn entryOf(ring: *const Packed, index: u16, word: u64) Entry {
        @setRuntimeSafety(false);
        return entryOfWord(&ring.desc[index], word);
    }
};

/// The flags of a used descriptor of this lap, in their place.
inline fn lapFlags(at: Place) u64 {
    return if (at.wrap) used_flags else 0;
}

/// Length, id and flags of a used descriptor.
inline fn usedWord(bits: u64, flags: u64) u64 {
    const completion: Completion = @bitCast(bits);
    const written: u64 = if (completion.len > 0) @as(u64, spec.desc_write) << 48 else 0;
    return completion.len | @as(u64, completion.id) << 32 | flags | written;
}

/// Length, id and flags.
inline fn wordOf(desc: *align(16) spec.PackedDesc) *u64 {
    @setRuntimeSafety(false);
    return @ptrCast(@alignCast(&desc.len));
}

inline fn entryOfWord(desc: *align(16) const spec.PackedDesc, word: u64) Entry {
    return .{
        .addr = @atomicLoad(u64, &desc.addr, .unordered),
        .len = @truncate(word),
        .id = @truncate(word >> 32),
        .flags = @truncate(word >> 48),
        .next = 0,
    };
}

/// What will be a used descriptor, once its place is known.
const Completion = packed struct(u64) { len: u32, id: u16, count: u16 };

/// A ring of three whose memory is an array, for tests.
const Bench = struct {
    desc: [3]spec.PackedDesc align(16) = @splat(.{ .addr = 0, .len = 0, .id = 0, .flags = 0 }),
    driver_event: u32 align(4) = 0,
    device_event: u32 align(4) = 0,
    memory: @import("memory.zig").Memory = undefined,
    hint: u32 = 0,
    items: [4]chain.Segment = undefined,
    pool: chain.Pool = undefined,
    record: Record = std.mem.zeroes(Record),
    shadow: [3]u64 = undefined,
    ring: Packed = undefined,

    fn start(bench: *Bench, base: u32) void {
        bench.memory.init();
        bench.pool = .{ .items = &bench.items };
        bench.ring.record = &bench.record;
        bench.ring.shadow = &bench.shadow;
        bench.ring.size = 3;
        bench.ring.event_idx = false;
        bench.ring.place(@ptrCast(&bench.desc), @ptrCast(&bench.driver_event), @ptrCast(&bench.device_event));
        bench.ring.start(base);
    }

    fn read(bench: *Bench) Broken!Chain {
        var walk: chain.Walk = .{
            .memory = &bench.memory,
            .hint = &bench.hint,
            .pool = &bench.pool,
            .direction = .readable,
            .indirect = false,
            .steps_max = 3,
            .steps_left = 3,
            .room = 0,
        };
        return bench.ring.read((try bench.ring.next()).?, &walk);
    }
};

test "a chain's id stands in its last descriptor; a bad one is counted to its end all the same" {
    var bench: Bench = .{};
    bench.start(0x8002);
    bench.desc[2] = .{ .addr = 0, .len = 0, .id = 0xffff, .flags = spec.desc_avail | spec.desc_next | spec.desc_write };
    bench.desc[0] = .{ .addr = 0, .len = 0, .id = 2, .flags = 0 };
    try std.testing.expectEqual(Chain{ .id = 2, .count = 2, .whole = false }, try bench.read());
    bench.ring.take(2);
    try std.testing.expectEqual(@as(u32, 0x8002_0001), bench.ring.baseOf());
}

test "an id beyond the ring breaks it, and so does a chain without end" {
    var bench: Bench = .{};
    bench.start(0x8000);
    bench.desc[0] = .{ .addr = 0, .len = 0, .id = 3, .flags = spec.desc_avail };
    try std.testing.expectError(error.BadPackedId, bench.ring.next());
    for (&bench.desc) |*desc| desc.* = .{ .addr = 0, .len = 0, .id = 0, .flags = spec.desc_avail | spec.desc_next };
    try std.testing.expectError(error.BadPackedId, bench.read());
}

test "no more is taken to be written to than the ring holds, until that is shown" {
    var bench: Bench = .{};
    bench.start(0x8000);
    for (0..3) |id| {
        bench.desc[id] = .{ .addr = 0, .len = 8, .id = @intCast(id), .flags = spec.desc_avail | spec.desc_write };
        const entry = (try bench.ring.next()).?;
        bench.ring.take(1);
        bench.ring.complete(entry.id, 8, 1);
        // As if it were the next lap already.
        bench.desc[id].flags = spec.desc_used | spec.desc_write;
    }
    try std.testing.expectEqual(null, try bench.ring.next());
    try std.testing.expectEqual(null, bench.ring.beginRun().peek(spec.desc_write));
    _ = bench.ring.flush();
    try std.testing.expectEqual(null, try bench.ring.next());
    bench.desc[0].flags = spec.desc_used | spec.desc_write;
    try std.testing.expectEqual(@as(u16, 0), (try bench.ring.next()).?.id);
    try std.testing.expectEqual(@as(u16, 0), bench.ring.beginRun().peek(spec.desc_write).?.id);
}

test "a base with one half only means both" {
    var bench: Bench = .{};
    bench.start(0x8001);
    try std.testing.expectEqual(@as(u32, 0x8001_8001), bench.ring.baseOf());
}

//! The driver side of a packed ring (virtio 2.8). Same methods as `driver_split.zig`. Trusts its own
//! memory, and nothing that the device writes.
//!
//! One thread. A chain's id comes from a queue of free ids; a slot's is its number.

const std = @import("std");
const driver_entry = @import("driver_entry.zig");
const packed_place = @import("packed_place.zig");
const spec = @import("spec.zig");

const Areas = driver_entry.Areas;
const Broken = driver_entry.Broken;
const Config = driver_entry.Config;
const Error = driver_entry.Error;
const Fifo = driver_entry.Fifo;
const How = driver_entry.How;
const Item = driver_entry.Item;
const Layout = driver_entry.Layout;
const Piece = driver_entry.Piece;
const Place = packed_place.Place;
const Published = driver_entry.Published;
const Run = driver_entry.Run;
const Slot = driver_entry.Slot;
const SlotError = driver_entry.SlotError;
const SlotPlan = driver_entry.SlotPlan;

const avail_used = spec.desc_avail | spec.desc_used;

/// A used descriptor, or what stands for one.
const Used = struct { id: u16, len: u32 };

pub const DriverPacked = struct {
    desc: [*]align(16) spec.PackedDesc,
    driver_event: *align(4) spec.Event,
    device_event: *align(4) const spec.Event,
    tables: [*]align(16) spec.PackedDesc,
    tables_gpa: u64,
    areas: Areas,
    config: Config,
    event_idx: bool,
    in_order: bool,
    /// Where the next buffer goes, and where the next used one will stand.
    avail: Place,
    used: Place,
    /// Descriptors that the driver has.
    free: u32,
    /// The first descriptor since the last `publish`: its flags, written last, show all of them.
    any: bool,
    first_place: Place,
    first_word: u64,
    slots: []Slot,
    /// Of a ring of slots.
    plan: SlotPlan,
    ids: Fifo,
    /// IN_ORDER: ids as they were made available, and the used descriptor that covers the next ones.
    order: Fifo,
    batch: ?Used,

    /// Bytes of memory that `create` needs.
    pub fn bytes(config: Config) u64 {
        return layout(config).bytes;
    }

    fn layout(config: Config) Layout {
        return .of(config, 16 * @as(u64, config.size), @sizeOf(spec.Event), @sizeOf(spec.Event));
    }

    /// A ring in `memory`, which the device knows as `gpa`. The memory must outlive it.
    pub fn create(
        allocator: std.mem.Allocator,
        memory: []align(driver_entry.area_align) u8,
        gpa: u64,
        config: Config,
    ) error{OutOfMemory}!DriverPacked {
        std.debug.assert(config.size > 0 and config.size <= 32768);
        const at = layout(config);
        std.debug.assert(memory.len >= at.bytes);
        const slots = try allocator.alloc(Slot, config.size);
        errdefer allocator.free(slots);
        var ids: Fifo = try .create(allocator, config.size);
        errdefer ids.destroy(allocator);
        var ring: DriverPacked = .{
            .desc = @ptrCast(memory.ptr),
            .driver_event = @ptrCast(@alignCast(memory[at.avail..])),
            .device_event = @ptrCast(@alignCast(memory[at.used..])),
            .tables = @ptrCast(@alignCast(memory[at.tables..])),
            .tables_gpa = gpa + at.tables,
            .areas = .{ .desc = gpa, .avail = gpa + at.avail, .used = gpa + at.used },
            .config = config,
            .event_idx = config.eventIdx(),
            .in_order = config.inOrder(),
            .avail = .first,
            .used = .first,
            .free = config.size,
            .any = false,
            .first_place = .first,
            .first_word = 0,
            .slots = slots,
            .plan = .{ .gpa = 0, .stride = 0, .len = 0, .writable = false },
            .ids = ids,
            .order = try .create(allocator, config.size),
            .batch = null,
        };
        ring.reset();
        return ring;
    }

    pub fn destroy(ring: *DriverPacked, allocator: std.mem.Allocator) void {
        ring.order.destroy(allocator);
        ring.ids.destroy(allocator);
        allocator.free(ring.slots);
    }

    /// As new; what was in the ring is forgotten. The device does not run.
    pub fn reset(ring: *DriverPacked) void {
        const at = layout(ring.config);
        @memset(@as([*]u8, @ptrCast(ring.desc))[0..at.tables], 0);
        @memset(ring.slots, .{ .token = 0, .capacity = 0, .len = 0, .count = 0, .next = 0 });
        ring.ids.head = 0;
        ring.ids.tail = 0;
        for (0..ring.config.size) |id| ring.ids.push(@intCast(id));
        ring.order.head = 0;
        ring.order.tail = 0;
        ring.batch = null;
        ring.avail = .first;
        ring.used = .first;
        ring.free = ring.config.size;
        ring.any = false;
    }

    /// What a device that knows nothing is told as VHOST_USER_SET_VRING_BASE: the first buffer that
    /// did not come back.
    pub fn base(ring: *const DriverPacked) u32 {
        return ring.used.word() | @as(u32, ring.used.word()) << 16;
    }

    /// Descriptors that the device has, or will have at `publish`.
    pub inline fn outstanding(ring: *const DriverPacked) u32 {
        return ring.config.size - ring.free;
    }

    // Chains.

    /// Offers a buffer: `out` for the device to read, then `in` for it to write, at least one piece.
    pub fn add(ring: *DriverPacked, out: []const Piece, in: []const Piece, token: u32, how: How) Error!void {
        const count = out.len + in.len;
        std.debug.assert(count > 0);
        const needed: u32 = if (how == .direct) @intCast(count) else 1;
        if (ring.free < needed or ring.ids.count() == 0) return error.Full;
        if (how == .indirect and count > ring.config.table_entries) return error.Full;
        const id = ring.ids.pop();
        const slot = &ring.slots[id];
        slot.token = token;
        slot.capacity = driver_entry.total(in);
        slot.count = @intCast(needed);
        switch (how) {
            .direct => for (0..count) |i| {
                const writable = i >= out.len;
                const piece = if (writable) in[i - out.len] else out[i];
                const more = i + 1 < count;
                ring.put(piece, id, (if (writable) spec.desc_write else 0) | (if (more) spec.desc_next else 0));
            },
            .indirect => ring.put(ring.fillTable(id, out, in), id, spec.desc_indirect),
        }
        if (ring.in_order) ring.order.push(id);
    }

    /// The table's entries come in sequence: of their flags only WRITE counts (2.8.7).
    fn fillTable(ring: *DriverPacked, id: u16, out: []const Piece, in: []const Piece) Piece {
        const first = @as(usize, id) * ring.config.table_entries;
        const table = ring.tables + first;
        for (out, 0..) |piece, i| table[i] = .{ .addr = piece.gpa, .len = piece.len, .id = 0, .flags = 0 };
        for (in, out.len..) |piece, i| {
            table[i] = .{ .addr = piece.gpa, .len = piece.len, .id = 0, .flags = spec.desc_write };
        }
        return .{
            .gpa = ring.tables_gpa + first * @sizeOf(spec.PackedDesc),
            .len = @intCast((out.len + in.len) * @sizeOf(spec.PackedDesc)),
        };
    }

    /// Writes the next descriptor, all of it before its flags.
    inline fn put(ring: *DriverPacked, piece: Piece, id: u16, flags: u16) void {
        @setRuntimeSafety(false);
        const place = ring.avail;
        const all = flags | if (place.wrap) spec.desc_avail else spec.desc_used;
        const word = piece.len | @as(u64, id) << 32 | @as(u64, all) << 48;
        @atomicStore(u64, &ring.desc[place.index].addr, piece.gpa, .unordered);
        if (ring.any) {
            @atomicStore(u64, ring.wordAt(place.index), word, .monotonic);
        } else {
            ring.any = true;
            ring.first_place = place;
            ring.first_word = word;
        }
        ring.avail.advance(1, ring.config.size);
        ring.free -= 1;
    }

    /// Takes back buffers that the device is done with, at most `items.len`; returns how many.
    pub fn reap(ring: *DriverPacked, items: []Item) Broken!u32 {
        for (items, 0..) |*item, count| {
            const used = try ring.takeUsed() orelse return @intCast(count);
            const slot = &ring.slots[used.id];
            item.* = .{ .token = slot.token, .len = used.len };
            slot.count = 0;
            ring.ids.push(used.id);
        }
        return @intCast(items.len);
    }

    // Slots.

    /// Makes a new ring one of slots.
    pub fn useSlots(ring: *DriverPacked, plan: SlotPlan) void {
        std.debug.assert(ring.free == ring.config.size);
        ring.plan = plan;
        for (ring.slots, 0..) |*slot, i| {
            const capacity = if (plan.writable) plan.len else 0;
            slot.* = .{ .token = @intCast(i), .capacity = capacity, .len = plan.len, .count = 0, .next = 0 };
        }
    }

    /// The slot that is offered next.
    pub inline fn nextSlot(ring: *const DriverPacked) u32 {
        return ring.avail.index;
    }

    /// Bytes, at least one, of a slot that is not offered.
    pub inline fn setLength(ring: *DriverPacked, slot: u32, len: u32) void {
        @setRuntimeSafety(false);
        const state = &ring.slots[slot];
        if (state.capacity != 0) state.capacity = len;
        state.len = len;
    }

    /// Offers the next slots, no more than are free.
    pub inline fn offerSlots(ring: *DriverPacked, count: u32) void {
        @setRuntimeSafety(false);
        std.debug.assert(count <= ring.free);
        if (count == 0) return;
        var place = ring.avail;
        var left = count;
        ring.avail.advance(count, ring.config.size);
        ring.free -= count;
        if (!ring.any) {
            // Nobody looks at the others before this one is published.
            ring.any = true;
            ring.first_place = place;
            ring.first_word = ring.slotWord(place);
            @atomicStore(u64, &ring.desc[place.index].addr, ring.slotGpa(place), .unordered);
            place.advance(1, ring.config.size);
            left -= 1;
        }
        const part = @min(left, ring.config.size - place.index);
        ring.fillSlots(place, part);
        ring.fillSlots(.{ .index = 0, .wrap = !place.wrap }, left - part);
    }

    /// Writes descriptors that lie in a row.
    inline fn fillSlots(ring: *DriverPacked, from: Place, count: u32) void {
        @setRuntimeSafety(false);
        if (count == 0) return;
        const target: [*]align(16) @Vector(2, u64) = @ptrCast(ring.desc + from.index);
        const slots = ring.slots[from.index..].ptr;
        var gpa = ring.slotGpa(from);
        // Without the length.
        var rest = ring.slotWord(from) - slots[0].len;
        for (0..count) |i| {
            target[i] = .{ gpa, rest + slots[i].len };
            gpa += ring.plan.stride;
            rest += 1 << 32;
        }
    }

    inline fn slotGpa(ring: *const DriverPacked, place: Place) u64 {
        return ring.plan.gpa + @as(u64, place.index) * ring.plan.stride;
    }

    inline fn slotWord(ring: *const DriverPacked, place: Place) u64 {
        @setRuntimeSafety(false);
        const turn = if (place.wrap) spec.desc_avail else spec.desc_used;
        const flags = turn | if (ring.plan.writable) spec.desc_write else 0;
        return ring.slots[place.index].len | @as(u64, place.index) << 32 | @as(u64, flags) << 48;
    }

    /// Takes back slots that the device is done with, at most `limit`. When they are out of order
    /// nothing was taken, and `leaveSlots` is next.
    pub inline fn reapSlots(ring: *DriverPacked, limit: u32) SlotError!Run {
        @setRuntimeSafety(false);
        const first = ring.used;
        const most = @min(limit, ring.outstanding());
        const part = @min(most, ring.config.size - first.index);
        var count = ring.countUsed(first, part);
        if (count == part) count += ring.countUsed(.{ .index = 0, .wrap = !first.wrap }, most - part);
        if (count == 0 and most > 0) {
            const word = @atomicLoad(u64, ring.wordAt(first.index), .acquire);
            // The first may be used, but for another slot. What was used a moment ago comes next time.
            const id: u16 = @truncate(word >> 32);
            if (isUsed(@truncate(word >> 48), first.wrap) and id != first.index) return error.OutOfOrder;
        }
        ring.used.advance(count, ring.config.size);
        ring.free += count;
        return .{ .first = first.index, .count = count };
    }

    /// Descriptors in a row that are used, each for its own slot.
    inline fn countUsed(ring: *const DriverPacked, from: Place, most: u32) u32 {
        @setRuntimeSafety(false);
        const mask = @as(u32, avail_used) << 16 | 0xffff;
        var expected = if (from.wrap) @as(u32, avail_used) << 16 | from.index else from.index;
        const words: [*]align(8) const u64 = @ptrCast(ring.wordAt(from.index));
        for (0..most) |i| {
            const word = @atomicLoad(u64, &words[2 * i], .acquire);
            if (@as(u32, @truncate(word >> 32)) & mask != expected) return @intCast(i);
            expected += 1;
        }
        return most;
    }

    /// Bytes that the device wrote to a slot of the last run.
    pub inline fn usedLength(ring: *const DriverPacked, slot: u32) u32 {
        @setRuntimeSafety(false);
        const word = @atomicLoad(u64, ring.wordAt(@truncate(slot)), .monotonic);
        return lengthOf(word);
    }

    /// Makes chains of all slots, also of those that the device has.
    pub fn leaveSlots(ring: *DriverPacked) void {
        const size = ring.config.size;
        const taken = ring.outstanding();
        var place = ring.used;
        for (0..size) |i| {
            ring.slots[place.index].count = @intFromBool(i < taken);
            if (i >= taken) ring.ids.items[i - taken] = place.index else ring.order.items[i] = place.index;
            place.advance(1, size);
        }
        ring.ids.head = 0;
        ring.ids.tail = size - taken;
        ring.order.head = 0;
        ring.order.tail = taken;
    }

    // Both.

    /// Reads the used descriptor that may stand at the used place.
    inline fn descriptor(ring: *const DriverPacked) Broken!?Used {
        @setRuntimeSafety(false);
        const word = @atomicLoad(u64, ring.wordAt(ring.used.index), .acquire);
        const flags: u16 = @truncate(word >> 48);
        if (!isUsed(flags, ring.used.wrap)) return null;
        const id: u16 = @truncate(word >> 32);
        if (id >= ring.config.size or ring.slots[id].count == 0) return error.BadUsedId;
        return .{ .id = id, .len = lengthOf(word) };
    }

    inline fn takeDescriptor(ring: *DriverPacked) Broken!?Used {
        const used = try ring.descriptor() orelse return null;
        ring.skip(used.id);
        return used;
    }

    /// With IN_ORDER one used descriptor may stand for a batch, of which it names the last; all
    /// before that were used to the full, and have no descriptor of their own (2.8.12).
    fn takeUsed(ring: *DriverPacked) Broken!?Used {
        if (!ring.in_order) return ring.takeDescriptor();
        const batch = ring.batch orelse try ring.descriptor() orelse return null;
        if (ring.order.count() == 0) return error.BadUsedId;
        const id = ring.order.pop();
        ring.skip(id);
        ring.batch = if (id == batch.id) null else batch;
        return if (id == batch.id) batch else .{ .id = id, .len = ring.slots[id].capacity };
    }

    inline fn skip(ring: *DriverPacked, id: u16) void {
        @setRuntimeSafety(false);
        const count = ring.slots[id].count;
        ring.used.advance(count, ring.config.size);
        ring.free += count;
    }

    /// Shows the device all that was offered.
    pub inline fn publish(ring: *DriverPacked) Published {
        @setRuntimeSafety(false);
        if (!ring.any) return .{};
        ring.any = false;
        @atomicStore(u64, ring.wordAt(ring.first_place.index), ring.first_word, .release);
        return .{ .from = ring.first_place.word(), .to = ring.avail.word(), .any = true };
    }

    /// Whether the device wants a kick for what `publish` showed it (2.8.10). A full fence lies
    /// between the two.
    pub fn wantsKick(ring: *const DriverPacked, shown: Published) bool {
        const raw = @atomicLoad(u32, @as(*const u32, @ptrCast(ring.device_event)), .monotonic);
        const flags: u16 = @truncate(raw >> 16);
        if (flags == spec.Event.disable) return false;
        if (flags != spec.Event.at_desc or !ring.event_idx) return true;
        return packed_place.crossed(.of(@truncate(raw)), .of(shown.from), .of(shown.to), ring.config.size);
    }

    /// Asks for a call at the next used buffer. A full fence and `pending` must follow.
    pub fn arm(ring: *DriverPacked) void {
        ring.setEvent(if (ring.event_idx)
            .{ .offset_wrap = ring.used.word(), .flags = spec.Event.at_desc }
        else
            .{ .offset_wrap = 0, .flags = spec.Event.enable });
    }

    /// Asks for no calls.
    pub fn disarm(ring: *DriverPacked) void {
        ring.setEvent(.{ .offset_wrap = 0, .flags = spec.Event.disable });
    }

    fn setEvent(ring: *DriverPacked, event: spec.Event) void {
        @atomicStore(u32, @as(*u32, @ptrCast(ring.driver_event)), @bitCast(event), .monotonic);
    }

    pub inline fn pending(ring: *const DriverPacked) bool {
        const word = @atomicLoad(u64, ring.wordAt(ring.used.index), .acquire);
        return ring.batch != null or isUsed(@truncate(word >> 48), ring.used.wrap);
    }

    inline fn wordAt(ring: *const DriverPacked, index: u16) *u64 {
        @setRuntimeSafety(false);
        return @ptrCast(@alignCast(&ring.desc[index].len));
    }
};

/// Without WRITE the length means nothing (2.8.4).
inline fn lengthOf(word: u64) u32 {
    return if (word >> 48 & spec.desc_write != 0) @truncate(word) else 0;
}

inline fn isUsed(flags: u16, wrap: bool) bool {
    return flags & avail_used == if (wrap) avail_used else 0;
}

test "what is sent arrives whole and in order, by every feature and in rings of every kind of size" {
    const rig = @import("driver_rig.zig");
    try rig.expectAllPass(DriverPacked, &.{ 1, 2, 3, 7, 64, 100, 256 }, @as(u64, 1) << spec.Feature.ring_packed);
}

test "indexes and wrap counters go round" {
    const rig = @import("driver_rig.zig");
    try rig.expectEndures(DriverPacked, @as(u64, 1) << spec.Feature.ring_packed | 1 << 32 | 1 << 15, 64);
}

test "slots come back by number, whatever was negotiated" {
    const rig = @import("driver_rig.zig");
    for ([_]u64{ 0, 1 << 32, 1 << 15 | 1 << 29, 1 << 32 | 1 << 35 }) |features| {
        try rig.expectSlotsPass(DriverPacked, features | 1 << spec.Feature.ring_packed, 65);
    }
}

test "kicks and calls are wanted when asked for" {
    const rig = @import("driver_rig.zig");
    try rig.expectNotices(DriverPacked, 1 << spec.Feature.ring_packed, 7);
    try rig.expectNotices(DriverPacked, 1 << spec.Feature.ring_packed | 1 << 29, 7);
}

const TestRing = struct {
    memory: [16 << 10]u8 align(64),
    ring: DriverPacked,

    fn init(self: *TestRing, features: u64) !void {
        self.ring = try .create(std.testing.allocator, &self.memory, 0, .{ .size = 7, .features = features });
    }

    fn deinit(self: *TestRing) void {
        self.ring.destroy(std.testing.allocator);
    }

    /// Adds chains of so many pieces, each of 10 bytes to be written; tokens count from 100.
    fn addChains(self: *TestRing, lengths: []const usize) !void {
        const piece: Piece = .{ .gpa = 4096, .len = 10 };
        const pieces: [8]Piece = @splat(piece);
        for (lengths, 100..) |count, token| try self.ring.add(&.{}, pieces[0..count], @intCast(token), .direct);
        _ = self.ring.publish();
    }

    fn use(self: *TestRing, at: u16, wrap: bool, id: u16, len: u32) void {
        const flags: u16 = if (wrap) avail_used | spec.desc_write else spec.desc_write;
        const word = len | @as(u64, id) << 32 | @as(u64, flags) << 48;
        @atomicStore(u64, self.ring.wordAt(at), word, .release);
    }
};

test "one used descriptor may stand for a batch, and the next one skips it, over the end of the ring" {
    var self: TestRing = undefined;
    try self.init(1 << spec.Feature.in_order);
    defer self.deinit();
    try self.addChains(&.{ 1, 2, 1 });
    self.use(0, true, 2, 7);
    var items: [2]Item = undefined;
    try std.testing.expectEqual(2, try self.ring.reap(&items));
    try std.testing.expectEqual([2]Item{ .{ .token = 100, .len = 10 }, .{ .token = 101, .len = 20 } }, items);
    try std.testing.expect(self.ring.pending());
    try std.testing.expectEqual(1, try self.ring.reap(&items));
    try std.testing.expectEqual(Item{ .token = 102, .len = 7 }, items[0]);
    try self.addChains(&.{ 2, 3, 1 });
    self.use(4, true, 4, 5);
    try std.testing.expectEqual(2, try self.ring.reap(&items));
    try std.testing.expectEqual([2]Item{ .{ .token = 100, .len = 20 }, .{ .token = 101, .len = 5 } }, items);
    self.use(2, false, 5, 1);
    try std.testing.expectEqual(1, try self.ring.reap(&items));
    try std.testing.expectEqual(Item{ .token = 102, .len = 1 }, items[0]);
    try std.testing.expectEqual(0, self.ring.outstanding());
}

test "a device that uses what it was not given is found out" {
    const cases = [_]struct { features: u64, id: u16, used: u32 }{
        .{ .features = 0, .id = 7, .used = 1 },
        .{ .features = 0, .id = 2, .used = 1 },
        .{ .features = 0, .id = 0, .used = 2 },
        .{ .features = 1 << spec.Feature.in_order, .id = 2, .used = 1 },
        .{ .features = 1 << spec.Feature.in_order, .id = 0, .used = 2 },
    };
    for (cases) |case| {
        var self: TestRing = undefined;
        try self.init(case.features);
        defer self.deinit();
        try self.addChains(&.{ 2, 1 });
        for (0..case.used) |i| self.use(@intCast(2 * i), true, case.id, 0);
        var items: [8]Item = undefined;
        try std.testing.expectError(error.BadUsedId, self.ring.reap(&items));
    }
}

test "slots out of order, and batches, are gone on with as chains" {
    for ([_]u64{ 0, 1 << spec.Feature.in_order }) |features| {
        var self: TestRing = undefined;
        try self.init(features);
        defer self.deinit();
        self.ring.useSlots(.{ .gpa = 4096, .stride = 64, .len = 10, .writable = true });
        self.ring.offerSlots(7);
        _ = self.ring.publish();
        self.use(0, true, 0, 5);
        try std.testing.expectEqual(driver_entry.Run{ .first = 0, .count = 1 }, try self.ring.reapSlots(8));
        try std.testing.expectEqual(5, self.ring.usedLength(0));
        // One descriptor: out of order, of slot 2 alone; in order, for slots 1 and 2.
        self.use(1, true, 2, 6);
        try std.testing.expectError(error.OutOfOrder, self.ring.reapSlots(8));
        self.ring.leaveSlots();
        var items: [8]Item = undefined;
        const count = try self.ring.reap(&items);
        const expected = [_]Item{ .{ .token = 1, .len = 10 }, .{ .token = 2, .len = 6 } };
        try std.testing.expectEqualSlices(Item, expected[if (features == 0) 1 else 0..], items[0..count]);
        try std.testing.expectEqual(6 - count, self.ring.outstanding());
        for (0..7 - self.ring.outstanding()) |_| try self.addChains(&.{1});
        try std.testing.expectError(error.Full, self.ring.add(&.{.{ .gpa = 0, .len = 1 }}, &.{}, 0, .direct));
    }
}

//! The driver side of a split ring (virtio 2.7). Same methods as `driver_packed.zig`, so that a guest
//! is written once and compiled for each. Trusts its own memory, and nothing that the device writes.
//!
//! One thread. Descriptors are taken in the order in which they came back, so that a device that
//! works in order gets them in ring order, as IN_ORDER wants it (2.7.9.1).

const std = @import("std");
const driver_entry = @import("driver_entry.zig");
const spec = @import("spec.zig");
const vring_entry = @import("vring_entry.zig");

const Areas = driver_entry.Areas;
const Broken = driver_entry.Broken;
const Config = driver_entry.Config;
const Error = driver_entry.Error;
const Fifo = driver_entry.Fifo;
const How = driver_entry.How;
const Item = driver_entry.Item;
const Layout = driver_entry.Layout;
const Piece = driver_entry.Piece;
const Published = driver_entry.Published;
const Run = driver_entry.Run;
const Slot = driver_entry.Slot;
const SlotError = driver_entry.SlotError;
const SlotPlan = driver_entry.SlotPlan;

pub const DriverSplit = struct {
    desc: [*]align(16) spec.Desc,
    /// flags, idx, ring[size], used_event.
    avail: [*]u16,
    /// flags, idx.
    used: [*]const u16,
    elements: [*]align(4) const spec.UsedElement,
    avail_event: *const u16,
    tables: [*]align(16) spec.Desc,
    tables_gpa: u64,
    areas: Areas,
    config: Config,
    event_idx: bool,
    in_order: bool,
    /// The avail index as the device sees it, and as it will be.
    published: u16,
    next_avail: u16,
    next_used: u16,
    slots: []Slot,
    free: Fifo,
    /// IN_ORDER: heads as they were made available, and the used entry that covers the next ones.
    order: Fifo,
    batch: ?spec.UsedElement,

    /// Bytes of memory that `create` needs.
    pub fn bytes(config: Config) u64 {
        return layout(config).bytes;
    }

    fn layout(config: Config) Layout {
        const size: u64 = config.size;
        return .of(config, 16 * size, 6 + 2 * size, 6 + 8 * size);
    }

    /// A ring in `memory`, which the device knows as `gpa`. The memory must outlive it.
    pub fn create(
        allocator: std.mem.Allocator,
        memory: []align(driver_entry.area_align) u8,
        gpa: u64,
        config: Config,
    ) error{OutOfMemory}!DriverSplit {
        std.debug.assert(std.math.isPowerOfTwo(config.size) and config.size <= 32768);
        const at = layout(config);
        std.debug.assert(memory.len >= at.bytes);
        const slots = try allocator.alloc(Slot, config.size);
        errdefer allocator.free(slots);
        var free: Fifo = try .create(allocator, config.size);
        errdefer free.destroy(allocator);
        var ring: DriverSplit = .{
            .desc = @ptrCast(memory.ptr),
            .avail = @ptrCast(@alignCast(memory[at.avail..])),
            .used = @ptrCast(@alignCast(memory[at.used..])),
            .elements = @ptrCast(@alignCast(memory[at.used + 4 ..])),
            .avail_event = @ptrCast(@alignCast(memory[at.used + 4 + 8 * @as(u64, config.size) ..])),
            .tables = @ptrCast(@alignCast(memory[at.tables..])),
            .tables_gpa = gpa + at.tables,
            .areas = .{ .desc = gpa, .avail = gpa + at.avail, .used = gpa + at.used },
            .config = config,
            .event_idx = config.eventIdx(),
            .in_order = config.inOrder(),
            .published = 0,
            .next_avail = 0,
            .next_used = 0,
            .slots = slots,
            .free = free,
            .order = try .create(allocator, config.size),
            .batch = null,
        };
        ring.reset();
        return ring;
    }

    pub fn destroy(ring: *DriverSplit, allocator: std.mem.Allocator) void {
        ring.order.destroy(allocator);
        ring.free.destroy(allocator);
        allocator.free(ring.slots);
    }

    /// As new; what was in the ring is forgotten. The device does not run.
    pub fn reset(ring: *DriverSplit) void {
        const at = layout(ring.config);
        @memset(@as([*]u8, @ptrCast(ring.desc))[0..at.tables], 0);
        @memset(ring.slots, .{ .token = 0, .capacity = 0, .len = 0, .count = 0, .next = 0 });
        ring.free.head = 0;
        ring.free.tail = 0;
        for (0..ring.config.size) |index| ring.free.push(@intCast(index));
        ring.order.head = 0;
        ring.order.tail = 0;
        ring.batch = null;
        ring.published = 0;
        ring.next_avail = 0;
        ring.next_used = 0;
    }

    /// What a device that knows nothing is told as VHOST_USER_SET_VRING_BASE: the first buffer that
    /// did not come back, as the ring says, whether or not the driver has looked.
    pub fn base(ring: *const DriverSplit) u32 {
        return @atomicLoad(u16, &ring.used[1], .acquire);
    }

    /// Buffers that the device has, or will have at `publish`.
    pub inline fn outstanding(ring: *const DriverSplit) u32 {
        return ring.next_avail -% ring.next_used;
    }

    // Chains.

    /// Offers a buffer: `out` for the device to read, then `in` for it to write, at least one piece.
    pub fn add(ring: *DriverSplit, out: []const Piece, in: []const Piece, token: u32, how: How) Error!void {
        const count = out.len + in.len;
        std.debug.assert(count > 0);
        const needed = if (how == .direct) count else 1;
        if (ring.free.count() < needed) return error.Full;
        if (how == .indirect and count > ring.config.table_entries) return error.Full;
        const head = ring.free.pop();
        const slot = &ring.slots[head];
        switch (how) {
            .direct => ring.link(head, out, in),
            .indirect => {
                ring.fillTable(head, out, in);
                ring.desc[head] = .{
                    .addr = ring.tables_gpa + @as(u64, head) * ring.config.table_entries * @sizeOf(spec.Desc),
                    .len = @intCast(count * @sizeOf(spec.Desc)),
                    .flags = spec.desc_indirect,
                    .next = 0,
                };
            },
        }
        slot.token = token;
        slot.capacity = driver_entry.total(in);
        slot.count = @intCast(needed);
        ring.enqueue(head);
    }

    fn link(ring: *DriverSplit, head: u16, out: []const Piece, in: []const Piece) void {
        var at = head;
        for (0..out.len + in.len) |i| {
            const last = i + 1 == out.len + in.len;
            const next = if (last) 0 else ring.free.pop();
            ring.desc[at] = descOf(out, in, i, next);
            ring.slots[at].next = next;
            at = next;
        }
    }

    fn fillTable(ring: *DriverSplit, head: u16, out: []const Piece, in: []const Piece) void {
        const table = ring.tables + @as(usize, head) * ring.config.table_entries;
        for (0..out.len + in.len) |i| {
            const last = i + 1 == out.len + in.len;
            table[i] = descOf(out, in, i, if (last) 0 else @intCast(i + 1));
        }
    }

    inline fn enqueue(ring: *DriverSplit, head: u16) void {
        const at = &ring.avail[2 + (ring.next_avail & (ring.config.size - 1))];
        // The line stays shared with the device when it would not change.
        if (at.* != head) @atomicStore(u16, at, head, .unordered);
        ring.next_avail +%= 1;
        if (ring.in_order) ring.order.push(head);
    }

    /// Takes back buffers that the device is done with, at most `items.len`; returns how many.
    pub fn reap(ring: *DriverSplit, items: []Item) Broken!u32 {
        const ready = try ring.readyCount();
        const count: u32 = @intCast(@min(ready, items.len));
        for (items[0..count]) |*item| {
            const used = try ring.takeUsed();
            const slot = &ring.slots[used.id];
            item.* = .{ .token = slot.token, .len = used.len };
            var at: u16 = @intCast(used.id);
            for (0..slot.count) |_| {
                ring.free.push(at);
                at = ring.slots[at].next;
            }
            slot.count = 0;
        }
        try ring.checkBatch(count == ready);
        return count;
    }

    // Slots.

    /// Makes a new ring one of slots.
    pub fn useSlots(ring: *DriverSplit, plan: SlotPlan) void {
        std.debug.assert(ring.next_avail == 0);
        for (ring.slots, 0..) |*slot, i| {
            const capacity = if (plan.writable) plan.len else 0;
            slot.* = .{ .token = @intCast(i), .capacity = capacity, .len = plan.len, .count = 0, .next = 0 };
            ring.desc[i] = .{
                .addr = plan.gpa + i * plan.stride,
                .len = plan.len,
                .flags = if (plan.writable) spec.desc_write else 0,
                .next = 0,
            };
            ring.avail[2 + i] = @intCast(i);
        }
    }

    /// The slot that is offered next.
    pub inline fn nextSlot(ring: *const DriverSplit) u32 {
        return ring.next_avail & (ring.config.size - 1);
    }

    /// Bytes, at least one, of a slot that is not offered.
    pub inline fn setLength(ring: *DriverSplit, slot: u32, len: u32) void {
        @setRuntimeSafety(false);
        const state = &ring.slots[slot];
        if (state.len == len) return;
        state.len = len;
        if (state.capacity != 0) state.capacity = len;
        @atomicStore(u32, &ring.desc[slot].len, len, .unordered);
    }

    /// Offers the next slots, no more than are free.
    pub inline fn offerSlots(ring: *DriverSplit, count: u32) void {
        std.debug.assert(count <= ring.config.size - ring.outstanding());
        ring.next_avail +%= @truncate(count);
    }

    /// Takes back slots that the device is done with, at most `limit`. When they are out of order
    /// nothing was taken, and `leaveSlots` is next.
    pub inline fn reapSlots(ring: *DriverSplit, limit: u32) SlotError!Run {
        @setRuntimeSafety(false);
        const ready = @min(try ring.readyCount(), limit);
        const first = ring.next_used & (ring.config.size - 1);
        for (0..ready) |i| {
            const slot = (first + i) & (ring.config.size - 1);
            if (@atomicLoad(u32, &ring.elements[slot].id, .unordered) != slot) {
                if (i == 0) return error.OutOfOrder;
                ring.next_used +%= @truncate(i);
                return .{ .first = first, .count = @intCast(i) };
            }
        }
        ring.next_used +%= @truncate(ready);
        return .{ .first = first, .count = ready };
    }

    /// Bytes that the device wrote to a slot of the last run.
    pub inline fn usedLength(ring: *const DriverSplit, slot: u32) u32 {
        @setRuntimeSafety(false);
        return @atomicLoad(u32, &ring.elements[slot].len, .unordered);
    }

    /// Makes chains of all slots, also of those that the device has.
    pub fn leaveSlots(ring: *DriverSplit) void {
        const size = ring.config.size;
        const taken = ring.outstanding();
        for (0..size) |i| {
            const at: u16 = @truncate((ring.next_used +% i) & (size - 1));
            ring.slots[at].count = @intFromBool(i < taken);
            if (i >= taken) ring.free.items[i - taken] = at else ring.order.items[i] = at;
        }
        ring.free.head = 0;
        ring.free.tail = size - taken;
        ring.order.head = 0;
        ring.order.tail = taken;
    }

    // Both.

    inline fn readyCount(ring: *const DriverSplit) Broken!u32 {
        const ready = @atomicLoad(u16, &ring.used[1], .acquire) -% ring.next_used;
        if (ready > ring.published -% ring.next_used) return error.BadUsedIndex;
        return ready;
    }

    inline fn element(ring: *const DriverSplit) Broken!spec.UsedElement {
        @setRuntimeSafety(false);
        const at = &ring.elements[ring.next_used & (ring.config.size - 1)];
        const id = @atomicLoad(u32, &at.id, .unordered);
        if (id >= ring.config.size or ring.slots[id].count == 0) return error.BadUsedId;
        return .{ .id = id, .len = @atomicLoad(u32, &at.len, .unordered) };
    }

    inline fn takeElement(ring: *DriverSplit) Broken!spec.UsedElement {
        const used = try ring.element();
        ring.next_used +%= 1;
        return used;
    }

    /// With IN_ORDER one used entry may stand for a batch, of which it names the last; all before
    /// that were used to the full, and have no entry of their own (2.7.9).
    fn takeUsed(ring: *DriverSplit) Broken!spec.UsedElement {
        if (!ring.in_order) return ring.takeElement();
        const batch = ring.batch orelse try ring.element();
        ring.next_used +%= 1;
        const head = ring.order.pop();
        if (head == batch.id) {
            ring.batch = null;
            return batch;
        }
        ring.batch = batch;
        return .{ .id = head, .len = ring.slots[head].capacity };
    }

    /// The used index may not end within a batch.
    inline fn checkBatch(ring: *const DriverSplit, all: bool) Broken!void {
        if (all and ring.batch != null) return error.BadUsedId;
    }

    /// Shows the device all that was offered.
    pub inline fn publish(ring: *DriverSplit) Published {
        const from = ring.published;
        const to = ring.next_avail;
        if (from == to) return .{};
        @atomicStore(u16, &ring.avail[1], to, .release);
        ring.published = to;
        return .{ .from = from, .to = to, .any = true };
    }

    /// Whether the device wants a kick for what `publish` showed it (2.7.10). A full fence lies
    /// between the two.
    pub fn wantsKick(ring: *const DriverSplit, shown: Published) bool {
        if (!ring.event_idx) return @atomicLoad(u16, &ring.used[0], .monotonic) & spec.used_no_notify == 0;
        return vring_entry.crossed(@atomicLoad(u16, ring.avail_event, .monotonic), shown.from, shown.to);
    }

    /// Asks for a call at the next used buffer. A full fence and `pending` must follow.
    pub fn arm(ring: *DriverSplit) void {
        if (ring.event_idx) {
            @atomicStore(u16, &ring.avail[2 + ring.config.size], ring.next_used, .monotonic);
        } else {
            @atomicStore(u16, &ring.avail[0], 0, .monotonic);
        }
    }

    /// Asks for no calls. With EVENT_IDX the event index is simply left behind.
    pub fn disarm(ring: *DriverSplit) void {
        if (!ring.event_idx) @atomicStore(u16, &ring.avail[0], spec.avail_no_interrupt, .monotonic);
    }

    pub inline fn pending(ring: *const DriverSplit) bool {
        return @atomicLoad(u16, &ring.used[1], .acquire) != ring.next_used;
    }
};

fn descOf(out: []const Piece, in: []const Piece, i: usize, next: u16) spec.Desc {
    const writable = i >= out.len;
    const piece = if (writable) in[i - out.len] else out[i];
    const more = i + 1 < out.len + in.len;
    return .{
        .addr = piece.gpa,
        .len = piece.len,
        .flags = (if (writable) spec.desc_write else 0) | (if (more) spec.desc_next else 0),
        .next = next,
    };
}

test "what is sent arrives whole and in order, by every feature and in rings of every kind of size" {
    const rig = @import("driver_rig.zig");
    try rig.expectAllPass(DriverSplit, &.{ 1, 2, 4, 64, 256 }, 0);
}

test "indexes and wrap counters go round" {
    const rig = @import("driver_rig.zig");
    try rig.expectEndures(DriverSplit, 0 | 1 << 32 | 1 << 15, 64);
}

test "slots come back by number, whatever was negotiated" {
    const rig = @import("driver_rig.zig");
    for ([_]u64{ 0, 1 << 32, 1 << 15 | 1 << 29, 1 << 32 | 1 << 35 }) |features| {
        try rig.expectSlotsPass(DriverSplit, features, 64);
    }
}

test "kicks and calls are wanted when asked for" {
    const rig = @import("driver_rig.zig");
    try rig.expectNotices(DriverSplit, 0, 8);
    try rig.expectNotices(DriverSplit, 1 << 29, 8);
}

const TestRing = struct {
    memory: [16 << 10]u8 align(64),
    ring: DriverSplit,

    fn init(self: *TestRing, features: u64) !void {
        self.ring = try .create(std.testing.allocator, &self.memory, 0, .{ .size = 8, .features = features });
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

    fn use(self: *TestRing, at: u32, id: u32, len: u32, idx: u16) void {
        const elements: [*]spec.UsedElement = @constCast(self.ring.elements);
        elements[at] = .{ .id = id, .len = len };
        const used: [*]u16 = @constCast(self.ring.used);
        @atomicStore(u16, &used[1], idx, .release);
    }
};

test "one used entry may stand for a batch, and the next one skips it" {
    var self: TestRing = undefined;
    try self.init(1 << spec.Feature.in_order);
    defer self.deinit();
    try self.addChains(&.{ 1, 2, 1, 3, 1 });
    self.use(0, 3, 7, 3);
    var items: [2]Item = undefined;
    try std.testing.expectEqual(2, try self.ring.reap(&items));
    try std.testing.expectEqual([2]Item{ .{ .token = 100, .len = 10 }, .{ .token = 101, .len = 20 } }, items);
    try std.testing.expect(self.ring.pending());
    try std.testing.expectEqual(1, try self.ring.reap(&items));
    try std.testing.expectEqual(Item{ .token = 102, .len = 7 }, items[0]);
    self.use(3, 7, 5, 5);
    try std.testing.expectEqual(2, try self.ring.reap(&items));
    try std.testing.expectEqual([2]Item{ .{ .token = 103, .len = 30 }, .{ .token = 104, .len = 5 } }, items);
    try std.testing.expectEqual(0, self.ring.outstanding());
    try self.addChains(&.{8});
    try std.testing.expectError(error.Full, self.ring.add(&.{.{ .gpa = 0, .len = 1 }}, &.{}, 0, .direct));
}

test "a device that uses what it was not given is found out" {
    const cases = [_]struct { features: u64, id: u32, idx: u16, reason: Broken }{
        .{ .features = 0, .id = 0, .idx = 3, .reason = error.BadUsedIndex },
        .{ .features = 0, .id = 8, .idx = 1, .reason = error.BadUsedId },
        .{ .features = 0, .id = 1, .idx = 1, .reason = error.BadUsedId },
        .{ .features = 0, .id = 0, .idx = 2, .reason = error.BadUsedId },
        .{ .features = 1 << spec.Feature.in_order, .id = 2, .idx = 1, .reason = error.BadUsedId },
        .{ .features = 1 << spec.Feature.in_order, .id = 5, .idx = 2, .reason = error.BadUsedId },
    };
    for (cases) |case| {
        var self: TestRing = undefined;
        try self.init(case.features);
        defer self.deinit();
        try self.addChains(&.{ 2, 1 });
        self.use(0, case.id, 0, case.idx);
        // The same head again.
        @constCast(self.ring.elements)[1] = .{ .id = case.id, .len = 0 };
        var items: [8]Item = undefined;
        try std.testing.expectError(case.reason, self.ring.reap(&items));
    }
}

test "slots out of order, and batches, are gone on with as chains" {
    for ([_]u64{ 0, 1 << spec.Feature.in_order }) |features| {
        var self: TestRing = undefined;
        try self.init(features);
        defer self.deinit();
        self.ring.useSlots(.{ .gpa = 4096, .stride = 64, .len = 10, .writable = true });
        self.ring.offerSlots(8);
        _ = self.ring.publish();
        self.use(0, 0, 5, 1);
        try std.testing.expectEqual(driver_entry.Run{ .first = 0, .count = 1 }, try self.ring.reapSlots(8));
        try std.testing.expectEqual(5, self.ring.usedLength(0));
        // One entry: out of order, of slot 2 alone; in order, for slots 1 and 2.
        self.use(1, 2, 6, if (features == 0) 2 else 3);
        try std.testing.expectError(error.OutOfOrder, self.ring.reapSlots(8));
        self.ring.leaveSlots();
        var items: [8]Item = undefined;
        const count = try self.ring.reap(&items);
        const expected = [_]Item{ .{ .token = 1, .len = 10 }, .{ .token = 2, .len = 6 } };
        try std.testing.expectEqualSlices(Item, expected[if (features == 0) 1 else 0..], items[0..count]);
        try std.testing.expectEqual(7 - count, self.ring.outstanding());
        for (0..8 - self.ring.outstanding()) |_| try self.addChains(&.{1});
        try std.testing.expectError(error.Full, self.ring.add(&.{.{ .gpa = 0, .len = 1 }}, &.{}, 0, .direct));
    }
}

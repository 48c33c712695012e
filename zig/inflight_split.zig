//! The region of a split ring in the memory of `inflight.zig`: marks on the heads that are in our hands, and the last
//! ones that were given back, as a list.

const std = @import("std");
const inflight_file = @import("inflight.zig");
const journal_file = @import("journal.zig");
const vring_entry = @import("vring_entry.zig");

const Inflight = inflight_file.Inflight;
const inOrder = journal_file.inOrder;
const allocator = std.heap.c_allocator;

const Head = extern struct {
    features: u64,
    version: u16,
    desc_num: u16,
    last_batch_head: u16,
    used_idx: u16,

    comptime {
        std.debug.assert(@sizeOf(Head) == 16);
    }
};

const Entry = extern struct {
    inflight: u8,
    padding: [5]u8,
    next: u16,
    counter: u64,

    comptime {
        std.debug.assert(@sizeOf(Entry) == 16 and @offsetOf(Entry, "next") == 6);
    }
};

const Table = struct { head: *Head, entries: []Entry };

/// What a ring says of itself at its start.
pub const View = struct {
    size: u32,
    used_idx: u16,
    avail_idx: u16,
    /// Of the avail area.
    slots: [*]const u16,

    fn headAt(view: View, position: u16) u16 {
        return @atomicLoad(u16, &view.slots[position & (view.size - 1)], .monotonic);
    }
};

pub const SplitRegion = struct {
    table: Table,
    /// What the next head gets.
    counter: u64,
    last_batch_head: u16,
    /// Heads that are marked.
    noted: u32,
    /// In the hands of who was here before us, oldest first: to be given back.
    held: []u16,

    /// Null: the front end keeps none for this ring.
    pub fn create(inflight: *Inflight, number: u32, size: u32) inflight_file.Error!?*SplitRegion {
        const table = try inflight.tableOf(Table, number, size) orelse return null;
        const region = allocator.create(SplitRegion) catch return error.OutOfMemory;
        region.* = .{ .table = table, .counter = 0, .last_batch_head = 0, .noted = 0, .held = &.{} };
        return region;
    }

    pub fn destroy(region: *SplitRegion) void {
        region.forgetHeld();
        allocator.destroy(region);
    }

    /// Nothing is in hand.
    pub fn begin(region: *SplitRegion, used_idx: u16) void {
        region.end();
        const head = region.table.head;
        region.counter = 0;
        region.last_batch_head = 0;
        region.noted = 0;
        head.features = 0;
        head.desc_num = @intCast(region.table.entries.len);
        head.last_batch_head = 0;
        head.used_idx = used_idx;
        for (region.table.entries) |*entry| entry.inflight = 0;
        inOrder();
        @atomicStore(u16, &head.version, inflight_file.version, .monotonic);
        inOrder();
    }

    /// The ring was stopped: where it begins, its front end knows.
    pub fn end(region: *SplitRegion) void {
        @atomicStore(u16, &region.table.head.version, 0, .monotonic);
        inOrder();
    }

    /// Heads are in our hands, before anything is made of them.
    pub fn take(region: *SplitRegion, heads: []const vring_entry.Head) void {
        for (heads) |head| {
            const entry = &region.table.entries[head.id];
            @atomicStore(u64, &entry.counter, region.counter, .monotonic);
            region.counter +%= 1;
            inOrder();
            @atomicStore(u8, &entry.inflight, 1, .monotonic);
            inOrder();
        }
        region.noted += @intCast(heads.len);
    }

    /// A head is about to be given back with others.
    pub fn link(region: *SplitRegion, head: u16) void {
        @atomicStore(u16, &region.table.entries[head].next, region.last_batch_head, .monotonic);
        inOrder();
        region.last_batch_head = head;
        @atomicStore(u16, &region.table.head.last_batch_head, head, .monotonic);
        inOrder();
    }

    /// It is no more in our hands: the driver has it.
    pub fn unmark(region: *SplitRegion, head: u16) void {
        inOrder();
        @atomicStore(u8, &region.table.entries[head].inflight, 0, .monotonic);
        region.noted -= 1;
    }

    /// All of a batch is unmarked.
    pub fn settle(region: *SplitRegion, used_idx: u16) void {
        inOrder();
        @atomicStore(u16, &region.table.head.used_idx, used_idx, .monotonic);
        inOrder();
    }

    /// What somebody else had in hand is held from now on. False: the region is not of this ring, or of nobody's.
    pub fn takeUp(region: *SplitRegion, view: View) error{OutOfMemory}!bool {
        const entries = try allocator.dupe(Entry, region.table.entries);
        defer allocator.free(entries);
        const head = @as(*const volatile Head, region.table.head).*;
        if (head.version != inflight_file.version or head.features != 0 or head.desc_num != entries.len) return false;
        const batch = view.used_idx -% head.used_idx;
        if (batch > view.size) return false;
        var at = head.last_batch_head;
        for (0..batch) |_| {
            if (at >= entries.len) break;
            entries[at].inflight = 0;
            at = entries[at].next;
        }
        const held = try heldOf(entries);
        if (!fits(view, entries, held)) {
            allocator.free(held);
            return false;
        }
        region.adopt(head, entries, held, view.used_idx);
        return true;
    }

    /// Oldest first.
    fn heldOf(entries: []const Entry) error{OutOfMemory}![]u16 {
        var held: std.ArrayList(u16) = .empty;
        errdefer held.deinit(allocator);
        for (entries, 0..) |entry, head| if (entry.inflight == 1) try held.append(allocator, @intCast(head));
        std.mem.sort(u16, held.items, entries, isOlder);
        return held.toOwnedSlice(allocator);
    }

    fn isOlder(entries: []const Entry, one: u16, other: u16) bool {
        return entries[one].counter < entries[other].counter;
    }

    /// Whether the driver can have offered what is in hand. One that began anew, whose front end gave an old region all
    /// the same, has not.
    fn fits(view: View, entries: []Entry, held: []const u16) bool {
        const offered = view.avail_idx -% view.used_idx;
        if (offered > view.size or held.len > offered) return false;
        for (held) |head| if (head >= view.size) return false;
        var at = view.used_idx +% @as(u16, @intCast(held.len));
        while (at != view.avail_idx) : (at +%= 1) {
            const head = view.headAt(at);
            if (head < entries.len and entries[head].inflight == 1) return false;
        }
        // Of a driver that got nothing back yet, all that was taken is still there in order.
        if (view.used_idx != 0) return true;
        for (0..held.len) |position| {
            const head = view.headAt(@intCast(position));
            if (head >= entries.len or entries[head].inflight != 1) return false;
            entries[head].inflight = 2;
        }
        return true;
    }

    /// Finishes what was begun there.
    fn adopt(region: *SplitRegion, head: Head, entries: []const Entry, held: []u16, used_idx: u16) void {
        for (region.table.entries, entries) |*entry, copy| {
            if (copy.inflight == 0) @atomicStore(u8, &entry.inflight, 0, .monotonic);
        }
        region.settle(used_idx);
        region.forgetHeld();
        region.held = held;
        region.noted = @intCast(held.len);
        region.last_batch_head = if (head.last_batch_head < entries.len) head.last_batch_head else 0;
        region.counter = if (held.len == 0) 0 else entries[held[held.len - 1]].counter +% 1;
    }

    pub fn heldCount(region: *const SplitRegion) usize {
        return region.held.len;
    }

    /// All of it was given back.
    pub fn forgetHeld(region: *SplitRegion) void {
        allocator.free(region.held);
        region.held = &.{};
    }
};

//! The region of a packed ring in the memory of `inflight.zig`: a copy of the descriptors that are in our hands, in
//! entries that are linked to lists, and where the ring is.

const std = @import("std");
const inflight_file = @import("inflight.zig");
const journal_file = @import("journal.zig");
const packed_place = @import("packed_place.zig");
const spec = @import("spec.zig");
const vring_entry = @import("vring_entry.zig");

const Inflight = inflight_file.Inflight;
const Place = packed_place.Place;
const inOrder = journal_file.inOrder;
const allocator = std.heap.c_allocator;

/// Of entries that are free: now, and when the last chain was whole or given back.
const Lists = packed struct(u32) { free_head: u16, old_free_head: u16 };

/// Where the next used descriptor goes: when a flush that has begun is done, and before it.
const Places = packed struct(u64) {
    used_idx: u16,
    old_used_idx: u16,
    used_wrap: u8,
    old_used_wrap: u8,
    padding: u16 = 0,

    fn of(used: Place, old: Place) Places {
        return .{
            .used_idx = used.index,
            .old_used_idx = old.index,
            .used_wrap = @intFromBool(used.wrap),
            .old_used_wrap = @intFromBool(old.wrap),
        };
    }
};

const Head = extern struct {
    features: u64,
    version: u16,
    desc_num: u16,
    lists: Lists,
    /// One store changes all of it, so that no reader finds half a place.
    places: Places,
    padding: [8]u8,

    comptime {
        std.debug.assert(@sizeOf(Head) == 32 and @offsetOf(Head, "lists") == 12 and @offsetOf(Head, "places") == 16);
    }
};

const Entry = extern struct {
    inflight: u8,
    padding: u8,
    next: u16,
    last: u16,
    num: u16,
    counter: u64,
    id: u16,
    flags: u16,
    len: u32,
    addr: u64,

    comptime {
        std.debug.assert(@sizeOf(Entry) == 32 and @offsetOf(Entry, "id") == 16);
    }
};

const Table = struct { head: *Head, entries: []Entry };

/// In hand: its first and last entry, and what is given back.
const Chain = struct { head: u16, last: u16, back: vring_entry.Head };

/// Where somebody else left the ring: the next used place, and how many descriptors behind it were taken.
pub const Left = struct { used: Place, taken: u32 };

pub const PackedRegion = struct {
    table: Table,
    /// What the next chain gets.
    counter: u64,
    /// As in the region, of which nothing is believed while the ring runs.
    free_head: u16,
    used: Place,
    next: []u16,
    /// In hand, in order.
    chains: []Chain,
    noted: u32,
    /// So many of them in the hands of who was here before us: to be given back.
    held: u32,
    /// The driver had us take more than its ring holds: there is no way to write that down.
    lost: bool,

    /// Null: the front end keeps none for this ring.
    pub fn create(inflight: *Inflight, number: u32, size: u32) inflight_file.Error!?*PackedRegion {
        const table = try inflight.tableOf(Table, number, size) orelse return null;
        const region = allocator.create(PackedRegion) catch return error.OutOfMemory;
        errdefer allocator.destroy(region);
        const next = allocator.alloc(u16, table.entries.len) catch return error.OutOfMemory;
        errdefer allocator.free(next);
        region.* = .{
            .table = table,
            .counter = 0,
            .free_head = 0,
            .used = .first,
            .next = next,
            .chains = allocator.alloc(Chain, table.entries.len) catch return error.OutOfMemory,
            .noted = 0,
            .held = 0,
            .lost = false,
        };
        return region;
    }

    pub fn destroy(region: *PackedRegion) void {
        allocator.free(region.chains);
        allocator.free(region.next);
        allocator.destroy(region);
    }

    /// Nothing is in hand.
    pub fn begin(region: *PackedRegion, used: Place) void {
        region.end();
        const head = region.table.head;
        region.counter = 0;
        region.free_head = 0;
        region.used = used;
        region.noted = 0;
        region.held = 0;
        region.lost = false;
        head.features = 0;
        head.desc_num = @intCast(region.table.entries.len);
        region.storeLists(0);
        region.storePlaces(used);
        for (region.table.entries, 0..) |*entry, i| {
            entry.inflight = 0;
            region.setNext(@intCast(i), @intCast(i + 1));
        }
        inOrder();
        @atomicStore(u16, &head.version, inflight_file.version, .monotonic);
        inOrder();
    }

    /// The ring was stopped: where it begins, its front end knows.
    pub fn end(region: *PackedRegion) void {
        @atomicStore(u16, &region.table.head.version, 0, .monotonic);
        inOrder();
    }

    /// A chain is in our hands, before anything is made of it. Its descriptors are at `from` of a ring of `size`.
    pub fn take(
        region: *PackedRegion,
        back: vring_entry.Head,
        desc: [*]const spec.PackedDesc,
        from: Place,
        size: u32,
    ) void {
        if (region.lost) return;
        const first = region.free_head;
        if (region.noted == region.chains.len) return region.giveUp();
        var free = first;
        var last = first;
        var at = from;
        for (0..back.count) |_| {
            if (free >= region.next.len) return region.giveUp();
            const one = @as(*const volatile spec.PackedDesc, &desc[at.index]).*;
            const entry = &region.table.entries[free];
            entry.addr = one.addr;
            entry.len = one.len;
            entry.flags = one.flags;
            entry.id = one.id;
            last = free;
            free = region.next[free];
            at.advance(1, size);
        }
        region.table.entries[last].id = back.id;
        const entry = &region.table.entries[first];
        entry.num = back.count;
        entry.last = last;
        entry.counter = region.counter;
        region.counter +%= 1;
        inOrder();
        @atomicStore(u8, &entry.inflight, 1, .monotonic);
        region.free_head = free;
        region.storeLists(free);
        region.chains[region.noted] = .{ .head = first, .last = last, .back = back };
        region.noted += 1;
    }

    /// All that is noted is about to be given back, after which the next used place is `used`.
    pub fn release(region: *PackedRegion, used: Place) void {
        if (region.lost) return;
        const before = region.free_head;
        for (region.chains[0..region.noted]) |chain| {
            region.setNext(chain.last, region.free_head);
            region.free_head = chain.head;
        }
        inOrder();
        @atomicStore(u32, @as(*u32, @ptrCast(&region.table.head.lists)), @bitCast(Lists{
            .free_head = region.free_head,
            .old_free_head = before,
        }), .monotonic);
        inOrder();
        const places: Places = .of(used, region.used);
        @atomicStore(u64, @as(*u64, @ptrCast(&region.table.head.places)), @bitCast(places), .monotonic);
        inOrder();
        region.used = used;
    }

    /// The driver has it.
    pub fn settle(region: *PackedRegion) void {
        if (region.lost) return;
        inOrder();
        for (region.chains[0..region.noted]) |chain| {
            @atomicStore(u8, &region.table.entries[chain.head].inflight, 0, .monotonic);
        }
        region.noted = 0;
        region.held = 0;
        region.storeLists(region.free_head);
        region.storePlaces(region.used);
    }

    fn setNext(region: *PackedRegion, entry: u16, next: u16) void {
        region.next[entry] = next;
        @atomicStore(u16, &region.table.entries[entry].next, next, .monotonic);
    }

    /// Lists before places: as long as those differ, it is the ring that says which of the lists holds.
    fn storeLists(region: *PackedRegion, free_head: u16) void {
        inOrder();
        const lists: Lists = .{ .free_head = free_head, .old_free_head = free_head };
        @atomicStore(u32, @as(*u32, @ptrCast(&region.table.head.lists)), @bitCast(lists), .monotonic);
        inOrder();
    }

    fn storePlaces(region: *PackedRegion, used: Place) void {
        inOrder();
        const places: Places = .of(used, used);
        @atomicStore(u64, @as(*u64, @ptrCast(&region.table.head.places)), @bitCast(places), .monotonic);
        inOrder();
    }

    fn giveUp(region: *PackedRegion) void {
        region.lost = true;
        region.end();
    }

    /// What somebody else had in hand is held from now on. Null: the region is not of this ring, or of nobody's.
    pub fn takeUp(region: *PackedRegion, desc: [*]const spec.PackedDesc, size: u32) error{OutOfMemory}!?Left {
        const entries = try allocator.dupe(Entry, region.table.entries);
        defer allocator.free(entries);
        const head = @as(*const volatile Head, region.table.head).*;
        if (head.version != inflight_file.version or head.features != 0 or head.desc_num != entries.len) return null;
        const ring: View = .{ .desc = desc, .size = size };
        const last = ring.lastOf(head) orelse return null;
        var at = last.free_head;
        for (0..entries.len) |_| {
            if (at >= entries.len) break;
            entries[at].inflight = 0;
            at = entries[at].next;
        }
        const taken = region.hold(entries, size) orelse return null;
        if (taken > 0 and !ring.isOffered(last.used)) return null;
        if (!ring.wasPassed(last.used)) return null;
        region.adopt(entries, last);
        return .{ .used = last.used, .taken = taken };
    }

    /// Takes chains over, oldest first. Returns how many descriptors they are; null: they cannot be.
    fn hold(region: *PackedRegion, entries: []const Entry, size: u32) ?u32 {
        region.noted = 0;
        var taken: u32 = 0;
        for (entries, 0..) |entry, i| {
            if (entry.inflight != 1) continue;
            if (entry.num == 0 or entry.num > size - taken or entry.last >= entries.len) return null;
            const id = entries[entry.last].id;
            if (id >= size) return null;
            taken += entry.num;
            const back: vring_entry.Head = .{ .id = id, .count = entry.num };
            region.chains[region.noted] = .{ .head = @intCast(i), .last = entry.last, .back = back };
            region.noted += 1;
        }
        std.mem.sort(Chain, region.chains[0..region.noted], entries, isOlder);
        return taken;
    }

    fn isOlder(entries: []const Entry, one: Chain, other: Chain) bool {
        return entries[one.head].counter < entries[other.head].counter;
    }

    /// Finishes, or undoes, what was begun there.
    fn adopt(region: *PackedRegion, entries: []const Entry, last: Last) void {
        region.held = region.noted;
        region.free_head = last.free_head;
        region.used = last.used;
        for (region.next, entries) |*next, entry| next.* = entry.next;
        region.counter = if (region.held == 0) 0 else entries[region.chains[region.held - 1].head].counter +% 1;
        region.storeLists(last.free_head);
        region.storePlaces(last.used);
        for (region.table.entries, entries) |*entry, copy| {
            if (copy.inflight == 0) @atomicStore(u8, &entry.inflight, 0, .monotonic);
        }
        inOrder();
    }

    pub fn heldCount(region: *const PackedRegion) usize {
        return region.held;
    }
};

/// What holds of a region: the lists and places before or after the flush that was cut off.
const Last = struct { free_head: u16, used: Place };

/// What a ring says of itself at its start.
const View = struct {
    desc: [*]const spec.PackedDesc,
    size: u32,

    fn flagsAt(view: View, index: u16) u16 {
        return @atomicLoad(u16, &view.desc[index].flags, .monotonic);
    }

    fn isOffered(view: View, place: Place) bool {
        return packed_place.isAvailable(view.flagsAt(place.index), place.wrap);
    }

    /// Null: a place lies outside of the ring.
    fn lastOf(view: View, head: Head) ?Last {
        const places = head.places;
        const old: Place = .{ .index = places.old_used_idx, .wrap = places.old_used_wrap & 1 != 0 };
        const new: Place = .{ .index = places.used_idx, .wrap = places.used_wrap & 1 != 0 };
        if (old.index >= view.size or new.index >= view.size) return null;
        const shown = !std.meta.eql(old, new) and !view.isOffered(old);
        return if (shown)
            .{ .free_head = head.lists.free_head, .used = new }
        else
            .{ .free_head = head.lists.old_free_head, .used = old };
    }

    /// Whether what lies before a place can have been used. It has not where a driver began anew, and its front end
    /// gave an old region all the same: then there is memory that nobody has written to, or what was only offered.
    fn wasPassed(view: View, place: Place) bool {
        var at = place;
        for (0..view.size) |steps| {
            // Nothing lies before the first place of a new ring.
            if (steps == 0 and std.meta.eql(at, .first)) return true;
            at.wrap = at.wrap != (at.index == 0);
            at.index = if (at.index == 0) @intCast(view.size - 1) else at.index - 1;
            const flags = view.flagsAt(at.index);
            if (flags == 0 and @atomicLoad(u64, &view.desc[at.index].addr, .monotonic) == 0) return false;
            // The last descriptors of a chain stay as the driver wrote them.
            if (!packed_place.isAvailable(flags, at.wrap)) return true;
            if (steps > 0 and flags & spec.desc_next == 0) return false;
        }
        return false;
    }
};

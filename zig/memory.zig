//! Guest memory as one port sees it: the regions of the vhost-user memory table, mapped here.
//!
//! The control thread changes it while every worker is paused; workers only translate. A guest
//! number becomes a pointer nowhere else.

const std = @import("std");
const abi = @import("abi.zig");
const fault = @import("fault.zig");
const PostCopy = @import("post_copy.zig").PostCopy;
const sys = @import("sys.zig");

pub const Error = error{
    InvalidArgument,
    NoSuchHandle,
    LimitReached,
    OutOfMemory,
    Overlap,
    FileTooShort,
    WrongFd,
    /// The kernel refused to map; `Table.errno` says why.
    System,
};

/// One mapped region. `size` 0 marks an unused row: no address lies in it.
pub const Mapping = struct {
    gpa: u64 = 0,
    size: u64 = 0,
    /// Where `gpa` is mapped here.
    host: [*]u8 = undefined,
    mmap_offset: u64 = 0,
    /// A duplicate of the file's, for a process that is to go on in our place; -1: there were no more to be had.
    fd: i32 = -1,
    map: []align(std.heap.page_size_min) u8 = &.{},
    guard: fault.Guard = .none,
    /// Where it is registered.
    post_copy: ?*PostCopy = null,
};

/// Where a region lies, to be kept at hand as long as no other does.
pub const Window = struct {
    gpa: u64,
    size: u64,
    host: [*]u8,

    /// How far behind `host` these bytes lie; null when they do not lie whole in this region.
    pub inline fn offsetOf(window: Window, gpa: u64, len: u32) ?u64 {
        @setRuntimeSafety(false);
        const offset = gpa -% window.gpa;
        return if (offset < window.size and len <= window.size - offset) offset else null;
    }
};

/// A piece of guest memory that is contiguous here.
pub const Span = struct { base: [*]u8, len: u64 };

pub const Memory = struct {
    /// Sorted by guest address, without overlaps; rows from `count` on are unused.
    rows: [abi.regions_max]Mapping,
    count: u32,
    /// SIGBUS faults in what is mapped: the front end truncated a file, and there are zeros now.
    faults: fault.Counter,
    post_copy: PostCopy,

    pub fn init(memory: *Memory) void {
        @memset(&memory.rows, .{});
        memory.count = 0;
        memory.faults = .init(0);
        memory.post_copy = .{};
    }

    /// Whether a file was truncated under it: what is there now is not what the guest has.
    pub fn isFaulty(memory: *const Memory) bool {
        return memory.faults.load(.acquire) > 0;
    }

    /// Why it is not what the guest has; null: it is.
    pub fn faultReason(memory: *const Memory) ?abi.VringBroken {
        if (!memory.isFaulty()) return null;
        return if (memory.post_copy.lost.load(.acquire)) .page_not_fetched else .memory_fault;
    }

    /// Where a region begins here; null when there is none of this address and size.
    pub fn hostOf(memory: *const Memory, region: abi.Region) ?[*]u8 {
        for (memory.rows[0..memory.count]) |*row| {
            if (row.gpa == region.gpa and row.size == region.size_bytes) return row.host;
        }
        return null;
    }

    /// The file of a region, still ours; null when there is no such region, or no descriptor of it was kept.
    pub fn fdOf(memory: *const Memory, region: abi.Region) ?i32 {
        for (memory.rows[0..memory.count]) |*row| {
            if (row.gpa == region.gpa and row.size == region.size_bytes) return if (row.fd >= 0) row.fd else null;
        }
        return null;
    }

    /// Where `len` bytes at `gpa` are mapped, or null when they do not lie whole in one region.
    /// `hint` remembers the row of the last success, for its one user.
    pub inline fn translate(memory: *const Memory, gpa: u64, len: u64, hint: *u32) ?[*]u8 {
        const row = &memory.rows[hint.*];
        const offset = gpa -% row.gpa;
        if (offset < row.size and len <= row.size - offset) return row.host + offset;
        const piece = memory.span(gpa, len, hint) orelse return null;
        return if (piece.len == len) piece.base else null;
    }

    /// The region of the last success.
    pub fn window(memory: *const Memory, hint: u32) Window {
        const row = &memory.rows[hint];
        return .{ .gpa = row.gpa, .size = row.size, .host = row.host };
    }

    /// The first bytes at `gpa`, at most `len`, that are contiguous here; null when none are mapped.
    pub fn span(memory: *const Memory, gpa: u64, len: u64, hint: *u32) ?Span {
        var low: u32 = 0;
        var high: u32 = memory.count;
        while (low < high) {
            const middle = low + (high - low) / 2;
            if (memory.rows[middle].gpa <= gpa) low = middle + 1 else high = middle;
        }
        if (low == 0) return null;
        const row = &memory.rows[low - 1];
        const offset = gpa - row.gpa;
        if (offset >= row.size) return null;
        hint.* = low - 1;
        return .{ .base = row.host + offset, .len = @min(len, row.size - offset) };
    }

    /// The guest's address of what was found by `translate` or `span` in this table.
    pub fn addressOf(memory: *const Memory, base: [*]const u8, hint: *u32) u64 {
        const likely = &memory.rows[hint.*];
        const behind = @intFromPtr(base) -% @intFromPtr(likely.host);
        if (behind < likely.size) return likely.gpa + behind;
        for (memory.rows[0..memory.count], 0..) |*row, i| {
            const offset = @intFromPtr(base) -% @intFromPtr(row.host);
            if (offset >= row.size) continue;
            hint.* = @intCast(i);
            return row.gpa + offset;
        }
        unreachable;
    }

    /// Copies guest bytes out, whatever regions they straddle. False: not all of them are mapped.
    pub fn read(memory: *const Memory, gpa: u64, bytes: []u8, hint: *u32) bool {
        var done: usize = 0;
        while (done < bytes.len) {
            const at = std.math.add(u64, gpa, done) catch return false;
            const piece = memory.span(at, bytes.len - done, hint) orelse return false;
            const count: usize = @intCast(piece.len);
            @memcpy(bytes[done..][0..count], piece.base[0..count]);
            done += count;
        }
        return true;
    }

    /// Nobody uses the memory any more.
    pub fn unmapAll(memory: *Memory) void {
        for (memory.rows[0..memory.count]) |*row| unmap(row);
        memory.count = 0;
    }

    /// Takes over every row of `table`, and leaves the old rows in it. Workers are paused.
    pub fn swap(memory: *Memory, table: *Table) void {
        for (0..@max(memory.count, table.count)) |i| std.mem.swap(Mapping, &memory.rows[i], &table.rows[i]);
        std.mem.swap(u32, &memory.count, &table.count);
    }
};

/// A memory table in the making, or on its way out: mapped, but no worker sees it.
pub const Table = struct {
    rows: [abi.regions_max]Mapping,
    count: u32,
    errno: u16,

    pub fn create() Error!*Table {
        const table = std.heap.c_allocator.create(Table) catch return error.OutOfMemory;
        table.count = 0;
        table.errno = 0;
        @memset(&table.rows, .{});
        return table;
    }

    /// Unmaps what is in it.
    pub fn destroy(table: *Table) void {
        for (table.rows[0..table.count]) |*row| unmap(row);
        std.heap.c_allocator.destroy(table);
    }

    /// Starts from the rows that `memory` has; none of them is mapped again.
    pub fn copy(table: *Table, memory: *const Memory) void {
        @memcpy(table.rows[0..memory.count], memory.rows[0..memory.count]);
        table.count = memory.count;
    }

    /// Maps one more region. `faults` counts what its file lacks, as long as it is mapped. The fd is only borrowed.
    pub fn add(table: *Table, region: abi.Region, fd: i32, faults: *fault.Counter) Error!void {
        if (table.count == abi.regions_max) return error.LimitReached;
        const end = std.math.add(u64, region.gpa, region.size_bytes) catch return error.InvalidArgument;
        if (region.size_bytes == 0) return error.InvalidArgument;
        var place: u32 = 0;
        while (place < table.count and table.rows[place].gpa < region.gpa) place += 1;
        if (place < table.count and table.rows[place].gpa < end) return error.Overlap;
        if (place > 0) {
            const before = &table.rows[place - 1];
            if (before.gpa + before.size > region.gpa) return error.Overlap;
        }
        const row = try table.mapped(region, fd, faults);
        var i = table.count;
        while (i > place) : (i -= 1) table.rows[i] = table.rows[i - 1];
        table.rows[place] = row;
        table.count += 1;
    }

    /// Has what is missing in this region, which nobody has touched yet, fetched by the front end, if the guest is in
    /// post-copy.
    pub fn register(table: *Table, region: abi.Region, post_copy: *PostCopy) Error!void {
        if (!post_copy.listens) return;
        const row = table.find(region).?;
        post_copy.register(row.map) catch |reason| {
            table.errno = sys.lastErrno();
            return reason;
        };
        row.post_copy = post_copy;
    }

    /// Gives its rows up: they are somebody else's.
    pub fn disown(table: *Table) void {
        table.count = 0;
    }

    /// The row of this region.
    pub fn find(table: *Table, region: abi.Region) ?*Mapping {
        for (table.rows[0..table.count]) |*row| {
            if (row.gpa == region.gpa and row.size == region.size_bytes) return row;
        }
        return null;
    }

    /// Takes the row of this region out, without unmapping it.
    pub fn remove(table: *Table, region: abi.Region) Error!Mapping {
        for (table.rows[0..table.count], 0..) |row, i| {
            if (row.gpa != region.gpa or row.size != region.size_bytes) continue;
            for (i..table.count - 1) |k| table.rows[k] = table.rows[k + 1];
            table.count -= 1;
            table.rows[table.count] = .{};
            return row;
        }
        return error.NoSuchHandle;
    }

    fn mapped(table: *Table, region: abi.Region, fd: i32, faults: *fault.Counter) Error!Mapping {
        const file = sys.fileInfo(fd) catch return error.WrongFd;
        if (!file.regular) return error.WrongFd;
        const file_end = std.math.add(u64, region.mmap_offset, region.size_bytes) catch return error.InvalidArgument;
        if (file_end > file.size) return error.FileTooShort;
        // hugetlbfs maps whole huge pages only, and names their size as its block size.
        const page = @max(std.heap.page_size_min, file.block_bytes);
        if (!std.math.isPowerOfTwo(page)) return error.WrongFd;
        const lead = region.mmap_offset & (page - 1);
        const bytes = std.mem.alignForward(u64, std.math.add(u64, lead, region.size_bytes) catch
            return error.InvalidArgument, page);
        const map = sys.mapShared(fd, region.mmap_offset - lead, bytes) catch {
            table.errno = sys.lastErrno();
            return error.System;
        };
        const guard = fault.watch(map, faults) orelse {
            sys.unmap(map);
            return error.LimitReached;
        };
        return .{
            .gpa = region.gpa,
            .size = region.size_bytes,
            .host = map.ptr + lead,
            .mmap_offset = region.mmap_offset,
            .fd = sys.duplicate(fd) catch -1,
            .map = map,
            .guard = guard,
        };
    }
};

pub fn unmap(row: *Mapping) void {
    if (row.post_copy) |post_copy| post_copy.forget(row.map);
    fault.forget(row.guard);
    sys.unmap(row.map);
    if (row.fd >= 0) sys.close(row.fd);
    row.* = .{};
}

test "as many regions as there may be are found, one more is refused, and so is one that touches another" {
    const fd = try sys.memoryFile("test", abi.regions_max * 64);
    defer sys.close(fd);
    const memory = try std.testing.allocator.create(Memory);
    defer std.testing.allocator.destroy(memory);
    memory.init();
    defer memory.unmapAll();
    const table = try Table.create();
    defer table.destroy();
    for (0..abi.regions_max) |i| {
        // Every other one first: the table sorts them.
        const place = if (2 * i < abi.regions_max) 2 * i else 2 * (i - (abi.regions_max + 1) / 2) + 1;
        const region: abi.Region = .{ .gpa = place * 100, .size_bytes = 64, .mmap_offset = place * 64 };
        try table.add(region, fd, &memory.faults);
        const touching: abi.Region = .{ .gpa = place * 100 + 63, .size_bytes = 1, .mmap_offset = 0 };
        const wrong = if (table.count < abi.regions_max) error.Overlap else error.LimitReached;
        try std.testing.expectError(wrong, table.add(touching, fd, &memory.faults));
    }
    memory.swap(table);
    var hint: u32 = 0;
    for (0..abi.regions_max) |place| {
        try std.testing.expect(memory.translate(place * 100, 64, &hint) != null);
        try std.testing.expect(memory.translate(place * 100, 65, &hint) == null);
        try std.testing.expect(memory.translate(place * 100 + 64, 1, &hint) == null);
    }
}

//! A simulated guest's memory on its way to a twin in another process, page by page, as a hypervisor copies it while
//! the guest runs: all once, and again what the dirty log says. The twin has the same config.
//!
//! One thread. The guest runs or not; its device writes at any time.

const std = @import("std");
const abi = @import("abi.zig");
const guest_area = @import("guest_area.zig");
const guest_file = @import("guest.zig");
const Guest = guest_file.Guest;
const sys = @import("sys.zig");

const Error = guest_file.Error;

const page_bytes = 4096;
const word_pages = 64;
const allocator = std.heap.c_allocator;

pub const Transfer = struct {
    guest: *Guest,
    target: sys.Map,
    /// The dirty log's file as far as it is mapped, and the log in it; empty without one.
    log: ?sys.Map,
    words: []u64,

    /// `fd`, only borrowed, has the twin's memory. The guest stays open meanwhile.
    pub fn open(guest: *Guest, fd: i32) Error!*Transfer {
        const info = try sys.fileInfo(fd);
        if (!info.regular or info.size != guest.map.len) return error.InvalidArgument;
        const transfer = try allocator.create(Transfer);
        errdefer allocator.destroy(transfer);
        transfer.* = .{
            .guest = guest,
            .target = try sys.mapShared(fd, 0, guest.map.len),
            .log = null,
            .words = &.{},
        };
        return transfer;
    }

    pub fn close(transfer: *Transfer) void {
        transfer.dropLog();
        sys.unmap(transfer.target);
        allocator.destroy(transfer);
    }

    /// Reads the log of a file from now on, and no other. `fd` is only borrowed.
    pub fn setLog(transfer: *Transfer, fd: i32, offset: u64, bytes: u64) Error!void {
        if (offset % 8 != 0 or bytes % 8 != 0 or bytes == 0) return error.InvalidArgument;
        const info = try sys.fileInfo(fd);
        const end = std.math.add(u64, offset, bytes) catch return error.InvalidArgument;
        if (!info.regular or info.size < end) return error.InvalidArgument;
        const map = try sys.mapShared(fd, 0, end);
        transfer.dropLog();
        transfer.log = map;
        transfer.words = @alignCast(std.mem.bytesAsSlice(u64, map[@intCast(offset)..]));
    }

    fn dropLog(transfer: *Transfer) void {
        if (transfer.log) |map| sys.unmap(map);
        transfer.log = null;
        transfer.words = &.{};
    }

    pub fn copy(transfer: *Transfer, pages: abi.GuestPages) abi.GuestCopy {
        var counts = std.mem.zeroes(abi.GuestCopy);
        switch (pages) {
            .all => transfer.copyRange(.{ .gpa = transfer.guest.config.gpa, .bytes = transfer.guest.map.len }, &counts),
            .own => for (0..transfer.guest.vringCount()) |index| {
                for (guest_area.ownRanges(transfer.guest, @intCast(index))) |range| transfer.copyRange(range, &counts);
            },
            .logged => transfer.copyLogged(&counts),
        }
        return counts;
    }

    /// All pages that a range touches.
    fn copyRange(transfer: *Transfer, range: guest_area.Range, counts: *abi.GuestCopy) void {
        if (range.bytes == 0) return;
        const last = (range.gpa + range.bytes - 1) / page_bytes;
        for (range.gpa / page_bytes..last + 1) |page| transfer.copyPage(page, counts);
    }

    /// Marks are taken away before their pages are read: what is written meanwhile is marked anew.
    fn copyLogged(transfer: *Transfer, counts: *abi.GuestCopy) void {
        for (transfer.words, 0..) |*word, i| {
            if (@atomicLoad(u64, word, .monotonic) == 0) continue;
            var marks = @atomicRmw(u64, word, .Xchg, 0, .seq_cst);
            while (marks != 0) : (marks &= marks - 1) transfer.copyPage(i * word_pages + @ctz(marks), counts);
        }
    }

    fn copyPage(transfer: *Transfer, page: u64, counts: *abi.GuestCopy) void {
        const at = page *% page_bytes -% transfer.guest.config.gpa;
        if (at >= transfer.guest.map.len) {
            counts.outside += 1;
            return;
        }
        const source = transfer.guest.map[@intCast(at)..][0..page_bytes];
        const target = transfer.target[@intCast(at)..][0..page_bytes];
        counts.pages += 1;
        counts.same += @intFromBool(std.mem.eql(u8, source, target));
        @memcpy(target, source);
    }

    /// Compares every page, while nobody writes. Tells of as many as there is room for, and returns how many differ.
    pub fn compare(transfer: *Transfer, out: []abi.GuestDifference) u32 {
        var count: u32 = 0;
        var at: usize = 0;
        while (at < transfer.target.len) : (at += page_bytes) {
            const source = transfer.guest.map[at..][0..page_bytes];
            const first = std.mem.indexOfDiff(u8, source, transfer.target[at..][0..page_bytes]) orelse continue;
            if (count < out.len) {
                const gpa = transfer.guest.config.gpa + at + first;
                const place = guest_area.placeOf(transfer.guest, gpa);
                out[count] = .{ .gpa = gpa, .area = place.area, .ring = place.ring, .buffer = place.buffer };
            }
            count += 1;
        }
        return count;
    }
};

const TestRig = struct {
    guest: *Guest,
    twin: *Guest,
    transfer: *Transfer,
    log: i32,

    fn init() !TestRig {
        var config = std.mem.zeroes(abi.GuestConfig);
        config.features = 1 << 32;
        config.gpa = 0x4000_0000;
        config.queue_pairs = 1;
        config.ring_size = 16;
        config.buffer_bytes = 2048;
        config.frame_bytes_max = 1514;
        const guest: *Guest = try .open(config);
        const twin: *Guest = try .open(config);
        const log = try sys.memoryFile("vhost-log", 0x8008 + 64);
        const transfer: *Transfer = try .open(guest, twin.fd);
        return .{ .guest = guest, .twin = twin, .transfer = transfer, .log = log };
    }

    fn deinit(rig: *TestRig) void {
        rig.transfer.close();
        sys.close(rig.log);
        rig.guest.close();
        rig.twin.close();
    }
};

test "what is marked is copied once, and what is not marked is found out, by its name" {
    var rig: TestRig = try .init();
    defer rig.deinit();
    var found: [4]abi.GuestDifference = undefined;
    @memset(rig.twin.map, 7);
    const pages = rig.guest.map.len / page_bytes;
    try std.testing.expectEqual(pages, rig.transfer.compare(&found));
    try std.testing.expectEqual(pages, rig.transfer.copy(.all).pages);
    try std.testing.expectEqual(0, rig.transfer.compare(&found));
    try rig.transfer.setLog(rig.log, 8, 0x8000 + 64);
    const room = rig.guest.lanes.split[0].receiver.side.room;
    const written = [_]abi.GuestDifference{
        .{ .gpa = rig.guest.vring(0).used_gpa, .area = .used, .ring = 0, .buffer = 0 },
        .{ .gpa = room.gpa + 5000, .area = .buffer, .ring = 0, .buffer = 2 },
    };
    for (written) |one| rig.guest.map[@intCast(one.gpa - rig.guest.config.gpa)] = 9;
    try std.testing.expectEqual(2, rig.transfer.compare(&found));
    try std.testing.expectEqualSlices(abi.GuestDifference, &written, found[0..2]);
    const bits = std.mem.sliceAsBytes(rig.transfer.words);
    const page = written[1].gpa / page_bytes;
    bits[page / 8] |= @as(u8, 1) << @intCast(page % 8);
    bits[(page + 1) / 8] |= @as(u8, 1) << @intCast((page + 1) % 8);
    bits[0] |= 1;
    try std.testing.expectEqual(abi.GuestCopy{ .pages = 2, .same = 1, .outside = 1 }, rig.transfer.copy(.logged));
    try std.testing.expect(std.mem.allEqual(u8, bits, 0));
    try std.testing.expectEqual(1, rig.transfer.compare(&found));
    try std.testing.expectEqual(abi.GuestArea.used, found[0].area);
    // The driver's own areas share that page.
    _ = rig.transfer.copy(.own);
    try std.testing.expectEqual(0, rig.transfer.compare(&found));
}

test "memory of another size, and a log beyond its file, are refused" {
    var rig: TestRig = try .init();
    defer rig.deinit();
    try std.testing.expectError(error.InvalidArgument, Transfer.open(rig.guest, rig.log));
    const end = 0x8048;
    const huge = std.math.maxInt(u64) - 7;
    for ([_][2]u64{ .{ 0, 0 }, .{ 1, 8 }, .{ 0, 7 }, .{ 0, end + 8 }, .{ end, 8 }, .{ 8, huge } }) |wrong| {
        try std.testing.expectError(error.InvalidArgument, rig.transfer.setLog(rig.log, wrong[0], wrong[1]));
    }
    try rig.transfer.setLog(rig.log, 0x8040, 8);
}

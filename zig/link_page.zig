//! The link page: what one guest is told of another, whose memory it has in BAR 2 of a PCI device. A file of the
//! host's, written by the process that speaks vhost-user with the other guest, and mapped through a BAR by the one
//! that works on the rings.
//!
//! Both may be of different versions: the layout below is a format, not only a shape. The reader can write all of it,
//! so that the writer believes only what stands in the reader's part, and that as far as it checks it.

const std = @import("std");
const abi = @import("abi.zig");
const fault = @import("fault.zig");
const sys = @import("sys.zig");

pub const Error = error{ InvalidArgument, FileTooShort, WrongFd, OutOfMemory, LimitReached, Busy, System };

/// "vhostpci" as it lies in memory, little-endian.
const magic: u64 = 0x6963_7074_736f_6876;
const version: u32 = 1;

const Page = extern struct {
    magic: u64,
    version: u32,
    /// The generation, even; odd while the writer is at work.
    sequence: u32,
    head: abi.LinkHead,
    regions: [abi.link_regions_max]abi.Region,
    vrings: [abi.link_vrings_max]abi.LinkVring,
    // The reader's part.
    /// The generation that it goes by: what that no longer has is not touched any more.
    acknowledged: u32 align(64),
    /// Another number again and again, as long as it is there.
    beats: u32,
    /// Where it has left each ring: for the writer, and for the next reader.
    stands: [abi.link_vrings_max]abi.LinkStand,

    comptime {
        std.debug.assert(@offsetOf(Page, "head") == 16);
        std.debug.assert(@offsetOf(Page, "regions") == 48);
        std.debug.assert(@offsetOf(Page, "vrings") == 1584);
        std.debug.assert(@offsetOf(Page, "acknowledged") == 11840);
        std.debug.assert(@offsetOf(Page, "stands") == 11848);
        std.debug.assert(@sizeOf(Page) <= abi.link_bytes_max);
        std.debug.assert(std.math.isPowerOfTwo(abi.link_bytes_max));
    }
};

/// Generations stay positive as i32, and wrap.
const sequence_mask: u32 = 0x3fff_ffff;

/// A writer that died in the middle leaves the page odd for good: a reader does not wait longer.
const torn_tries = 1000;

/// How often a reader is looked for while it is waited for.
const look_ns = 200_000;

/// Opens the file of a page, made where there is none, for `Link.create`.
pub fn openFile(path: []const u8, mode: u32) error{ InvalidArgument, System }!i32 {
    var buffer: [4096:0]u8 = undefined;
    if (path.len >= buffer.len) return error.InvalidArgument;
    @memcpy(buffer[0..path.len], path);
    buffer[path.len] = 0;
    const fd = try sys.openOwn(&buffer);
    errdefer sys.close(fd);
    try sys.changeMode(fd, mode);
    return fd;
}

pub const Link = struct {
    fd: i32,
    map: sys.Map,
    /// The writer's own: what stands in the page may be the reader's doing.
    sequence: u32,
    page: *Page,
    faults: fault.Counter,
    guard: fault.Guard,

    /// The writer's end: takes a file over, makes it as long as it has to be, and locks it against other writers. What
    /// it had is gone, but for the generation, which goes on: a reader may have it mapped.
    pub fn create(fd: i32) Error!*Link {
        sys.lock(fd) catch |reason| return if (sys.lastErrno() == sys.errno_again) error.Busy else reason;
        const file = try sys.fileInfo(fd);
        if (!file.regular) return error.WrongFd;
        if (file.size < abi.link_bytes_max) try sys.resize(fd, abi.link_bytes_max);
        const link = try open(fd);
        const page = link.page;
        const before = if (page.magic == magic) page.sequence else 0;
        link.sequence = before & sequence_mask;
        page.magic = magic;
        page.version = version;
        // No generation is odd.
        page.acknowledged = 1;
        const nothing = std.mem.zeroes(abi.LinkHead);
        _ = link.publish(nothing, &.{}, &.{}) catch unreachable;
        return link;
    }

    /// The reader's end: takes over what `create` made, as a BAR shows it.
    pub fn attach(fd: i32) Error!*Link {
        const file = try sys.fileInfo(fd);
        if (!file.regular) return error.WrongFd;
        if (file.size < abi.link_bytes_max) return error.FileTooShort;
        const link = try open(fd);
        if (link.page.magic == magic and link.page.version == version) return link;
        link.unmap();
        return error.InvalidArgument;
    }

    fn open(fd: i32) Error!*Link {
        const allocator = std.heap.c_allocator;
        const link = allocator.create(Link) catch return error.OutOfMemory;
        errdefer allocator.destroy(link);
        link.map = try sys.mapShared(fd, 0, abi.link_bytes_max);
        errdefer sys.unmap(link.map);
        link.fd = fd;
        link.sequence = 0;
        link.page = @ptrCast(@alignCast(link.map.ptr));
        link.faults = .init(0);
        link.guard = fault.watch(link.map, &link.faults) orelse return error.LimitReached;
        return link;
    }

    pub fn close(link: *Link) void {
        sys.close(link.fd);
        link.unmap();
    }

    fn unmap(link: *Link) void {
        fault.forget(link.guard);
        sys.unmap(link.map);
        std.heap.c_allocator.destroy(link);
    }

    /// Tells the reader all of it anew. Returns the generation.
    pub fn publish(
        link: *Link,
        head: abi.LinkHead,
        regions: []const abi.Region,
        vrings: []const abi.LinkVring,
    ) error{InvalidArgument}!u32 {
        const page = link.page;
        if (regions.len > page.regions.len or vrings.len > page.vrings.len) return error.InvalidArgument;
        // Nothing below may be seen before the sequence is odd, nor after it is even again.
        const odd = (link.sequence | 1) & sequence_mask;
        _ = @atomicRmw(u32, &page.sequence, .Xchg, odd, .acq_rel);
        const next = (odd + 1) & sequence_mask;
        link.sequence = next;
        page.head = head;
        page.head.generation = next;
        page.head.region_count = @intCast(regions.len);
        page.head.vring_count = @intCast(vrings.len);
        @memcpy(page.regions[0..regions.len], regions);
        @memcpy(page.vrings[0..vrings.len], vrings);
        @atomicStore(u32, &page.sequence, next, .release);
        return next;
    }

    /// What `read` would find, or an odd number while that is on its way.
    pub fn generation(link: *const Link) u32 {
        return @atomicLoad(u32, &link.page.sequence, .acquire) & sequence_mask;
    }

    /// What was told last, whole. Both slices have room for as much as a page has. `Busy`: it is being written.
    pub fn read(
        link: *const Link,
        head: *abi.LinkHead,
        regions: *[abi.link_regions_max]abi.Region,
        vrings: *[abi.link_vrings_max]abi.LinkVring,
    ) error{ Busy, InvalidArgument }!void {
        const page = link.page;
        for (0..torn_tries) |_| {
            const before = link.generation();
            if (before % 2 == 0) {
                head.* = page.head;
                regions.* = page.regions;
                vrings.* = page.vrings;
                sys.fence();
                if (link.generation() == before) {
                    if (head.region_count > regions.len or head.vring_count > vrings.len) return error.InvalidArgument;
                    return;
                }
            }
            std.atomic.spinLoopHint();
        }
        return error.Busy;
    }

    /// Goes by this generation from now on; an odd number: by none.
    pub fn acknowledge(link: *Link, which: u32) void {
        @atomicStore(u32, &link.page.acknowledged, which, .release);
    }

    /// For the reader: it is there.
    pub fn beat(link: *Link) void {
        _ = @atomicRmw(u32, &link.page.beats, .Add, 1, .monotonic);
    }

    /// Another number than a while ago: the reader is there.
    pub fn beats(link: *const Link) u32 {
        return @atomicLoad(u32, &link.page.beats, .monotonic) & sequence_mask;
    }

    /// By what the reader says it goes; anything, where it is hostile.
    pub fn acknowledged(link: *const Link) u32 {
        return @atomicLoad(u32, &link.page.acknowledged, .acquire) & sequence_mask;
    }

    /// Waits until the reader goes by this generation. Returns whether it does.
    pub fn await(link: *const Link, which: u32, patience_ms: u32) bool {
        const deadline = sys.nanoseconds() + @as(u64, patience_ms) * 1_000_000;
        while (link.acknowledged() != which) {
            if (sys.nanoseconds() >= deadline) return false;
            sys.sleep(look_ns);
        }
        return true;
    }

    /// For the reader: where it leaves a ring. To be told before the generation is acknowledged.
    pub fn setStand(link: *Link, vring: u32, stand: abi.LinkStand) error{InvalidArgument}!void {
        if (vring >= link.page.stands.len) return error.InvalidArgument;
        link.page.stands[vring] = stand;
    }

    /// As the reader says, or a reader before it.
    pub fn standOf(link: *const Link, vring: u32) error{InvalidArgument}!abi.LinkStand {
        if (vring >= link.page.stands.len) return error.InvalidArgument;
        return link.page.stands[vring];
    }
};

fn both() !struct { *Link, *Link } {
    const fd = try sys.memoryFile("test", 0);
    const copy = try sys.duplicate(fd);
    return .{ try .create(fd), try .attach(copy) };
}

const Room = struct {
    head: abi.LinkHead = undefined,
    regions: [abi.link_regions_max]abi.Region = undefined,
    vrings: [abi.link_vrings_max]abi.LinkVring = undefined,
};

test "what is published is read, with another generation each time, and what the reader says is heard" {
    const writer, const reader = try both();
    defer reader.close();
    defer writer.close();
    var head = std.mem.zeroes(abi.LinkHead);
    head.features = 1 << 32;
    const regions = [_]abi.Region{.{ .gpa = 0xc0000, .size_bytes = 0x1000, .mmap_offset = 0xc0000 }};
    var vrings: [2]abi.LinkVring = @splat(std.mem.zeroes(abi.LinkVring));
    vrings[1].start = 7;
    const first = try writer.publish(head, &regions, &vrings);
    var room: Room = .{};
    try reader.read(&room.head, &room.regions, &room.vrings);
    try std.testing.expectEqual(first, room.head.generation);
    try std.testing.expectEqual(1, room.head.region_count);
    try std.testing.expectEqual(regions[0], room.regions[0]);
    try std.testing.expectEqual(7, room.vrings[1].start);
    try std.testing.expect(!writer.await(first, 1));
    try reader.setStand(1, .{ .start = 7, .base = 6 });
    reader.acknowledge(first);
    try std.testing.expect(writer.await(first, 1));
    const beats = writer.beats();
    reader.beat();
    try std.testing.expect(writer.beats() != beats);
    try std.testing.expectEqual(abi.LinkStand{ .start = 7, .base = 6 }, try writer.standOf(1));
    const second = try writer.publish(head, &.{}, &vrings);
    try std.testing.expect(second != first and second % 2 == 0);
    // A reader that writes where it is to read spoils it for itself.
    @memset(reader.map, 0xff);
    try std.testing.expect(!writer.await(second, 1));
    const third = try writer.publish(head, &regions, &vrings);
    try std.testing.expectEqual(second + 2, third);
    try reader.read(&room.head, &room.regions, &room.vrings);
    try std.testing.expectEqual(third, room.head.generation);
    try std.testing.expectError(error.InvalidArgument, writer.standOf(abi.link_vrings_max));
}

test "a second writer is refused, the next one goes on, and what is no page is none" {
    const fd = try sys.memoryFile("test", abi.link_bytes_max);
    const copy = try sys.duplicate(fd);
    defer sys.close(copy);
    try std.testing.expectError(error.InvalidArgument, Link.attach(fd));
    const writer: *Link = try .create(fd);
    const last = try writer.publish(std.mem.zeroes(abi.LinkHead), &.{}, &.{});
    var path: [32]u8 = undefined;
    const name = try std.fmt.bufPrintSentinel(&path, "/proc/self/fd/{d}", .{copy}, 0);
    const other = try sys.openDevice(name);
    defer sys.close(other);
    try std.testing.expectError(error.Busy, Link.create(other));
    writer.close();
    const next: *Link = try .create(try sys.duplicate(copy));
    defer next.close();
    try std.testing.expect(next.generation() > last);
}

test "a page that is written without end is read whole or not at all" {
    const writer, const reader = try both();
    defer reader.close();
    defer writer.close();
    const Writing = struct {
        fn run(link: *Link, quit: *std.atomic.Value(bool)) void {
            var head = std.mem.zeroes(abi.LinkHead);
            var regions: [abi.link_regions_max]abi.Region = @splat(std.mem.zeroes(abi.Region));
            while (!quit.load(.acquire)) {
                head.features +%= 1;
                for (&regions) |*region| region.gpa = head.features;
                _ = link.publish(head, &regions, &.{}) catch unreachable;
                sys.sleep(1);
            }
        }
    };
    var quit: std.atomic.Value(bool) = .init(false);
    const thread = try std.Thread.spawn(.{}, Writing.run, .{ writer, &quit });
    defer thread.join();
    defer quit.store(true, .release);
    var room: Room = .{};
    var seen: u32 = 0;
    for (0..20_000) |_| {
        reader.read(&room.head, &room.regions, &room.vrings) catch continue;
        if (room.head.region_count == 0) continue;
        seen += 1;
        for (room.regions) |region| try std.testing.expectEqual(room.head.features, region.gpa);
    }
    try std.testing.expect(seen > 100);
}

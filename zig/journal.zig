//! What is known of a port's rings beyond their guest's memory, so that whoever comes after us goes on where we were: a
//! file, or as long as nobody gives one, anonymous memory, for front ends that come back.
//!
//! We may be killed between any two instructions. A store of ours is then there for the next process, and all before
//! it in program order are, too; so what matters is the order of stores, which `Record` keeps.

const std = @import("std");
const abi = @import("abi.zig");
const fault = @import("fault.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");

pub const Error = error{ OutOfMemory, WrongFd, LimitReached, System };

/// The file's head belongs to those who open it.
pub const head_bytes = abi.journal_head_bytes_max;
const records_bytes = abi.vrings_max * @sizeOf(Record);
const shadow_bytes = abi.vring_size_max * @sizeOf(u64);

/// Larger rings find room in the file system when they start, or do not start.
const usual_size_max = 1024;

/// Of a ring that runs, or was left by somebody who could not stop it.
const live_mark: u32 = 0x676e_6972;

/// What decides how a ring is laid out, and what its event area means.
const layout_features = 1 << spec.Feature.ring_packed | 1 << spec.Feature.event_idx;

/// One ring. Whatever is in it may be anything: a file is not to be trusted.
pub const Record = extern struct {
    // What the ring is known by, with a checksum. `live` says that it was written to its end.
    layout: u64 align(64),
    desc_gpa: u64,
    avail_gpa: u64,
    used_gpa: u64,
    size: u32,
    /// By chance: what we leave in the ring's event area goes by it.
    cookie: u32,
    sum: u64,
    live: u32,
    /// What the front end believes the ring to be at, as it told us.
    base: u32,
    // Written while it runs.
    /// Packed: the used place in bits 0 to 15, and from 32 on how many words of the shadow are on their way to the
    /// ring.
    used: u64 align(64),
    /// fromGuest: behind the last buffer that was taken.
    taken: u64,
    /// What the ring's event area has: bits 0 to 31, or 32 to 63.
    event: u64,
    padding: [5]u64,

    comptime {
        std.debug.assert(@sizeOf(Record) == 128);
    }

    /// A ring begins at `place`, a base, of which nothing was known. `event` is what its event area has by now.
    pub fn begin(record: *Record, config: abi.VringConfig, place: u32, event: u32) void {
        record.end();
        record.layout = config.features & layout_features;
        record.desc_gpa = config.desc_gpa;
        record.avail_gpa = config.avail_gpa;
        record.used_gpa = config.used_gpa;
        record.size = config.size;
        record.cookie = sys.random() | 1;
        record.sum = record.checksum();
        record.base = config.base;
        const low: u16 = @truncate(place);
        const high: u16 = @truncate(place >> 16);
        record.used = if (high == 0) low else high;
        record.taken = low;
        record.event = @as(u64, event) << 32;
        inOrder();
        @atomicStore(u32, &record.live, live_mark, .monotonic);
        inOrder();
    }

    /// It was stopped, and its front end knows where; or it never was.
    pub fn end(record: *Record) void {
        @atomicStore(u32, &record.live, 0, .monotonic);
        inOrder();
    }

    /// Whether it is of a ring at this place; who left it there may have been another driver.
    pub fn isOf(record: *const Record, config: abi.VringConfig) bool {
        return record.isWhole() and record.layout == config.features & layout_features and
            record.desc_gpa == config.desc_gpa and record.avail_gpa == config.avail_gpa and
            record.used_gpa == config.used_gpa and record.size == config.size;
    }

    pub fn isWhole(record: *const Record) bool {
        return record.live == live_mark and record.sum == record.checksum();
    }

    pub fn isPacked(record: *const Record) bool {
        return spec.has(record.layout, spec.Feature.ring_packed);
    }

    /// Whether the ring's event area, which has this, is as we left it. A driver that begins anew sets it to zero, as
    /// all of the ring's memory (virtio 4.2.3.2).
    pub fn knows(record: *const Record, event: u32) bool {
        return event != 0 and (event == @as(u32, @truncate(record.event)) or event == record.event >> 32);
    }

    /// Packed: where the ring was, as a base; what was on its way to it is still to be settled.
    pub fn usedPlace(record: *const Record) u32 {
        const place: u16 = @truncate(record.used);
        return if (place & 0x7fff < record.size) place else 0x8000;
    }

    fn checksum(record: *const Record) u64 {
        return std.hash.Wyhash.hash(live_mark, std.mem.asBytes(record)[0..@offsetOf(Record, "sum")]);
    }

    /// All buffers up to `place` are in our hands, before anything is made of them.
    pub inline fn take(record: *Record, place: u16) void {
        @atomicStore(u64, &record.taken, place, .monotonic);
        inOrder();
    }

    /// So many words of the shadow, which is written, go to the ring from `place` on.
    pub inline fn commit(record: *Record, place: u16, words: u32) void {
        inOrder();
        @atomicStore(u64, &record.used, place | @as(u64, words) << 32, .monotonic);
        inOrder();
    }

    /// They are there; the next ones go to `place`.
    pub inline fn settle(record: *Record, place: u16) void {
        record.commit(place, 0);
    }

    /// The event area is about to change.
    pub fn expect(record: *Record, event: u32) void {
        const before = record.event >> 32;
        @atomicStore(u64, &record.event, before | @as(u64, event) << 32, .monotonic);
        inOrder();
    }
};

/// Keeps stores in the order in which they are written. No processor has to be told: what becomes of them is read by
/// who comes after our end.
pub inline fn inOrder() void {
    asm volatile ("" ::: .{ .memory = true });
}

/// The records of a port's rings.
pub const Journal = struct {
    map: sys.Map,
    fd: i32,
    rings: usize,
    guard: fault.Guard,
    /// SIGBUS faults in it: somebody truncated the file.
    faults: fault.Counter,
    faults_seen: fault.Counter,

    /// Of memory, which ends with us.
    pub fn create(rings: usize) Error!*Journal {
        const fd = try sys.memoryFile("journal", fileBytes(rings));
        errdefer sys.close(fd);
        return open(fd, rings);
    }

    /// Opens a file that another process cannot have at the same time.
    pub fn openFile(path: []const u8) error{ Busy, InvalidArgument, System }!i32 {
        var buffer: [4096:0]u8 = undefined;
        if (path.len >= buffer.len) return error.InvalidArgument;
        @memcpy(buffer[0..path.len], path);
        buffer[path.len] = 0;
        const fd = try sys.openOwn(&buffer);
        errdefer sys.close(fd);
        sys.lock(fd) catch |reason| return if (sys.lastErrno() == sys.errno_again) error.Busy else reason;
        return fd;
    }

    /// Of a file, which it takes over: short, of zeros, or as somebody left it.
    pub fn open(fd: i32, rings: usize) Error!*Journal {
        const file = sys.fileInfo(fd) catch return error.WrongFd;
        if (!file.regular) return error.WrongFd;
        if (file.size < fileBytes(rings)) try sys.resize(fd, fileBytes(rings));
        const journal = std.heap.c_allocator.create(Journal) catch return error.OutOfMemory;
        errdefer std.heap.c_allocator.destroy(journal);
        journal.fd = fd;
        journal.rings = rings;
        journal.faults = .init(0);
        journal.faults_seen = .init(0);
        try sys.allocate(fd, 0, head_bytes + rings * @sizeOf(Record));
        journal.map = try sys.mapShared(fd, 0, fileBytes(rings));
        errdefer sys.unmap(journal.map);
        journal.guard = fault.watch(journal.map, &journal.faults) orelse return error.LimitReached;
        return journal;
    }

    pub fn close(journal: *Journal) void {
        const fd = journal.fd;
        journal.leave();
        sys.close(fd);
    }

    /// Without its file, which is the caller's again.
    pub fn leave(journal: *Journal) void {
        fault.forget(journal.guard);
        sys.unmap(journal.map);
        std.heap.c_allocator.destroy(journal);
    }

    /// Makes sure that rings of usual sizes find room: where the file system is full, a store would be the end of us.
    pub fn reserve(journal: *Journal) sys.Error!void {
        for (0..journal.rings) |index| _ = try journal.shadow(index, usual_size_max);
    }

    pub fn record(journal: *Journal, index: usize) *Record {
        return @ptrCast(@alignCast(&journal.map[head_bytes + index * @sizeOf(Record)]));
    }

    /// Where a ring of `size` writes what it completed, with room in the file system.
    pub fn shadow(journal: *Journal, index: usize, size: u32) sys.Error![*]u64 {
        const at = shadowAt(index);
        try sys.allocate(journal.fd, at, size * @sizeOf(u64));
        return @ptrCast(@alignCast(&journal.map[at]));
    }

    /// Whether anybody has to take up a ring.
    pub fn isLive(journal: *Journal) bool {
        return for (0..journal.rings) |index| {
            if (journal.record(index).live == live_mark) break true;
        } else false;
    }

    /// Of so many rings; most of it are holes.
    fn fileBytes(rings: usize) u64 {
        return shadowAt(rings);
    }

    /// Whether somebody truncated the file since the last time: from here on it is memory of our own, of zeros.
    /// Any thread.
    pub fn isLost(journal: *Journal) bool {
        const faults = journal.faults.load(.acquire);
        return journal.faults_seen.swap(faults, .acq_rel) != faults;
    }
};

fn shadowAt(index: usize) usize {
    return head_bytes + records_bytes + index * shadow_bytes;
}

//! What a simulated guest makes of the frames it receives: every one is told apart, followed by its
//! sequence number, and, where it carries a checksum, verified.
//!
//! One thread. What is as expected costs a handful of comparisons in one line of memory.

const std = @import("std");
const abi = @import("abi.zig");
const guest_frame = @import("guest_frame.zig");
const guest_offload = @import("guest_offload.zig");
const guest_track = @import("guest_track.zig");
const spec = @import("spec.zig");
const sys = @import("sys.zig");

const Track = guest_track.Track;

/// Senders that one guest follows; frames of others are foreign.
const sources_max = 64;

const Source = struct {
    mac: u64,
    flows: [guest_frame.flows_max]Track,
};

/// Bytes that are compared at once: a line, with a virtio-net header, and all that is looked at.
const Line = @Vector(64, u8);

/// A step in a sequence that no loss explains.
const leap_max = 1 << 32;

pub const Inspector = struct {
    mac: u64,
    /// Every frame must carry a checksum.
    check_all: bool,
    /// How frames were sent, and how they come.
    offload: guest_offload.Offload,
    view: guest_offload.View,
    /// One piece in so many is checked; and how many until one is, that one included.
    check_every: u32,
    until_check: u32,
    /// The first 16 bytes of the last frame for us, and its sender.
    low: u64,
    high: u64,
    source: *Source,
    /// Where the last good frame was of one buffer: that buffer's first line, with which the next one
    /// must agree in the bytes of `care`; its length, and its flow. Length 0: there is none.
    line: Line,
    care: u64,
    line_bytes: u32,
    track: *Track,
    /// Of the last frame in one buffer.
    flow: u32,
    sources: *[sources_max]Source,
    source_count: u32,
    stats: *abi.GuestStats,

    pub fn create(stats: *abi.GuestStats) error{OutOfMemory}!Inspector {
        // Straight from the kernel, so that it is zero, and takes memory for what is used only.
        const bytes = @sizeOf([sources_max]Source);
        const memory = std.heap.page_allocator.rawAlloc(bytes, alignment, @returnAddress()) orelse
            return error.OutOfMemory;
        const sources: *[sources_max]Source = @ptrCast(@alignCast(memory));
        return .{
            .mac = 0,
            .check_all = false,
            .offload = .{},
            .view = .whole,
            .check_every = 0,
            .until_check = 0,
            .low = 0,
            .high = 0,
            .source = &sources[0],
            .line = @splat(0),
            .care = 0,
            .line_bytes = 0,
            .track = &sources[0].flows[0],
            .flow = 0,
            .sources = sources,
            .source_count = 0,
            .stats = stats,
        };
    }

    pub fn destroy(self: *Inspector) void {
        std.heap.page_allocator.rawFree(std.mem.asBytes(self.sources), alignment, @returnAddress());
    }

    const alignment: std.mem.Alignment = .fromByteUnits(std.heap.page_size_min);

    /// Before a run. Flows are followed on from the run before.
    pub fn start(self: *Inspector, traffic: abi.GuestTraffic, features: u64) void {
        self.mac = traffic.source_mac;
        self.check_all = traffic.check_every == 1;
        self.offload = .{ .size = @intCast(traffic.gso_size) };
        self.view = self.offload.viewOf(features);
        self.check_every = traffic.check_every;
        self.until_check = traffic.check_every;
        self.low = 0;
        self.high = 0;
        self.line_bytes = 0;
    }

    /// Notes a good frame, in one buffer, as the pattern for those that follow, if it is of the same
    /// flow as the last one: where flows take turns nothing is gained.
    pub fn follow(self: *Inspector, buffer: [*]const u8, header_bytes: u32, bytes: u32) void {
        const flow = guest_frame.flowOf(buffer + header_bytes);
        const again = flow == self.flow;
        self.flow = flow;
        if (!again or self.check_all) return;
        self.line = @as(*align(1) const Line, @ptrCast(buffer)).*;
        self.care = (@as(u64, 1) << @intCast(header_bytes + guest_frame.header_bytes)) - 1;
        self.line_bytes = bytes;
        self.track = &self.source.flows[flow];
    }

    /// Whether a buffer of `bytes` has a frame like the one followed, with this number and no flags.
    pub inline fn isNext(self: *const Inspector, buffer: [*]const u8, header_bytes: u32, bytes: u32, number: u64) bool {
        @setRuntimeSafety(false);
        const line = @as(*align(1) const Line, @ptrCast(buffer)).*;
        const different: u64 = @bitCast(line != self.line);
        const same = different & self.care == 0 and bytes == self.line_bytes;
        return same and guest_frame.sequenceOf(buffer + header_bytes) == number;
    }

    /// Whether a frame is just the next one of its flow, without a checksum and like the one before
    /// it. `head` has its first `guest_frame.bytes_min` bytes; a longer frame may go on elsewhere.
    pub inline fn isExpected(self: *Inspector, head: [*]const u8, len: u32) bool {
        @setRuntimeSafety(false);
        const words: *align(1) const [4]u64 = @ptrCast(head);
        if (words[0] != self.low or words[1] != self.high) return false;
        const flow = guest_frame.flowOf(head);
        if (flow >= guest_frame.flows_max) return false;
        const track = &self.source.flows[flow];
        if (track.network[0] != words[2] or track.network[1] != words[3] or track.frame_bytes != len) return false;
        // With a flag in it, it is another number.
        if (guest_frame.sequenceOf(head) != track.next) return false;
        track.next += 1;
        return true;
    }

    /// Whether the header of a frame says what its sender said.
    pub fn suits(self: *const Inspector, header: [*]const u8, len: u32) bool {
        return guest_offload.isSame(header, self.offload.header(len));
    }

    /// Looks at a whole frame. False: not for us, or not as it was sent; counted.
    pub fn inspect(self: *Inspector, frame: []const u8) bool {
        const parsed = self.parse(frame) orelse return false;
        const source = self.find(parsed.source) orelse return refuse(&self.stats.foreign);
        const track = &source.flows[parsed.flow];
        const intact = self.isIntact(frame, parsed, track);
        const number = parsed.sequence & guest_frame.number_mask;
        if (!intact) {
            // It did arrive: where its number can be true, it is not lost as well.
            if (track.known and number -% track.next < near) track.see(number, self.counts());
            return refuse(&self.stats.corrupted);
        }
        if (track.known and track.stream == parsed.stream) {
            track.see(number, self.counts());
        } else {
            track.begin(parsed.stream, number);
            self.stats.streams += 1;
            self.stats.unseen += number;
        }
        if (parsed.sequence & guest_frame.timed != 0) self.time(frame);
        self.remember(frame, source, track);
        return true;
    }

    /// A frame for us; null: another, counted.
    fn parse(self: *Inspector, frame: []const u8) ?guest_frame.Parsed {
        const parsed = guest_frame.parse(frame) orelse {
            const announcement = guest_frame.isAnnouncement(frame);
            _ = refuse(if (announcement) &self.stats.announcements else &self.stats.foreign);
            return null;
        };
        if (parsed.destination == self.mac or parsed.destination == guest_frame.broadcast) return parsed;
        _ = refuse(&self.stats.foreign);
        return null;
    }

    /// Looks at a piece of a frame. The first of a frame has its number, and each its own in the identification.
    pub fn inspectPiece(self: *Inspector, header: [*]const u8, frame: []const u8) void {
        var short: [guest_frame.bytes_min]u8 = @splat(0);
        // The last one of a frame may be shorter than any frame.
        if (frame.len < short.len) @memcpy(short[0..frame.len], frame);
        const parsed = self.parse(if (frame.len < short.len) &short else frame) orelse return;
        const partial = self.view == .partial_pieces;
        const wanted = if (partial) guest_offload.partial_header else std.mem.zeroes(spec.NetHeader);
        if (!guest_offload.isSame(header, wanted)) return count(&self.stats.bad_header);
        if (self.isCheckDue()) {
            self.stats.received_checked += 1;
            if (!guest_frame.isPieceIntact(frame, partial)) return count(&self.stats.corrupted);
        }
        const source = self.find(parsed.source) orelse return count(&self.stats.foreign);
        self.followPiece(&source.flows[parsed.flow], parsed);
    }

    fn followPiece(self: *Inspector, track: *Track, parsed: guest_frame.Parsed) void {
        const piece = parsed.stream & guest_frame.piece_mask;
        const stream = parsed.stream & ~guest_frame.piece_mask;
        if (piece == 0) {
            const number = parsed.sequence & guest_frame.number_mask;
            if (track.known and track.stream == stream) {
                track.see(number, self.counts());
            } else {
                track.begin(stream, number);
                self.stats.streams += 1;
                self.stats.unseen += number;
            }
        } else if (piece < track.pieces) {
            self.stats.reordered += 1;
        } else {
            self.stats.lost += piece - track.pieces;
        }
        track.pieces = piece + 1;
    }

    fn isCheckDue(self: *Inspector) bool {
        if (self.check_every == 0) return false;
        self.until_check -= 1;
        if (self.until_check > 0) return false;
        self.until_check = self.check_every;
        return true;
    }

    const near = 1024;

    fn count(counter: *u64) void {
        counter.* += 1;
    }

    fn refuse(counter: *u64) bool {
        counter.* += 1;
        return false;
    }

    fn isIntact(self: *Inspector, frame: []const u8, parsed: guest_frame.Parsed, track: *const Track) bool {
        if (parsed.len != frame.len) return false;
        if (parsed.sequence & guest_frame.checked != 0) {
            self.stats.received_checked += 1;
            return guest_frame.isIntact(frame, self.offload.isLarge(parsed.len));
        }
        if (self.check_all or !guest_frame.isHeaderIntact(frame.ptr)) return false;
        if (!track.known or track.stream != parsed.stream) return true;
        const number = parsed.sequence & guest_frame.number_mask;
        return number < track.next or number - track.next < leap_max;
    }

    fn find(self: *Inspector, mac: u64) ?*Source {
        for (self.sources[0..self.source_count]) |*source| if (source.mac == mac) return source;
        if (self.source_count == sources_max) return null;
        const source = &self.sources[self.source_count];
        source.mac = mac;
        self.source_count += 1;
        return source;
    }

    fn remember(self: *Inspector, frame: []const u8, source: *Source, track: *Track) void {
        // Where every frame is to be looked at, none is like the one before.
        if (self.check_all) return;
        const words: *align(1) const [4]u64 = @ptrCast(frame.ptr);
        self.low = words[0];
        self.high = words[1];
        self.source = source;
        track.network = .{ words[2], words[3] };
        track.frame_bytes = @intCast(frame.len);
    }

    fn time(self: *Inspector, frame: []const u8) void {
        const stats = self.stats;
        const age = guest_frame.ageOf(frame.ptr, sys.nanoseconds());
        if (stats.latency_count == 0 or age < stats.latency_min_ns) stats.latency_min_ns = age;
        stats.latency_max_ns = @max(stats.latency_max_ns, age);
        stats.latency_last_ns = age;
        stats.latency_sum_ns += age;
        stats.latency_count += 1;
        stats.latency[bucketOf(age)] += 1;
    }

    fn counts(self: *Inspector) guest_track.Counts {
        const stats = self.stats;
        return .{ .lost = &stats.lost, .reordered = &stats.reordered, .duplicated = &stats.duplicated };
    }
};

/// As `abi.GuestStats.latency` says it.
fn bucketOf(age_ns: u64) usize {
    const age = @max(age_ns, 1);
    const doubling: u6 = @intCast(63 - @clz(age));
    const sixteenth = if (doubling >= 4) age >> (doubling - 4) & 15 else age << (4 - doubling) & 15;
    return @intCast(@min(@as(u64, doubling) * 16 + sixteenth, abi.latency_buckets_max - 1));
}

test bucketOf {
    const ages = [_]u64{ 0, 1, 2, 3, 4, 5, 7, 8, 1000, 1024, 1280 };
    for (ages, [_]usize{ 0, 0, 16, 24, 32, 36, 44, 48, 159, 160, 164 }) |age, bucket| {
        try std.testing.expectEqual(bucket, bucketOf(age));
    }
    try std.testing.expectEqual(abi.latency_buckets_max - 1, bucketOf(std.math.maxInt(u64)));
}

const TestRun = struct {
    stats: abi.GuestStats,
    inspector: Inspector,
    frame: [200]u8,
    number: u64,

    const mac = 0x525400000002;

    fn init(self: *TestRun, check_all: bool) !void {
        self.stats = std.mem.zeroes(abi.GuestStats);
        self.inspector = try .create(&self.stats);
        var traffic = std.mem.zeroes(abi.GuestTraffic);
        traffic.source_mac = mac;
        traffic.check_every = @intFromBool(check_all);
        self.inspector.start(traffic, 0);
        self.number = 0;
    }

    fn build(self: *TestRun, number: u64, flags: u64) void {
        guest_frame.writeHeader(&self.frame, .{ .source = 0x525400000001, .destination = mac, .stream = 1 }, 0, 200);
        guest_frame.writeSequence(&self.frame, number | flags);
        if (flags & guest_frame.checked != 0) guest_frame.seal(&self.frame);
    }

    fn arrive(self: *TestRun) void {
        if (!self.inspector.isExpected(&self.frame, 200)) _ = self.inspector.inspect(&self.frame);
    }

    fn send(self: *TestRun, flags: u64) void {
        self.build(self.number, flags);
        self.number += 1;
        self.arrive();
    }

    fn expect(self: *TestRun, comptime field: []const u8, count: u64) !void {
        const faults = .{ "lost", "duplicated", "reordered", "corrupted", "foreign", "bad_header" };
        inline for (faults) |name| {
            const expected = if (std.mem.eql(u8, name, field)) count else 0;
            try std.testing.expectEqual(expected, @field(self.stats, name));
            @field(self.stats, name) = 0;
        }
    }
};

test "each fault is counted as what it is, in checked frames and in others" {
    for ([_]u64{ 0, guest_frame.checked }) |flags| {
        var run: TestRun = undefined;
        try run.init(flags != 0);
        defer run.inspector.destroy();
        for (0..100) |_| run.send(flags);
        try run.expect("", 0);
        run.number += 3;
        run.send(flags);
        try run.expect("lost", 3);
        run.arrive();
        try run.expect("duplicated", 1);
        run.build(run.number + 1, flags);
        run.arrive();
        run.build(run.number, flags);
        run.arrive();
        run.number += 2;
        try run.expect("reordered", 1);
        run.build(run.number, flags);
        run.frame[if (flags != 0) 150 else 22] ^= 4;
        run.arrive();
        run.number += 1;
        try run.expect("corrupted", 1);
        run.build(run.number, flags);
        run.frame[5] = 3;
        run.arrive();
        try run.expect("foreign", 1);
        run.send(flags);
        try run.expect("", 0);
    }
}

test "a checked frame that lost its flag is corrupted where all are checked; a sender may start anew" {
    var run: TestRun = undefined;
    try run.init(true);
    defer run.inspector.destroy();
    run.send(guest_frame.checked);
    run.send(0);
    try run.expect("corrupted", 1);
    guest_frame.writeHeader(&run.frame, .{ .source = 0x525400000001, .destination = TestRun.mac, .stream = 2 }, 0, 200);
    guest_frame.writeSequence(&run.frame, 10 | guest_frame.checked);
    guest_frame.seal(&run.frame);
    run.arrive();
    try run.expect("", 0);
    try std.testing.expectEqual(2, run.stats.streams);
    try std.testing.expectEqual(10, run.stats.unseen);
}

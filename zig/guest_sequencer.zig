//! What a simulated guest writes into the frames it sends: whose they are, which number, and, now and
//! then, the time and a checksum. Most frames differ from what lay in their buffer by ten bytes.
//!
//! One thread.

const std = @import("std");
const abi = @import("abi.zig");
const guest_frame = @import("guest_frame.zig");
const Offload = @import("guest_offload.zig").Offload;
const sys = @import("sys.zig");

/// A burst carries its time of departure when the last one that did is so long ago.
const timed_cycles = 20_000;

pub const Sequencer = struct {
    route: guest_frame.Route,
    offload: Offload,
    /// The next sequence number of each flow; kept from run to run.
    numbers: [guest_frame.flows_max]u64,
    flows: u16,
    queues: u16,
    frame_bytes: u32,
    frame_bytes_min: u32,
    check_every: u32,
    /// Frames until one is to be checked, that one included.
    until_check: u64,
    timed_at: u64,
    random: std.Random.SplitMix64,
    stats: *abi.GuestStats,

    pub fn init(stats: *abi.GuestStats, stream: u16) Sequencer {
        return .{
            .route = .{ .source = 0, .destination = 0, .stream = stream },
            .offload = .{},
            .numbers = @splat(0),
            .flows = 1,
            .queues = 1,
            .frame_bytes = guest_frame.bytes_min,
            .frame_bytes_min = guest_frame.bytes_min,
            .check_every = 0,
            .until_check = 0,
            .timed_at = 0,
            .random = .init(stream),
            .stats = stats,
        };
    }

    /// Before a run.
    pub fn start(self: *Sequencer, traffic: abi.GuestTraffic) void {
        self.route.source = traffic.source_mac;
        self.route.destination = traffic.destination_mac;
        self.offload = .{ .size = @intCast(traffic.gso_size) };
        if (traffic.gso_size != 0) self.route.stream &= ~guest_frame.piece_mask;
        self.flows = @intCast(@max(traffic.flows, traffic.queues));
        self.queues = @intCast(traffic.queues);
        self.frame_bytes = traffic.frame_bytes;
        self.frame_bytes_min = if (traffic.frame_bytes_min == 0) traffic.frame_bytes else traffic.frame_bytes_min;
        self.check_every = traffic.check_every;
        self.chooseCheck();
    }

    /// Not always the same distance, so that no rhythm of bursts hides frames from it.
    fn chooseCheck(self: *Sequencer) void {
        self.until_check = switch (self.check_every) {
            0 => std.math.maxInt(u64),
            1 => 1,
            else => |every| every / 2 + 1 + self.random.next() % every,
        };
    }

    pub fn nextLength(self: *Sequencer) u32 {
        if (self.frame_bytes == self.frame_bytes_min) return self.frame_bytes;
        const span = self.frame_bytes - self.frame_bytes_min + 1;
        return self.frame_bytes_min + @as(u32, @intCast(self.random.next() % span));
    }

    /// The flow after `flow` on its queue.
    pub inline fn flowAfter(self: *const Sequencer, flow: u16, queue: u16) u16 {
        const next = flow + self.queues;
        return if (next < self.flows) next else queue;
    }

    pub fn writeHeader(self: *const Sequencer, frame: [*]u8, len: u32) void {
        guest_frame.writeHeader(frame, self.route, 0, len);
        if (self.offload.isLarge(len)) guest_frame.writePartialSum(frame);
    }

    /// Numbers a frame whose header for `len` bytes is in place.
    pub inline fn stamp(self: *Sequencer, frame: [*]u8, len: u32, flow: u16) void {
        @setRuntimeSafety(false);
        const number = self.numbers[flow];
        self.numbers[flow] = number + 1;
        guest_frame.writeFlow(frame, flow);
        guest_frame.writeSequence(frame, number);
        self.until_check -= 1;
        if (self.until_check == 0) self.seal(frame[0..len]);
    }

    /// Numbers frames of one flow and length, `stride` bytes apart, that only lack their numbers.
    pub fn stampRun(self: *Sequencer, first: [*]u8, stride: u32, count: u32, flow: u16) void {
        @setRuntimeSafety(false);
        var number = self.numbers[flow];
        var frame = first;
        var left = count;
        while (left > 0) {
            const part: u32 = @intCast(@min(left, self.until_check));
            for (0..part) |_| {
                guest_frame.writeSequence(frame, number);
                number += 1;
                frame += stride;
            }
            left -= part;
            self.until_check -= part;
            if (self.until_check == 0) self.seal((frame - stride)[0..self.frame_bytes]);
        }
        self.numbers[flow] = number;
    }

    /// Frames of a queue differ in their numbers alone.
    pub fn isUniform(self: *const Sequencer) bool {
        return self.frame_bytes == self.frame_bytes_min and self.flows <= self.queues;
    }

    fn seal(self: *Sequencer, frame: []u8) void {
        self.chooseCheck();
        self.stats.sent_checked += 1;
        guest_frame.addFlag(frame.ptr, guest_frame.checked);
        guest_frame.seal(frame);
    }

    pub fn isTimeDue(self: *Sequencer) bool {
        const now = sys.cycles();
        if (now -% self.timed_at < timed_cycles) return false;
        self.timed_at = now;
        return true;
    }

    /// Puts the time into a frame that was stamped.
    pub fn time(_: *const Sequencer, frame: []u8) void {
        const sealed = guest_frame.sequenceOf(frame.ptr) & guest_frame.checked != 0;
        guest_frame.addFlag(frame.ptr, guest_frame.timed);
        guest_frame.writeTime(frame.ptr, sys.nanoseconds());
        if (sealed) guest_frame.seal(frame);
    }
};
